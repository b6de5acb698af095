"""Drawing a token from logits and one uniform number: a pure function of a sample's seed and the token's index."""

import torch
from torch import Tensor
from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from .base import Sampling

BLOCK = 4096  # words of a vocabulary whose probabilities are added up at a time


def uniform(seeds: Tensor, index: Tensor) -> Tensor:
    """One float64 in [0, 1) per (seed, token index): the SplitMix64 generator's output number `index + 1`.

    Args:
        seeds: (N,) int64.
        index: (N,) int64, counted from 0.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
    """

    def shift(z: Tensor, bits: int) -> Tensor:  # logical, where torch's >> is arithmetic
        return (z >> bits) & ((1 << (64 - bits)) - 1)

    z = seeds + (index + 1) * -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed number; int64 wraps
    z = (z ^ shift(z, 30)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
    z = (z ^ shift(z, 27)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    z = z ^ shift(z, 31)
    return shift(z, 11).double() * 2.0**-53


class Draw:
    """(N, V) logits and (N,) uniform numbers to (N,) tokens, and their log-probabilities before anything is cut off.

    A token is the first whose cumulative probability exceeds u; at temperature 0 the likeliest, whatever u.
    """

    def __init__(self, sampling: Sampling):
        self.temperature = sampling.temperature
        self._warpers = LogitsProcessorList(
            ([TopKLogitsWarper(sampling.top_k)] if sampling.top_k else [])
            + ([TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else [])
            + ([MinPLogitsWarper(sampling.min_p)] if sampling.min_p else [])
        )

    def __call__(self, logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N,) int64 and log-probabilities (N,) float32."""
        logits = logits.float()
        if self.temperature == 0:
            logp, tokens = logits.log_softmax(-1).max(-1)
            return tokens, logp
        if self.temperature != 1:
            logits = logits / self.temperature
        p = logits.softmax(-1)
        warped = self._warpers(None, logits).softmax(-1) if self._warpers else p
        tokens = invert(warped, u)
        return tokens, p.gather(-1, tokens[:, None])[:, 0].log()


def invert(p: Tensor, u: Tensor) -> Tensor:
    """The first word of each row of `p` (N, V) whose cumulative probability exceeds u (N,); (N,) int64.

    Sums are float64, because float32 would lose the tail of a large vocabulary; and a large vocabulary is searched in
    two steps, block and word, because its cumulative sums in float64 would take twice the memory of the logits.
    """
    if p.shape[-1] <= BLOCK:
        return _search(p, u)
    blocks = torch.nn.functional.pad(p, (0, -p.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))  # (N, blocks, BLOCK)
    sums = blocks.sum(-1, dtype=torch.float64)
    block = _search(sums, u)[:, None]
    upper = sums.cumsum(-1)
    inside, whole = sums.gather(-1, block), upper[:, -1:]
    rest = (u[:, None] * whole - (upper.gather(-1, block) - inside)) / inside
    chosen = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK))[:, 0]
    return block[:, 0] * BLOCK + _search(chosen, rest[:, 0].clamp(0, 1 - 2.0**-53))


def _search(p: Tensor, u: Tensor) -> Tensor:
    cumulative = p.double().cumsum(-1)
    target = u[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).clamp(max=p.shape[-1] - 1)[:, 0]
