"""Data: rows from JSONL, parquet or the hub, whatever their layout and however broken, as `prompt`, `answer`, `expert`.

Layouts, recognised by their columns:
    prompt, answer; optional expert, id             ours
    prompt, reward_model.ground_truth; and target   Openr1-Math-46k-8192: the trace is the target's text
    ... or extra_info.answer_list                   TRAPO's script: one trace or several

A cell that cannot be what its column is for is a `Defect`; `screen.py` decides which rows are fit for use.
"""

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import load_dataset

from .markup import is_messages
from .tokens import Messages, expert_part, shorten

COLUMNS = ("id", "prompt", "answer", "expert", "target", "reward_model", "extra_info")
BATCH = 1000
KINDS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}

Cells = dict[str, Any]


def read_rows(source: str, split: str = "train") -> Iterator[tuple[int, Cells | str]]:
    """Rows of a file or a hub dataset, in order, in our layout.

    Args:
        source: a .jsonl, .json or .parquet file, or the id of a dataset on the hub.
        split: the hub dataset's split.

    Yields:
        number: of the row, from 1; in a JSONL file, of the line.
        row: `id`, `prompt`, `answer` and `expert` with whatever values they have, None for what is not there; or, as a
            text, why the row cannot be read.

    Raises:
        ValueError: if it is not there or cannot be read, or no row is of a known layout.
    """
    columns, known, problem = None, False, None
    rows = read_cells(source, COLUMNS, split)
    for number, cells in rows:
        if isinstance(cells, str):
            problem = problem or f"row {number} is {cells}"
            yield number, cells
            continue
        columns = columns or sorted(cells)
        known = known or ("prompt" in cells and not {"answer", "reward_model"}.isdisjoint(cells))
        yield number, to_layout(cells)
    if columns is None:
        raise ValueError(f"data {source} cannot be read: {problem or 'it is empty'}")
    if not known:
        names = shorten(" ".join(", ".join(columns).split()), 300) or "(none)"
        raise ValueError(
            f"{source} has the columns {names}, which is no known layout: it needs prompt and "
            "answer (and expert, for guidance), or prompt, target and reward_model as in Openr1-Math-46k-8192"
        )


def read_cells(source: str, columns: Sequence[str], split: str = "train") -> Iterator[tuple[int, Cells | str]]:
    """The rows of a file, of a folder of files or of a hub dataset, as they are.

    Args:
        source: a .jsonl, .json or .parquet file, a folder of such, or the id of a dataset on the hub.
        columns: those that are wanted, of parquet files and the hub; all where none of them is there.
        split: the hub dataset's split.

    Yields:
        number: of the row, from 1, counted through a folder's files; in a JSONL file, of the line.
        row: its cells; or, as a text, why it cannot be read.

    Raises:
        ValueError: if it is not there or cannot be read.
    """
    if Path(source).is_dir():
        files = sorted(path for path in Path(source).iterdir() if path.suffix in KINDS)
        if not files:
            raise ValueError(f"data folder {source} has no file that ends in {', '.join(KINDS)}")
        last = 0
        for path in files:
            before = last
            for number, cells in read_cells(str(path), columns):
                last = before + number
                yield last, cells
        return
    kind = KINDS.get(Path(source).suffix)
    if kind and not Path(source).is_file():
        raise ValueError(f"data file {source} is not there")
    what = f"data file {source} cannot be read as {kind}" if kind else f"dataset {source} cannot be loaded from the hub"
    reader = {"json": lambda: _json_rows(source), "parquet": lambda: _parquet_rows(source, columns)}
    rows = reader.get(kind, lambda: _hub_rows(source, columns, split))()
    while True:
        try:
            yield next(rows)
        except StopIteration:
            return
        except Exception as error:  # pyarrow and datasets raise many kinds, for a broken file as for a hub out of reach
            raise ValueError(f"{what}: {shorten(' '.join(str(error).split()), 300)}") from error


def to_layout(cells: Cells) -> Cells:
    """A row of any known layout as ours; what is not there, or not where it belongs, is None."""
    prompt, id = cells.get("prompt"), cells.get("id")
    if "reward_model" not in cells or cells.get("answer") is not None:
        return {"id": id, "prompt": prompt, "answer": cells.get("answer"), "expert": cells.get("expert")}
    traces = _member(cells.get("extra_info"), "answer_list")
    return {
        "id": id,
        "prompt": prompt,
        "answer": _member(cells["reward_model"], "ground_truth"),
        "expert": cells.get("target") if traces is None else traces,
    }


