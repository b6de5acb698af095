"""The mixture on tokens, where alpha is a probability: shared against tabular logits, against the exact optimum.

The line is cut into tokens one unit apart; a token's probability, the expert's or the policy's, is the density at its
place, normalised. The policy has either few parameters for all tokens (`shared`: the mixture's) or one logit per token
(`tabular`). Both start at the same distribution and follow TrSFT's expected gradient: what they reach differs from the
exact optimum of `trapo_toy.proposition` by parametrisation and start alone, not by the loss and not by samples.
"""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from trapo.method.expert import ExpertTokens, expert_loss, make_weight
from trapo_toy.gmm import Mixture, log_density, one_thread, starts, unit

KINDS = ("shared", "tabular")
LEARNING_RATES = {"sgd": 0.5, "adam": 0.05}
ROOM = 5  # units of tokens beyond the expert's outer means


def places(expert: Mixture) -> np.ndarray:
    """Where the tokens lie, (C,): one unit apart, to five units beyond the expert's outer means."""
    low, high = (round(end(expert.means) / unit(expert)) for end in (min, max))
    return np.arange(low - ROOM, high + ROOM + 1) * unit(expert)


def token_logp(theta: Tensor, expert: Mixture) -> Tensor:
    """log p(c) of mixtures (R, 3, K) as from `trapo_toy.gmm.parameters` on the tokens, (R, C)."""
    return torch.log_softmax(log_density(theta, torch.from_numpy(places(expert))[None], expert), -1)


@one_thread()
def train(
    method: str,
    kind: str,
    optimizer: str,
    expert: Mixture,
    policy: Mixture,
    alpha: float,
    seeds: Sequence[int],
    *,
    marks: Sequence[int],
    jitter: float = 0.15,
) -> np.ndarray:
    """Train to the last of `marks` on the expected loss, sum_c pE(c) (- w(p(c)).detach() log p(c)).

    Args:
        method: a weight of `trapo.method.expert`, "sft" or "trsft".
        kind: one of `KINDS`.
        optimizer: "sgd" or "adam", with the learning rate of `LEARNING_RATES`.
        alpha: a probability in (0, 1].
        seeds: (S,) of the starts' jitter, as in the mixture.

    Returns:
        (len(marks), S, C): the policy's distributions.
    """
    theta = starts(policy, expert, jitter, [np.random.default_rng(seed) for seed in seeds])
    if kind == "tabular":
        theta = token_logp(theta, expert)
    theta.requires_grad_()
    share = expert_tokens(expert)
    weight = make_weight(method, SimpleNamespace(alpha=alpha))
    mask = torch.ones(len(seeds), len(share), dtype=torch.bool)
    make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    step_of = make([theta], lr=LEARNING_RATES[optimizer], foreach=False)
    kept = {}
    for step in range(marks[-1] + 1):
        logp = torch.log_softmax(theta, -1) if kind == "tabular" else token_logp(theta, expert)
        if step in marks:
            kept[step] = logp.detach().exp().numpy()
        if step < marks[-1]:
            step_of.zero_grad()
            (expert_loss(ExpertTokens(logp, mask), weight)[0] @ share).sum().backward()
            step_of.step()
    return np.stack([kept[step] for step in marks])


def expert_tokens(expert: Mixture) -> Tensor:
    """pE(c), (C,)."""
    return torch.softmax(torch.from_numpy(expert.log_density(places(expert))), 0)


def far_mode(expert: Mixture, policy: Mixture) -> np.ndarray:
    """Which tokens, (C,), belong to the component of the expert that is farthest from the policy's components."""
    gaps = np.abs(np.subtract.outer(expert.means, policy.means)).min(1)
    nearest = np.abs(np.subtract.outer(places(expert), expert.means)).argmin(1)
    return nearest == gaps.argmax()
