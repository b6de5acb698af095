"""Rollout time of guidance against plain GRPO on the embedded engine: each schedule, side by side in one process.

    python benchmarks/rollout.py [--model DIR] [--prompts 32] [--slots 64] [--repetitions 7] [--out FILE]

The model is one of the built-in world's (give a trained one: the base nearly always guesses, in four tokens). Each
repetition draws the same prompts under every schedule, in turn; figures are medians, and ratios to GRPO within a
repetition. CPU seconds are of this process: on a shared machine they are less noisy than wall time.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from trapo.engines.torch_engine import TorchEngine
from trapo.grading import Grader
from trapo.guidance import PRESETS, Trace, no_guidance
from trapo.judge import GraderJudge
from trapo.rollout import SCHEDULES, Group, Rollout
from trapo_toy import world

MAX_TOKENS = 136


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(world.BASE))
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/rollout.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    eos = tokenizer.eos_token_id
    groups = []
    for row in world.rows("tune", options.prompts):
        trace = Trace((*tokenizer(row["expert"][0])["input_ids"], eos))
        groups.append(Group(row["id"], tuple(tokenizer(row["prompt"])["input_ids"]), [trace], row))

    methods = {"grpo": (no_guidance(8), "pipelined")} | {name: (PRESETS["paper"], name) for name in SCHEDULES}
    found: dict[str, dict[str, list[float]]] = {name: {} for name in methods}
    with Grader() as grader:
        for repetition in range(options.repetitions + 1):
            base = {}
            for name, (guidance, schedule) in methods.items():
                engine = TorchEngine(model, [eos], tokenizer.pad_token_id, slots=options.slots)
                judge = GraderJudge(grader, lambda row: tokenizer.decode(row.completion_ids, skip_special_tokens=True))
                rollout = Rollout(
                    groups, guidance, engine, judge, seed=0, step=repetition, max_tokens=MAX_TOKENS, schedule=schedule
                )
                wall, cpu = time.perf_counter(), time.process_time()
                rows = [row for group in rollout.run() for row in group]
                figures = {
                    "wall seconds": time.perf_counter() - wall,
                    "CPU seconds": time.process_time() - cpu,
                    "engine steps": rollout.cost.polls,
                    "tokens": sum(len(row.own_ids) for row in rows),
                    "tokens for nothing": rollout.cost.aborted_tokens,
                }
                base = base or figures
                figures |= {
                    f"{k} / grpo": figures[k] / base[k] for k in ("wall seconds", "CPU seconds", "engine steps")
                }
                for k, v in figures.items():
                    if repetition:  # the first one warms up
                        found[name].setdefault(k, []).append(v)
    medians = {name: {k: round(median(v), 4) for k, v in figures.items()} for name, figures in found.items()}
    columns = list(next(iter(medians.values())))
    table = Table("", *columns, title=f"{options.prompts} prompts x 8, {options.slots} slots, {options.model}")
    for name, figures in medians.items():
        table.add_row(name, *(f"{figures[c]:g}" for c in columns))
    Console().print(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        json.dumps({"settings": vars(options) | {"out": str(options.out)}, "medians": medians}, indent=1)
    )
    print(options.out)


if __name__ == "__main__":
    main()
