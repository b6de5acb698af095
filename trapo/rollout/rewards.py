"""How rollouts get their rewards: from the grader's workers while the engine draws, or from reward functions."""

from collections.abc import Callable

from ..grading.grader import Grader
from .types import Row


class GraderJudge:
    """Rows judged by math-verify in worker processes.

    Args:
        grader: its workers.
        decode: a row's response as text.
    """

    def __init__(self, grader: Grader, decode: Callable[[Row], str]):
        self.grader, self.decode = grader, decode
        self._rows: dict[int, Row] = {}

    def submit(self, row: Row) -> None:
        """Hand the row's text to a worker."""
        key = id(row)
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
