"""What the policy learns from an expert's token: one line of loss, one weight function per published method.

    loss = - w(p).detach() * log p            p = policy's probability of the expert's token, temperature 1

The weight scales the gradient of plain maximum likelihood and is never differentiated. Whatever a method needs to
know about a token is in `ExpertTokens`; the trainer is blind to methods. To add one, write its function and add it to
`WEIGHTS`: its keyword-only parameters are taken from the configuration's fields of the same names.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ExpertTokens:
    """The expert's tokens of a batch of B rows of T positions, as the current policy sees them.

    Attributes:
        logp: (B, T) log-probability of the token in the row, in nats, at temperature 1.
        mask: (B, T) 1 where the token is the expert's and is to be learned from, else 0.
        entropy: (B, T) entropy of the policy's next-token distribution, in nats.
        advantage: (B, 1) or (B, T) advantage of the row within its prompt's group.
        progress: share of the training done, in [0, 1].
        mean_scale: times this, a weight under the RL loss's denominator is a mean over the step's expert tokens.
    """

    logp: Tensor
    mask: Tensor
    entropy: Tensor | None = None
    advantage: Tensor | None = None
    progress: float = 0.0
    mean_scale: Tensor | float = 1.0


Weight = Callable[[ExpertTokens], Tensor]  # -> (B, T)


def sft(tokens: ExpertTokens) -> Tensor:
    """w = 1: maximum likelihood, the forward KL to the expert."""
    return torch.ones_like(tokens.logp)


def trsft(tokens: ExpertTokens, *, alpha: float) -> Tensor:
    """w = min(1, p / alpha): trust-region SFT (TRAPO, arXiv 2512.17636).

    SFT inside the trust region p >= alpha. Outside it the gradient is grad p / alpha, so that a token the policy finds
    absurd cannot pull without bound; the gradient is that of log p above alpha, of p / alpha + const below.
    """
    return (tokens.logp.exp() / alpha).clamp(max=1.0)


def trsft_annealed(tokens: ExpertTokens, *, alpha: float, alpha_end: float) -> Tensor:
    """w = min(1, p / a), a going from `alpha` to `alpha_end` over the training, evenly in its logarithm.

    Not from a paper: trust-region SFT whose region changes. From a small to a large alpha it pulls like SFT at first,
    when the expert's tokens are foreign to the policy, and like DFT at the end.
    """
    a = alpha * (alpha_end / alpha) ** tokens.progress
    return (tokens.logp.exp() / a).clamp(max=1.0)


def dft(tokens: ExpertTokens) -> Tensor:
    """w = p: dynamic fine-tuning (arXiv 2508.05629); the gradient of p itself."""
    return tokens.logp.exp()


def luffy(tokens: ExpertTokens, *, gamma: float) -> Tensor:
    """w = gamma p / (p + gamma)^2 * advantage: LUFFY's policy shaping (arXiv 2504.14945).

    The gradient of advantage * p / (p + gamma): the off-policy ratio with the expert's probability taken as 1, shaped.
    """
    if tokens.advantage is None:
        raise ValueError("the luffy weight multiplies by the row's advantage: pass ExpertTokens(advantage=...)")
    p = tokens.logp.exp()
    return gamma * p / (p + gamma) ** 2 * tokens.advantage


def chord(tokens: ExpertTokens) -> Tensor:
    """w = p (1 - p): CHORD-phi (arXiv 2508.11408), largest where the policy is undecided."""
    p = tokens.logp.exp()
    return p * (1 - p)


def prefix_rft(tokens: ExpertTokens, *, entropy_share: float) -> Tensor:
    """w = advantage on the tokens of the row's highest entropy, else 0 (Prefix-RFT, arXiv 2507.01679).

    The policy gradient of the prefix as if the policy had drawn it, on `entropy_share` of its tokens, at least one.
    """
    if tokens.advantage is None or tokens.entropy is None:
        raise ValueError("the prefix_rft weight needs ExpertTokens(advantage=..., entropy=...)")
    entropy = tokens.entropy.masked_fill(tokens.mask == 0, -torch.inf)
    count = (tokens.mask.sum(1) * entropy_share).ceil().long()  # (B,)
    rank = entropy.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (rank < count[:, None]).to(tokens.logp.dtype) * tokens.advantage


def srft(tokens: ExpertTokens) -> Tensor:
    """w = exp(-entropy) / 2 + advantage * p: SRFT's supervised loss and its off-policy RL (arXiv 2506.19767).

    The entropy is the mean over the row's expert tokens; the RL part is the gradient of advantage * p, the ratio with
    the expert's probability taken as 1, without clipping.
    """
    return 0.5 * (-_mean_entropy(tokens)).exp() + tokens.advantage * tokens.logp.exp()


def srft_shaped(tokens: ExpertTokens, *, gamma: float, supervised_coef: float) -> Tensor:
    """w = supervised_coef * exp(-entropy) / 2 as a mean over the step's expert tokens, + luffy's: SRFT in HPT's code.

    Source: github.com/TsinghuaC3I/Unify-Post-Training @ae332f5, mix_actor.py, offline_loss_type "srft".
    """
    supervised = 0.5 * (-_mean_entropy(tokens)).exp() * tokens.mean_scale
    return supervised_coef * supervised + luffy(tokens, gamma=gamma)


def _mean_entropy(tokens: ExpertTokens) -> Tensor:
    """(B, 1) the mean entropy over each row's expert tokens, in nats."""
    if tokens.advantage is None or tokens.entropy is None:
        raise ValueError("the srft weights need ExpertTokens(advantage=..., entropy=...)")
    count = tokens.mask.sum(1, keepdim=True).clamp(min=1)
    return torch.where(tokens.mask.bool(), tokens.entropy, 0.0).sum(1, keepdim=True) / count


def none(tokens: ExpertTokens) -> Tensor:
    """w = 0: the expert only guides, nothing is imitated (as in BREAD, arXiv 2506.17211)."""
    return torch.zeros_like(tokens.logp)


WEIGHTS: dict[str, Callable[..., Tensor]] = {
    f.__name__: f for f in (sft, trsft, trsft_annealed, dft, luffy, chord, prefix_rft, srft, srft_shaped, none)
}


def weight_parameters(name: str) -> list[str]:
    """The names of the parameters of the weight `name`, e.g. ["alpha"] for "trsft"; ValueError if there is none."""
    if name not in WEIGHTS:
        raise ValueError(f"expert_weight {name!r} is unknown; choose one of {', '.join(WEIGHTS)}")
    parameters = inspect.signature(WEIGHTS[name]).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def make_weight(name: str, config: Any) -> Weight:
    """The weight function `name`, its parameters read from the attributes of `config`."""
    return partial(WEIGHTS[name], **{p: getattr(config, p) for p in weight_parameters(name)})


def expert_loss(tokens: ExpertTokens, weight: Weight) -> tuple[Tensor, Tensor]:
    """Expert loss per token and the weight behind it: -w.detach() * log p, zero where the mask is.

    Nothing is reduced here: the trainer divides by the denominator that the RL loss of the same step uses, so that any
    split into micro-batches has one gradient.

    Returns:
        loss: (B, T); its gradient reaches `tokens.logp` only.
        w: (B, T) the detached weights, zero off the mask.
    """
    mask = tokens.mask.bool()
    # A padded position may hold -inf: where() before the product, or 0 * inf = NaN reaches the loss.
    logp = torch.where(mask, tokens.logp, 0.0)
    with torch.no_grad():
        w = torch.where(mask, weight(tokens), 0.0)
    return -w * logp, w
