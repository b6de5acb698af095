import math
from collections import Counter
from dataclasses import astuple
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from trapo_evals import stats
from trapo_evals.stats import (
    all_equal,
    compare,
    distinct_share,
    holm,
    length_quantiles,
    maj_at_n,
    mean_with_errors,
    pass_at_k,
    pass_at_k_curve,
)

BITS = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=8)
FUZZ = settings(max_examples=150, deadline=None, derandomize=True)


def wilson(hits, n):
    interval = scipy_stats.binomtest(hits, n).proportion_ci(method="wilson")
    return interval.low, interval.high


def scipys_interval(values):
    found = scipy_stats.bootstrap((values,), np.mean, method="percentile", random_state=7)
    return found.confidence_interval.low, found.confidence_interval.high


# avg@n


def test_mean_and_both_errors_by_hand():
    found = mean_with_errors([[1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]])
    # p = 1/2, 1, 0: m = 1/2; sd = sqrt((0 + 1/4 + 1/4) / 2) = 1/2
    assert found.value == 0.5
    assert found.se_questions == pytest.approx(0.5 / math.sqrt(3))
    # Only the first question varies: sqrt(1/2 * 1/2 / 3) / 3
    assert found.se_resampling == pytest.approx(math.sqrt(1 / 12) / 3)
    assert (found.questions, found.samples) == (3, 12)
    # With 1 and 0 added, 1/2, 1, 0, 1, 0: m = 1/2, var = 4 * 1/4 / 5 = 1/5, rho = (1/5) / (1/4) = 4/5, 3 / rho = 3.75
    assert found.effective == pytest.approx(3.75)
    # Wilson at p = 1/2: half width = z / (2 sqrt(n + z^2)) = 1.959964 / (2 sqrt(3.75 + 3.841459)) = 0.355677
    assert (found.low, found.high) == pytest.approx((0.5 - 0.355677, 0.5 + 0.355677), abs=1e-6)


def test_ragged_samples_weigh_by_question():
    found = mean_with_errors([[True], [1, 0]])
    # p = 1, 1/2: m = 3/4, not 2/3; sd = sqrt(2 * 1/16), over sqrt(2): 1/4
    assert found.value == 0.75 and found.se_questions == pytest.approx(0.25)
    assert math.isnan(found.se_resampling) and math.isnan(mean_with_errors([[1, 0]]).se_questions)


def test_error_over_questions_is_scipys():
    p = np.random.default_rng(0).random((50, 1)) ** 2
    correct = np.random.default_rng(1).random((50, 8)) < p
    assert mean_with_errors(correct).se_questions == pytest.approx(scipy_stats.sem(correct.mean(1)))


