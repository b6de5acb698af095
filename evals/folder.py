"""An evaluation's folder: what `trapo eval` writes, and `trapo compare` and the report read.

eval.json        settings, model and the run (and alpha) it came from, versions, hashes, and all numbers
samples.jsonl    the journal: a line per sample, on disk before it counts (see `journal.py`)
questions.jsonl  a line per question: its benchmark, text and gold answer; with the journal, enough to grade again
graded.jsonl     a line per sample: its answer, our status and the papers'
*.png, *.pdf     figures
"""

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from trapo.files import locked, write_whole
from trapo.records import read_json, read_lines
from trapo.redact import redacted_values

from .journal import Journal, digest
from .records import GradedSample, Question, WholeEvalRecord

# Settings without which what was drawn stays valid.
MAY_CHANGE = (
    "samples",
    "half_width",
    "max_samples",
    "limit",
    "base_url",
    "grader",
    "server_timeout",
    "server_retries",
    "model_date",
)
LATER = {"server_api": "completions"}  # settings that older folders lack, and what they had


class EvalFolder:
    """One evaluation's folder; see the module's docstring for what lies in it."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def record(self, kind: type[Struct] = WholeEvalRecord) -> dict[str, Any]:
        """The content of eval.json; ValueError where there is none that can be read, or not all that `kind` says."""
        try:
            return read_json(self.path / "eval.json", kind)
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.path} holds no evaluation ({error}): `trapo eval --out DIR` makes one") from None

    def finished(self, kind: type[Struct] = WholeEvalRecord) -> dict[str, Any]:
        """The content of eval.json; ValueError if the evaluation was not finished."""
        record = self.record(kind)
        if not record.get("results"):
            raise ValueError(f"the evaluation in {self.path} is not finished: run its command again to go on with it")
        return record

    def questions(self) -> list[dict[str, Any]]:
        """The lines of questions.jsonl."""
        return self._lines("questions.jsonl", Question)

    def graded(self) -> list[dict[str, Any]]:
        """The lines of graded.jsonl, by question and sample."""
        return self._lines("graded.jsonl", GradedSample)

    @property
    def journal(self) -> Journal:
        """The samples."""
        return Journal(self.path / "samples.jsonl")

    @contextmanager
    def begin(self, record: dict[str, Any]) -> Iterator[None]:
        """Hold the folder while the block runs, after making sure that it is this evaluation's.

        Raises:
            ValueError: it is another evaluation's, or another process holds it, or it cannot be written.
        """
        with locked(self.path / ".lock", "evaluating", "choose another --out"):
            if (self.path / "eval.json").exists():
                self._check(self.record(), record)
            else:
                self.write(record)
            yield

    def _check(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        def fixed(record):
            known = {k: v for k, v in (LATER | record["settings"]).items() if k not in MAY_CHANGE}
            data = {name: found["hash"] for name, found in record["data"].items()}
            prompts = {name: digest(found["first prompt"]) for name, found in record["data"].items()}  # the template's
            return known | {"weights": record["model"]["content"], "data": data, "prompts": prompts}

        old, new = fixed(before), json.loads(json.dumps(fixed(now)))
        changed = [f"{k} {old.get(k)!r} there, {new.get(k)!r} now" for k in old | new if old.get(k) != new.get(k)]
        if changed:
            raise ValueError(f"{self.path} holds another evaluation ({'; '.join(changed)}): choose another --out")

    def write(self, record: dict[str, Any]) -> None:
        """Write eval.json."""
        write_whole(self.path / "eval.json", json.dumps(redacted_values(finite(record)), indent=1) + "\n")

    def write_lines(self, name: str, records: Iterable[dict[str, Any]]) -> None:
        """Write a JSONL file."""
        write_whole(self.path / name, "".join(json.dumps(record) + "\n" for record in records))

    def _lines(self, name: str, kind: type[Struct]) -> list[dict[str, Any]]:
        path = self.path / name
        if not path.exists():
            raise ValueError(f"{self.path} holds no {name}: its evaluation has not come so far; run its command again")
        return list(read_lines(path, kind))


def finite(value: Any) -> Any:
    """NaN as None, which every reader of JSON knows."""
    if isinstance(value, dict):
        return {key: finite(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [finite(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
