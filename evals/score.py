"""A benchmark's samples to its numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trapo.grading import grader
from trapo.rollout.engines.completions import FAULTS

from . import stats
from .benchmarks import GROUPS
from .flags import flags
from .verdicts import Verdicts

Record = dict[str, Any]
STATUSES = (*grader.STATUSES, *FAULTS)  # what became of a sample, which a server may have failed to give
AVERAGED = ("math", "general")  # groups whose mean over benchmarks the papers give


@dataclass(frozen=True)
class Graded:
    """A question and its n samples.

    Attributes:
        kind: the benchmark's.
        question, gold: its id and the right answer.
        records: the journal's, by index.
        statuses, reference: of each, ours and by the papers' own grading (None where there is none).
        classes: of each, see `Verdicts.classes`.
        late: how many statuses are the wall clock's.
    """

    kind: str
    question: str
    gold: str
    records: list[Record]
    statuses: list[str]
    reference: list[str] | None
    classes: list[str | None]
    late: int = 0

    @property
    def correct(self) -> list[bool]:
        """Which samples are right."""
        return [status == "correct" for status in self.statuses]

    def lines(self, task: str) -> Iterable[Record]:
        """Its lines of graded.jsonl."""
        for i, record in enumerate(self.records):
            yield {
                "key": record["key"],
                "task": task,
                "question": self.question,
                "index": record["index"],
                "gold": self.gold,
                "answer": self.classes[i],
                "status": self.statuses[i],
                "reference": (reference := self.reference[i] if self.reference else None),
                "finish": record["finish"],
                "tokens": record["tokens"],
                "flags": flags(self.kind, record["text"], self.gold, self.statuses[i], reference, record["finish"]),
            }


def grade(
    kind: str, rows: Sequence[tuple[str, str, list[Record]]], verdicts: Verdicts, by: Verdicts | None = None
) -> list[Graded]:
    """Questions with their samples' verdicts.

    Args:
        kind: the benchmark's.
        rows: id, gold answer and records of each question.
        verdicts: gives them, and says which answers are the same.
        by: gives the statuses instead, by another rule.
    """
    by = by or verdicts
    papers = kind != "world"  # no paper has graded the built-in world
    for _, gold, records in rows:  # all at once, so that no worker waits
        for record in records:
            by.ask(kind, record["text"], gold)
            if papers:
                verdicts.ask(kind, record["text"], gold, reference=True)
    classes = verdicts.classes([(kind, gold, [record["text"] for record in records]) for _, gold, records in rows])

    def statuses(gold, records, reference):
        grader = verdicts if reference else by
        return [
            record["finish"] if record["finish"] in FAULTS else grader.status(kind, record["text"], gold, reference)
            for record in records
        ]

    return [
        Graded(
            kind,
            id,
            gold,
            records,
            statuses(gold, records, False),
            statuses(gold, records, True) if papers else None,
            found,
            sum(by.late(record["text"], gold) for record in records),
        )
        for (id, gold, records), found in zip(rows, classes, strict=True)
    ]


def score(graded: Sequence[Graded], seed: int) -> dict[str, Any]:
    """All numbers of a benchmark; shares, not percent.

    Args:
        graded: its questions, each with the same number of samples.
        seed: of the bootstrap.
    """
    correct = [question.correct for question in graded]
    n = len(correct[0])
    records = [record for question in graded for record in question.records]
    statuses = [status for question in graded for status in question.statuses]
    lengths = [record["tokens"] for record in records]
    texts = [[record["text"] for record in question.records] for question in graded]
    ks = sorted({2**i for i in range(n.bit_length())} | {n})
    result = {"questions": len(graded), "samples": n, "avg@n": asdict(stats.mean_with_errors(correct))}
    if graded[0].reference is not None:
        reference = [[status == "correct" for status in question.reference] for question in graded]
        result["reference avg@n"] = asdict(stats.mean_with_errors(reference))
    if n > 1:
        result["pass@k"] = asdict(stats.pass_at_k_curve(correct, ks, seed))
        credits = stats.maj_at_n([question.classes for question in graded], correct)
        result["maj@n"] = {"value": float(credits.mean()), "se_questions": stats.standard_error(credits)}
    return result | {
        "statuses": {status: statuses.count(status) / len(statuses) for status in STATUSES},
        "ended by the wall clock": sum(question.late for question in graded),
        "truncated": float(np.mean([record["finish"] == "length" for record in records])),
        "tokens": {"mean": float(np.mean(lengths)), "total": sum(lengths)}
        | {f"{q:g}": value for q, value in stats.length_quantiles(lengths).items()},
        "distinct": stats.distinct_share(texts),
        "all samples equal": stats.all_equal(texts),
    }


def group_means(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The mean over a group's benchmarks, whatever their size, of each group that is complete.

    Its error: the benchmarks' errors over questions, which are independent, in quadrature.
    """
    means = {}
    for name in AVERAGED:
        members = [results[bench]["avg@n"] for bench in GROUPS[name] if bench in results]
        if len(members) == len(GROUPS[name]):
            error = np.sqrt(sum(np.square(member["se_questions"]) for member in members)) / len(members)
            value = float(np.mean([member["value"] for member in members]))
            means[name] = {"value": value, "se_questions": float(error)}
    return means
