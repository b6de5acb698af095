"""A place in a sequence of tokens, and what can be taken from there."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import sympy

from .latex import Token, Unreadable


class Cursor(ABC):
    """`at` is the next token. What is read as an expression from there, `trapo.grading.expressions.Parser` says."""

    def __init__(self, found: Sequence[Token]):
        self.tokens, self.at = list(found), 0

    def peek(self, ahead: int = 0) -> Token | None:
        """The next token, or one further on; None behind the last."""
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else None

    def mark(self, *texts: str) -> bool:
        """Whether the next token is one of these marks."""
        token = self.peek()
        return token is not None and token.is_mark(*texts)

    def command(self, *texts: str) -> bool:
        """Whether the next token is one of these commands."""
        token = self.peek()
        return token is not None and token.is_command(*texts)

    def take(self) -> Token:
        """The next token, taken."""
        token = self.peek()
        if token is None:
            raise Unreadable("it ends too early")
        self.at += 1
        return token

    def expect(self, *texts: str) -> None:
        """Take one of these marks."""
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

    def environment(self, name: str) -> list[Token]:
        """The tokens up to the end of the environment, which is taken too."""
        begin, depth = self.at, 1
        while depth:
            token = self.take()
            depth += token.is_command(f"begin {name}") - token.is_command(f"end {name}")
        return self.tokens[begin : self.at - 1]

    @abstractmethod
    def read(self, found: Sequence[Token]) -> sympy.Basic:
        """An argument's tokens as an expression."""

    @abstractmethod
    def sum(self) -> sympy.Basic:
        """Terms with signs between them."""

    @abstractmethod
    def product(self) -> sympy.Basic:
        """Factors with or without signs between them."""

    @abstractmethod
    def primary(self) -> sympy.Basic:
        """A number, a letter, what is in brackets, or a command with its arguments."""

    @abstractmethod
    def symbol(self, name: str) -> sympy.Basic:
        """A letter with its index and primes, or a function applied."""
