"""Edges of guidance that whole patterns of rewards do not reach: one token, one sample, ratio 1, frozen plans."""

from dataclasses import FrozenInstanceError

import pytest
import torch

from trapo.method.advantage import Groups, srft_factor
from trapo.method.guidance import MicroGroups, RowPlan, Trace, no_guidance
from trapo.method.presets import PRESETS, ShortestPrefix

ONE, TEN = Trace((7,)), Trace(tuple(range(10)), (3, 8))


@pytest.mark.parametrize("value", [RowPlan(0), Trace((1,)), no_guidance(2), PRESETS["shortest-prefix"]])
def test_plans_traces_and_guidances_do_not_change(value):
    name = next(iter(vars(value)))
    with pytest.raises(FrozenInstanceError):
        setattr(value, name, getattr(value, name))
    assert hash(value) == hash(type(value)(**vars(value)))


def test_a_prefix_of_a_single_token_is_trained_once():
    plans = MicroGroups((1, 2), (0.0, 1.0), (-1.0, 0.5)).plan([0.0, None, None], [ONE])
    assert [(plan.length, plan.expert) for plan in plans] == [(0, False), (1, True), (1, False)]


def test_one_guided_sample_takes_rl_away_from_the_whole_group():
    guidance = MicroGroups((2, 1), (0.0, 1.0), (-1.0, 0.5), rl_beside_guided=False)
    assert [plan.rl for plan in guidance.plan([0.0, 0.0, None], [TEN])] == [False, False, False]
    assert [plan.rl for plan in guidance.plan([1.0, 1.0, None], [TEN])] == [True, True, True]
    undecided = guidance.plan([0.0, None, None], [TEN])
    assert undecided[2] is None and [plan.rl for plan in undecided[:2]] == [True, True]


@pytest.mark.parametrize(
    ("end", "ratio", "length"),
    [
        ("exact", 0.0, 0), ("exact", 0.05, 0), ("exact", 0.1, 1), ("exact", 0.99, 9), ("exact", 1.0, 10),
        ("blank-line", 0.0, 0), ("blank-line", 0.1, 4), ("blank-line", 0.2, 4), ("blank-line", 0.3, 3),
        ("blank-line", 0.5, 5), ("blank-line", 0.6, 9), ("blank-line", 0.8, 8), ("blank-line", 1.0, 10),
    ],
)  # fmt: skip
def test_where_a_prefix_ends(end, ratio, length):
    """Blank lines are tokens 3 and 8 of ten: a cut moves behind the next one that is before (ratio + 0.3) x 10."""
    guidance = MicroGroups((1, 1), (0.0, 1.0), (-1.0, 0.5), prefix_end=end)
    assert guidance.prefix_length(ratio, TEN) == length


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sizes": (), "ratios": (), "thresholds": ()}, "must be positive"),
        ({"sizes": (1, 0)}, "must be positive"),
        ({"ratios": (0.1, 1.0)}, "must begin with 0"),
        ({"ratios": (0.0, 1.01)}, "must lie in"),
        ({"ratios": (0.0, -0.01)}, "must lie in"),
        ({"ratios": (0.0,)}, "one value per micro-group"),
        ({"traces": (0,)}, "one value per micro-group"),
        ({"traces": (0, -1)}, "counted from 0"),
        ({"compare": "max"}, "'mean' or 'sum'"),
        ({"prefix_end": "end"}, "'exact' or 'blank-line'"),
    ],
)
def test_a_guidance_that_is_none_is_refused(changes, said):
    fields = {"sizes": (1, 1), "ratios": (0.0, 1.0), "thresholds": (-1.0, 0.5)} | changes
    with pytest.raises(ValueError, match=said):
        MicroGroups(**fields)
    MicroGroups((1, 1), (0.0, 1.0), (-1.0, 0.5), traces=(0, 0))  # the edges that are allowed
    MicroGroups((1, 1), (0.0, 0.0), (-1.0, 0.5))


def test_a_search_for_the_shortest_prefix_step_by_step():
    """Halving by hand: no plain sample is right; half of ten works, a quarter does not, three eighths does."""
    guidance, plain = ShortestPrefix(), [0.0] * 4
    plans = guidance.plan([*plain, 1.0, 0.0, 1.0, None], [TEN])
    assert [plan.ratio for plan in plans[4:]] == [0.5, 0.25, 0.375, 0.3125]
    assert [plan.length for plan in plans[4:]] == [5, 2, 3, 3]
    assert [plan.expert for plan in plans[4:]] == [True, True, True, False]  # the last shows what the third showed
    one = guidance.plan([*plain, 0.0, 0.0, 0.0, None], [ONE])
    assert [plan.length for plan in one[4:]] == [0, 0, 0, 0] and not any(plan.expert for plan in one)
    assert guidance.plan([0.5, 0, 0, 0, None, None, None, None], [TEN])[4:] == [RowPlan(i) for i in range(1, 5)]
    assert guidance.plan([0.49, 0, 0, 0, None, None, None, None], [TEN])[5:] == [None] * 3
    assert guidance.plan([*plain, 0.5, None, None, None], [TEN])[5].ratio == 0.25


def test_what_a_sample_may_turn_out_to_be():
    guidance = PRESETS["shortest-prefix"]
    assert set(guidance.branches(4, [TEN])) == {False, True} and set(guidance.branches(5, [TEN])) == {False}
    assert PRESETS["paper"].branches(4, [TEN])[True] == RowPlan(1, 0.2, 0, 2)


def test_advantages_at_their_edges():
    """A single plain sample is its own mean; an advantage of 0 is no right sample's."""
    groups = Groups(torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([[False, True, True]]), torch.zeros(1, 3))
    assert groups.above_plain.tolist() == [[0.0, -0.5, -1.0]]
    assert srft_factor(torch.zeros(1), torch.ones(1)).tolist() == [1.0]
    with pytest.raises(FrozenInstanceError):
        groups.rewards = groups.guided
