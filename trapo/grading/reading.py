r"""An answer's tokens as a value.

From the outside in: lists, relations, unions, brackets, ratios, units, and in the end an expression. What a reading is
given must be used up by it; where nothing fits, words and mathematics in turns, and else the marks as they stand.
"""

from collections.abc import Callable

from . import units
from .expressions import expression
from .latex import Token, Unreadable, canonical, tokens
from .phrases import CHANGES, MULTIPLIERS, is_word, unwrapped
from .quantities import based, quantity
from .shapes import bracketed, listed, ratio, union
from .splitting import is_separator, split, trimmed
from .texts import name_or_words
from .values import Congruence, Formula, List, Mixed, Relation, Unread, Value, Words

_RELATIONS = frozenset(
    str.split(
        "ne le ge equiv in notin approx parallel perp sim simeq cong subset subseteq supset supseteq rightarrow "
        "Rightarrow Leftrightarrow leftarrow mapsto propto vee wedge leftrightarrow ll gg doteq succ prec nmid models "
        "vdash"
    )
)


def readings(text: str) -> list[Value]:
    """The values that a text may be: one, or two where commas stand between digits (1,234); none if it is empty."""
    try:
        found = trimmed(tokens(text))
    except (Unreadable, RecursionError):
        return [Unread(" ".join(text.split()))]
    if not found:
        return []
    ways = [found]
    if any(t.kind == "grouped" for t in found):
        ways.append(_apart(found))
    return list(dict.fromkeys(_read(way) for way in ways))


def _read(found: list[Token]) -> Value:
    try:
        return read(found)
    except (Unreadable, RecursionError):
        return Unread(canonical(found))


def _apart(found: list[Token]) -> list[Token]:
    """The tokens with the numbers that have commas taken apart."""
    out: list[Token] = []
    for token in found:
        if token.kind != "grouped":
            out.append(token)
            continue
        for i, part in enumerate(token.text.split()[1].split(",")):
            out += [Token("mark", ",")] * (i > 0) + [Token("number", part)]
    return out


def read(found: list[Token]) -> Value:
    """The value of an answer, or of a member of one.

    Raises:
        Unreadable: it has none.
    """
    found = trimmed(unwrapped(trimmed(found)))
    if not found:
        raise Unreadable("nothing")
    for reader in _READERS:
        value = reader(found)
        if value is not None:
            return value
    try:
        value = quantity(found)
        return value if value is not None else Formula(expression(found))
    except Unreadable:
        return _mixed(found)


def _plus_minus(found: list[Token]) -> Value | None:
    r"""Both values of what has one \pm in it, or one \pm and a \mp."""
    signs = [t.text for t in found if t.is_command("pm", "mp")]
    if not signs:
        return None
    parts, _ = split(found, is_separator)
    if len(parts) > 1 or found[0].is_mark("{."):  # each member for itself
        return None
    if len(signs) > 2 or (len(signs) == 2 and signs[0] == signs[1]):
        raise Unreadable("signs that may or may not agree")
    both = []
    for sign, other in (("+", "-"), ("-", "+")):
        taken = [Token("mark", sign if t.text == signs[0] else other) if t.is_command("pm", "mp") else t for t in found]
        both.append(read(taken))
    return List(tuple(both), "or")


def _quantity_of_parts(found: list[Token]) -> Value | None:
    """Hours and minutes, feet and inches: one quantity."""
    if sum(is_word(t) for t in found) < 2:
        return None
    taken = [t for t in found if not (is_word(t) and t.text == "and") and not t.is_mark(",")]
    return quantity(taken, parts=True)


def _is_relation(token: Token) -> bool:
    return token.is_mark("=", "<", ">") or token.is_command(*_RELATIONS)


