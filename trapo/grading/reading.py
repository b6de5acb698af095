r"""An answer's tokens as a value.

From the outside in: lists, relations, unions, brackets, ratios, units, and in the end an expression. What a reading is
given must be used up by it; where nothing fits, words and mathematics in turns, and else the marks as they stand.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import sympy

from . import units
from .algebra import DEGREE, expression, rows_of
from .latex import Token, Unreadable, canonical, tokens
from .phrases import CHANGES, MULTIPLIERS, NUMBERS, is_word, unwrapped
from .quantities import based, clock, quantity
from .values import (
    Builder, Cases, Congruence, Formula, Interval, List, Mixed, Ratio, Relation, Set, Tuple, Union, Unread, Value, Words,
)  # fmt: skip

_OPEN = ("(", "[", "{", "{.", "<.", "|.")
_CLOSE = (")", "]", "}", ".}", ".>", ".|")
_EQUAL = {"=": "=", "<": "<", ">": ">"}
_ORDER = {"ne": "ne", "le": "le", "ge": "ge", "equiv": "equiv", "in": "in", "notin": "notin", "approx": "approx"}
_OTHER = (
    "parallel perp sim simeq cong subset subseteq supset supseteq rightarrow Rightarrow Leftrightarrow leftarrow mapsto "
    "propto vee wedge leftrightarrow ll gg doteq succ prec nmid notparallel models vdash therefore because iff"
).split()
_CONNECTORS = ("and", "or")
_PLAIN = frozenset("yes no true false dne none all odd even both never always undefined infinity".split())  # no names


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
        ways.append(_listed(found))
    return list(dict.fromkeys(_read(way) for way in ways))


def _read(found: list[Token]) -> Value:
    try:
        return read(found)
    except (Unreadable, RecursionError):
        return Unread(canonical(found))


def _listed(found: list[Token]) -> list[Token]:
    """The tokens with the numbers that have commas taken apart."""
    out: list[Token] = []
    for token in found:
        if token.kind != "grouped":
            out.append(token)
            continue
        for i, part in enumerate(token.text.split()[1].split(",")):
            out += [Token("mark", ",")] * (i > 0) + [Token("number", part)]
    return out


def trimmed(found: list[Token]) -> list[Token]:
    """The tokens without braces around all of them, and without a full stop or comma behind."""
    while found:
        if found[-1].is_mark(".", ",", ";"):
            found = found[:-1]
        elif found[0].is_mark("{") and _closes(found, 0) == len(found) - 1:
            found = found[1:-1]
        else:
            break
    return found


def read(found: list[Token]) -> Value:
    """The value of an answer, or of a member of one.

    Raises:
        Unreadable: it has none.
    """
    found = trimmed(unwrapped(trimmed(found)))
    if not found:
        raise Unreadable("nothing")
    for reader in (_words, _numeral, _plus_minus, quantity_of_parts, _list, _relation, _union, _bracketed, _ratio):
        value = reader(found)
        if value is not None:
            return value
    try:
        value = quantity(found)
        return value if value is not None else Formula(expression(found))
    except Unreadable:
        return _mixed(found)


# Splitting


def _closes(found: Sequence[Token], at: int) -> int:
    """Where the bracket that opens at `at` closes, any bracket closing any; -1 if it does not."""
    depth = 0
    for i in range(at, len(found)):
        depth += _step(found[i])
        if depth == 0:
            return i
    return -1


def _step(token: Token) -> int:
    if token.kind == "mark":
        return (token.text in _OPEN) - (token.text in _CLOSE)
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
    depth = bars = 0
    for token in found:
        depth += _step(token)
        bars += token.is_mark("|", "||")
        if depth == 0 and at(token):
            parts.append([])
            marks.append(token)
        else:
            parts[-1].append(token)
    if depth != 0:
        raise Unreadable("a bracket is not closed")
    return parts, marks


# Readers: None where the tokens are not of their kind


def _words(found: list[Token]) -> Value | None:
    """Text; or letters that name something: three small ones side by side, two capital ones."""
    if any(is_word(t) and t.text.lower() in _CONNECTORS for t in found):
        return None
    if len(found) == 1 and found[0].is_command("emptyset"):
        return Words(("no", "solution"))
    letters = _name(found)
    if letters is not None:
        return letters
    kinds = {t.kind for t in found}
    if kinds <= {"word", "run", "letter"} and not all(t.kind == "letter" for t in found):
        text = [t.text for t in found]
        if len(text) == 1 and found[0].kind == "run":
            return Words(tuple(text)) if _is_a_word(text[0]) else None
        if len(text) == 1 and len(text[0]) == 1:
            return None
        if len(text) == 1 and text[0].lower() in NUMBERS:
            return Formula(sympy.Integer(NUMBERS[text[0].lower()]))
        if all(_is_a_word(t.text) for t in found) or any(t.kind == "word" and len(t.text) > 2 for t in found):
            return Words(tuple(text))
    return None


def _is_a_word(text: str) -> bool:
    """Whether letters side by side are a word and not a product: longer than two, and in one of a word's cases."""
    return len(text) > 2 and (text.islower() or text.istitle() or text.isupper()) or text.lower() in ("no", "is", "if")


