"""Letters that are not a formula: words, and names such as AB."""

import sympy

from .latex import Token
from .phrases import CONNECTORS, NUMBERS, is_word
from .splitting import trimmed
from .values import Formula, Value, Words

_PLAIN = frozenset(
    str.split("yes no true false dne none all odd even both never always undefined infinity")
)  # no names
_SHORT = ("no", "is", "if")


def name_or_words(found: list[Token]) -> Value | None:
    """Text; or letters that name something: three small ones side by side, two capital ones."""
    if any(is_word(t) and t.text.lower() in CONNECTORS for t in found):
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
    return (len(text) > 2 and (text.islower() or text.istitle() or text.isupper())) or text.lower() in _SHORT


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
