"""Tokens taken apart at marks outside brackets."""

from collections.abc import Callable, Sequence

from .latex import Token, Unreadable
from .phrases import CONNECTORS, is_word

OPEN = ("(", "[", "{", "{.", "<.", "|.")
_CLOSE = (")", "]", "}", ".}", ".>", ".|")


def closes(found: Sequence[Token], at: int) -> int:
    """Where the bracket that opens at `at` closes, any bracket closing any; -1 if it does not."""
    depth = 0
    for i in range(at, len(found)):
        depth += _step(found[i])
        if depth == 0:
            return i
    return -1


def _step(token: Token) -> int:
    if token.kind == "mark":
        return (token.text in OPEN) - (token.text in _CLOSE)
    if token.kind == "command":
        name = token.text
        return (name.startswith("begin ") or name in ("lfloor", "lceil")) - (
            name.startswith("end ") or name in ("rfloor", "rceil")
        )
    return 0


def split(found: Sequence[Token], at: Callable[[Token], bool]) -> tuple[list[list[Token]], list[Token]]:
    """The parts between the tokens outside brackets for which `at` holds, and those tokens."""
    parts: list[list[Token]] = [[]]
    marks: list[Token] = []
    depth = 0
    for token in found:
        depth += _step(token)
        if depth == 0 and at(token):
            parts.append([])
            marks.append(token)
        else:
            parts[-1].append(token)
    if depth != 0:
        raise Unreadable("a bracket is not closed")
    return parts, marks


def trimmed(found: list[Token]) -> list[Token]:
    """The tokens without braces around all of them, and without a full stop or comma behind."""
    while found:
        if found[-1].is_mark(".", ",", ";") and not (len(found) > 1 and found[-2].is_mark(".")):
            found = found[:-1]
        elif found[0].is_mark("{") and closes(found, 0) == len(found) - 1:
            found = found[1:-1]
        else:
            break
    return found


def is_separator(token: Token) -> bool:
    """Whether members of a list stand on both sides of it."""
    return token.is_mark(",", ";") or (is_word(token) and token.text.lower() in CONNECTORS)