def _name(found: list[Token]) -> Words | None:
    r"""`AB`, `\overline{AB}`, `\triangle ABC`, `A B C`: capital letters; `abcde`: three or more small ones."""
    if len(found) > 1 and found[0].is_command("triangle", "overline") and not found[1].is_mark("("):
        inner = trimmed(found[1:])
        if all(t.kind in ("letter", "run", "word") and t.text.isupper() for t in inner):
            found = inner
    if not all(t.kind in ("letter", "run", "word") and t.text.isascii() for t in found):
        return None
    text = "".join(t.text for t in found)
    if len(text) < 2 or text.lower() in _PLAIN:
        return None
    if text.isupper() and (len(found) == 1 or all(len(t.text) == 1 for t in found)):
        return Words((text,), name=True)
    if len(found) == 1 and found[0].kind == "run" and len(text) >= 3 and text.islower():
        return Words((text,), name=len(text) < 7)
    return None


def _numeral(found: list[Token]) -> Value | None:
    return based(found)


def _plus_minus(found: list[Token]) -> Value | None:
    r"""Both values of what has one \pm in it, or one \pm and a \mp."""
    signs = [t.text for t in found if t.is_command("pm", "mp")]
    if not signs:
        return None
    parts, _ = split(found, _is_separator)
    if len(parts) > 1:
        return None
    if len(signs) > 2 or (len(signs) == 2 and signs[0] == signs[1]):
        raise Unreadable("signs that may or may not agree")
    both = []
    for sign, other in (("+", "-"), ("-", "+")):
        taken = [Token("mark", sign if t.text == signs[0] else other) if t.is_command("pm", "mp") else t for t in found]
        both.append(read(taken))
    return List(tuple(both), "or")


def quantity_of_parts(found: list[Token]) -> Value | None:
    """Hours and minutes, feet and inches: one quantity."""
    if sum(is_word(t) for t in found) < 2:
        return None
    taken = [t for t in found if not (is_word(t) and t.text == "and") and not t.is_mark(",")]
    return quantity(taken, parts=True)


def _is_separator(token: Token) -> bool:
    return token.is_mark(",", ";") or (is_word(token) and token.text.lower() in _CONNECTORS)


def _list(found: list[Token]) -> Value | None:
    """Members between commas, semicolons, "and", "or"."""
    parts, marks = split(found, _is_separator)
    if len(parts) == 1:
        return None
    joint = "or" if any(m.text.lower() == "or" for m in marks) else "and"
    given = [part for i, part in enumerate(parts) if part or i not in (0, len(parts) - 1)]
    # "1, 4, and 9": nothing stands between the comma and the word.
    given = [part for i, part in enumerate(given) if part or not (i and _is_separator(marks[i]))]
    if len(given) < 2 or not all(given) or len(given) != len(parts) - _doubled(parts, marks):
        raise Unreadable("a list with a gap")
    if given[0] and is_word(given[0][0]) and given[0][0].text.lower() in ("either", "both"):
        given[0] = given[0][1:]
    return members(given, joint)


def _doubled(parts: list[list[Token]], marks: list[Token]) -> int:
    return sum(
        not part and 0 < i < len(parts) - 1 and is_word(marks[i]) and marks[i - 1].is_mark(",", ";")
        for i, part in enumerate(parts)
    )


