"""Held-out sets: sampled without guidance, on any number of processes, each prompt once."""

import torch
from datasets import Dataset, concatenate_datasets
from torch.utils.data import DataLoader

PADDING = "_padding"  # a column: the row is there only to make the processes' shares equal


def equal_shares(prompts: int, processes: int, most: int) -> tuple[int, int]:
    """How many prompts each process draws at once, and how many are added so that all draw equally many.

    As few rounds as `most` prompts at once per process allow, and in each as few prompts as will do.
    """
    rounds = -(-prompts // (processes * most))
    at_once = -(-prompts // (processes * rounds))
    return at_once, processes * rounds * at_once - prompts


def padded(rows: Dataset, more: int) -> Dataset:
    """`rows` with `more` of them again at the end, marked in the column `PADDING`."""
    parts = [rows.add_column(PADDING, [False] * len(rows))]
    while more > 0:
        again = rows.select(range(min(more, len(rows))))
        parts.append(again.add_column(PADDING, [True] * len(again)))
        more -= len(again)
    return concatenate_datasets(parts)


class HeldOut:
    """The part of `TRAPOTrainer` that evaluates: a mixin, put before TRL's trainer."""

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """As in TRL; of several processes each gets whole prompts, and what fills up the last round is not counted."""
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        rows = self.eval_dataset[rows] if isinstance(rows, str) else rows
        if self.accelerator.num_processes == 1 or not isinstance(rows, Dataset):
            return super().get_eval_dataloader(eval_dataset)
        most = self.args.per_device_eval_batch_size
        at_once, more = equal_shares(
            len(rows), self.accelerator.num_processes, max(most // self.num_generations_eval, 1)
        )
        self.args.per_device_eval_batch_size = at_once * self.num_generations_eval
        try:
            return super().get_eval_dataloader(padded(rows, more) if more else rows)
        finally:
            self.args.per_device_eval_batch_size = most

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval"):
        """As in transformers; `{prefix}_reward` and `{prefix}_truncated` of every held-out set are in the result."""
        self.recorder.eval_prefix = metric_key_prefix
        before_training = not self.accelerator._models
        backends = {name: getattr(self, name) for name in ("is_fsdp_enabled", "is_deepspeed_enabled")}
        forwards = ("forward", "_original_forward")
        before = {name: vars(self.model)[name] for name in forwards if name in vars(self.model)}
        if before_training:
            # FSDP2 shards a model together with its optimizer only, and DeepSpeed would be started for inference, and
            # then train without an optimizer. So before training every process evaluates the whole model.
            vars(self).update(dict.fromkeys(backends, False))
        result = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        vars(self).update(backends)
        if before_training:
            # accelerate takes a model that was prepared for an evaluation for prepared, and would leave it without DDP
            # or FSDP: every rank would then train by itself.
            # What it wrapped (autocast's forward) is taken off; TRL's forward, which gives log-probabilities, stays.
            for name in forwards:
                vars(self.model).pop(name, None)
            vars(self.model).update(before)
            self.accelerator._models.clear()
            self.model._is_accelerate_prepared = False
        return result

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Sample and grade a held-out batch. No loss: GRPO's is zero by construction on fresh samples."""
        self._prepare_inputs(inputs)
        return torch.zeros((), device=self.accelerator.device), None, None
