"""Whether what was saved is what was trained: read back and compared."""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM

from .gathering import by_itself, gathered
from .lora import is_adapted

PROBE_TOKENS = 16
SAME = {True: 1e-3, False: 0.05}  # largest difference of logits, relative, that rounding makes: in float32, in 16 bits


@torch.no_grad()
def probe(model, accelerator, *, gather: bool) -> Tensor:
    """(1, T, V) logits of a few fixed tokens; every rank must take part where the model is sharded."""
    training = model.training
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.arange(PROBE_TOKENS, device=accelerator.device)[None] % vocabulary
    model.eval()
    # DeepSpeed's layers are gathered as they are needed once it trains them; before, by hand.
    with gathered(list(model.parameters()) if gather else []), accelerator.autocast():
        logits = model(input_ids=ids, use_cache=False).logits
    model.train(training)
    return logits.float().cpu()


def difference(model, logits: Tensor, folder: Path, exact: bool) -> str | None:
    """What differs between a model and `folder`, which should hold it: tensors, shapes, `probe`'s logits; or None.

    Args:
        model: perhaps sharded, adapted or both.
        logits: what it answers to the probe.
        folder: in transformers' format.
        exact: whether the model computes in float32; in 16 bits its logits are rounder than those of what was saved.
    """
    base = model.get_base_model() if is_adapted(model) else model
    shapes = {
        name.replace(".base_layer", ""): list(getattr(p, "ds_shape", p.shape))
        for name, p in base.named_parameters()
        if ".lora_" not in name
    }
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118, it is no mapping
    if missing := sorted(set(shapes) - set(found)):
        return (
            f"{missing[0]} and {len(missing) - 1} other tensors are missing"
            if missing[1:]
            else f"{missing[0]} is missing"
        )
    for name, shape in shapes.items():
        if found[name] != shape:
            return f"{name} has the shape {found[name]} instead of {shape}"
    try:
        with by_itself():
            saved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    except Exception as error:  # whatever the library stumbles over
        return f"it cannot be loaded: {' '.join(str(error).split())}"
    again = saved(input_ids=torch.arange(PROBE_TOKENS)[None] % logits.shape[-1], use_cache=False).logits.detach()
    far = float((again - logits).abs().max() / logits.abs().max().clamp(min=1e-6))
    return None if far <= SAME[exact] else f"its logits differ by {far:.1%} of the largest"
