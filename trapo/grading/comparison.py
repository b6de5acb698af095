r"""When two answers are the same. The rules, with an example of each side, are in docs/grading.md.

`same` is symmetric: each rule is written for one order of its two kinds, and asked in both.
"""

from collections.abc import Callable, Sequence
from itertools import permutations

import sympy
from sympy import Rational, Symbol

from . import units
from .equality import equal, repeats
from .phrases import same_words
from .piecewise import same_function
from .regions import region, same_region
from .relations import same_relation, value_of, values_of
from .values import (
    Based,
    Cases,
    Congruence,
    Formula,
    Interval,
    List,
    Mixed,
    Quantity,
    Ratio,
    Relation,
    Set,
    Tuple,
    Union,
    Unread,
    Value,
    Words,
)  # fmt: skip

_CONSTANTS = frozenset(["C", "c", "K", "k"])
_VECTORS = [Symbol(f"unit {name}") for name in "ijk"]


def same_answer(left: Value, right: Value) -> bool:
    """Whether two whole answers are the same: as `same`, and a set of one is what is in it."""
    if same(left, right):
        return True
    for a, b in ((left, right), (right, left)):
        if isinstance(a, Set) and len(a.members) == 1 and isinstance(b, Formula | Quantity | Tuple | Interval):
            return same(a.members[0], b)
    return False


def same(left: Value, right: Value) -> bool:
    """Whether two answers, or two members of answers, are the same."""
    if isinstance(left, Unread) or isinstance(right, Unread):
        return isinstance(left, Unread) and isinstance(right, Unread) and left.text == right.text
    if left == right:
        return True
    for a, b in ((left, right), (right, left)):
        rule = _RULES.get((type(a), type(b)))
        if rule is not None and rule(a, b):
            return True
    return _same_regions(left, right)


def _same_regions(left: Value, right: Value) -> bool:
    """Intervals, unions and inequalities; two tuples, two sets and two formulas are no intervals."""
    kinds = {type(left), type(right)}
    if kinds <= {Tuple, Set, Formula} or Quantity in kinds or (kinds <= {Set, List, Formula}):
        return False
    if any(isinstance(x, List) and not all(isinstance(m, Relation) for m in x.members) for x in (left, right)):
        return False
    a = region(left)
    b = region(right) if a is not None else None
    if a is None or b is None:
        return False
    points = [all(p.low == p.high for p in r.pieces) for r in (a, b)]
    if any(points) and kinds != {Set, Union} and kinds != {Union}:
        return False
    return same_region(a, b)


# One rule for each pair of kinds


def _formulas(left: Formula, right: Formula) -> bool:
    a, b = left.value, right.value
    if equal(a, b) or repeats(a, b) or repeats(b, a):
        return True
    for matrix, other in ((a, b), (b, a)):  # a column is a sum of unit vectors too
        if isinstance(matrix, sympy.MatrixBase) and matrix.cols == 1 and not isinstance(other, sympy.MatrixBase):
            return _tuple_formula(Tuple(tuple(map(Formula, matrix))), Formula(other))
    return _same_up_to_constants(a, b)


def _same_up_to_constants(left: sympy.Basic, right: sympy.Basic) -> bool:
    """x^2 + C is x^2 + K; C_1, C_2 may have other names: the names of constants of integration mean nothing."""
    if isinstance(left, sympy.MatrixBase) or isinstance(right, sympy.MatrixBase):
        return False
    added = [
        [t for t in sympy.Add.make_args(x) if isinstance(t, Symbol) and t.name in _CONSTANTS] for x in (left, right)
    ]
    if all(len(a) == 1 and x.is_Add for a, x in zip(added, (left, right), strict=True)):
        (a,), (b,) = added
        if a != b and "C" in (a.name, b.name) and a not in right.free_symbols and b not in left.free_symbols:
            return equal(left, right.xreplace({b: a}))
    mine, others = (sorted(x - y, key=str) for x, y in _both(left.free_symbols, right.free_symbols))
    if not 1 < len(mine) == len(others) < 4:
        return False
    numbered = [all(_is_numbered(s.name) for s in names) for names in (mine, others)]
    capital = [
        all(s.name in ("A", "B", "D", "a", "b") or _is_numbered(s.name) for s in names) for names in (mine, others)
    ]
    if not (any(numbered) and all(capital)):
        return False
    return any(equal(left, right.xreplace(dict(zip(others, order, strict=True)))) for order in permutations(mine))


