"""Advantages by hand: of one group of four whose last sample continues a prefix, and of one that has no guidance."""

import pytest
import torch

from trapo.method.advantage import ADVANTAGES, FACTORS, Groups

REWARDS = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0]])
GUIDED = torch.tensor([[False, False, False, True], [False] * 4])
GROUPS = Groups(REWARDS, GUIDED, REWARDS - REWARDS.mean(1, keepdim=True))

# Own and the expert's of the first group, own of the second; the plain samples' mean is 1/3 there, 1/2 here.
HAND = {
    "group": ([0.5, -0.5, -0.5, 0.5], [0.5, -0.5, -0.5, 0.5], [0.5, 0.5, -0.5, -0.5]),
    "srft": ([0.1, -1.0, -1.0, 0.1], [0.5, -0.5, -0.5, 0.5], [0.1, 0.1, -1.0, -1.0]),
    "prefix_v1": ([2 / 3, -1 / 3, -1 / 3, 1.0], [2 / 3, -1 / 3, -1 / 3, 2 / 3], [0.5, 0.5, -0.5, -0.5]),
    "prefix_v2": ([2 / 3, -1 / 3, -1 / 3, 0.0], [-1 / 3] * 4, [0.5, 0.5, -0.5, -0.5]),
}


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
def test_advantages_by_hand(name):
    own, expert = ADVANTAGES[name](GROUPS)
    first_own, first_expert, second_own = HAND[name]
    torch.testing.assert_close(own, torch.tensor([first_own, second_own]))
    assert expert[0, 3] == pytest.approx(first_expert[3])  # only the guided sample has tokens of the expert


def test_a_group_of_guided_samples_only_is_measured_against_nothing():
    groups = Groups(REWARDS[:1], torch.ones(1, 4, dtype=torch.bool), REWARDS[:1])
    assert groups.above_plain.tolist() == REWARDS[:1].tolist()


def test_srfts_factor_is_of_right_samples_only():
    entropy = torch.tensor([0.0, 1.0, 2.0])
    factor = FACTORS["srft"](torch.tensor([0.1, 0.1, -1.0]), entropy)
    torch.testing.assert_close(factor, torch.tensor([1.0, 2.7182818, 1.0]))
