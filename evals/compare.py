"""`trapo compare`: evaluations of the same questions, paired, each with each."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.table import Table

from trapo.files import write_whole
from trapo.redact import redacted_values
from trapo.runs.folder import environment
from trapo.terminal import Console, visible

from . import figures, stats
from .folder import EvalFolder, finite
from .report import NARROW, number, say, title

Shares = dict[str, dict[str, float]]  # benchmark -> question -> share of its samples that are correct
SAME = ("temperature", "top_p", "top_k", "min_p", "template", "seed", "engine", "dtype")


def run(paths: Sequence[Path], out: Path, seed: int, console: Console) -> Path:
    """Compare evaluations, print the table, and write compare.json and figures into `out`.

    Args:
        paths: folders of finished evaluations, at least two.
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
    found = [shares(folder) for folder in folders]
    rows = [row for (i, a), (j, b) in combinations(enumerate(found), 2) for row in pairs(a, b, i, j, seed)]
    if not rows:
        raise ValueError(f"{paths[0]} and the others share no question: evaluate them on the same benchmarks")
    rows = adjusted(rows, found, seed)
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


def shares(folder: EvalFolder) -> Shares:
    """Benchmark -> question -> share of its samples that are correct."""
    found: dict[str, dict[str, list[bool]]] = {}
    for line in folder.graded():
        found.setdefault(line["task"], {}).setdefault(line["question"], []).append(line["status"] == "correct")
    return {task: {q: sum(c) / len(c) for q, c in questions.items()} for task, questions in found.items()}


def pairs(a: Shares, b: Shares, first: int, other: int, seed: int) -> list[dict[str, Any]]:
    """b minus a on each benchmark, over the questions that both have; `first` and `other` say which evaluations."""
    rows = []
    for name in a:
        common = [question for question in a[name] if question in b.get(name, {})]
        if common:
            found = stats.compare([b[name][q] for q in common], [a[name][q] for q in common], seed)
            which = {"first": first, "evaluation": other, "benchmark": name, "questions": len(common)}
            rows.append(which | {"left out": len(a[name].keys() ^ b[name].keys())} | asdict(found))
    return rows


def adjusted(rows: Sequence[dict[str, Any]], found: Sequence[Shares], seed: int) -> list[dict[str, Any]]:
    """Rows with what holds for all of them at once: Holm's p, and simultaneous intervals."""
    gaps = []
    for row in rows:
        name, a, b = row["benchmark"], found[row["first"]], found[row["evaluation"]]
        gaps.append({(name, q): b[name][q] - a[name][q] for q in a[name] if q in b[name]})
    at_once, p = stats.simultaneous(gaps, seed), stats.holm([row["p"] for row in rows])
    return [
        row | {"p (Holm)": float(p), "all low": low, "all high": high}
        for row, p, (low, high) in zip(rows, p, at_once, strict=True)
    ]


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


def models(records: Sequence[dict[str, Any]]) -> Table:
    """Each evaluation's avg@n of each benchmark, with the interval that it has by itself."""
    names = list(dict.fromkeys(name for record in records for name in record["results"]))
    table = Table("", *names, **NARROW)
    for i, record in enumerate(records, 1):
        found = [record["results"].get(name, {}).get("avg@n") for name in names]
        cells = [f"{e['value']:.3f}\n{e['low']:.3f}-{e['high']:.3f}" if e else "-" for e in found]
        table.add_row(f"{i}: {visible(record['model']['label'])}", *cells)
    return table


def show(
    records: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], notes: Sequence[str], console: Console
) -> None:
    """Print the models beside each other where there are more than two, and a row per pair and benchmark."""
    for place, record in enumerate(records, 1):
        say(console, f"{place}: {title(record)}")
    if len(records) > 2:
        console.print(models(records))
    one = len(rows) == 1
    interval = "95%" if one else "95%, all at once"
    columns = ("benchmark\nquestions", "first\nother", f"difference\n{interval}", "p\np (Holm)", "win/tie/loss")
    table = Table(*columns, "detectable", **NARROW)
    pair = None
    for row in rows:
        first, other = records[row["first"]], records[row["evaluation"]]
        if pair != (row["first"], row["evaluation"]):
            pair = row["first"], row["evaluation"]
            table.add_section()
            if len(records) > 2:
                names = f"{pair[1] + 1} minus {pair[0] + 1}"
                table.add_row(f"{names}: {visible(other['model']['label'])}, {visible(first['model']['label'])}")
        values = [number(r["results"][row["benchmark"]]["avg@n"]["value"]) for r in (first, other)]
        spread = row["low"] == row["low"]  # NaN where all differences are equal
        ends = (row["low"], row["high"]) if one else (row["all low"], row["all high"])
        table.add_row(
            f"{row['benchmark']}\n{row['questions']}",
            "\n".join(values),
            f"{row['difference']:+.3f}\n" + (f"{ends[0]:+.3f} to {ends[1]:+.3f}" if spread else "no spread"),
            f"{row['p']:.4f}\n{row['p (Holm)']:.4f}",
            f"{row['wins']}/{row['ties']}/{row['losses']}",
            number(row["detectable"]) if spread else "-",
        )
    console.print(table)
    how = "bootstrapped over questions" if one else "max-t bootstrap over questions: all intervals hold at once"
    say(
        console,
        f"difference: other minus first, {how}; p: sign-flip test over questions; Holm: for all {len(rows)} "
        "comparisons; detectable: what as many such questions show at 5% with 80% power",
    )
    for note in notes:
        say(console, f"[warning] the evaluations differ in more than the model: {note}")
    left_out = {row["benchmark"]: row["left out"] for row in rows if row["left out"]}
    for name, count in left_out.items():
        say(console, f"[warning] {name}: {count} questions that only one of them has are left out")
