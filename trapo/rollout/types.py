"""What rollouts are made of: a prompt's group, its rows, who judges them, what it all cost."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..method.guidance import RowPlan, Trace
from ..method.solved import is_solved


@dataclass
class Group:
    """One prompt of the batch: its tokens, its expert traces, and the dataset row it came from.

    `counted` is false for a prompt that is drawn only so that all processes draw equally many.
    """

    prompt_id: str
    prompt_ids: tuple[int, ...]
    traces: Sequence[Trace]
    columns: dict[str, Any]
    counted: bool = True


@dataclass
class Row:
    """One sample of a group. `prefix_ids` are the expert's tokens, `own_ids` the policy's, with log-probabilities.

    `finish` is "stop" (EOS), "length", or "demonstration" (the policy wrote nothing). `reward` is None until it is
    graded; `rewards` has one value per reward function, NaN where it gave none; `reward` is their weighted
    sum. `wall` is `Verdict.wall`, `extra` what reward functions log of the row.
    """

    group: Group
    index: int
    plan: RowPlan
    seed: int
    prefix_ids: tuple[int, ...]
    own_ids: tuple[int, ...] = ()
    own_logprobs: tuple[float, ...] = ()
    finish: str = "demonstration"
    reward: float | None = None
    rewards: list[float] = field(default_factory=list)
    status: str = ""
    wall: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def solved(self) -> bool:
        """Whether its reward is a right sample's; False until there is one."""
        return self.reward is not None and bool(is_solved(self.reward))

    @property
    def completion_ids(self) -> tuple[int, ...]:
        """Prefix and own tokens: the response."""
        return self.prefix_ids + self.own_ids


class Judge(Protocol):
    """What rollouts need of grading.

    Attributes:
        early: whether rows are judged one by one, so that guidance may be decided while others are being drawn.
    """

    early: bool

    def submit(self, row: Row) -> None:
        """Hand in a finished row."""

    def collect(self, wait: bool) -> list[Row]:
        """Rows graded since the last call, `reward`, `rewards` and `status` filled in; with `wait`, at least one."""

    def abort(self) -> None:
        """Forget what is not graded yet."""


@dataclass
class Cost:
    """What a rollout took: seconds of the engine and of waiting for grades, engine calls, tokens drawn for nothing."""

    engine_seconds: float = 0.0
    grading_seconds: float = 0.0
    polls: int = 0
    aborted_tokens: int = 0
