"""Writes the run folder while training: what `TRAPOTrainer` does, a line at a time."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import TrainerCallback

from ..records import Marker, read_json
from ..rollout.types import Row
from .checkpoints import MARKER, seal
from .folder import RunFolder

DIGITS = 4  # of logged probabilities


class StageRecorder(TrainerCallback):
    """What recording has in common in all stages: the folder, the counts so far, the step's clock.

    Args:
        folder: the run's.
        stage: "sft" or "rl".
        accelerator: of the stage's trainer; the main process writes.

    Attributes:
        samples: drawn from the policy so far, on all ranks.
        shown: "prompt id:trace" of every demonstration shown so far, whole or in part.
        eval_prefix: of the metrics of the held-out set that is being sampled.
    """

    def __init__(self, folder: RunFolder, stage: str, accelerator: Accelerator):
        self.folder, self.stage, self.accelerator = folder, stage, accelerator
        self.samples = 0
        self.shown: set[str] = set()
        self.eval_prefix = "eval"
        self._step_started = 0.0
        self._step_seconds: list[float] = []

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.accelerator.is_main_process

    def take_up(self, checkpoint: Path) -> dict[str, Any]:
        """The counts at a checkpoint, or at the end of the SFT stage: what its last file says."""
        state = read_json(checkpoint / MARKER, Marker)
        self.samples, self.shown = state["samples"], set(state["shown"])
        return state

    def mark(self, checkpoint: Path, step: int) -> None:
        """Write the last file of a checkpoint, on all ranks: the counts, and what makes it whole."""
        self.accelerator.wait_for_everyone()  # each has written a part
        if self.main:
            counts = {"stage": self.stage, "step": step, "samples": self.samples, "shown": sorted(self.shown)}
            seal(checkpoint, counts | {"logs": self.folder.log_sizes()})

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
    """Keeps run.json, metrics.jsonl, evals.jsonl and rollouts.jsonl, and the counts that a resumed run goes on with.

    Args:
        folder, accelerator: as for `StageRecorder`.
        describe: what run.json says of the trainer.
        decode: tokens as text.
        log_rollouts: whether samples and prefixes are written.

    Attributes:
        job: names of recipe, model and data, where a command started this; they go into run.json.
        at: stage and step that evaluations are recorded under, if not the own.
    """

    def __init__(
        self,
        folder: RunFolder,
        accelerator: Accelerator,
        *,
        describe: Callable[[], dict[str, Any]],
        decode: Callable[[Sequence[int]], str],
        log_rollouts: bool,
    ):
        super().__init__(folder, "rl", accelerator)
        self.describe, self.decode, self.log_rollouts = describe, decode, log_rollouts
        self.job: dict[str, Any] = {}
        self.at: tuple[str, int] | None = None
        self._begun = False
        self._noted: dict[str, Any] = {}
        self._rollout_step = 0
        self._answers: dict[str, list[float]] = {}
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
        self.accelerator.wait_for_everyone()
        if checkpoint is not None:
            self.go_on(Path(checkpoint))
        elif self.main:
            self.folder.begin(self.job | self.describe())

    def go_on(self, checkpoint: Path) -> None:
        """Take up a begun run at a checkpoint, or at the end of its SFT stage."""
        self._begun = True
        state = self.take_up(checkpoint)
        if self.main:
            self.folder.rewind(state["stage"], state["step"], state.get("logs"))

    def note(self, fields: dict[str, Any]) -> None:
        """Put into run.json what only shows while the run goes on; written when it changes."""
        if self.main and self._begun and any(self._noted.get(name) != value for name, value in fields.items()):
            self._noted |= fields
            self.folder.amend(fields)

    def record_rollout(self, rows: list[Row], advantages: list[float], step: int) -> None:
        """Count a training rollout of this rank, drawn for `step`, and write a line per sample of all ranks."""
        self._rollout_step = step
        shown = [f"{row.group.prompt_id}:{row.plan.trace}" for row in rows if row.plan.length]
        self.shown.update(gather_object(shown))
        self.samples += sum(gather_object([sum(row.finish != "demonstration" for row in rows)]))
        if self.log_rollouts:
            lines = gather_object([self._line(row, a) for row, a in zip(rows, advantages, strict=True)])
            if self.main:
                self.append("rollouts.jsonl", lines)

    def record_answers(self, rows: Sequence[Row]) -> None:
        """Keep the rewards of a held-out batch of all ranks by question, until its evaluation is recorded."""
        for name, reward in gather_object([(row.group.prompt_id, row.reward) for row in rows]):
            self._answers.setdefault(name, []).append(reward)

    def _by_question(self) -> dict[str, Any]:
        """The kept rewards as an evaluation's line has them: a mean per question, whether all are 0 or 1."""
        answers, self._answers = self._answers, {}
        binary = all(reward in (0, 1) for rewards in answers.values() for reward in rewards)
        means = {str(name): sum(rewards) / len(rewards) for name, rewards in answers.items()}
        return {"questions": len(means), "binary": binary, "by_question": means} if means else {}

    def note_prefixes(self, rows: Sequence[Row], p: Sequence[list[float]], w: Sequence[list[float]]) -> None:
        """Keep the probability and the weight of each trained expert token, until the end of the step.

        Args:
            rows: (B,) the samples of a part of the update.
            p, w: of each row, the probabilities and the weights of its trained expert tokens; [] where it has none.
        """
        if not self.log_rollouts:
            return
        for row, probabilities, weights in zip(rows, p, w, strict=True):
            if probabilities and (row.group.prompt_id, row.index) not in self._prefixes:
                self._prefixes[row.group.prompt_id, row.index] = {
                    "rollout": self._rollout_step,
                    "prompt_id": row.group.prompt_id,
                    "sample": row.index,
                    "p": [round(x, DIGITS) for x in probabilities],
                    "w": [round(x, DIGITS) for x in weights],
                }

    def on_step_end(self, args, state, control, **kwargs):
        """Write what was kept of the expert's tokens; stop the step's clock."""
        if self.log_rollouts:
            lines = gather_object(list(self._prefixes.values()))
            self._prefixes.clear()
            if self.main and lines:
                self.append("prefixes.jsonl", [{"step": state.global_step} | line for line in lines])
        super().on_step_end(args, state, control, **kwargs)

    def _line(self, row: Row, advantage: float) -> dict[str, Any]:
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
            "reward": row.reward if row.reward == row.reward else None,
            "advantage": advantage,
            "status": row.status,
            "finish": row.finish,
            "seed": row.seed,
            "prompt": self.decode(row.group.prompt_ids),
            "prefix": self.decode(row.prefix_ids),
            "own": self.decode(row.own_ids),
            "prefix_ids": list(row.prefix_ids),
            "own_ids": list(row.own_ids),
            "own_logprobs": [round(x, DIGITS) for x in row.own_logprobs],
        }

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Append a line to metrics.jsonl (training) or evals.jsonl (a held-out set, its name in `set`)."""
        prefix = self.eval_prefix
        answers = self._by_question() if logs and f"{prefix}_reward" in logs else {}  # forgotten on every rank
        if not self.main or not logs:
            return
        if f"{prefix}_reward" in logs:
            self.begin()  # an evaluation may come before training
            figures = {k.removeprefix(f"{prefix}_"): v for k, v in logs.items() if k.startswith(f"{prefix}_")}
            figures.pop("loss", None)  # a constant 0, see prediction_step
            name = prefix.removeprefix("eval").strip("_") or "eval"
            stage, step = self.at or (self.stage, state.global_step)
            self.append("evals.jsonl", [{"stage": stage, "step": step, "set": name} | figures | answers])
        elif "loss" in logs:
            self.append("metrics.jsonl", [{"step": state.global_step} | logs])