def _both(left: set, right: set) -> tuple[tuple[set, set], tuple[set, set]]:
    return (left, right), (right, left)


def _is_numbered(name: str) -> bool:
    """Whether it is C_1, c_2, k_1, ..."""
    return name[:1] in _CONSTANTS and name[1:2] == "_"


def _formula_quantity(left: Formula, right: Quantity) -> bool:
    """A bare number is in the unit of the other; percent and degrees may also be worked out."""
    value, number = left.value, right.value
    if isinstance(value, sympy.MatrixBase):
        return False
    if right.unit.dimension == units.PERCENT.dimension:
        if equal(value, number / 100):
            return True
        size = abs(number)
        return bool(size.is_number and size.is_real and 1 < size < 1000 and equal(value, number))
    if equal(value, number):
        return True
    turned = value.has(sympy.pi) or value == 0
    return right.unit.dimension == units.DEGREES.dimension and turned and equal(value, number * sympy.pi / 180)


def _quantities(left: Quantity, right: Quantity) -> bool:
    a, b = left.unit, right.unit
    angles = {units.DEGREES.dimension, units.RADIANS.dimension}
    if {a.dimension, b.dimension} == angles:
        x, y = (v.value * (sympy.pi / 180 if v.unit.dimension == units.DEGREES.dimension else 1) for v in (left, right))
        return equal(x, y)
    if a.dimension != b.dimension or (a.label and b.label and a.label != b.label):
        return False
    if a.dimension == (("counted", 1),):
        return a.name == b.name and equal(left.value, right.value)
    if a.factor is None or b.factor is None:
        return a.name == b.name and equal(left.value, right.value)
    return equal(left.value * _rational(a.factor), right.value * _rational(b.factor))


def _rational(fraction) -> Rational:
    return Rational(fraction.numerator, fraction.denominator)


def _numerals(left: Based, right: Formula) -> bool:
    """A number without a base has the digits of the one with."""
    return bool(right.value.is_Integer and right.value >= 0 and str(right.value) == left.digits)


def _ratios(left: Ratio, right: Ratio) -> bool:
    if len(left.parts) != len(right.parts):
        return False
    a, b = ([p.value for p in x.parts] for x in (left, right))
    if left.clock and right.clock:
        return a == b and (left.suffix == right.suffix or "" in (left.suffix, right.suffix))
    if any(x == 0 for x in (a[0], b[0])):
        return all(map(equal, a, b))
    return all(equal(x * b[0], y * a[0]) for x, y in zip(a, b, strict=True))


def _ratio_formula(left: Ratio, right: Formula) -> bool:
    if left.clock or len(left.parts) != 2 or left.parts[1].value == 0 or isinstance(right.value, sympy.MatrixBase):
        return False
    return equal(left.parts[0].value / left.parts[1].value, right.value)


def _in_order(left: Sequence[Value], right: Sequence[Value]) -> bool:
    return len(left) == len(right) and all(map(same, left, right))


def _tuples(left: Tuple, right: Tuple) -> bool:
    return _in_order(left.members, right.members)


def _tuple_formula(left: Tuple, right: Formula) -> bool:
    """A point or vector as a row, a column, or a sum of unit vectors."""
    value = right.value
    if isinstance(value, sympy.MatrixBase):
        return 1 in value.shape and _in_order(left.members, [Formula(x) for x in value])
    if not any(v in value.free_symbols for v in _VECTORS) or not 2 <= len(left.members) <= 3:
        return False
    parts = [value.coeff(v) for v in _VECTORS]
    if sympy.expand(value - sum(p * v for p, v in zip(parts, _VECTORS, strict=True))) != 0 or (
        len(left.members) == 2 and parts[2] != 0
    ):
        return False
    return _in_order(left.members, [Formula(p) for p in parts[: len(left.members)]])