def test_resampling_variance_is_unbiased():
    """Over all 2^6 outcomes of two questions with three samples each, its mean is that of avg@n's own variance."""
    p, outcomes = (0.2, 0.7), list(product((0, 1), repeat=6))
    weight = np.prod([[p[i // 3] if x else 1 - p[i // 3] for i, x in enumerate(bits)] for bits in outcomes], 1)
    found = [mean_with_errors(np.reshape(bits, (2, 3))) for bits in outcomes]
    value, variance = np.array([(f.value, f.se_resampling**2) for f in found]).T
    # (0.2 * 0.8 / 3 + 0.7 * 0.3 / 3) / 2^2
    assert weight @ variance == pytest.approx(0.37 / 12) == weight @ (value - weight @ value) ** 2


@pytest.mark.parametrize("questions", [1, 7, 30])
def test_one_sample_per_question_is_wilson(questions):
    for hits in range(questions + 1):
        found = mean_with_errors([[int(i < hits)] for i in range(questions)])
        assert (found.low, found.high) == pytest.approx(wilson(hits, questions), abs=1e-12)
        assert found.effective == pytest.approx(questions)


@pytest.mark.parametrize("n", [1, 2, 32])
def test_none_or_all_correct_is_wilson_on_the_questions(n):
    nothing, all_of_it = mean_with_errors(np.zeros((30, n))), mean_with_errors(np.ones((30, n)))
    # 1 - 30 / (30 + 1.959964^2) = 0.11351
    assert (nothing.low, nothing.high) == pytest.approx((0, 0.11351), abs=1e-5)
    assert (all_of_it.low, all_of_it.high) == pytest.approx((1 - 0.11351, 1), abs=1e-5)
    assert (nothing.low, all_of_it.high) == (0, 1)


def test_copies_count_once_and_equal_questions_up_to_all_samples():
    copies = mean_with_errors(np.repeat([[1], [0], [0], [1], [0]], 32, axis=1))
    assert (copies.low, copies.high) == pytest.approx(wilson(2, 5))
    alike = mean_with_errors([[1, 0]] * 30)
    # With 1 and 0 added to 30 halves: rho = (2 * 1/4 / 32) / (1/4) = 1/16, so 480, but there are only 60 samples
    assert alike.effective == pytest.approx(60)
    assert (alike.low, alike.high) == pytest.approx(wilson(30, 60))


def test_first_hit_does_not_shrink_the_interval_at_once():
    """One sample of 960 says as little on other questions as none: no jump from 11% to 0.6%."""
    correct = np.zeros((30, 32))
    correct[0, 0] = 1
    assert 0.1 < mean_with_errors(correct).high < 0.12


@FUZZ
@given(BITS)
def test_interval_invariants(correct):
    found, other = mean_with_errors(correct), mean_with_errors([[1 - x for x in row] for row in correct])
    assert 0 <= found.low <= found.value <= found.high <= 1 and found.low < found.high
    assert found.questions - 1e-9 <= found.effective <= found.samples + 1e-9
    assert (found.low, found.high) == pytest.approx((1 - other.high, 1 - other.low))
    shuffled = mean_with_errors([row[::-1] for row in correct[::-1]])
    assert astuple(shuffled) == pytest.approx(astuple(found), nan_ok=True)


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda rng: rng.beta(0.3, 0.7, 30), 0.3),
        (lambda rng: rng.beta(0.05, 0.95, 30), 0.05),
        (lambda rng: rng.choice([0, 0.03, 1], 30, p=[0.9, 0.07, 0.03]), 0.0321),
        (lambda rng: np.full(30, 0.3), 0.3),
    ],
    ids=["spread", "hard", "few easy", "alike"],
)
def test_coverage_on_other_questions(draw, truth):
    """600 benchmarks of 30 questions, 32 samples: at 95% the standard error of the coverage is 0.9%."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(600):
        found = mean_with_errors(rng.random((30, 32)) < draw(rng)[:, None])
        inside += found.low <= truth <= found.high
    assert inside / 600 > 0.91


# pass@k


def test_pass_at_k_by_hand():
    # 1 - C(3, 2) / C(5, 2) = 1 - 3/10; no wrong pair among 5 with 4 correct; none correct
    assert pass_at_k([2, 4, 0], 5, 2) == pytest.approx([0.7, 1, 0])
    assert pass_at_k([1, 3], [2, 4], 1) == pytest.approx([0.5, 0.75])


def test_pass_at_k_is_the_share_of_subsets_with_a_hit():
    for n in range(1, 8):
        for c, k in product(range(n + 1), range(1, n + 1)):
            share = np.mean([min(subset) < c for subset in combinations(range(n), k)])
            assert pass_at_k([c], [n], k) == pytest.approx([share], abs=1e-14)


@pytest.mark.parametrize("c", [0, 1, 2, 40, 2048, 4095, 4096])
@pytest.mark.parametrize("k", [1, 2, 64, 1000, 4095, 4096])
def test_pass_at_k_of_many_samples(c, k):
    exact = 1 - Fraction(math.comb(4096 - c, k), math.comb(4096, k))
    assert pass_at_k([c], [4096], k)[0] == pytest.approx(float(exact), rel=1e-12)


def test_pass_at_k_of_one_in_any_k_is_k_over_n_to_every_digit():
    assert pass_at_k([1], [4096], 3)[0] == pytest.approx(3 / 4096, rel=1e-14)


def test_curve_by_hand():
    found = pass_at_k_curve([[1, 0, 0, 0], [1, 1, 0, 0]], (1, 2, 4), seed=0)
    # k = 1: (1/4 + 1/2) / 2; k = 2: (1 - 3/6 + 1 - 1/6) / 2; k = 4: both 1
    assert found.ks == (1, 2, 4) and found.value == pytest.approx((0.375, 2 / 3, 1))
    # Two questions: a quarter of the resamples each are the lower or the higher one alone.
    assert found.low[:2] == pytest.approx((0.25, 0.5)) and found.high[:2] == pytest.approx((0.5, 5 / 6))
    # The bootstrap has no width at k = 4.
    assert (found.low[2], found.high[2]) == pytest.approx(wilson(2, 2))


def test_curves_band_is_scipys():
    rng = np.random.default_rng(3)
    correct = rng.random((40, 16)) < rng.beta(0.4, 0.8, (40, 1))
    found = pass_at_k_curve(correct, range(1, 17), seed=1)
    assert np.all(np.diff(found.value) >= 0)
    for k in (1, 4, 8):
        passed = pass_at_k(correct.sum(1), 16, k)
        assert found.value[k - 1] == pytest.approx(passed.mean())
        assert (found.low[k - 1], found.high[k - 1]) == pytest.approx(scipys_interval(passed), abs=0.01)


# maj@n


def test_majority_by_hand():
    classes = [["7", "8", "7"], ["7", None, None], ["7", "8"], ["a", "b", "c", "c", "b"], [None, None]]
    truth = [{"7": True, "8": False}, {"7": True}, {"7": False, "8": True}, {"a": True, "b": False, "c": False}, {}]
    # 7 wins; None never wins; a tie shares 0 and 1; b and c tie above a; no answer
    assert maj_at_n(classes, truth).tolist() == [1, 1, 0.5, 0, 0]
    each = [[label is not None and right[label] for label in row] for row, right in zip(classes, truth, strict=True)]
    assert maj_at_n(classes, each).tolist() == [1, 1, 0.5, 0, 0]


def test_samples_of_one_class_that_are_graded_apart_share():
    # a has two samples of which one is correct, b two of which both are: (1/2 + 1) / 2
    assert maj_at_n([["a", "a", "b", "b", "c"]], [[1, 0, 1, 1, 0]]).tolist() == [0.75]


VOTES = st.lists(st.tuples(st.sampled_from([None, 0, 1, 2]), st.booleans()), min_size=1, max_size=7)


@FUZZ
@given(VOTES)
def test_majority_is_the_expectation_of_a_random_tie_break(votes):
    """All tie breaks, each of them then all samples that could stand for the class."""
    sizes = Counter(label for label, _ in votes if label is not None)
    order = [label for label, _ in sizes.most_common()]
    tied = [label for label in order if sizes[label] == sizes[order[0]]]
    expected = Fraction(0)
    for winner in tied:
        of_it = [right for label, right in votes if label == winner]
        expected += Fraction(sum(of_it), len(of_it)) / len(tied)
    labels, right = zip(*votes, strict=True)
    assert maj_at_n([labels], [right])[0] == pytest.approx(float(expected))


# A against B


def test_comparison_by_hand():
    found = compare([1, 1, 0.5], [0, 0.5, 0.5], seed=0)
    # d = 1, 1/2, 0: mean 1/2, sd = sqrt((1/4 + 0 + 1/4) / 2) = 1/2
    assert found.difference == 0.5 and found.se == pytest.approx(0.5 / math.sqrt(3))
    assert (found.wins, found.ties, found.losses) == (2, 1, 0)
    # +-1 +-1/2: two of four sums reach 3/2 in size
    assert found.p == 0.5
    # 1.959964 + 0.841621 = 2.801585
    assert found.detectable == pytest.approx(2.801585 * 0.5 / math.sqrt(3))
    # 27 resamples: one each is (0, 0, 0) or (1, 1, 1), 3.7% > 2.5%
    assert (found.low, found.high) == (0, 1)


GAPS = st.lists(st.integers(-4, 4), min_size=1, max_size=9)


@settings(FUZZ, max_examples=40)
@given(GAPS)
def test_p_is_the_share_of_all_sign_flips(gaps):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "RESAMPLES", 9)  # the interval is not looked at
        found = compare(np.array(gaps) / 3, np.zeros(len(gaps)), seed=0)
        other = compare(np.zeros(len(gaps)), np.array(gaps) / 3, seed=0)
    flips = product((-1, 1), repeat=len(gaps))
    reached = [abs(np.dot(signs, gaps)) >= abs(sum(gaps)) for signs in flips]  # whole numbers: no rounding
    assert found.p == other.p == np.mean(reached)
    assert (found.difference, found.wins, found.losses) == (-other.difference, other.losses, other.wins)
    assert found.wins + found.ties + found.losses == len(gaps)


def test_exact_p_is_scipys():
    gap = np.array([4, 3, -1, 2, 5, -2, 1, 1, 6, -3]) / 8
    theirs = scipy_stats.permutation_test((gap,), np.sum, permutation_type="samples", vectorized=False)
    assert compare(gap, 0 * gap, seed=0).p == pytest.approx(theirs.pvalue)


def test_sums_that_differ_by_rounding_are_ties():
    # 0.1 + 0.2 - 0.3 is 5.6e-17, not 0; every flip reaches 0
    assert compare([0.1, 0.2, 0], [0, 0, 0.3], seed=0).p == 1
    assert compare([0.1 + 0.2], [0.3], seed=0).ties == 1


def test_random_flips_agree_with_all_of_them():
    gap = np.array([3, -1, 2, 5, -4, 1, 1, 2, -3, 2, 4, -2, 1, 3]) / 8  # 14 > EXACT
    flips = 1 - 2 * (np.arange(2**14)[:, None] >> np.arange(14) & 1)
    exact = np.mean(np.abs(flips @ gap) >= gap.sum())
    found = compare(gap, np.zeros(14), seed=5).p
    assert 0.05 < exact < 0.3 and found == pytest.approx(exact, abs=4 * math.sqrt(exact / 9999))
    # 2 of 2^40 flips reach the sum of equal signs: only the data themselves are counted.
    assert compare(np.linspace(0.1, 1, 40), np.zeros(40), seed=5).p == 1 / 10_000


def test_interval_is_scipys_and_depends_on_the_seed_alone():
    rng = np.random.default_rng(2)
    a, b = rng.random(60), rng.random(60) ** 2
    found = compare(a, b, seed=1)
    assert (found.low, found.high) == pytest.approx(scipys_interval(a - b), abs=0.01)
    assert compare(a, b, seed=1) == found != compare(a, b, seed=2)
    assert pass_at_k_curve([[0, 1], [1, 1], [0, 0]], [1], 1) == pass_at_k_curve([[0, 1], [1, 1], [0, 0]], [1], 1)


def test_the_detectable_difference_is_detected_four_times_in_five():
    rng = np.random.default_rng(4)
    gap = scipy_stats.zscore(rng.normal(size=200), ddof=1)  # sd exactly 1
    seen = compare(gap, np.zeros(200), seed=0).detectable + rng.normal(size=(4000, 200))
    z = seen.mean(1) / scipy_stats.sem(seen, axis=1)
    assert (z > 1.96).mean() == pytest.approx(0.8, abs=0.03)  # standard error 0.6%


@pytest.mark.parametrize("gap", [[0, 0, 0], [0.5], [0.25, 0.25]])
def test_no_spread_gives_no_error(gap):
    found = compare(gap, np.zeros(len(gap)), seed=0)
    assert np.isnan([found.se, found.low, found.high, found.detectable]).all()
    # All zero: 1. One: both flips reach it. Two: two of four.
    assert found.p == {3: 1, 1: 1, 2: 0.5}[len(gap)]


# Many comparisons


def test_holm_by_hand():
    # 0.005 * 4, 0.01 * 3, 0.03 * 2, 0.04 * 1 lifted to the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1, 1] and holm([]).size == 0


@FUZZ
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p):
    """Reject i where Bonferroni rejects every set of hypotheses with i in it."""
    sets = [s for size in range(1, len(p) + 1) for s in combinations(range(len(p)), size)]
    closed = [max(min(1, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in range(len(p))]
    assert holm(p) == pytest.approx(closed)


# Lengths and copies


def test_length_quantiles_by_hand():
    # 0, 1, ..., 100 in any order: the q-quantile is 100 q
    assert length_quantiles(np.arange(101)[::-1]) == pytest.approx({0.1: 10, 0.5: 50, 0.9: 90, 0.99: 99})
    assert length_quantiles([[10, 20], [40, 30]], qs=(0.5, 1)) == {0.5: 25, 1: 40}


def test_distinct_share_by_hand():
    # 1/2, 2/2, 2/3
    assert distinct_share([["a", "a"], ["a", "b"], [(1, 2), (1,), (1, 2)]]) == pytest.approx((1 / 2 + 1 + 2 / 3) / 3)


def test_all_equal():
    assert all_equal([["a", "a"], ["b", "b", "b"], ["c"]])
    assert not all_equal([["a", "a"], ["b", "c"]])
    assert not all_equal([["a"], ["b"]])


# What cannot be read


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: mean_with_errors([]), "correct is empty: give at least one question"),
        (lambda: mean_with_errors([[1], []]), r"correct of question 1 is \[\]: give a list of its samples"),
        (lambda: mean_with_errors([1, 0]), "correct of question 0 is 1: give a list"),
        (lambda: mean_with_errors([[1], [0.5]]), r"correct of question 1 is \[0.5\]: give 0 or 1"),
        (lambda: mean_with_errors([[None]]), "give 0 or 1"),
        (lambda: mean_with_errors([["correct"]]), "give 0 or 1"),
        (lambda: mean_with_errors([[math.nan]]), "give 0 or 1"),
        (lambda: mean_with_errors(np.zeros((2, 2, 2))), "give 0 or 1"),
        (lambda: pass_at_k([1, 1], [8, 4], 5), "k = 5 is above n = 4, .* take k <= 4"),
        (lambda: pass_at_k([1], [4], 0), "k = 0: give a whole number of at least 1"),
        (lambda: pass_at_k([5], [4], 1), "c = 5 correct of n = 4 samples"),
        (lambda: pass_at_k([0.5], [4], 1), "c = 0.5 correct"),
        (lambda: pass_at_k_curve([[1, 0]], [1, 4], 0), "k = 4 is above n = 2"),
        (lambda: pass_at_k_curve([[1, 0]], [], 0), "give at least one k"),
        (lambda: maj_at_n([["a"]], []), "classes of 1 questions, correct of 0"),
        (lambda: maj_at_n([["a", "b"]], [[1]]), "question 0 has 2 classes, 1 correct"),
        (lambda: maj_at_n([["a", "b"]], [{"a": True}]), "correct of question 0 lacks the class 'b'"),
        (lambda: maj_at_n([["a"]], [{"a": "yes"}]), r"correct of question 0 is \['yes'\]: give 0 or 1"),
        (lambda: compare([1, 0], [1], 0), r"a has shape \(2,\), b \(1,\)"),
        (lambda: compare([], [], 0), r"a has shape \(0,\)"),
        (lambda: compare([1, math.nan], [1, 1], 0), "a has nan: give finite numbers"),
        (lambda: holm([0.5, 1.5]), r"p_values = \[0.5, 1.5\]: give a list of numbers from 0 to 1"),
        (lambda: holm([math.nan]), "p_values has nan"),
        (lambda: length_quantiles([]), r"lengths = \[\]: give at least one"),
        (lambda: length_quantiles([-1]), "none negative"),
        (lambda: length_quantiles([1], [50]), r"qs = \[50\]: give quantiles from 0 to 1"),
        (lambda: distinct_share(["abc", "abd"]), "texts of question 0 is 'abc': give a list of its samples"),
        (lambda: all_equal([]), "texts is empty"),
    ],
)
def test_bad_input_names_thing_value_and_remedy(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- several at once


def gaps_of(*columns, block="b"):
    return [{(block, i): float(x) for i, x in enumerate(column)} for column in columns]


def test_one_difference_has_the_quantile_of_its_own_bootstrap():
    values = np.random.default_rng(5).normal(0.3, 1, 40)
    ((low, high),) = stats.simultaneous(gaps_of(values), 0)
    se = values.std(ddof=1) / math.sqrt(40)
    assert (low + high) / 2 == pytest.approx(values.mean())
    # A second computation of c: other draws, the same distribution.
    draws = np.random.default_rng(1).integers(40, size=(20_000, 40))
    c = np.quantile(np.abs(values[draws].mean(1) - values.mean()) / se, 0.95)
    assert (high - low) / 2 / se == pytest.approx(c, rel=0.03)


def test_what_hangs_together_is_not_corrected_for_twice():
    values = np.random.default_rng(5).normal(0.3, 1, 40)
    (one,) = stats.simultaneous(gaps_of(values), 0)
    assert stats.simultaneous(gaps_of(values, values, -values), 0)[:2] == [pytest.approx(one)] * 2
    others = np.random.default_rng(6).normal(0, 1, (4, 40))
    wider = stats.simultaneous(gaps_of(values, *others), 0)[0]
    assert wider[0] < one[0] and wider[1] > one[1]
    # Bonferroni's for as many independent ones is the widest it may need: z at 1 - .05 / 10 over z at 1 - .05 / 2.
    assert (wider[1] - wider[0]) / (one[1] - one[0]) == pytest.approx(2.576 / 1.96, rel=0.06)


def test_no_spread_has_no_interval_and_costs_the_others_nothing():
    values = np.random.default_rng(5).normal(0.3, 1, 40)
    (one,) = stats.simultaneous(gaps_of(values), 0)
    same, found = stats.simultaneous(gaps_of(np.full(40, 0.5), values), 0)
    assert np.isnan(same).all() and found == pytest.approx(one)


def test_questions_that_only_some_have_and_two_benchmarks():
    rng = np.random.default_rng(7)
    some = {("a", i): float(x) for i, x in enumerate(rng.normal(size=30)) if i % 3}
    found = stats.simultaneous([*gaps_of(rng.normal(size=30), block="a"), some, *gaps_of(rng.normal(size=9))], 0)
    for gap, (low, high) in zip([20, 9], found[1:], strict=True):
        assert low < high and gap
    assert (found[1][0] + found[1][1]) / 2 == pytest.approx(np.mean(list(some.values())))


def test_all_intervals_hold_at_once(monkeypatch):
    """Four equal models, all six pairs: at most 5% of runs err in any, less four standard deviations of 300 runs.

    Without the correction a quarter of them would.
    """
    monkeypatch.setattr(stats, "RESAMPLES", 400)
    rng, errors, alone = np.random.default_rng(8), 0, 0
    for seed in range(300):
        scores = rng.normal(size=(60, 1)) + rng.normal(size=(60, 4))
        columns = [scores[:, j] - scores[:, i] for i in range(4) for j in range(i + 1, 4)]
        found = stats.simultaneous(gaps_of(*columns), seed)
        errors += any(low > 0 or high < 0 for low, high in found)
        alone += any(abs(c.mean()) > 1.96 * c.std(ddof=1) / math.sqrt(60) for c in columns)
    assert errors <= 15 + 4 * math.sqrt(300 * 0.05 * 0.95) and alone > 2 * errors
