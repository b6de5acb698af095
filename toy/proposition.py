"""Proposition 1 of TRAPO (arXiv 2512.17636), put right: what TrSFT converges to for one next-token distribution.

The gradient of TrSFT on tokens c ~ pE, in expectation, is the gradient of the concave objective

    F(p) = sum_c pE(c) f(p(c)),      f(p) = log p where p >= alpha,  p / alpha + log alpha - 1 below,

and g(c) = dF/dp(c) = pE(c) / max(p(c), alpha). On the simplex, p is a maximiser exactly where a number mu has

    g(c) <= mu for every c, with equality where p(c) > 0.

So the maximisers are  p(c) = pE(c) / mu where pE(c) > alpha mu,  0 where pE(c) < alpha mu,  and on the tied tokens,
T = {c: pE(c) = alpha mu}, any values in [0, alpha] that use up what is left, 1 - G(mu); with
G(mu) = sum of pE(c) / mu over pE(c) > alpha mu. `docs/proposition.md` has the proof and says what follows.

Everything here is numpy, for one vocabulary C of tokens; `alpha` is the paper's alpha, in (0, 1].
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

TOLERANCE = 1e-13  # relative: tokens this near to alpha * mu count as tied with it


@dataclass(frozen=True)
class Optimum:
    """The maximisers of F.

    Attributes:
        mu: the multiplier, unique, in (0, 1].
        p: (C,) one maximiser; the leftover mass is spread evenly over the tied tokens.
        tied: (|T|,) indices of the tokens with pE(c) = alpha mu, often none.
        leftover: 1 - G(mu), the mass on the tied tokens.
        alpha: the alpha it was solved for.
    """

    mu: float
    p: np.ndarray
    tied: np.ndarray
    leftover: float
    alpha: float

    @property
    def unique(self) -> bool:
        """Whether `p` is the only maximiser: nothing to share out, or no choice in sharing it."""
        spare = self.alpha * len(self.tied) - self.leftover
        return len(self.tied) < 2 or min(self.leftover, spare) <= TOLERANCE

    def distance(self, p: np.ndarray) -> np.ndarray:
        """Total variation from p to the nearest maximiser, in [0, 1].

        Args:
            p: (..., C) distributions.

        Returns:
            (...): off the tied tokens all maximisers agree; on them the nearest clips p at alpha and moves the rest.
        """
        tied = np.zeros(len(self.p), dtype=bool)
        tied[self.tied] = True
        clipped = np.minimum(p[..., tied], self.alpha)
        l1 = np.abs(p - self.p)[..., ~tied].sum(-1) + (p[..., tied] - clipped).sum(-1)
        return (l1 + np.abs(clipped.sum(-1) - self.leftover)) / 2


def solve(expert: ArrayLike, alpha: float) -> Optimum:
    """The exact maximisers of F, in O(|C| log |C|): one sort.

    With pE sorted downwards, s_1 >= s_2 >= ..., and S_k = s_1 + ... + s_k, let k be the largest with s_k >= alpha S_k
    (a prefix: s_k falls, S_k grows). If s_{k+1} > alpha S_k, then G jumps across 1 and mu = s_{k+1} / alpha; else
    mu = S_k. Tokens within a relative 1e-13 of alpha mu count as tied, so that rounding cannot break a tie.

    Args:
        expert: (C,) pE, non-negative, summing to 1 (within 1e-6; it is rescaled).
        alpha: in (0, 1].

    Raises:
        ValueError: an expert that is no distribution, or an alpha outside (0, 1].
    """
    expert, alpha = check(expert, alpha)
    s = np.sort(expert)[::-1]
    k = int(np.count_nonzero(s >= alpha * np.cumsum(s)))
    total = s[:k].sum()  # pairwise, so more exact than the running sum
    mu = s[k] / alpha if k < len(s) and s[k] > alpha * total else total
    above = expert > alpha * mu * (1 + TOLERANCE)
    tied = np.flatnonzero(~above & (expert >= alpha * mu * (1 - TOLERANCE)))
    p = np.where(above, expert / mu, 0.0)
    leftover = 0.0
    if len(tied):
        leftover = float(np.clip(1 - p.sum(), 0.0, alpha * len(tied)))
        p[tied] = leftover / len(tied)
    return Optimum(float(mu), p, tied, leftover, alpha)


def objective(p: np.ndarray, expert: np.ndarray, alpha: float) -> np.ndarray:
    """F(p) of p (..., C), in nats; alpha = 0 is SFT, minus the cross-entropy."""
    linear = np.divide(p, alpha, out=np.zeros_like(p), where=alpha > 0) + np.log(alpha or 1.0) - 1
    with np.errstate(divide="ignore"):
        f = np.where(p >= alpha, np.log(p), linear)
    return np.where(expert > 0, expert * np.where(expert > 0, f, 0.0), 0.0).sum(-1)


def gradient(p: np.ndarray, expert: np.ndarray, alpha: float) -> np.ndarray:
    """g(c) = dF/dp(c) = pE(c) / max(p(c), alpha), (..., C); alpha = 0 is SFT."""
    return expert / np.maximum(p, alpha)


def certificate(p: np.ndarray, expert: np.ndarray, alpha: float) -> float:
    """max_c g(c) - p . g: no distribution has an F larger by more than this, since F is concave; 0 at a maximiser."""
    g = gradient(p, expert, alpha)
    return float(g.max() - p @ g)


def kept_mass(mu: ArrayLike, expert: ArrayLike, alpha: float) -> np.ndarray:
    """G(mu), for mu of any shape; it falls, with a jump down wherever alpha mu passes a token's pE."""
    expert, alpha = check(expert, alpha)
    mu = np.asarray(mu, dtype=float)
    rising = np.sort(expert)
    sums = np.concatenate([[0.0], np.cumsum(rising[::-1])])
    return sums[len(rising) - np.searchsorted(rising, alpha * mu * (1 + TOLERANCE), side="right")] / mu


