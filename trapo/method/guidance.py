"""Guidance: which samples of a prompt's group are shown which part of an expert's trace (TRAPO's micro-groups).

A group of G samples is split, in order, into micro-groups. Micro-group i is shown the first `ratios[i]` of a trace iff
the rewards of all the prompt's earlier samples are too low for `thresholds[i]`; otherwise its samples are plain. A
ratio of 1 is the whole demonstration: the policy writes nothing.

`plan()` is the seam between a method's guidance and the rollout scheduler: it sees the rewards known so far and says
what is already certain. The scheduler asks again after every grade.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import fsum
from typing import Any, ClassVar


@dataclass(frozen=True)
class Trace:
    """An expert's answer to one prompt, as tokens.

    Attributes:
        ids: the response's tokens, EOS included unless it was cut away.
        blank_lines: indices of the tokens that hold a blank line, ascending.
    """

    ids: tuple[int, ...]
    blank_lines: tuple[int, ...] = ()


@dataclass(frozen=True)
class RowPlan:
    """What one sample of a group is: how much of which trace it continues, and which losses its tokens take part in.

    Attributes:
        micro_group: index of its micro-group.
        ratio: the micro-group's prefix ratio if the sample is guided, else 0.
        trace: index of the trace shown; 0 for a plain sample.
        length: number of the trace's tokens shown; 0 for a plain sample.
        expert: whether the shown tokens are trained here. Of all samples of the group with the same trace and length
            only the first is, so that each distinct prefix is trained once.
        rl: whether the policy's own tokens take part in the RL loss.
    """

    micro_group: int
    ratio: float = 0.0
    trace: int = 0
    length: int = 0
    expert: bool = False
    rl: bool = True


@dataclass(frozen=True)
class MicroGroups:
    """Micro-group guidance, and plain GRPO as the case of a single micro-group.

    Attributes:
        sizes: samples per micro-group; they add up to G.
        ratios: share of the trace shown to a guided micro-group, in [0, 1]; the first is 0.
        thresholds: micro-group i is guided iff the earlier rewards' `compare` is below `thresholds[i]`.
        compare: "mean" (the paper) or "sum" (the reference script) of the earlier rewards.
        prefix_end: "exact" cuts at int(ratio * length); "blank-line" moves the cut to behind the first blank line after
            it that comes before (ratio + 0.3) * length (the reference script).
        traces: which trace each micro-group is shown; the last available one where there are fewer.
        rl_beside_guided: whether a group's own tokens take part in the RL loss where one of its micro-groups is guided;
            False leaves such a prompt to the expert's loss alone (HPT).
    """

    sizes: tuple[int, ...]
    ratios: tuple[float, ...]
    thresholds: tuple[float, ...]
    compare: str = "mean"
    prefix_end: str = "exact"
    traces: tuple[int, ...] = ()
    rl_beside_guided: bool = True

    def __post_init__(self):
        n = len(self.sizes)
        for name in ("ratios", "thresholds") + (("traces",) if self.traces else ()):
            if len(getattr(self, name)) != n:
                raise ValueError(
                    f"{name} {getattr(self, name)} needs one value per micro-group: sizes are {self.sizes}"
                )
        if not n or any(size < 1 for size in self.sizes):
            raise ValueError(f"micro-group sizes {self.sizes} must be positive")
        if self.ratios[0] != 0 and not self.guides_first:
            raise ValueError(f"prefix ratios {self.ratios} must begin with 0: the first micro-group is never guided")
        if any(not 0 <= ratio <= 1 for ratio in self.ratios):
            raise ValueError(f"prefix ratios {self.ratios} must lie in [0, 1]")
        if self.compare not in ("mean", "sum"):
            raise ValueError(f"compare {self.compare!r} must be 'mean' or 'sum'")
        if self.prefix_end not in ("exact", "blank-line"):
            raise ValueError(f"prefix_end {self.prefix_end!r} must be 'exact' or 'blank-line'")
        if any(trace < 0 for trace in self.traces):
            raise ValueError(f"traces {self.traces} are indices, counted from 0")

    guides_first: ClassVar[bool] = False  # whether the first micro-group may be guided

    def at(self, progress: float, draw: float) -> "MicroGroups":
        """The guidance of one prompt at one step; this one, unless it changes over training or is drawn by lot.

        Args:
            progress: share of the training done, in [0, 1].
            draw: uniform in [0, 1), the prompt's own in this step.
        """
        return self

    @property
    def group_size(self) -> int:
        """G, the samples per prompt."""
        return sum(self.sizes)

    @property
    def guides(self) -> bool:
        """Whether any micro-group can be shown anything."""
        return any(ratio > 0 for ratio in self.ratios)

    def settings(self) -> dict[str, Any]:
        """Everything that defines this guidance, for the run's record."""
        return asdict(self)

    def members(self, i: int) -> range:
        """The sample indices of micro-group i."""
        start = sum(self.sizes[:i])
        return range(start, start + self.sizes[i])

    def guided(self, i: int, rewards: Sequence[float | None], bounded: bool = True) -> bool | None:
        """Whether micro-group i is guided: True, False, or None while the rewards known so far do not settle it.

        Exact: what is answered early is what the full rewards will answer, because an unknown reward lies in [0, 1].

        Args:
            i: the micro-group.
            rewards: one per sample of the group, None where not yet known.
            bounded: False if rewards may lie outside [0, 1]; then nothing is answered early.
        """
        if self.ratios[i] == 0:
            return False
        earlier = rewards[: self.members(i).start]
        if not earlier:
            return True
        known = [r for r in earlier if r is not None]
        missing = len(earlier) - len(known)
        if missing and not bounded:
            return None
        total = fsum(known)
        if self._below(i, total + missing, len(earlier)):
            return True
        return None if self._below(i, total, len(earlier)) else False

    def plan(
        self, rewards: Sequence[float | None], traces: Sequence[Trace], bounded: bool = True
    ) -> list[RowPlan | None]:
        """One plan per sample of the group, None for the samples of micro-groups that are not decided yet.

        Args:
            rewards: one per sample, None where not yet known.
            traces: the prompt's expert traces; without any, all samples are plain.
            bounded: see `guided`.
        """
        plans: list[RowPlan | None] = []
        trained: set[tuple[int, int]] = set()
        for i, size in enumerate(self.sizes):
            guided = self.guided(i, rewards, bounded) if traces else False
            if guided is None:
                plans += [None] * size
                continue
            for _ in range(size):
                plan = self._guided_row(i, traces) if guided else RowPlan(i)
                prefix = (plan.trace, plan.length)
                first = plan.length > 0 and prefix not in trained
                trained.add(prefix)
                plans.append(RowPlan(i, plan.ratio, plan.trace, plan.length, expert=first))
        if not self.rl_beside_guided and any(plan and plan.length for plan in plans):
            plans = [plan and replace(plan, rl=False) for plan in plans]
        return plans

    def branches(self, index: int, traces: Sequence[Trace]) -> dict[bool, RowPlan]:
        """What sample `index` may turn out to be: {False: plain, True: guided}, each only if it is known already.

        `expert` and `rl` are not settled in these.
        """
        i = next(i for i in range(len(self.sizes)) if index in self.members(i))
        return {False: RowPlan(i), True: self._guided_row(i, traces)}

    def prefix_length(self, ratio: float, trace: Trace) -> int:
        """How many tokens of `trace` the ratio shows, by this guidance's rule for the prefix's end."""
        n = len(trace.ids)
        if ratio >= 1:
            return n
        cut = int(ratio * n)
        if self.prefix_end == "blank-line":
            first = next((j for j in trace.blank_lines if j > cut), n)
            if first < (ratio + 0.3) * n and first < n:
                return first + 1
        return cut

    def _guided_row(self, i: int, traces: Sequence[Trace]) -> RowPlan:
        trace = min(self.traces[i] if self.traces else 0, len(traces) - 1)
        return RowPlan(i, self.ratios[i], trace, self.prefix_length(self.ratios[i], traces[trace]))

    def _below(self, i: int, total: float, n: int) -> bool:
        return (total / n if self.compare == "mean" else total) < self.thresholds[i]


def no_guidance(group_size: int) -> MicroGroups:
    """Plain GRPO: one micro-group that is shown nothing."""
    return MicroGroups((group_size,), (0.0,), (-1.0,))
