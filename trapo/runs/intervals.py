"""How surely a mean over questions is known: of one run or of several seeds, of shares or of any rewards.

The unit is the question: samples of one question are alike, and 4 samples of 100 questions are no 400 draws. Seeds are
a second level: runs that differ in their seed answer the same questions, so their means are no independent draws
either. With x_sq the mean reward of seed s on question q, S seeds and Q questions, the variance of the grand mean is
that of a crossed design with two random factors (Cornfield and Tukey 1956; Brennan 2001, "Generalizability Theory",
chapter 3):

    var(mean) = v_q / Q + max(0, v_s - MS_e / Q) / S

v_q is the variance over questions of their means over seeds, v_s that over seeds of their means over questions, MS_e
the mean square of what is left of x when both are taken out. Its degrees of freedom are Satterthwaite's (1946). With
one seed this is the error clustered by question (Miller 2024, arXiv 2411.00640).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% interval.

    Attributes:
        value: the mean.
        low, high: the interval's ends; NaN where the data cannot give one (one question, rewards that are all equal).
        share: whether the rewards were 0 or 1: an accuracy, by Wilson; else a mean reward, by Student's t.
        questions: how many there are; 0 where the record does not say.
    """

    value: float
    low: float
    high: float
    share: bool
    questions: int

    @property
    def name(self) -> str:
        """What the number is: "accuracy" or "mean reward"."""
        return "accuracy" if self.share else "mean reward"

    def __str__(self) -> str:
        ends = "" if math.isnan(self.low) else f" ({self.low:.3f} to {self.high:.3f})"
        return f"{self.value:.3f}{ends}"


def wilson(share: float, n: float, z: float = Z) -> tuple[float, float]:
    """Wilson's interval for a proportion (Wilson 1927): never empty, also at 0 of n.

    Args:
        share: of n that were successes, from 0 to 1.
        n: how many; a fraction where it is an effective sample size.
        z: the quantile of its level: 1.96 for 95% where the variance is known, Student's where it is estimated.
    """
    if not (0 <= share <= 1 and n > 0):
        raise ValueError(f"Wilson's interval is of a share from 0 to 1 of at least one draw, not of {share} of {n}")
    scale = 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z / scale * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return (0.0 if share == 0 else middle - half), (1.0 if share == 1 else middle + half)


