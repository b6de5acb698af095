"""Proposition 1 (docs/proposition.md): the exact optimum of TrSFT on one distribution over tokens."""

import re

import numpy as np
import pytest
import torch
from places import ROOT
from scipy.optimize import minimize

from trapo.method.expert import ExpertTokens, expert_loss, trsft
from trapo_toy.proposition import (
    certificate,
    climb,
    escape_time,
    gradient,
    kept_mass,
    objective,
    paper_lambda,
    rare_start,
    solve,
)


def random_expert(size, seed, concentration=0.5):
    return np.random.default_rng(seed).dirichlet(np.full(size, concentration))


# expert, alpha -> mu, maximiser, tied tokens, leftover, the paper's lambda; worked out by hand
HAND = {
    "the paper's equation has a solution": ([0.5, 0.3, 0.2], 0.3, 0.8, [5 / 8, 3 / 8, 0], [], 0, 0.8),
    "G jumps across 1": ([0.5, 0.3, 0.2], 0.5, 0.6, [5 / 6, 1 / 6, 0], [1], 1 / 6, None),
    "all above alpha, so mu is 1": ([0.5, 0.3, 0.2], 0.1, 1, [0.5, 0.3, 0.2], [], 0, 1),
    "the smallest is alpha itself": ([0.5, 0.3, 0.2], 0.2, 1, [0.5, 0.3, 0.2], [2], 0.2, None),
    "alpha 1 leaves the argmax": ([0.2, 0.5, 0.3], 1, 0.5, [0, 1, 0], [1], 1, None),
    "alpha 1, ties at the argmax": ([0.4, 0.2, 0.4], 1, 0.4, [0.5, 0, 0.5], [0, 2], 1, None),
    "ties that share the leftover": ([0.6, 0.2, 0.2], 0.3, 2 / 3, [0.9, 0.05, 0.05], [1, 2], 0.1, None),
    "uniform, alpha above 1/n": ([0.25] * 4, 0.4, 0.625, [0.25] * 4, [0, 1, 2, 3], 1, None),
    "uniform, alpha 1/n": ([0.25] * 4, 0.25, 1, [0.25] * 4, [0, 1, 2, 3], 1, None),
    "uniform, alpha below 1/n": ([0.25] * 4, 0.2, 1, [0.25] * 4, [], 0, 1),
    "tied with nothing left": ([0.8, 0.2], 0.25, 0.8, [1, 0], [1], 0, 0.8),
    "zeros are never kept": ([0, 0.7, 0, 0.3], 0.2, 1, [0, 0.7, 0, 0.3], [], 0, 1),
    "one token": ([1.0], 0.1, 1, [1.0], [], 0, 1),
    "one token, alpha 1": ([1.0], 1, 1, [1.0], [0], 1, None),
}


@pytest.mark.parametrize("case", HAND)
def test_the_optimum_by_hand(case):
    expert, alpha, mu, p, tied, leftover, paper = HAND[case]
    best = solve(expert, alpha)
    assert best.mu == pytest.approx(mu, rel=1e-12)
    assert best.p == pytest.approx(np.array(p), abs=1e-12)
    assert best.tied.tolist() == tied
    assert best.leftover == pytest.approx(leftover, abs=1e-12)
    assert paper_lambda(expert, alpha) == (None if paper is None else pytest.approx(paper, rel=1e-12))
    assert certificate(best.p, np.array(expert), alpha) < 1e-12


def test_objective_gradient_and_certificate_by_hand():
    expert, alpha = np.array([0.6, 0.4]), 0.5
    p = np.array([0.8, 0.2])
    # .6 ln .8 + .4 (.2 / .5 + ln .5 - 1);  g = .6 / .8, .4 / .5;  p . g = .6 + .16
    assert objective(p, expert, alpha) == pytest.approx(0.6 * np.log(0.8) + 0.4 * (np.log(0.5) - 0.6))
    assert gradient(p, expert, alpha) == pytest.approx([0.75, 0.8])
    assert certificate(p, expert, alpha) == pytest.approx(0.8 - 0.76)


