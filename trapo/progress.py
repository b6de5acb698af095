"""The live line of a training run: step, reward, held-out accuracy, speed, time left."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

LINES_WITHOUT_TERMINAL = 10  # a log file gets this many lines over the training, not a bar


class ProgressLine(TrainerCallback):
    """A rich progress bar in a terminal, a line now and then elsewhere."""

    def __init__(self, trainer, console: Console):
        self.trainer, self.console = trainer, console
        self.figures: dict[str, float] = {}
        self.held_out: dict[str, float] = {}
        self.progress: Progress | None = None
        self.task = None
        self._started = time.perf_counter()
        self._first_step = 0

    def on_train_begin(self, args, state, control, **kwargs):
        """Show the bar."""
        self._started, self._first_step = time.perf_counter(), state.global_step
        if not state.is_world_process_zero or not self.console.is_terminal:
            return
        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(20), TextColumn("{task.description}"))
        self.progress = Progress(*columns, TimeRemainingColumn(), console=self.console)
        self.task = self.progress.add_task("", total=state.max_steps, completed=state.global_step)
        self.progress.start()

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Take up new figures."""
        prefix = self.trainer.eval_prefix
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
                f"step {state.global_step}/{state.max_steps}  {self._text()}  {left:.0f} s left", soft_wrap=True
            )

    def _text(self) -> str:
        f = self.figures
        parts = [f"reward {kind} {f[f'reward/{kind}']:.2f}" for kind in ("plain", "guided") if f"reward/{kind}" in f]
        if self.held_out:
            name, accuracy = next(iter(self.held_out.items()))
            parts.append(f"{name} {accuracy:.3f}")
        tokens = f.get("tokens/rollout", 0) + f.get("tokens/update", 0)
        parts.append(f"{tokens / max(f.get('seconds/step', 0), 1e-9):.0f} tokens/s")
        return "  ".join(parts)
