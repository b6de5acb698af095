"""What an evaluation shows while it draws: samples done, speed, accuracy so far with its error, time left."""

import time
from collections.abc import Callable
from typing import Any

from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trapo.terminal import Console

from .stats import mean_with_errors
from .verdicts import Verdicts

EVERY = 0.5  # seconds between two looks at the accuracy
LINES_WITHOUT_TERMINAL = 10  # a log file gets this many lines, not a bar


class Live:
    """Told of samples as they come, has them graded at once, and shows how far it is; use as a context manager.

    Args:
        total: samples to have.
        gold: (task, question) -> kind of the benchmark, right answer.
        verdicts: grades.
        console: to print to.
    """

    def __init__(self, total: int, gold: Callable[[str, str], tuple[str, str]], verdicts: Verdicts, console: Console):
        self.total, self.gold, self.verdicts, self.console = total, gold, verdicts, console
        self.records: list[dict[str, Any]] = []
        self._seen: set[str] = set()
        self.drawn = self.tokens = 0  # in this process; what the journal had is not its speed
        self._began: float | None = None
        self._looked = 0.0
        self._printed = 0
        self._bar: Progress | None = None

    def __enter__(self) -> "Live":
        if self.console.is_terminal:
            columns = (
                MofNCompleteColumn(),
                TextColumn("samples  {task.description}", markup=False),
                TimeRemainingColumn(compact=True),
            )
            self._bar = Progress(*columns, console=self.console)
            self._task = self._bar.add_task("", total=self.total)
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def expect(self, total: int) -> None:
        """So many samples are to be had after all."""
        self.total, self._printed = total, len(self.records) * LINES_WITHOUT_TERMINAL // total
        if self._bar is not None:
            self._bar.update(self._task, total=total)

    def found(self, records: list[dict[str, Any]]) -> None:
        """Samples: the first call brings those of the journal, each later one what has just been drawn.

        Those it has been told of before, which a second look at the journal brings, do not count again.
        """
        records = [record for record in records if record["key"] not in self._seen]
        self._seen |= {record["key"] for record in records}
        if self._began is None:
            self._began = time.monotonic()
        else:
            self.drawn += len(records)
            self.tokens += sum(record["tokens"] for record in records)
        for record in records:
            kind, gold = self.gold(record["task"], record["question"])
            self.verdicts.ask(kind, record["text"], gold)
        self.records += records
        self.verdicts.collect()
        now, done = time.monotonic(), len(self.records)
        if self._bar is not None and (now - self._looked > EVERY or done == self.total):
            self._looked = now
            self._bar.update(self._task, completed=done, description=self.line())
        elif self._bar is None and (done * LINES_WITHOUT_TERMINAL // self.total > self._printed):
            self._printed = done * LINES_WITHOUT_TERMINAL // self.total
            self.console.print(f"{done}/{self.total} samples  {self.line()}{self._left()}", soft_wrap=True)

    def line(self) -> str:
        """Speed, and the accuracy of each benchmark so far with its standard error over questions."""
        correct: dict[str, dict[str, list[bool]]] = {}
        for record in self.records:
            status = self.verdicts.known(record["text"], self.gold(record["task"], record["question"])[1])
            if status is not None:
                correct.setdefault(record["task"], {}).setdefault(record["question"], []).append(status == "correct")
        parts = [f"{self.tokens / max(time.monotonic() - self._began, 1e-9):.0f} tokens/s"] if self.drawn else []
        for task, questions in list(correct.items())[-3:]:
            estimate = mean_with_errors(questions.values())
            parts.append(f"{task} {estimate.value:.3f} ± {estimate.se_questions:.3f}")
        return "  ".join(parts)

    def _left(self) -> str:
        if not self.drawn:
            return ""
        left = (time.monotonic() - self._began) / self.drawn * (self.total - len(self.records))
        return f"  {left:.0f} s left"