def test_objective_bends_smoothly_at_alpha_and_bears_zeros():
    expert = np.array([1.0, 0.0])
    below, above = (objective(np.array([x, 1 - x]), expert, 0.3) for x in (0.3 - 1e-9, 0.3 + 1e-9))
    assert above - below == pytest.approx(2e-9 / 0.3, rel=1e-5)
    assert objective(np.array([0.0, 1.0]), expert, 0.3) == pytest.approx(np.log(0.3) - 1)
    assert objective(np.array([1.0, 0.0]), expert, 0.0) == 0  # SFT; 0 log 0 = 0
    assert objective(np.array([0.0, 1.0]), expert, 0.0) == -np.inf


@pytest.mark.parametrize("size", [2, 3, 5, 10, 30, 80, 200])
@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.5, 1.0])
def test_no_general_convex_solver_finds_better(size, alpha):
    expert = random_expert(size, seed=size)
    best = solve(expert, alpha)
    found = minimize(
        lambda p: -objective(np.maximum(p, 0), expert, alpha),
        np.full(size, 1 / size),
        jac=lambda p: -gradient(p, expert, alpha),
        method="SLSQP",
        bounds=[(0, 1)] * size,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1, "jac": lambda p: np.ones(size)},
        options={"maxiter": 2000, "ftol": 1e-12},
    )
    assert found.success, found.message
    assert abs(-found.fun - objective(best.p, expert, alpha)) < 1e-6


@pytest.mark.parametrize("size", [2, 3, 10, 200, 20_000])
def test_the_certificate_and_the_multiplier_hold_for_random_experts(size):
    for seed in range(20):
        expert = random_expert(size, seed)
        alpha = float(np.random.default_rng(seed).uniform(1e-3, 1))
        best = solve(expert, alpha)
        assert best.p.min() >= 0 and best.p.sum() == pytest.approx(1, abs=1e-12)
        assert certificate(best.p, expert, alpha) < 1e-12
        mass = kept_mass(best.mu, expert, alpha)
        assert 0 < best.mu <= 1 + 1e-12
        assert mass <= 1 + 1e-12 and mass + alpha * len(best.tied) >= 1 - 1e-12
        # The multiplier is unique: a bit below it too much is kept, a bit above it too little.
        assert kept_mass(best.mu * (1 - 1e-6), expert, alpha) > 1
        assert kept_mass(best.mu * (1 + 1e-6), expert, alpha) < 1


def test_the_certificate_holds_for_experts_full_of_ties_and_zeros():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        counts = rng.integers(0, 4, rng.integers(1, 12)) + 0.0
        counts[0] += counts.sum() == 0
        expert, alpha = counts / counts.sum(), float(rng.choice([1, 1 / 2, 1 / 3, 1 / 4, 0.1, 1 / len(counts)]))
        best = solve(expert, alpha)
        assert certificate(best.p, expert, alpha) < 1e-12 and best.p.sum() == pytest.approx(1, abs=1e-12)
        assert (paper_lambda(expert, alpha) is None) == (best.leftover > 1e-12)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3, 0.7, 1.0])
def test_the_papers_equation_is_solved_exactly_where_nothing_is_left_over(alpha):
    seen = set()
    for seed in range(200):
        expert = random_expert(6, seed, concentration=2)
        sums = np.cumsum(np.sort(expert)[::-1])  # a solution is a sum of the largest k
        solutions = [x for x in sums if abs(expert[expert > alpha * x].sum() - x) < 1e-12]
        assert len(solutions) <= 1
        best, ours = solve(expert, alpha), paper_lambda(expert, alpha)
        assert (ours is None) == (not solutions) == (best.leftover > 0)
        if solutions:
            assert ours == pytest.approx(solutions[0], rel=1e-12) and ours == pytest.approx(best.mu, rel=1e-12)
        seen.add(ours is None)
    # Both are common; with alpha = 1 there is never a solution: the argmax alone is kept, and it is tied.
    assert seen == ({True} if alpha == 1 else {True, False})