def _flat(found: Iterable[Value]) -> Iterator[Value]:
    r"""The members, both values of one with a \pm for themselves."""
    for value in found:
        yield from value.members if isinstance(value, List) and not value.ordered else (value,)


def members(parts: list[list[Token]], joint: str = "and") -> List:
    """A list of what the parts are; an ellipsis among whole numbers is filled in."""
    dots = [i for i, part in enumerate(parts) if len(part) == 1 and part[0].is_mark("...")]
    if not dots:
        return List(tuple(_flat(read(part) for part in parts)), joint)
    if len(dots) > 1 or dots[0] < 2 or dots[0] < len(parts) - 2:
        raise Unreadable("an ellipsis that says too little")
    first = [read(part) for part in parts[: dots[0]]]
    if dots[0] == len(parts) - 1:
        return List(tuple(first), joint, ordered=True, endless=True)
    last = read(parts[-1])
    if all(isinstance(x, Formula) and x.value.is_Integer for x in (*first, last)):
        numbers, end = [int(x.value) for x in first], int(last.value)
        steps = {b - a for a, b in zip(numbers, numbers[1:], strict=False)}
        step = steps.pop()
        if steps or step == 0 or (end - numbers[-1]) % step or not 0 < (end - numbers[-1]) // step <= 1_000:
            raise Unreadable("an ellipsis between numbers of no progression")
        return List(tuple(Formula(sympy.Integer(k)) for k in range(numbers[0], end + (step > 0) - (step < 0), step)), joint)
    return List((*first, Words(("...",)), last), joint, ordered=True)


def _is_relation(token: Token) -> bool:
    if token.kind == "mark":
        return token.text in _EQUAL
    return token.kind == "command" and (token.text in _ORDER or token.text in _OTHER)


def _relation(found: list[Token]) -> Value | None:
    """A chain of relations; congruences among them."""
    modulus = _modulus(found)
    if modulus is not None:
        return modulus
    parts, marks = split(found, _is_relation)
    if not marks:
        return None
    if len(marks) == 1 and marks[0].is_command("mapsto"):
        return _map(*parts)
    if len(parts) > 12 or not all(parts):
        raise Unreadable("a relation without sides")
    return Relation(
        tuple(_side(part) for part in parts), tuple(m.text for m in marks), tuple(canonical(part) for part in parts)
    )


def _map(name: list[Token], body: list[Token]) -> Value:
    r"""f: x \mapsto x + 1, which is f(x) = x + 1."""
    if len(name) >= 3 and name[-2].is_mark(":"):
        named = [name[0], Token("mark", "("), name[-1], Token("mark", ")")]
        if len(name) == 3 and name[0].kind == name[-1].kind == "letter":
            sides = (Formula(expression(named)), read(body))
            return Relation(sides, ("=",), (canonical(named), canonical(body)))
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
    left = read(parts[0]) if marks else None
    return Congruence(expression(trimmed(parts[-1])), expression(trimmed(modulus)), left)


def _union(found: list[Token]) -> Value | None:
    r"""Intervals and sets joined by \cup (or a U), or one without another."""
    parts, marks = split(found, lambda t: t.is_command("cup", "cap", "setminus") or (t.kind == "letter" and t.text == "U"))
    if not marks:
        return None
    if not all(parts):
        raise Unreadable("a union without sides")
    values = [read(part) for part in parts]
    if len({m.text for m in marks}) > 1 or any(isinstance(v, Words) and v.words[:1] == ("no",) for v in values):
        raise Unreadable("unions and differences")
    sets = all(isinstance(v, Interval | Set | Tuple | Union) or _is_reals(v) for v in values)
    if not sets:
        if any(m.kind == "letter" for m in marks):
            return None
        return Relation(tuple(values), tuple(m.text for m in marks))
    if marks[0].is_command("setminus") and len(values) == 2 and _is_reals(values[0]) and isinstance(values[1], Set):
        without = [Relation((Formula(sympy.Symbol("")), m), ("ne",)) for m in values[1].members]
        return List(tuple(without)) if len(without) > 1 else without[0]
    if marks[0].is_command("setminus", "cap"):
        return Relation(tuple(values), tuple(m.text for m in marks))
    return Union(tuple(values))


