"""The labelled pairs of tests/grading by category: false positives and false negatives before, now, and of math-verify.

    python benchmarks/grading_pairs.py [--set given|own] [--debatable]

"before" is the verdict that stands in grading_pairs.jsonl, of the grader that rewrote answers for math-verify;
"math-verify" is math-verify 0.9 alone, with its own time-outs, on the box (or on the whole text of a raw pair). The
table is Markdown; a cell is false positives / false negatives, and 0 / 0 is left empty.
"""

import argparse
import json
import logging
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests" / "grading"
sys.path.insert(0, str(TESTS))

from labelled_pairs import Pair, given, own  # noqa: E402
from math_verify import parse, verify  # noqa: E402

from trapo.grading.grader import Grader  # noqa: E402
from trapo_evals.verdicts import letter_status  # noqa: E402


def before() -> dict[tuple[str, str, str], bool]:
    """(kind, gold, answer) -> accepted by the earlier grader."""
    rows = map(json.loads, (TESTS / "grading_pairs.jsonl").read_text().splitlines())
    return {(row["kind"], row["gold"], row["answer"]): row["today"] == "correct" for row in rows}


def now(pairs: list[Pair]) -> list[bool]:
    """Accepted by the grader as it is."""
    with Grader(workers=2) as grader:
        texts = [p.answer if p.kind == "raw" else f"\\boxed{{{p.answer}}}" for p in pairs]
        verdicts = grader.grade(texts, [p.gold for p in pairs])
    return [
        (letter_status(text, p.gold) if p.kind == "choice" else v.status) == "correct"
        for text, p, v in zip(texts, pairs, verdicts, strict=True)
    ]


def alone(pair: Pair) -> bool:
    """Accepted by math-verify alone; what it fails on is not."""
    text = pair.answer if pair.kind == "raw" else f"\\boxed{{{pair.answer}}}"
    try:
        return verify(parse(f"\\boxed{{{pair.gold}}}"), parse(text))
    except Exception:  # whatever an answer brings about
        return False


def table(pairs: list[Pair], columns: dict[str, Callable[[int], bool]]) -> list[str]:
    """The lines of the table; each column says of the i-th pair whether it was accepted."""
    found: dict[str, list[int]] = defaultdict(list)
    for i, pair in enumerate(pairs):
        found[pair.category].append(i)
    lines = [f"| category | pairs | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]

    def cells(places: list[int]) -> str:
        counts = []
        for accepted in columns.values():
            positive = sum(accepted(i) and not pairs[i].expected for i in places)
            negative = sum(not accepted(i) and pairs[i].expected for i in places)
            counts.append(f"{positive} / {negative}" if positive or negative else "")
        return " | ".join(counts)

    for category, places in found.items():
        lines.append(f"| {category} | {len(places)} | {cells(places)} |")
    everywhere = list(range(len(pairs)))
    total = cells(everywhere).split(" | ")
    lines.append(f"| **all** | {len(pairs)} | {' | '.join(cell or '0 / 0' for cell in total)} |")
    return lines


def main() -> None:
    """Grade, print."""
    logging.disable(logging.CRITICAL)  # math-verify's word on every time-out
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--set", choices=("given", "own"), default="given")
    arguments.add_argument("--debatable", action="store_true", help="the debatable pairs instead of the others")
    options = arguments.parse_args()
    pairs = [p for p in (given() if options.set == "given" else own()) if p.debatable == options.debatable]
    ours, plain, earlier = now(pairs), [alone(p) for p in pairs], before()
    columns = {"now": ours.__getitem__, "math-verify": plain.__getitem__}
    if options.set == "given":
        columns = {"before": lambda i: earlier[pairs[i].kind, pairs[i].gold, pairs[i].answer]} | columns
    print("\n".join(table(pairs, columns)))


if __name__ == "__main__":
    main()
