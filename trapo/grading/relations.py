"""Equations, inequalities and other relations: which are the same, and which only give a value a name."""

from collections.abc import Callable, Sequence

import sympy
from sympy import Symbol
from sympy.core.function import AppliedUndef

from .equality import equal, proportional
from .phrases import denies
from .values import Formula, List, Relation, Tuple, Unread, Value, Words

Same = Callable[[Value, Value], bool]  # whether two values are the same, see `comparison`
_MIRRORED = {">": "<", "ge": "le"}
_SYMMETRIC = frozenset(
    str.split("= ne parallel perp sim simeq cong Leftrightarrow vee wedge cup cap approx leftrightarrow")
)
_RENAMED = {"y": "f"}  # y = ... and f(x) = ... say the same


def value_of(relation: Relation, same: Same) -> Value | None:
    """The value that an equation gives a name to, `x = 5`, or that all its members have, `3 + 4 = 7`; None if none.

    The name may be anything that is no number, if the value is a number: `m + n = 7`. Else it is a letter, a function
    or words: `2x + 3 = 0` has no value.
    """
    if relation.ops == ("in",):
        return relation.sides[1] if is_name(relation.sides[0]) else None
    if relation.ops[-1] == "approx" and _is_rounded(*relation.sides[-2:]):
        if len(relation.ops) == 1:
            return relation.sides[0]
        relation = Relation(relation.sides[:-1], relation.ops[:-1], relation.texts[:-1])
    if set(relation.ops) != {"="}:
        return None
    first, last = relation.sides[0], relation.sides[-1]
    if any(not same(middle, last) and not _is_letter(middle) for middle in relation.sides[1:-1]):
        return None
    if len(relation.sides) == 2 and _is_number(first) and _is_letter(last):
        return first
    if _is_number(first) and relation.texts[0] == relation.texts[-1]:
        return None  # 0 = 0
    if relation.texts[0] == "e" or (not isinstance(first, Unread) and same(first, last)):
        return last
    if _is_number(first):
        return None
    names_number = isinstance(first, Formula) and _is_number(last)
    return last if names_number or (is_name(first) and not _within(first, last)) else None


def _is_number(value: Value) -> bool:
    return isinstance(value, Formula) and not isinstance(value.value, sympy.MatrixBase) and value.value.is_number


def _is_letter(value: Value) -> bool:
    return isinstance(value, Formula) and isinstance(value.value, Symbol)


def _is_rounded(exact: Value, decimal: Value) -> bool:
    """Whether the decimal is the exact number, rounded or cut at its last place, two significant digits at least."""
    if not (_is_number(exact) and isinstance(decimal, Formula) and decimal.value.is_Rational):
        return False
    places = next((k for k in range(30) if (decimal.value * 10**k).is_Integer), None)
    if places is None or abs(decimal.value * 10**places) < 10 or not exact.value.is_extended_real:
        return False
    return bool(abs(exact.value - decimal.value).evalf(30) < sympy.Rational(1, 10**places))


def is_name(value: Value) -> bool:
    """Whether it may name another value: a letter, a function, letters or words, a tuple of letters, the unreadable."""
    if isinstance(value, Formula):
        return isinstance(value.value, Symbol | AppliedUndef) or _is_product_of_letters(value.value)
    if isinstance(value, Tuple):
        return all(is_name(m) for m in value.members)
    if isinstance(value, Words):
        return not denies(value.words)
    return not isinstance(value, Relation | List)


def _is_product_of_letters(value: sympy.Basic) -> bool:
    """AB, which may be a segment."""
    return isinstance(value, sympy.Mul) and all(isinstance(a, Symbol) for a in value.args)


def _within(name: Value, value: Value) -> bool:
    """Whether the letter that names a formula is in it."""
    return (
        isinstance(name, Formula)
        and isinstance(value, Formula)
        and isinstance(name.value, Symbol)
        and name.value in value.value.free_symbols
    )


def values_of(found: List, same: Same) -> list[Value] | None:
    """A list's members without the name before them, `x = 1, x = 2` or `n = 1, 2, 4`; None for several names."""
    named = [isinstance(m, Relation) and m.ops == ("=",) for m in found.members]
    if not any(isinstance(m, Relation) for m in found.members):
        return list(found.members)
    if all(named):
        names = {m.texts[0] for m in found.members}
        if len(names) > 1 and not (len(names) == len(named) and _are_numbered(names)):
            return None
        values = [value_of(m, same) for m in found.members]
        return None if None in values else values
    if named[0] and not any(isinstance(m, Relation) for m in found.members[1:]):
        first = value_of(found.members[0], same)
        return None if first is None else [first, *found.members[1:]]
    return None


