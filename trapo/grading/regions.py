"""Intervals, unions and inequalities in one letter as what they have in common: sets of real numbers."""

from dataclasses import dataclass

import sympy

from .equality import equal
from .values import Builder, Formula, Interval, List, Relation, Set, Tuple, Union, Value, Words

_FLIPPED = {"<": ">", ">": "<", "le": "ge", "ge": "le"}


@dataclass(frozen=True)
class Piece:
    """From low to high, each in or not."""

    low: sympy.Basic
    low_in: bool
    high: sympy.Basic
    high_in: bool


@dataclass(frozen=True)
class Region:
    """Pieces that do not touch, from left to right; the letter they are of, "" if none is named."""

    pieces: tuple[Piece, ...]
    letter: str = ""


_LINE = Piece(-sympy.oo, False, sympy.oo, False)


def region(value: Value) -> Region | None:
    """The real numbers that a value is; None if it is none, or its ends are no numbers."""
    match value:
        case Interval(low, high, low_in, high_in):
            return _of([Piece(low, low_in, high, high_in)])
        case Tuple((Formula(low), Formula(high)), True):
            return _of([Piece(low, False, high, False)])
        case Set(members):
            if all(isinstance(m, Formula) for m in members):
                return _of([Piece(m.value, True, m.value, True) for m in members])
        case Formula(value) if value == sympy.Symbol("bb R"):
            return Region((_LINE,))
        case Union(parts):
            found = [region(part) for part in parts]
            return _of([p for r in found for p in r.pieces]) if all(found) else None
        case Builder(letter, condition):
            found = region(condition)
            return Region(found.pieces) if found and found.letter in (letter, "") else None
        case Relation():
            return _of_relation(value)
        case List(members, joint):
            return _of_list([region(m) if isinstance(m, Relation) else None for m in members], joint)
    return None


def same_region(left: Region, right: Region) -> bool:
    """Whether two regions are the same, of the same letter where both name one."""
    if left.letter and right.letter and left.letter != right.letter:
        return False
    return len(left.pieces) == len(right.pieces) and all(
        (a.low_in, a.high_in) == (b.low_in, b.high_in) and equal(a.low, b.low) and equal(a.high, b.high)
        for a, b in zip(left.pieces, right.pieces, strict=True)
    )


def _place(end: sympy.Basic) -> float | None:
    if end in (sympy.oo, -sympy.oo):
        return float(end)
    try:
        return float(end) if end.is_number and end.is_extended_real is not False else None
    except (TypeError, OverflowError):
        return None


def _of(pieces: list[Piece], letter: str = "") -> Region | None:
    """The region of some pieces, merged; None if an end is no number or a piece ends before it begins."""
    placed = []
    for piece in pieces:
        low, high = _place(piece.low), _place(piece.high)
        if low is None or high is None or low > high or (low == high and not (piece.low_in and piece.high_in)):
            return None
        placed.append((low, not piece.low_in, high, piece))
    placed.sort(key=lambda entry: entry[:3])
    merged: list[Piece] = []
    for low, _, high, piece in placed:
        before = merged[-1] if merged else None
        if before and (low < _place(before.high) or (low == _place(before.high) and (piece.low_in or before.high_in))):
            top = _place(before.high)
            further = high > top or (high == top and piece.high_in)
            end, end_in = (piece.high, piece.high_in) if further else (before.high, before.high_in)
            merged[-1] = Piece(before.low, before.low_in, end, end_in)
        else:
            merged.append(piece)
    return Region(tuple(merged), letter)


def _of_list(found: list[Region | None], joint: str) -> Region | None:
    if not all(found) or len({r.letter for r in found}) > 1:
        return None
    letter = found[0].letter
    union = _of([p for r in found for p in r.pieces], letter)
    if joint == "or":
        return union
    common = list(found[0].pieces)
    for other in found[1:]:
        common = [c for a in common for b in other.pieces if (c := _common(a, b)) is not None]
    if common or joint == "and":
        return _of(common, letter)
    return union


def _common(left: Piece, right: Piece) -> Piece | None:
    low, low_in = max(
        ((left.low, left.low_in), (right.low, right.low_in)), key=lambda end: (_place(end[0]), not end[1])
    )
    high, high_in = min(
        ((left.high, left.high_in), (right.high, right.high_in)), key=lambda end: (_place(end[0]), end[1])
    )
    empty = _place(low) > _place(high) or (_place(low) == _place(high) and not (low_in and high_in))
    return None if empty else Piece(low, low_in, high, high_in)


def _of_relation(relation: Relation) -> Region | None:
    if relation.ops == ("in",):
        left, found = relation.sides[0], region(relation.sides[1])
        named = isinstance(left, Formula) and isinstance(left.value, sympy.Symbol)
        return Region(found.pieces, left.value.name) if found and named else None
    if not all(op in (*_FLIPPED, "ne") for op in relation.ops) or len(relation.sides) > 3:
        return None
    steps = [
        _of_step(left, op, right)
        for left, op, right in zip(relation.sides, relation.ops, relation.sides[1:], strict=False)
    ]
    return _of_list(steps, "and") if all(steps) and _one_way(relation.ops) else None


def _one_way(ops: tuple[str, ...]) -> bool:
    return len(ops) == 1 or {op in ("<", "le") for op in ops} in ({True}, {False})


def _of_step(left: Value, op: str, right: Value) -> Region | None:
    """The solutions of one inequality that is linear in its only letter."""
    if isinstance(left, Words) or not (isinstance(left, Formula) and isinstance(right, Formula)):
        return None
    if left.value.has(sympy.oo) or right.value.has(sympy.oo):
        return None if not (left.value.is_Symbol or right.value.is_Symbol) else _endless(left.value, op, right.value)
    difference = left.value - right.value
    letters = difference.free_symbols
    if len(letters) != 1 or not difference.is_polynomial(*letters):
        return None
    (letter,) = letters
    polynomial = sympy.Poly(difference, letter)
    if polynomial.degree() != 1:
        return None
    slope, shift = polynomial.all_coeffs()
    if not (slope.is_real and shift.is_real):
        return None
    at = -shift / slope
    op = _FLIPPED.get(op, op) if slope < 0 else op
    below, above = Piece(-sympy.oo, False, at, op == "le"), Piece(at, op == "ge", sympy.oo, False)
    pieces = [below, above] if op == "ne" else [below] if op in ("<", "le") else [above]
    return Region(tuple(pieces), letter.name)


def _endless(left: sympy.Basic, op: str, right: sympy.Basic) -> Region | None:
    """-oo < x and the like: no bound at all."""
    letter, other = (left, right) if left.is_Symbol else (right, left)
    op = op if left.is_Symbol else _FLIPPED.get(op, op)
    open_end = (other == sympy.oo and op in ("<", "le")) or (other == -sympy.oo and op in (">", "ge"))
    return Region((_LINE,), letter.name) if open_end else None
