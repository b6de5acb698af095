"""Is the final answer right? Worker processes that cannot hang, eat the memory, or kill a run.

Each worker arms the kernel's CPU timer before an answer; when it runs out the process dies, whatever it is doing, and
another takes its place. So a verdict depends on the CPU time an answer needs, not on the load; a wall clock in the
parent is only the back-stop, and its use is flagged.
"""

import os
import re
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .answers import LONGEST, boxed_answer, gold_text
from .pool import Ended, Pool, Task
from .reference import RULES

GRADERS = ("own", *RULES)  # what a reward goes by
STATUSES = ("correct", "wrong", "no_box", "gold-unparsed", "timeout", "error")
MOST_WORKERS = 64
_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_CHOICE = re.compile(r"[A-J]")


def usable_cpus() -> int:
    """The processors this process may use, 64 at most: how many workers are worth having."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cpus, MOST_WORKERS)


@dataclass(frozen=True)
class Verdict:
    """One graded answer.

    Attributes:
        status: one of `STATUSES`; only "correct" earns a reward.
        wall: True if the wall clock, not the CPU timer, ended it: then the verdict may depend on the load.
    """

    status: str
    wall: bool = False

    @property
    def reward(self) -> float:
        """1 if correct, else 0."""
        return float(self.status == "correct")


def quick_verdict(text: str, gold: str) -> Verdict | None:
    """The verdict where it needs no reading: no box, the same characters, or two plain integers. None otherwise."""
    answer = boxed_answer(text)
    if answer is None or not answer.strip():
        return Verdict("no_box")
    if len(answer) > LONGEST:
        return Verdict("wrong")
    answer, gold = answer.strip(), gold.strip()
    if answer == gold:
        return Verdict("correct")
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(gold):
        return Verdict("correct" if int(answer) == int(gold) else "wrong")
    if _CHOICE.fullmatch(gold) and _CHOICE.fullmatch(answer):
        return Verdict("wrong")
    return None


class Grader:
    """Grades texts against gold answers; use as a context manager, or call `close`.

    Workers start in the background when the first answer needs them, or from `start`. Usable as a TRL reward function:
    it reads the column `answer`.

    Args:
        workers: processes.
        cpu_seconds: CPU time one answer may take, in seconds, before its status is "timeout".
        memory_mb: address space a worker may use beyond what it has after start-up, in MiB; past it, "error" as a rule:
            a parser may hide that ("wrong") or go on trying ("timeout").
        wall_seconds: back-stop, in seconds; far above cpu_seconds, since it counts what others do with the machine.
        rule: "own" (what is in the last box, behind the last </think>), or as a paper's training script rewards a whole
            text: "reference" (TRAPO's) or "luffy" (`trapo.grading.reference`); those never say "no_box".
    """

    __name__ = "accuracy"  # the reward function's name in TRL's metrics
    per_sample = True  # a sample's reward depends on that sample alone
    bounded = True  # rewards lie in [0, 1], so guidance may be decided before all of them are known

    def __init__(
        self,
        workers: int = 2,
        cpu_seconds: float = 5.0,
        memory_mb: int = 2048,
        wall_seconds: float = 120.0,
        rule: str = "own",
    ):
        if rule not in GRADERS:
            raise ValueError(f"grader {rule!r} is unknown: choose one of {', '.join(GRADERS)}")
        if workers < 1 or cpu_seconds <= 0 or memory_mb <= 0 or wall_seconds <= 0:
            raise ValueError(f"grader needs positive limits: {workers=}, {cpu_seconds=}, {memory_mb=}, {wall_seconds=}")
        self.workers, self.cpu_seconds, self.memory_mb, self.wall_seconds = (
            workers,
            cpu_seconds,
            memory_mb,
            wall_seconds,
        )
        self.rule = rule
        self._pool = Pool(workers, cpu_seconds, memory_mb, wall_seconds)
        self._waiting: deque[Task] = deque()
        self._done: list[tuple[Hashable, Verdict]] = []

    def start(self, workers: int | None = None) -> None:
        """Have that many workers get ready in the background (all by default), before they are needed."""
        self._pool.grow(workers or self.workers)

    def grade(
        self, texts: Sequence[str], golds: Sequence[Any], quick: bool = True, reference: bool = False
    ) -> list[Verdict]:
        """One verdict per text, in order; golds may be strings or numbers.

        `quick=False` goes by what the answer says even where the characters are the same: can the gold be read at all?
        `reference=True` gives the verdict of the papers' evaluations (`trapo.grading.reference`) instead of this
        grader's rule: on the whole text, always from a worker, never "no_box".
        """
        own = object()  # no key of anybody else's
        for i, (text, gold) in enumerate(zip(texts, golds, strict=True)):
            self.submit((own, i), text, gold, quick, reference)
        verdicts: dict[int, Verdict] = {}
        others: list[tuple[Hashable, Verdict]] = []
        while len(verdicts) < len(texts):
            for key, verdict in self.collect(wait=True).items():
                if isinstance(key, tuple) and key and key[0] is own:
                    verdicts[key[1]] = verdict
                else:
                    others.append((key, verdict))
        self._done = others + self._done
        return [verdicts[i] for i in range(len(texts))]

    def submit(self, key: Hashable, text: str, gold: Any, quick: bool = True, reference: bool = False) -> None:
        """Hand in a text; its verdict comes from `collect` under `key`. Workers are at it while the caller goes on.

        `quick` and `reference` as for `grade`.
        """
        gold = gold_text(gold)
        rule = "papers" if reference else self.rule
        verdict = quick_verdict(text, gold) if rule == "own" else None
        if verdict is not None and (quick or verdict.status != "correct"):
            self._done.append((key, verdict))
        else:
            self._waiting.append(Task(key, boxed_answer(text) if rule == "own" else text, gold, rule, quick))
            self._dispatch()

    def collect(self, wait: bool = False) -> dict[Hashable, Verdict]:
        """The verdicts found since the last call; with `wait`, at least one as long as any is still to come."""
        while True:
            self._dispatch()
            for ended in self._pool.wait(None if wait and not self._done and self._pool.busy else 0):
                self._take(ended)
            if self._done or not wait or not (self._pool.busy or self._waiting):
                break
        self._dispatch()
        done, self._done = dict(self._done), []
        return done

    def forget(self, keys: Iterable[Hashable]) -> None:
        """Drop what was handed in under these keys: no verdict comes, and the keys may be used again at once."""
        gone = set(keys)
        self._waiting = deque(task for task in self._waiting if task.key not in gone)
        self._done = [(key, verdict) for key, verdict in self._done if key not in gone]
        self._pool.forget(gone)

    def _take(self, ended: Ended) -> None:
        self._done.append((ended.task.key, Verdict(ended.status, wall=ended.late)))

    def _dispatch(self) -> None:
        """Give waiting tasks to idle workers, and have workers started for the rest while there may be more."""
        if not self._waiting:
            return
        idle = sum(worker.task is None for worker in self._pool.workers.values())
        self._pool.grow(len(self._pool.workers) + max(0, len(self._waiting) - idle))
        while self._waiting and (worker := self._pool.idle()) is not None:
            self._pool.give(worker, self._waiting.popleft())

    def __call__(self, completions: list, answer: list, **kwargs: Any) -> list[float]:
        """TRL's reward function protocol: completions as text or as chat messages, column `answer`."""
        texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
        return [verdict.reward for verdict in self.grade(texts, answer)]

    def close(self) -> None:
        """Stop the workers; the grader can be used again and starts new ones."""
        self._pool.stop()
        self._waiting.clear()
        self._done.clear()

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
