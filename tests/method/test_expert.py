import math

import pytest
import torch

from trapo.config import TRAPOConfig
from trapo.method.expert import WEIGHTS, ExpertTokens, expert_loss, make_weight, weight_parameters

P = torch.tensor([[0.5, 0.1, 0.05, 0.01]])  # two inside or on the trust region of alpha = .1, two outside


def tokens(p=P, mask=None, **kwargs):
    return ExpertTokens(p.log(), torch.ones_like(p) if mask is None else mask, **kwargs)


# w worked out by hand for p = .5, .1, .05, .01
HAND = {
    "sft": [1, 1, 1, 1],
    "trsft": [1, 1, 0.5, 0.1],  # min(1, p / .1)
    "trsft_annealed": [1, 1, 0.5, 0.1],  # at the start of training
    "dft": [0.5, 0.1, 0.05, 0.01],
    # .1 p / (p + .1)^2 * A with A = 2: .05/.36 = 5/36, .01/.04 = 1/4, .005/.0225 = 2/9, .001/.0121 = 10/121
    "luffy": [10 / 36, 0.5, 4 / 9, 20 / 121],
    "chord": [0.25, 0.09, 0.0475, 0.0099],
    "prefix_rft": [2, 0, 0, 2],  # A = 2 on the half of the tokens with the highest entropy
    # exp(-H) / 2 + A p, H = (2 + 1 + .5 + 1.5) / 4 = 1.25: exp(-1.25) / 2 = .1432524
    "srft": [1.1432524, 0.3432524, 0.2432524, 0.1632524],
    # .5 (its coefficient) * 3 (a mean's) * .1432524 = .2148786, and luffy's
    "srft_shaped": [0.2148786 + 10 / 36, 0.2148786 + 0.5, 0.2148786 + 4 / 9, 0.2148786 + 20 / 121],
    "none": [0, 0, 0, 0],
}


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_weights_by_hand(name):
    constants = {"alpha": 0.1, "gamma": 0.1, "entropy_share": 0.5, "supervised_coef": 0.5}
    weight = make_weight(name, TRAPOConfig(output_dir="unused", use_cpu=True, **constants))
    known = {"advantage": torch.tensor([[2.0]]), "entropy": torch.tensor([[2.0, 1.0, 0.5, 1.5]]), "mean_scale": 3.0}
    w = weight(tokens(**known))
    torch.testing.assert_close(w, torch.tensor([HAND[name]], dtype=torch.float32), rtol=1e-5, atol=1e-7)


def test_the_annealed_trust_region_is_alpha_at_first_and_alpha_end_at_last():
    config = TRAPOConfig(output_dir="unused", alpha=0.01, alpha_end=1.0, use_cpu=True)
    weight = make_weight("trsft_annealed", config)
    half = weight(tokens(progress=0.5))  # alpha = .1, between .01 and 1 in logarithm
    torch.testing.assert_close(half, torch.tensor([HAND["trsft"]]), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(weight(tokens(progress=1.0)), P, rtol=1e-5, atol=1e-7)  # DFT's
    with pytest.raises(ValueError, match=r"alpha_end is 0, but it bounds"):
        TRAPOConfig(output_dir="unused", alpha_end=0, use_cpu=True)


def test_every_weight_is_worked_out_by_hand():
    assert set(HAND) == set(WEIGHTS)


def test_loss_by_hand():
    # -(1 * ln .5) - (.5 * ln .05), the other two masked out
    loss, w = expert_loss(tokens(mask=torch.tensor([[1, 0, 1, 0]])), make_weight("trsft", TRAPOConfig(use_cpu=True)))
    assert loss.sum().item() == pytest.approx(math.log(2) + 0.5 * math.log(20), rel=1e-6)
    torch.testing.assert_close(w, torch.tensor([[1, 0, 0.5, 0]]))


# The potentials f with f'(p) = w(p) / p: differentiating them is a second way to each gradient.
POTENTIALS = {
    "sft": lambda p: p.log(),
    "trsft": lambda p: torch.where(p >= 0.1, p.log(), p / 0.1 + math.log(0.1) - 1),
    "trsft_annealed": lambda p: torch.where(p >= 0.1, p.log(), p / 0.1 + math.log(0.1) - 1),
    "dft": lambda p: p,
    "luffy": lambda p: 2 * p / (p + 0.1),
    "chord": lambda p: p - p**2 / 2,
    # entropy 1 everywhere, A = 2: of five equals the first is taken as the fifth of highest entropy
    "prefix_rft": lambda p: 2 * p.log() * torch.tensor([1.0, 0, 0, 0, 0]),
    "srft": lambda p: 0.5 * math.exp(-1) * p.log() + 2 * p,
    "srft_shaped": lambda p: 0.5 * math.exp(-1) * p.log() + 2 * p / (p + 0.1),
    "none": lambda p: 0 * p,
}


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_gradient_is_that_of_the_methods_objective(name):
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 11, dtype=torch.float64).mul_(3).requires_grad_()
    target = torch.randint(11, (3, 5, 1))
    logp = logits.log_softmax(-1).gather(-1, target)[..., 0]
    weight = make_weight(name, TRAPOConfig(use_cpu=True))
    entropy, advantage = torch.ones(3, 5, dtype=torch.float64), torch.full((3, 1), 2.0)
    loss, _ = expert_loss(ExpertTokens(logp, torch.ones(3, 5), entropy, advantage), weight)
    (ours,) = torch.autograd.grad(loss.sum(), logits)
    p = logits.softmax(-1).gather(-1, target)[..., 0]
    (theirs,) = torch.autograd.grad(-POTENTIALS[name](p).sum(), logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_padding_with_minus_infinity_reaches_neither_loss_nor_gradient():
    logp = torch.tensor([[-1.0, -torch.inf]], requires_grad=True)
    loss, _ = expert_loss(ExpertTokens(logp, torch.tensor([[1, 0]])), WEIGHTS["sft"])
    loss.sum().backward()
    assert loss.tolist() == [[1.0, 0.0]]
    assert logp.grad.tolist() == [[-1.0, 0.0]]


@pytest.mark.parametrize("name", ["luffy", "prefix_rft", "srft"])
def test_what_a_weight_needs_is_asked_for(name):
    with pytest.raises(ValueError, match="advantage"):
        make_weight(name, TRAPOConfig(use_cpu=True))(tokens())


def test_tokens_off_the_mask_are_not_among_the_shares_of_a_prefix():
    """Padding of high entropy takes no place, and a row's share is rounded up."""
    weight = make_weight("prefix_rft", TRAPOConfig(use_cpu=True, entropy_share=0.2))
    mask, entropy = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]), torch.tensor([[0.1, 0.3, 0.2, 9.0], [0.5, 9, 9, 9]])
    p = torch.full((2, 4), 0.5)
    found = expert_loss(ExpertTokens(p.log(), mask, entropy, torch.tensor([[1.0], [-3.0]])), weight)[1]
    assert found.tolist() == [[0, 1, 0, 0], [-3, 0, 0, 0]]


def test_unknown_weight_is_named():
    with pytest.raises(ValueError, match="'sfft' is unknown; choose one of sft, trsft"):
        weight_parameters("sfft")
