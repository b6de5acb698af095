"""LoRA (arXiv 2106.09685) through PEFT: what the configuration's `lora_*` fields mean, and how its models are saved.

Each stage trains an adapter of its own on the frozen model that it begins with, and ends with the two merged: what is
saved at the end of a stage is an ordinary model, with the adapter beside it. Checkpoints hold the adapter alone.
"""

from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from ..config import RunConfig

ADAPTER = "adapter"  # its folder beside the merged weights


def peft_config(config: RunConfig) -> Any:
    """PEFT's configuration; None where all weights are trained."""
    if not config.lora_r:
        return None
    from peft import LoraConfig

    modules = config.lora_target_modules
    return LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        # A name that PEFT understands stands alone; a list is of modules.
        target_modules=modules[0] if len(modules) == 1 else modules,
        task_type="CAUSAL_LM",
    )


def is_adapted(model: Any) -> bool:
    """Whether this is a model with adapters."""
    return find_spec("peft") is not None and hasattr(model, "merge_adapter")


def load_adapter(model: Any, checkpoint: Path) -> None:
    """Put a checkpoint's adapter into the adapted model."""
    from peft import load_peft_weights, set_peft_model_state_dict

    set_peft_model_state_dict(model, load_peft_weights(str(checkpoint)))


def twin(model: Any, weights: dict[str, Tensor]) -> Any:
    """An adapted model like `model`, which may be sharded, with these weights of it, not copied.

    Args:
        model: adapted.
        weights: whole, under the names that they have in `model`.

    Raises:
        OSError: for weights that are not this model's.
    """
    from peft import get_peft_model

    base = model.get_base_model()
    kind = next(c for c in type(base).__mro__ if not issubclass(c, FSDPModule))  # FSDP2 puts itself before the class
    with torch.device("meta"):
        found = get_peft_model(kind(base.config), deepcopy(model.peft_config["default"]))
    missing, unexpected = found.load_state_dict(weights, strict=False, assign=True)
    found.get_base_model().tie_weights()
    if unexpected or any(parameter.is_meta for parameter in found.parameters()):
        raise ValueError(
            f"the gathered weights are not this model's: missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    return found


def save_merged(model: Any, folder: Path) -> None:
    """Save the adapted model with its adapters merged, as an ordinary model, and the adapter in `folder`/adapter."""
    model.save_pretrained(folder / ADAPTER)
    base = model.get_base_model()
    model.merge_adapter()
    try:
        base.save_pretrained(folder, state_dict=_plain_names(base.state_dict()))
    finally:
        model.unmerge_adapter()


def _plain_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names that they have without PEFT."""
    return {name.replace(".base_layer", ""): tensor for name, tensor in weights.items() if ".lora_" not in name}
