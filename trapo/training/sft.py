"""The SFT stage: TRL's SFTTrainer on whole demonstrations, in the run folder and with the tokens of the RL stage.

The loss is TRL's: minus log p, summed over the step's expert tokens and divided by their number, so that it does not
depend on the split into micro-batches (averages of averages are what broke many published baselines, arXiv 2604.23747).
The order of the demonstrations is a function of the seed: shuffled anew for each epoch, without an odd rest in between.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from random import Random
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase, TrainingArguments
from trl import SFTConfig, SFTTrainer

from ..config import TRAPOConfig
from ..runs.folder import RunFolder
from ..runs.recorder import StageRecorder
from .saving import SafeSteps

# Fields of TrainingArguments that an SFT stage has a value of its own for, or no use for.
OWN = {
    "output_dir", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio",
    "max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "eval_strategy",
    "do_train", "do_eval", "do_predict", "remove_unused_columns", "resume_from_checkpoint", "hub_model_id",
    "push_to_hub", "load_best_model_at_end",
}  # fmt: skip


@dataclass(frozen=True)
class Demonstration:
    """One expert trace of one prompt, as tokens: `prompt_ids`, then `trace_ids` (EOS included unless cut away)."""

    name: str
    prompt_ids: Sequence[int]
    trace_ids: Sequence[int]


def sft_steps(config: TRAPOConfig, n: int) -> int:
    """Optimizer steps of the SFT stage on `n` demonstrations."""
    return (
        config.sft_max_steps if config.sft_max_steps > 0 else math.ceil(config.sft_epochs * n / config.sft_batch_size)
    )


def sft_order(n: int, length: int, seed: int) -> list[int]:
    """`length` indices of `n` demonstrations: one shuffled epoch after another."""
    rng, order = Random(f"sft {seed}"), []
    while len(order) < length:
        order += rng.sample(range(n), n)
    return order[:length]


def sft_config(config: TRAPOConfig, folder: RunFolder, steps: int) -> SFTConfig:
    """TRL's configuration of the stage: whatever the run shares with it, and the `sft_` fields."""
    shared = {f.name: getattr(config, f.name) for f in fields(TrainingArguments) if f.init and f.name not in OWN}
    micro = config.sft_micro_batch
    own = {
        "output_dir": os.fspath(folder.checkpoints / "sft"),
        "learning_rate": config.sft_learning_rate,
        "lr_scheduler_type": config.sft_lr_scheduler_type,
        "warmup_steps": int(config.sft_warmup_ratio * steps),
        "max_steps": steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": config.sft_batch_size // config.world_size // micro,
        "loss_type": config.sft_loss_type,
        "max_length": None,  # traces are cut where RL cuts them, and counted there
        "eval_strategy": "no",
    }
    return SFTConfig(**(shared | own))


class SFTStage(SafeSteps, SFTTrainer):
    """TRL's SFTTrainer with our tokens, order and record.

    Args:
        model: trained in place.
        config: of the run.
        demonstrations: what to imitate; prompts carry no loss.
        tokenizer: of the model.
        folder: the run's.
    """

    def __init__(
        self,
        model,
        config: TRAPOConfig,
        demonstrations: Sequence[Demonstration],
        tokenizer: PreTrainedTokenizerBase,
        folder: RunFolder,
    ):
        if not demonstrations:
            raise ValueError("the SFT stage has no demonstration: fill the column expert, or leave 'sft' out of stages")
        steps = sft_steps(config, len(demonstrations))
        names, batch, eos = [d.name for d in demonstrations], config.sft_batch_size, tokenizer.eos_token_id
        self.order = sft_order(len(names), steps * batch, config.seed)
        rows = [
            {
                "input_ids": [*d.prompt_ids, *d.trace_ids],
                "labels": [-100] * len(d.prompt_ids) + list(d.trace_ids),
            }
            for d in demonstrations
        ]
        super().__init__(
            model, sft_config(config, folder, steps), train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
        self.recorder = SFTRecorder(
            folder,
            self.accelerator,
            shown=[{names[i] for i in self.order[start : start + batch]} for start in range(0, steps * batch, batch)],
            without_eos=sum(d.trace_ids[-1] != eos for d in demonstrations) / len(demonstrations),
        )
        self.add_callback(self.recorder)

    def _get_train_sampler(self, train_dataset=None) -> Sampler:
        return _Order(self.order)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """As in TRL; the expert's tokens are counted."""
        self.recorder.tokens += int((inputs["labels"] != -100).sum())
        return super().training_step(model, inputs, num_items_in_batch)


class SFTRecorder(StageRecorder):
    """A line of metrics.jsonl per logged step of the SFT stage.

    Args:
        folder, accelerator: as for `StageRecorder`.
        shown: the names of each step's demonstrations.
        without_eos: the share of all demonstrations whose end was cut away.
    """

    def __init__(self, folder: RunFolder, accelerator: Accelerator, *, shown: list[set[str]], without_eos: float):
        super().__init__(folder, "sft", accelerator)
        self.of_step, self.without_eos = shown, without_eos
        self.tokens = 0  # expert tokens trained by this process since the last line

    def on_step_end(self, args, state, control, **kwargs):
        """Stop the clock, and count what the step has shown."""
        super().on_step_end(args, state, control, **kwargs)
        self.shown |= self.of_step[state.global_step - 1]

    def on_log(self, args, state, control, logs: dict[str, Any] | None = None, **kwargs):
        """Write the line."""
        if logs and "loss" in logs:
            tokens = torch.tensor(float(self.tokens), device=self.accelerator.device)
            tokens = self.accelerator.reduce(tokens, "sum").item()
            self.tokens = 0
            logs.pop("num_tokens", None)  # TRL's own count, which a resumed run begins again
            logs |= self.step_figures() | {
                "tokens/expert": tokens,
                "tokens/update": tokens,
                "expert/without_eos_share": self.without_eos,
            }
            if self.main:
                self.append("metrics.jsonl", [{"step": state.global_step} | logs])


class _Order(Sampler):
    """A given order of rows."""

    def __init__(self, order: list[int]):
        self.order = order

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)
