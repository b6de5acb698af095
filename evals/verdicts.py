"""Verdicts on an evaluation's samples: each text is graded once, in worker processes, while others are being drawn."""

import atexit
from collections.abc import Iterable, Sequence
from functools import cache

from trapo.grading.answers import boxed_answer, normalise
from trapo.grading.choice import letter_of, same_letter
from trapo.grading.grader import Grader

from .benchmarks import LETTERS, NUMBERS

_LETTER = str.maketrans(dict(zip(NUMBERS, LETTERS, strict=False)))
Key = tuple[bool, str, str]  # the papers' grading?, text, gold


class Verdicts:
    """Statuses of texts against gold answers, remembered.

    Args:
        grader: does what is not a letter's comparison.
    """

    def __init__(self, grader: Grader):
        self._grader = grader
        self._known: dict[Key, str] = {}
        self._asked: set[Key] = set()
        self._late: set[Key] = set()

    def ask(self, kind: str, text: str, gold: str, reference: bool = False) -> None:
        """Have a text graded; workers are at it while the caller goes on. Arguments as in `status`."""
        key = (reference, text, gold)
        if key in self._known or key in self._asked:
            return
        if kind == "choice" and not reference:
            self._known[key] = letter_status(text, gold)
        else:
            self._asked.add(key)
            self._grader.submit(key, text, gold, reference=reference)

    def collect(self, wait: bool = False) -> None:
        """Take in what has been graded; with `wait`, at least one of those asked for."""
        for key, verdict in self._grader.collect(wait=wait and bool(self._asked)).items():
            self._asked.discard(key)
            self._known[key] = verdict.status
            if verdict.wall:
                self._late.add(key)

    def known(self, text: str, gold: str) -> str | None:
        """The status of a text if it has been found, without waiting."""
        return self._known.get((False, text, gold))

    def status(self, kind: str, text: str, gold: str, reference: bool = False) -> str:
        """The status of a text, one of `trapo.grading.grader.STATUSES`, waited for if need be.

        Args:
            kind: the benchmark's: "choice" compares letters, all else is algebra.
            text: the whole sample.
            gold: the right answer.
            reference: by the papers' own grading, whatever the kind.
        """
        self.ask(kind, text, gold, reference)
        while (key := (reference, text, gold)) not in self._known:
            self.collect(wait=True)
        return self._known[key]

    def late(self, text: str, gold: str) -> bool:
        """Whether the wall clock ended the grading of a text: then its status may be the machine's load."""
        return (False, text, gold) in self._late

    def classes(self, rows: Iterable[tuple[str, str, Sequence[str]]]) -> list[list[str | None]]:
        """For each question, a label for each sample: equal labels are equivalent answers, None is no answer.

        A right answer is labelled by the gold one, a wrong one by the first in its question that it equals.

        Args:
            rows: kind, gold and samples of each question.
        """
        rows = list(rows)
        labels: list[dict[str, str]] = []  # of each question, answer -> label; those in `open` are still to come
        open: list[list[str]] = []
        for kind, gold, texts in rows:
            right, wrong = {}, []
            for text in texts:
                answer = _answer(text)
                if answer is None or answer in right:
                    continue
                if self.status(kind, text, gold) == "correct":
                    right[answer] = gold
                elif answer not in wrong:
                    wrong.append(answer)
            labels.append(right)
            open.append([answer for answer in wrong if answer not in right])
        while any(open):  # in each round every question's first open answer becomes a class and gathers its equals
            for found, answers, (kind, _, _) in zip(labels, open, rows, strict=True):
                for answer in answers[:1]:
                    found[answer] = answer
                for other in answers[1:]:
                    self.ask(kind, _boxed(other), answers[0])
            for found, answers, (kind, _, _) in zip(labels, open, rows, strict=True):
                if answers:
                    first, *others = answers
                    same = [x for x in others if self.status(kind, _boxed(x), first) == "correct"]
                    found |= dict.fromkeys(same, first)
                    answers[:] = [x for x in others if x not in same]
        return [[found.get(_answer(text)) for text in texts] for found, (_, _, texts) in zip(labels, rows, strict=True)]


@cache
def shared(rule: str = "own") -> Verdicts:
    """One for the whole process for each of the grader's rules: its workers take seconds to start."""
    grader = Grader(rule=rule)
    atexit.register(grader.close)
    return Verdicts(grader)


def letter_status(text: str, gold: str) -> str:
    r"""Grade a text by the letter in its last \boxed{}: "correct", "wrong" or "no_box".

    A choice's text may stand behind its letter: "B. Photosynthesis". Never by algebra: that would read e, a wrong
    answer to a question whose gold is E, as a number. Where choices are numbered, as in some of ARC, so is the gold.
    """
    answer = boxed_answer(text)
    if answer is None or not answer.strip():
        return "no_box"
    if gold in NUMBERS:
        if letter_of(answer) is not None:
            return "wrong"
        answer, gold = answer.translate(_LETTER), gold.translate(_LETTER)
    return "correct" if same_letter(answer, gold, small=True) else "wrong"


def _answer(text: str) -> str | None:
    """What is in the last box, normalised; None where there is nothing."""
    answer = boxed_answer(text)
    return normalise(answer) if answer and answer.strip() else None


def _boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"
