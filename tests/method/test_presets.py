"""Guidance of other papers: prefixes by lot, ever shorter hints, the search for the shortest prefix."""

import random
from collections import Counter

import numpy as np
import pytest
from slow import ClockEngine, SlowJudge, groups, reward_of, sample_of

from trapo.choices import SCHEDULES
from trapo.config import TRAPOConfig
from trapo.method.guidance import Trace
from trapo.method.presets import PRESETS, AnnealedHint, SampledPrefix, ShortestPrefix, cosine
from trapo.recipe import load_recipe
from trapo.rollout.engines.base import Request
from trapo.rollout.scheduler import Rollout, sample_seed
from trapo.rollout.types import Row

TRACE = Trace(tuple(range(20)))


def test_the_cosine_by_hand():
    assert [cosine(0.95, 0.05, x) for x in (0, 0.5, 1)] == pytest.approx([0.95, 0.5, 0.05])
    assert cosine(0.9, 0.1, 1 / 3) == pytest.approx(0.1 + 0.8 * 0.75)  # cos(pi / 3) = 1/2


def test_a_sampled_prefix_is_uniform_above_a_bound_that_falls():
    ratio = lambda progress, draw: SampledPrefix().at(progress, draw).ratios[1]  # noqa: E731
    assert [ratio(0.0, 0.0), ratio(0.0, 0.7)] == pytest.approx([0.95, 0.95])
    assert [ratio(1.0, 0.0), ratio(1.0, 0.5)] == pytest.approx([0.05, 0.5])
    plans = SampledPrefix().at(1.0, 0.51).plan([None] * 8, [TRACE])
    assert [p.length for p in plans] == [0] * 7 + [10] and plans[7].expert and plans[7].rl


def test_a_hint_is_binomial_and_ends():
    lengths = [AnnealedHint().at(0.3, draw / 2000).plan([None] * 8, [TRACE])[0].length for draw in range(2000)]
    assert np.mean(lengths) == pytest.approx(10, abs=0.2)  # half-way: p = .5 of 20 tokens
    assert np.var(lengths) == pytest.approx(5, abs=0.6)  # n p (1 - p)
    plans = AnnealedHint().at(0.3, 0.25).plan([None] * 8, [TRACE])
    assert len({p.length for p in plans}) == 1 and [p.expert for p in plans] == [True] + [False] * 7
    assert AnnealedHint().at(0.6, 0.25).plan([None] * 8, [TRACE])[0].length == 0
    assert "draw" not in AnnealedHint().at(0.3, 0.25).settings()


def test_a_hint_of_five_pieces_is_of_fifths_and_often_all_or_nothing():
    """UFT's code: a whole solution in p^5 of the prompts, nothing in (1 - p)^5, at p of steps 1, 75, 225 of 300."""
    n = 4000

    def shares(step):
        hint = AnnealedHint(pieces=5, ratio_share=1.0)
        plans = [hint.at(step / 300, draw / n).plan([None] * 8, [TRACE])[0] for draw in range(n)]
        return Counter(plan.length for plan in plans)

    first, quarter, late = shares(1), shares(75), shares(225)
    assert set(first) | set(quarter) | set(late) == {0, 4, 8, 12, 16, 20}
    assert first[20] / n == pytest.approx(0.95**5, abs=0.02)  # .774
    p = 0.05 + 0.45 * (1 + np.cos(np.pi / 4))  # .818, and 1 - p at step 225
    assert quarter[20] / n == pytest.approx(p**5, abs=0.03) == late[0] / n  # .367
    assert shares(300) == {0: n}
    short = Trace(tuple(range(3)))  # as many pieces as there are
    lengths = {AnnealedHint(pieces=5).at(0.3, i / 50).plan([None] * 8, [short])[0].length for i in range(50)}
    assert lengths == {0, 1, 2, 3}
    uneven = Trace(tuple(range(12)))  # rounded as the code does: 2.4, 4.8, 7.2, 9.6
    lengths = {AnnealedHint(pieces=5).at(0.3, i / 200).plan([None] * 8, [uneven])[0].length for i in range(200)}
    assert lengths == {0, 2, 5, 7, 10, 12}


def test_the_search_halves_what_failed_and_what_succeeded():
    plan = ShortestPrefix().plan
    lengths = lambda rewards: [p and p.length for p in plan(rewards, [TRACE])][4:]  # noqa: E731
    assert lengths([0, 0, 0, None, None, None, None, None]) == [None] * 4
    assert lengths([0, 0, 1, None, None, None, None, None]) == [0] * 4  # one succeeded: all the others are plain
    assert lengths([0, 0, 0, 0, None, None, None, None]) == [10, None, None, None]
    assert lengths([0, 0, 0, 0, 0, None, None, None]) == [10, 15, None, None]
    assert lengths([0, 0, 0, 0, 1, None, None, None]) == [10, 5, None, None]
    assert lengths([0, 0, 0, 0, 1, 0, 1, 0]) == [10, 5, 7, 6]  # .5, .25, .375, .3125 of 20
    assert lengths([0] * 8) == [10, 15, 17, 18]
    assert [p.length for p in plan([0] * 8, [])] == [0] * 8


def test_without_rl_beside_it_a_guided_prompt_is_left_to_the_experts_loss():
    hpt = TRAPOConfig(
        output_dir="unused", micro_group_sizes=[7, 1], prefix_ratios=[0, 1], thresholds=[-1, 0.01],
        rl_beside_guided=False, expert_weight="sft", use_cpu=True,
    ).micro_groups()  # fmt: skip
    failed = hpt.plan([0.0] * 8, [TRACE])
    assert [p.rl for p in failed] == [False] * 8 and failed[7].length == 20 and failed[7].expert
    solved = hpt.plan([0.0] * 6 + [1.0, 0.0], [TRACE])
    assert [p.rl for p in solved] == [True] * 8 and solved[7].length == 0


