"""`trapo compare`: evaluations of the same questions, paired, each against the first."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from trapo.files import write_whole
from trapo.redact import redacted_values
from trapo.runs.folder import environment
from trapo.terminal import Console

from . import figures, stats
from .folder import EvalFolder, finite
from .report import NARROW, number, say, title

SAME = ("temperature", "top_p", "top_k", "min_p", "template", "seed", "engine", "dtype")


def run(paths: Sequence[Path], out: Path, seed: int, console: Console) -> Path:
    """Compare evaluations, print the table, and write compare.json and figures into `out`.

    Args:
        paths: folders of finished evaluations, at least two; the others are held to the first.
        out: a folder, made if need be; an earlier comparison in it is overwritten.
        seed: of bootstrap and permutation test.
        console: to print to.

    Raises:
        ValueError: a negative seed, a folder without a finished evaluation, or nothing in common.
    """
    if len(paths) < 2:
        raise ValueError(f"trapo compare takes two folders or more, not {len(paths)}: give the folders of evaluations")
    if seed < 0:
        raise ValueError(f"--seed {seed}: it must be 0 or more")
    folders = [EvalFolder(path) for path in paths]
    records = [folder.finished() for folder in folders]
    first, *others = [shares(folder) for folder in folders]
    rows = [row for i, other in enumerate(others, 1) for row in pairs(first, other, i, seed)]
    if not rows:
        raise ValueError(f"{paths[0]} and the others share no question: evaluate them on the same benchmarks")
    adjusted = stats.holm([row["p"] for row in rows])
    rows = [row | {"p (Holm)": float(p)} for row, p in zip(rows, adjusted, strict=True)]
    notes = differing(records)
    command = shlex.join(environment()["command"])
    models = [
        {"folder": str(path), "title": title(record), "model": record["model"]}
        for path, record in zip(paths, records, strict=True)
    ]
    result = {"command": command, "seed": seed, "evaluations": models, "differing settings": notes, "comparisons": rows}
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "compare.json", json.dumps(redacted_values(finite(result)), indent=1) + "\n")
    figures.draw_comparison(records, rows, out, command)
    show(records, rows, notes, console)
    say(console, f"Folder: {out}  (compare.json, figures)")
    return out


def shares(folder: EvalFolder) -> dict[str, dict[str, float]]:
    """Benchmark -> question -> share of its samples that are correct."""
    found: dict[str, dict[str, list[bool]]] = {}
    for line in folder.graded():
        found.setdefault(line["task"], {}).setdefault(line["question"], []).append(line["status"] == "correct")
    return {task: {q: sum(c) / len(c) for q, c in questions.items()} for task, questions in found.items()}


def pairs(
    a: dict[str, dict[str, float]], b: dict[str, dict[str, float]], index: int, seed: int
) -> list[dict[str, Any]]:
    """b minus a on each benchmark, over the questions that both have; `index` says which evaluation b is."""
    rows = []
    for name in a:
        common = [question for question in a[name] if question in b.get(name, {})]
        if common:
            found = stats.compare([b[name][q] for q in common], [a[name][q] for q in common], seed)
            left_out = len(a[name].keys() ^ b[name].keys())
            rows.append(
                {"evaluation": index, "benchmark": name, "questions": len(common), "left out": left_out} | asdict(found)
            )
    return rows


def differing(records: Sequence[dict[str, Any]]) -> list[str]:
    """Settings, besides the model, in which evaluations differ: then a difference is not the model's alone."""
    lines = []
    for name in SAME:
        values = [record["settings"][name] for record in records]
        if len(set(values)) > 1:
            lines.append(f"{name}: {', '.join(map(str, values))}")
    for name in records[0]["data"]:
        found = [record["data"][name] for record in records if name in record["data"]]
        for what in ("samples", "max_tokens", "prompts"):
            if len({data[what] for data in found}) > 1:
                lines.append(f"{name}, {what}: {', '.join(str(data[what]) for data in found)}")
    return lines


def show(
    records: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], notes: Sequence[str], console: Console
) -> None:
    """Print the table, a row per pair and benchmark."""
    columns = ("benchmark\nquestions", "first\nother", "difference\n95%", "p\np (Holm)", "win/tie/loss", "detectable")
    table = Table(*columns, **NARROW)
    for index, record in enumerate(records[1:], 1):
        table.add_section()
        if len(records) > 2:
            table.add_row(record["model"]["label"])
        for row in (row for row in rows if row["evaluation"] == index):
            first, other = (number(r["results"][row["benchmark"]]["avg@n"]["value"]) for r in (records[0], record))
            spread = row["low"] == row["low"]  # NaN where all differences are equal
            interval = f"{row['low']:+.3f} to {row['high']:+.3f}" if spread else "no spread"
            table.add_row(
                f"{row['benchmark']}\n{row['questions']}",
                f"{first}\n{other}",
                f"{row['difference']:+.3f}\n{interval}",
                f"{row['p']:.4f}\n{row['p (Holm)']:.4f}",
                f"{row['wins']}/{row['ties']}/{row['losses']}",
                number(row["detectable"]) if spread else "-",
            )
    say(console, f"first: {title(records[0])}")
    for record in records[1:]:
        say(console, f"other: {title(record)}")
    console.print(table)
    say(
        console,
        "difference: other minus first, bootstrapped over questions; p: sign-flip test over questions; Holm: "
        f"for all {len(rows)} comparisons; detectable: what as many such questions show at 5% with 80% power",
    )
    for note in notes:
        say(console, f"[warning] the evaluations differ in more than the model: {note}")
    left_out = {row["benchmark"]: row["left out"] for row in rows if row["left out"]}
    for name, count in left_out.items():
        say(console, f"[warning] {name}: {count} questions that only one of them has are left out")