def test_g_falls_and_jumps_by_alpha_where_it_passes_a_token():
    # pE = (.5, .3, .2), alpha = .5: .3 is passed at mu = .6, where G falls from .8 / .6 to .5 / .6, by alpha
    mass = kept_mass([0.6 - 1e-9, 0.6, 0.6 + 1e-9, 1.0], [0.5, 0.3, 0.2], 0.5)
    assert mass == pytest.approx([0.8 / 0.6, 0.5 / 0.6, 0.5 / 0.6, 0], rel=1e-6)


def test_every_split_of_the_leftover_is_a_maximiser_and_nothing_else():
    expert, alpha = np.array([0.25] * 4), 0.4
    best = solve(expert, alpha)
    assert not best.unique
    for p in ([0.4, 0.4, 0.2, 0], [0.1, 0.2, 0.3, 0.4]):
        assert certificate(np.array(p), expert, alpha) < 1e-12 and best.distance(np.array(p)) < 1e-12
    beyond = np.array([0.5, 0.3, 0.2, 0])  # .5 > alpha: to be taken from it, .1
    assert certificate(beyond, expert, alpha) > 0.01 and best.distance(beyond) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("expert", "alpha", "unique"),
    [([0.5, 0.3, 0.2], 0.5, True), ([0.6, 0.2, 0.2], 0.3, False), ([0.25] * 4, 0.25, True), ([0.8, 0.2], 0.25, True)],
)
def test_the_maximiser_is_unique_unless_several_tied_tokens_share(expert, alpha, unique):
    assert solve(expert, alpha).unique == unique


def test_near_ties_are_ties():
    expert = [0.1 + 0.2, 0.3, 0.4 - 1e-16]  # .30000000000000004 and .3
    best = solve(expert, 0.75)  # mu = .3 / .75 = .4: no more than 0 is left beside the first
    assert best.tied.tolist() == [0, 1]
    assert certificate(best.p, np.array(expert), 0.75) < 1e-12
    best = solve([0.1 + 0.2, 0.3, 0.4], 1.0)
    assert best.p.tolist() == [0, 0, 1]
    best = solve([0.3 + 0.1, 0.4 * (1 + 1e-15), 0.2], 1.0)
    assert best.p == pytest.approx([0.5, 0.5, 0])


def test_distance_by_hand():
    best = solve([0.5, 0.3, 0.2], 0.5)  # (5/6, 1/6, 0)
    assert best.distance(best.p) == 0
    assert best.distance(np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0]])) == pytest.approx([1 / 6, 1, 5 / 6])


BAD = {
    "alpha is 0:": ([1.0], 0),
    "alpha is 1.5:": ([1.0], 1.5),
    "alpha is nan:": ([1.0], float("nan")),
    "sum to 0.9, not to 1": ([0.5, 0.4], 0.1),
    "finite and not negative": ([1.5, -0.5], 0.1),
    "must be finite": ([float("nan"), 1.0], 0.1),
    r"shape \(0,\)": ([], 0.1),
    r"shape \(1, 2\)": ([[0.5, 0.5]], 0.1),
}


@pytest.mark.parametrize("complaint", BAD)
@pytest.mark.parametrize("function", [solve, paper_lambda])
def test_bad_input_is_one_clear_line(complaint, function):
    with pytest.raises(ValueError, match=complaint) as error:
        function(*BAD[complaint])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("alpha", [0.05, 0.3, 1.0])
