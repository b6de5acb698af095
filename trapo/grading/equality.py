"""Are two expressions equal? Numbers exactly or to fifty digits, formulas at points where both have a value.

A formula that is not zero everywhere is zero at a random point with probability zero (Schwartz 1980, Zippel 1979, for
polynomials), so a few fixed points with fifty digits decide; nothing is simplified and nothing is rounded. Letters are
real. Where a letter is negative, two formulas that both have a real value must agree too (`|x|` is not `x`); where one
has none (`ln x^2`, `2 ln x`), the positive points decide.
"""

from collections.abc import Iterator
from functools import lru_cache

import sympy
from sympy import I, Rational, Symbol
from sympy.core.function import AppliedUndef

from .algebra import LOG_BASE

PRECISION = 50  # digits a value is computed to
AGREE = sympy.Float(10) ** -35  # relative difference of what counts as the same
_POINTS = 4  # positive ones, and as many with mixed signs
_GROWING = (sympy.exp, sympy.factorial, sympy.gamma, sympy.binomial, sympy.sinh, sympy.cosh)
_STEEP = 2_000  # the largest exponent, or argument of these, that is computed
_PRIMES = list(sympy.primerange(2, 700))
REPEATS = 6  # decimals of a period written out that stand for the fraction: 0.333333, 0.142857


def equal(left: sympy.Basic, right: sympy.Basic) -> bool:
    """Whether two expressions, or two matrices, are the same.

    `i` may be the imaginary unit and `log` to the base 10 or e, on both sides alike.
    """
    if isinstance(left, sympy.MatrixBase) or isinstance(right, sympy.MatrixBase):
        if not (isinstance(left, sympy.MatrixBase) and isinstance(right, sympy.MatrixBase)):
            return False
        return left.shape == right.shape and all(equal(a, b) for a, b in zip(left, right, strict=True))
    if left == right:
        return True
    return any(_equal(left.subs(reading), right.subs(reading)) for reading in _readings(left, right))


def _readings(left: sympy.Basic, right: sympy.Basic) -> Iterator[dict]:
    symbols = left.free_symbols | right.free_symbols
    bases = [10, sympy.E] if LOG_BASE in symbols else [None]
    letters = [None, I] if Symbol("i") in symbols else [None]
    for base in bases:
        for unit in letters:
            yield {k: v for k, v in ((LOG_BASE, base), (Symbol("i"), unit)) if v is not None}


def _equal(left: sympy.Basic, right: sympy.Basic) -> bool:
    if left == right:
        return True
    if left.has(sympy.nan, sympy.zoo) or right.has(sympy.nan, sympy.zoo):
        return False
    if left.is_Rational and right.is_Rational:
        return False
    if left.has(sympy.oo) or right.has(sympy.oo):
        return False
    unknown = sorted(left.atoms(AppliedUndef) | right.atoms(AppliedUndef), key=sympy.default_sort_key)
    if unknown:
        names = {f: Symbol(f"value {i}") for i, f in enumerate(reversed(unknown))}
        left, right = left.xreplace(names), right.xreplace(names)
    symbols = sorted((left.free_symbols | right.free_symbols), key=lambda s: s.name)
    if not symbols:
        return _same_number(left, right)
    return _same_at_points(left, right, symbols)


def _same_at_points(left: sympy.Basic, right: sympy.Basic, symbols: list[Symbol]) -> bool:
    agreed = 0
    for signs in (1, -1):
        for i in range(_POINTS):
            point = _point(symbols, i, signs)
            values = [_value(x, point) for x in (left, right)]
            if any(v is None for v in values):
                continue
            if signs < 0 and not all(_is_real(v) for v in values):
                continue
            if not _close(*values, _scale(left, right, point)):
                return False
            agreed += 1
    return agreed >= 2


def _point(symbols: list[Symbol], number: int, signs: int) -> dict[Symbol, Rational]:
    """Fixed rationals without structure; for `signs` -1 every second letter, then every other one, is negative."""
    point = {}
    for i, symbol in enumerate(symbols):
        at = 3 + 5 * i + 29 * number
        value = Rational(_PRIMES[at % 120], _PRIMES[(at * 7 + 11) % 120]) + Rational(number, 1 + number)
        negative = signs < 0 and not symbol.is_positive and (number + i) % 2 == 0
        if signs < 0 and number == 2 and not symbol.is_positive:
            negative = True
        point[symbol] = -value if negative else value
    return point


