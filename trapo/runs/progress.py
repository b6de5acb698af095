"""What a run shows: the live line (step, reward, held-out accuracy, speed, time left) and, at its end, the summary."""

import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from transformers import TrainerCallback

from ..terminal import Console
from .folder import RunFolder
from .intervals import held_out, samples_each
from .recorder import StageRecorder

WIDTH_FOR_BAR = 105  # columns of the terminal
LINES_WITHOUT_TERMINAL = 10  # a log file gets this many lines over the training, not a bar


class ProgressLine(TrainerCallback):
    """A rich progress bar in a terminal, a line now and then elsewhere.

    Args:
        recorder: of this stage.
        console: to print to.
        held_out: the newest accuracies by held-out set; the stages of a run share them.
    """

    def __init__(self, recorder: StageRecorder, console: Console, held_out: dict[str, float]):
        self.recorder, self.console, self.held_out = recorder, console, held_out
        self.stage = recorder.stage
        self.figures: dict[str, float] = {}
        self.progress: Progress | None = None
        self.task = None
        self._started = time.perf_counter()
        self._first_step = 0

    def on_train_begin(self, args, state, control, **kwargs):
        """Show the bar."""
        self._started, self._first_step = time.perf_counter(), state.global_step
        if not state.is_world_process_zero or not self.console.is_terminal:
            return
        bar = [BarColumn(20)] if self.console.width >= WIDTH_FOR_BAR else []  # figures first
        columns = (
            TextColumn(f"{self.stage} step"),
            MofNCompleteColumn(),
            *bar,
            TextColumn("{task.description}", markup=False),
        )
        self.progress = Progress(*columns, TimeRemainingColumn(compact=True), console=self.console)
        self.task = self.progress.add_task("", total=state.max_steps, completed=state.global_step)
        self.progress.start()

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Take up new figures."""
        prefix = self.recorder.eval_prefix
        if logs and f"{prefix}_reward" in logs:
            self.held_out[prefix.removeprefix("eval_")] = logs[f"{prefix}_reward"]
        elif logs and "loss" in logs:
            self.figures = logs
            self._show(state)

    def on_train_end(self, args, state, control, **kwargs):
        """Take the bar away."""
        if self.progress is not None:
            self.progress.stop()

    def _show(self, state) -> None:
        if not state.is_world_process_zero:
            return
        if self.progress is not None:
            self.progress.update(self.task, completed=state.global_step, description=self._text())
        elif state.global_step % max(state.max_steps // LINES_WITHOUT_TERMINAL, 1) == 0:
            done = state.global_step - self._first_step
            left = (time.perf_counter() - self._started) / done * (state.max_steps - state.global_step)
            self.console.print(
                f"{self.stage} step {state.global_step}/{state.max_steps}  {self._text()}  {left:.0f} s left",
                soft_wrap=True,
            )

    def _text(self) -> str:
        f = self.figures
        parts = [f"loss {f['loss']:.3f}"] if self.stage == "sft" else []
        rewards = [f"{kind} {f[f'reward/{kind}']:.2f}" for kind in ("plain", "guided") if f"reward/{kind}" in f]
        parts += ["reward " + " ".join(rewards)] if rewards else []
        if self.held_out:
            name, accuracy = next(iter(self.held_out.items()))
            parts.append(f"{name} {accuracy:.3f}")
        tokens = f.get("tokens/rollout", 0) + f.get("tokens/update", 0)
        parts.append(f"{tokens / max(f.get('seconds/step', 0), 1e-9):.0f} tokens/s")
        return "  ".join(parts)


def print_summary(folder: RunFolder, console: Console) -> None:
    """What held-out sets gave before and after with 95% intervals over questions, time, and where everything lies."""
    evals = folder.records("evals.jsonl")
    if evals:
        each = samples_each(folder.record().get("config", {}))
        between = [r for r in evals if r["stage"] == "sft" and r["step"] > 0 and evals[-1]["stage"] == "rl"]
        columns = ("before", *(("after SFT",) if between else ()), "after")
        table = Table("held-out set", "questions", "samples", *columns, title="Held-out sets (95% over questions)")
        for name in dict.fromkeys(record["set"] for record in evals):
            records = [record for record in evals if record["set"] == name]
            shown = [records[0], *(r for r in between if r["set"] == name), records[-1]]
            found = [held_out([record], each) for record in shown]
            last = found[-1]
            counts = str(last.questions or "-"), str(records[-1].get("samples", "-"))
            table.add_row(f"{name}, {last.name}", *counts, *map(str, found))
        console.print(table)
    metrics = folder.records("metrics.jsonl")
    for stage in dict.fromkeys(record["stage"] for record in metrics):
        steps = [record for record in metrics if record["stage"] == stage]
        parts = ("rollout", "grading", "update") if stage == "rl" else ()
        mean = {p: sum(s.get(f"seconds/{p}", 0.0) for s in steps) / len(steps) for p in ("step", *parts)}
        shares = ", ".join(f"{p} {mean[p] / max(mean['step'], 1e-9):.0%}" for p in parts)
        console.print(
            f"{stage}: {steps[-1]['step']} steps of {mean['step']:.2f} s{f' ({shares})' if shares else ''}; so far "
            f"{steps[-1]['seen/samples']} samples and {steps[-1]['seen/demonstrations']} demonstrations seen",
            soft_wrap=True,
        )
    console.print(
        Text("Run folder:", "bold").append(
            f" {folder.path}  (metrics.jsonl, rollouts.jsonl; the model: {folder.final})", "not bold"
        ),
        soft_wrap=True,
    )
