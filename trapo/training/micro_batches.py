"""The update's work, cut to what has a gradient: rows without one are left out, the rest packed by length.

A micro-batch of TRL's is padded to its longest row and runs in one forward, whatever its size. Here it is split again:
rows of similar length go together, as many as a budget of tokens allows, each part padded to its own longest row. The
gradient is the same, because every denominator is that of the whole micro-batch.
"""

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from trl.kernels import chunked_logprob

if TYPE_CHECKING:
    from .trainer import TRAPOTrainer


CPU_TILE = 256  # tokens of TRL's projection at a time


def fit_tiles(device: torch.device) -> None:
    """TRL computes log-probabilities in tiles of 4,096 tokens x 32,768 logits: right for a GPU's kernel.

    Without one, 256 tokens need a tenth of the memory and half the time (`benchmarks/memory.py`). Changes TRL for the
    whole process.
    """
    if device.type == "cpu":
        chunked_logprob.TOKEN_CHUNK_SIZE = CPU_TILE


def without_gradient(
    advantages: Tensor, own_mask: Tensor, expert_mask: Tensor, *, kl_or_entropy: bool, router: bool
) -> Tensor:
    """(B,) bool: rows that contribute exactly nothing to the gradient.

    Args:
        advantages: (B,) or (B, T); every policy loss here is proportional to it.
        own_mask, expert_mask: (B, T), tokens in the policy loss and in the expert loss.
        kl_or_entropy: whether a KL or entropy term acts on own tokens, whatever the advantage.
        router: whether a router's balancing loss acts on every token.
    """
    if router:
        return torch.zeros(len(own_mask), dtype=torch.bool, device=own_mask.device)
    no_own = own_mask.sum(1) == 0
    if not kl_or_entropy:
        no_own |= advantages.flatten(1).abs().sum(1) == 0 if advantages.dim() > 1 else advantages == 0
    return no_own & (expert_mask.sum(1) == 0)


def pack(lengths: list[int], budget: int) -> list[list[int]]:
    """Rows into parts of similar length: part size x its longest length is at most `budget` (a longer row is alone).

    Longest first, so that a run which does not fit in memory fails at once.
    """
    parts: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if parts and lengths[parts[-1][0]] * (len(parts[-1]) + 1) <= budget:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def take(inputs: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    """Some rows of a micro-batch (left-padded prompts, right-padded completions), padded to their own longest."""
    n, width = inputs["completion_ids"].shape
    prompt = int(inputs["prompt_mask"][rows].sum(1).max())
    completion = max(int(inputs["completion_lengths"][rows].max()), 1)
    part = {}
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.dim() and len(value) == n:
            value = value[rows]
            if name in ("prompt_ids", "prompt_mask"):
                value = value[:, value.shape[1] - prompt :]
            elif value.dim() == 2 and value.shape[1] == width:
                value = value[:, :completion]
        part[name] = value
    return part


def blank(part: dict[str, Any]) -> dict[str, Any]:
    """A part without any gradient, for a rank that has no more to do while others, and their collectives, go on."""
    zeros = {name: torch.zeros_like(part[name]) for name in ("advantages", "tool_mask", "expert_mask")}
    return part | zeros


class _Local:
    """accelerate without collectives: ranks may differ in their number of parts, and parts in their number of rows."""

    def __init__(self, accelerator):
        self._accelerator = accelerator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accelerator, name)

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor

    def reduce(self, tensor: Tensor, reduction: str) -> Tensor:
        return tensor


def accumulate(trainer: "TRAPOTrainer", model, inputs: dict[str, Any]) -> Tensor:
    """Run a micro-batch part by part; all but the last part's gradients are accumulated here.

    Returns:
        the loss: its value is that of all parts, its graph that of the last.
    """
    accelerator, n = trainer.accelerator, len(inputs["idle"])
    lengths = (inputs["prompt_mask"].sum(1) + inputs["completion_lengths"]).tolist()
    busy = (~inputs["idle"]).nonzero()[:, 0].tolist()
    budget = 1 << 62 if trainer.aux_loss_enabled else trainer.args.update_tokens  # a router's balance is over all rows
    parts = [take(inputs, [busy[i] for i in part]) for part in pack([lengths[i] for i in busy], budget)]
    sharded, count = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled, 1
    if sharded:  # every rank must take part in gathering the layers
        count = int(accelerator.gather(torch.tensor([len(parts)], device=accelerator.device)).max())
    if len(parts) < max(count, 1):
        shortest = take(inputs, [min(range(n), key=lengths.__getitem__)])
        parts += [blank(shortest)] * (max(count, 1) - len(parts))
    total = torch.zeros((), device=accelerator.device)
    before = {name: len(values) for name, values in trainer._metrics["train"].items()}
    trainer.accelerator = _Local(accelerator)
    try:
        for part in parts[:-1]:
            with _unsynced(accelerator, model, sharded):
                loss = trainer._compute_loss(model, part | {"share": len(part["prompt_ids"]) / n})
                accelerator.backward(loss, **({"scale_wrt_gas": False} if trainer.is_deepspeed_enabled else {}))
            total += loss.detach()
        loss = trainer._compute_loss(model, parts[-1] | {"share": len(parts[-1]["prompt_ids"]) / n})
    finally:
        trainer.accelerator = accelerator
    _merge_metrics(trainer, before, [float((p["completion_mask"] * p["tool_mask"]).sum()) for p in parts])
    return loss + total


@contextlib.contextmanager
def _unsynced(accelerator, model, sharded: bool):
    """Forward and backward without what the end of a micro-batch brings (all-reduce, DeepSpeed's step)."""
    state, synced = accelerator.gradient_state, accelerator.sync_gradients
    state._set_sync_gradients(False)
    try:
        with contextlib.nullcontext() if sharded else accelerator.no_sync(model):
            yield
    finally:
        state._set_sync_gradients(synced)


def _merge_metrics(trainer: "TRAPOTrainer", before: dict[str, int], tokens: list[float]) -> None:
    """TRL's metrics, one value per part, as one per micro-batch over all ranks: means are weighted by own tokens."""
    metrics = trainer._metrics["train"]
    names = sorted(name for name, values in metrics.items() if len(values) - before.get(name, 0) == len(tokens))
    rows = []
    for name in names:
        found = [(v, w) for v, w in zip(metrics[name][-len(tokens) :], tokens, strict=True) if v == v]
        if name.endswith(("_min", "_max")):
            extreme = min if name.endswith("_min") else max
            rows.append((extreme((v for v, _ in found), default=0.0), float(bool(found))))
        else:
            rows.append((sum(v * w for v, w in found), sum(w for _, w in found)))
    if not names:
        return
    table = torch.tensor([rows], dtype=torch.float32, device=trainer.accelerator.device)
    table = trainer.accelerator.gather(table).tolist()  # (ranks, names, 2)
    for i, name in enumerate(names):
        found = [(a, b) for a, b in (rank[i] for rank in table) if b]
        if name.endswith(("_min", "_max")):
            extreme = min if name.endswith("_min") else max
            value = extreme((a for a, _ in found), default=float("nan"))
        else:
            value = sum(a for a, _ in found) / sum(b for _, b in found) if found else float("nan")
        metrics[name][-len(tokens) :] = [value]