def _is_reals(value: Value) -> bool:
    return isinstance(value, Formula) and value.value == sympy.Symbol("bb R")


def _bracketed(found: list[Token]) -> Value | None:
    """A tuple, an interval, a set, a vector, cases: one pair of brackets around it all."""
    if found[0].kind == "command" and found[0].text == "begin cases":
        return _cases(found)
    if not (found[0].is_mark(*_OPEN) and _closes(found, 0) == len(found) - 1):
        return None
    opening, closing, inner = found[0].text, found[-1].text, found[1:-1]
    if opening == "{.":
        return _set(inner)
    parts, _ = split(inner, lambda t: t.is_mark(",", ";"))
    if len(parts) < 2:
        if opening == "(" and closing == ")" and inner:
            value = read(inner)
            return value if not isinstance(value, Words | Mixed) or opening == "(" else None
        if opening == "[" and inner and inner[0].kind == "command" and inner[0].text.startswith("begin "):
            return Formula(expression(inner))
        if opening == "[":
            raise Unreadable("one member in brackets")
        return None
    if not all(parts):
        raise Unreadable("a gap between brackets")
    values = tuple(read(part) for part in parts)
    if len(values) == 2 and "[" in (opening, closing) + ("[",) * (closing == "]") and opening in "([" and closing in ")]":
        ends = [v.value if isinstance(v, Formula) else None for v in values]
        if None in ends:
            raise Unreadable("an interval's ends")
        return Interval(ends[0], ends[1], opening == "[" and ends[0] != -sympy.oo, closing == "]" and ends[1] != sympy.oo)
    return Tuple(values, opening == "(")


def _set(inner: list[Token]) -> Value:
    if not inner:
        return Set(())
    parts, marks = split(inner, lambda t: t.is_mark("|", ":"))
    if len(marks) == 1 and len(parts[0]) == 1 and parts[0][0].kind == "letter":
        return Builder(parts[0][0].text, read(parts[1]))
    if marks and len(parts[0]) > 1 and any(_is_relation(t) for t in parts[0]):  # x in R | ...
        raise Unreadable("a set with a domain")
    parts, _ = split(inner, lambda t: t.is_mark(",", ";"))
    if not all(parts):
        raise Unreadable("a gap between braces")
    if len(parts) == 1:
        return Set((read(parts[0]),))
    found = members(parts)
    if found.endless or found.ordered:
        return Mixed((Words(("set",)), found))
    return Set(found.members)


def _cases(found: list[Token]) -> Value | None:
    if not found[-1].is_command("end cases"):
        return None
    rows = rows_of(found[1:-1], "cases")
    if all(len(row) == 1 for row in rows):  # a system of equations
        return List(tuple(read(row[0]) for row in rows))
    if any(len(row) != 2 for row in rows):
        raise Unreadable("cases of three columns")
    read_rows = []
    for value, condition in rows:
        while condition and (condition[0].is_mark(",") or condition[0].text.lower() in ("if", "for", "when")):
            condition = condition[1:]
        while value and value[-1].is_mark(","):
            value = value[:-1]
        read_rows.append((read(value), read(condition)))
    return Cases(tuple(read_rows))


def _ratio(found: list[Token]) -> Value | None:
    parts, marks = split(found, lambda t: t.is_mark(":") or (is_word(t) and t.text == "to"))
    if not marks:
        return None
    if len({m.text for m in marks}) > 1 or not all(parts):
        raise Unreadable("a colon without sides")
    time = clock(found)
    if time is not None:
        return time
    values = [Formula(expression(trimmed(part))) for part in parts]
    return Ratio(tuple(values))


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
            return Formula(value.value * 10 ** MULTIPLIERS[last])
        if hasattr(value, "unit"):
            return type(value)(value.value * 10 ** MULTIPLIERS[last], value.unit)
    if last in CHANGES and len(found) > 2 and found[-2].is_mark("%"):
        value = read(found[:-1])
        return type(value)(value.value, units.Unit(units.PERCENT.dimension, units.PERCENT.factor, "percent", last))
    return None


def has_degrees(value: sympy.Basic) -> bool:
    """Whether an expression counts degrees."""
    return DEGREE in value.free_symbols
