"""An engine and a judge that are slow in random ways, and rollouts on them."""

import random

from trapo.method.guidance import Trace
from trapo.method.presets import PRESETS
from trapo.rollout.engines.base import Sample
from trapo.rollout.scheduler import Rollout
from trapo.rollout.types import Group


class ClockEngine:
    """One token per running request and poll; tokens and lengths are a pure function of the request."""

    def __init__(self, slots=16, newest_first=False):
        self.slots, self.newest_first = slots, newest_first
        self.waiting, self.running, self.asked, self.aborted, self.polls = [], {}, [], [], 0

    @property
    def free(self):
        return self.slots - len(self.running) - len(self.waiting)

    def submit(self, request):
        self.asked.append(request)
        self.waiting.append(len(self.asked) - 1)
        return len(self.asked) - 1

    def poll(self):
        while self.waiting and len(self.running) < self.slots:
            self.running[self.waiting.pop(-1 if self.newest_first else 0)] = 0
        assert self.running, "polled with nothing to do"
        self.polls += 1
        ended = {}
        for key in list(self.running):
            self.running[key] += 1
            tokens = sample_of(self.asked[key])
            if self.running[key] == len(tokens):
                del self.running[key]
                ended[key] = Sample(tokens, "stop")
        return ended

    def abort(self, key):
        self.aborted.append(key)
        if key in self.waiting:
            self.waiting.remove(key)
            return 0
        return self.running.pop(key)


def sample_of(request):
    rng = random.Random(repr((request.ids, request.seed)))
    return tuple(rng.randrange(100) for _ in range(rng.randint(1, min(request.max_tokens, 9))))


def reward_of(row):
    return float(sum(row.completion_ids) % 3 == 0)


class SlowJudge:
    """Each row is judged after a random number of `collect` calls; with `wait`, the first of them at once."""

    early = True

    def __init__(self, rng, delay):
        self.rng, self.delay, self.rows, self.judged = rng, delay, [], []

    def submit(self, row):
        assert row.reward is None
        self.rows.append([self.rng.randint(0, self.delay), row])

    def collect(self, wait):
        assert not wait or self.rows, "waits for ever"
        done = []
        for entry in list(self.rows):
            if entry[0] == 0 or (wait and not done):
                self.rows.remove(entry)
                row = entry[1]
                row.reward, row.status = reward_of(row), "scored"
                row.rewards = [row.reward]
                done.append(row)
                self.judged.append(row)
            else:
                entry[0] -= 1
        return done

    def abort(self):
        self.rows.clear()


def groups(n=30):
    return [
        Group(f"p{i}", (1, i), [] if i % 7 == 6 else [Trace(tuple(range(i, i + 11)))], {"prompt": "x"})
        for i in range(n)
    ]


def roll(schedule, engine=None, judge=None, n=30, preset="paper", **kwargs):
    engine, judge = engine or ClockEngine(), judge or SlowJudge(random.Random(0), 0)
    arguments = {"seed": 1, "step": 5, "max_tokens": 16} | kwargs
    rollout = Rollout(groups(n), PRESETS[preset], engine, judge, schedule=schedule, **arguments)
    return rollout.run(), rollout


def facts(rows):
    return [[(r.plan, r.seed, r.prefix_ids, r.own_ids, r.reward, r.finish) for r in group] for group in rows]
