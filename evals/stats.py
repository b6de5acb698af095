"""What a benchmark's samples say, and how surely: avg@n, pass@k, maj@n, A against B, lengths, copies.

The unit is the question: samples of one question are alike, so errors, bands and tests resample questions, never
samples. A number that the data cannot give is NaN. Input that is empty, out of range or does not match is refused with
a ValueError that names it; questions count from 0.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from trapo.runs.intervals import effective_questions, over_questions, wilson

RESAMPLES = 9_999  # of a bootstrap, and of a permutation test too large to enumerate
EXACT = 12  # questions that differ, up to which all 2^12 sign flips are enumerated
Z = float(norm.ppf(0.975))  # every interval is at 95%
Z_POWER = float(norm.ppf(0.8))


@dataclass(frozen=True)
class Estimate:
    """avg@n of one benchmark; shares, not percent.

    Attributes:
        value: mean over questions of the share of correct samples.
        se_questions: its standard error on other questions of the same kind; NaN for one question.
        se_resampling: its standard error if these questions were sampled again; NaN if one has a single sample.
        low, high: 95% interval on other questions of the same kind, never of width zero.
        questions, samples: how many there are.
        effective: independent samples that would give this interval, from `questions` to `samples`.
    """

    value: float
    se_questions: float
    se_resampling: float
    low: float
    high: float
    questions: int
    samples: int
    effective: float


@dataclass(frozen=True)
class Curve:
    """pass@k at each of `ks`, with the ends of a 95% band."""

    ks: tuple[int, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """A against B on the same questions, in the units of the two.

    Attributes:
        difference: mean of A minus mean of B.
        se: its standard error over questions.
        low, high: its 95% bootstrap interval.
        p: two-sided, of the sign-flip test that A and B are exchangeable on every question.
        wins, ties, losses: questions on which A is above, level with, below B.
        detectable: the smallest difference that as many such questions show at 5% with 80% power.

    se, low, high and detectable are NaN where all differences are equal (one question, say): no spread, no error.
    """

    difference: float
    se: float
    low: float
    high: float
    p: float
    wins: int
    ties: int
    losses: int
    detectable: float


def mean_with_errors(correct: Iterable[Iterable[int]]) -> Estimate:
    """avg@n with two errors and an interval.

    With p_q the share correct of question q's n_q samples and m their mean over the Q questions:

        se_questions  = sd(p_q) / sqrt(Q)                          (clustered: Miller 2024, arXiv 2411.00640)
        se_resampling = sqrt(sum_q p_q (1 - p_q) / (n_q - 1)) / Q  (questions fixed)

    The interval is Wilson's (1927) at m and the effective number of questions: `trapo.runs.intervals.over_questions`,
    as for the held-out sets of a run.

    Args:
        correct: (Q, n) or a sequence for each of Q questions, of 0 and 1 (or bool).
    """
    hits, n = _counts(correct)
    questions, samples, p = len(n), int(n.sum()), hits / n
    found = over_questions(p[None], n[None], share=True)
    se_resampling = float(np.sqrt((p * (1 - p) / (n - 1)).sum()) / questions) if n.min() > 1 else np.nan
    effective = effective_questions(p[None], n[None])
    ends = found.low, found.high
    return Estimate(found.value, standard_error(p), se_resampling, *ends, questions, samples, effective)


def pass_at_k(counts_correct: ArrayLike, counts_n: ArrayLike, k: int) -> np.ndarray:
    """Chance that one of k samples is correct, per question, without bias: 1 - C(n - c, k) / C(n, k).

    Chen et al. 2021, arXiv 2107.03374, equation 1. The ratio is the product of 1 - k / i over i from n - c + 1 to n,
    summed as logarithms: no overflow, and a small chance keeps its digits.

    Args:
        counts_correct: (Q,) c, correct samples of each question.
        counts_n: (Q,) or one number, n, all samples.
        k: 1 to n.

    Returns:
        (Q,)

    Raises:
        ValueError: k is above an n or below 1, or a count is no whole number from 0 to n.
    """
    if k < 1 or k != int(k):
        raise ValueError(f"k = {k}: give a whole number of at least 1")

    def one(c, n):
        if not (0 <= c <= n and c == int(c) and n == int(n)):
            raise ValueError(f"c = {c} correct of n = {n} samples: give whole numbers with 0 <= c <= n")
        if k > n:
            raise ValueError(f"k = {k} is above n = {n}, the samples of a question: draw more or take k <= {n}")
        return 1.0 if n - c < k else -np.expm1(np.log1p(-k / np.arange(n - c + 1, n + 1)).sum())

    c, n = np.broadcast_arrays(np.asarray(counts_correct), np.asarray(counts_n))
    return np.array([one(*pair) for pair in zip(c.flat, n.flat, strict=True)], float).reshape(c.shape)


def pass_at_k_curve(correct: Iterable[Iterable[int]], ks: Sequence[int], seed: int) -> Curve:
    """pass@k, the mean over questions, with a 95% band: percentiles of a bootstrap over questions.

    All k see the same resampled questions. Where all questions agree, so that the bootstrap has no width, the band is
    Wilson's interval on Q questions.

    Args:
        correct: as in `mean_with_errors`.
        ks: at least one, each as in `pass_at_k`.
        seed: of the bootstrap.
    """
    if not len(ks):
        raise ValueError("ks = []: give at least one k")
    hits, n = _counts(correct)
    passed = np.stack([pass_at_k(hits, n, k) for k in ks], 1)  # (Q, K)
    value = passed.mean(0)
    alike = np.transpose([wilson(v, len(n)) for v in value])  # (2, K)
    low, high = np.where(np.ptp(passed, 0) < 1e-12, alike, _percentiles(passed, np.random.default_rng(seed)))
    return Curve(tuple(int(k) for k in ks), *(tuple(line.tolist()) for line in (value, low, high)))


def maj_at_n(
    classes: Iterable[Iterable[Hashable]], correct: Iterable[Mapping[Hashable, bool] | Iterable[bool]]
) -> np.ndarray:
    """Credit of the most frequent answer, per question: maj@n is its mean.

    Tied classes share it: the expectation if one of them were drawn at random. So do the samples of a class, where a
    grader calls two answers equal and only one correct. A question without any answer scores 0.

    Args:
        classes: for each of Q questions, a label for each sample; equal labels are equivalent answers, None is no
            answer and never wins.
        correct: for each question, either label -> correct, of every label but None, or one value for each sample.

    Returns:
        (Q,) from 0 to 1.
    """
    rows, truths = _rows("classes", classes), list(correct)
    if len(rows) != len(truths):
        raise ValueError(f"classes of {len(rows)} questions, correct of {len(truths)}: give both for every question")
    credits = []
    for q, (labels, truth) in enumerate(zip(rows, truths, strict=True)):
        if isinstance(truth, Mapping):
            missing = [label for label in labels if label is not None and label not in truth]
            if missing:
                raise ValueError(f"correct of question {q} lacks the class {missing[0]!r}: say whether it is correct")
            truth = [truth.get(label, False) for label in labels]
        truth = list(truth)
        if len(truth) != len(labels):
            raise ValueError(f"question {q} has {len(labels)} classes, {len(truth)} correct: give one for each sample")
        votes = Counter(label for label in labels if label is not None)
        most = max(votes.values(), default=0)
        # Tied classes are of one size, so the mean over their samples is the mean over them.
        won = [right for label, right in zip(labels, truth, strict=True) if votes[label] == most > 0]
        credits.append(_zero_one(q, won).mean() if won else 0.0)
    return np.array(credits)


def compare(a: ArrayLike, b: ArrayLike, seed: int) -> Comparison:
    """A against B, paired by question (Miller 2024, arXiv 2411.00640).

    The interval holds the percentiles of a bootstrap over questions. The test flips the sign of each difference
    (Fisher 1935): all flips if at most `EXACT` differences are not zero, else `RESAMPLES` random ones with the data
    counted among them (Phipson and Smyth 2010), so that p is never 0. detectable is (z_.975 + z_.8) se.

    Args:
        a, b: (Q,) means per question, in the same order; differences below 1e-12 are ties.
        seed: of bootstrap and flips.
    """
    a, b = _numbers("a", a), _numbers("b", b)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise ValueError(f"a has shape {a.shape}, b {b.shape}: give one mean per question, of the same questions")
    gap = a - b
    gap[np.abs(gap) < 1e-12] = 0
    rng = np.random.default_rng(seed)
    se = low = high = np.nan
    if np.ptp(gap) > 1e-12:
        se, (low, high) = standard_error(gap), _percentiles(gap[:, None], rng)[:, 0].tolist()
    p = _sign_flip(gap[gap != 0], rng)
    wins, ties, losses = (int(found.sum()) for found in (gap > 0, gap == 0, gap < 0))
    return Comparison(float(gap.mean()), se, low, high, p, wins, ties, losses, (Z + Z_POWER) * se)


def sign_flip(gaps: ArrayLike, seed: int) -> float:
    """The p of `compare` by itself, of paired differences (Q,)."""
    gaps = _numbers("gaps", gaps)
    return _sign_flip(gaps[np.abs(gaps) >= 1e-12], np.random.default_rng(seed))


def holm(p_values: ArrayLike) -> np.ndarray:
    """p-values (M,) adjusted for M comparisons, in the order given: below 5% with the chance of any false one below 5%.

    Holm 1979, "A simple sequentially rejective multiple test procedure": the i-th smallest of M is multiplied by
    M - i + 1, and never falls below an adjusted smaller one.
    """
    p = _numbers("p_values", p_values)
    if p.ndim != 1 or ((p < 0) | (p > 1)).any():
        raise ValueError(f"p_values = {p.tolist()}: give a list of numbers from 0 to 1")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def simultaneous(gaps: Sequence[Mapping[Hashable, ArrayLike]], seed: int) -> list[tuple[float, float]]:
    """Intervals of several mean differences that all hold at once with 95%: those of `holm`'s questions, as intervals.

    difference +- c se, where c is the 95% quantile of the largest |d* - d| / se over all of them, in a bootstrap that
    resamples questions (the max-t of Westfall and Young 1993). Questions of one name are resampled together, so that
    differences that hang together (A - B, A - C and B - C) are not corrected for twice.

    Args:
        gaps: for each difference, question -> its difference there. Questions of the same key are the same; those of
            one benchmark have keys (benchmark, question), and each benchmark is resampled by itself.
        seed: of the bootstrap.

    Returns:
        (low, high) of each; NaN where all of a difference's questions agree, which leaves no spread.
    """
    rng = np.random.default_rng(seed)
    blocks: dict[Hashable, dict[Hashable, int]] = {}  # of each benchmark, question -> row
    for gap in gaps:
        for block, question in gap:
            rows = blocks.setdefault(block, {})
            rows.setdefault(question, len(rows))
    means = np.array([np.mean(list(gap.values())) for gap in gaps])
    errors = np.array([standard_error(np.array(list(gap.values()), float)) for gap in gaps])
    spread = errors > 1e-12
    worst = np.zeros(RESAMPLES)
    for block, rows in blocks.items():
        mine = [k for k, gap in enumerate(gaps) if spread[k] and next(iter(gap))[0] == block]
        if not mine:
            continue
        values, there = np.zeros((2, len(rows), len(mine)))
        for column, k in enumerate(mine):
            for (_, question), value in gaps[k].items():
                values[rows[question], column], there[rows[question], column] = value, 1
        for r in range(RESAMPLES):
            times = np.bincount(rng.integers(len(rows), size=len(rows)), minlength=len(rows))
            drawn = (times @ values) / np.maximum(times @ there, 1)
            worst[r] = max(worst[r], (np.abs(drawn - means[mine]) / errors[mine]).max())
    critical = np.quantile(worst, 0.95)
    return [
        (m - critical * e, m + critical * e) if s else (np.nan, np.nan)
        for m, e, s in zip(means.tolist(), errors.tolist(), spread, strict=True)
    ]


def length_quantiles(lengths: ArrayLike, qs: Sequence[float] = (0.1, 0.5, 0.9, 0.99)) -> dict[float, float]:
    """q -> quantile of the samples' lengths, in their unit, linear between neighbours."""
    values = _numbers("lengths", lengths).ravel()
    if not len(values) or values.min() < 0:
        raise ValueError(f"lengths = {values[:8].tolist()}: give at least one, none negative")
    if not all(0 <= q <= 1 for q in qs):
        raise ValueError(f"qs = {qs}: give quantiles from 0 to 1")
    return {float(q): float(np.quantile(values, q)) for q in qs}


