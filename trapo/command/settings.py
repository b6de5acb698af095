"""The configuration of a training from what a command was given: recipe, built-in defaults, a YAML file, flags."""

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from trl import GRPOConfig, TrlParser

from ..recipe import load_recipe, load_yaml, read_text
from ..run_config import RunConfig
from .errors import is_ours
from .values import check_types

# Our own fields as `trapo train --fields` lists them; a field may be named by its beginning.
GROUPS = {
    "Method": "stages loss_type advantage rl_coef scale_rewards learning_rate lr_scheduler_type weight_decay "
    "entropy_tokens failed_ updates_per_rollout skip_grad_norm",
    "Guidance": "guidance micro_group_sizes num_generations prefix_ratios thresholds threshold_on prefix_end "
    "trace_of_micro_group hint_pieces ratio_ rl_beside_guided demonstrations_in_baseline",
    "Expert": "expert_ alpha gamma entropy_share supervised_coef check_experts",
    "SFT stage": "sft_",
    "LoRA": "lora_",
    "Rollout": "engine schedule rollout_ vllm_server_weights vllm_importance_sampling_correction max_completion_length "
    "disable_dropout deterministic update_tokens",
    "Grading": "grader",
    "Data": "template",
    "Run": "eval_temperature log_rollouts logging_steps report_to",
}


class _Parser(TrlParser):
    """TRL's parser with errors of one line."""

    def error(self, message: str):
        raise ValueError(message)


def resolve_config(recipe: str, layers: Sequence[dict[str, Any]], config: Path | None, flags: list[str]) -> RunConfig:
    """One configuration from, weakest first: defaults, recipe, `layers`, a YAML file, flags.

    Raises:
        ValueError: for an unknown field or a bad value, in one line.
    """
    values = {"disable_tqdm": True} | load_recipe(recipe)  # the command has a progress line of its own
    for layer in layers:
        values |= layer
    if config is not None:
        if not config.is_file():
            raise ValueError(f"config file {config} is not there")
        values |= load_yaml(read_text(config), f"config file {config}")
    known = {f.name for f in fields(RunConfig)}
    for name in values:
        if name not in known:
            raise ValueError(f"unknown field {name!r}{_suggestion(name, known)}")
    check_types(values, f"config file {config}" if config is not None else f"recipe {recipe}")
    parser = _Parser(RunConfig, allow_abbrev=False)
    parser.set_defaults_with_config(**values)
    try:
        *parsed, rest = parser.parse_args_and_config(flags, return_remaining_strings=True)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None
    except (ValueError, OSError):
        raise
    except Exception as error:  # a library's check of its own fields may raise anything; ours raises ValueError
        if is_ours(error):
            raise
        said = " ".join(str(error).split())[:300]
        raise ValueError(f"these fields make no configuration: {type(error).__name__}: {said}") from error
    if rest:
        name = rest[0].lstrip("-").replace("-", "_")
        raise ValueError(f"unknown option {rest[0]!r}{_suggestion(name, known)}")
    return parsed[0]


def _suggestion(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f": did you mean {close[0]!r}?" if close else ": see `trapo train --fields`"


def parse_names(flags: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The names among the flags of `trapo train` (recipe, model, data, eval_data, config), and the other flags."""
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False, add_help=False)
    for name, default in (("recipe", "trapo"), ("model", "world"), ("data", None), ("eval_data", None)):
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", default=default)
    parser.add_argument("--config", type=Path)
    try:
        return parser.parse_known_args(flags)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None


def group_of(name: str) -> str:
    """The heading under which `--fields` lists a field: a group of ours, or the class of the library it comes from."""
    for group, members in GROUPS.items():
        for member in members.split():
            if name == member or (member.endswith("_") and name.startswith(member)) or member == "grader" == name[:6]:
                return group
    return "TRL's GRPO" if name in GRPOConfig.__annotations__ else "transformers' training"


def describe_fields(word: str = "") -> str:
    """Fields of the configuration, ours first, with default and help, a line each.

    Args:
        word: only fields with it in their name or help.
    """
    found: dict[str, list[str]] = {group: [] for group in (*GROUPS, "TRL's GRPO", "transformers' training")}
    for f in fields(RunConfig):
        text = " ".join(str(f.metadata.get("help", "")).replace("%%", "%").split())
        if word.lower() in f"{f.name} {text}".lower():
            default = f.default if f.default is not MISSING else f.default_factory()
            found[group_of(f.name)].append(f"  --{f.name}  [{default!r}]  {text}")
    lines = [line for group, members in found.items() if members for line in ("", f"{group}:", *members)]
    return "\n".join(lines[1:]) or f"no field has {word!r} in its name or help"
