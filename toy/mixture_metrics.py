"""How far a policy is from a Gaussian-mixture expert: void mass, modes covered, forward and reverse KL.

Void and modes are normal distribution functions at the ends of the expert's region. A divergence is an expectation
under a mixture, so it is summed component by component on a grid of that component's own standard deviations: however
wide or narrow a policy has become, the grid fits it. `Ruler.measure` states the error: the larger change of the two
divergences when every second point is left out.
"""

import numpy as np
import torch
from torch import Tensor

from trapo_toy.gmm import Mixture, grid, log_density, one_thread, parameters, unit

POINTS = 40  # grid points to a standard deviation
REACH = 9  # standard deviations; beyond lies 2e-19 of a component's mass
CREDIBLE = 0.99  # share of the expert's mass in its highest-density region
METRICS = ("void", "modes", "forward_kl", "reverse_kl")


class Ruler:
    """Measures policies against one expert.

    Attributes:
        peak: the expert's largest density, in 1 / length.
        regions: (M, 2) where its M modes lie: the 99% highest-density region, cut where the density dips.
        mass: (M,) its mass on each.
    """

    def __init__(self, expert: Mixture, points: int = POINTS):
        self.expert = expert
        self.peak = peak(expert)
        self.regions = regions(expert)
        self.mass = self.masses(expert)
        self._z = torch.linspace(-REACH, REACH, 2 * REACH * points + 1, dtype=torch.float64)
        self._exact = torch.tensor(parameters(expert, expert))[None]
        self._spots, self._shares = self._nodes(self._exact)
        self._log_expert = log_density(self._exact, self._spots, expert)

    def masses(self, policy: Mixture) -> np.ndarray:
        """A policy's mass on each of the expert's modes, (M,)."""
        return self._masses(torch.tensor(parameters(policy, self.expert))[None])[0]

    @one_thread()
    def measure(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """The `METRICS` of policies, and the grid's error.

        Args:
            theta: (..., 3, K) parameters as from `trapo_toy.gmm.train`.

        Returns:
            arrays (...): void, the mass outside the region; modes, the sum over the M modes of min(1, mass / expert's
            mass), which says little without the void; forward_kl, KL(pE || p), and reverse_kl, KL(p || pE), in nats;
            error, see the top of this file, relative where a divergence is above 1.
        """
        rows = torch.from_numpy(theta).flatten(0, -3)
        parts = [self._measure(part) for part in rows.split(64)]  # a bounded piece of memory each
        return {name: np.concatenate([part[name] for part in parts]).reshape(theta.shape[:-2]) for name in parts[0]}

    def _measure(self, theta: Tensor) -> dict[str, np.ndarray]:
        masses = self._masses(theta)
        spots, shares = self._nodes(theta)
        ratio = log_density(theta, spots, self.expert) - log_density(self._exact, spots, self.expert)
        terms = {
            "forward_kl": self._shares * (self._log_expert - log_density(theta, self._spots, self.expert)),
            "reverse_kl": shares * ratio,
        }
        found = {name: term.sum(1) for name, term in terms.items()}
        # Points per component are odd in number, so every second one runs through all components alike.
        coarse = {name: 2 * term.unflatten(1, (-1, len(self._z)))[..., ::2].sum((1, 2)) for name, term in terms.items()}
        errors = [(found[name] - coarse[name]).abs() / found[name].clamp(min=1) for name in terms]
        found = {"error": torch.maximum(*errors), **found}
        exactly = {"void": np.maximum(0, 1 - masses.sum(1)), "modes": np.minimum(1, masses / self.mass).sum(1)}
        return exactly | {name: values.numpy() for name, values in found.items()}

    def _nodes(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Points (R, K N), component after component, and the mass each stands for."""
        logits, means, log_sds = theta[..., None].unbind(1)  # (R, K, 1)
        spots = (means + log_sds.exp() * self._z) * unit(self.expert)
        normal = torch.exp(-(self._z**2) / 2) / np.sqrt(2 * np.pi) * (self._z[1] - self._z[0])
        return spots.flatten(1), (torch.softmax(logits, 1) * normal).flatten(1)

    def _masses(self, theta: Tensor) -> np.ndarray:
        """The policies' mass on each of the expert's modes, (R, M)."""
        logits, means, log_sds = theta[:, :, None, None].unbind(1)  # (R, 1, 1, K)
        z = (torch.from_numpy(self.regions)[..., None] / unit(self.expert) - means) * (-log_sds).exp()  # (R, M, 2, K)
        return (torch.softmax(logits, -1)[:, 0] * torch.special.ndtr(z).diff(dim=2)[:, :, 0]).sum(-1).numpy()


def peak(expert: Mixture) -> float:
    """The largest density, in 1 / length; at most 0.01% too small."""
    return float(np.exp(expert.log_density(grid(expert, points=100))).max())


def regions(expert: Mixture) -> np.ndarray:
    """Ends (M, 2) of the pieces of the 99% highest-density region, cut at the density's minima inside.

    The region is where the density is above a level. Level and ends come from a grid of 500 points to the smallest
    standard deviation, the ends by linear interpolation; the region's mass is right within 1e-4.
    """
    x = grid(expert, points=500)
    density = np.exp(expert.log_density(x))
    falling = np.sort(density)[::-1]
    level = falling[np.searchsorted(np.cumsum(falling) * (x[1] - x[0]), CREDIBLE)]
    over = density >= level
    ends = np.flatnonzero(over[1:] != over[:-1])
    ends = x[ends] + (level - density[ends]) / (density[ends + 1] - density[ends]) * (x[1] - x[0])
    inside = density[1:-1]
    dips = np.flatnonzero(over[1:-1] & (inside < density[:-2]) & (inside <= density[2:])) + 1
    return np.sort(np.concatenate([ends, np.repeat(x[dips], 2)])).reshape(-1, 2)


def floor(expert: Mixture, policy: Mixture) -> float | None:
    """The least reverse KL of a policy that stays on the modes it starts on: -log of the expert's mass there, in nats.

    A mode counts as started on where the policy has at least half the expert's mass; its weight is that of the
    components with their mean there. None where that is all or none.
    """
    ruler = Ruler(expert)
    on = ruler.masses(policy) >= ruler.mass / 2
    mode = np.abs(ruler.regions.mean(1) - np.array(expert.means)[:, None]).argmin(1)
    kept = float(np.array(expert.weights)[on[mode]].sum())
    return -float(np.log(kept)) if 0 < kept < 1 - 1e-9 else None
