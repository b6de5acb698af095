"""The study's tables: CSV files, and what a finished run or evaluation puts into them."""

import csv
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from trapo.files import write_whole
from trapo.runs.folder import RunFolder
from trapo_evals.folder import EvalFolder

from ..runs import Run, cost

CURVES = {
    "reward/plain": "reward_plain",
    "reward/guided": "reward_guided",
    "guided/micro_group_1": "guided_1",
    "guided/micro_group_3": "guided_3",
    "expert/p": "expert_p",
    "entropy": "entropy",
    "length/own": "length",
}
BIN = 10  # steps of a row of curves.csv

Row = dict[str, Any]


class Tables:
    """CSV files of a folder, each written whole."""

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, name: str) -> pd.DataFrame:
        """A table; empty where it is not there yet."""
        path = self.folder / f"{name}.csv"
        return pd.read_csv(path, keep_default_na=True) if path.exists() else pd.DataFrame()

    def put(
        self, name: str, rows: Sequence[Row], keys: Sequence[str], order: Callable[[Row], Any] | None = None
    ) -> None:
        """Put rows into a table, in place of those with the same keys; ordered by the keys unless told otherwise."""
        before = self.read(name).to_dict("records")
        new = {tuple(str(row[key]) for key in keys) for row in rows}
        kept = [row for row in before if tuple(str(row[key]) for key in keys) not in new]
        merged = sorted([*kept, *rows], key=order or (lambda row: [str(row[key]) for key in keys]))
        if not merged:
            return
        columns = list(dict.fromkeys(column for row in merged for column in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: "" if v != v or v is None else v for k, v in row.items()} for row in merged)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / f"{name}.csv", text.getvalue())


def weights_hash(final: Path) -> str:
    """SHA-256 of a run's weights."""
    return hashlib.sha256((final / "model.safetensors").read_bytes()).hexdigest()


def run_row(about: Row, run: Run) -> Row:
    """A run's line of runs.csv.

    Args:
        about: part, cell, recipe, base, seed, data and command.
        run: the run, finished.
    """
    config, records = run.record["config"], run.folder.records("evals.jsonl")
    row = {name: about[name] for name in ("part", "cell", "recipe")} | {"alpha": run.alpha}
    row |= {name: about[name] for name in ("base", "seed", "data")}
    row |= {"learning_rate": config["learning_rate"] if "rl" in config["stages"] else None}
    row |= {"sft_learning_rate": config["sft_learning_rate"] if "sft" in config["stages"] else None}
    for name in dict.fromkeys(record["set"] for record in records):
        mine = [record for record in records if record["set"] == name]
        row |= {
            f"{name}_before": mine[0]["reward"],
            name: mine[-1]["reward"],
            f"{name}_samples": mine[-1]["samples"],
        }
    row |= {key.replace(" ", "_"): round(value, 1) for key, value in cost(run).items()}
    return row | {"command": about["command"], "weights_sha256": weights_hash(run.folder.final)}


def curve_rows(cell: str, base: str, folder: RunFolder) -> list[Row]:
    """A run's lines of curves.csv: its RL stage in bins of `BIN` steps, each named by its last step."""
    table = pd.DataFrame(folder.records("metrics.jsonl"))
    table = table[table.stage == "rl"]
    if not len(table):
        return []
    bins = (table.step + BIN - 1) // BIN * BIN
    means = table.reindex(columns=list(CURVES)).groupby(bins).mean().rename(columns=CURVES).round(4)
    return [{"cell": cell, "base": base, "step": int(step)} | row.to_dict() for step, row in means.iterrows()]


def pass_rows(cell: str, base: str, folder: Path) -> list[Row]:
    """An evaluation's lines of pass_at_k.csv; none while it is not finished."""
    try:
        record = EvalFolder(folder).finished()
    except ValueError:
        return []
    return [
        {"cell": cell, "base": base, "k": k, "pass": round(value, 5)}
        | {"questions": result["questions"], "samples": result["samples"]}
        for result in record["results"].values()
        for k, value in zip(result["pass@k"]["ks"], result["pass@k"]["value"], strict=True)
    ]