def paper_lambda(expert: ArrayLike, alpha: float) -> float | None:
    """The paper's multiplier: lambda = sum of pE(c) over pE(c) > alpha lambda; None where no lambda solves that.

    The paper has lambda in (0, 1). Here lambda = 1 is taken too: it is the solution where every pE(c) > alpha. There
    is none where G jumps across 1. Whatever solves the equation is the sum of the largest k probabilities for some k,
    so these sums are tried.
    """
    expert, alpha = check(expert, alpha)
    rising = np.sort(expert)
    sums = np.cumsum(rising[::-1])
    kept = len(rising) - np.searchsorted(rising, alpha * sums * (1 + TOLERANCE), side="right")
    solves = np.flatnonzero((kept > 0) & (np.abs(sums[kept - 1] - sums) <= TOLERANCE * sums))
    return float(sums[solves[0]]) if len(solves) else None


def climb(
    expert: np.ndarray,
    alpha: float,
    logits: np.ndarray,
    lr: float,
    optimizer: str = "sgd",
    batch: int | None = None,
    rng: np.random.Generator | None = None,
) -> Iterator[np.ndarray]:
    """TrSFT's training of tabular logits, step after step, without end: each item is p = softmax(logits), (R, C).

    A step follows the gradient of F, sum_c pE(c) w(p(c)) (e_c - p) with w(p) = p / max(p, alpha): in expectation, or
    from a batch of tokens drawn from the expert.

    Args:
        expert: (C,) pE.
        alpha: in (0, 1], or 0 for SFT.
        logits: (R, C) where R runs start; left as they are.
        lr: learning rate.
        optimizer: "sgd", or "adam" with its usual constants (.9, .999, 1e-8).
        batch: tokens per step, drawn with `rng`; None for the expected gradient.
        rng: needed with `batch`.
    """
    if optimizer not in ("sgd", "adam"):
        raise ValueError(f"optimizer {optimizer!r} is unknown; choose sgd or adam")
    logits = np.array(logits, dtype=float)
    first, second, step = np.zeros_like(logits), np.zeros_like(logits), 0
    while True:
        logits -= logits.max(-1, keepdims=True)
        p = np.exp(logits)
        p /= p.sum(-1, keepdims=True)
        yield p
        drawn = expert if batch is None else rng.multinomial(batch, expert, size=len(logits)) / batch
        pull = p * gradient(p, drawn, alpha)  # (R, C): pE(c) w(p(c))
        slope = pull - p * pull.sum(-1, keepdims=True)
        if optimizer == "adam":
            step += 1
            first = 0.9 * first + 0.1 * slope
            second = 0.999 * second + 0.001 * slope**2
            slope = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        logits += lr * slope


