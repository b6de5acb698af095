"""Prompts on which every sample failed, kept until there are enough for a step of SFT on their demonstrations (ReLIFT).

    for every rollout:      the prompts without a right sample wait
    at the end of a step:   `failed_prompts` of them make one step of the same optimizer

The steps of RL are TRL's own and know nothing of this. What waits is in every checkpoint.

Source: arXiv 2506.07527 ("Learning What Reinforcement Learning Can't: Interleaved Online Fine-Tuning for Hardest
Questions").
"""

import contextlib
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate.utils import DistributedType, gather_object
from torch import Tensor
from transformers import TrainerCallback

from ..files import write_whole
from ..method.guidance import Trace
from ..rollout.types import Group, Row
from .micro_batches import unsynced

FILE = "failed_prompts.json"
Waiting = tuple[str, list[int], list[int]]  # name, prompt and trace as tokens


class Imitator(Protocol):
    """What a step on demonstrations needs of a trainer: its model and optimizer, and that it takes note."""

    accelerator: Any
    args: Any
    model_wrapped: Any
    optimizer: Any
    processing_class: Any

    def check_gradient(self, norm: Any) -> None:
        """Stop the run before a step on a gradient whose norm is not finite."""

    def token_logps(self, model: Any, ids: Tensor, mask: Tensor, last: int) -> Tensor:
        """Log-probabilities (B, last) of the last tokens of `ids` (B, L), with their graph."""

    def first_trace(self, group: Group) -> Trace | None:
        """The first expert trace of a prompt."""

    def note_sft_step(self, names: Sequence[str], tokens: int) -> None:
        """Count a step on the demonstrations of these names, of so many tokens on all ranks."""


class FailedPrompts(TrainerCallback):
    """Keeps failed prompts, and trains on their demonstrations when there are enough.

    Args:
        trainer: whose model, optimizer and rollouts these are.
        size: demonstrations of one step, over all ranks; a multiple of their number.
        order: which of them go first, the "oldest" or the "newest" rollout's; within a rollout, in its order.

    Raises:
        ValueError: for a size that the ranks cannot share evenly.
    """

    def __init__(self, trainer: Imitator, size: int, order: str = "oldest"):
        ranks = trainer.accelerator.num_processes
        if size % ranks:
            raise ValueError(f"failed_prompts is {size}: it must be a multiple of the {ranks} processes")
        self.trainer, self.size, self.order = trainer, size, order
        self.waiting: list[Waiting] = []

    def take(self, rows: Sequence[Row]) -> None:
        """Take up this rank's rollout, whole groups in order: what failed on any rank waits on every one."""
        mine = []
        for _, group in groupby(rows, key=lambda row: id(row.group)):
            samples = list(group)
            if not any(row.solved for row in samples):
                shown = samples[0].group
                if trace := self.trainer.first_trace(shown):
                    mine.append((f"{shown.prompt_id}:0", list(shown.prompt_ids), list(trace.ids)))
        new = gather_object(mine)
        self.waiting = new + self.waiting if self.order == "newest" else self.waiting + new

    def on_step_end(self, args, state, control, **kwargs):
        """A step of SFT, if there are demonstrations enough for one; the rest waits for the next step of RL."""
        if len(self.waiting) >= self.size:
            now, self.waiting = self.waiting[: self.size], self.waiting[self.size :]
            self.step(now)

    def step(self, demonstrations: Sequence[Waiting]) -> None:
        """One optimizer step on -log p, averaged over all the demonstrations' tokens."""
        trainer = self.trainer
        accelerator, model = trainer.accelerator, trainer.model_wrapped
        total = sum(len(trace) for _, _, trace in demonstrations)
        longest = max(len(prompt) + len(trace) for _, prompt, trace in demonstrations)
        mine = demonstrations[accelerator.process_index :: accelerator.num_processes]
        at_once = max(trainer.update_tokens // longest, 1)  # the same on every rank: they gather layers together
        model.train()
        deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
        sharded = deepspeed or accelerator.distributed_type == DistributedType.FSDP
        for start in range(0, len(mine), at_once):
            # DeepSpeed steps with every backward that is synchronized: the last one alone may be.
            last = start + at_once >= len(mine)
            with contextlib.nullcontext() if last else unsynced(accelerator, model, sharded):
                loss = self._loss(model, mine[start : start + at_once]) / total
                # Ranks are averaged, by DDP, FSDP and DeepSpeed, and only DeepSpeed would divide by its accumulation.
                accelerator.backward(
                    loss * accelerator.num_processes, **({"scale_wrt_gas": False} if deepspeed else {})
                )
        most = trainer.args.max_grad_norm or float("inf")
        trainer.check_gradient(accelerator.clip_grad_norm_(model.parameters(), most))
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        trainer.note_sft_step([name for name, _, _ in demonstrations], total)

    def _loss(self, model, demonstrations: Sequence[Waiting]) -> Tensor:
        """-log p, summed over the demonstrations' trace tokens."""
        device, pad = self.trainer.accelerator.device, self.trainer.processing_class.pad_token_id
        before = max(len(prompt) for _, prompt, _ in demonstrations)
        behind = max(len(trace) for _, _, trace in demonstrations)
        ids = torch.full((len(demonstrations), before + behind), pad, device=device)
        mask = torch.zeros_like(ids)
        for i, (_, prompt, trace) in enumerate(demonstrations):  # prompts on the left, as TRL has them
            ids[i, before - len(prompt) : before + len(trace)] = torch.tensor(prompt + trace, device=device)
            mask[i, before - len(prompt) : before + len(trace)] = 1
        logp = self.trainer.token_logps(model, ids, mask, behind)
        return -(torch.where(mask[:, before:].bool(), logp, 0.0)).sum()

    # ---------------------------------------------------------------- checkpoints

    def save(self, checkpoint: Path) -> None:
        """Put what waits into a checkpoint; the same on every rank, written by the main process."""
        if self.trainer.accelerator.is_main_process:
            write_whole(checkpoint / FILE, json.dumps(self.waiting))

    def load(self, checkpoint: Path) -> None:
        """Take up what waited at a checkpoint."""
        self.waiting = [tuple(entry) for entry in json.loads((checkpoint / FILE).read_text())]
