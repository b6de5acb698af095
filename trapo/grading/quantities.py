"""Numbers with something behind or before them: a unit, a percent sign, a currency, the base they are written in."""

from collections.abc import Sequence

import sympy

from . import units
from .algebra import DEGREE
from .expressions import expression
from .latex import Token, Unreadable
from .phrases import MULTIPLIERS, NUMBERS, is_word
from .values import Based, Formula, Quantity, Ratio, Value

_CURRENCIES = {"dollar": "dollar", "euro": "euro", "pound": "GBP", "yen": "yen", "USD": "dollar", "EUR": "euro"}
_CURRENCIES |= {"GBP": "GBP", "JPY": "yen", "INR": "rupee", "CNY": "yuan", "US": "dollar"}
_SUFFIXES = {"am": "am", "pm": "pm", "a.m": "am", "p.m": "pm"}


def quantity(found: list[Token], parts: bool = False) -> Value | None:
    """A formula with a unit; with `parts`, several of one dimension, added. None where there is no unit.

    Raises:
        Unreadable: what the unit is of is no formula.
    """
    if parts:
        return _added(found)
    money = _money(found)
    if money is not None:
        return money
    if found[-1].is_mark("%") or (is_word(found[-1]) and found[-1].text.lower() in ("percent", "pct")):
        return _of(found[:-1], units.PERCENT)
    degrees = _degrees(found)
    if degrees is not None:
        return degrees
    for begin in range(max(1, len(found) - 24), len(found)):
        if not _may_begin(found, begin):
            continue
        unit = _unit(found[begin:])
        if unit is not None:
            return _of(found[:begin], unit)
    return None


def _of(found: list[Token], unit: units.Unit) -> Value:
    if not found:
        raise Unreadable("a unit of nothing")
    if len(found) == 1 and is_word(found[0]) and found[0].text.lower() in NUMBERS:
        return Quantity(sympy.Integer(NUMBERS[found[0].text.lower()]), unit)
    value = expression(_multiplied(found))
    if isinstance(value, sympy.MatrixBase) or DEGREE in value.free_symbols:
        raise Unreadable("a unit of what has none")
    return Formula(value) if unit == units.Unit((), unit.factor) else Quantity(value, unit)


def _money(found: list[Token]) -> Value | None:
    sign = found[:1] if found[0].is_mark("-") else []
    rest = found[len(sign) :]

    def currency(token: Token) -> str | None:
        return _CURRENCIES.get(token.text) if token.kind in ("command", "word", "run") else None

    while len(rest) > 1 and rest[0].text == "US" and currency(rest[1]):
        rest = rest[1:]
    if len(rest) > 1 and (name := currency(rest[0])):
        if is_word(rest[-1]) and currency(rest[-1]) == name:
            rest = rest[:-1]
        return _of(sign + rest[1:], units.product([(name, 1)]))
    if len(rest) > 1 and rest[-1].kind == "command" and (name := currency(rest[-1])):
        return _of(found[:-1], units.product([(name, 1)]))
    return None


def _multiplied(found: list[Token]) -> list[Token]:
    """With a word like million behind the number as a factor."""
    times = MULTIPLIERS.get(found[-1].text.lower()) if is_word(found[-1]) else None
    if times is None or len(found) < 2:
        return found
    return [*found[:-1], Token("mark", "*"), Token("number", str(times))]


def _degrees(found: list[Token]) -> Value | None:
    """An angle in degrees; None for a temperature and for anything else."""
    if not any(t.is_command("circ") for t in found) or found[-1].text in ("C", "F"):
        return None
    value = expression(found)
    number = value / DEGREE
    if isinstance(value, sympy.MatrixBase) or DEGREE in number.free_symbols:
        number = sympy.expand(number)
    if value == 0 or DEGREE not in number.free_symbols:
        return Quantity(number, units.DEGREES)
    return None


def _may_begin(found: Sequence[Token], at: int) -> bool:
    """Whether a unit may begin with this token."""
    token, before = found[at], found[at - 1]
    if token.kind == "word":
        return True
    if token.kind == "run":
        return (units.is_unit(token.text, bare=True) and token.text not in ("in", "min")) or (
            token.text in ("in", "min") and before.kind == "number"
        ) or units.counted([token.text]) is not None  # fmt: skip
    if token.is_mark("^") and at + 4 <= len(found) and found[at + 2].is_command("circ"):
        return found[-1].text in ("C", "F") and at + 5 == len(found)
    if token.kind == "letter" and token.text in ("mu", "Omega"):
        return token.text == "Omega" or (at + 1 < len(found) and found[at + 1].kind == "word")
    if token.is_command("frac"):
        return at + 2 < len(found) and found[at + 2].kind == "word"
    return token.is_command("angstrom")


