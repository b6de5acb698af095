"""Writes the run folder while training: what `TRAPOTrainer` does, a line at a time."""

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback

from .card import write_card
from ..method.expert import ExpertTokens
from ..training.lora import is_adapted, save_merged
from ..rollout.types import Row
from .folder import MARKER, RunFolder, environment
from ..files import write_whole

if TYPE_CHECKING:
    from ..training.trainer import TRAPOTrainer

DIGITS = 4  # of logged probabilities


class StageRecorder(TrainerCallback):
    """What recording has in common in all stages: the folder, the counts so far, the step's clock.

    Attributes:
        samples: drawn from the policy so far, on all ranks.
        shown: "prompt id:trace" of every demonstration shown so far, whole or in part.
    """

    def __init__(self, trainer, folder: RunFolder, stage: str):
        self.trainer, self.folder, self.stage = trainer, folder, stage
        self.samples = 0
        self.shown: set[str] = set()
        self._step_started = 0.0
        self._step_seconds: list[float] = []

    @property
    def _main(self) -> bool:
        return self.trainer.accelerator.is_main_process

    def take_up(self, checkpoint: Path) -> dict[str, Any]:
        """The counts at a checkpoint, or at the end of the SFT stage: what its last file says."""
        state = json.loads((checkpoint / MARKER).read_text())
        self.samples, self.shown = state["samples"], set(state["shown"])
        return state

    def mark(self, checkpoint: Path) -> None:
        """Write the last file of a checkpoint: the counts, and by being there, that it is complete."""
        if self._main:
            state = {"stage": self.stage, "step": self.trainer.state.global_step, "samples": self.samples}
            write_whole(checkpoint / MARKER, json.dumps(state | {"shown": sorted(self.shown)}))

    def save_model(self, target: Path, mark: bool = False, card: bool = False) -> None:
        """Save model and tokenizer as a folder that appears whole or not at all; with `card`, a model card in it."""
        temporary = target.with_name(f".{target.name}")
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        if is_adapted(model):
            if self._main:
                save_merged(model, temporary)
                self.trainer.processing_class.save_pretrained(temporary)
        else:
            self.trainer.save_model(temporary)
        if mark:
            self.mark(temporary)
        if card and self._main:
            write_whole(temporary / "README.md", write_card(self.folder))
        self.trainer.accelerator.wait_for_everyone()  # every process may have written a part
        if self._main:
            os.replace(temporary, target)
        self.trainer.accelerator.wait_for_everyone()

    def append(self, name: str, records: list[dict[str, Any]]) -> None:
        """Append lines of this stage to one of the folder's logs."""
        self.folder.append(name, [{"stage": self.stage} | record for record in records])

    def step_figures(self) -> dict[str, float]:
        """The counts so far, and the mean seconds of the steps since the last call, the optimizer's included."""
        figures = {"seen/samples": self.samples, "seen/demonstrations": len(self.shown)}
        if self._step_seconds:
            figures["seconds/step"] = sum(self._step_seconds) / len(self._step_seconds)
            self._step_seconds.clear()
        return figures

    def on_step_begin(self, args, state, control, **kwargs):
        """Start the step's clock."""
        self._step_started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        """Stop the step's clock."""
        self._step_seconds.append(time.perf_counter() - self._step_started)