def _relation(found: list[Token]) -> Value | None:
    """A chain of relations; congruences among them."""
    modulus = _modulus(found)
    if modulus is not None:
        return modulus
    parts, marks = split(found, _is_relation)
    if not marks:
        return None
    if len(marks) == 1 and (marks[0].is_command("mapsto") or (marks[0].text == "rightarrow" and _is_map(parts[0]))):
        return _map(*parts)
    if len(parts) > 12 or not all(parts):
        raise Unreadable("a relation without sides")
    return Relation(
        tuple(_side(part) for part in parts), tuple(m.text for m in marks), tuple(canonical(part) for part in parts)
    )


def _is_map(found: list[Token]) -> bool:
    """Whether it is f: x."""
    return len(found) == 3 and found[1].is_mark(":")


def _map(name: list[Token], body: list[Token]) -> Value:
    r"""f: x \mapsto x + 1, which is f(x) = x + 1."""
    if _is_map(name) and name[0].kind == name[2].kind == "letter":
        named = [name[0], Token("mark", "("), name[2], Token("mark", ")")]
        return Relation((Formula(expression(named)), read(body)), ("=",), (canonical(named), canonical(body)))
    return Relation((_side(name), read(body)), ("mapsto",), (canonical(name), canonical(body)))


def _side(found: list[Token]) -> Value:
    """One side of a relation. As a name for the other it may be anything."""
    try:
        return read(found)
    except Unreadable:
        return Unread(canonical(found))


def _modulus(found: list[Token]) -> Value | None:
    at = next((i for i, t in enumerate(found) if t.is_command("pmod", "bmod", "mod") or t.text == "mod"), None)
    if at is None or at == 0:
        return None
    modulus, rest = found[at + 1 :], found[:at]
    if rest[-1].is_mark("("):
        if not (modulus and modulus[-1].is_mark(")")):
            return None
        modulus, rest = modulus[:-1], rest[:-1]
    elif found[at].is_command("bmod") and not any(t.is_command("equiv") for t in rest):
        return None
    if not modulus or not rest:
        raise Unreadable("a modulus without a number")
    parts, marks = split(rest, lambda t: t.is_command("equiv") or t.is_mark("="))
    if len(parts) > 2:
        raise Unreadable("a chain of congruences")
    left = read(parts[0]) if marks and parts[0] else None
    return Congruence(expression(trimmed(parts[-1])), expression(trimmed(modulus)), left)


def _mixed(found: list[Token]) -> Value:
    """Words and mathematics in turns; there must be words, and all of the mathematics must have a reading."""
    multiplied = _multiplied(found)
    if multiplied is not None:
        return multiplied
    parts: list[Value] = []
    begin = 0
    while begin < len(found):
        end = begin
        kind = is_word(found[begin])
        while end < len(found) and is_word(found[end]) == kind:
            end += 1
        piece = found[begin:end]
        if kind:
            parts.append(Words(tuple(t.text for t in piece)))
        elif len(piece) < len(found):
            piece = [t for t in piece if not t.is_mark(":", ".", '"')] or piece
            parts.append(read(trimmed(piece)))
        begin = end
    if len(parts) < 2 or not any(isinstance(p, Words) for p in parts):
        raise Unreadable("neither words nor mathematics")
    return Mixed(tuple(parts))


def _multiplied(found: list[Token]) -> Value | None:
    """A number times a word for a power of ten: 7 million; a percentage with its direction: 30% increase."""
    last = found[-1].text.lower() if is_word(found[-1]) else ""
    if last in MULTIPLIERS and len(found) > 1:
        value = read(found[:-1])
        if isinstance(value, Formula):
            return Formula(value.value * MULTIPLIERS[last])
        if hasattr(value, "unit"):
            return type(value)(value.value * MULTIPLIERS[last], value.unit)
    if last in CHANGES and len(found) > 2 and found[-2].is_mark("%"):
        value = read(found[:-1])
        return type(value)(value.value, units.Unit(units.PERCENT.dimension, units.PERCENT.factor, "percent", last))
    return None


_READERS: tuple[Callable[[list[Token]], Value | None], ...] = (
    name_or_words,
    based,
    _plus_minus,
    _quantity_of_parts,
    lambda found: listed(found, read),
    _relation,
    lambda found: union(found, read),
    lambda found: bracketed(found, read),
    ratio,
)
