r"""A final answer as text: what is in the box, written the one way that the comparison reads.

math-verify compares expressions; what it misreads is rewritten before: `4.5e33` (to it 4.5 * e * 33), thousands in
groups (`10\,000`, `1 000`), degrees, a trailing period. Nothing here makes unequal values equal: units are kept apart
and compared where both answers name one, and nothing is rounded.
"""

import re
from typing import Any

_SPACE = r"(?:\\[,;:!\ ]|\\(?:quad|qquad|thinspace|medspace|thickspace)\b|[~\s])"
_UNICODE = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "°": r"^\circ ", "∞": r"\infty ", "π": r"\pi "}
    | {
        "√": r"\sqrt ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "％": r"\%",
        "\u00a0": " ",
        "\u2009": " ",
        "\u202f": " ",
        "\u200b": "",
    }
)
_WRAPPED = re.compile(r"\$\$(.*)\$\$|\$([^$]*)\$|\\\((.*)\\\)|\\\[(.*)\\\]", re.DOTALL)
_GROUPED = re.compile(rf"(?<![\d.,])(\d{{1,3}}(?:{_SPACE}+\d{{3}})+)(?!\d)")
_COMMA_BRACES = re.compile(r"(?<=\d)\{,\}(?=\d{3}(?!\d))")
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d*)?|\.\d+)[eE]([+-]?\d+)(?![\w.])")
_DEGREE = re.compile(rf"{_SPACE}*(?:\^\s*(?:\\circ\b|\{{\s*\\circ\s*\}})|\\degrees?\b|\\text\{{\s*degrees?\s*\}})")
_TRIGONOMETRY = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)\b")
_CHOICE = re.compile(r"(?:\\(?:text|textbf|mathrm|mathbf)\s*\{)?\s*\(?\s*([A-J])\s*\)?\s*[.:]?\s*\}?")
_UNIT = re.compile(
    rf"""(?P<value>.*[\d}})]){_SPACE}*(?:
    \\(?:text|mathrm|textrm|mbox|rm)\s*\{{{_SPACE}*(?P<boxed>[A-Za-z][A-Za-z\ /.]*?){_SPACE}*\}}
    |(?P<bare>cm|mm|km|kg|mg|ml|hours?|minutes?|seconds?|days?|years?|feet|inches|miles|meters?|dollars?|cents?|units)
    )(?P<power>\s*\^\s*\{{?\s*[23]\s*\}}?)?""",
    re.DOTALL | re.VERBOSE,
)
_BASE = re.compile(r"\(?(?:\\text\s*\{)?(\d[0-9A-F]*)\}?\)?\s*_\s*\{?(?:\\text\s*\{)?\s*(\d+)\s*\}*")
_SAME_UNIT = {
    "centimeter": "cm", "millimeter": "mm", "meter": "m", "metre": "m", "kilometer": "km", "inch": "in", "inche": "in",
    "foot": "ft", "feet": "ft", "mile": "mi", "second": "s", "sec": "s", "minute": "min", "hour": "h", "hr": "h",
    "gram": "g", "kilogram": "kg", "liter": "l", "litre": "l", "dollar": "usd",
}  # fmt: skip


def boxed_answer(text: str) -> str | None:
    r"""The content of the last \boxed{...} after the last </think>, of the whole text where there is no </think>.

    None if there is no complete box.
    """
    text = text.rpartition("</think>")[2]
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed")
    for i in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0) if text[i - 1] != "\\" else 0
        if depth == 0:
            return text[begin + 1 : i]
    return None


def gold_text(gold: Any) -> str:
    """A gold answer as text: numbers as Python writes them; of a list every member is needed, in any order."""
    if isinstance(gold, list | tuple):
        return gold_text(gold[0]) if len(gold) == 1 else ", ".join(map(gold_text, gold))
    return str(gold).strip()


def normalise(answer: str) -> str:
    """The answer rewritten, its value unchanged: no dollars, separators or trailing period; powers of ten spelled out.

    normalise(normalise(x)) == normalise(x).
    """
    before = None
    while answer != before:  # what one rule lays bare another may take
        before = answer
        answer = answer.translate(_UNICODE).strip()
        if wrapped := _WRAPPED.fullmatch(answer):
            answer = next(part for part in wrapped.groups() if part is not None)
        answer = re.sub(rf"^(?:{_SPACE})+|(?:{_SPACE})+$", "", answer)
        answer = re.sub(r"(?<!\\)[.,;]+$", "", answer)
        answer = re.sub(r"^\\?\$\s*(?=[\d.-])", "", answer)
        answer = re.sub(r"(?<!\\)%", r"\\%", answer)
        answer = _COMMA_BRACES.sub(",", answer)
        answer = _GROUPED.sub(lambda m: re.sub(r"\D", "", m[1]), answer)
        answer = _SCIENTIFIC.sub(lambda m: rf"{m[1]} \cdot 10^{{{int(m[2])}}}", answer)
        if _TRIGONOMETRY.search(answer):
            answer = re.sub(rf"(\d+(?:\.\d+)?){_DEGREE.pattern}", r"(\1 \\cdot \\pi / 180)", answer)
        else:
            answer = _DEGREE.sub("", answer)
        if choice := _CHOICE.fullmatch(answer):
            answer = choice[1]
    return answer


def split_unit(answer: str) -> tuple[str, str | None]:
    """Value and unit of a normalised answer; None where none is named ("square units" is none).

    Synonyms have one name, powers are kept: `5 \\text{ cm}^2` is ("5", "cm2").
    """
    found = _UNIT.fullmatch(answer)
    if not found:
        return answer, None
    words = (found["boxed"] or found["bare"]).lower().replace(".", "").split()
    square = {"square": "2", "sq": "2", "cubic": "3"}
    power = "".join(square.get(word, "") for word in words) + re.sub(r"\D", "", found["power"] or "")
    names = [word for word in words if word not in square]
    names = [name.removesuffix("s") if len(name) > 2 else name for name in names]
    unit = " ".join(_SAME_UNIT.get(name, name) for name in names)
    return found["value"], None if unit in ("unit", "") else unit + power


def split_base(answer: str) -> tuple[str, str | None]:
    r"""Digits and base of a number that names its base; anything else and None: `1010_{2}` is ("1010", "2")."""
    found = _BASE.fullmatch(answer)
    return (found[1], found[2]) if found else (answer, None)
