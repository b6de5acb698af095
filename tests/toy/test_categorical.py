from itertools import islice

import numpy as np
import pytest
import torch

from trapo_toy import mixture_command as run
from trapo_toy.categorical import KINDS, expert_tokens, far_mode, places, token_logp, train
from trapo_toy.gmm import Mixture, parameters
from trapo_toy.proposition import climb, solve

EXPERT, NARROW = run.EXPERT, run.POLICY
START = Mixture(NARROW.weights, NARROW.means, (1.5, 1.5, 1.5))
PE = expert_tokens(EXPERT).numpy()
FAR = far_mode(EXPERT, NARROW)
OPTIMUM = solve(PE, 0.1)


def last(method, kind, optimizer, steps, policy=START, seeds=8):
    """The policy's distributions at the end, (seeds, C)."""
    return train(method, kind, optimizer, EXPERT, policy, 0.1, range(seeds), marks=(steps,))[0]


def test_tokens_are_the_density_at_their_places_normalised():
    assert places(EXPERT).tolist() == list(range(-11, 14)) and places(EXPERT)[FAR].tolist() == list(range(5, 14))
    assert PE.sum() == pytest.approx(1)
    # Tokens 5, 6 and 19 lie on the first mode, one standard deviation beside it, and on the last mode.
    assert PE[5] / PE[6] == pytest.approx(np.exp(0.5), rel=1e-4)
    assert PE[19] / PE[5] == pytest.approx(0.3 / 0.35, rel=1e-6)


def test_tokens_grow_with_the_expert():
    large = Mixture(EXPERT.weights, (-60, 0, 80), (10, 10, 10))
    assert (places(large) == 10 * places(EXPERT)).all()
    np.testing.assert_allclose(expert_tokens(large), PE, rtol=1e-12)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("method", "alpha"), [("trsft", 0.1), ("sft", 0.0)])
def test_training_of_tabular_logits_is_the_propositions(method, alpha, optimizer):
    marks = (0, 1, 20, 60)
    ours = train(method, "tabular", optimizer, EXPERT, START, 0.1, [0], marks=marks, jitter=0.0)
    logits = token_logp(torch.tensor(parameters(START, EXPERT))[None], EXPERT).numpy()
    lr = {"sgd": 0.5, "adam": 0.05}[optimizer]
    theirs = list(islice(climb(PE, alpha, logits, lr, optimizer), 61))
    for p, mark in zip(ours, marks, strict=True):
        np.testing.assert_allclose(p, theirs[mark], atol=1e-9)


def test_the_optimum_has_all_three_modes():
    assert OPTIMUM.p[[5, 11, 19]].min() > 0.1 and OPTIMUM.p[FAR].sum() > 0.15


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_shared_parameters_leave_the_far_mode_though_the_optimum_has_it(optimizer):
    p = last("trsft", "shared", optimizer, 300)
    assert (p[:, FAR].sum(-1) < 1e-3).all() and (OPTIMUM.distance(p) > 0.15).all()


def test_a_logit_per_token_reaches_the_optimum_with_adam_and_waits_with_sgd():
    adam, sgd = (last("trsft", "tabular", optimizer, 1000) for optimizer in ("adam", "sgd"))
    assert (OPTIMUM.distance(adam) < 0.01).all() and (OPTIMUM.distance(sgd) > 0.15).all()


def test_adams_eps_hides_a_mode_that_starts_too_rare():
    at_mode = 19
    assert (last("trsft", "tabular", "adam", 0, NARROW)[:, at_mode] < 1e-10).all()
    assert (last("trsft", "tabular", "adam", 1000, NARROW)[:, at_mode] < 1e-9).all()
    assert (last("sft", "tabular", "adam", 1000, NARROW)[:, at_mode] > 0.11).all()


@pytest.mark.parametrize("kind", KINDS)
def test_sft_finds_the_far_mode_either_way(kind):
    assert np.median(last("sft", kind, "adam", 400)[:, FAR].sum(-1)) > 0.2


def test_a_seed_does_not_notice_the_others():
    alone = train("trsft", "shared", "adam", EXPERT, START, 0.1, [2], marks=(30,))
    among = train("trsft", "shared", "adam", EXPERT, START, 0.1, range(5), marks=(30,))
    np.testing.assert_allclose(alone[0, 0], among[0, 2], rtol=1e-9, atol=1e-15)
