"""What is checked of a configuration before any work: names, fields against each other, what TRL offers and we refuse.

Every function raises ValueError, in a line that names the field, its value and the remedy.
"""

import os
from dataclasses import fields
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from packaging.version import Version
from transformers import SchedulerType

from .choices import (
    ENGINE_GRAPHS,
    ENGINES,
    ENTROPY_TOKENS,
    EXPERT_REDUCTIONS,
    EXPERT_TEXTS,
    FAILED_ORDERS,
    GRADERS,
    ROLLOUT_WEIGHTS,
    SCHEDULES,
    SPECIAL_TOKENS,
    SPLIT_INVARIANT_LOSSES,
    STAGES,
    TEMPLATES,
    TOKEN_MEANS,
    TOO_LONG,
)
from .method import expert
from .method.advantage import ADVANTAGES


def check_texts(config: Any) -> None:
    """Names that cannot be written down would be found out at the end of the training."""
    for name in (f.name for f in fields(config)):
        value = getattr(config, name, None)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not _is_utf8(text):
                raise ValueError(f"{name} is {text!r}, which holds bytes that are not UTF-8: choose another name")
    if config.output_dir is not None and not str(config.output_dir).strip():
        raise ValueError("output_dir is empty (an unset variable of the shell?): name a folder")


def check_method(config: Any) -> None:
    """Fields against each other, and names against what there is to choose from."""
    expert.weight_parameters(config.expert_weight)
    if tuple(config.stages) not in (("rl",), ("sft",), STAGES):
        raise ValueError(f"stages are {', '.join(config.stages) or 'none'}: choose rl, sft, or sft rl")
    if "sft" in config.stages and (config.sft_batch_size < 1 or (config.sft_max_steps < 1 and config.sft_epochs <= 0)):
        raise ValueError(
            f"the SFT stage would have no step: sft_batch_size is {config.sft_batch_size}, sft_epochs "
            f"{config.sft_epochs}, sft_max_steps {config.sft_max_steps}; make them positive"
        )
    names = {
        "template": TEMPLATES, "expert_text": EXPERT_TEXTS, "expert_too_long": TOO_LONG, "grader": GRADERS,
        "special_tokens": SPECIAL_TOKENS,
        "expert_reduction": EXPERT_REDUCTIONS, "entropy_tokens": ENTROPY_TOKENS, "failed_order": FAILED_ORDERS,
    }  # fmt: skip
    for name, choices in names.items():
        if (value := getattr(config, name)) not in choices:
            raise ValueError(f"{name} {value!r} is unknown; choose one of {', '.join(choices)}")
    if config.sft_loss_type not in ("nll", "dft"):
        raise ValueError(f"sft_loss_type {config.sft_loss_type!r} is unknown; choose nll or dft")
    SchedulerType(config.sft_lr_scheduler_type)  # its own error lists the names
    for name in ("alpha", "alpha_end"):
        if not 0 < (value := getattr(config, name)) <= 1:
            raise ValueError(f"{name} is {value}, but it bounds a token's probability: choose it in (0, 1]")
    _check_engine(config)
    if config.update_tokens is not None and config.update_tokens < 1:
        raise ValueError(f"update_tokens is {config.update_tokens}, but a forward needs at least one token")
    if config.advantage not in ADVANTAGES:
        raise ValueError(f"advantage {config.advantage!r} is unknown; choose one of {', '.join(ADVANTAGES)}")
    if config.loss_type == "bnpo":
        raise ValueError(
            "loss_type='bnpo' divides by the tokens of each micro-batch, so its gradient depends on how the batch "
            f"is split (by 24-43% where it was measured); choose one of {', '.join(SPLIT_INVARIANT_LOSSES)}"
        )
    if config.loss_type not in SPLIT_INVARIANT_LOSSES:
        raise ValueError(
            f"loss_type {config.loss_type!r} is unknown; choose one of {', '.join(SPLIT_INVARIANT_LOSSES)}"
        )
    if config.max_completion_length is not None and config.max_completion_length < 1:
        raise ValueError(
            f"max_completion_length is {config.max_completion_length}: set the most tokens that expert prefix and "
            "continuation may have together"
        )
    if config.trains_expert_tokens:
        _check_expert_loss(config)
    if config.skip_grad_norm and (config.deepspeed or config.fp16):
        raise ValueError(
            f"skip_grad_norm is {config.skip_grad_norm}, but DeepSpeed and fp16's gradient scaler take the step "
            "themselves: leave it at 0, or train without them in bf16 or fp32"
        )
    _check_refused(config)


