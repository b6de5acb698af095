"""The update's work, cut to what has a gradient: rows without one are left out, the rest packed by length.

A micro-batch of TRL's is padded to its longest row and runs in one forward, whatever its size. Here it is split again:
rows of similar length go together, as many as a budget of tokens allows, each part padded to its own longest row. The
gradient is the same, because every denominator is that of the whole micro-batch.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from trl.kernels import chunked_logprob

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
    zeros = {n: torch.zeros_like(part[n]) for n in ("advantages", "tool_mask", "expert_mask", "prefix_mask")}
    return part | zeros


class _OwnRank:
    """accelerate as one rank sees it: what is gathered or reduced is this rank's alone."""

    def __init__(self, accelerator):
        self._accelerator = accelerator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accelerator, name)

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor

    def reduce(self, tensor: Tensor, reduction: str) -> Tensor:
        return tensor


class MicroBatchLoss:
    """The part of a GRPO trainer's loss that splits a micro-batch: a mixin, put before TRL's trainer.

    Ranks may differ in their number of parts, and parts in their number of rows, so that TRL's metrics, gathered within
    `_compute_loss`, would wait for ranks that have no more to say. The switch `collectives` decides what the trainer's
    `accelerator` does with them: off while a micro-batch runs part by part; its metrics are then reduced once.
    """

    collectives = True

    @property
    def accelerator(self):
        """accelerate's object; with `collectives` off, a view of it that neither gathers nor reduces."""
        return self._accelerator if self.collectives else _OwnRank(self._accelerator)

    @accelerator.setter
    def accelerator(self, accelerator) -> None:
        self._accelerator = accelerator

    @contextlib.contextmanager
    def _without_collectives(self) -> Iterator[None]:
        self.collectives = False
        try:
            yield
        finally:
            self.collectives = True

    def compute_loss(self, model, inputs: dict[str, Any], return_outputs=False, num_items_in_batch=None) -> Tensor:
        """The loss of a micro-batch, run part by part; all but the last part's gradients are accumulated here.

        Returns:
            the loss: its value is that of all parts, its graph that of the last.
        """
        accelerator, sharded = self.accelerator, self.is_fsdp_enabled or self.is_deepspeed_enabled
        parts = self._parts(inputs, sharded)
        shares = [len(part["prompt_ids"]) / len(inputs["idle"]) for part in parts]
        total = torch.zeros((), device=accelerator.device)
        before = {name: len(values) for name, values in self._metrics["train"].items()}
        with self._without_collectives():
            for part, share in zip(parts[:-1], shares, strict=False):
                with unsynced(accelerator, model, sharded):
                    loss = self._compute_loss(model, part | {"share": share})
                    accelerator.backward(loss, **({"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}))
                total += loss.detach()
            loss = self._compute_loss(model, parts[-1] | {"share": shares[-1]})
        tokens = [float((part["completion_mask"] * part["tool_mask"]).sum()) for part in parts]
        _merge_metrics(accelerator, self._metrics["train"], before, tokens)
        return loss + total

    def _parts(self, inputs: dict[str, Any], sharded: bool) -> list[dict[str, Any]]:
        """The micro-batch without idle rows, cut to the budget: at least one part, as many on each rank if sharded."""
        n, lengths = len(inputs["idle"]), (inputs["prompt_mask"].sum(1) + inputs["completion_lengths"]).tolist()
        busy = (~inputs["idle"]).nonzero()[:, 0].tolist()
        budget = 1 << 62 if self.aux_loss_enabled else self.update_tokens  # a router's balance is over all rows
        parts = [take(inputs, [busy[i] for i in part]) for part in pack([lengths[i] for i in busy], budget)]
        count = 1
        if sharded:  # every rank must take part in gathering the layers
            found = torch.tensor([len(parts)], device=self.accelerator.device)
            count = max(int(self.accelerator.gather(found).max()), 1)
        if len(parts) < count:
            shortest = take(inputs, [min(range(n), key=lengths.__getitem__)])
            parts += [blank(shortest)] * (count - len(parts))
        return parts


@contextlib.contextmanager
def unsynced(accelerator, model, sharded: bool):
    """Forward and backward without what the end of a micro-batch brings (all-reduce, DeepSpeed's step)."""
    state, synced = accelerator.gradient_state, accelerator.sync_gradients
    state._set_sync_gradients(False)
    try:
        with contextlib.nullcontext() if sharded else accelerator.no_sync(model):
            yield
    finally:
        state._set_sync_gradients(synced)


def _merge_metrics(accelerator, metrics: dict[str, list[float]], before: dict[str, int], tokens: list[float]) -> None:
    """TRL's metrics, one value per part, as one per micro-batch over all ranks: means are weighted by own tokens."""
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
    table = torch.tensor([rows], dtype=torch.float32, device=accelerator.device)
    table = accelerator.gather(table).tolist()  # (ranks, names, 2)
    for i, name in enumerate(names):
        found = [(a, b) for a, b in (rank[i] for rank in table) if b]
        if name.endswith(("_min", "_max")):
            extreme = min if name.endswith("_min") else max
            value = extreme((a for a, _ in found), default=float("nan"))
        else:
            value = sum(a for a, _ in found) / sum(b for _, b in found) if found else float("nan")
        metrics[name][-len(tokens) :] = [value]