def test_trsfts_autograd_gradient_is_that_of_f(alpha):
    rng = np.random.default_rng(0)
    expert = torch.tensor(random_expert(12, 1))
    logits = torch.tensor(rng.normal(0, 3, 12), requires_grad=True)
    logp = logits.log_softmax(-1)[None]  # (1, 12): every token once, to be weighed by the expert's probability
    loss, _ = expert_loss(ExpertTokens(logp, torch.ones(1, 12)), lambda tokens: trsft(tokens, alpha=alpha))
    (trained,) = torch.autograd.grad((expert * loss).sum(), logits)

    p = logits.softmax(-1)
    f = torch.where(p >= alpha, p.log(), p / alpha + np.log(alpha) - 1)
    (of_f,) = torch.autograd.grad((expert * f).sum(), logits)
    torch.testing.assert_close(-trained, of_f, rtol=1e-12, atol=1e-15)

    # climb() takes the same step
    steps = climb(expert.numpy(), alpha, logits.detach().numpy()[None], lr=0.1)
    next(steps)
    after = torch.log_softmax(logits.detach() - 0.1 * trained, -1)
    torch.testing.assert_close(torch.tensor(next(steps)[0]).log(), after, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_the_flow_approaches_the_optimum_from_random_starts(size, alpha):
    expert = random_expert(size, seed=3, concentration=2)
    starts = np.random.default_rng(size).normal(0, 1, (8, size))
    best = solve(expert, alpha)
    course = climb(expert, alpha, starts, lr=1.0)
    at = {step: p for step, p in zip(range(20_001), course, strict=False) if step in (0, 2000, 20_000)}
    assert best.distance(at[0]).min() > 0.01
    assert (best.distance(at[20_000]) < 2e-3).all()
    # What the optimum drops vanishes like 1 / step, where SFT converges geometrically.
    assert (best.distance(at[20_000]) < 0.2 * best.distance(at[2000]) + 1e-12).all()
    values = [objective(at[step], expert, alpha) for step in sorted(at)]
    assert (np.diff(values, axis=0) >= 0).all() and (values[-1] <= objective(best.p, expert, alpha) + 1e-12).all()


def test_a_batch_of_drawn_tokens_gives_the_gradient_in_expectation():
    expert, start = np.array([0.5, 0.3, 0.2]), np.log([[0.2, 0.7, 0.1]])
    exact, drawn = (climb(expert, 0.5, start, 0.1, batch=b, rng=np.random.default_rng(0)) for b in (None, 1_000_000))
    next(exact), next(drawn)
    assert next(drawn) == pytest.approx(next(exact), abs=2e-4)


def test_a_batch_of_one_takes_the_step_of_one_token():
    expert, p, seen = np.array([0.5, 0.5]), np.array([0.2, 0.8]), set()
    for seed in range(8):
        steps = climb(expert, 0.4, np.log([p]), 1.0, batch=1, rng=np.random.default_rng(seed))
        next(steps)
        seen.add(round(float(next(steps)[0, 0]), 9))
    # The first token: w = .2 / .4, logits move by .5 (.8, -.8), odds times e^.8; the second: w = 1, odds times e^-.4.
    odds = np.array([0.25 * np.exp(0.8), 0.25 * np.exp(-0.4)])
    assert sorted(seen, reverse=True) == pytest.approx(odds / (1 + odds))


def first_above(alpha, courses, most=50_000):
    for step, p in zip(range(most), courses, strict=False):
        if p[0, 0] >= alpha:
            return step
    return None


# Uneven others, and n = 1, 2, 3: with the others' sum of squares in place of 1/n the first is 20% off, the third 8%.
@pytest.mark.parametrize(
    ("expert", "n"), [((0.5, 0.45, 0.05), 2), ((0.6, 0.4), 1), ((0.6, 0.3, 0.1), 2), ((0.4, 0.3, 0.2, 0.1), 3)]
)
def test_a_rare_token_escapes_when_the_formula_says(expert, n):
    expert, alpha, lr = np.array(expert), 0.1, 0.5
    p0 = 1e-4
    said = escape_time(expert, alpha, 0, p0, lr)
    rest = 1 - expert[0]  # all others are above alpha times their sum, so g = their sum (by hand), n of them
    assert said == pytest.approx((alpha / p0 - 1) / ((1 + 1 / n) * lr * (expert[0] - alpha * rest)))
    start = rare_start(expert, alpha, 0, [p0])
    assert first_above(alpha, climb(expert, alpha, start, lr)) == pytest.approx(said, rel=0.01)


def test_before_the_others_have_rebalanced_a_rare_token_is_faster():
    expert, alpha, p0, lr = np.array([0.6, 0.3, 0.1]), 0.1, 1e-5, 1e-3
    steps = climb(expert, alpha, rare_start(expert, alpha, 0, [p0]), lr)
    fall = 1 / next(steps)[0, 0] - 1 / next(steps)[0, 0]
    # (1 + .75^2 + .25^2) lr (.6 / .1 - .4): the others at (.75, .25), g = .4
    assert fall == pytest.approx(1.625 * lr * 5.6, rel=1e-3)


def test_a_tied_token_with_next_to_nothing_does_not_count_among_the_others():
    # Without the first, over .632, .092 is tied and holds 2e-4: n = 2, not 3, which would be 12% off.
    expert, alpha = np.array([0.3679, 0.184, 0.1226, 0.092, 0.0736, 0.0613, 0.0526, 0.046]), 0.3
    said = escape_time(expert, alpha, 0, 1e-3, 0.5)
    taken = first_above(alpha, climb(expert, alpha, rare_start(expert, alpha, 0, [1e-3]), 0.5))
    assert taken == pytest.approx(said, rel=0.03)


def test_rare_tokens_stay_rare_under_sgd_only():
    expert, alpha = np.array([0.5, 0.3, 0.2]), 0.1
    steps = {}
    for p0 in (1e-3, 1e-4):
        start = rare_start(expert, alpha, 0, [p0])
        steps["trsft", p0] = first_above(alpha, climb(expert, alpha, start, 0.5))
        steps["adam", p0] = first_above(alpha, climb(expert, alpha, start, 0.05, "adam"))
        steps["sft", p0] = first_above(alpha, climb(expert, 0.0, start, 0.5))
    assert steps["trsft", 1e-4] / steps["trsft", 1e-3] == pytest.approx(10, rel=0.05)
    assert steps["adam", 1e-4] < 100 and steps["sft", 1e-4] < 50 < 2000 < steps["trsft", 1e-4]


def test_a_token_that_the_optimum_drops_never_escapes():
    expert, alpha = np.array([0.04, 0.9, 0.06]), 0.1  # mu = .9 and .04 < .09
    assert solve(expert, alpha).p == pytest.approx([0, 1, 0])
    assert escape_time(expert, alpha, 0, 1e-3, 0.5) == np.inf
    assert first_above(alpha, climb(expert, alpha, rare_start(expert, alpha, 0, [1e-3]), 0.5)) is None


@pytest.mark.parametrize("alpha", [0.021, 0.1])
def test_the_optimum_of_the_papers_mixture_keeps_all_three_modes(alpha):
    # Fine cells as tokens; alpha is a density, so a cell's is alpha times its width.
    width, means, shares = 0.02, np.array([-6.0, 0.0, 8.0]), [0.35, 0.35, 0.30]
    x = np.arange(-12, 14, width)
    expert = np.exp(-((x[:, None] - means) ** 2) / 2) @ shares
    expert /= expert.sum()
    best = solve(expert, alpha * width)
    masses = [best.p[np.abs(x - mean) < 3].sum() for mean in means]
    assert masses == pytest.approx(shares, abs=0.05) and sum(masses) == pytest.approx(1)
    assert best.p[(np.abs(x[:, None] - means) > 3).all(1)].sum() == 0  # only tails go


def test_an_unknown_optimizer_is_named():
    with pytest.raises(ValueError, match="'lion' is unknown; choose sgd or adam"):
        next(climb(np.array([1.0]), 0.1, np.zeros((1, 1)), 0.1, "lion"))


def test_the_page_names_only_tests_that_are_here():
    page = (ROOT / "docs/proposition.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 10 and named <= set(globals()), named - set(globals())