class RunRecorder(StageRecorder):
    """Keeps run.json, metrics.jsonl, evals.jsonl and rollouts.jsonl, and the counts that a resumed run goes on with."""

    def __init__(self, trainer: "TRAPOTrainer"):
        super().__init__(trainer, RunFolder(trainer.args.output_dir), "rl")
        self.job: dict[str, Any] = {}  # names of recipe, model and data, where a command started this
        self.at: tuple[str, int] | None = None  # stage and step that evaluations are recorded under, if not the own
        self._begun = False
        self._rollout_step = 0
        self._prefixes: dict[tuple[str, int], dict[str, Any]] = {}

    def begin(self, checkpoint: str | None = None) -> None:
        """Start the run's record, or take it up again from `checkpoint`; a second call changes nothing.

        Raises:
            FileExistsError: if the folder holds a run and there is no checkpoint to go on from.
        """
        if self._begun:
            return
        self._begun = True
        if checkpoint is None:
            self.folder.check_free()  # on every rank, before the first one writes: all must stop, or none
        self.trainer.accelerator.wait_for_everyone()
        if checkpoint is not None:
            self.go_on(Path(checkpoint))
        elif self._main:
            self.folder.begin(self.describe())

    def go_on(self, checkpoint: Path) -> None:
        """Take up a begun run at a checkpoint, or at the end of its SFT stage."""
        self._begun = True
        state = self.take_up(checkpoint)
        if self._main:
            self.folder.rewind(state["stage"], state["step"])

    def describe(self) -> dict[str, Any]:
        """The content of run.json."""
        trainer, args = self.trainer, self.trainer.args
        return (
            self.job
            | {
                "method": args.method_settings(),
                "rewards": trainer.reward_func_names,
                "config": args.to_dict(),
                "model_path": trainer.model.config.name_or_path,
                "parameters": sum(p.numel() for p in trainer.model.parameters()),
                "rows": _length(trainer.train_dataset),
                "rows_fingerprint": _fingerprint(trainer.train_dataset),
                "world_size": trainer.accelerator.num_processes,
                "device": str(trainer.accelerator.device),
            }
            | environment()
        )

    def record_rollout(self, rows: list[Row], advantages: list[float]) -> None:
        """Count a training rollout of this rank, and write a line per sample of all ranks."""
        self._rollout_step = self.trainer.state.global_step + 1
        shown = [f"{row.group.prompt_id}:{row.plan.trace}" for row in rows if row.plan.length]
        self.shown.update(gather_object(shown))
        self.samples += sum(gather_object([sum(row.finish != "demonstration" for row in rows)]))
        if self.trainer.args.log_rollouts:
            lines = gather_object([self._line(row, a) for row, a in zip(rows, advantages, strict=True)])
            if self._main:
                self.append("rollouts.jsonl", lines)

    def note_prefixes(self, rows: list[Row], tokens: ExpertTokens, w: Tensor) -> None:
        """Keep the probability and the weight of each trained expert token, until the end of the step.

        Args:
            rows: (B,) the samples of a part of the update.
            tokens: their expert tokens, (B, T).
            w: their weights, (B, T).
        """
        if not (self.trainer.args.log_rollouts and self.trainer.model.training):
            return
        p = tokens.logp.detach().exp()
        for i, row in enumerate(rows):
            mask = tokens.mask[i].bool()
            if mask.any() and (row.group.prompt_id, row.index) not in self._prefixes:
                values = {"p": p[i][mask].tolist(), "w": w[i].detach()[mask].tolist()}
                line = {"rollout": self._rollout_step, "prompt_id": row.group.prompt_id, "sample": row.index}
                self._prefixes[row.group.prompt_id, row.index] = line | {
                    name: [round(x, DIGITS) for x in found] for name, found in values.items()
                }

    def on_step_end(self, args, state, control, **kwargs):
        """Write what was kept of the expert's tokens; stop the step's clock."""
        if self.trainer.args.log_rollouts and self.trainer.args.trains_expert_tokens:
            lines = gather_object(list(self._prefixes.values()))
            self._prefixes.clear()
            if self._main and lines:
                self.append("prefixes.jsonl", [{"step": state.global_step} | line for line in lines])
        super().on_step_end(args, state, control, **kwargs)

    def _line(self, row: Row, advantage: float) -> dict[str, Any]:
        decode = self.trainer._tokenizer.decode
        return {
            "step": self._rollout_step,
            "prompt_id": row.group.prompt_id,
            "sample": row.index,
            "micro_group": row.plan.micro_group,
            "prefix_ratio": row.plan.ratio,
            "trace": row.plan.trace,
            "prefix_tokens": len(row.prefix_ids),
            "own_tokens": len(row.own_ids),
            "expert_loss": row.plan.expert,
            "reward": row.reward,
            "advantage": advantage,
            "status": row.status,
            "finish": row.finish,
            "seed": row.seed,
            "prompt": decode(row.group.prompt_ids),
            "prefix": decode(row.prefix_ids),
            "own": decode(row.own_ids),
            "prefix_ids": list(row.prefix_ids),
            "own_ids": list(row.own_ids),
            "own_logprobs": [round(x, DIGITS) for x in row.own_logprobs],
        }

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Append a line to metrics.jsonl (training) or evals.jsonl (a held-out set, its name in `set`)."""
        prefix = self.trainer.eval_prefix
        if not self._main or not logs:
            return
        if f"{prefix}_reward" in logs:
            self.begin()  # an evaluation may come before training
            figures = {k.removeprefix(f"{prefix}_"): v for k, v in logs.items() if k.startswith(f"{prefix}_")}
            figures.pop("loss", None)  # a constant 0, see prediction_step
            name = prefix.removeprefix("eval").strip("_") or "eval"
            stage, step = self.at or (self.stage, state.global_step)
            self.append("evals.jsonl", [{"stage": stage, "step": step, "set": name} | figures])
        elif "loss" in logs:
            self.append("metrics.jsonl", [{"step": state.global_step} | logs])


def _length(dataset) -> int | None:
    return len(dataset) if hasattr(dataset, "__len__") else None


def _fingerprint(dataset) -> str | None:
    """The hash that `datasets` keeps of a dataset's content and transformations."""
    return getattr(dataset, "_fingerprint", None)
