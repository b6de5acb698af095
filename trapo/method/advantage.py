"""What a sample's tokens are rewarded by: the advantage that TRL computes within the group, or a method's own.

To add one, write its function and add it to `ADVANTAGES`. What only the update knows, the policy's entropy, comes in by
`FACTORS`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .solved import is_solved


@dataclass(frozen=True)
class Groups:
    """The samples of P prompts, G of each, when all are graded.

    Attributes:
        rewards: (P, G).
        guided: (P, G) bool: whether the sample begins with tokens of the expert.
        advantages: (P, G) TRL's: the reward minus the group's mean, scaled as `scale_rewards` says.
    """

    rewards: Tensor
    guided: Tensor
    advantages: Tensor

    @property
    def above_plain(self) -> Tensor:
        """(P, G) the reward minus the mean of the group's samples without expert tokens (0 where there are none)."""
        plain = (~self.guided).to(self.rewards.dtype)
        return self.rewards - (self.rewards * plain).sum(1, keepdim=True) / plain.sum(1, keepdim=True).clamp(min=1)


Advantage = Callable[[Groups], tuple[Tensor, Tensor]]  # -> (P, G) of own tokens, (P, G) of the expert's


def group(groups: Groups) -> tuple[Tensor, Tensor]:
    """TRL's, for every token."""
    return groups.advantages, groups.advantages


def srft(groups: Groups) -> tuple[Tensor, Tensor]:
    """Own tokens: .1 exp(H) of a right sample (exp(H) is `FACTORS`'), -1 of a wrong one, whatever the group's others.

    The expert's: TRL's. Source: SRFT, arXiv 2506.19767.
    """
    right = is_solved(groups.rewards).to(groups.advantages.dtype)
    return right * 0.1 - (1 - right), groups.advantages


def prefix_v1(groups: Groups) -> tuple[Tensor, Tensor]:
    """Prefix-RFT's code, `dr_grpo_prefix`: r minus the plain samples' mean; what continues a prefix, the bare r.

    Source: github.com/ZeroYuHuang/prefix_rft @5f5d2a1, core_algos.py.
    """
    return torch.where(groups.guided, groups.rewards, groups.above_plain), groups.above_plain


def prefix_v2(groups: Groups) -> tuple[Tensor, Tensor]:
    """Prefix-RFT's code, `dr_grpo_prefix_v2`: a prefix minus the plain samples' mean, its continuation 0, whatever r.

    Source: as `prefix_v1`.
    """
    own = torch.where(groups.guided, 0.0, groups.above_plain)
    return own, groups.above_plain - groups.rewards


ADVANTAGES: dict[str, Advantage] = {f.__name__: f for f in (group, srft, prefix_v1, prefix_v2)}


def srft_factor(advantages: Tensor, entropy: Tensor) -> Tensor:
    """exp(H) of a right sample, 1 of a wrong one.

    Args:
        advantages: (B,) of own tokens; positive for a right sample.
        entropy: (B,) H, the mean entropy of the policy at the sample's own tokens, in nats.
    """
    return torch.where(advantages > 0, entropy.exp(), 1.0)


# What the update multiplies own tokens' advantages by, by the name in `ADVANTAGES`; others' are left as they are.
FACTORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"srft": srft_factor}