def distinct_share(texts: Iterable[Iterable[Hashable]]) -> float:
    """Distinct samples / samples of a question, mean over questions: 1 if no two are the same, at least 1 / n.

    Args:
        texts: for each question its samples, as text or as tuples of tokens.
    """
    return float(np.mean([len(set(row)) / len(row) for row in _rows("texts", texts)]))


def all_equal(texts: Iterable[Iterable[Hashable]]) -> bool:
    """Whether the samples of every question are copies: a server ignores seeds, or the temperature is 0.

    False where no question has two samples. Arguments as in `distinct_share`.
    """
    several = [row for row in _rows("texts", texts) if len(row) > 1]
    return bool(several) and all(len(set(row)) == 1 for row in several)


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of values (Q,); NaN for one."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan


def _percentiles(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ends (2, K) of the 95% percentile bootstrap interval of the means over questions of values (Q, K)."""
    questions = len(values)
    means = np.empty((RESAMPLES, values.shape[1]))
    for mean in means:  # one at a time: all at once are gigabytes for the 12,032 questions of MMLU-Pro
        mean[:] = np.bincount(rng.integers(questions, size=questions), minlength=questions) @ values / questions
    return np.percentile(means, (2.5, 97.5), axis=0)


def _sign_flip(gap: np.ndarray, rng: np.random.Generator) -> float:
    """Two-sided p of a sum of differences, none of them zero.

    Sums that differ by rounding are ties: scipy's permutation_test measures that by the sum itself, which may be 0.
    """
    least = abs(gap.sum()) - 1e-12 * np.abs(gap).sum()
    if len(gap) <= EXACT:
        flips = np.arange(2 ** len(gap))[:, None] >> np.arange(len(gap)) & 1  # (2^Q, Q)
        return float((np.abs((1 - 2 * flips) @ gap) >= least).mean())
    sums = np.array([(1 - 2 * rng.integers(2, size=len(gap))) @ gap for _ in range(RESAMPLES)])
    return float((1 + (np.abs(sums) >= least).sum()) / (1 + RESAMPLES))


def _rows(name: str, rows: Iterable[Iterable]) -> list[list]:
    """A list for each question, none empty."""
    lists = []
    for q, row in enumerate(rows):
        if isinstance(row, str | bytes) or not isinstance(row, Iterable) or not (row := list(row)):
            raise ValueError(f"{name} of question {q} is {row!r}: give a list of its samples, at least one")
        lists.append(row)
    if not lists:
        raise ValueError(f"{name} is empty: give at least one question")
    return lists


def _zero_one(q: int, row: list) -> np.ndarray:
    values = np.asarray(row)
    if values.ndim != 1 or not ((values == 0) | (values == 1)).all():
        raise ValueError(f"correct of question {q} is {row[:8]}: give 0 or 1 for each sample")
    return values.astype(float)


def _counts(correct: Iterable[Iterable[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Correct samples and all samples of each question, (Q,) integers."""
    rows = [_zero_one(q, row) for q, row in enumerate(_rows("correct", correct))]
    return np.array([int(row.sum()) for row in rows]), np.array([len(row) for row in rows])


def _numbers(name: str, values: ArrayLike) -> np.ndarray:
    numbers = np.array(values, float)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} has {numbers[~np.isfinite(numbers)][0]}: give finite numbers only")
    return numbers
