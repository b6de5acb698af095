"""LoRA (arXiv 2106.09685) through PEFT: what the configuration's `lora_*` fields mean, and how its models are saved.

Each stage trains an adapter of its own on the frozen model that it begins with, and ends with the two merged: what is
saved at the end of a stage is an ordinary model, with the adapter beside it. Checkpoints hold the adapter alone.
"""

import re
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from ..run_config import RunConfig

MERGED_APART = 0.05  # of the largest logit; in bf16 a merge rounds the weights
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


def check_tied(config: RunConfig, model: Any) -> None:
    """Refuse adapters on one of two tied weights: merged, they would change the other too.

    Raises:
        ValueError: naming the module.
    """
    if not (config.lora_r and getattr(model.config, "tie_word_embeddings", False)):
        return
    tied = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    for name, module in model.named_modules():
        targets = config.lora_target_modules
        if id(module) in tied and any(name == t or name.endswith(f".{t}") or _matches(t, name) for t in targets):
            raise ValueError(
                f"lora_target_modules has {name}, whose weights are also those of the other end of the model "
                "(tie_word_embeddings): merged, its adapter would change both. Leave it out, or untie them"
            )


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error:
        return False


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
    theirs = dict(model.named_buffers())  # rotary frequencies and their like, which no state dict has; never sharded
    for name, buffer in list(found.named_buffers()):
        if buffer.is_meta:
            owner, _, last = name.rpartition(".")
            found.get_submodule(owner).register_buffer(last, theirs[name].detach().cpu(), persistent=False)
    if unexpected or any(parameter.is_meta for parameter in found.parameters()):
        raise ValueError(
            f"the gathered weights are not this model's: missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    return found


def save_merged(model: Any, folder: Path) -> None:
    """Save the adapted model with its adapters merged, as an ordinary model, and the adapter in `folder`/adapter.

    Raises:
        ValueError: if the merged model is another one than was trained, by its logits.
    """
    model.save_pretrained(folder / ADAPTER)
    base = model.get_base_model()
    before = _some_logits(base)
    model.merge_adapter()
    try:
        apart = (_some_logits(base) - before).abs().max().item()
        if not apart <= MERGED_APART * before.abs().max().item():
            raise ValueError(
                f"merged, the adapter gives other logits than while it was trained (by {apart:.3g}), as on tied "
                "weights: choose other lora_target_modules; the adapter itself is in the checkpoints"
            )
        base.save_pretrained(folder, state_dict=_plain_names(base.state_dict()))
    finally:
        model.unmerge_adapter()


@torch.no_grad()
def _some_logits(base: Any) -> Tensor:
    """Logits of one short row of tokens, by the model's own forward."""
    ids = torch.arange(16, device=base.device)[None] % base.config.get_text_config().vocab_size
    return type(base).forward(base, input_ids=ids).logits.float()


def _plain_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names that they have without PEFT."""
    return {name.replace(".base_layer", ""): tensor for name, tensor in weights.items() if ".lora_" not in name}
