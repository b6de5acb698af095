"""What is checked of datasets, model and tokenizer before any work starts; each error names the remedy."""

import hashlib
import json
import logging
from dataclasses import fields
from typing import Any

from datasets import Dataset
from transformers import PretrainedConfig, PreTrainedTokenizerBase, ProcessorMixin
from trl import GRPOConfig

from ..config import TRAPOConfig
from ..data.tokens import prompt_ids
from ..models import check_vocabulary, context_of
from ..rollout.engines.torch import check_full_attention

logger = logging.getLogger("trapo")

LONGEST_PROMPTS = 16  # by characters: tokenizing all of a large dataset only to find its longest would take minutes


def prompt_id(row: dict[str, Any]) -> str:
    """The row's `id`, or a hash of its prompt where it has none."""
    if row.get("id") is not None:
        return str(row["id"])
    return hashlib.blake2b(json.dumps(row["prompt"], sort_keys=True).encode(), digest_size=8).hexdigest()


def with_ids(dataset):
    """`dataset` with a column `id`, the row's number where it had none; streams are left as they are."""
    if isinstance(dataset, Dataset) and "id" not in dataset.column_names:
        return dataset.add_column("id", [str(i) for i in range(len(dataset))])
    return dataset


def columns_of(dataset) -> set[str]:
    """The names of a dataset's columns; of a stream that does not know them, those of its first row."""
    if dataset is None:
        return set()
    if getattr(dataset, "column_names", None):
        return set(dataset.column_names)
    return set(next(iter(dataset), {}))


def refuse_rollouts(**given: Any) -> None:
    """ValueError for TRL's ways of drawing samples that leave no place for an expert's prefix."""
    for name, value in given.items():
        if value:
            raise ValueError(
                f"{name} draws samples in TRL's own way, in which none can begin with an expert's prefix: leave it "
                "out, or train with trl.GRPOTrainer"
            )


def our_config(args: GRPOConfig | None, train_dataset) -> TRAPOConfig:
    """The configuration as ours: a plain GRPOConfig keeps all it says, and guides where there are expert traces.

    Raises:
        ValueError: for anything else.
    """
    if args is None or isinstance(args, TRAPOConfig):
        return args or TRAPOConfig()
    if not isinstance(args, GRPOConfig):
        raise ValueError(f"args is a {type(args).__name__}: pass a trapo.TRAPOConfig or a trl.GRPOConfig")
    guidance = "paper" if "expert" in columns_of(train_dataset) else "none"
    values = {f.name: getattr(args, f.name) for f in fields(GRPOConfig) if f.init}
    # TRL has worked out the one from the other, and takes only one of them.
    values["generation_batch_size"] = None
    values["vllm_importance_sampling_correction"] = False  # on by default, and of use beside TRL's own vLLM only
    logger.warning("args is a plain GRPOConfig: its values are taken over, with guidance %r", guidance)
    return TRAPOConfig(guidance=guidance, **values)


def check_inputs(args: TRAPOConfig, reward_funcs, train_dataset, processing_class) -> None:
    """Datasets and reward functions against the configuration.

    Raises:
        ValueError: naming the thing, the value and the remedy.
    """
    if isinstance(processing_class, ProcessorMixin):
        raise ValueError("vision-language models are not supported: pass a text tokenizer as processing_class")
    if train_dataset is None:
        raise ValueError("train_dataset is missing: pass a datasets.Dataset with the columns prompt, answer, expert")
    columns = columns_of(train_dataset)
    needed = {"prompt"} | ({"answer"} if reward_funcs is None else set())
    if missing := sorted(needed - columns):
        raise ValueError(
            f"train_dataset has no column {', '.join(missing)} (it has {', '.join(sorted(columns)) or 'none'}): rename "
            "a column, or pass reward_funcs where there are no answers"
        )
    if columns & {"image", "images"}:
        raise ValueError("train_dataset has images: vision-language models are not supported, remove the column")
    check_prompts(train_dataset)
    if args.uses_experts:
        what = "the SFT stage learns" if "sft" in args.stages else f"guidance {args.guidance!r} shows"
        what = "the steps on failed prompts learn" if args.failed_prompts else what
        if "expert" not in columns:
            raise ValueError(
                f"{what} experts' traces, but train_dataset has no column expert: add it, or train plain GRPO "
                "(guidance='none', stages=['rl'])"
            )
        if isinstance(train_dataset, Dataset) and not any(train_dataset["expert"]):
            raise ValueError(
                f"{what} experts' traces, but no row of train_dataset has one: fill the column expert, or train plain "
                "GRPO (guidance='none', stages=['rl'])"
            )
        if args.grader == "luffy" and reward_funcs is None and isinstance(train_dataset, Dataset):
            traces = (x for cell in train_dataset["expert"] for x in ([cell] if isinstance(cell, str) else cell or []))
            if not any("</think>" in text for text in traces):
                raise ValueError(
                    "grader 'luffy' rewards only what stands behind </think>, and no expert's trace has one: every "
                    "demonstration would be wrong. Use grader 'own' or 'reference'"
                )
    if isinstance(train_dataset, Dataset):
        prompts = args.generation_batch_size // args.num_generations
        if len(train_dataset) < prompts:
            raise ValueError(
                f"train_dataset has {len(train_dataset)} rows, but one generation batch takes {prompts} prompts "
                f"(generation_batch_size {args.generation_batch_size} / {args.num_generations}): TRL would drop it and "
                "train no step. Add rows, or lower per_device_train_batch_size"
            )