def _tuple_interval(left: Tuple, right: Interval) -> bool:
    ends = [m.value for m in left.members if isinstance(m, Formula)]
    if right.low_in or right.high_in or len(left.members) != 2 or len(ends) != 2 or not left.round:
        return False
    return equal(ends[0], right.low) and equal(ends[1], right.high)


def _intervals(left: Interval, right: Interval) -> bool:
    kept = (left.low_in, left.high_in) == (right.low_in, right.high_in)
    return kept and equal(left.low, right.low) and equal(left.high, right.high)


def _unions(left: Union, right: Union) -> bool:
    return _matched(left.parts, right.parts)


def _matched(left: Sequence[Value], right: Sequence[Value]) -> bool:
    """Whether the members can be paired off."""
    open_ = list(right)
    if len(left) != len(right):
        return False
    for member in left:
        found = next((i for i, other in enumerate(open_) if same(member, other)), None)
        if found is None:
            return False
        del open_[found]
    return True


def _distinct(members: Sequence[Value]) -> list[Value]:
    kept: list[Value] = []
    for member in members:
        if not any(same(member, other) for other in kept):
            kept.append(member)
    return kept


def _sets(left: Set, right: Set) -> bool:
    return _matched(_distinct(left.members), _distinct(right.members))


def _set_list(left: Set, right: List) -> bool:
    if right.ordered:
        return False
    members = values_of(right, same)
    return members is not None and _matched(_distinct(left.members), _distinct(members))


def _set_union(left: Set, right: Union) -> bool:
    if not all(isinstance(part, Set) for part in right.parts):
        return False
    return _sets(left, Set(tuple(m for part in right.parts for m in part.members)))


def _lists(left: List, right: List) -> bool:
    if left.ordered or right.ordered:
        ordered = (left.ordered, left.endless) == (right.ordered, right.endless)
        return ordered and _in_order(left.members, right.members)
    if {left.joint, right.joint} == {"and", "or"} and any(map(_is_statement, left.members)):
        return False
    related = all(isinstance(m, Relation) for m in (*left.members, *right.members))
    if related and _matched(left.members, right.members):
        return True
    a, b = values_of(left, same), values_of(right, same)
    if a is None or b is None:
        return _matched(left.members, right.members)
    if left.joint == "or" or right.joint == "or":
        a, b = _distinct(a), _distinct(b)
    return _names_agree(left, right) and _matched(a, b)


def _is_statement(value: Value) -> bool:
    """Words and inequalities: of them "and" and "or" are not the same; both values of x are."""
    return isinstance(value, Words) or (isinstance(value, Relation) and value.ops != ("=",))


def _names_agree(left: List, right: List) -> bool:
    """Whether at most one of two lists names its members, or both by the same letter: one of them without numbers."""
    names = [{r.texts[0] for r in x.members if isinstance(r, Relation)} for x in (left, right)]
    letters = [{name.split()[0] for name in found} for found in names]
    return not all(names) or (letters[0] == letters[1] and 1 in map(len, names))


def _list_value(left: List, right: Value) -> bool:
    """The same answer twice, "1/2 or 0.5", is that answer."""
    values = values_of(left, same)
    return left.joint == "or" and values is not None and all(same(m, right) for m in values)


def _list_tuple(left: List, right: Tuple) -> bool:
    """x = 3, y = 4 is (3, 4)."""
    if not all(isinstance(m, Relation) and m.ops == ("=",) for m in left.members):
        return False
    named = sorted(left.members, key=lambda m: m.texts[0])
    if any(len(m.texts[0]) != 1 for m in named) or len({m.texts[0] for m in named}) < len(named):
        return False
    return _in_order([m.sides[1] for m in named], right.members)


