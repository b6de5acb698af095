"""`python -m trapo_analysis.methods`: every recipe on the built-in world, several seeds, as docs/methods.md's tables.

What the recipes say of themselves comes from their headers, what they reach from their run folders. Runs that are
finished are not run again, so that the command can be stopped and goes on where it was.
"""

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

from trapo.recipe import header, load_recipe, recipe_names
from trapo.run import RunFolder, write_whole

SETS = ("test", "direct", "facts")
MARKS = ("<!-- made by: python -m trapo_analysis.methods -->", "<!-- end of what is made -->")


def train(recipe: str, seed: int, folder: RunFolder) -> None:
    """One run of `trapo train` on the world in a process of its own, unless it is finished already."""
    if folder.final.exists():
        return
    command = [sys.executable, "-c", "from trapo_cli.cli import app; app(prog_name='trapo')", "train"]
    command += ["--recipe", recipe, "--seed", str(seed), "--output_dir", str(folder.path), "--save_strategy", "no"]
    if folder.has_run():
        command.append("--resume")
    log = folder.path.with_suffix(".log")
    with open(log, "w") as output:
        done = subprocess.run(command, stdout=output, stderr=output, env=os.environ | {"OMP_NUM_THREADS": "1"})
    print(f"{recipe}, seed {seed}: {'done' if done.returncode == 0 else f'failed, see {log}'}", flush=True)


def result(folders: list[RunFolder]) -> dict[str, str]:
    """The cells of a recipe's finished runs; each accuracy as mean (lowest-highest of the seeds)."""
    finished = [folder for folder in folders if folder.final.exists()]
    if not finished:
        return {}
    accuracies: dict[str, list[float]] = {name: [] for name in SETS}
    seconds = []
    for folder in finished:
        last = {record["set"]: record["reward"] for record in folder.records("evals.jsonl")}
        for name in SETS:
            accuracies[name].append(last[name])
        seconds.append(sum(r.get("seconds/step", 0.0) for r in folder.records("metrics.jsonl")))
    last = finished[0].records("metrics.jsonl")[-1]
    record = finished[0].record()
    config, method = record["config"], record["method"]
    cells = {name: _spread(values) for name, values in accuracies.items()}
    rates = [f"SFT {config['sft_learning_rate']:g}"] * ("sft" in config["stages"])
    rates += [f"{config['learning_rate']:g}"] * ("rl" in config["stages"])
    return cells | {
        "seeds": str(len(finished)),
        "alpha": "-" if method["alpha"] is None else f"{method['alpha']:g}",
        "learning rate": ", ".join(rates),
        "samples": str(last["seen/samples"]),
        "seconds": f"{mean(seconds):.0f}",
    }


def before(folders: list[RunFolder]) -> dict[str, str]:
    """The base's cells, from what the runs measured before they began."""
    first: dict[str, list[float]] = {name: [] for name in SETS}
    for folder in folders:
        for name in SETS:
            first[name].append(next(r["reward"] for r in folder.records("evals.jsonl") if r["set"] == name))
    return {name: _spread(values) for name, values in first.items() if values}


def _spread(values: list[float]) -> str:
    return f"{mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def table(rows: dict[str, dict[str, str]], columns: tuple[str, ...]) -> str:
    """A Markdown table, a row per key."""
    lines = ["| method | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 1)]
    for name, cells in rows.items():
        values = [cells.get(column, "").replace("|", "\\|") for column in columns]
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def describe(recipe: str) -> dict[str, str]:
    """What a recipe's header says: paper, formula, guidance; and its command."""
    found = header(recipe)
    return {name.lower(): found[name] for name in ("Paper", "Formula", "Guidance")} | {
        "command": f"`trapo train --recipe {recipe}`"
    }


def main() -> None:
    """Run what is missing, then write the tables between the marks of the page."""
    parser = argparse.ArgumentParser(prog="python -m trapo_analysis.methods", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/methods"), help="where the run folders lie")
    parser.add_argument("--out", type=Path, default=Path("docs/methods.md"), help="the page whose tables are written")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=max((os.cpu_count() or 2) // 2, 1), help="runs at a time")
    parser.add_argument("--recipes", default=",".join(recipe_names()), help="comma-separated")
    options = parser.parse_args()
    names = options.recipes.split(",")
    for name in names:
        load_recipe(name)  # an unknown one is an error before any run
    options.runs.mkdir(parents=True, exist_ok=True)
    folders = {r: [RunFolder(options.runs / f"{r}-{s}") for s in range(options.seeds)] for r in names}
    with ThreadPoolExecutor(options.jobs) as pool:
        for seed in range(options.seeds):
            for name in names:
                pool.submit(train, name, seed, folders[name][seed])
    columns = (*SETS, "seeds", "alpha", "learning rate", "samples", "seconds")
    every = [folder for group in folders.values() for folder in group if folder.final.exists()]
    results = {"(base)": before(every)} | {name: result(folders[name]) for name in names}
    made = table({name: describe(name) for name in names}, ("paper", "formula", "guidance", "command"))
    made += "\n\n" + table(results, columns)
    page = options.out.read_text(encoding="utf-8")
    start, end = map(re.escape, MARKS)
    page, n = re.subn(f"({start}\n).*?({end})", lambda m: f"{m[1]}\n{made}\n\n{m[2]}", page, flags=re.S)
    if not n:
        sys.exit(f"{options.out} has no marks to write between: {MARKS[0]} ... {MARKS[1]}")
    write_whole(options.out, page)
    print(options.out)


if __name__ == "__main__":
    main()
