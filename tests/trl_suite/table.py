"""Writes the tables of docs/trl.md from TRL itself: `python tests/trl_suite/table.py`.

What differs from TRL must have its reason here, or this fails; so does a reason for what does not differ any more.
"""

import inspect
import re
from dataclasses import MISSING, fields
from pathlib import Path

from transformers import TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from trapo import TRAPOConfig, TRAPOTrainer

PAGE = Path(__file__).parents[2] / "docs" / "trl.md"
DEFAULTS = {
    "learning_rate": "TRAPO's paper",
    "lr_scheduler_type": "TRAPO's paper",
    "weight_decay": "the reference script",
    "logging_steps": "`metrics.jsonl` has a line per step",
    "disable_dropout": "with dropout, samples and loss are of different policies",
    "num_generations": "what the micro-groups add up to; 8 without guidance",
    "max_completion_length": "TRAPO's paper; None takes what is left of the model's context",
    "scale_rewards": "TRAPO's paper: no standard deviation",
    "loss_type": "TRAPO's paper: Dr.GRPO's reduction",
    "vllm_importance_sampling_correction": "it acts on TRL's own vLLM only, which is refused",
}
REFUSED = {
    "use_vllm": "its engine knows no seed per sample and no expert prefix: `engine='vllm'`",
    "use_transformers_continuous_batching": "casts the live model to bf16 for good: `engine='transformers'` does not",
    "use_transformers_paged": "as `use_transformers_continuous_batching`",
    "cache_implementation": "the engines keep keys and values in their own way",
    "vllm_importance_sampling_correction": "as above; `sampling/logp_difference` shows the mismatch",
    "generation_kwargs": "would change the sampling distribution behind the loss: `temperature`, `top_p`, ...",
    "use_liger_kernel": "deprecated in TRL 1.16, whose log-probabilities are computed in chunks already",
    "top_entropy_quantile": "below 1: a quantile per micro-batch, so the gradient depends on the split",
    "repetition_penalty": "other than 1: samples that the loss takes for the policy's own",
    "loss_type": "`bnpo`: its denominator, so its gradient, depends on the split",
    "temperature": "other than 1 with an expert weight: TRL's log-probabilities, so p, would be tempered too",
    "mask_truncated_completions": "with an expert weight: hides truncated rows' expert tokens from attention",
}
OUR_VLLM = ("vllm_server_base_url", "vllm_gpu_memory_utilization", "vllm_max_model_length")  # ours reads these too
ARGUMENTS = {
    "tools": "refused: samples are drawn in TRL's way, in which none begins with an expert's prefix",
    "rollout_func": "refused, as `tools`",
    "environment_factory": "refused, as `tools`",
    "args": "a `TRAPOConfig`; a plain `GRPOConfig` is taken over, with guidance where there is a column `expert`",
    "reward_funcs": "the same; None is `trapo.Grader`; `per_sample = True` on a function lets it be asked early",
    "train_dataset": "the same; columns `answer` and `expert` have a meaning",
    "processing_class": "the same; a processor of images is refused",
}


def default(field):
    return field.default if field.default is not MISSING else field.default_factory()


def argument_rows():
    ours, theirs = (inspect.signature(c.__init__).parameters for c in (TRAPOTrainer, GRPOTrainer))
    assert list(ours) == list(theirs)
    names = [name for name in theirs if name != "self"]
    assert set(ARGUMENTS) <= set(names)
    return [f"| `{name}` | {ARGUMENTS.get(name, 'the same')} |" for name in names]


def field_rows():
    ours, theirs = ({f.name: f for f in fields(c)} for c in (TRAPOConfig, GRPOConfig))
    inherited = {f.name for f in fields(TrainingArguments)}
    assert set(theirs) <= set(ours)
    differs = {name for name in theirs if default(theirs[name]) != default(ours[name])}
    assert differs == set(DEFAULTS), differs ^ set(DEFAULTS)
    shown = [n for n in theirs if n not in inherited or n in differs or n in REFUSED]
    rows = []
    for name in shown:
        if name.startswith("vllm_") and name not in (*OUR_VLLM, *DEFAULTS):
            rows.append(f"| `{name}` | {default(theirs[name])!r} | no effect: of TRL's own vLLM |")
            continue
        parts = [f"default {default(ours[name])!r}: {DEFAULTS[name]}"] if name in DEFAULTS else []
        parts += [f"refused: {REFUSED[name]}"] if name in REFUSED else []
        value = default(theirs[name])
        rows.append(
            f"| `{name}` | {value if isinstance(value, float) else repr(value)} | {'; '.join(parts) or 'the same'} |"
        )
    return rows


def written(page: str) -> str:
    """The page with its tables made again."""
    for name, head, rows in (
        ("arguments", "| argument | here |\n|---|---|", argument_rows()),
        ("fields", "| field | TRL's default | here |\n|---|---|---|", field_rows()),
    ):
        mark = f"<!-- made by tests/trl_suite/table.py: {name} -->"
        body = "\n".join([mark, head, *rows, "<!-- end -->"])
        page, n = re.subn(rf"{re.escape(mark)}.*?<!-- end -->", lambda m, body=body: body, page, flags=re.S)
        assert n == 1, name
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