def _check_engine(config: Any) -> None:
    if config.schedule not in SCHEDULES:
        raise ValueError(f"schedule {config.schedule!r} is unknown; choose one of {', '.join(SCHEDULES)}")
    if config.engine not in ENGINES:
        raise ValueError(f"engine {config.engine!r} is unknown; choose one of {', '.join(ENGINES)}")
    for name, choices in (("rollout_weights", ROLLOUT_WEIGHTS), ("engine_graphs", ENGINE_GRAPHS)):
        if (value := getattr(config, name)) not in choices:
            raise ValueError(f"{name} {value!r} is unknown; choose one of {', '.join(choices)}")
    if config.deterministic and config.engine not in ("auto", "torch"):
        raise ValueError(f"engine {config.engine!r} cannot be deterministic: use --engine torch")
    if config.engine == "vllm" and not find_spec("vllm"):
        raise ValueError("engine 'vllm' needs vLLM: pip install 'trapo[vllm]', or use --engine torch")
    if config.engine == "vllm-server" and not (find_spec("httpx") and find_spec("tenacity")):
        raise ValueError("engine 'vllm-server' needs an HTTP client: pip install 'trapo[server]'")
    if config.engine == "vllm-server" and not config.vllm_server_base_url:
        raise ValueError("engine 'vllm-server' needs --vllm_server_base_url, such as http://localhost:8000")


def _check_refused(config: Any) -> None:
    refused = {
        "use_vllm": "TRL's engine knows no seed per sample and no expert prefix: use --engine vllm",
        "use_transformers_continuous_batching": "it casts the live model to bf16 for good: leave it off",
        "use_transformers_paged": "it casts the live model to bf16 for good: leave it off",
        "cache_implementation": "the engines keep keys and values in their own way: leave it out",
        "vllm_importance_sampling_correction": "it corrects for TRL's own vLLM only; sampling/logp_difference in "
        "metrics.jsonl says how far engine and training model are apart: leave it off",
        "generation_kwargs": "it would change the sampling distribution behind the loss: use temperature, top_p",
        "use_liger_kernel": "TRL 1.16 deprecates it and computes log-probabilities in chunks already: leave it off",
    }
    for name, why in refused.items():
        if getattr(config, name):
            raise ValueError(f"{name}={getattr(config, name)!r} is not supported: {why}")
    if config.top_entropy_quantile < 1:
        raise ValueError(
            f"top_entropy_quantile={config.top_entropy_quantile} takes its quantile per micro-batch, so the gradient "
            "depends on the split: leave it at 1.0"
        )
    if config.repetition_penalty != 1:
        raise ValueError(
            f"repetition_penalty={config.repetition_penalty} makes samples that the loss takes for the policy's own: "
            "leave it at 1.0"
        )


def _check_expert_loss(config: Any) -> None:
    mean = config.expert_reduction == "tokens" or config.expert_weight == "srft_shaped"
    if mean and config.loss_type not in TOKEN_MEANS:
        raise ValueError(
            f"loss_type {config.loss_type!r} has a denominator per row, which a mean over the expert's tokens cannot "
            f"stand beside: choose one of {', '.join(TOKEN_MEANS)}, or expert_reduction 'joint'"
        )
    if config.temperature != 1:
        raise ValueError(
            f"temperature={config.temperature} would temper p in the expert weight {config.expert_weight!r} too (TRL "
            "scales the logits before its log-probabilities): use temperature 1, or expert_weight 'none'"
        )
    if config.mask_truncated_completions:
        raise ValueError(
            "mask_truncated_completions hides truncated rows from attention, and with them their expert tokens' "
            "gradient: switch it off, or use expert_weight 'none'"
        )


def check_groups(config: Any, steps_per_generation: int) -> None:
    """No group may be torn apart between ranks."""
    rank_rows = config.per_device_train_batch_size * steps_per_generation
    if rank_rows % config.num_generations:
        raise ValueError(
            f"each rank draws per_device_train_batch_size ({config.per_device_train_batch_size}) x "
            f"steps_per_generation ({steps_per_generation}) = {rank_rows} samples, which is not a multiple of the "
            f"group size {config.num_generations}, so a group would be torn apart: choose a batch size or "
            "gradient_accumulation_steps that makes it one"
        )


def check_processes(known: int) -> None:
    """Refuse processes that a launcher started together and that do not know of each other: each would train alone.

    Args:
        known: how many accelerate counts.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > known:
        raise ValueError(
            f"the launcher started {started} processes, but accelerate knows of {known}, so each would train by "
            "itself: without a GPU add --use_cpu true, with DeepSpeed on a CPU --ddp_backend gloo; else check that "
            "every process sees its GPU"
        )


def check_deepspeed(config: dict[str, Any]) -> None:
    """Refuse a DeepSpeed that trains on the first micro-batch only; `config` is its own configuration."""
    zero = config.get("zero_optimization") if isinstance(config, dict) else None
    offload = zero.get("offload_optimizer") if isinstance(zero, dict) else None
    if not isinstance(offload, dict) or zero.get("stage") not in (1, 2) or offload.get("device", "none") == "none":
        return  # what is none of this, DeepSpeed's own check refuses
    installed = metadata.version("deepspeed")
    if Version(installed) < Version("0.19.0"):
        raise ValueError(
            f"DeepSpeed {installed} with ZeRO-{zero['stage']} and an offloaded optimizer keeps only the first "
            "micro-batch's gradient (arXiv 2604.23747): pip install 'deepspeed>=0.19.0', or switch the offload off"
        )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def attention_kinds(architecture: Any) -> set[str]:
    """The kinds of attention of a model's layers, by its transformers configuration, as transformers names them."""
    text = architecture.get_text_config()
    default = "sliding_attention" if getattr(text, "sliding_window", None) else "full_attention"
    return set(getattr(text, "layer_types", None) or [default])
