"""Functions by name: what is known of each, and how it is applied."""

import math
from collections.abc import Sequence

import sympy
from sympy import Function, Integer

from .algebra import DEGREE, LOG_BASE, applied, power
from .latex import Unreadable

FUNCTIONS = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc,
    "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "asin": sympy.asin, "acos": sympy.acos,
    "atan": sympy.atan, "arccot": sympy.acot, "sinh": sympy.sinh, "cosh": sympy.cosh, "tanh": sympy.tanh,
    "coth": sympy.coth, "asinh": sympy.asinh, "acosh": sympy.acosh, "atanh": sympy.atanh, "ln": sympy.log,
    "exp": sympy.exp, "sgn": sympy.sign, "sign": sympy.sign, "arg": sympy.arg, "Re": sympy.re, "Im": sympy.im,
    "arcosh": sympy.acosh, "arsinh": sympy.asinh, "artanh": sympy.atanh, "arctanh": sympy.atanh,
    "arccosh": sympy.acosh, "sech": sympy.sech, "csch": sympy.csch,
    "lg": lambda x: sympy.log(x, 10), "cis": lambda x: sympy.cos(x) + sympy.I * sympy.sin(x),
    "abs": sympy.Abs, "sqrt": sympy.sqrt, "floor": sympy.floor, "ceil": sympy.ceiling,
}  # fmt: skip
INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot", "sinh": "asinh", "cosh": "acosh"}
INVERSE |= {"tanh": "atanh"}
_CIRCULAR = frozenset(str.split("sin cos tan cot sec csc cis"))
NAMED = frozenset(str.split("gcd lcm max min deg dim det ker rank tr Tr erf erfc Var Cov Pr E sup inf hom Hom ord"))


def is_function(name: str) -> bool:
    """Whether the name is a function's."""
    return name in FUNCTIONS or name in NAMED or name == "log"


def called(name: str, value: sympy.Basic, base: sympy.Basic | None = None) -> sympy.Basic:
    """A function of one value; `base` is its index.

    Raises:
        Unreadable: no function with an index.
    """
    if name == "log":
        return sympy.log(value) / sympy.log(LOG_BASE if base is None else base)
    if base is not None:
        raise Unreadable(f"{name} with an index")
    if name == "exp":
        return power(sympy.E, value)
    if name in _CIRCULAR:
        value = value.subs(DEGREE, sympy.pi / 180)
    if name not in FUNCTIONS or value.has(Function("power"), Function("factorial")):
        return applied(name, 1)(value)
    return FUNCTIONS[name](value)


def of_several(name: str, values: Sequence[sympy.Basic]) -> sympy.Basic:
    """A function of any number of values; the greatest, the least, gcd and lcm do not depend on their order."""
    if name in ("max", "min"):
        return (sympy.Max if name == "max" else sympy.Min)(*values)
    if name in ("gcd", "lcm"):
        if all(v.is_Integer for v in values):
            return Integer((math.gcd if name == "gcd" else math.lcm)(*map(int, values)))
        values = sorted(values, key=sympy.default_sort_key)
    return applied(name, len(values))(*values)