def _are_numbered(names: set[str]) -> bool:
    """Whether the names are one letter with several numbers: x_1, x_2."""
    parts = [name.split() for name in names]
    return all(len(p) == 5 and p[1] == "_" and p[3].isdigit() and p[0] == parts[0][0] for p in parts)


def same_relation(left: Relation, right: Relation, same: Same) -> bool:
    """Whether two relations say the same."""
    left, right = _plain(left, same), _plain(right, same)
    if left is None or right is None or len(left.ops) != len(right.ops):
        return False
    if left.ops == right.ops and _in_order(left.sides, right.sides, same):
        return not (left.ops == ("=",) and same(*left.sides) and left.texts != right.texts and _is_empty(left))
    if len(left.ops) != 1 or left.ops != right.ops:
        return False
    op = left.ops[0]
    if op in _SYMMETRIC and _in_order(left.sides, right.sides[::-1], same):
        return True
    if not all(isinstance(s, Formula) for s in (*left.sides, *right.sides)):
        return op == "=" and _same_definition(left, right, same)
    if op == "=":
        return _same_definition(left, right, same) or _same_equation(left, right)
    return op in ("<", "le", "ne") and _proportional(left, right, op != "ne")


def _is_empty(relation: Relation) -> bool:
    """Whether it holds whatever its letters are: 1 = 1."""
    return all(isinstance(s, Formula) for s in relation.sides) and equal(*(s.value for s in relation.sides))


def _in_order(left: Sequence[Value], right: Sequence[Value], same: Same) -> bool:
    return all(map(same, left, right))


def _plain(relation: Relation, same: Same) -> Relation | None:
    """With "<" for ">", and a chain of equations as its first and last member; None if those between differ."""
    if relation.ops and all(op in _MIRRORED for op in relation.ops):
        ops = tuple(_MIRRORED[op] for op in relation.ops[::-1])
        return Relation(relation.sides[::-1], ops, relation.texts[::-1])
    if len(relation.ops) > 1 and set(relation.ops) == {"="}:
        if any(not same(middle, relation.sides[-1]) for middle in relation.sides[1:-1]):
            return None
        sides = (relation.sides[0], relation.sides[-1])
        return Relation(sides, ("=",), (relation.texts[0], relation.texts[-1]))
    return relation


def _same_definition(left: Relation, right: Relation, same: Same) -> bool:
    """f(x) = x + 1, f(t) = t + 1 and y = x + 1 define the same."""
    if not all(isinstance(s, Formula) for s in (left.sides[0], right.sides[0], left.sides[1], right.sides[1])):
        return False
    names = [r.sides[0].value for r in (left, right)]
    plain = [_defined(name) for name in names]
    if None in plain or plain[0][0] != plain[1][0]:
        return False
    (_, a), (_, b) = plain
    body = right.sides[1].value
    if a is not None and b is not None and a != b:
        if a in body.free_symbols:
            return False
        body = body.xreplace({b: a})
    elif (a is None) != (b is None):
        letter = a or b
        if letter.name != "x":
            return False
    return same(left.sides[1], Formula(body))


def _defined(name: sympy.Basic) -> tuple[str, Symbol | None] | None:
    """What a left-hand side defines, and of which letter."""
    if isinstance(name, AppliedUndef) and len(name.args) == 1 and isinstance(name.args[0], Symbol):
        return name.func.__name__.split("/")[0], name.args[0]
    if isinstance(name, Symbol) and name.name in _RENAMED:
        return _RENAMED[name.name], None
    return None


def _same_equation(left: Relation, right: Relation) -> bool:
    differences = [r.sides[0].value - r.sides[1].value for r in (left, right)]
    if any(isinstance(d, sympy.MatrixBase) or not d.free_symbols for d in differences):
        return False
    return _proportional(left, right, False)


def _proportional(left: Relation, right: Relation, positive: bool) -> bool:
    if any(isinstance(s.value, sympy.MatrixBase) for s in (*left.sides, *right.sides)):
        return False
    if any(s.value.has(sympy.oo) for s in (*left.sides, *right.sides)):
        return False
    return proportional(*(r.sides[0].value - r.sides[1].value for r in (left, right)), positive)
