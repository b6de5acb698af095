"""The order of prompts: TRL's, with epoch e a function of the seed and e, so that a resumed run goes on in it.

TRL draws one permutation after another from a generator that is seeded once in a process; a resumed process would take
the first epoch's again. The order of a run in one go is the same as with TRL.
"""

from collections.abc import Iterator

import torch
from transformers import TrainerCallback
from trl.trainer.utils import RepeatSampler


class EpochSampler(RepeatSampler):
    """TRL's sampler of repeated prompts that is told which epoch it is asked for."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of epoch `epoch`, from 0, from now on."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed(self.seed)
            for _ in range(self.epoch):
                torch.randperm(self.num_samples, generator=self.generator)
        yield from super().__iter__()


class TellEpoch(TrainerCallback):
    """Tells the sampler the epoch: transformers does not reach it behind skipped batches on several ranks."""

    def __init__(self):
        self.sampler: EpochSampler | None = None

    def on_epoch_begin(self, args, state, control, **kwargs):
        """An epoch begins, or a resumed run goes on within it."""
        if self.sampler is not None:
            self.sampler.set_epoch(int(state.epoch or 0))
