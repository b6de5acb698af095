r"""An expression's tokens as a sympy expression; it has a reading only if every token of it was used.

A parser by operator precedence (Pratt 1973). It decides what LaTeX leaves open, always the same way:

* letters side by side are a product, `f(x)` with an f, F or \phi is a function, and so is any letter before a comma
  list in brackets; other letters before brackets multiply;
* a function without brackets takes the product behind it up to a sign, a slash, a bracket or the next function;
* `a/bc` is (a/b)c, as it is typed; two numbers side by side are no product;
* decimals are exact rationals; `e` is Euler's number; `i` stays a letter here (see `equality`).
"""

from collections.abc import Sequence

import sympy
from sympy import Symbol

from .algebra import DEGREE, applied, binomial, factorial, multiplied, power
from .constructs import ACCENTS, CONSTANTS, READERS, accented, matrix
from .cursor import Cursor
from .functions import FUNCTIONS, INVERSE, NAMED, called, is_function, of_several
from .latex import Token, Unreadable, canonical
from .numerals import mixed_number, numeral
from .phrases import is_english

_CLOSING = {"(": ")", "[": "]", "{.": ".}"}
_BARS = {"|": "|", "|.": ".|", "||": "||"}
_INDEXED = {"P", "E", "Q", "V", "N", "T", "D"}  # E[X] is a function of X
_APPLIED = {"f", "F", "phi", "Phi", "psi", "Psi"}
_BEGINNING = frozenset(READERS) | frozenset(CONSTANTS) | frozenset(FUNCTIONS) | NAMED | ACCENTS | {"log"}


def expression(found: Sequence[Token]) -> sympy.Basic:
    """The expression (or matrix) that the tokens are.

    Raises:
        Unreadable: they are not one, to the last token.
    """
    infix = _infix(found)
    if infix is not None:
        return infix
    parser = Parser(found)
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


class Parser(Cursor):
    """Each method takes what it can from where the cursor is."""

    def __init__(self, found: Sequence[Token]):
        super().__init__(found)
        self.bars = 0  # bars that are open: the next one closes

    def read(self, found: Sequence[Token]) -> sympy.Basic:
        """An argument's tokens as an expression."""
        return expression(found)

    # Sums and products

    def sum(self) -> sympy.Basic:
        """Terms with signs between them."""
        value = None
        while True:
            sign = 1
            if self.mark("+", "-"):
                signs = 0
                while self.mark("+", "-"):
                    sign *= -1 if self.take().text == "-" else 1
                    signs += 1
                if signs > (1 if value is None else 2):
                    raise Unreadable("too many signs")
            elif value is not None:
                return value
            term = self.product()
            value = sign * term if value is None else value + sign * term
            if not self.mark("+", "-"):
                return value

    def product(self) -> sympy.Basic:
        """Factors with or without signs between them."""
        value = self.factor()
        while True:
            token = self.peek()
            if token is None:
                return value
            if token.is_mark("*") or token.is_command("cdot", "times"):
                self.take()
                other = self.factor() if not self.mark("-", "+") else self._signed()
                value = multiplied(value, other, token.text)
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
            mixed = mixed_number(self)
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
        """A number, a letter, what is in brackets, or a command with its arguments."""
        token = self.take()
        if token.kind in ("number", "grouped"):
            return numeral(self, token.text.split()[0])
        if token.kind in ("letter", "word", "run"):
            return self._letters(token)
        if token.kind == "mark":
            return self._bracketed(token)
        if token.kind == "command":
            return self._command(token.text)
        raise Unreadable(token.text)

    def _letters(self, token: Token) -> sympy.Basic:
        name = token.text
        if token.kind == "run":
            if is_function(name):
                return self._function(name)
            if name in ("pi", "infty"):
                return sympy.pi if name == "pi" else sympy.oo
            derivative = self._derivative(name)
            if derivative is not None:
                return derivative
            if is_english(name):
                raise Unreadable("a word")
            # Split: what follows holds to the last letter.
            self.at -= 1
            self.tokens[self.at : self.at + 1] = [Token("letter", c) for c in name]
            return self._letters(self.take())
        if token.kind == "word" and len(name) > 1:
            if is_function(name) or self.mark("("):
                return self._function(name)
            if not name.isascii() or len(name) > 3:
                raise Unreadable("a word")
        if name == "e" and not self.mark("_"):
            return sympy.E
        return self.symbol(name)

    def _derivative(self, name: str) -> Symbol | None:
        """dy/dx, typed on one line."""
        slash, under = self.peek(), self.peek(1)
        plain = under is not None and slash.is_mark("/") and under.kind == "run" and len(name) == len(under.text) == 2
        if not plain or name[0] != "d" or under.text[0] != "d":
            return None
        self.at += 2
        return Symbol(f"d {name[1]} / d {under.text[1]}")

    def symbol(self, name: str) -> sympy.Basic:
        """A variable with its index and primes, or a function applied."""
        if self.mark("_"):
            self.take()
            name += f"_{canonical(self.inside())}"
        if name in _APPLIED | {"g", "h"} and canonical(self.tokens[self.at : self.at + 5]) == "^ { - 1 }":
            self.at += 5
            if self.mark("("):
                return self._applied(f"{name}^-1")
            self.at -= 5
        primes = ""
        while self.mark("'"):
            primes += self.take().text
        if not primes and self.mark("^") and self._primes_ahead():
            self.take()
            primes = "'" * len(self.inside())
        if (self.mark("(") and (primes or name in _APPLIED or self._comma_ahead())) or (
            self.mark("[") and name in _INDEXED
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
        if opening in _BARS:
            self.bars += 1
            value = self.sum()
            self.bars -= 1
            self.expect(_BARS[opening])
            if isinstance(value, sympy.MatrixBase):
                return value.det() if opening != "||" else value.norm()
            return sympy.Abs(value) if opening != "||" else applied("norm", 1)(value)
        raise Unreadable(opening)

    def _command(self, name: str) -> sympy.Basic:
        if name in CONSTANTS:
            return CONSTANTS[name]
        if name in READERS:
            return READERS[name](self)
        if is_function(name):
            return self._function(name)
        if name in ACCENTS:
            return accented(self, name)
        if name.startswith("begin "):
            return matrix(self, name.split()[1])
        raise Unreadable(name)

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
        if exponent == -1 and name in INVERSE:
            name, exponent = INVERSE[name], None
        if name in NAMED:
            value = of_several(name, self.arguments() if self.mark("{.", "(", "[") else [self._operand()])
        else:
            value = called(name, self._operand(), base)
        return value if exponent is None else power(value, exponent)

    def _operand(self) -> sympy.Basic:
        """What a function is of: brackets, or the product behind it."""
        if self.mark("(", "["):
            values = self.arguments()
            if len(values) > 1:
                raise Unreadable("a function of two values")
            value = values[0]
            return self._raised(value) if self.mark("^") and self._degrees_ahead() else value
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
        return token.kind in ("command", "run", "word") and (token.text in FUNCTIONS or token.text in ("log", "int"))