def mean_interval(values: ArrayLike) -> tuple[float, float, float]:
    """Mean of independent values and its 95% interval by Student's t; NaN ends for a single one, NaN is left out."""
    values = np.asarray([value for value in np.ravel(values) if not np.isnan(value)], float)
    if not len(values):
        return (math.nan,) * 3
    mean = float(values.mean())
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = _t_quantile(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def effective_questions(p: np.ndarray, n: np.ndarray) -> float:
    """Independent draws that know a share as surely as these questions do, one seed or several, seeds' spread left out.

    It is Q / rho with rho = v_q / (m (1 - m)), 1 where a question's samples never differ. As in Agresti and Coull
    (1998), mean m and v_q count invented questions, one always solved and one never: that some questions agree does not
    prove that others would. Without them coverage fell to 65% (30 questions, 32 samples, 3% of questions always solved
    and the rest almost never); with them it stays near Wilson's own, 93% or more, above 95% where questions are alike.
    With one sample of each, at 0% and at 100%, rho is 1. It is at most what independent samples would give.

    Args:
        p: (S, Q) share of correct samples.
        n: (S, Q) samples.
    """
    padded = np.append(p.mean(0), (0.0, 1.0))
    middle = padded.mean()
    return float(min(p.shape[1] * middle * (1 - middle) / padded.var(), p.size**2 / (1 / n).sum()))


def over_questions(x: ArrayLike, n: ArrayLike, share: bool) -> Interval:
    """The mean of rewards with its 95% interval; the formula is the module's.

    Shares: Wilson's interval at the effective size m (1 - m) / var(mean), with the normal quantile for one seed and
    Student's for several that differ. Other rewards: Student's t.

    Args:
        x: (S, Q) mean reward of each seed on each question.
        n: (S, Q), or one number: how many samples each is the mean of.
        share: whether rewards are 0 or 1.
    """
    x = np.asarray(x, float)
    n = np.broadcast_to(np.asarray(n, float), x.shape)
    if x.ndim != 2 or not x.size or not np.isfinite(x).all():
        raise ValueError(f"rewards by seed and question have shape {x.shape}: give finite ones, (seeds, questions)")
    questions = x.shape[1]
    value = float(x.mean())
    spread, df = _seed_part(x)
    if share:
        independent = effective_questions(x, n)
        if spread == 0:
            return Interval(value, *wilson(value, independent), True, questions)
        variance = value * (1 - value) / independent + spread
        size = value * (1 - value) / variance if 0 < value < 1 else independent
        return Interval(value, *wilson(value, size, _t_quantile(df)), True, questions)
    if np.ptp(x.mean(0)) < 1e-12:
        return Interval(value, math.nan, math.nan, False, questions)
    half = _t_quantile(df) * math.sqrt(x.mean(0).var(ddof=1) / questions + spread)
    return Interval(value, value - half, value + half, False, questions)


def held_out(records: Sequence[Mapping[str, Any]], samples_each: int = 1) -> Interval:
    """What evaluations of one held-out set say together: lines of evals.jsonl, one per seed.

    Lines of older versions have no rewards by question. There a share is taken to be of `samples` / `samples_each`
    questions whose samples never differ, the widest that it can be, and seeds by Student's t if that is wider; a mean
    reward has only its seeds.

    Args:
        records: `reward` and, where known, `by_question` (name -> mean reward), `samples`, `binary`.
        samples_each: samples of each question, for lines that do not say.
    """
    tables = [record.get("by_question") for record in records]
    if all(tables):
        return _of_tables(tables, records)
    values = [math.nan if record.get("reward") is None else float(record["reward"]) for record in records]
    share = all(map(_is_share, records, values))
    mean, low, high = mean_interval(values)
    if not share:
        return Interval(mean, low, high, False, 0)
    questions = [max(record.get("samples", 0) / samples_each, 1) for record in records]
    ends = [wilson(mean, min(questions))]
    if len(values) > 1:
        ends.append((max(low, 0.0), min(high, 1.0)))
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    return Interval(mean, low, high, True, round(min(questions)))


def samples_each(config: Mapping[str, Any]) -> int:
    """How many samples of each held-out question a run with this configuration draws."""
    return config.get("num_generations_eval") or config.get("num_generations") or 1


def _is_share(record: Mapping[str, Any], value: float) -> bool:
    """Whether a value is a share of successes; by its range where the record does not say."""
    known = record.get("binary")
    return 0 <= value <= 1 if known is None else known


def _of_tables(tables: Sequence[Mapping[str, float]], records: Sequence[Mapping[str, Any]]) -> Interval:
    """As `held_out`, of rewards by question: crossed where all seeds met the same ones, else seeds are the unit."""
    share = all(
        _is_share(record, value) for record, table in zip(records, tables, strict=True) for value in table.values()
    )
    names = sorted(tables[0])
    if any(sorted(table) != names for table in tables):
        mean, low, high = mean_interval([np.mean(list(table.values())) for table in tables])
        ends = (max(low, 0.0), min(high, 1.0)) if share else (low, high)
        return Interval(mean, *ends, share, min(map(len, tables)))
    each = [[record.get("samples", len(names)) / len(names)] * len(names) for record in records]
    return over_questions([[table[name] for name in names] for table in tables], each, share)


def _seed_part(x: np.ndarray) -> tuple[float, float]:
    """The seeds' part of var(mean), 0 where they differ no more than their samples do; Satterthwaite's df of all."""
    seeds, questions = x.shape
    if seeds < 2 or questions < 2:
        return 0.0, questions - 1
    of_seeds, of_questions = x.mean(1), x.mean(0)
    rest = x - of_seeds[:, None] - of_questions + x.mean()
    residual = float((rest**2).sum()) / ((seeds - 1) * (questions - 1)) / (seeds * questions)
    by_seed, by_question = float(of_seeds.var(ddof=1)) / seeds, float(of_questions.var(ddof=1)) / questions
    if by_seed - residual <= 1e-15:
        return 0.0, questions - 1
    parts = ((by_question, questions - 1), (by_seed, seeds - 1), (residual, (seeds - 1) * (questions - 1)))
    total = by_question + by_seed - residual
    return by_seed - residual, total**2 / sum(part**2 / df for part, df in parts)


def _t_quantile(df: float) -> float:
    from scipy.stats import t  # a second to import, and not needed for shares of one run

    return float(t.ppf((1 + LEVEL) / 2, df)) if df > 0 else math.nan
