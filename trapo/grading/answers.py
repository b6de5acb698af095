r"""Where the final answer is: in the last \boxed after the last </think>.

All linear in the text: the trainer's own process does this for every sample.
"""

import re
from typing import Any

LONGEST = 10_000  # characters; no gold answer is nearly as long, and reading more costs more than it is worth
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=(\{)|([A-Za-z0-9]))")
_JOINED = re.compile(r"\s*\$?\s*(?:,|;|,?\s*and)\s*\$?\s*")
_UNBOXED = re.compile(r"\\(?:boxed|fbox)\s*")


def boxed_answer(text: str) -> str | None:
    r"""The content of the last \boxed{...} after the last </think>, of the whole text where nothing stands behind it.

    `\fbox{5}`, `\boxed {5}` and `\boxed 5` are boxes. Boxes with only a comma or "and" between them are one list;
    side by side they are one answer in parts. A box in a box is layout. An empty box, and one that is cut off, do not
    count where there is a complete one before; a cut one alone counts to the end of the text.

    None if there is no box; "" if it is empty.
    """
    before, _, after = text.rpartition("</think>")
    text = after if after.strip() or not before else before
    boxes, cut = _boxes(text)
    if not boxes:
        return cut
    filled = [i for i, (begin, _, inner) in enumerate(boxes) if inner.strip()]
    if not filled:
        return boxes[-1][2]
    last = filled[-1]
    if any(not text[boxes[i - 1][1] : boxes[i][0]].strip() for i in range(last + 1, len(boxes))):
        return ""  # an empty box right behind the last one takes it back
    answer = boxes[last][2]
    for i in range(last - 1, -1, -1):
        between = text[boxes[i][1] : boxes[i + 1][0]]
        if len(between) > 20 or (between.strip() and not _JOINED.fullmatch(between)):
            break
        answer = f"{boxes[i][2]}{', ' if between.strip() else ' '}{answer}"
    return answer


def _boxes(text: str) -> tuple[list[tuple[int, int, str]], str | None]:
    """The outermost complete boxes, each as where it begins and ends and its content; and a cut one's content."""
    boxes: list[tuple[int, int, str]] = []
    at, cut = 0, None
    while found := _BOX.search(text, at):
        if found[2]:
            boxes.append((found.start(), found.end() + 1, found[2]))
            at = found.end() + 1
            continue
        end = _closing(text, found.end())
        if end is None:  # braces that are never closed: whatever boxes stand inside count for themselves
            cut = text[found.end() + 1 :] if cut is None else cut
            at = found.end() + 1
            if not _BOX.search(text, at):
                break
            rest = _later(text, at)
            if rest is None:
                break
            at = rest
            continue
        boxes.append((found.start(), end + 1, _UNBOXED.sub("", text[found.end() + 1 : end])))
        at = end + 1
    return boxes, None if cut is None else cut.strip() or ""


def _later(text: str, at: int) -> int | None:
    """Where the last complete box behind `at` begins: after one that was cut, only that one can count."""
    starts = [found.start() for found in _BOX.finditer(text, at)]
    for start in reversed(starts[-3:]):
        found = _BOX.match(text, start)
        if found[2] or _closing(text, found.end()) is not None:
            return start
    return None


def _closing(text: str, at: int) -> int | None:
    """Where the brace that opens at `at` is closed; None if it is not."""
    depth = 0
    for found in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, at):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return found.start()
    return None


def gold_text(gold: Any) -> str:
    """A gold answer as text: numbers as Python writes them; of a list every member is needed, in any order."""
    if isinstance(gold, list | tuple):
        return gold_text(gold[0]) if len(gold) == 1 else ", ".join(map(gold_text, gold))
    return str(gold).strip()


def normalise(answer: str) -> str:
    """The answer without what never matters: space and dollars around it, a full stop behind it."""
    answer = " ".join(answer.split())
    while True:
        shorter = answer.strip(" $").removesuffix(".").removesuffix(",")
        if shorter == answer:
            return answer
        answer = shorter
