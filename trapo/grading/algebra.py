r"""An expression's tokens as a sympy expression; it has a reading only if every token of it was used.

A parser by operator precedence (Pratt 1973). It decides what LaTeX leaves open, always the same way:

* letters side by side are a product, `f(x)` with an f, F or \phi is a function, and so is any letter before a comma
  list in brackets; other letters before brackets multiply;
* a function without brackets takes the product behind it up to a sign, a slash, a bracket or the next function;
* `a/bc` is (a/b)c, as it is typed; two numbers side by side are no product;
* decimals are exact rationals; `e` is Euler's number; `i` stays a letter here (see `equality`).

Powers, factorials and sums too large to compute stay unevaluated functions of their arguments: equal to themselves.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache

import sympy
from sympy import Function, Integer, Rational, Symbol

from .latex import Token, Unreadable, canonical

DIGITS = 5_000  # of the longest integer that is computed
TERMS = 2_000  # of the longest sum that is added up
DEGREE = Symbol("°", positive=True)
LOG_BASE = Symbol("log base", positive=True)  # of \log without one: 10 or e, see `equality`
_FUNCTIONS = {
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
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot", "sinh": "asinh", "cosh": "acosh"}
_INVERSE |= {"tanh": "atanh"}
_CIRCULAR = frozenset("sin cos tan cot sec csc cis".split())
_NAMED = frozenset("gcd lcm max min deg dim det ker rank tr Tr erf erfc Var Cov Pr E sup inf hom Hom ord".split())
_SYMMETRIC = frozenset("gcd lcm".split())
_ACCENTS = frozenset("hat bar vec dot ddot tilde overline underline check acute breve mathbf".split())
_CLOSING = {"(": ")", "[": "]", "{": "}", "|.": ".|", "{.": ".}"}
_SET_NAMES = {"P", "E", "Q", "V", "N", "T", "D"}
_APPLIED = {"f", "F", "phi", "Phi", "psi", "Psi"}


def expression(found: Sequence[Token]) -> sympy.Basic:
    """The expression (or matrix) that the tokens are.

    Raises:
        Unreadable: they are not one, to the last token.
    """
    infix = _infix(found)
    if infix is not None:
        return infix
    parser = _Parser(list(found))
    try:
        value = parser.sum()
    except (TypeError, ValueError, AttributeError, ArithmeticError, NotImplementedError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(f"no expression: {error}") from None
    if parser.at != len(parser.tokens):
        raise Unreadable(f"{parser.tokens[parser.at].text} was not used")
    if value.has(sympy.nan, sympy.zoo, sympy.AccumBounds):
        raise Unreadable("undefined")
    return value


def _infix(found: Sequence[Token]) -> sympy.Basic | None:
    r"""TeX's own a \over b and n \choose k."""
    depth = 0
    for i, token in enumerate(found):
        depth += token.is_mark("{") - token.is_mark("}")
        if depth == 0 and token.is_command("over", "choose"):
            top, bottom = expression(found[:i]), expression(found[i + 1 :])
            return top / bottom if token.text == "over" else binomial(top, bottom)
    return None


def number(text: str) -> sympy.Rational | sympy.Basic:
    """A decimal, exactly: `4.5e33` is an integer. Exponents too long to compute stay a power."""
    digits, _, exponent = text.partition("e")
    value = Rational(digits)
    return value if not exponent else value * power(Integer(10), Integer(exponent))


def repeating(first: str, period: str) -> sympy.Rational:
    """The decimal whose digits after `first` are `period` again and again."""
    whole, _, tail = first.partition(".")
    return Rational(first.rstrip(".") or "0") + Rational(int(period), 10 ** len(tail) * (10 ** len(period) - 1))


def power(base: sympy.Basic, exponent: sympy.Basic) -> sympy.Basic:
    """base ** exponent, unevaluated where it has more digits than are worth computing."""
    if base.is_number and exponent.is_number and not isinstance(base, sympy.MatrixBase):
        if base.is_Rational and exponent.is_Rational:
            size = math.log10(max(abs(base.p), base.q, 1)) * abs(float(exponent)) if abs(exponent) < 10**15 else 10**15
            if base not in (0, 1, -1) and size > DIGITS:
                return Function("power")(base, exponent)
        elif base.has(Function("power"), Function("factorial")) or exponent.has(Function("power")):
            return Function("power")(base, exponent)
        elif exponent.is_Rational and abs(exponent) > 10**4:
            return Function("power")(base, exponent)
    if isinstance(base, sympy.MatrixBase) and not (exponent.is_Integer and abs(exponent) <= 20):
        raise Unreadable("a matrix to this power")
    return base**exponent


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


