"""Intervals of held-out sets: the question is the unit, seeds are a second level."""

import io
import math

import numpy as np
import pytest
from scipy.stats import binomtest, t

from trapo.runs.folder import RunFolder
from trapo.runs.intervals import held_out, mean_interval, over_questions, wilson
from trapo.runs.progress import print_summary
from trapo.terminal import Console


def line(by_question, each=1, **more):
    values = list(by_question.values())
    return {"reward": float(np.mean(values)), "samples": each * len(values), "by_question": by_question} | more


def solved(*values):
    return {f"q{i}": float(value) for i, value in enumerate(values)}


def test_identical_samples_of_a_question_count_once():
    """100 questions, 30 of them always solved: the interval of 100 draws, whether each is sampled once or 4 times."""
    answers = solved(*[1] * 30, *[0] * 70)
    expected = binomtest(30, 100).proportion_ci(method="wilson")
    for each in (1, 4):
        found = held_out([line(answers, each)])
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert (found.questions, found.name) == (100, "accuracy")
    # A line that knows no questions, of a run that drew 4 samples of each.
    old = held_out([{"reward": 0.3, "samples": 400}], samples_each=4)
    assert (old.low, old.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_samples_that_differ_within_a_question_say_more():
    coin = held_out([line(solved(*[0.5] * 100), 4)])
    assert (coin.low, coin.high) == pytest.approx(wilson(0.5, 400), abs=1e-12)  # no more than independent ones


def test_seeds_that_answer_the_same_questions_are_no_new_questions():
    """Three seeds that solve the same 30 of 100 questions: still 100 draws."""
    answers = line(solved(*[1] * 30, *[0] * 70))
    found = held_out([answers] * 3)
    assert (found.low, found.high) == pytest.approx(wilson(0.3, 100), abs=1e-12)


def test_two_levels_by_hand():
    """Rewards of 2 seeds on 3 questions; variances worked out by hand."""
    x = [[0.0, 0.3, 0.6], [0.4, 0.5, 0.9]]
    found = over_questions(x, 1, share=False)
    # Means: seeds .3, .6; questions .2, .4, .75; all .45. v_q = (.0625 + .0025 + .09) / 2 = .0775; v_s = .045.
    # Left over: -.05, .05, 0 and their opposites: MS_e = .01 / 2 = .005. Parts: .025833, .0225 and .005 / 6 = .000833.
    variance = 0.0775 / 3 + 0.045 / 2 - 0.005 / 6
    df = variance**2 / ((0.0775 / 3) ** 2 / 2 + 0.0225**2 / 1 + (0.005 / 6) ** 2 / 2)
    assert found.value == pytest.approx(0.45)
    assert found.high - found.value == pytest.approx(t.ppf(0.975, df) * math.sqrt(variance), abs=1e-12)
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_coverage_of_seeds_and_questions_is_near_95_percent():
    """Means of 4 seeds on 40 questions, both drawn: the interval holds the true mean in about 95% of the draws."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        x = 0.2 * rng.normal(size=(4, 1)) + rng.normal(size=(1, 40)) + 0.5 * rng.normal(size=(4, 40))
        found = over_questions(x, 1, share=False)
        hits += found.low <= 0 <= found.high
    assert 0.92 <= hits / 400 <= 0.985


@pytest.mark.parametrize("value", [-1.0, 7.5])
def test_rewards_that_are_no_shares_have_a_mean_and_a_name_of_their_own(value, tmp_path):
    one = held_out([{"reward": value, "samples": 100}])
    assert (one.value, one.name) == (value, "mean reward") and math.isnan(one.low) and str(one) == f"{value:.3f}"
    rewards = {f"q{i}": value + (-1) ** i for i in range(100)}
    found = held_out([line(rewards, binary=False)])
    assert (found.low, found.high) == pytest.approx(mean_interval(list(rewards.values()))[1:])
    # A fraction from 0 to 1 is no accuracy either, where the record says so.
    assert held_out([line(solved(0.2, 0.4), binary=False)]).name == "mean reward"


def test_rewards_that_are_all_equal_have_no_interval_and_shares_have_one():
    flat = held_out([line(solved(-1, -1, -1), binary=False)])
    assert flat.value == -1 and math.isnan(flat.low) and math.isnan(flat.high)
    none = held_out([line(solved(0, 0, 0, 0, 0), 4)])
    assert (none.low, none.high) == pytest.approx(wilson(0, 5))


def test_seeds_on_other_questions_are_the_unit():
    lines = [line({f"{seed}{i}": value for i in range(4)}) for seed, value in zip("abc", (0.2, 0.4, 0.6), strict=True)]
    found = held_out(lines)
    assert (found.low, found.high) == (0, pytest.approx(0.4 + t.ppf(0.975, 2) * 0.2 / math.sqrt(3)))


@pytest.mark.parametrize(("share", "n"), [(-0.1, 10), (1.1, 10), (0.5, 0)])
def test_wilson_refuses_what_is_no_share(share, n):
    with pytest.raises(ValueError, match="Wilson's interval is of a share from 0 to 1"):
        wilson(share, n)


def test_the_summary_shows_questions_and_never_crashes_on_negative_rewards(tmp_path):
    folder = RunFolder(tmp_path)
    folder.begin({"config": {"num_generations_eval": 4}})
    rows = [{"stage": "rl", "step": 0, "set": "test[a]", "reward": 0.3, "samples": 400}]
    rows += [{"stage": "rl", "step": 0, "set": "mine", "reward": -1.0, "samples": 400}]
    folder.append("evals.jsonl", rows)
    console = Console(width=200, record=True, file=io.StringIO())
    print_summary(folder, console)
    text = console.export_text()
    low, high = wilson(0.3, 100)
    assert f"0.300 ({low:.3f} to {high:.3f})" in text and "test[a], accuracy" in text
    assert "mine, mean reward" in text and "-1.000" in text and "complex" not in text