def _list_words(left: List, right: Words) -> bool:
    """Letters of choices, with commas or without."""
    letters = [_letter(m) for m in left.members]
    if not right.name or None in letters or left.ordered:
        return False
    return sorted(letters) == sorted(right.words[0])


def _letter(value: Value) -> str | None:
    if isinstance(value, Formula) and isinstance(value.value, Symbol) and len(value.value.name) == 1:
        return value.value.name if value.value.name in "ABCDEFGHIJ" else None
    return None


def _words(left: Words, right: Words) -> bool:
    if left.name and right.name:
        return left.words == right.words
    return same_words(left.words, right.words)


def _words_set(left: Words, right: Set) -> bool:
    return not right.members and same_words(left.words, ("no", "solution"))


def _congruences(left: Congruence, right: Congruence) -> bool:
    if not equal(left.modulus, right.modulus):
        return False
    if left.left is not None and right.left is not None and not same(left.left, right.left):
        return False
    steps = (left.residue - right.residue) / left.modulus
    return bool(steps.is_Integer) or equal(left.residue, right.residue)


def _congruence_formula(left: Congruence, right: Formula) -> bool:
    return left.left is None and equal(left.residue, right.value)


def _cases(left: Cases, right: Cases) -> bool:
    """Row by row in any order, or as one function."""
    return same_function(left, right) or _matched([Tuple(row) for row in left.rows], [Tuple(row) for row in right.rows])


def _mixed(left: Mixed, right: Mixed) -> bool:
    kinds = [[isinstance(p, Words) for p in x.parts] for x in (left, right)]
    return kinds[0] == kinds[1] and _in_order(left.parts, right.parts)


def _equation_formula(left: Relation, right: Formula) -> bool:
    """An equation in x and y, and a formula in x: the formula is y."""
    if _relation_value(left, right):
        return True
    x, y = Symbol("x"), Symbol("y")
    if left.ops != ("=",) or isinstance(right.value, sympy.MatrixBase) or right.value.free_symbols != {x}:
        return False
    found = {s for side in left.sides if isinstance(side, Formula) for s in side.value.free_symbols}
    return found == {x, y} and same(left, Relation((Formula(y), right), ("=",), ("y", "")))


def _relation_value(left: Relation, right: Value) -> bool:
    value = value_of(left, same)
    return value is not None and not isinstance(value, Unread) and same(value, right)


_RULES: dict[tuple[type, type], Callable] = {
    (Formula, Formula): _formulas,
    (Formula, Quantity): _formula_quantity,
    (Quantity, Quantity): _quantities,
    (Based, Formula): _numerals,
    (Ratio, Ratio): _ratios,
    (Ratio, Formula): _ratio_formula,
    (Tuple, Tuple): _tuples,
    (Tuple, Formula): _tuple_formula,
    (Tuple, Interval): _tuple_interval,
    (Interval, Interval): _intervals,
    (Union, Union): _unions,
    (Set, Set): _sets,
    (Set, List): _set_list,
    (Set, Union): _set_union,
    (List, List): _lists,
    (List, Tuple): _list_tuple,
    (List, Words): _list_words,
    (Words, Words): _words,
    (Words, Set): _words_set,
    (Congruence, Congruence): _congruences,
    (Congruence, Formula): _congruence_formula,
    (Cases, Cases): _cases,
    (Cases, Formula): same_function,
    (Mixed, Mixed): _mixed,
    (Relation, Relation): lambda left, right: same_relation(left, right, same),
}
_RULES |= {(List, kind): _list_value for kind in (Formula, Quantity, Based)}
_RULES |= {
    (Relation, kind): _relation_value
    for kind in (Quantity, Based, Ratio, Tuple, Interval, Set, Union, List, Words, Cases, Congruence, Mixed)
}
_RULES[Relation, Formula] = _equation_formula