def _member(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _json_rows(path: str) -> Iterator[tuple[int, Cells | str]]:
    # Not pyarrow's reader: it takes a column's type from the first rows and fails on the first row of another.
    with open(path, "rb") as file:
        start = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
        file.seek(0)
        if start.startswith(b"["):
            yield from ((i, _object(value)) for i, value in enumerate(json.load(file), 1))
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _parsed(line)


def _parsed(line: bytes) -> Cells | str:
    try:
        return _object(json.loads(line))
    except (ValueError, RecursionError) as error:
        return f"not JSON: {str(error)[:120]}"


def _object(value: Any) -> Cells | str:
    return value if isinstance(value, dict) else f"not an object but {kind_of(value)}"


def _parquet_rows(path: str, wanted: Sequence[str]) -> Iterator[tuple[int, Cells | str]]:
    with pq.ParquetFile(path) as file:
        columns = [name for name in file.schema_arrow.names if name in wanted] or file.schema_arrow.names
        yield from _batch_rows(file.iter_batches(BATCH, columns=columns))


def _hub_rows(source: str, wanted: Sequence[str], split: str) -> Iterator[tuple[int, Cells | str]]:
    rows = load_dataset(source, split=split)
    columns = [name for name in rows.column_names if name in wanted] or rows.column_names
    yield from _batch_rows(rows.select_columns(columns).with_format("arrow").iter(BATCH))


def _batch_rows(batches: Iterator[pa.RecordBatch | pa.Table]) -> Iterator[tuple[int, Cells | str]]:
    number = 0
    for batch in batches:
        try:
            rows = batch.to_pylist()
        except (ValueError, OverflowError, TypeError, pa.ArrowException):
            rows = [_one_row(batch.slice(i, 1)) for i in range(batch.num_rows)]
        for row in rows:
            number += 1
            yield number, row


def _one_row(batch: pa.RecordBatch | pa.Table) -> Cells | str:
    """A single row whose batch has an odd cell: broken UTF-8, or a date that Python does not have."""
    try:
        return batch.to_pylist()[0]
    except (ValueError, OverflowError, TypeError, pa.ArrowException) as error:
        return f"not readable: {' '.join(str(error).split())[:120]}"


# -------------------------------------------------------------------- cells


class Defect(Exception):
    """What is wrong with a cell: one of `screen.REASONS`, and a few words."""

    def __init__(self, reason: str, detail: str):
        self.reason, self.detail = reason, detail


def is_text(value: Any) -> bool:
    """Whether `value` is a string that can be written down: JSON may hold half a character, a lone surrogate."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_prompt(value: Any) -> str | Messages:
    """Text, or chat messages of `role` and `content`; raises Defect for anything else and for an empty one."""
    if value is None or value == []:
        raise Defect("prompt empty", "there is none")
    if isinstance(value, list):
        prompt = [_message(message) for message in value]
        last = prompt[-1]["content"]
        if prompt[-1]["role"] == "assistant":
            raise Defect("prompt ends with an answer", "its last message is the assistant's: end with the user's")
    else:
        last = prompt = _text(value, "prompt", "it")
        if is_messages(prompt):
            raise Defect("prompt is messages as text", "chat messages are written down in it: make them a list")
    if not last.strip():
        raise Defect("prompt empty", "nothing but white space")
    return prompt


def read_answer(value: Any) -> str:
    """The answer as text, from text or a number; raises Defect where there is none."""
    if value is None or value != value:  # NaN is how some writers leave a cell empty
        raise Defect("answer missing", "there is none")
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        raise Defect("answer unparsable", f"it is {kind_of(value)}")
    text = str(value).strip()
    if not text:
        raise Defect("answer missing", "nothing but white space")
    if not is_text(text) or value in (float("inf"), float("-inf")):
        raise Defect("answer unparsable", "it is infinite" if is_text(text) else "it is broken Unicode")
    return text


def as_traces(value: Any) -> list[Any]:
    """What stands in an expert's place as a list of possible traces: a single one need not be in a list."""
    if value is None or value != value:
        return []
    return value if isinstance(value, list) else [value]


def read_trace(value: Any, which: str) -> str:
    """A trace's whole text, from text or an assistant's message; Defect if that or its `which` part is none."""
    if isinstance(value, dict):
        if value.get("role") not in (None, "assistant"):
            raise Defect("expert not text", "it is another's message, not the assistant's")
        value = value.get("content")
    if value is None:
        raise Defect("expert empty", "there is none")
    text = _text(value, "expert", "it")
    if is_messages(text):
        raise Defect("expert not text", "chat messages are written down in it: make them a list, or take the answer's")
    if not text.strip():
        raise Defect("expert empty", "nothing but white space")
    if not expert_part(text, which).strip():
        raise Defect("expert empty", "nothing between <think> and </think>")
    return text


def _message(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise Defect("prompt not text", f"a message is {kind_of(value)}")
    content = "" if value.get("content") is None else value["content"]
    return {
        "role": _text(value.get("role"), "prompt", "a message's role"),
        "content": _text(content, "prompt", "a message's content"),
    }


def _text(value: Any, what: str, place: str) -> str:
    if not isinstance(value, str):
        raise Defect(f"{what} not text", f"{place} is {kind_of(value)}")
    if not is_text(value):
        raise Defect(f"{what} not text", f"{place} is broken Unicode")
    return value


def kind_of(value: Any) -> str:
    """What a cell holds, in words for people."""
    kinds = {"NoneType": "nothing", "bool": "a truth value", "str": "text", "list": "a list", "dict": "an object"}
    name = type(value).__name__
    return kinds.get(name, f"of type {name}" if name not in ("int", "float", "Decimal") else "a number")