def check_prompts(dataset) -> None:
    """Chat prompts must ask: one that ends with the assistant's message would be closed, and another turn opened.

    Raises:
        ValueError: naming the row.
    """
    for i, prompt in enumerate(dataset["prompt"] if isinstance(dataset, Dataset) else ()):
        if isinstance(prompt, list) and prompt and prompt[-1].get("role") == "assistant":
            raise ValueError(
                f"the prompt of row {i + 1} ends with the assistant's message: end it with the user's (a prefilled "
                "answer is not continued)"
            )


def check_model(
    args: TRAPOConfig, architecture: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, train_dataset
) -> None:
    """The model, by transformers' configuration of it, against the engine, and the lengths against its context.

    Raises:
        ValueError: naming the thing, the value and the remedy.
    """
    if args.resolved_engine(architecture) == "torch":
        check_full_attention(architecture)
    check_vocabulary(tokenizer, architecture)
    context = context_of(architecture)
    if args.max_completion_length is None and (context is None or not isinstance(train_dataset, Dataset)):
        raise ValueError(
            "max_completion_length is None, but what is left of the model's context is not known: set the most tokens "
            "that expert prefix and continuation may have together"
        )
    if not isinstance(train_dataset, Dataset):
        return
    length = longest_prompt(args, tokenizer, train_dataset)  # also where there is no limit: the template may not end
    if context is not None and length >= context:
        raise ValueError(
            f"the longest prompt has {length} tokens, which leaves nothing of the model's context of {context} for a "
            "sample: drop the longest prompts, or take a model with a longer context"
        )
    if args.max_completion_length is None:
        args.max_completion_length = context - length
    if context is not None and length + args.max_completion_length > context:
        raise ValueError(
            f"the longest prompt has {length} tokens and max_completion_length is {args.max_completion_length}, "
            f"together more than the model's context of {context}. Set max_completion_length to at most "
            f"{context - length}, or drop the longest prompts"
        )


def longest_prompt(args: TRAPOConfig, tokenizer: PreTrainedTokenizerBase, dataset: Dataset) -> int:
    """Tokens of the longest prompt: of those that have the most characters."""
    prompts = dataset["prompt"]
    longest = sorted(range(len(prompts)), key=lambda i: -len(str(prompts[i])))[:LONGEST_PROMPTS]
    arguments = args.chat_template_kwargs or {}
    return max(len(prompt_ids(prompts[i], tokenizer, args.template, **arguments)) for i in longest)


def longest_row(
    args: TRAPOConfig, tokenizer: PreTrainedTokenizerBase, architecture: PretrainedConfig, datasets: list
) -> int:
    """Most tokens that a prompt of these datasets and its sample can have; the model's context for a stream.

    Raises:
        ValueError: for a stream, where the model names no context.
    """
    sets = [rows for d in datasets if d is not None for rows in (d.values() if isinstance(d, dict) else [d])]
    if all(isinstance(rows, Dataset) for rows in sets):
        return max(longest_prompt(args, tokenizer, rows) for rows in sets) + args.max_completion_length
    context = context_of(architecture)
    if context is None:
        raise ValueError("deterministic needs the longest prompt: give a dataset that is no stream")
    return context


def best_metric(args: TRAPOConfig, eval_dataset) -> None:
    """Set what the best checkpoint is chosen by: the mean reward of the first held-out set, if nothing else is named.

    Raises:
        ValueError: for a loss, which is a constant 0 on fresh samples, or a set that is not there.
    """
    name = args.metric_for_best_model
    if not (args.load_best_model_at_end or name):
        return
    sets = list(eval_dataset) if isinstance(eval_dataset, dict) else []
    name = (name or "reward").removeprefix("eval_")
    if name.endswith("loss"):
        raise ValueError(f"metric_for_best_model {name!r} is a constant 0 on held-out sets: name 'reward'")
    if sets and name == "reward":
        name = f"{sets[0]}_reward"
    elif sets and not any(name.startswith(f"{known}_") for known in sets):
        raise ValueError(f"metric_for_best_model {name!r} is of no held-out set: name one as in '{sets[0]}_reward'")
    args.metric_for_best_model = f"eval_{name}"
    args.greater_is_better = True if args.greater_is_better is None else args.greater_is_better
