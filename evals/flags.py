r"""What may be wrong with a sample's verdict, for a reader to look at: MathArena's warnings, counted and with examples.

MathArena (arXiv 2505.23281) keeps such flags beside every graded answer, since a parser's slips are otherwise found by
reading everything only. A flag changes no number.
"""

import re
from collections.abc import Iterable
from typing import Any

from trapo.grading.answers import boxed_answer, normalise

FLAGS = {
    "not_extracted": "the right answer may be there but was not extracted",
    "token_limit": "hit the token limit",
    "no_answer": "no answer",
    "graders_disagree": "our grading and the papers' disagree",
}
TAIL = 300  # characters of the end in which a final answer would stand
EXAMPLES = 3
# What may not stand beside a final answer: it would be part of another number or expression.
_BEFORE, _AFTER = r"(?:(?<=\\boxed\{)|(?<![\w.\\/^_{+*-]))", r"(?![\w/^*]|\.\d|\s*[-+*/^])"
_BOXES = 20  # looked at, from the end
_LONGEST = 200  # characters of a box that could be a gold answer


def flags(kind: str, text: str, gold: str, status: str, reference: str | None, finish: str) -> list[str]:
    """The names of a sample's flags, in the order of `FLAGS`.

    Args:
        kind: the benchmark's.
        text, gold: the sample and the right answer.
        status, reference: our verdict, and the papers' (None where there is none).
        finish: why it ended.
    """
    right = status == "correct"
    found = {
        "not_extracted": not right and present(kind, text, gold),
        "token_limit": finish == "length",
        "no_answer": status == "no_box",
        "graders_disagree": reference is not None and right != (reference == "correct"),
    }
    return [name for name in FLAGS if found[name]]


def present(kind: str, text: str, gold: str) -> bool:
    """Whether the right answer stands in an earlier box, or in so many words at the end of a text."""
    text = text.rpartition("</think>")[2]
    wanted = normalise(gold)
    boxes = list(_boxes(text))
    if any(normalise(box) == wanted for box in boxes[1:] if len(box) <= _LONGEST):
        return True
    tail = text[-TAIL:]
    if kind == "choice":  # a letter alone is a word of the text
        return bool(re.search(rf"(?i:answer|choice|option)\W+(?:(?i:is)\W+)?{re.escape(gold)}(?!\w)", tail))
    forms = {form for form in (gold, wanted) if form}
    return any(re.search(rf"{_BEFORE}{re.escape(form)}{_AFTER}", tail) for form in forms)


def _boxes(text: str) -> Iterable[str]:
    """The contents of a text's whole boxes, the last one first."""
    for _ in range(_BOXES):
        if (start := text.rfind("\\boxed{")) < 0:
            return
        if (box := boxed_answer(text[start : start + _LONGEST + 20])) is not None:
            yield box
        text = text[:start]


def counted(lines: Iterable[dict[str, Any]], texts: dict[str, str]) -> dict[str, dict[str, Any]]:
    """For each flag that occurs: how many samples have it, and the first few of them, of different questions.

    Args:
        lines: of graded.jsonl.
        texts: key -> the sample's text.
    """
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        for name in line["flags"]:
            entry = found.setdefault(name, {"count": 0, "examples": []})
            entry["count"] += 1
            examples = entry["examples"]
            if len(examples) < EXAMPLES and line["question"] not in [example["question"] for example in examples]:
                shown = {key: line[key] for key in ("question", "index", "gold", "answer", "status")}
                examples.append(shown | {"end": texts[line["key"]][-160:]})
    return {name: found[name] for name in FLAGS if name in found}
