"""Imitation of a Gaussian mixture in one dimension: who leaves the void between the modes alone, who finds every mode.

An expert's token becomes an expert's sample x, its probability the policy's density p(x):

    loss = - w(p).detach() * log p(x),      x ~ expert

with the weights w of `trapo.method.expert`, the trainer's own. The reverse-KL oracle minimises the integral of
p log(p / pE) itself and therefore sees the expert's density, which no imitator does.

A density has the unit 1 / length, and so have `alpha` (TrSFT) and `gamma` (LUFFY) here: say them as a share of the
expert's peak. Lengths (means, jitter, learning rate of the means) count in units of the expert's smallest standard
deviation; hence x -> 10 x with alpha -> alpha / 10 is the same training.

All runs train side by side in one batch of R rows; a run's samples come from its seed alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from trapo.method.expert import ExpertTokens, expert_loss, make_weight

METHODS = ("sft", "trsft", "dft", "luffy", "reverse_kl")
BLOCK = 50  # steps whose samples are drawn at once
MOST_POINTS = 300_000  # of a grid


@dataclass(frozen=True)
class Mixture:
    """A mixture of K Gaussians: weights that sum to 1, means, standard deviations sds; K numbers each."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    sds: tuple[float, ...]

    def __post_init__(self):
        sizes = [len(self.weights), len(self.means), len(self.sds)]
        if len(set(sizes)) > 1 or not sizes[0]:
            raise ValueError("{} weights, {} means, {} sds: give one of each per component".format(*sizes))
        if not np.isfinite([*self.weights, *self.means, *self.sds]).all():
            raise ValueError("weights, means and sds must be finite numbers")
        if min(self.weights) <= 0:
            raise ValueError(f"weight {min(self.weights):g} is not positive: leave the component out")
        if abs(sum(self.weights) - 1) > 1e-5:
            raise ValueError(f"the weights sum to {sum(self.weights):.6g}: they must sum to 1")
        if min(self.sds) <= 0:
            raise ValueError(f"sd {min(self.sds):g} is not positive: a standard deviation is a length above 0")

    @classmethod
    def parse(cls, text: str) -> "Mixture":
        """ "0.5:-2:1,0.5:2:1" as weight:mean:sd per component; ValueError with the remedy."""
        components = []
        for part in text.split(","):
            try:
                weight, mean, sd = (float(number) for number in part.split(":"))
            except ValueError:
                raise ValueError(f"{part!r} is not weight:mean:sd, as in 0.5:-2:1,0.5:2:1") from None
            components.append((weight, mean, sd))
        return cls(*zip(*components, strict=True))

    def text(self, digits: int = 15) -> str:
        """What `parse` reads; 15 digits give back what was written with so many."""
        components = zip(self.weights, self.means, self.sds, strict=True)
        return ",".join(":".join(f"{number:.{digits}g}" for number in component) for component in components)

    @property
    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the whole."""
        weights, means, sds = map(np.array, (self.weights, self.means, self.sds))
        mean = weights @ means
        return float(mean), float(np.sqrt(weights @ (sds**2 + (means - mean) ** 2)))

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """log p(x), the shape of x."""
        with torch.no_grad():
            return log_density(torch.tensor(parameters(self, self))[None], torch.tensor(x)[None], self)[0].numpy()

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Independent samples of the given shape."""
        k = np.searchsorted(np.cumsum(self.weights)[:-1], rng.random(shape), side="right")
        return np.array(self.means)[k] + np.array(self.sds)[k] * rng.standard_normal(shape)


def unit(expert: Mixture) -> float:
    """The unit of length of an experiment: the expert's smallest standard deviation."""
    return min(expert.sds)


def parameters(mixture: Mixture, expert: Mixture) -> np.ndarray:
    """A mixture as a policy has it, (3, K): logits of the weights, means and log sds, lengths in the expert's unit."""
    means, sds = np.array(mixture.means), np.array(mixture.sds)
    return np.stack([np.log(mixture.weights), means / unit(expert), np.log(sds / unit(expert))])


def starts(policy: Mixture, expert: Mixture, jitter: float, generators: list[np.random.Generator]) -> Tensor:
    """The policy with jittered means, a row for each of S seeds' generators, which draws that first; (S, 3, K)."""
    theta = np.repeat(parameters(policy, expert)[None], len(generators), axis=0)
    theta[:, 1] += jitter * np.stack([generator.standard_normal(len(policy.means)) for generator in generators])
    return torch.from_numpy(theta)


