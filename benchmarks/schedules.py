"""What guidance costs in engine time, by schedule: `trapo.rollout.scheduler` driven by a clock.

    python benchmarks/schedules.py [--out FILE] [--repetitions N]

One step of the clock draws one token for every sample in a slot, as a GPU does while it is bound by memory traffic.
Lengths are log-normal (mean 2,000 tokens, sigma .8, at most 8,192) and grades come at once. A plain sample is right
with the prompt's probability p, a guided one with p + (1 - p) ratio; its own part is (1 - ratio) of a length. Every
figure is steps / steps of plain GRPO on the same prompts and lengths, the median over repetitions; "limit" is the
longest single response: no schedule that draws the same samples can be faster.
"""

import argparse
import heapq
import json
import math
import random
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from trapo.choices import SCHEDULES
from trapo.method.guidance import Trace, no_guidance
from trapo.method.presets import PRESETS
from trapo.rollout.engines.base import Sample
from trapo.rollout.scheduler import Rollout
from trapo.rollout.types import Group

PROMPTS, MEAN, SIGMA, LONGEST = 128, 2000, 0.8, 8192
TRACE = Trace(tuple(range(1000)))  # only its share matters
SLOTS = (64, 256, 512)
DIFFICULTIES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, "mix")


class Clock:
    """An engine whose poll jumps to the moment when the next sample ends."""

    def __init__(self, slots: int):
        self.slots, self.now, self.longest, self.next_key = slots, 0, 0, 0
        self.waiting: dict[int, int] = {}  # key -> tokens
        self.running: dict[int, tuple[int, int]] = {}  # key -> start, end
        self.ends: list[tuple[int, int]] = []

    @property
    def free(self) -> int:
        return self.slots - len(self.running) - len(self.waiting)

    def submit(self, request) -> int:
        ratio = (len(request.ids) - 1) / len(TRACE.ids)
        draw = random.Random(request.seed).lognormvariate(math.log(MEAN) - SIGMA**2 / 2, SIGMA)
        self.waiting[self.next_key] = max(round(min(draw, LONGEST) * (1 - ratio)), 1)
        self.next_key += 1
        return self.next_key - 1

    def poll(self) -> dict[int, Sample]:
        for key in list(self.waiting)[: self.slots - len(self.running)]:
            tokens = self.waiting.pop(key)
            self.longest = max(self.longest, tokens)
            self.running[key] = (self.now, self.now + tokens)
            heapq.heappush(self.ends, (self.now + tokens, key))
        ended = {}
        while self.ends and (not ended or self.ends[0][0] == self.now):
            end, key = heapq.heappop(self.ends)
            if self.running.get(key, (0, -1))[1] == end:  # not aborted
                start, self.now = self.running.pop(key)[0], end
                ended[key] = Sample((0,) * (end - start), "stop")
        return ended

    def abort(self, key: int) -> int:
        if self.waiting.pop(key, None) is not None:
            return 0
        return self.now - self.running.pop(key)[0]


class AtOnce:
    """A judge without delay: right with the prompt's probability, more often behind a prefix."""

    early = True

    def __init__(self):
        self.rows = []

    def submit(self, row) -> None:
        p = row.group.columns["p"]
        p += (1 - p) * row.plan.ratio
        row.reward = float(random.Random(row.seed + 1).random() < p)
        row.status, row.rewards = "scored", [row.reward]
        self.rows.append(row)

    def collect(self, wait: bool) -> list:
        rows, self.rows = self.rows, []
        return rows


def roll(guidance, schedule: str, slots: int, difficulty, seed: int) -> tuple[int, int, int, int]:
    """Steps, tokens drawn and kept, tokens drawn for nothing, and the longest response."""
    rng = random.Random(seed)
    ps = [rng.choice(DIFFICULTIES[:-1]) if difficulty == "mix" else difficulty for _ in range(PROMPTS)]
    groups = [Group(f"p{i}", (0,), [TRACE], {"p": p}) for i, p in enumerate(ps)]
    clock = Clock(slots)
    rollout = Rollout(
        groups, guidance, clock, AtOnce(), seed=seed, step=0, max_tokens=LONGEST + 1000, schedule=schedule
    )
    kept = sum(len(row.own_ids) for rows in rollout.run() for row in rows)
    return clock.now, kept, rollout.cost.aborted_tokens, clock.longest


def main() -> None:
    """Every cell, printed and written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/schedules.json"))
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    cells = []
    for slots in SLOTS:
        for difficulty in DIFFICULTIES:
            found: dict[str, list[float]] = {}
            for seed in range(options.repetitions):
                plain, *_ = roll(no_guidance(8), "pipelined", slots, difficulty, seed)
                for schedule in SCHEDULES:
                    steps, kept, lost, longest = roll(PRESETS["paper"], schedule, slots, difficulty, seed)
                    found.setdefault(schedule, []).append(steps / plain)
                    found.setdefault(f"{schedule}: extra tokens", []).append(lost / kept)
                found.setdefault("limit", []).append(longest / plain)
            cells.append({"slots": slots, "p": difficulty} | {k: round(median(v), 4) for k, v in found.items()})
    table = Table("slots", "p", *SCHEDULES, "extra tokens (speculative)", "limit", title=f"Steps / GRPO, {PROMPTS} x 8")
    for cell in cells:
        figures = (*SCHEDULES, "speculative: extra tokens", "limit")
        table.add_row(str(cell["slots"]), str(cell["p"]), *(f"{cell[name]:.2f}" for name in figures))
    console = Console()
    console.print(table)
    for schedule in SCHEDULES:
        worst = max(cells, key=lambda cell: cell[schedule])
        console.print(f"worst of {schedule}: {worst[schedule]:.2f} at {worst['slots']} slots, p = {worst['p']}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "prompts": PROMPTS,
        "mean": MEAN,
        "sigma": SIGMA,
        "longest": LONGEST,
        "guidance": PRESETS["paper"].settings(),
    }
    options.out.write_text(
        json.dumps({"settings": settings, "repetitions": options.repetitions, "cells": cells}, indent=1)
    )
    console.print(f"[bold]{options.out}[/]")


if __name__ == "__main__":
    main()