class _Parser:
    """`at` is the next token; each method takes what it can from there."""

    def __init__(self, found: list[Token]):
        self.tokens, self.at, self.bars = found, 0, 0

    # Looking and taking

    def peek(self, ahead: int = 0) -> Token | None:
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else None

    def mark(self, *texts: str) -> bool:
        token = self.peek()
        return token is not None and token.is_mark(*texts)

    def command(self, *texts: str) -> bool:
        token = self.peek()
        return token is not None and token.is_command(*texts)

    def take(self) -> Token:
        token = self.peek()
        if token is None:
            raise Unreadable("it ends too early")
        self.at += 1
        return token

    def expect(self, *texts: str) -> None:
        token = self.take()
        if not token.is_mark(*texts):
            raise Unreadable(f"{token.text} where {' or '.join(texts)} was due")

    def inside(self) -> list[Token]:
        """The tokens of the braces that begin here, taken."""
        self.expect("{")
        begin, depth = self.at, 1
        while depth:
            token = self.take()
            depth += token.is_mark("{") - token.is_mark("}")
        return self.tokens[begin : self.at - 1]

    def argument(self) -> list[Token]:
        """A command's argument as TeX takes it: braces, or one token; digits of a number one at a time."""
        if self.mark("{"):
            return self.inside()
        token = self.take()
        if token.kind in ("number", "run") and len(token.text) > 1:
            if not token.text.isalnum():
                raise Unreadable("an argument without braces")
            rest = token.text[1:]
            self.at -= 1
            self.tokens[self.at] = Token("letter" if token.kind == "run" and len(rest) == 1 else token.kind, rest)
            return [Token("letter" if token.kind == "run" else "number", token.text[0])]
        if token.kind in ("number", "letter") or (token.kind == "command" and token.text in ("pi", "infty")):
            return [token]
        raise Unreadable("an argument without braces")

    # Sums and products

    def sum(self) -> sympy.Basic:
        value = None
        while True:
            sign = 1
            if self.mark("+", "-"):
                while self.mark("+", "-"):
                    sign *= -1 if self.take().text == "-" else 1
                    if self.at > 1 and self.tokens[self.at - 2].is_mark("+", "-") and value is not None:
                        raise Unreadable("two signs")
            elif value is not None:
                return value
            term = self.product()
            value = sign * term if value is None else value + sign * term
            if not self.mark("+", "-"):
                return value

    def product(self) -> sympy.Basic:
        value = self.factor()
        while True:
            token = self.peek()
            if token is None:
                return value
            if token.is_mark("*") or token.is_command("cdot", "times"):
                self.take()
                other = self.factor() if not self.mark("-", "+") else self._signed()
                value = _multiplied(value, other, token.text)
            elif token.is_mark("/") or token.is_command("div"):
                self.take()
                value = value / (self.factor() if not self.mark("-", "+") else self._signed())
            elif token.is_command("bmod", "mod"):
                self.take()
                value = sympy.Mod(value, self.factor()) if value.is_Integer else applied("mod", 2)(value, self.factor())
            elif self._begins_factor():
                if token.kind in ("number", "grouped") and not self._after_bracket():
                    raise Unreadable("a number behind a factor")
                value = value * self.factor(implicit=True)
            else:
                return value

    def _signed(self) -> sympy.Basic:
        sign = -1 if self.take().text == "-" else 1
        return sign * self.factor()

    def _after_bracket(self) -> bool:
        """Whether a number may follow here: `(2)(3)` and `2!3!` are products, `2 3` and `x2` are not."""
        return self.tokens[self.at - 1].is_mark(")", "]", "!")

    def _begins_factor(self) -> bool:
        token = self.peek()
        if token.kind in ("number", "grouped", "letter", "run", "word"):
            return True
        if token.kind == "mark":
            return token.text in ("(", "[", "{", "|.") or (token.text == "|" and self.bars == 0)
        return token.kind == "command" and (token.text in _BEGINNING or token.text.startswith("begin "))

    def factor(self, implicit: bool = False) -> sympy.Basic:
        """A primary with its scripts, primes and factorials."""
        token = self.peek()
        if token is not None and token.kind in ("number", "grouped") and not implicit:
            mixed = self._mixed()
            if mixed is not None:
                return mixed
        value = self.primary()
        while True:
            if self.mark("^"):
                value = self._raised(value)
            elif self.mark("!"):
                self.take()
                if self.mark("!"):
                    raise Unreadable("a double factorial")
                value = factorial(value)
            else:
                return value

    def _mixed(self) -> sympy.Basic | None:
        r"""A mixed number: an integer before a fraction of two integers, `2\frac{1}{2}` or `3 1/2`."""
        whole, after = self.peek(), self.peek(1)
        if not whole.text.isdigit() or after is None:
            return None
        begin = self.at
        self.take()
        try:
            if after.is_command("frac"):
                self.take()
                top, bottom = self.argument(), self.argument()
            elif after.kind == "number" and after.spaced and self._slash(1):
                top, bottom = [self.take()], [self.tokens[self.at + 1]]
                self.at += 2
            else:
                top = bottom = []
        except Unreadable:
            top = bottom = []
        plain = [len(part) == 1 and part[0].kind == "number" and part[0].text.isdigit() for part in (top, bottom)]
        if not all(plain) or self.mark("^", "!", "'") or int(top[0].text) >= int(bottom[0].text):
            if after.is_command("frac") and all(plain) and not self.mark("^", "!", "'"):
                raise Unreadable("a number before an improper fraction")
            self.at = begin
            return None
        return Integer(whole.text) + Rational(int(top[0].text), int(bottom[0].text))

    def _slash(self, ahead: int) -> bool:
        slash, bottom = self.peek(ahead), self.peek(ahead + 1)
        return bool(slash and slash.is_mark("/") and bottom and bottom.kind == "number")

    def _raised(self, value: sympy.Basic) -> sympy.Basic:
        self.take()
        script = self.inside()
        if len(script) == 1 and script[0].is_command("circ"):
            return value * DEGREE
        if self.mark("^"):
            raise Unreadable("a double superscript")
        marks = all(t.is_mark("*", "+", "-", "'") or t.is_command("dagger", "top", "prime", "intercal") for t in script)
        if script and marks:
            if not isinstance(value, Symbol):
                raise Unreadable("a mark on what is no letter")
            return Symbol(f"{value.name}^{canonical(script)}")
        return power(value, expression(script))

    # Primaries

    def primary(self) -> sympy.Basic:
        token = self.take()
        if token.kind in ("number", "grouped"):
            return self._number(token.text.split()[0])
        if token.kind in ("letter", "word", "run"):
            return self._letters(token)
        if token.kind == "mark":
            return self._bracketed(token)
        if token.kind == "command":
            return self._command(token.text)
        raise Unreadable(token.text)

    def _number(self, text: str) -> sympy.Basic:
        if self.command("overline", "bar") and "e" not in text and "." in text:
            self.take()
            period = self.argument()
            if len(period) != 1 or not period[0].text.isdigit():
                raise Unreadable("a period that is no digits")
            return repeating(text, period[0].text)
        if self.command("dot") and "." in text:
            return repeating(text, self._dotted())
        if self.mark("..."):
            self.take()
            digits = text.partition(".")[2]
            for length in range(1, len(digits) // 2 + 1):  # 0.333..., 0.1666..., 0.272727...
                times = 3 if length == 1 else 2
                if digits.endswith(digits[-length:] * times) and self.peek() is None:
                    return repeating(text[: len(text) - length * times], digits[-length:])
            raise Unreadable("digits that go on, but how?")
        if text.endswith("."):
            if self.mark("("):
                self.take()
                period = self.take()
                self.expect(")")
                return repeating(text, period.text)
            raise Unreadable("a decimal without decimals")
        return number(text)

    def _dotted(self) -> str:
        """The digits from one dotted digit to the next: dots stand over the first and the last."""
        digits, dots = "", 0
        while dots < 2:
            if self.command("dot"):
                self.take()
                digits, dots = digits + self.argument()[0].text, dots + 1
            elif dots and self.peek() is not None and self.peek().kind == "number":
                ahead = 1
                if not (self.peek(ahead) and self.peek(ahead).is_command("dot")):
                    raise Unreadable("digits behind a period")
                digits += self.take().text
            else:
                break
        if not digits.isdigit():
            raise Unreadable("a period that is no digits")
        return digits

    def _letters(self, token: Token) -> sympy.Basic:
        name = token.text
        if token.kind == "run":
            if name in _FUNCTIONS or name in _NAMED or name == "log":
                return self._function(name)
            if name in ("pi", "infty"):
                return sympy.pi if name == "pi" else sympy.oo
            # Split: what follows holds to the last letter.
            self.at -= 1
            self.tokens[self.at : self.at + 1] = [Token("letter", c) for c in name]
            return self._letters(self.take())
        if token.kind == "word" and len(name) > 1:
            if name in _FUNCTIONS or name in _NAMED or name == "log" or self.mark("("):
                return self._function(name)
            if not name.isascii() or len(name) > 3:
                raise Unreadable("a word")
        if name == "e" and not self.mark("_"):
            return sympy.E
        return self._symbol(name)

    def _symbol(self, name: str) -> sympy.Basic:
        """A variable with its index and primes, or a function applied."""
        if self.mark("_"):
            self.take()
            name += f"_{canonical(self.inside())}"
        if name in _APPLIED | {"g", "h"} and canonical(self.tokens[self.at : self.at + 5]) == "^ { - 1 }":
            if self.peek(5) is not None and self.peek(5).is_mark("("):
                self.at += 5
                return self._applied(f"{name}^-1")
        primes = ""
        while self.mark("'"):
            primes += self.take().text
        if not primes and self.mark("^") and self._primes_ahead():
            self.take()
            primes = "'" * len(self.inside())
        if (self.mark("(") and (primes or name in _APPLIED or self._comma_ahead())) or (
            self.mark("[") and name in _SET_NAMES
        ):
            return self._applied(name + primes)
        return Symbol(name + primes)

    def _primes_ahead(self) -> bool:
        at = self.at + 2
        while at < len(self.tokens) and self.tokens[at].is_mark("'"):
            at += 1
        return at > self.at + 2 and at < len(self.tokens) and self.tokens[at].is_mark("}")

    def _comma_ahead(self) -> bool:
        """Whether there is a comma in the brackets that begin here."""
        depth = 0
        for token in self.tokens[self.at :]:
            depth += token.is_mark("(") - token.is_mark(")")
            if token.is_mark(",") and depth == 1:
                return True
            if depth == 0:
                return False
        return False

    def arguments(self) -> list[sympy.Basic]:
        """The expressions in the brackets that begin here."""
        closing = _CLOSING[self.take().text]
        values = [self.sum()]
        while self.mark(",", ";") or (closing == ")" and self.mark("|")):
            self.take()
            values.append(self.sum())
        self.expect(closing)
        return values

    def _applied(self, name: str) -> sympy.Basic:
        values = [sympy.expand(v) if v.is_polynomial() and len(v.args) < 9 else v for v in self.arguments()]
        return applied(name, len(values))(*values)

    def _bracketed(self, token: Token) -> sympy.Basic:
        opening = token.text
        if opening == "{":
            self.at -= 1
            return expression(self.inside())
        if opening in ("(", "["):
            value = self.sum()
            self.expect(_CLOSING[opening])
            return value
        if opening in ("|", "|.", "||"):
            self.bars += 1
            value = self.sum()
            self.bars -= 1
            self.expect({"|": "|", "|.": ".|", "||": "||"}[opening])
            if isinstance(value, sympy.MatrixBase):
                return value.det() if opening != "||" else value.norm()
            return sympy.Abs(value) if opening != "||" else applied("norm", 1)(value)
        raise Unreadable(opening)

    def _command(self, name: str) -> sympy.Basic:
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name in _FUNCTIONS and name != "sqrt" or name in _NAMED or name == "log":
            return self._function(name)
        if name in _ACCENTS:
            return self._accented(name)
        if name == "operatorname":
            raise Unreadable(name)
        if name.startswith("begin "):
            return self._matrix(name.split()[1])
        reader = _READERS.get(name)
        if reader is None:
            raise Unreadable(name)
        return reader(self)

    def _accented(self, name: str) -> sympy.Basic:
        letter = self.argument()
        if name == "mathbf" and not (len(letter) == 1 and letter[0].kind == "letter"):
            return expression(letter)
        if len(letter) > 1 and letter[0].is_command("mathbf"):
            letter = [t for t in letter[1:] if not t.is_mark("{", "}")]
        if any(t.kind in ("number", "unclear") for t in letter):
            raise Unreadable("an accent on a number")
        if len(letter) == 1 and letter[0].kind == "letter":
            text = {"imath": "i", "jmath": "j"}.get(letter[0].text, letter[0].text)
            if text in ("i", "j", "k", "x", "y", "z") and name in ("mathbf", "hat") + ("vec",) * (text in "ijk"):
                return self._symbol(f"unit {text if text in 'ijk' else 'ijk'['xyz'.index(text)]}")
            return self._symbol(f"{'vec' if name == 'mathbf' else name} {text}")
        return self._symbol(f"{name} {canonical(letter)}")

    # Functions

    def _function(self, name: str) -> sympy.Basic:
        base = exponent = None
        while self.mark("^", "_"):
            script = self.take().text
            value = expression(self.inside())
            if script == "_":
                base = value
            else:
                exponent = value
        if exponent == -1 and name in _INVERSE:
            name, exponent = _INVERSE[name], None
        if name in _NAMED:
            value = self._named(name)
        else:
            value = self._call(name, base, self._operand())
        return value if exponent is None else power(value, exponent)

    def _named(self, name: str) -> sympy.Basic:
        if self.mark("{."):
            values = self.arguments()
        elif self.mark("(", "["):
            values = self.arguments()
        else:
            values = [self._operand()]
        if name in ("max", "min"):
            return (sympy.Max if name == "max" else sympy.Min)(*values)
        if name in _SYMMETRIC:
            if all(v.is_Integer for v in values):
                return Integer((math.gcd if name == "gcd" else math.lcm)(*map(int, values)))
            values = sorted(values, key=sympy.default_sort_key)
        return applied(name, len(values))(*values)

    def _call(self, name: str, base: sympy.Basic | None, value: sympy.Basic) -> sympy.Basic:
        if name == "log":
            if base is not None:
                return sympy.log(value) / sympy.log(base)
            return sympy.log(value) / sympy.log(LOG_BASE)
        if base is not None:
            raise Unreadable(f"{name} with an index")
        if name not in _FUNCTIONS:
            return applied(name, 1)(value)
        if name == "exp":
            return power(sympy.E, value)
        if name in _CIRCULAR:
            value = value.subs(DEGREE, sympy.pi / 180)
        if value.has(Function("power"), Function("factorial")):
            return applied(name, 1)(value)
        return _FUNCTIONS[name](value)

    def _operand(self) -> sympy.Basic:
        """What a function is of: brackets, or the product behind it."""
        if self.mark("(", "["):
            values = self.arguments()
            if len(values) > 1:
                raise Unreadable("a function of two values")
            value = values[0]
            if self.mark("^") and self._degrees_ahead():
                value = self._raised(value)
            elif self.mark("^"):  # `\sin(x)^2` is read either way
                raise Unreadable("a power behind a function's brackets")
            return value
        sign = -1 if self.mark("-") and self.take() else 1
        if self.peek() is None:
            raise Unreadable("a function of nothing")
        value = self.factor()
        while (token := self.peek()) is not None:
            times = token.is_command("cdot", "times")
            if times and sign > 0:
                break
            if not self._begins_factor() or token.is_mark("(", "[", "|", "|.") or self._begins_function(token):
                break
            if token.kind in ("number", "grouped"):
                raise Unreadable("a number behind a factor")
            value = value * self.factor(implicit=True)
        return sign * value

    def _degrees_ahead(self) -> bool:
        script = self.peek(2)
        return script is not None and script.is_command("circ")

    def _begins_function(self, token: Token) -> bool:
        return token.kind in ("command", "run", "word") and (token.text in _FUNCTIONS or token.text in ("log", "int"))

    # Fractions, roots and the like

    def _frac(self) -> sympy.Basic:
        begin = self.at
        top, bottom = self.argument(), self.argument()
        derivative = _derivative(top, bottom)
        if derivative is not None:
            if derivative == "operator":
                raise Unreadable("an operator")
            return Symbol(derivative)
        if not top or not bottom:
            raise Unreadable("an empty fraction")
        del begin
        return expression(top) / expression(bottom)

    def _sqrt(self) -> sympy.Basic:
        index = Integer(2)
        if self.mark("["):
            self.take()
            index = self.sum()
            self.expect("]")
        return power(expression(self.argument()), 1 / index)

    def _root(self, index: int) -> sympy.Basic:
        """A root sign of Unicode, which takes what is right behind it: all of a number."""
        return power(self.primary(), Rational(1, index))

    def _binom(self) -> sympy.Basic:
        return binomial(expression(self.argument()), expression(self.argument()))

    def _between(self, closing: str, of: Callable) -> sympy.Basic:
        value = self.sum()
        if not self.command(closing):
            raise Unreadable("a bracket is not closed")
        self.take()
        return of(value)

    def _limits(self) -> tuple[list[Token], list[Token]]:
        """Lower and upper limit of a sum or an integral."""
        limits: dict[str, list[Token]] = {}
        while self.mark("_", "^"):
            script = self.take().text
            limits[script] = self.inside()
        return limits.get("_", []), limits.get("^", [])

    def _big(self, name: str) -> sympy.Basic:
        from .calculus import big_operator

        lower, upper = self._limits()
        return big_operator(name, lower, upper, self)

    def _matrix(self, name: str) -> sympy.Basic:
        if name not in ("pmatrix", "bmatrix", "matrix", "Bmatrix", "vmatrix", "array", "smallmatrix"):
            raise Unreadable(name)
        rows = rows_of(self.environment(name), name)
        value = sympy.ImmutableMatrix([[expression(cell) for cell in row] for row in rows])
        if name == "vmatrix":
            return value.det()
        if self.mark("^") and canonical(self.tokens[self.at + 2 : self.at + 3]) in ("T", "top"):
            self.take()
            self.inside()
            return value.T
        return value

    def environment(self, name: str) -> list[Token]:
        """The tokens up to the end of the environment, which is taken too."""
        begin, depth = self.at, 1
        while depth:
            token = self.take()
            depth += token.is_command(f"begin {name}") - token.is_command(f"end {name}")
        return self.tokens[begin : self.at - 1]


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


def _multiplied(left: sympy.Basic, right: sympy.Basic, sign: str) -> sympy.Basic:
    r"""A product; of two vectors \times and \cdot are not the same, and \times does not commute."""
    vectors = [any(s.name.startswith(("vec ", "unit ")) for s in x.free_symbols) for x in (left, right)]
    if all(vectors) and sign in ("times", "cdot"):
        if sign == "times":
            return applied("cross", 2)(left, right)
        return applied("dot", 2)(*sorted((left, right), key=sympy.default_sort_key))
    return left * right


def _derivative(top: Sequence[Token], bottom: Sequence[Token]) -> str | None:
    r"""The name of the derivative that \frac{top}{bottom} is; None if it is a fraction."""
    d = [canonical(part).split() for part in (top, bottom)]
    if not d[0] or not d[1] or d[0][0] != d[1][0] or d[0][0] not in ("d", "partial") or len(d[1]) < 2:
        return None
    if d[0][0] == "d" and not all(t.kind in ("run", "letter", "word") or t.is_mark("^", "{", "}") or t.kind == "number"
                                  for t in (*top, *bottom)):  # fmt: skip
        return None
    plain = " ".join(d[0][1:])
    if not plain or (plain.startswith("^ {") and plain.endswith("}")):
        return "operator"
    return f"{d[0][0]} {plain} / {' '.join(d[1])}"


_CONSTANTS = {"pi": sympy.pi, "infty": sympy.oo}
_READERS: dict[str, Callable[[_Parser], sympy.Basic]] = {
    "frac": _Parser._frac,
    "sqrt": _Parser._sqrt,
    "binom": _Parser._binom,
    "usqrt": lambda p: p._root(2),
    "ucbrt": lambda p: p._root(3),
    "ufrrt": lambda p: p._root(4),
    "lfloor": lambda p: p._between("rfloor", sympy.floor),
    "lceil": lambda p: p._between("rceil", sympy.ceiling),
    "sum": lambda p: p._big("sum"),
    "prod": lambda p: p._big("prod"),
    "int": lambda p: p._big("int"),
    "lim": lambda p: p._big("lim"),
}
_BEGINNING = frozenset(_READERS) | frozenset(_CONSTANTS) | frozenset(_FUNCTIONS) | _NAMED | _ACCENTS | {"log"}