def _unit(found: list[Token]) -> units.Unit | None:
    """The unit that the tokens are, to the last one."""
    if found[0].is_mark("^"):
        return units.product([("degC" if found[-1].text == "C" else "degF", 1)])
    if found[0].is_command("frac"):
        found = _as_slash(found)
    if all(is_word(t) for t in found):
        counted = units.counted([t.text for t in found])
        if counted is not None:
            return counted
    factors: list[tuple[str, int]] = []
    at, sign, square = 0, 1, 0
    while at < len(found):
        token = found[at]
        at += 1
        if token.is_mark("/") or (is_word(token) and token.text == "per"):
            sign = -1
            continue
        if token.is_command("cdot") or token.is_mark("*") or (is_word(token) and token.text in ("of",)):
            continue
        if token.is_mark("(", ")", "{", "}", "."):
            continue
        word = token.text
        if token.kind == "letter" and word == "mu" and at < len(found) and found[at].kind == "word":
            word, at = "μ" + found[at].text, at + 1
        elif (token.kind not in ("word", "run", "letter") and not token.is_command("angstrom")) or (
            token.kind == "letter" and word not in ("Omega",) and not factors
        ):
            return None
        if units.powers(word):
            square = units.powers(word)
            continue
        if word in ("squared", "cubed") and factors:
            factors[-1] = (factors[-1][0], factors[-1][1] * (2 if word == "squared" else 3))
            continue
        if not units.is_unit(word):
            return None
        power, at = _power(found, at)
        if power is None:
            return None
        factors.append((word, sign * power * (square or 1)))
        square = 0
    if not factors or square:
        return None
    return units.product(factors)


def _as_slash(found: list[Token]) -> list[Token]:
    r"""\frac{m}{s} as m / s."""
    middle = next((i for i in range(len(found) - 1) if found[i].is_mark("}") and found[i + 1].is_mark("{")), None)
    if middle is None:
        return found
    return [*found[2:middle], Token("mark", "/"), *found[middle + 2 : -1]]


def _power(found: Sequence[Token], at: int) -> tuple[int | None, int]:
    """The exponent that stands at `at`, 1 if there is none, None if it is no number; and what is behind it."""
    if at >= len(found) or not found[at].is_mark("^"):
        return 1, at
    end = next((i for i in range(at, len(found)) if found[i].is_mark("}")), len(found))
    digits = "".join(t.text for t in found[at + 2 : end])
    return (int(digits) if digits.lstrip("-").isdigit() and len(digits) < 3 else None), end + 1


def _added(found: list[Token]) -> Value | None:
    """Two or more quantities of one dimension, each smaller in unit than the one before."""
    values: list[Quantity] = []
    begin = 0
    while begin < len(found):
        end = begin + 1
        while end < len(found) and not (found[end].kind == "number" and is_word(found[end - 1])):
            end += 1
        try:
            value = quantity(found[begin:end])
        except Unreadable:
            return None
        if not isinstance(value, Quantity) or not value.value.is_Rational:
            return None
        values.append(value)
        begin = end
    if len(values) < 2 or len({v.unit.dimension for v in values}) > 1 or any(v.unit.factor is None for v in values):
        return None
    factors = [v.unit.factor for v in values]
    if values[0].unit.dimension == (("counted", 1),) or factors != sorted(set(factors), reverse=True):
        return None
    total = sum(v.value * sympy.Rational(v.unit.factor.numerator, v.unit.factor.denominator) for v in values)
    first = sympy.Rational(factors[0].numerator, factors[0].denominator)
    return Quantity(total / first, units.Unit(values[0].unit.dimension, factors[0], "sum"))


def based(found: list[Token]) -> Value | None:
    """A numeral with its base: digits, in brackets or not, and an index that is a number or a number's name."""
    if len(found) > 6 and found[-2].is_mark(")") and found[-4].is_mark("("):  # 101_{(2)}
        found = [*found[:-4], found[-3], found[-1]]
    if len(found) < 5 or not (found[-1].is_mark("}") and found[-4].is_mark("_") and found[-3].is_mark("{")):
        return None
    name = found[-2].text
    base = int(name) if name.isdigit() else NUMBERS.get(name.lower(), 0) if found[-2].kind == "word" else 0
    digits = found[:-4]
    if digits[0].is_mark("(", "{") and digits[-1].is_mark(")", "}"):
        digits = digits[1:-1]
    text = "".join(t.text.split()[0] for t in digits if t.text).upper()
    plain = all(t.kind in ("number", "grouped", "letter", "run", "word") for t in digits)
    if not (
        2 <= base <= 36 and digits and plain and text.isalnum() and text.isascii() and any(c.isdigit() for c in text)
    ):
        return None
    if (digits[0].kind == "letter" and len(digits) == 1) or any(int(c, 36) >= base for c in text):
        return None
    return Based(text.lstrip("0") or "0", base)


def clock(found: list[Token]) -> Ratio | None:
    """A time of the day: hours, a colon, minutes of two digits, and perhaps am or pm."""
    words = [t.text.lower() for t in found if is_word(t)]
    rest = [t for t in found if not is_word(t) and not t.is_mark(".")]
    suffix = "".join(words)
    if len(rest) != 3 or not rest[1].is_mark(":") or suffix not in ("", "am", "pm"):
        return None
    hour, minute = rest[0].text, rest[2].text
    if not (hour.isdigit() and minute.isdigit() and len(minute) == 2 and int(hour) < 25 and int(minute) < 60):
        return None
    return Ratio((Formula(sympy.Integer(hour)), Formula(sympy.Integer(minute))), True, suffix)
