"""How rollouts get their rewards: from the grader's workers while the engine draws, or from reward functions."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import count
from typing import Any

import torch

from ..grading.grader import Grader
from .types import Group, Row


class GraderJudge:
    """Rows judged by the grader's worker processes.

    Args:
        grader: its workers.
        decode: a row's response as text.
    """

    early = True

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


def is_per_sample(function: Any) -> bool:
    """Whether a reward function says that a sample's reward depends on that sample alone (`per_sample = True`)."""
    return bool(getattr(function, "per_sample", False)) and not isinstance(function, torch.nn.Module)


class SampleRewards:
    """Reward functions that may be asked about any rows at any time, for `per_sample` says so of each.

    Every rank asks for its own, without waiting for others. What functions log with `log_extra` is kept in the rows.

    Args:
        functions: by name.
        weights: of each.
        arguments: what TRL passes to a function, for some rows.
        bounded: whether the reward is known to lie in [0, 1].
    """

    def __init__(
        self,
        functions: Mapping[str, Callable],
        weights: Sequence[float],
        *,
        arguments: Callable[[Sequence[Row]], dict[str, Any]],
        bounded: bool,
    ):
        self.functions, self.weights, self.arguments, self.bounded = functions, weights, arguments, bounded

    def __call__(self, rows: Sequence[Row]) -> None:
        """Fill in `rewards`, `reward` and `status`.

        Raises:
            ValueError: for a function that gives another number of rewards, or one outside the bounds that it states.
        """

        def log_extra(column: str, values: Sequence[Any]) -> None:
            for row, value in zip(rows, values, strict=True):
                row.extra[column] = value

        arguments = self.arguments(rows) | {"log_extra": log_extra}
        found = []
        for name, function in self.functions.items():
            values = function(**arguments)
            if len(values) != len(rows):
                raise ValueError(f"reward function {name!r} returned {len(values)} rewards for {len(rows)} completions")
            found.append([float("nan") if value is None else float(value) for value in values])
        for row, values in zip(rows, zip(*found, strict=True), strict=True):
            fill_in(row, values, self.weights)
            if self.bounded and not 0 <= row.reward <= 1:
                raise ValueError(
                    f"reward function {next(iter(self.functions))!r} says that it is bounded, but gave {row.reward}: "
                    "keep it in [0, 1], or do not set its attribute bounded"
                )


def fill_in(row: Row, values: Sequence[float], weights: Sequence[float]) -> None:
    """Give a row its rewards: `reward` is the weighted sum of those that are not NaN, and NaN where all are."""
    scored = [w * r for w, r in zip(weights, values, strict=True) if r == r]
    row.status, row.rewards, row.reward = "scored", list(values), sum(scored) if scored else float("nan")


class FunctionJudge:
    """Rows judged one by one: functions see all the rows that have ended since they were last asked.

    Args:
        score: fills in `reward`, `rewards` and `status` of rows.
    """

    early = True

    def __init__(self, score: Callable[[Sequence[Row]], None]):
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


class BatchJudge:
    """Rows judged together, groups in order, as TRL asks its reward functions: they may compare what is in a group.

    Each time, all rows so far are judged, so that the last time it is whole groups, and their rewards are what counts.
    Without guidance that is the only time.

    Args:
        score: fills in `reward`, `rewards` and `status` of rows.
        groups: of the batch, in order.
    """

    early = False

    def __init__(self, score: Callable[[Sequence[Row]], None], groups: Sequence[Group]):
        self.score = score
        self._place = {id(group): i for i, group in enumerate(groups)}
        self._rows: list[Row] = []
        self._new: list[Row] = []

    def submit(self, row: Row) -> None:
        """Keep the row until nothing else is being drawn."""
        self._new.append(row)

    def collect(self, wait: bool) -> list[Row]:
        """With `wait`, when nothing is being drawn: judge every row so far, and give the new ones."""
        if not wait:
            return []
        new, self._new = self._new, []
        self._rows = sorted([*self._rows, *new], key=lambda row: (self._place[id(row.group)], row.index))
        self.score(self._rows)
        return new

    def abort(self) -> None:
        """Forget the rows that are not judged yet."""
        self._new.clear()