def log_density(theta: Tensor, x: Tensor, expert: Mixture) -> Tensor:
    """log p(x) of R policies.

    Args:
        theta: (R, 3, K) as from `parameters`.
        x: (R or 1, N) where, in the expert's length.

    Returns:
        (R, N), in log(1 / length).
    """
    logits, means, log_sds = theta[..., None].unbind(1)  # (R, K, 1) each
    z = (x[:, None] / unit(expert) - means) * (-log_sds).exp()
    constant = torch.log_softmax(logits, 1) - log_sds - np.log(unit(expert) * np.sqrt(2 * np.pi))
    return torch.logsumexp(constant - z * z / 2, 1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread, for steps of a fraction of a millisecond: a second thread is no gain on an idle machine, and
    on a busy one its waiting makes them several times slower.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def train(
    method: str,
    expert: Mixture,
    policy: Mixture,
    alphas: Sequence[float],
    seeds: Sequence[int],
    *,
    marks: Sequence[int] = (0, 50, 100, 1000),
    batch: int = 256,
    lr: float = 0.05,
    jitter: float = 0.15,
) -> np.ndarray:
    """Train every seed at every alpha with Adam, to the last of `marks`.

    Args:
        method: one of `METHODS`.
        alphas: (A,) alpha of TrSFT and gamma of LUFFY, as densities; the others do not look at it.
        seeds: (S,) non-negative; a seed has the same start and samples under each method and alpha.
        marks: rising step numbers at which the policy is recorded; 0 is the start.
        batch: expert samples per step.
        lr: Adam's learning rate, for means in the expert's unit.
        jitter: standard deviation of the noise on each mean of the start, in the expert's unit.

    Returns:
        (len(marks), A, S, 3, K): parameters as from `parameters`.
    """
    generators = [np.random.default_rng(seed) for seed in seeds]  # one each: no seed notices the others
    theta = starts(policy, expert, jitter, generators).repeat(len(alphas), 1, 1).requires_grad_()  # (R, 3, K)
    threshold = torch.tensor(np.repeat(np.array(alphas, dtype=float), len(seeds)))[:, None]  # (R, 1)
    if method == "reverse_kl":
        loss_of = _reverse_kl(expert, policy)
        samples: Iterator[np.ndarray | None] = repeat(None)
    else:
        loss_of = _imitation(method, expert, threshold, batch)
        samples = _samples(expert, generators, batch, marks[-1])
    optimizer = torch.optim.Adam([theta], lr=lr, foreach=False)
    kept = {}
    for step in range(marks[-1] + 1):
        if step in marks:
            kept[step] = theta.detach().numpy().copy()
        if step < marks[-1]:
            x = next(samples)
            optimizer.zero_grad()
            loss_of(theta, x).sum().backward()
            optimizer.step()
    return np.stack([kept[step] for step in marks]).reshape(len(marks), len(alphas), len(seeds), *theta.shape[1:])


def _imitation(method: str, expert: Mixture, threshold: Tensor, batch: int):
    """theta (R, 3, K), x (S, B) -> loss per run (R,); a run is a row of `ExpertTokens`, a sample one of its tokens."""
    weight = make_weight(method, SimpleNamespace(alpha=threshold, gamma=threshold))
    ones = torch.ones(len(threshold), batch, dtype=torch.float64)

    def loss_of(theta: Tensor, x: np.ndarray) -> Tensor:
        x = torch.from_numpy(x).repeat(len(theta) // len(x), 1)
        tokens = ExpertTokens(logp=log_density(theta, x, expert), mask=ones, advantage=ones)
        return expert_loss(tokens, weight)[0].mean(1)

    return loss_of


def _reverse_kl(expert: Mixture, policy: Mixture):
    """theta (R, 3, K) -> integral of p log(p / pE) (R,), by the trapezoid rule."""
    x = torch.tensor(grid(expert, policy, points=5))[None]
    log_expert = torch.tensor(expert.log_density(x[0].numpy()))
    spacing = float(x[0, 1] - x[0, 0])

    def loss_of(theta: Tensor, _: None) -> Tensor:
        logp = log_density(theta, x, expert)
        return (logp.exp() * (logp - log_expert)).sum(1) * spacing

    return loss_of


def grid(*mixtures: Mixture, points: int) -> np.ndarray:
    """Evenly spaced x, `points` to the smallest standard deviation, to 9 of them beyond every component.

    ValueError where that takes more than 300,000.
    """
    means, sds = (np.array([number for m in mixtures for number in getattr(m, name)]) for name in ("means", "sds"))
    low, high = (means - 9 * sds).min(), (means + 9 * sds).max()
    if (high - low) / sds.min() * points > MOST_POINTS:
        raise ValueError(
            f"sd {sds.min():g} is too small for components that reach from {low:g} to {high:g}: no grid holds both; "
            f"choose an sd of at least {(high - low) * points / MOST_POINTS:.2g}"
        )
    return np.linspace(low, high, round((high - low) / sds.min() * points) + 1)


def _samples(expert: Mixture, generators: list[np.random.Generator], batch: int, steps: int) -> Iterator[np.ndarray]:
    """The expert's samples (S, B), step after step."""
    for _ in range(0, steps, BLOCK):
        yield from np.stack([expert.sample(generator, (BLOCK, batch)) for generator in generators], axis=1)
