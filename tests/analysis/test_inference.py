"""The rule of every answer, and its power, against hand-worked numbers and other computations."""

import itertools

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from trapo_analysis.inference import (
    FEW,
    answers,
    blocks_needed,
    bootstrap_t,
    check_family,
    coverage,
    detectable,
    equivalence,
    narrowest_margin,
    power,
)

GAPS = [0.10, 0.12, 0.08, 0.11, 0.09, 0.13, 0.07, 0.10]  # mean .1, sd .02
TWO_HUMPS = [-0.79, -0.82, -0.02, 0.01, -0.04, 0.00, -0.03, 0.02]


def test_equal_needs_two_tests_against_the_margin():
    """Mean .1, standard error .0070711: against .13 t = (.1 - .13) / .00707 = -4.243, one-sided with 7 degrees."""
    assert equivalence(GAPS, 0.13) == pytest.approx(t.cdf(-0.03 / (0.02 / np.sqrt(8)), 7))
    assert equivalence(GAPS, 0.10) == pytest.approx(0.5) and equivalence(GAPS, 0.05) > 0.99
    assert equivalence(np.negative(GAPS), 0.13) == pytest.approx(equivalence(GAPS, 0.13))
    edge = narrowest_margin(GAPS)
    assert edge == pytest.approx(0.1 + 1.894579 * 0.02 / np.sqrt(8), abs=1e-6)  # t(.95, 7)
    assert equivalence(GAPS, edge) == pytest.approx(0.05)
    assert equivalence([0.0] * 8, 0.05) == 1  # results come in steps: equal ones prove nothing
    with pytest.raises(ValueError, match="margin = 0: give the smallest difference that matters"):
        equivalence(GAPS, 0)


def test_no_difference_found_is_not_equal():
    noisy = [0.3, -0.3, 0.2, -0.2, 0.25, -0.25, 0.1, -0.1]
    small = [0.03, -0.03, 0.02, -0.02, 0.025, -0.025, 0.01, -0.01]
    first, second = answers([("a", "b", noisy), ("c", "d", small)], margin=0.05)
    assert (first.says, second.says) == ("can't tell", "equal")
    assert second.p_equal == pytest.approx(2 * equivalence(small, 0.05))  # Holm: the smaller of two
    (without,) = answers([("c", "d", small)])
    assert without.says == "can't tell" and without.p_equal is None


def test_a_difference_may_be_told_and_still_be_equal_within_the_margin():
    (answer,) = answers([("a", "b", [gap / 10 for gap in GAPS])], margin=0.05)
    assert answer.says == "above" and answer.equal and answer.difference == pytest.approx(0.01)


@pytest.mark.parametrize(("family", "blocks"), [(1, 6), (2, 7), (3, 7), (4, 8), (6, 8), (7, 9), (12, 9), (13, 10)])
def test_blocks_that_a_family_needs(family, blocks):
    """The smallest p of n blocks is 2 / 2^n."""
    assert blocks_needed(family) == blocks
    assert family * 2 / 2**blocks < 0.05 <= family * 2 / 2 ** (blocks - 1)
    check_family("Q", family, blocks)
    with pytest.raises(ValueError, match=f"Q: {family} comparisons over {blocks - 1} blocks can never reject"):
        check_family("Q", family, blocks - 1)
    assert detectable(blocks - 1, family) == np.inf and power(5, blocks - 1, family) == 0


@pytest.mark.parametrize(("family", "expected"), [(1, 0.64), (2, 0.49), (3, 0.40), (4, 0.25), (6, 0.25)])
def test_a_formula_with_z_promises_80_percent_where_eight_blocks_have_far_less(family, expected):
    """(z_.975 + z_.8) standard errors; simulated a second way, by the definition of the test."""
    effect = 2.8016 / np.sqrt(8)
    assert power(effect, 8, family) == pytest.approx(expected, abs=0.02)
    gaps = np.random.default_rng(1).normal(effect, 1, (2000, 8))
    signs = np.array(list(itertools.product((-1, 1), repeat=8)))
    p = np.array([(np.abs(signs @ row) >= abs(row.sum()) - 1e-9).mean() for row in gaps])
    told = (p * family < 0.05) & (ttest_1samp(gaps, 0, axis=1).pvalue < 0.05) & (gaps.mean(1) > 0)
    assert power(effect, 8, family) == pytest.approx(told.mean(), abs=0.03)


def test_what_is_detectable_has_80_percent_power():
    for family in (1, 3, 6):
        assert power(detectable(8, family), 8, family) == pytest.approx(0.8, abs=0.01)
    assert detectable(8, 4) == detectable(8, 6)  # both need all eight on one side
    (answer,) = answers([("a", "b", GAPS)])
    assert answer.detectable == pytest.approx(detectable(8, 1) * 0.02, rel=1e-6)
    assert detectable(32, 1) < detectable(8, 1) / 2


def test_random_flips_agree_with_all_of_them():
    """12 blocks are enumerated, 13 are drawn: power must not jump between them."""
    assert power(1.0, 13, 3) == pytest.approx(power(1.0, 12, 3), abs=0.06)


def test_differences_of_two_humps_are_flagged_and_get_the_bootstraps_interval():
    assert coverage(TWO_HUMPS) < FEW < coverage(GAPS)
    low, _ = bootstrap_t(TWO_HUMPS, seed=0)
    mean, half = np.mean(TWO_HUMPS), t.ppf(0.975, 7) * np.std(TWO_HUMPS, ddof=1) / np.sqrt(8)
    assert low < mean - half  # the long tail is on the side of the rare large differences
    assert bootstrap_t(GAPS, seed=0) == pytest.approx((0.1 - 0.0167, 0.1 + 0.0167), abs=0.006)
    assert np.isnan(bootstrap_t([0.1] * 8, seed=0)).all()


def test_coverage_is_that_of_students_interval_over_the_differences_as_population():
    rng = np.random.default_rng(5)
    draws = np.array(TWO_HUMPS)[rng.integers(8, size=(3000, 8))]
    half = t.ppf(0.975, 7) * draws.std(1, ddof=1) / np.sqrt(8)
    holds = (np.abs(draws.mean(1) - np.mean(TWO_HUMPS)) <= half).mean()
    assert coverage(TWO_HUMPS) == pytest.approx(holds, abs=0.03)
