"""One rule for every number of a configuration: it is one, it is finite, and it lies in the range of its field."""

import math
from collections.abc import Callable
from typing import Any, get_args, get_origin, get_type_hints

Rule = Callable[[float], bool]
MOST = 2**63  # what a 64-bit integer holds

# What numbers must do, and which ones; None is left to whoever fills it in.
BOUNDS: dict[str, tuple[Rule, str]] = {
    "be at least 1": (
        lambda x: x >= 1,
        "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps num_iterations "
        "steps_per_generation generation_batch_size num_generations num_generations_eval grader_workers rollout_slots "
        "updates_per_rollout hint_pieces eval_accumulation_steps torch_empty_cache_steps dataloader_prefetch_factor "
        "ddp_bucket_cap_mb ddp_timeout vllm_tensor_parallel_size vllm_max_model_length ref_model_sync_steps",
    ),
    "be at least 1, or -1 to count by epochs": (lambda x: x >= 1 or x == -1, "max_steps sft_max_steps"),
    "not be negative": (
        lambda x: x >= 0,
        "learning_rate sft_learning_rate top_k eval_temperature failed_prompts weight_decay max_grad_norm "
        "skip_grad_norm supervised_coef warmup_steps eval_delay save_total_limit dataloader_num_workers adam_epsilon "
        "neftune_noise_alpha beta epsilon epsilon_high entropy_target off_policy_mask_threshold router_aux_loss_coef "
        "num_completions_to_print entropy_coef_delta seed data_seed",
    ),
    "be above 0": (
        lambda x: x > 0,
        "temperature gamma grader_cpu_seconds grader_memory_mb logging_steps eval_steps num_train_epochs lora_alpha "
        "repetition_penalty delta sapo_temperature_neg sapo_temperature_pos vllm_server_timeout "
        "vllm_importance_sampling_clip_max",
    ),
    "be in (0, 1]": (lambda x: 0 < x <= 1, "top_p entropy_share ratio_share vllm_gpu_memory_utilization"),
    "be in [0, 1]": (
        lambda x: 0 <= x <= 1,
        "min_p sft_warmup_ratio ratio_start ratio_end ref_model_mixup_alpha label_smoothing_factor prefix_ratios",
    ),
    "be in [0, 1)": (lambda x: 0 <= x < 1, "adam_beta1 adam_beta2"),
    "be below 2^32": (lambda x: x < 2**32, "seed data_seed"),  # what numpy's generator takes
    "be a port, 1 to 65535": (lambda x: 1 <= x < 65536, "vllm_server_port vllm_group_port"),
}


def check_numbers(config: Any) -> None:
    """Every field of a dataclass that is a number or a list of numbers: type, finite, range.

    Raises:
        ValueError: naming the field and the value; a YAML file may hold anything.
    """
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name, None)
        kinds = {hint} if isinstance(hint, type) or get_origin(hint) is list else set(get_args(hint))
        lists = [kind for kind in kinds if get_origin(kind) is list]
        if value is None and type(None) in kinds:
            continue
        if lists and str not in kinds and isinstance(value, str):
            raise ValueError(f"{name} is {value!r}, but must be a list")
        if lists and isinstance(value, list | tuple) and {int, float} & set(get_args(lists[0])):
            for item in value:
                _check(name, item, set(get_args(lists[0])))
        elif kinds & {int, float} and bool not in kinds and not (str in kinds and isinstance(value, str)):
            _check(name, value, kinds)


def _check(name: str, value: Any, kinds: set) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r}, but must be a number")
    if float not in kinds and value != value // 1:
        raise ValueError(f"{name} is {value}, but must be a whole number")
    if abs(value) >= MOST or not math.isfinite(value):  # in this order: isfinite takes no number of 400 digits
        raise ValueError(f"{name} is {value}, but must be finite and below 2^63")
    for words, (holds, names) in BOUNDS.items():
        if name in names.split() and not holds(value):
            raise ValueError(f"{name} is {value}, but must {words}")
