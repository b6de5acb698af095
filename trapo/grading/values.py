"""What an answer can be: a formula, a number with a unit, an interval, a set, words, ..."""

from dataclasses import dataclass, field

import sympy

from .units import Unit


@dataclass(frozen=True)
class Formula:
    """A number, a formula or a matrix."""

    value: sympy.Basic


@dataclass(frozen=True)
class Quantity:
    """A formula with a unit."""

    value: sympy.Basic
    unit: Unit


@dataclass(frozen=True)
class Based:
    """A numeral that names its base: digits without leading zeros, upper case."""

    digits: str
    base: int


@dataclass(frozen=True)
class Ratio:
    """a : b, a : b : c; two parts may be a time of the day."""

    parts: tuple["Value", ...]
    clock: bool = False
    suffix: str = ""


@dataclass(frozen=True)
class Tuple:
    """Members in an order; `round` ones of two may be an open interval."""

    members: tuple["Value", ...]
    round: bool = True


@dataclass(frozen=True)
class Interval:
    """Between two formulas; infinite ends are open."""

    low: sympy.Basic
    high: sympy.Basic
    low_in: bool
    high_in: bool


@dataclass(frozen=True)
class Set:
    """Members in braces: neither order nor repetition counts."""

    members: tuple["Value", ...]


@dataclass(frozen=True)
class Builder:
    """{variable | condition}."""

    variable: str
    condition: "Value"


@dataclass(frozen=True)
class Union:
    """A union of intervals and sets of numbers."""

    parts: tuple["Value", ...]


@dataclass(frozen=True)
class List:
    """Several answers. Their order counts only where an ellipsis stands among them.

    Attributes:
        joint: "and" where all hold, "or" where any does, "," where it is not said.
    """

    members: tuple["Value", ...]
    joint: str = ","
    ordered: bool = False
    endless: bool = False


@dataclass(frozen=True)
class Relation:
    """sides[0] ops[0] sides[1] ops[1] ...; ops are "=", "ne", "<", "le", ">", "ge" or a command's name."""

    sides: tuple["Value", ...]
    ops: tuple[str, ...]
    texts: tuple[str, ...] = field(default=(), compare=False)  # of the sides, as they were written


@dataclass(frozen=True)
class Congruence:
    """residue modulo modulus, of `left` if that is named."""

    residue: sympy.Basic
    modulus: sympy.Basic
    left: "Value | None" = None


@dataclass(frozen=True)
class Cases:
    """Values and the conditions they hold under."""

    rows: tuple[tuple["Value", "Value"], ...]


@dataclass(frozen=True)
class Words:
    """Text; `name` if it is letters of mathematics that name something, a segment or an order: case and order count."""

    words: tuple[str, ...]
    name: bool = False


@dataclass(frozen=True)
class Mixed:
    """Words and mathematics in turns."""

    parts: tuple["Value", ...]


@dataclass(frozen=True)
class Unread:
    """What has no reading: equal to what looks the same."""

    text: str


Value = (
    Formula | Quantity | Based | Ratio | Tuple | Interval | Set | Builder | Union | List | Relation | Congruence | Cases
    | Words | Mixed | Unread
)  # fmt: skip
