"""The scheduler against a brute-force reading of the method, on an engine and a judge that are slow in random ways."""

import os
import random
import signal
from collections import Counter

import conftest
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow import ClockEngine, SlowJudge, facts, groups, reward_of, roll, sample_of

from trapo.choices import SCHEDULES
from trapo.grading.grader import Grader
from trapo.method.guidance import no_guidance
from trapo.method.presets import PRESETS
from trapo.rollout.engines.base import Request
from trapo.rollout.engines.torch import TorchEngine
from trapo.rollout.rewards import GraderJudge
from trapo.rollout.scheduler import Rollout, sample_seed
from trapo.rollout.types import Group, Row


def by_definition(n, preset="paper"):
    """The method read off its definition: micro-group after micro-group, each prompt by itself, no scheduler."""
    guidance, found = PRESETS[preset], []
    for group in groups(n):
        rows = []
        for i in range(len(guidance.sizes)):
            earlier = [row.reward for row in rows]
            total = sum(earlier) / len(earlier) if earlier and guidance.compare == "mean" else sum(earlier)
            guided = bool(group.traces) and bool(earlier) and total < guidance.thresholds[i]
            for index in guidance.members(i):
                plans = guidance.branches(index, group.traces) if group.traces else {}
                plan = plans[True] if guided else None
                length = plan.length if plan else 0
                prefix = group.traces[plan.trace].ids[:length] if plan else ()
                seed = sample_seed(1, 5, group.prompt_id, index, length > 0)
                row = Row(group, index, plan, seed, prefix)
                if not (plan and plan.ratio == 1):
                    row.own_ids, row.finish = sample_of(Request(group.prompt_ids + prefix, 16 - length, seed)), "stop"
                row.reward = reward_of(row)
                rows.append(row)
        found.append([(r.seed, r.prefix_ids, r.own_ids, r.reward, r.finish) for r in rows])
    return found


