import random

from trapo.engines.torch_engine import Request, Sample
from trapo.guidance import PRESETS, Trace
from trapo.rollout import Group, roll_out, sample_seed


class FakeEngine:
    """Tokens and lengths are a pure function of the request; every call is remembered."""

    def __init__(self):
        self.calls: list[list[Request]] = []

    def generate(self, requests):
        self.calls.append(requests)
        samples = []
        for request in requests:
            rng = random.Random(repr((request.ids, request.seed)))
            n = rng.randint(1, min(request.max_tokens, 9))
            samples.append(Sample(tuple(rng.randrange(100) for _ in range(n)), "stop"))
        return samples


def grade(rows):
    for row in rows:
        row.reward = float(sum(row.completion_ids) % 3 == 0)
        row.rewards, row.status = [row.reward], "correct" if row.reward else "wrong"


def roll(schedule, engine, n=30, **kwargs):
    groups = [
        Group(f"p{i}", (1, i), [] if i % 7 == 6 else [Trace(tuple(range(i, i + 11)))], {"prompt": "x"})
        for i in range(n)
    ]
    arguments = {"seed": 1, "step": 5, "max_tokens": 16} | kwargs
    return roll_out(groups, PRESETS["paper"], engine, grade, schedule=schedule, **arguments)[0]


def facts(rows):
    return [[(r.plan, r.seed, r.prefix_ids, r.own_ids, r.reward, r.finish) for r in group] for group in rows]


def test_every_schedule_draws_the_same_samples():
    barrier, rounds = FakeEngine(), FakeEngine()
    assert facts(roll("barrier", barrier)) == facts(roll("rounds", rounds))
    assert len(barrier.calls) == 4
    # decided early: whatever one failure settles is drawn in the second round already
    assert sum(len(call) for call in rounds.calls[:2]) > sum(len(call) for call in barrier.calls[:2])
    assert facts(roll("rounds", FakeEngine(), bounded=False)) == facts(roll("barrier", FakeEngine()))


def test_rows_are_what_the_plan_says():
    for group in roll("rounds", FakeEngine()):
        rewards = [row.reward for row in group]
        for row, plan in zip(group, PRESETS["paper"].plan(rewards, group[0].group.traces), strict=True):
            assert row.plan == plan
            assert row.prefix_ids == (row.group.traces[0].ids[: plan.length] if plan.length else ())
            assert (row.finish == "demonstration") == (plan.ratio == 1) == (row.own_ids == ())
            assert len(row.completion_ids) <= 16


def test_whole_demonstrations_cost_the_engine_nothing_and_prefixes_shorten_the_rest():
    engine = FakeEngine()
    rows = [row for group in roll("barrier", engine) for row in group]
    asked = [request for call in engine.calls for request in call]
    assert len(asked) == sum(row.finish != "demonstration" for row in rows) < len(rows)
    assert {len(r.ids) - 2 + r.max_tokens for r in asked} == {16}


def test_seeds_tell_samples_apart_and_nothing_else():
    keys = [(s, t, p, i, g) for s in (0, 1) for t in (0, 1) for p in ("a", "b") for i in (0, 1) for g in (False, True)]
    seeds = [sample_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys) and all(0 <= s < 2**63 for s in seeds)
    assert seeds == [sample_seed(*key) for key in keys]
    assert sample_seed(0, 1, "2", 3, False) != sample_seed(0, 12, "", 3, False)
