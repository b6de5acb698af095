"""Is the final answer right? math-verify in worker processes that cannot hang, eat the memory, or kill a run.

math-verify's own time-outs use SIGALRM, which a computation inside C code never sees and which the load of the machine
influences. Here each worker arms the kernel's CPU timer before an answer; when it runs out the process dies, whatever
it is doing, and the parent starts another. So a verdict depends on the CPU time an answer needs, not on the load; a
wall clock in the parent is only the back-stop, and its use is flagged.
"""

import contextlib
import json
import re
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from .answers import boxed_answer, gold_text, normalise
from .reference import RULES

GRADERS = ("own", *RULES)  # what a reward goes by
STATUSES = ("correct", "wrong", "no_box", "timeout", "error")
_INTEGER = re.compile(r"[+-]?\d{1,18}")
LONGEST = 10_000  # characters; no gold answer is nearly as long, and reading more costs more than it is worth
_CHOICE = re.compile(r"[A-J]")


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
    """The verdict where it needs no algebra: no box, the same characters, or two plain integers. None otherwise."""
    answer = boxed_answer(text)
    if answer is None or not answer.strip():
        return Verdict("no_box")
    if len(answer) > LONGEST:
        return Verdict("wrong")
    answer, gold = normalise(answer), normalise(gold)
    if answer == gold and answer:
        return Verdict("correct")
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(gold):
        return Verdict("correct" if int(answer) == int(gold) else "wrong")
    if _CHOICE.fullmatch(gold) and _CHOICE.fullmatch(answer):
        return Verdict("wrong")
    return None


class Grader:
    """Grades texts against gold answers with math-verify; use as a context manager, or call `close`.

    Workers start when the first answer needs them. Usable as a TRL reward function: it reads the column `answer`.

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
        self.rule = rule
        self.workers, self.cpu_seconds, self.memory_mb, self.wall_seconds = (
            workers,
            cpu_seconds,
            memory_mb,
            wall_seconds,
        )
        self._pool: list[_Worker] = []
        self._waiting: deque[tuple[Hashable, str, str, str]] = deque()  # key, box or whole text, gold, rule
        self._done: list[tuple[Hashable, Verdict]] = []

    def grade(
        self, texts: Sequence[str], golds: Sequence[Any], quick: bool = True, reference: bool = False
    ) -> list[Verdict]:
        """One verdict per text, in order; golds may be strings or numbers.

        `quick=False` asks math-verify even where the characters are the same: can it read the gold at all?
        `reference=True` gives the verdict of the papers' evaluations (`trapo.grading.reference`) instead of this
        grader's rule: on the whole text, always from a worker, never "no_box".
        """
        for i, (text, gold) in enumerate(zip(texts, golds, strict=True)):
            self.submit(i, text, gold, quick, reference)
        verdicts: dict[Hashable, Verdict] = {}
        while len(verdicts) < len(texts):
            verdicts |= self.collect(wait=True)
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
            self._waiting.append((key, boxed_answer(text) if rule == "own" else text, gold, rule))
            self._dispatch()

    def collect(self, wait: bool = False) -> dict[Hashable, Verdict]:
        """The verdicts found since the last call; with `wait`, at least one as long as any is still to come."""
        while True:
            for worker in self._ready(wait and not self._done):
                self._done.append(worker.receive())
            self._dispatch()
            if self._done or not wait or not any(w.task is not None for w in self._pool):
                break
        done, self._done = dict(self._done), []
        return done

    def __call__(self, completions: list, answer: list, **kwargs: Any) -> list[float]:
        """TRL's reward function protocol: completions as text or as chat messages, column `answer`."""
        texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
        return [verdict.reward for verdict in self.grade(texts, answer)]

    def _dispatch(self) -> None:
        """Give waiting tasks to idle workers, and start workers for the rest while there may be more."""
        idle = [w for w in self._pool if w.task is None]
        while self._waiting and (idle or len(self._pool) < self.workers):
            if not idle:
                idle.append(_Worker(self))
                self._pool += idle
            idle.pop().send(*self._waiting.popleft())

    def _ready(self, wait: bool) -> list["_Worker"]:
        """Workers that have answered, died, or are past their deadline; with `wait`, at least one if any is busy."""
        busy = [w for w in self._pool if w.task is not None]
        if not busy:
            return []
        patience = max(min(w.deadline for w in busy) - time.monotonic(), 0) if wait else 0
        readable, _, _ = select.select([w.process.stdout for w in busy], [], [], patience)
        return [w for w in busy if w.process.stdout in readable or time.monotonic() >= w.deadline]

    def close(self) -> None:
        """Stop the workers; the grader can be used again and starts new ones."""
        for worker in self._pool:
            worker.stop()
        self._pool = []
        self._waiting.clear()
        self._done.clear()

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Worker:
    """One worker process and the task it is on."""

    def __init__(self, limits: Grader):
        self.limits, self.task, self.deadline = limits, None, 0.0
        self._start()

    def _start(self) -> None:
        # Not multiprocessing: a spawned child would import the user's __main__, and with it torch.
        command = [
            sys.executable,
            "-P",  # or a folder of the user's could stand for a package
            "-m",
            "trapo.grading.worker",
            str(self.limits.cpu_seconds),
            str(self.limits.memory_mb),
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        # Imports take seconds and must not count against an answer.
        if not self.process.stdout.readline():
            raise RuntimeError(
                f"the grading worker did not start: {' '.join(command)} exited with {self.process.wait()}"
            )

    def send(self, task: Hashable, answer: str, gold: str, rule: str) -> None:
        self.task, self.deadline = task, time.monotonic() + self.limits.wall_seconds
        with contextlib.suppress(BrokenPipeError):  # it died between two tasks: the next receive() sees that
            line = memoryview(json.dumps([answer, gold, rule]).encode() + b"\n")
            while line:  # more than the pipe holds may go in parts
                line = line[self.process.stdin.write(line) :]

    def receive(self) -> tuple[Hashable, Verdict]:
        """The verdict of a worker that has answered, has died, or is past its deadline."""
        task, self.task = self.task, None
        late = not select.select([self.process.stdout], [], [], 0)[0]
        line = b"" if late else self.process.stdout.readline()
        if line.endswith(b"\n"):
            return task, Verdict(json.loads(line))
        self.stop()
        code = self.process.returncode
        self._start()
        if late:
            return task, Verdict("timeout", wall=True)
        return task, Verdict("timeout" if code == -signal.SIGPROF else "error")

    def stop(self) -> None:
        try:
            # One that is dying of its own signal must keep its exit code: give it a moment to be reaped.
            if self.task is None and not self.process.stdin.closed:
                self.process.stdin.close()
            self.process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