@pytest.mark.parametrize("preset", ["paper", "reference"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_is_the_method_as_it_is_defined(schedule, preset):
    rows, _ = roll(schedule, preset=preset)
    assert [[fact[1:] for fact in group] for group in facts(rows)] == by_definition(30, preset)
    assert len({row.finish for group in rows for row in group}) == 2  # demonstrations among them


@given(
    schedule=st.sampled_from(SCHEDULES),
    slots=st.integers(1, 40),
    delay=st.integers(0, 12),
    newest_first=st.booleans(),
    bounded=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_samples_depend_on_no_delay_capacity_order_or_schedule(schedule, slots, delay, newest_first, bounded, seed):
    engine, judge = ClockEngine(slots, newest_first), SlowJudge(random.Random(seed), delay)
    rows, rollout = roll(schedule, engine, judge, n=12, bounded=bounded)
    assert [[fact[1:] for fact in group] for group in facts(rows)] == by_definition(12)
    assert facts(rows) == facts(roll("barrier", n=12)[0])  # plans too
    assert not engine.running and not engine.waiting and not judge.rows
    assert sorted(map(id, judge.judged)) == sorted(id(row) for group in rows for row in group)  # winners only, once
    drawn = sum(row.finish != "demonstration" for group in rows for row in group)
    assert len(engine.asked) >= drawn
    if schedule != "speculative":
        assert len(engine.asked) == drawn and rollout.cost.aborted_tokens == 0 and not engine.aborted


def test_schedules_wait_less_and_less():
    polls = {}
    for schedule in SCHEDULES:
        engine = ClockEngine(slots=400)
        roll(schedule, engine)
        polls[schedule] = engine.polls
    assert polls["speculative"] <= 9 < polls["pipelined"] < polls["barrier"] <= 4 * 9


def test_speculation_pays_in_tokens_that_are_counted():
    engine = ClockEngine(slots=400)
    rows, rollout = roll("speculative", engine)
    own = sum(len(row.own_ids) for group in rows for row in group)
    lost = rollout.cost.aborted_tokens
    assert 0 < lost < own
    asked = sum(len(sample_of(request)) for request in engine.asked)
    assert own + lost <= asked  # an aborted request was not drawn to its end
    assert len(engine.asked) > sum(row.finish != "demonstration" for group in rows for row in group)


def test_a_full_engine_does_not_bet():
    engine = ClockEngine(slots=4)
    roll("speculative", engine, n=30)
    plain = ClockEngine(slots=4)
    roll("pipelined", plain, n=30)
    assert len(engine.asked) - len(plain.asked) < 12 and engine.polls <= plain.polls * 1.02


def test_rows_are_what_the_plan_says():
    for group in roll("pipelined")[0]:
        rewards = [row.reward for row in group]
        for row, plan in zip(group, PRESETS["paper"].plan(rewards, group[0].group.traces), strict=True):
            assert row.plan == plan
            assert row.prefix_ids == (row.group.traces[0].ids[: plan.length] if plan.length else ())
            assert (row.finish == "demonstration") == (plan.ratio == 1) == (row.own_ids == ())
            assert len(row.completion_ids) <= 16


def test_whole_demonstrations_cost_the_engine_nothing_and_prefixes_shorten_the_rest():
    engine = ClockEngine()
    rows = [row for group in roll("barrier", engine)[0] for row in group]
    assert len(engine.asked) == sum(row.finish != "demonstration" for row in rows) < len(rows)
    assert {len(r.ids) - 2 + r.max_tokens for r in engine.asked} == {16}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_an_exception_leaves_nothing_in_flight(schedule):
    class Broken(SlowJudge):
        def collect(self, wait):
            if len(self.judged) > 20:
                raise RuntimeError("the reward function failed")
            return super().collect(wait)

    engine = ClockEngine(slots=64)
    with pytest.raises(RuntimeError, match="the reward function failed"):
        roll(schedule, engine, Broken(random.Random(0), 0))
    assert not engine.running and not engine.waiting


def test_an_exception_leaves_no_answer_to_a_later_rollout():
    """A grader outlives its rollouts: what it was given in one that failed must not turn up in the next."""
    made = [Group(f"p{i}", (1, i), [], {"prompt": "x", "answer": "0.5"}) for i in range(4)]
    with Grader(workers=1) as grader:
        judge = GraderJudge(grader, lambda row: r"\boxed{1/2}" if row.index else r"\boxed{1/3}")
        for row in [Row(group, 0, None, 0, ()) for group in made]:
            judge.submit(row)
        judge.abort()
        again = GraderJudge(grader, lambda row: r"\boxed{1/2}")
        rollout = Rollout(made, no_guidance(2), ClockEngine(8), again, seed=1, step=1, max_tokens=16)
        rows = [row for group in rollout.run() for row in group]
    assert [row.status for row in rows] == ["correct"] * 8 and not grader.collect()


def test_answers_that_hang_or_eat_memory_and_workers_that_die_cost_one_sample_each():
    texts = {
        ("p0", 0): r"\boxed{(10^9)!}",
        ("p1", 1): r"\boxed{9^{9^{9^{9}}}}",
        ("p2", 2): r"\boxed{\frac{2}{4}}",
    }

    class Slow(Grader):
        """By the papers' grading, which computes what ours decides without."""

        def submit(self, key, text, gold, quick=True, reference=False):
            super().submit(key, text, gold, quick, reference=True)

    with Slow(workers=2, cpu_seconds=2, memory_mb=512) as grader:

        def decode(row):
            place = (row.group.prompt_id, row.index)
            if place == ("p2", 2):
                for worker in list(grader._pool.workers.values()):  # whatever they are at
                    if worker.pid:
                        os.kill(worker.pid, signal.SIGKILL)
            return texts.get(place, r"\boxed{1/2}" if row.index % 2 else r"\boxed{1/3}")

        made = [Group(f"p{i}", (1, i), [], {"prompt": "x", "answer": "0.5"}) for i in range(6)]
        rollout = Rollout(
            made, no_guidance(8), ClockEngine(64), GraderJudge(grader, decode), seed=1, step=5, max_tokens=16
        )
        rows = [row for group in rollout.run() for row in group]
    assert len(rows) == 48 and all(row.reward is not None for row in rows)
    counts = Counter(row.status for row in rows)
    assert rows[0].status in ("timeout", "error")  # its worker may be the one that was killed
    assert rows[9].status in ("timeout", "error")
    assert 2 <= counts["timeout"] + counts["error"] <= 4  # two workers were killed, in the middle of something or not
    assert counts["correct"] >= 20 and counts["wrong"] >= 20 and sum(counts.values()) == 48


def test_the_torch_engine_draws_the_same_bits_under_every_schedule(autocast):
    model = conftest.new_model()
    found = []
    for schedule, slots in [
        ("barrier", 64),
        ("pipelined", 64),
        ("speculative", 64),
        ("speculative", 11),
        ("pipelined", 5),
    ]:
        engine = TorchEngine(model, [256], 257, slots=slots)
        rows, rollout = roll(schedule, engine, SlowJudge(random.Random(slots), 3), n=14)
        found.append(facts(rows))
        assert engine.free == engine.slots
    assert all(other == found[0] for other in found[1:])
    assert rollout.cost.polls > 0


def test_seeds_tell_samples_apart_and_nothing_else():
    keys = [(s, t, p, i, g) for s in (0, 1) for t in (0, 1) for p in ("a", "b") for i in (0, 1) for g in (False, True)]
    seeds = [sample_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys) and all(0 <= s < 2**63 for s in seeds)
    assert seeds == [sample_seed(*key) for key in keys]
    assert sample_seed(0, 1, "2", 3, False) != sample_seed(0, 12, "", 3, False)
