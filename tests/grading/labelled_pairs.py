r"""The labelled pairs of answer and gold: a file per category under pairs/, and grading_pairs.jsonl.

A file's first line names the category and its kind: "math" (the answer is what stands in the box), "raw" (the whole
completion) or "choice" (the letter of a multiple-choice question). Then golds (`= `), and under each the answers that
are right (`+ `) and wrong (`- `). `\n` in a raw one is a line break.
"""

import json
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent


class Pair(NamedTuple):
    """An answer and a gold; `debatable`: careful readers may differ, and `expected` is the stricter or usual view."""

    category: str
    kind: str
    gold: str
    answer: str
    expected: bool
    debatable: bool = False


def given() -> list[Pair]:
    """The pairs of grading_pairs.jsonl."""
    rows = map(json.loads, (HERE / "grading_pairs.jsonl").read_text().splitlines())
    fields = ("category", "kind", "gold", "answer", "expected")
    return [Pair(*(row[f] for f in fields), row.get("debatable", False)) for row in rows]


def own() -> list[Pair]:
    """The pairs of the files under pairs/."""
    return [pair for path in sorted((HERE / "pairs").glob("*.txt")) for pair in read(path)]


def read(path: Path) -> list[Pair]:
    """The pairs of one file.

    Raises:
        ValueError: for a line that is none.
    """
    first, *lines = path.read_text().splitlines()
    category, kind = first.removeprefix("# ").split("; kind: ")
    pairs, gold = [], None
    for number, line in enumerate(lines, 2):
        mark, text = line[:1], line[2:]
        if mark == "=":
            gold = text
        elif mark in ("+", "-") and gold is not None:
            pairs.append(Pair(category, kind, gold, text.replace("\\n\\n", "\n\n"), mark == "+"))
        elif line:
            raise ValueError(f"{path.name}, line {number}: {line!r} begins with none of = + -")
    return pairs
