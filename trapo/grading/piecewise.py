"""Cases with inequalities in one letter, as the function that they are."""

from itertools import pairwise

import sympy
from sympy import Rational, Symbol

from .equality import equal
from .values import Cases, Formula, Relation, Value, Words

_RELATIONS = {"<": sympy.Lt, ">": sympy.Gt, "le": sympy.Le, "ge": sympy.Ge, "=": sympy.Eq, "ne": sympy.Ne}
_REST = ("otherwise", "else", "elsewhere")


def same_function(left: Value, right: Value) -> bool:
    """Whether two functions of one letter agree: between the ends of their pieces, at them, and outside."""
    functions = [_function(value) for value in (left, right)]
    if None in functions:
        return False
    letters = set().union(*(f.free_symbols for f in functions))
    if len(letters) != 1:
        return False
    (letter,) = letters
    ends = sorted({end for f in functions for end in _ends(f, letter)})
    inner = [(a + b) / 2 for a, b in pairwise(ends)]
    outer = [(ends[0] if ends else 0) - Rational(k, 7) for k in (3, 20, 95)]
    outer += [(ends[-1] if ends else 0) + Rational(k, 7) for k in (2, 19, 94)]
    return all(_agree(*(f.subs(letter, x) for f in functions)) for x in (*ends, *inner, *outer))


def _agree(left: sympy.Basic, right: sympy.Basic) -> bool:
    undefined = [value.has(sympy.nan, sympy.zoo) for value in (left, right)]
    return all(undefined) if any(undefined) else equal(left, right)


def _ends(function: sympy.Basic, letter: Symbol) -> set[sympy.Rational]:
    """Where the pieces of a function end."""
    found = set()
    for relation in function.atoms(sympy.core.relational.Relational):
        difference = sympy.expand(relation.lhs - relation.rhs)
        slope, shift = difference.coeff(letter, 1), difference.coeff(letter, 0)
        if slope.is_Rational and slope != 0 and shift.is_Rational:
            found.add(-shift / slope)
    return found


def _function(value: Value) -> sympy.Basic | None:
    """The function of a real letter; None where it is none."""
    if isinstance(value, Formula):
        return None if isinstance(value.value, sympy.MatrixBase) else _real(value.value)
    if not isinstance(value, Cases):
        return None
    pieces = []
    for part, condition in value.rows:
        made = _condition(condition)
        if made is None or not isinstance(part, Formula) or isinstance(part.value, sympy.MatrixBase):
            return None
        pieces.append((_real(part.value), made))
    return sympy.Piecewise(*pieces)


def _condition(condition: Value) -> sympy.Basic | None:
    if isinstance(condition, Words):
        return sympy.true if condition.words[0].lower() in _REST else None
    if not isinstance(condition, Relation) or not all(op in _RELATIONS for op in condition.ops):
        return None
    if not all(isinstance(side, Formula) for side in condition.sides):
        return None
    sides = [_real(side.value) for side in condition.sides]
    return sympy.And(*(_RELATIONS[op](a, b) for op, (a, b) in zip(condition.ops, pairwise(sides), strict=True)))


def _real(expression: sympy.Basic) -> sympy.Basic:
    return expression.xreplace({s: Symbol(s.name, real=True) for s in expression.free_symbols})
