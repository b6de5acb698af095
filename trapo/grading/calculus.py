"""Sums, products, integrals and limits: worked out where that is short work, functions of their parts where not."""

import sympy
from sympy import Symbol

from .algebra import applied
from .cursor import Cursor
from .latex import Token, Unreadable

TERMS = 3_000  # of the longest sum that is added up
OPERATIONS = 30  # in the longest body that sympy is asked to integrate, sum up or take the limit of
BOUND = Symbol("bound")  # stands for the variable in what stays as it is: its name means nothing


def big_operator(name: str, parser: Cursor) -> sympy.Basic:
    """The value of the operator behind which the parser is.

    Raises:
        Unreadable: it is not written as one.
    """
    lower, upper = _limits(parser)
    if name == "int":
        body, variable = _integrand(parser)
        limits = (parser.read(lower), parser.read(upper)) if lower and upper else None
        if limits is None or (lower and not upper):
            return _kept(name, body, variable, *(limits or ()))
        return _integral(body, variable, *limits)
    arrow = next((i for i, t in enumerate(lower) if t.is_mark("=") or t.is_command("rightarrow")), None)
    if arrow != 1 or lower[0].kind != "letter" or lower[arrow].is_command("rightarrow") != (name == "lim"):
        raise Unreadable(f"the limits of a {name}")
    variable = Symbol(lower[0].text)
    body, start = parser.product(), parser.read(lower[2:])
    if name == "lim":
        return _limit(body, variable, start)
    stop = parser.read(upper)
    return _series(name, body, variable, start, stop)


def _limits(parser: Cursor) -> tuple[list[Token], list[Token]]:
    """What stands below and above."""
    limits: dict[str, list[Token]] = {}
    while parser.mark("_", "^"):
        place = parser.take().text
        limits[place] = parser.inside()
    return limits.get("_", []), limits.get("^", [])


def _kept(name: str, body: sympy.Basic, variable: Symbol, *limits: sympy.Basic) -> sympy.Basic:
    return applied(name, 1 + len(limits))(body.subs(variable, BOUND), *limits)


def _integrand(parser: Cursor) -> tuple[sympy.Basic, Symbol]:
    """The body of an integral up to its dx, which is taken."""
    body: list[Token] = []
    depth = 0
    while (token := parser.peek()) is not None:
        depth += token.is_mark("{", "(") - token.is_mark("}", ")")
        after = parser.peek(1)
        if depth == 0 and token.kind in ("letter", "word") and token.text == "d" and after and after.kind == "letter":
            parser.at += 2
            return (parser.read(body) if body else sympy.Integer(1)), Symbol(after.text)
        if depth == 0 and token.kind == "run" and token.text[-2] == "d":
            parser.at += 1
            if token.text[:-2]:
                body.append(Token("run" if len(token.text) > 3 else "letter", token.text[:-2]))
            return (parser.read(body) if body else sympy.Integer(1)), Symbol(token.text[-1])
        body.append(parser.take())
    raise Unreadable("an integral without its dx")


def _short(body: sympy.Basic, variable: Symbol) -> bool:
    """Whether sympy will make short work of it: few operations, no powers like x^x, no unknown functions."""
    powers = any(p.base.has(variable) and p.exp.has(variable) for p in body.atoms(sympy.Pow))
    unknown = body.atoms(sympy.core.function.AppliedUndef)
    return body.count_ops() <= OPERATIONS and not powers and not unknown and len(body.free_symbols) <= 3


def _integral(body: sympy.Basic, variable: Symbol, low: sympy.Basic, high: sympy.Basic) -> sympy.Basic:
    if body.is_polynomial(variable) or (_short(body, variable) and not body.has(sympy.Abs, sympy.floor)):
        value = sympy.integrate(body, (variable, low, high))
        if not value.has(sympy.Integral, sympy.Piecewise):
            return value
    return _kept("int", body, variable, low, high)


def _series(name: str, body: sympy.Basic, variable: Symbol, low: sympy.Basic, high: sympy.Basic) -> sympy.Basic:
    indexed = _indexed(body, variable)
    if low.is_Integer and high.is_Integer and high - low < TERMS:
        if high - low <= 10 or body.subs(variable, low).is_Rational:
            terms = [
                body.subs(variable, k).xreplace(_indexed(body, variable, k)) for k in range(int(low), int(high) + 1)
            ]
            return sympy.Add(*terms) if name == "sum" else sympy.Mul(*terms)
    elif indexed:
        return _kept(name, body.xreplace(indexed), variable, low, high)
    elif name == "sum" and (body.is_polynomial(variable) or (not high.is_Integer and _short(body, variable))):
        value = sympy.summation(body, (variable, low, high))
        if not value.has(sympy.Sum, sympy.Piecewise, sympy.hyper):
            return value
    return _kept(name, body, variable, low, high)


def _indexed(body: sympy.Basic, variable: Symbol, value: object = "bound") -> dict[Symbol, Symbol]:
    """The letters with the variable in their index, a_i, and what they are for a value of it: a_1."""
    found = {}
    for symbol in body.free_symbols:
        letter, line, index = symbol.name.partition("_")
        parts = index.split()
        if line and variable.name in parts:
            found[symbol] = Symbol(f"{letter}_{' '.join(str(value) if p == variable.name else p for p in parts)}")
    return found


def _limit(body: sympy.Basic, variable: Symbol, point: sympy.Basic) -> sympy.Basic:
    if _short(body, variable):
        value = sympy.limit(body, variable, point)
        if not value.has(sympy.Limit):
            return value
    return _kept("lim", body, variable, point)
