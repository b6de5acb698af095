r"""What a LaTeX command with arguments is: fractions, roots, matrices, letters with accents.

Each function is given the parser behind the command, and takes the arguments from there.
"""

from collections.abc import Callable, Sequence

import sympy
from sympy import Integer, Rational, Symbol

from .algebra import binomial, power
from .calculus import big_operator
from .cursor import Cursor
from .latex import Token, Unreadable, canonical

ACCENTS = frozenset(str.split("hat bar vec dot ddot tilde overline check acute breve mathbf"))
_MATRICES = ("pmatrix", "bmatrix", "matrix", "Bmatrix", "vmatrix", "array", "smallmatrix")


def _frac(p: Cursor) -> sympy.Basic:
    top, bottom = p.argument(), p.argument()
    derivative = _derivative(top, bottom)
    if derivative is not None:
        return Symbol(derivative)
    return p.read(top) / p.read(bottom)


def _derivative(top: Sequence[Token], bottom: Sequence[Token]) -> str | None:
    r"""The name of the derivative that \frac{top}{bottom} is; None if it is a fraction.

    Raises:
        Unreadable: an operator without its function.
    """
    over, under = (canonical(part).split() for part in (top, bottom))
    if not over or not under or over[0] != under[0] or over[0] not in ("d", "partial") or len(under) < 2:
        return None
    kinds = {t.kind for t in (*top, *bottom) if not t.is_mark("^", "{", "}")}
    if over[0] == "d" and not kinds <= {"run", "letter", "word", "number"}:
        return None
    if not over[1:] or (over[1] == "^" and over[-1] == "}"):
        raise Unreadable("an operator")
    return f"{' '.join(over)} / {' '.join(under)}"


def _sqrt(p: Cursor) -> sympy.Basic:
    index = Integer(2)
    if p.mark("["):
        p.take()
        index = p.sum()
        p.expect("]")
    return power(p.read(p.argument()), 1 / index)


def _root(index: int) -> Callable[[Cursor], sympy.Basic]:
    """A root sign of Unicode, which takes what is right behind it: all of a number."""
    return lambda p: power(p.primary(), Rational(1, index))


def _binom(p: Cursor) -> sympy.Basic:
    return binomial(p.read(p.argument()), p.read(p.argument()))


def _between(closing: str, of: Callable) -> Callable[[Cursor], sympy.Basic]:
    def read(p: Cursor) -> sympy.Basic:
        value = p.sum()
        if not p.command(closing):
            raise Unreadable("a bracket is not closed")
        p.take()
        return of(value)

    return read


def _big(name: str) -> Callable[[Cursor], sympy.Basic]:
    return lambda p: big_operator(name, p)


def matrix(p: Cursor, name: str) -> sympy.Basic:
    """A matrix behind its \\begin, perhaps transposed; the determinant of a vmatrix."""
    if name not in _MATRICES:
        raise Unreadable(name)
    value = sympy.ImmutableMatrix([[p.read(cell) for cell in row] for row in rows_of(p.environment(name), name)])
    if name == "vmatrix":
        return value.det()
    if p.mark("^") and canonical(p.tokens[p.at + 2 : p.at + 3]) in ("T", "top"):
        p.take()
        p.inside()
        return value.T
    return value


def rows_of(body: Sequence[Token], name: str) -> list[list[list[Token]]]:
    """An environment's rows of cells."""
    body = list(body)
    if name == "array" and body and body[0].is_mark("{"):  # the columns' alignment
        end = next(i for i, token in enumerate(body) if token.is_mark("}"))
        body = body[end + 1 :]
    rows: list[list[list[Token]]] = [[[]]]
    depth = 0
    for token in body:
        depth += token.kind == "command" and token.text.startswith("begin ")
        depth -= token.kind == "command" and token.text.startswith("end ")
        if depth == 0 and token.is_mark("\\"):
            rows.append([[]])
        elif depth == 0 and token.is_mark("&"):
            rows[-1].append([])
        elif not token.is_command("hline"):
            rows[-1][-1].append(token)
    return [row for row in rows if row != [[]]]


def accented(p: Cursor, name: str) -> sympy.Basic:
    r"""A letter with an accent, another than without: \bar{x}. \mathbf{x} is \vec{x}, \hat{i} a unit vector."""
    letter = p.argument()
    if len(letter) > 1 and letter[0].is_command("mathbf"):
        letter = [t for t in letter[1:] if not t.is_mark("{", "}")]
    plain = len(letter) == 1 and letter[0].kind == "letter"
    if name == "mathbf" and not plain:
        return p.read(letter)
    if any(t.kind in ("number", "unclear") for t in letter):
        raise Unreadable("an accent on a number")
    if not plain:
        return p.symbol(f"{name} {canonical(letter)}")
    text = {"imath": "i", "jmath": "j"}.get(letter[0].text, letter[0].text)
    if text in ("i", "j", "k") and name in ("mathbf", "hat", "vec"):
        return p.symbol(f"unit {text}")
    return p.symbol(f"{'vec' if name == 'mathbf' else name} {text}")


CONSTANTS = {"pi": sympy.pi, "infty": sympy.oo}
READERS: dict[str, Callable[[Cursor], sympy.Basic]] = {
    "frac": _frac,
    "sqrt": _sqrt,
    "binom": _binom,
    "usqrt": _root(2),
    "ucbrt": _root(3),
    "ufrrt": _root(4),
    "lfloor": _between("rfloor", sympy.floor),
    "lceil": _between("rceil", sympy.ceiling),
} | {name: _big(name) for name in ("sum", "prod", "int", "lim")}