def _value(expression: sympy.Basic, point: dict) -> sympy.Basic | None:
    """The value at a point; None where there is none, or one too large to be computed."""
    try:
        if not _is_tame(expression, point):
            return None
        value = sympy.N(expression, PRECISION, subs=point) if point else sympy.N(expression, PRECISION)
        if not value.is_number or value.free_symbols:
            return None
        parts = value.as_real_imag()
    except (TypeError, ValueError, ArithmeticError, AttributeError, NotImplementedError, RecursionError):
        return None
    if not all(p.is_Float or p.is_Rational for p in parts) or any(p in (sympy.nan, sympy.oo) for p in parts):
        return None
    return value


def _is_tame(expression: sympy.Basic, point: dict) -> bool:
    """Whether no power, exponential or factorial in it is too large at the point: the innermost are looked at first."""
    growing = [p for p in expression.atoms(sympy.Pow, *_GROWING) if not (p.is_Pow and p.exp.is_Rational)]
    for part in sorted(growing, key=lambda p: p.count_ops()):
        steep = part.exp if part.is_Pow else part.args[0]
        size = abs(sympy.N(steep, 15, subs=point))
        if part.is_Pow:
            size *= abs(sympy.log(abs(sympy.N(part.base, 15, subs=point)) + 1).evalf(15)) + 1
        if not (size.is_number and size.is_real and size < _STEEP):
            return False
    return True


def _is_real(value: sympy.Basic) -> bool:
    real, imaginary = value.as_real_imag()
    return abs(imaginary) <= AGREE * max(abs(real), AGREE)


def _close(left: sympy.Basic, right: sympy.Basic, scale: sympy.Basic) -> bool:
    difference = sympy.N(left - right, PRECISION)
    real, imaginary = difference.as_real_imag()
    return max(abs(real), abs(imaginary)) <= AGREE * scale


def _scale(left: sympy.Basic, right: sympy.Basic, point: dict) -> sympy.Basic:
    """The size of the largest term: what a difference that is zero but for rounding is measured by."""
    sizes = []
    for side in (left, right):
        for term in sympy.Add.make_args(side):
            value = _value(term, point)
            if value is not None:
                sizes.append(abs(sympy.N(value, 15)))
    return max(sizes, default=sympy.Integer(0))


@lru_cache(maxsize=1024)
def _same_number(left: sympy.Basic, right: sympy.Basic) -> bool:
    values = [_value(x, {}) for x in (left, right)]
    if any(v is None for v in values):
        return False
    return _close(*values, _scale(left, right, {}))


def repeats(decimal: sympy.Basic, fraction: sympy.Basic) -> bool:
    """Whether a decimal below one is a fraction's period written out, six decimals or more: 0.333333 is 1/3.

    A decimal that was rounded, or cut inside a period, is another number.
    """
    if not (decimal.is_Rational and fraction.is_Rational and abs(decimal) < 1 and abs(fraction) < 1):
        return False
    places = 0
    scaled = abs(decimal)
    while scaled.q != 1 and places < 60:
        scaled, places = scaled * 10, places + 1
    if scaled.q != 1 or places < REPEATS or (decimal > 0) != (fraction > 0) or fraction.q > 10**6:
        return False
    digits = str(scaled.p).zfill(places)
    for period in range(1, places + 1):
        if places % period == 0 and digits == digits[:period] * (places // period):
            return Rational(int(digits[:period]), 10**period - 1) == abs(fraction)
    return False


def proportional(left: sympy.Basic, right: sympy.Basic, positive: bool = False) -> bool:
    """Whether left = c * right with a number c other than 0: then left = 0 and right = 0 are the same equation.

    Args:
        positive: c must be above 0, as for inequalities.
    """
    return any(_proportional(left.subs(r), right.subs(r), positive) for r in _readings(left, right))


def _proportional(left: sympy.Basic, right: sympy.Basic, positive: bool) -> bool:
    symbols = sorted((left.free_symbols | right.free_symbols), key=lambda s: s.name)
    for i in range(_POINTS):
        values = [_value(x, _point(symbols, i, 1)) for x in (left, right)]
        if any(v is None or v == 0 for v in values):
            continue
        ratio = sympy.N(values[0] / values[1], PRECISION)
        scaled = sympy.Add(*(ratio * term for term in sympy.Add.make_args(right)))
        return (not positive or bool(ratio.is_real and ratio > 0)) and _equal(left, scaled)
    return False
