"""The operations of algebra, left unevaluated where their result is too long to be computed.

A power, factorial or binomial that stays is a function of its arguments, which equals only itself.
"""

import math
from collections.abc import Callable
from functools import cache

import sympy
from sympy import Function, Integer, Rational, Symbol
from sympy.core.function import AppliedUndef

from .latex import Unreadable

DIGITS = 5_000  # of the longest integer that is computed
DEGREE = Symbol("°", positive=True)
LOG_BASE = Symbol("log base", positive=True)  # of \log without one: 10 or e, see `equality`
_HUGE = (Function("power"), Function("factorial"), Function("binomial"))
VECTOR = ("vec ", "unit ")  # how the names of vectors begin


def number(text: str) -> sympy.Rational | sympy.Basic:
    """A decimal, exactly: `4.5e33` is an integer. Exponents too long to compute stay a power."""
    digits, _, exponent = text.partition("e")
    value = Rational(digits)
    return value if not exponent else value * power(Integer(10), Integer(exponent))


def repeating(first: str, period: str) -> sympy.Rational:
    """The decimal whose digits after `first` are `period` again and again."""
    tail = first.partition(".")[2]
    return Rational(first.rstrip(".") or "0") + Rational(int(period), 10 ** len(tail) * (10 ** len(period) - 1))


def power(base: sympy.Basic, exponent: sympy.Basic) -> sympy.Basic:
    """base ** exponent, unevaluated where it has more digits than are worth computing."""
    if isinstance(base, sympy.MatrixBase):
        if not (exponent.is_Integer and abs(exponent) <= 20):
            raise Unreadable("a matrix to this power")
        return base**exponent
    if base in (0, 1, -1) or not (base.is_number or base.has(AppliedUndef)):
        return base**exponent
    if base.has(*_HUGE) or exponent.has(*_HUGE) or (exponent.is_Rational and _digits(base, exponent) > DIGITS):
        return _HUGE[0](base, exponent)
    return base**exponent


def _digits(base: sympy.Basic, exponent: sympy.Rational) -> float:
    """About how many digits base ** exponent has; of a base that is not rational, a guess on the safe side."""
    size = math.log10(max(abs(base.p), base.q)) if base.is_Rational else 1.0
    return size * float(min(abs(exponent), 10**15))


def factorial(value: sympy.Basic) -> sympy.Basic:
    """n!, unevaluated where it has more digits than are worth computing."""
    if value.is_number and not (value.is_Integer and 0 <= value <= 2_500):
        return Function("factorial")(value)
    return sympy.factorial(value)


def binomial(top: sympy.Basic, bottom: sympy.Basic) -> sympy.Basic:
    """n over k, likewise."""
    if top.is_number and bottom.is_number and (not top.is_Integer or not bottom.is_Integer or abs(top) > 10**4):
        return Function("binomial")(top, bottom)
    return sympy.binomial(top, bottom)


@cache
def applied(name: str, arity: int) -> Callable[..., sympy.Basic]:
    """The function of that name, which nothing is known about."""
    return Function(f"{name}/{arity}")


def multiplied(left: sympy.Basic, right: sympy.Basic, sign: str) -> sympy.Basic:
    r"""A product; of two vectors \times and \cdot are not the same, and \times does not commute."""
    vectors = [any(s.name.startswith(VECTOR) for s in x.free_symbols) for x in (left, right)]
    if all(vectors) and sign in ("times", "cdot"):
        if sign == "times":
            return applied("cross", 2)(left, right)
        return applied("dot", 2)(*sorted((left, right), key=sympy.default_sort_key))
    return left * right
