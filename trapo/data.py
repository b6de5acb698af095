"""Data: rows `prompt`, `answer`, `expert` from JSONL, parquet or the hub, known layouts recognised."""

from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset


def load_rows(source: str, split: str = "train") -> Dataset:
    """Rows for `TRAPOTrainer` from a file or a hub id.

    Args:
        source: a .jsonl, .json or .parquet file, or the id of a dataset on the hub.
        split: the hub dataset's split.

    Layouts:
        `prompt`, `answer`, optional `expert` and `id`: ours, taken as it is;
        `prompt`, `target`, `reward_model`: Openr1-Math-46k-8192 (the trace is the target's text).

    Raises:
        ValueError: if it is not there or cannot be read, or the columns are of no known layout.
    """
    kind = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}.get(Path(source).suffix)
    if kind and not Path(source).is_file():
        raise ValueError(f"data file {source} is not there")
    try:
        rows = load_dataset(kind, data_files=source, split="train") if kind else load_dataset(source, split=split)
    except Exception as error:  # datasets raises many kinds, for a broken file as for a hub out of reach
        what = (
            f"data file {source} cannot be read as {kind}"
            if kind
            else f"dataset {source} cannot be loaded from the hub"
        )
        raise ValueError(f"{what}: {' '.join(str(error).split())}") from error
    return to_layout(rows, source)


def to_layout(rows: Dataset, source: str) -> Dataset:
    """Rows of a known layout as ours; ValueError, naming the columns, for any other."""
    columns = set(rows.column_names)
    if {"prompt", "target", "reward_model"} <= columns:
        return rows.map(_from_openr1, remove_columns=rows.column_names)
    if {"prompt", "answer"} <= columns:
        return rows
    raise ValueError(
        f"{source} has the columns {', '.join(sorted(columns))}, which is no known layout: it needs prompt and answer "
        "(and expert, for guidance), or prompt, target and reward_model as in Openr1-Math-46k-8192"
    )


def _from_openr1(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt": [{"role": m["role"], "content": m["content"]} for m in row["prompt"]],
        "answer": str(row["reward_model"]["ground_truth"]),
        "expert": [m["content"] for m in row["target"]],
    }
