"""Answers of several members: lists, sets, tuples, intervals and their unions, cases, ratios.

Each reader is given the one that reads a member, and returns None where the tokens are not of its shape.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import sympy

from .constructs import rows_of
from .expressions import expression
from .latex import Token, Unreadable
from .phrases import is_word
from .quantities import clock
from .splitting import OPEN, closes, is_separator, split, trimmed
from .values import (
    Builder,
    Cases,
    Formula,
    Interval,
    List,
    Mixed,
    Ratio,
    Relation,
    Set,
    Tuple,
    Union,
    Value,
    Words,
)  # fmt: skip

Reader = Callable[[list[Token]], Value]


def listed(found: list[Token], read: Reader) -> Value | None:
    """Members between commas, semicolons, "and", "or"."""
    parts, marks = split(found, is_separator)
    if len(parts) == 1:
        return None
    words = {m.text.lower() for m in marks}
    joint = "or" if "or" in words else "and" if "and" in words else ","
    given = [part for i, part in enumerate(parts) if part or i not in (0, len(parts) - 1)]
    # "1, 4, and 9": nothing stands between the comma and the word.
    given = [part for i, part in enumerate(given) if part or not (i and is_separator(marks[i]))]
    if len(given) < 2 or not all(given) or len(given) != len(parts) - _doubled(parts, marks):
        raise Unreadable("a list with a gap")
    if given[0] and is_word(given[0][0]) and given[0][0].text.lower() in ("either", "both"):
        given[0] = given[0][1:]
    return members(given, read, joint)


def _doubled(parts: list[list[Token]], marks: list[Token]) -> int:
    return sum(
        not part and 0 < i < len(parts) - 1 and is_word(marks[i]) and marks[i - 1].is_mark(",", ";")
        for i, part in enumerate(parts)
    )


def _flat(found: Iterable[Value]) -> Iterator[Value]:
    r"""The members, both values of one with a \pm for themselves."""
    for value in found:
        yield from value.members if isinstance(value, List) and not value.ordered else (value,)


def members(parts: list[list[Token]], read: Reader, joint: str = ",") -> List:
    """A list of what the parts are; an ellipsis among whole numbers is filled in."""
    dots = [i for i, part in enumerate(parts) if len(part) == 1 and part[0].is_mark("...")]
    if not dots:
        return List(tuple(_flat(read(part) for part in parts)), joint)
    if len(dots) > 1 or dots[0] < 2 or dots[0] < len(parts) - 2:
        raise Unreadable("an ellipsis that says too little")
    first = [read(part) for part in parts[: dots[0]]]
    if dots[0] == len(parts) - 1:
        return List(tuple(first), joint, ordered=True, endless=True)
    last = read(parts[-1])
    if all(isinstance(x, Formula) and x.value.is_Integer for x in (*first, last)):
        return List(_filled_in([int(x.value) for x in first], int(last.value)), joint)
    return List((*first, Words(("...",)), last), joint, ordered=True)


def _filled_in(first: list[int], last: int) -> tuple[Value, ...]:
    """The whole progression."""
    steps = {b - a for a, b in pairwise(first)}
    step = steps.pop()
    if steps or step == 0 or (last - first[-1]) % step or not 0 < (last - first[-1]) // step <= 1_000:
        raise Unreadable("an ellipsis between numbers of no progression")
    return tuple(Formula(sympy.Integer(k)) for k in range(first[0], last + (step > 0) - (step < 0), step))


def union(found: list[Token], read: Reader) -> Value | None:
    r"""Intervals and sets joined by \cup (or a U), or one without another."""
    parts, marks = split(
        found, lambda t: t.is_command("cup", "cap", "setminus") or (t.kind == "letter" and t.text == "U")
    )
    if not marks:
        return None
    if not all(parts):
        raise Unreadable("a union without sides")
    values = [read(part) for part in parts]
    if len({m.text for m in marks}) > 1 or any(isinstance(v, Words) and v.words[:1] == ("no",) for v in values):
        raise Unreadable("unions and differences")
    sets = all(isinstance(v, Interval | Set | Tuple | Union) or _is_reals(v) for v in values)
    if not sets:
        if any(m.kind == "letter" for m in marks):
            return None
        return Relation(tuple(values), tuple(m.text for m in marks))
    if marks[0].is_command("setminus") and len(values) == 2 and _is_reals(values[0]) and isinstance(values[1], Set):
        without = [Relation((Formula(sympy.Symbol("")), m), ("ne",)) for m in values[1].members]
        return List(tuple(without)) if len(without) > 1 else without[0]
    if marks[0].is_command("setminus", "cap"):
        return Relation(tuple(values), tuple(m.text for m in marks))
    return Union(tuple(values))


def _is_reals(value: Value) -> bool:
    return isinstance(value, Formula) and value.value == sympy.Symbol("bb R")


def bracketed(found: list[Token], read: Reader) -> Value | None:
    """A tuple, an interval, a set, a vector, cases: one pair of brackets around it all."""
    if found[0].kind == "command" and found[0].text == "begin cases":
        return _cases(found, read)
    if not (found[0].is_mark(*OPEN) and closes(found, 0) == len(found) - 1):
        return None
    opening, closing, inner = found[0].text, found[-1].text, found[1:-1]
    if opening == "{.":
        return _set(inner, read)
    parts, _ = split(inner, lambda t: t.is_mark(",", ";"))
    if len(parts) < 2:
        if opening == "(" and closing == ")" and inner:
            return read(inner)
        if opening == "[" and inner and inner[0].kind == "command" and inner[0].text.startswith("begin "):
            return Formula(expression(inner))
        if opening == "[":
            raise Unreadable("one member in brackets")
        return None
    if not all(parts):
        raise Unreadable("a gap between brackets")
    values = tuple(read(part) for part in parts)
    if len(values) == 2 and opening in "([" and closing in ")]" and opening + closing != "()":
        ends = [v.value if isinstance(v, Formula) else None for v in values]
        if None in ends:
            raise Unreadable("an interval's ends")
        low_in, high_in = opening == "[" and ends[0] != -sympy.oo, closing == "]" and ends[1] != sympy.oo
        return Interval(ends[0], ends[1], low_in, high_in)
    return Tuple(values, opening == "(")


def _set(inner: list[Token], read: Reader) -> Value:
    if not inner:
        return Set(())
    parts, marks = split(inner, lambda t: t.is_mark("|", ":"))
    if len(marks) == 1 and len(parts[0]) == 1 and parts[0][0].kind == "letter":
        return Builder(parts[0][0].text, read(parts[1]))
    if len(marks) == 1 and len(parts[0]) == 3 and parts[0][1].is_command("in") and parts[0][2].text == "bb R":
        return Builder(parts[0][0].text, read(parts[1]))
    if marks and len(parts[0]) > 1:  # x in Z | ...
        raise Unreadable("a set with a domain")
    parts, _ = split(inner, lambda t: t.is_mark(",", ";"))
    if not all(parts):
        raise Unreadable("a gap between braces")
    if len(parts) == 1:
        return Set((read(parts[0]),))
    found = members(parts, read)
    if found.endless or found.ordered:
        return Mixed((Words(("set",)), found))
    return Set(found.members)


def _cases(found: list[Token], read: Reader) -> Value | None:
    if not found[-1].is_command("end cases"):
        return None
    rows = rows_of(found[1:-1], "cases")
    if all(len(row) == 1 for row in rows):  # a system of equations
        return List(tuple(read(row[0]) for row in rows))
    if any(len(row) != 2 for row in rows):
        raise Unreadable("cases of three columns")
    read_rows = []
    for value, condition in rows:
        while condition and (condition[0].is_mark(",") or condition[0].text.lower() in ("if", "for", "when")):
            condition = condition[1:]
        while value and value[-1].is_mark(","):
            value = value[:-1]
        read_rows.append((read(value), read(condition)))
    return Cases(tuple(read_rows))


def ratio(found: list[Token]) -> Value | None:
    """Numbers with colons between them, or a time of the day; "3 to 4" too."""
    parts, marks = split(found, lambda t: t.is_mark(":") or (is_word(t) and t.text == "to"))
    if not marks:
        return None
    if len({m.text for m in marks}) > 1 or not all(parts):
        raise Unreadable("a colon without sides")
    time = clock(found)
    if time is not None:
        return time
    values = [Formula(expression(trimmed(part))) for part in parts]
    return Ratio(tuple(values))
