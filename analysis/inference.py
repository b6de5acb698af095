"""What paired differences say, by one rule for the study, the report and plans, and how much they could have said.

A difference is paired by block: a base model, or a seed. "Above" and "below" need Holm's p of the exact sign-flip test
below 5% within the family of comparisons, and Student's 95% interval free of 0. "Equal within m" needs two one-sided t
tests at 5% (Schuirmann 1987), also Holm's. All else is "can't tell".

Power is simulated under this rule, not read off a formula: (z + z) standard errors, which ignores Student's t, Holm and
the steps of 2 / 2^n that a sign-flip test over n blocks can take, promises 80% where eight blocks have 64% to 24%.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.stats import t, ttest_1samp

from trapo.runs.intervals import mean_interval
from trapo_evals.stats import EXACT, holm, sign_flip

LEVEL = 0.05  # of every test
POWER = 0.8  # of what is called detectable
FEW = 0.92  # coverage below which Student's interval is not to be relied on
SIMULATIONS = 4_000
FLIPS = 999  # random ones, where there are too many blocks for all


@dataclass(frozen=True)
class Answer:
    """What a paired difference says.

    Attributes:
        a, b: what is compared: a minus b.
        gaps: the difference on each block.
        difference: their mean.
        low, high: Student's 95% interval.
        p, holm: of the sign-flip test, and after Holm's correction within the family.
        family: how many comparisons are corrected together.
        says: "above", "below", "equal" (where a margin was given) or "can't tell".
        margin: the smallest difference that matters; None where nobody said.
        p_equal: of the two one-sided tests against the margin, after Holm's correction; None without a margin.
        within: the smallest margin within which the two would be called equal, by this pair alone.
        coverage: how often Student's interval would hold the mean if the blocks were all that there is, by simulation.
        undelivered: blocks on which a and b are the same run.
    """

    a: str
    b: str
    gaps: tuple[float, ...]
    difference: float
    low: float
    high: float
    p: float
    holm: float
    family: int
    says: str
    margin: float | None
    p_equal: float | None
    within: float
    coverage: float
    undelivered: int = 0

    @property
    def blocks(self) -> int:
        """How many differences there are."""
        return len(self.gaps)

    @property
    def above(self) -> int:
        """On how many blocks a is above b."""
        return sum(gap > 0 for gap in self.gaps)

    @property
    def equal(self) -> bool:
        """Whether the two are equal within the margin; a difference may be told and still be smaller than it."""
        return self.p_equal is not None and self.p_equal < LEVEL

    @property
    def detectable(self) -> float:
        """The difference that such blocks would show with 80% power by this rule; inf where they never could."""
        return detectable(self.blocks, self.family) * float(np.std(self.gaps, ddof=1))

    @property
    def studentized(self) -> tuple[float, float]:
        """The bootstrap-t interval, for differences that are far from normal."""
        return bootstrap_t(self.gaps, seed=0)


def answers(pairs: Sequence[tuple[str, str, Sequence[float]]], margin: float | None = None) -> list[Answer]:
    """What the pairs of one family say.

    Args:
        pairs: a, b, and a - b on each block; those of fewer than two blocks are left out.
        margin: the smallest difference that matters, for "equal".
    """
    found = []
    for a, b, gaps in pairs:
        gaps = np.asarray(gaps, float)
        if len(gaps) > 1:
            mean, low, high = mean_interval(gaps)
            p = sign_flip(gaps, seed=0)
            equal = None if margin is None else equivalence(gaps, margin)
            found.append(Answer(a, b, tuple(gaps.tolist()), mean, low, high, p, p, 0, "can't tell", margin, equal,
                                narrowest_margin(gaps), coverage(gaps)))  # fmt: skip
    if not found:
        return []
    adjusted = holm([answer.p for answer in found])
    equal = [None] * len(found) if margin is None else holm([answer.p_equal for answer in found])
    return [
        _with_verdict(replace(answer, holm=float(p), family=len(found), p_equal=None if e is None else float(e)))
        for answer, p, e in zip(found, adjusted, equal, strict=True)
    ]


def _with_verdict(answer: Answer) -> Answer:
    if answer.holm < LEVEL and not answer.low <= 0 <= answer.high:
        return replace(answer, says="above" if answer.difference > 0 else "below")
    if answer.equal:
        return replace(answer, says="equal")
    return answer


def equivalence(gaps: Sequence[float], margin: float) -> float:
    """p of the two one-sided t tests that the mean lies within -margin to margin."""
    gaps = np.asarray(gaps, float)
    if margin <= 0:
        raise ValueError(f"margin = {margin}: give the smallest difference that matters, above 0")
    if np.ptp(gaps) < 1e-12:
        return 1.0  # equal differences (results come in steps) say nothing of others
    above = ttest_1samp(gaps, -margin, alternative="greater").pvalue
    return float(max(above, ttest_1samp(gaps, margin, alternative="less").pvalue))


def narrowest_margin(gaps: Sequence[float]) -> float:
    """The smallest margin at which `equivalence` gives 5%: the farther end of the 90% interval from 0."""
    gaps = np.asarray(gaps, float)
    half = t.ppf(1 - LEVEL, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps))
    return float(abs(gaps.mean()) + half)


def bootstrap_t(gaps: Sequence[float], seed: int, resamples: int = 9_999) -> tuple[float, float]:
    """95% interval of the mean by the studentized bootstrap (Efron 1981); wide where few blocks carry the mean.

    Resamples without spread have no t and are left out.
    """
    gaps = np.asarray(gaps, float)
    drawn = gaps[np.random.default_rng(seed).integers(len(gaps), size=(resamples, len(gaps)))]
    errors = drawn.std(1, ddof=1)
    there = errors > 1e-12
    if not there.any():
        return np.nan, np.nan
    statistics = (drawn.mean(1)[there] - gaps.mean()) / errors[there]
    low, high = np.percentile(statistics, (2.5, 97.5))
    return float(gaps.mean() - high * gaps.std(ddof=1)), float(gaps.mean() - low * gaps.std(ddof=1))


def coverage(gaps: Sequence[float], draws: int = 4_000) -> float:
    """How often Student's 95% interval of as many draws holds the mean, if these differences were the population.

    95% for what is near normal, far less where one block in eight carries the mean: a sample without it has no way to
    know. No interval mends that; more blocks do.
    """
    gaps = np.asarray(gaps, float)
    drawn = gaps[np.random.default_rng(0).integers(len(gaps), size=(draws, len(gaps)))]
    half = t.ppf(0.975, len(gaps) - 1) * drawn.std(1, ddof=1) / np.sqrt(len(gaps))
    return float((np.abs(drawn.mean(1) - gaps.mean()) <= half + 1e-12).mean())


# ---------------------------------------------------------------- power


def blocks_needed(family: int) -> int:
    """The fewest blocks with which any one of `family` comparisons can be told by the sign-flip test after Holm."""
    blocks = 2
    while family * 2.0 ** (1 - blocks) >= LEVEL:
        blocks += 1
    return blocks


def check_family(name: str, family: int, blocks: int) -> None:
    """ValueError for a family of comparisons that can never reject: then its runs would be for nothing."""
    if blocks < (needed := blocks_needed(family)):
        raise ValueError(
            f"{name}: {family} comparisons over {blocks} blocks can never reject: the smallest p of a sign-flip test "
            f"is 2 / 2^{blocks} = {2.0 ** (1 - blocks):.4f}, times {family} by Holm; take {needed} blocks"
        )


def power(effect: float, blocks: int, family: int = 1, noise: np.ndarray | None = None) -> float:
    """The chance that a true difference is told, simulated under the page's own rule at Holm's worst step.

    Args:
        effect: the true mean, in standard deviations of the differences.
        blocks: how many differences there are.
        family: comparisons that are corrected together; the p must be below 5% / family.
        noise: (simulations, blocks) differences less their mean in standard deviations, such as resampled ones; normal
            without.
    """
    noise = _noise(blocks) if noise is None else noise
    gaps = noise + effect
    half = t.ppf(0.975, blocks - 1) * gaps.std(1, ddof=1) / np.sqrt(blocks)
    told = (np.abs(gaps.mean(1)) > half) & (gaps.mean(1) > 0)
    if family * 2.0 ** (1 - blocks) >= LEVEL:
        return 0.0
    told[told] = _sign_flips(gaps[told]) * family < LEVEL
    return float(told.mean())


@lru_cache
def detectable(blocks: int, family: int = 1) -> float:
    """The difference, in standard deviations of the differences, that is told with 80% power; inf where none can be."""
    if blocks < blocks_needed(family):
        return np.inf
    low, high = 0.0, 8.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, blocks, family) >= POWER else (middle, high)
    return high


def _noise(blocks: int) -> np.ndarray:
    return np.random.default_rng(blocks).normal(size=(SIMULATIONS, blocks))


def _sign_flips(gaps: np.ndarray) -> np.ndarray:
    """p of the two-sided sign-flip test of each row (simulations, blocks): all flips, or `FLIPS` random ones."""
    blocks = gaps.shape[1]
    if blocks <= EXACT:
        signs = 1 - 2 * (
            np.arange(2 ** (blocks - 1))[:, None] >> np.arange(blocks) & 1
        )  # the first half: |sum| is even
        more = 0
    else:
        signs = 1 - 2 * np.random.default_rng(0).integers(2, size=(FLIPS, blocks))
        more = 1
    least = np.abs(gaps.sum(1)) - 1e-12 * np.abs(gaps).sum(1)
    hits = np.array([(np.abs(signs @ row) >= bar).sum() for row, bar in zip(gaps, least, strict=True)])
    return (hits + more) / (len(signs) + more)
