from itertools import product

import pytest

from trapo.method.guidance import MicroGroups, Trace, no_guidance
from trapo.method.presets import PRESETS

TRACE = Trace(tuple(range(100, 120)))


def table(preset, rewards):
    """What the paper's table, or the script's, says of one full reward pattern; written without the code under test."""
    first4, first6, first7 = sum(rewards[:4]), sum(rewards[:6]), sum(rewards[:7])
    if preset == "paper":
        return [False, first4 / 4 < 0.5, first6 / 6 < 0.7, first7 / 7 < 0.9]
    return [False, first4 < 2, first6 < 4, first7 < 7]


@pytest.mark.parametrize("preset", ["paper", "reference"])
def test_decisions_for_all_reward_patterns(preset):
    guidance = PRESETS[preset]
    for rewards in product((0.0, 1.0), repeat=8):
        assert [guidance.guided(i, rewards) for i in range(4)] == table(preset, rewards)


def test_presets_differ_for_4_of_6():
    rewards = [1, 1, 1, 1, 0, 0, None, None]
    assert PRESETS["paper"].guided(2, rewards) is True  # 4/6 = .667 < .7
    assert PRESETS["reference"].guided(2, rewards) is False  # 4 is not < 4


@pytest.mark.parametrize("preset", ["paper", "reference"])
def test_early_decision_is_exact(preset):
    """For every partly known pattern: decided iff all completions agree, and then as they do."""
    guidance = PRESETS[preset]
    for known in product((0.0, 1.0, None), repeat=7):
        rewards = [*known, None]
        for i in range(4):
            earlier = known[: guidance.members(i).start]
            completions = product(*[(0.0, 1.0) if r is None else (r,) for r in earlier])
            outcomes = {table(preset, [*c, *[0.0] * (8 - len(c))])[i] for c in completions}
            expected = outcomes.pop() if len(outcomes) == 1 else None
            assert guidance.guided(i, rewards) is expected


def test_early_decisions_named_in_the_paper_preset():
    guidance = PRESETS["paper"]
    assert guidance.guided(3, [0, *[None] * 7]) is True  # one failure: at best 6/7 < .9
    assert guidance.guided(2, [0, *[None] * 7]) is None
    assert guidance.guided(2, [0, 0, *[None] * 6]) is True  # two failures: at best 4/6 < .7


def test_unbounded_rewards_switch_early_decision_off():
    guidance = PRESETS["paper"]
    assert guidance.guided(1, [0, 0, 0, None], bounded=False) is None
    assert guidance.guided(1, [0, 0, 0, 5.0], bounded=False) is False


def test_plan_by_hand():
    plans = PRESETS["paper"].plan([1, 0, 0, 0, 1, 1, 0, None], [TRACE])
    assert [p.micro_group for p in plans] == [0, 0, 0, 0, 1, 1, 2, 3]
    assert [p.length for p in plans] == [0, 0, 0, 0, 4, 4, 10, 20]  # 1/4 < .5; 3/6 < .7; 3/7 < .9
    assert [p.ratio for p in plans] == [0, 0, 0, 0, 0.2, 0.2, 0.5, 1.0]
    assert [p.expert for p in plans] == [False] * 4 + [
        True,
        False,
        True,
        True,
    ]  # the twin's prefix is not trained again
    assert PRESETS["paper"].plan([1] * 4 + [None] * 4, [TRACE])[4].length == 0
    assert PRESETS["paper"].plan([None] * 8, [TRACE])[4:] == [None] * 4


def test_without_a_trace_all_samples_are_plain():
    plans = PRESETS["paper"].plan([0.0] * 8, [])
    assert [p.length for p in plans] == [0] * 8 and not any(p.expert for p in plans)


def test_reference_shows_the_second_trace_last_and_the_first_where_there_is_one_only():
    other = Trace(tuple(range(7)))
    assert [p.trace for p in PRESETS["reference"].plan([0.0] * 8, [TRACE, other])] == [0, 0, 0, 0, 0, 0, 0, 1]
    assert [p.length for p in PRESETS["reference"].plan([0.0] * 8, [TRACE, other])][4:] == [5, 5, 10, 7]
    assert [p.trace for p in PRESETS["reference"].plan([0.0] * 8, [TRACE])][-1] == 0


def test_equal_prefixes_of_two_micro_groups_are_trained_once():
    guidance = MicroGroups((1, 1, 1), (0.0, 0.5, 0.5), (-1.0, 2.0, 2.0))
    assert [p.expert for p in guidance.plan([0.0] * 3, [TRACE])] == [False, True, False]


@pytest.mark.parametrize(
    ("blank", "length"),
    [
        ((), 5),  # no blank line: int(.25 * 20)
        ((5,), 5),  # at the cut, not behind it
        ((6,), 7),  # behind it and before (.25 + .3) * 20 = 11: up to and with the blank line
        ((10,), 11),
        ((11,), 5),  # not before 11
        ((2, 8, 9), 9),  # the first behind the cut
    ],
)
def test_reference_prefix_ends_at_a_near_blank_line(blank, length):
    assert PRESETS["reference"].prefix_length(0.25, Trace(TRACE.ids, blank)) == length


def test_exact_prefix_end_and_whole_demonstration():
    assert PRESETS["paper"].prefix_length(0.2, Trace(tuple(range(9)), (2,))) == 1  # int(1.8)
    assert PRESETS["paper"].prefix_length(1.0, TRACE) == 20


def test_no_guidance_is_one_plain_micro_group():
    plans = no_guidance(8).plan([None] * 8, [TRACE])
    assert [p.length for p in plans] == [0] * 8 and not no_guidance(8).guides and PRESETS["paper"].guides


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((4, 4), (0.0,), (-1.0, 0.5)), "ratios"),
        (((4, 4), (0.0, 0.5), (-1.0,)), "thresholds"),
        (((4, 4), (0.2, 0.5), (-1.0, 0.5)), "begin with 0"),
        (((4, 0), (0.0, 0.5), (-1.0, 0.5)), "positive"),
        (((4, 4), (0.0, 1.5), (-1.0, 0.5)), r"\[0, 1\]"),
        (((4, 4), (0.0, 0.5), (-1.0, 0.5), "median"), "median"),
        (((4, 4), (0.0, 0.5), (-1.0, 0.5), "mean", "word"), "word"),
        (((4, 4), (0.0, 0.5), (-1.0, 0.5), "mean", "exact", (0,)), "traces"),
        (((4, 4), (0.0, 0.5), (-1.0, 0.5), "mean", "exact", (0, -1)), "counted from 0"),
    ],
)
def test_bad_micro_groups_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MicroGroups(*arguments)
