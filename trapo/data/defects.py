"""The defects of rows and traces by name, what becomes of what has one, and the report that counts them."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

# Defects, and what becomes of the row or the trace that has one.
REASONS = {
    "row unreadable": "row dropped",
    "prompt empty": "row dropped",
    "prompt not text": "row dropped",
    "prompt ends with an answer": "row dropped",
    "prompt is messages as text": "row dropped",
    "prompt is a rendered template": "row dropped",
    "prompt has special tokens": "row dropped",
    "prompt refused by its template": "row dropped",
    "prompt too long": "row dropped",
    "prompt of another kind": "row dropped",
    "answer missing": "row dropped",
    "answer unparsable": "row dropped",
    "duplicate": "row dropped",
    "expert empty": "trace dropped",
    "expert not text": "trace dropped",
    "expert is a rendered template": "trace dropped",
    "expert has special tokens": "trace dropped",
    "expert thinks, its prompt not": "trace dropped",
    "expert too long": "trace dropped",
    "expert without box": "trace dropped",
    "expert wrong": "trace dropped",
    "expert joined": "trace kept, its <think> is the prompt's",
    "expert never closes <think>": "trace kept",
    "special tokens escaped": "text kept, with a blank in the token's name",
    "expert cut": "trace cut",
    "expert unverified": "trace kept",
    "expert missing": "row kept, without guidance",
}


@dataclass
class Report:
    """What screening found.

    Attributes:
        source: the data's name.
        rows, usable: rows read, rows left.
        counts: how often each of `REASONS` was found.
        dropped: a record per dropped row or trace, in the rows' order: `data`, `row` (from 1; in a JSONL file the
            line), `id`, `reason`, `trace` (from 0; None where it is the row), `detail`.
    """

    source: str
    rows: int = 0
    usable: int = 0
    counts: Counter = field(default_factory=Counter)
    dropped: list[dict[str, Any]] = field(default_factory=list)

    def lines(self) -> list[str]:
        """A line on the whole, and one per defect that was found."""
        found = [f"  {reason:31}{n:7}  {what}" for reason, what in REASONS.items() if (n := self.counts[reason])]
        return [f"{self.source}: {self.rows} rows read, {self.usable} usable", *found]

    def first(self, kind: str) -> str:
        """The defects whose name starts with `kind`, counted, and the first of them, for an error's line."""
        counts = ", ".join(f"{r} {n}" for r in REASONS if r.startswith(kind) and (n := self.counts[r]))
        first = next(record for record in self.dropped if record["reason"].startswith(kind))
        return f"{counts}; the first, row {first['row']}: {first['reason']}, {first['detail']}"