def rare_start(expert: np.ndarray, alpha: float, token: int, p0: ArrayLike) -> np.ndarray:
    """Logits (R, C) at which `token` has probability p0 (R,) and the others are at the optimum without it.

    The others get there first: from anywhere else they take about 1 / lr steps, the rare token alpha / (lr p0).
    """
    rest = np.delete(expert, token)
    others = np.maximum(solve(rest / rest.sum(), alpha).p, 1e-12)  # log 0 would stay 0 for ever
    p0 = np.asarray(p0, dtype=float)[:, None]
    return np.log(np.insert((1 - p0) * (others / others.sum()), [token], p0, axis=1))


def escape_time(expert: np.ndarray, alpha: float, token: int, p0: ArrayLike, lr: float) -> np.ndarray:
    """Gradient steps on tabular logits until a rare token's probability reaches alpha, from p0 << alpha.

    Let the n others that the optimum without the token keeps sit there, all with the same g. The token's logit moves
    by lr p (pE / alpha - g) a step; the others, held at equilibrium among themselves, all move alike, and the logits'
    sum stands still, so each moves by -1/n of that. Hence d(1/p)/dt = -(1 + 1/n) lr (pE / alpha - g), and

        steps = alpha (1 / p0 - 1 / alpha) / ((1 + 1/n) lr (pE - alpha g)).

    SFT has pE in place of p pE / alpha, so there log p grows evenly: a number of steps like log(alpha / p0).

    Returns:
        the shape of p0; infinite where pE <= alpha g: the optimum has no place for the token.
    """
    expert, alpha = check(expert, alpha)
    rest = np.delete(expert, token)
    others = solve(rest / rest.sum(), alpha)
    pull = expert[token] - alpha * others.mu * rest.sum()
    if pull <= 0:
        return np.full(np.shape(p0), np.inf)
    p0 = np.asarray(p0, dtype=float)
    # A tied token may hold so little that it is no faster than the rare one; all other kept tokens hold alpha or more.
    n = (others.p >= np.minimum(alpha, 10 * p0[..., None])).sum(-1)
    return alpha * np.maximum(1 / p0 - 1 / alpha, 0.0) / ((1 + 1 / n) * lr * pull)


def check(expert: ArrayLike, alpha: float) -> tuple[np.ndarray, float]:
    """The expert as a distribution that sums to 1 to the last bit or so, and alpha; ValueError, one line, if not."""
    expert, alpha = np.asarray(expert, dtype=float), float(alpha)
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha is {alpha:g}: on tokens it is a probability in (0, 1]")
    if expert.ndim != 1 or not len(expert):
        raise ValueError(f"the expert has shape {expert.shape}: give one probability per token, shape (C,)")
    if not (np.isfinite(expert).all() and (expert >= 0).all()):
        raise ValueError("the expert's probabilities must be finite and not negative")
    if not abs(expert.sum() - 1) <= 1e-6:
        raise ValueError(f"the expert's probabilities sum to {expert.sum():.6g}, not to 1")
    return expert / expert.sum(), alpha