def test_hpts_gates():
    """Switched if none of the 7 is right; with Llama's gate, 2 of 8, as long as at most 2 of the 7 are."""
    hpt = TRAPOConfig(output_dir="unused", use_cpu=True, **load_recipe("hpt-reference")).micro_groups()
    llama = TRAPOConfig(output_dir="unused", use_cpu=True, **load_recipe("hpt-reference") | {"thresholds": [-1, 0.36]})

    def switched(groups):
        found = []
        for right in range(8):
            plans = groups.plan([1.0] * right + [0.0] * (8 - right), [TRACE])
            assert plans[7].rl == (plans[7].length == 0) == all(plan.rl for plan in plans)
            found.append(plans[7].length > 0)
        return found

    assert switched(hpt) == [True] + [False] * 7
    assert switched(llama.micro_groups()) == [True] * 3 + [False] * 5


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"ratio_start": 0.5}, "guidance 'paper' has no ratio_start"),
        ({"guidance": "sampled-prefix", "ratio_share": 0.5}, "guidance 'sampled-prefix' has no ratio_share"),
        ({"guidance": "none", "expert_weight": "none", "ratio_end": 0.5}, "guidance='none' ignores ratio_end"),
        ({"advantage": "mine"}, "advantage 'mine' is unknown"),
        ({"entropy_share": 0.0}, "entropy_share is 0.0"),
        ({"hint_pieces": 5}, "guidance 'paper' has no pieces"),
        ({"guidance": "annealed-hint", "hint_pieces": 0}, "hint_pieces is 0, but must be at least 1"),
        ({"grader": "lufy"}, "grader 'lufy' is unknown; choose one of own, reference, luffy"),
        ({"expert_reduction": "rows"}, "expert_reduction 'rows' is unknown; choose one of joint, tokens"),
        ({"expert_reduction": "tokens", "loss_type": "grpo"}, "loss_type 'grpo' has a denominator per row"),
        ({"entropy_tokens": "all"}, "entropy_tokens 'all' is unknown; choose one of own, trained, response"),
        ({"failed_order": "last"}, "failed_order 'last' is unknown; choose one of oldest, newest"),
        ({"updates_per_rollout": 0}, "updates_per_rollout is 0, but must be at least 1"),
        ({"updates_per_rollout": 2, "steps_per_generation": 2}, "updates_per_rollout is 2, but steps_per_generation"),
        ({"skip_grad_norm": -1.0}, "skip_grad_norm is -1.0, but must not be negative"),
    ],
)
def test_what_a_guidance_does_not_have_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TRAPOConfig(output_dir="unused", use_cpu=True, **fields)


# ------------------------------------------------------------------ the scheduler


def shortest(rewards):
    """The search a second time: the share of the trace of the next guided sample."""
    tried = [0.0, 1.0]
    for reward in rewards:
        middle = (tried[0] + tried[1]) / 2
        tried = [tried[0], middle] if reward else [middle, tried[1]]
    return (tried[0] + tried[1]) / 2


def by_definition(preset, progress):
    """Sample after sample, each prompt by itself, no scheduler."""
    found = []
    for group in groups(30):
        rows, draw = [], sample_seed(1, 5, group.prompt_id, -1, False) / 2**63
        for index in range(8):
            trace = group.traces[0].ids if group.traces else ()
            length = 0
            if trace and preset == "sampled-prefix" and index == 7:
                low = cosine(0.95, 0.05, progress)
                length = int((low + (0.95 - low) * draw) * len(trace))
            if trace and preset == "annealed-hint" and progress < 0.6:
                p = cosine(0.95, 0.05, progress / 0.6)
                length = np.random.default_rng(int(draw * 2**53)).binomial(len(trace), p)
            if trace and preset == "shortest-prefix" and index >= 4 and not any(r.reward for r in rows[:4]):
                length = int(shortest([row.reward for row in rows[4:]]) * len(trace))
            seed = sample_seed(1, 5, group.prompt_id, index, length > 0)
            row = Row(group, index, None, seed, trace[:length])
            row.own_ids = sample_of(Request(group.prompt_ids + trace[:length], 16 - length, seed))
            row.reward = reward_of(row)
            rows.append(row)
        found.append([(r.prefix_ids, r.own_ids, r.reward) for r in rows])
    return found


@pytest.mark.parametrize("preset", ["sampled-prefix", "annealed-hint", "shortest-prefix"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "progress, slots, delay, newest", [(0.0, 16, 0, False), (0.4, 5, 7, True), (0.9, 40, 3, False)]
)
def test_every_schedule_draws_what_the_guidance_says(preset, schedule, progress, slots, delay, newest):
    engine, judge = ClockEngine(slots, newest), SlowJudge(random.Random(3), delay)
    rollout = Rollout(
        groups(30), PRESETS[preset], engine, judge, seed=1, step=5, max_tokens=16, schedule=schedule, progress=progress
    )
    rows = rollout.run()
    found = [[(r.prefix_ids, r.own_ids, r.reward) for r in group] for group in rows]
    assert found == by_definition(preset, progress)
    assert not engine.running and not engine.waiting and not judge.rows
    if preset == "shortest-prefix":
        assert len(Counter(len(r.prefix_ids) for group in rows for r in group)) >= 5  # the search went both ways
