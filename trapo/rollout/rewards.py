"""How rollouts get their rewards: from the grader's workers while the engine draws, or from reward functions."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import count
from typing import Any

from trl.data_utils import is_conversational

from ..grading.grader import Grader
from .types import Row


class GraderJudge:
    """Rows judged by the grader's worker processes.

    Args:
        grader: its workers.
        decode: a row's response as text.
    """

    def __init__(self, grader: Grader, decode: Callable[[Row], str]):
        self.grader, self.decode = grader, decode
        self._rows: dict[Hashable, Row] = {}
        self._keys = count()

    def submit(self, row: Row) -> None:
        """Hand the row's text to a worker."""
        key = (self, next(self._keys))  # the grader outlives this judge, and rows
        self._rows[key] = row
        self.grader.submit(key, self.decode(row), row.group.columns["answer"])

    def collect(self, wait: bool) -> list[Row]:
        """The rows judged since the last call."""
        judged = []
        for key, verdict in self.grader.collect(wait).items():
            row = self._rows.pop(key)
            row.status, row.wall, row.rewards, row.reward = (
                verdict.status,
                verdict.wall,
                [verdict.reward],
                verdict.reward,
            )
            judged.append(row)
        return judged

    def abort(self) -> None:
        """Forget the rows that are not judged yet."""
        self.grader.forget(self._rows)
        self._rows.clear()


class RewardFunctions:
    """TRL's reward functions, asked about finished rows; every rank asks for its own, without waiting for others.

    Args:
        functions: by name.
        weights: of each.
        decode: a row's response as text.
        log_metric: where functions may log a number.
        state: the trainer's state, which functions may look at.
        bounded: whether the reward is known to lie in [0, 1].
    """

    def __init__(
        self,
        functions: Mapping[str, Callable],
        weights: Sequence[float],
        *,
        decode: Callable[[Row], str],
        log_metric: Callable[[str, float], None],
        state: Callable[[], Any],
        bounded: bool,
    ):
        self.functions, self.weights, self.bounded = functions, weights, bounded
        self.decode, self.log_metric, self.state = decode, log_metric, state

    def __call__(self, rows: list[Row]) -> None:
        """Fill in `rewards`, `reward` and `status`.

        Raises:
            ValueError: for a function that gives another number of rewards, or one outside the bounds that it states.
        """
        for row in rows:
            row.status, row.rewards = "scored", []
        arguments = self._arguments(rows)
        for name, function in self.functions.items():
            values = function(**arguments)
            if len(values) != len(rows):
                raise ValueError(f"reward function {name!r} returned {len(values)} rewards for {len(rows)} completions")
            for row, value in zip(rows, values, strict=True):
                row.rewards.append(float("nan") if value is None else float(value))
        for row in rows:
            scored = [w * r for w, r in zip(self.weights, row.rewards, strict=True) if r == r]
            row.reward = sum(scored) if scored else 0.0
            if self.bounded and not 0 <= row.reward <= 1:
                raise ValueError(
                    f"reward function {next(iter(self.functions))!r} says that it is bounded, but gave {row.reward}: "
                    "keep it in [0, 1], or do not set its attribute bounded"
                )

    def _arguments(self, rows: list[Row]) -> dict[str, Any]:
        columns, texts = [row.group.columns for row in rows], [self.decode(row) for row in rows]
        if columns and is_conversational({"prompt": columns[0]["prompt"]}):
            texts = [[{"role": "assistant", "content": text}] for text in texts]
        keys = [k for k in (columns[0] if columns else {}) if k not in ("prompt", "completion", "completion_ids")]
        return {
            "prompts": [c["prompt"] for c in columns],
            "completions": texts,
            "completion_ids": [list(row.completion_ids) for row in rows],
            "trainer_state": self.state(),
            "log_extra": lambda column, values: None,  # rollouts.jsonl has every sample already
            "log_metric": self.log_metric,
        } | {k: [c[k] for c in columns] for k in keys}


class FunctionJudge:
    """Rows judged by reward functions, which see all the rows that have ended since they were last asked.

    Args:
        score: fills in `reward`, `rewards` and `status` of rows.
    """

    def __init__(self, score: Callable[[list[Row]], None]):
        self.score = score
        self._rows: list[Row] = []

    def submit(self, row: Row) -> None:
        """Keep the row for the next `collect`."""
        self._rows.append(row)

    def collect(self, wait: bool) -> list[Row]:
        """Judge all rows handed in so far."""
        rows, self._rows = self._rows, []
        if rows:
            self.score(rows)
        return rows

    def abort(self) -> None:
        """Forget the rows that are not judged yet."""
        self._rows.clear()
