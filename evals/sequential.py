r"""How many samples are enough: a confidence sequence for a benchmark's accuracy, which may be looked at at any time.

The accuracy meant is that on these questions, theta = mean over questions q of p_q, the chance of a right sample; what
other questions would give is another matter, which no number of samples settles (`stats.mean_with_errors`). Samples
come in rounds, one of each question. Howard, Ramdas, McAuliffe and Sekhon 2021, "Time-uniform, nonparametric,
nonasymptotic confidence sequences" (Annals of Statistics 49, arXiv 1810.08240), theorem 4: let X_i in [0, 1] have
conditional means mu_i, let hat X_i in [0, 1] be predicted from what came before, and

    S = sum_i (X_i - mu_i),   V = sum_i (X_i - hat X_i)^2,   psi(l) = -log(1 - l) - l.

For every l in [0, 1), exp(l S - psi(l) V) is a supermartingale that starts at 1, and so is a mixture of them; it passes
2 / alpha with a chance of at most alpha / 2, ever (Ville). So with a chance of 1 - alpha the mean of the X_i is within
u(V) / i of that of the mu_i after every i at once, whatever rule says when to stop: u(V) is the s at which the mixture
is 2 / alpha. After whole rounds the mean of the mu_i is theta. A question's sample is predicted from its own earlier
ones: V counts what samples of one question differ by, not what questions differ by.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

ALPHA = 0.05
FIRST = 4  # rounds before the first look
RATIO = 1.5  # between neighbours of the mixture's l


@dataclass(frozen=True)
class Look:
    """What so many rounds say; shares, not percent.

    Attributes:
        samples: rounds, samples of each question.
        value: mean over questions of the share of right samples.
        half_width: of the interval value - half_width to value + half_width, valid whenever one stops.
    """

    samples: int
    value: float
    half_width: float


def look(correct: Iterable[Iterable[int]], wanted: float, alpha: float = ALPHA) -> Look:
    """The interval after whole rounds.

    Args:
        correct: (Q, n), for each question its samples in the order of their index, 0 or 1.
        wanted: the half-width to come to, which the mixture is tuned to.
        alpha: the chance of missing theta, ever.
    """
    hits = np.asarray(correct, float)  # (Q, n)
    if hits.ndim != 2 or not hits.size or not np.isin(hits, (0, 1)).all():
        raise ValueError(f"correct has shape {hits.shape}: give as many samples, 0 or 1, of each question")
    before = np.cumsum(hits, 1) - hits
    predicted = (before + 0.5) / (np.arange(hits.shape[1]) + 1)
    spread = float(((hits - predicted) ** 2).sum())
    return Look(hits.shape[1], float(hits.mean()), boundary(spread, wanted, alpha) / hits.size)


def boundary(spread: float, wanted: float, alpha: float = ALPHA) -> float:
    """u(V): what |S| stays below with a chance of 1 - alpha.

    The mixture's l are where they serve best: an interval of half-width h is reached with a mean squared surprise v =
    V / i at l = h / v, and v is at most 1/4.
    """
    lowest = min(4 * wanted, 0.9)
    count = 1 + math.ceil(math.log(0.9 / lowest) / math.log(RATIO))
    rates = np.geomspace(lowest, 0.9, count)
    costs = (-np.log1p(-rates) - rates) * spread + math.log(2 * count / alpha)
    low, high = 0.0, float((costs / rates).min())  # at this the best of them alone is enough

    def reached(s: float) -> bool:
        return np.logaddexp.reduce(rates * s - costs) >= 0

    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def next_samples(found: Look, wanted: float, most: int) -> int:
    """How many rounds to have at the next look; what there is where it is enough, or where there may be no more."""
    if found.half_width <= wanted or found.samples >= most:
        return found.samples
    need = math.ceil(found.samples * (found.half_width / wanted) ** 2)
    return min(max(need, found.samples + 1), 2 * found.samples, most)
