"""What a sample's own tokens are rewarded by: the advantage that TRL computes within the group, or a method's own.

To add one, write its function and add it to `ADVANTAGES`. Whole demonstrations, which have no own tokens, keep the
group's.
"""

from collections.abc import Callable

from torch import Tensor


def group(rewards: Tensor, advantages: Tensor, entropies: Tensor) -> Tensor:
    """TRL's: the reward minus the group's mean, scaled as `scale_rewards` says.

    Args:
        rewards: (B,) of the samples.
        advantages: (B,) as TRL has computed them.
        entropies: (B,) the policy's mean entropy over each sample's own tokens, in nats, by what it drew.
    """
    return advantages


def srft(rewards: Tensor, advantages: Tensor, entropies: Tensor) -> Tensor:
    """0.1 exp(entropy) for a right sample, -1 for a wrong one, whatever the group's others (SRFT, arXiv 2506.19767)."""
    right = (rewards > 0).to(advantages.dtype)
    return right * 0.1 * entropies.exp() - (1 - right)


ADVANTAGES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {f.__name__: f for f in (group, srft)}
