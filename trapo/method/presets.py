"""Guidance by name: the presets of micro-groups, and guidance that other papers have beside them.

Prefixes that are drawn by lot or become shorter over training are settled per prompt and step (`MicroGroups.at`), by a
number that is a pure function of run seed, step and prompt: the same after a resume, whatever the schedule of rollouts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import cos, pi
from typing import Any, ClassVar

import numpy as np

from .guidance import MicroGroups, RowPlan, Trace
from .solved import is_solved

ALWAYS = 1e9  # a threshold that every reward is below


def cosine(start: float, end: float, progress: float) -> float:
    """From `start` at progress 0 to `end` at 1 along half a cosine."""
    return end + (start - end) * (1 + cos(pi * min(max(progress, 0.0), 1.0))) / 2


@dataclass(frozen=True)
class SampledPrefix(MicroGroups):
    """The last micro-group's ratio is uniform between a falling lower bound and a fixed upper one (Prefix-RFT).

    Attributes:
        ratio_start, ratio_end: the lower bound at the start and at the end of training.
        ratio_high: the upper bound.

    Source: arXiv 2507.01679.
    """

    sizes: tuple[int, ...] = (7, 1)
    ratios: tuple[float, ...] = (0.0, 0.95)
    thresholds: tuple[float, ...] = (-1.0, ALWAYS)
    ratio_start: float = 0.95
    ratio_end: float = 0.05
    ratio_high: float = 0.95

    def at(self, progress: float, draw: float) -> MicroGroups:
        """This prompt's ratio in place of the last one."""
        low = cosine(self.ratio_start, self.ratio_end, progress)
        return replace(self, ratios=(*self.ratios[:-1], low + (self.ratio_high - low) * draw))


@dataclass(frozen=True)
class AnnealedHint(MicroGroups):
    """All samples continue a hint of Binomial(n, p) of the trace's n pieces, p falling to nothing (UFT).

    Attributes:
        pieces: most pieces, equal shares of the trace's tokens; None: each token is one.
        ratio_start, ratio_end: p at the start and at the end of the annealing.
        ratio_share: share of the training over which p falls; later there are no hints.
        draw: of this prompt and step; set by `at`.

    Source: arXiv 2505.16984, appendix B; five pieces: github.com/liumy2010/UFT @ad3c8ec, rl_dataset.py.
    """

    guides_first: ClassVar[bool] = True
    sizes: tuple[int, ...] = (8,)
    ratios: tuple[float, ...] = (0.95,)
    thresholds: tuple[float, ...] = (ALWAYS,)
    pieces: int | None = None
    ratio_start: float = 0.95
    ratio_end: float = 0.05
    ratio_share: float = 0.6
    draw: float = field(default=0.0, repr=False)

    def at(self, progress: float, draw: float) -> MicroGroups:
        """With this step's p as ratio, and the prompt's draw."""
        p = cosine(self.ratio_start, self.ratio_end, progress / self.ratio_share) if progress < self.ratio_share else 0
        return replace(self, ratios=(p,), draw=draw)

    def settings(self) -> dict[str, Any]:
        """As `MicroGroups.settings`, without the draw of a single prompt."""
        return {name: value for name, value in super().settings().items() if name != "draw"}

    def prefix_length(self, ratio: float, trace: Trace) -> int:
        """The binomial's number of pieces for this draw, in tokens."""
        length = len(trace.ids)
        pieces = min(self.pieces or length, length)
        shown = int(np.random.default_rng(int(self.draw * 2**53)).binomial(pieces, ratio))
        return round(shown / max(pieces, 1) * length)


@dataclass(frozen=True)
class ShortestPrefix(MicroGroups):
    """Where all plain samples fail, the later samples search for the shortest prefix that succeeds, by halving (BREAD).

    The first guided sample is shown half of the trace, every other one half-way between the longest prefix that failed
    and the shortest that did not. `is_solved` says what a success is.

    Source: arXiv 2506.17211.
    """

    sizes: tuple[int, ...] = (4, 1, 1, 1, 1)
    ratios: tuple[float, ...] = (0.0, 0.5, 0.5, 0.5, 0.5)
    thresholds: tuple[float, ...] = (-1.0, 0.0, 0.0, 0.0, 0.0)

    def plan(
        self, rewards: Sequence[float | None], traces: Sequence[Trace], bounded: bool = True
    ) -> list[RowPlan | None]:
        """As `MicroGroups.plan`; a guided sample is known once the one before it is graded."""
        plain, n = self.sizes[0], self.group_size
        plans: list[RowPlan | None] = [RowPlan(0)] * plain
        first = rewards[:plain]
        if not traces or any(r is not None and is_solved(r) for r in first):
            return plans + [RowPlan(i) for i in range(1, len(self.sizes))]
        if any(r is None for r in first):
            return plans + [None] * (n - plain)
        low, high = 0.0, 1.0
        for i in range(1, len(self.sizes)):
            ratio = (low + high) / 2
            length = self.prefix_length(ratio, traces[0])
            twin = any(plan.length == length > 0 for plan in plans)
            plans.append(RowPlan(i, ratio, 0, length, expert=length > 0 and not twin))
            reward = rewards[plain + i - 1]
            if reward is None:
                return plans + [None] * (n - len(plans))
            low, high = (low, ratio) if is_solved(reward) else (ratio, high)
        return plans

    def branches(self, index: int, traces: Sequence[Trace]) -> dict[bool, RowPlan]:
        """As `MicroGroups.branches`; how long a later guided sample's prefix is, is not known beforehand."""
        found = super().branches(index, traces)
        return found if index == self.sizes[0] else {False: found[False]}


# The paper and its authors' script differ; each preset keeps its own comparison.
PRESETS: dict[str, MicroGroups] = {
    # arXiv 2512.17636, section 4
    "paper": MicroGroups((4, 2, 1, 1), (0.0, 0.2, 0.5, 1.0), (-1.0, 0.5, 0.7, 0.9)),
    # the authors' training script: sums of rewards, prefixes that end at a blank line, a second trace for the last
    "reference": MicroGroups(
        (4, 2, 1, 1), (0.0, 0.25, 0.5, 1.0), (-1.0, 2.0, 4.0, 7.0), "sum", "blank-line", (0, 0, 0, 1)
    ),
    "sampled-prefix": SampledPrefix(),
    "annealed-hint": AnnealedHint(),
    "shortest-prefix": ShortestPrefix(),
}
