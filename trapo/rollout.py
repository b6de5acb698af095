"""Rollouts: draw every sample of a batch of groups, each micro-group as soon as the schedule allows.

Two schedules draw the same samples, because a sample's seed comes from what it is and never from when it is drawn:

* "barrier": one `generate` per micro-group over the whole batch, as in the reference code;
* "rounds": each `generate` takes all micro-groups that are decided by then, in whatever order that is.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .engines.torch_engine import Request, Sample
from .guidance import MicroGroups, RowPlan, Trace

SCHEDULES = ("rounds", "barrier")


@dataclass
class Group:
    """One prompt of the batch: its tokens, its expert traces, and the dataset row it came from."""

    prompt_id: str
    prompt_ids: tuple[int, ...]
    traces: Sequence[Trace]
    columns: dict[str, Any]


@dataclass
class Row:
    """One sample of a group. `prefix_ids` are the expert's tokens, `own_ids` the policy's.

    `finish` is "stop" (EOS), "length", or "demonstration" (the policy wrote nothing). `rewards` has one value per
    reward function, `reward` is their weighted sum.
    """

    group: Group
    index: int
    plan: RowPlan
    seed: int
    prefix_ids: tuple[int, ...]
    own_ids: tuple[int, ...] = ()
    finish: str = "demonstration"
    reward: float = 0.0
    rewards: list[float] = field(default_factory=list)
    status: str = ""

    @property
    def completion_ids(self) -> tuple[int, ...]:
        """Prefix and own tokens: the response."""
        return self.prefix_ids + self.own_ids


class Engine(Protocol):
    """What rollouts need of an engine."""

    def generate(self, requests: list[Request]) -> list[Sample]:
        """The samples of `requests`, in their order."""


@dataclass
class Seconds:
    """Where a rollout's time went, in seconds."""

    engine: float = 0.0
    grading: float = 0.0


def sample_seed(run_seed: int, step: int | str, prompt_id: str, index: int, guided: bool) -> int:
    """The 63-bit seed of one sample: a hash of what it is, so that any schedule draws the same sample."""
    key = "\x1f".join(map(str, (run_seed, step, prompt_id, index, int(guided))))
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def roll_out(
    groups: Sequence[Group],
    guidance: MicroGroups,
    engine: Engine,
    grade: Callable[[list[Row]], None],
    *,
    seed: int,
    step: int | str,
    max_tokens: int,
    schedule: str = "rounds",
    bounded: bool = True,
) -> tuple[list[list[Row]], Seconds]:
    """Draw and grade all samples of `groups`.

    Args:
        groups: the prompts of this batch.
        guidance: decides, from the rewards known so far, what each sample is shown.
        engine: draws the policy's tokens.
        grade: fills in `reward`, `rewards` and `status` of rows.
        seed, step: the run's seed and the training step (or another label), for `sample_seed`.
        max_tokens: bound on prefix plus own tokens.
        schedule: one of `SCHEDULES`.
        bounded: whether rewards are known to lie in [0, 1]; if not, nothing is decided early.

    Returns:
        rows: guidance.group_size rows per group, in order.
        seconds: of the engine and of grading.
    """
    rows: list[list[Row | None]] = [[None] * guidance.group_size for _ in groups]
    seconds = Seconds()
    micro_group = 0
    while any(row is None for group_rows in rows for row in group_rows):
        batch = []
        for group, group_rows in zip(groups, rows, strict=True):
            rewards = [None if row is None else row.reward for row in group_rows]
            for index, plan in enumerate(guidance.plan(rewards, group.traces, bounded)):
                due = plan is not None and (schedule == "rounds" or plan.micro_group <= micro_group)
                if due and group_rows[index] is None:
                    group_rows[index] = row = _new_row(group, index, plan, seed, step)
                    batch.append(row)
        started = time.perf_counter()
        _draw(batch, engine, max_tokens)
        drawn = time.perf_counter()
        grade(batch)
        seconds.engine += drawn - started
        seconds.grading += time.perf_counter() - drawn
        micro_group += 1
    for group, group_rows in zip(groups, rows, strict=True):
        # Which of several twins trains their prefix is settled only when every micro-group is decided.
        final = guidance.plan([row.reward for row in group_rows], group.traces, bounded)
        for row, plan in zip(group_rows, final, strict=True):
            row.plan = plan
    return rows, seconds


def _new_row(group: Group, index: int, plan: RowPlan, seed: int, step: int | str) -> Row:
    prefix = group.traces[plan.trace].ids[: plan.length] if plan.length else ()
    return Row(group, index, plan, sample_seed(seed, step, group.prompt_id, index, plan.length > 0), prefix)


def _draw(batch: list[Row], engine: Engine, max_tokens: int) -> None:
    """Let the engine write the own tokens of all rows but the whole demonstrations."""
    rows = [row for row in batch if row.plan.ratio < 1 and len(row.prefix_ids) < max_tokens]
    requests = [
        Request(row.group.prompt_ids + row.prefix_ids, max_tokens - len(row.prefix_ids), row.seed) for row in rows
    ]
    for row, sample in zip(rows, engine.generate(requests), strict=True):
        row.own_ids, row.finish = sample.ids, sample.finish
