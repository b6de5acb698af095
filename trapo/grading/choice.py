r"""The letter of a multiple-choice answer, as models write it: `B`, `(B)`, `\textbf{(B) } 12`, `Option B`, `**B**`."""

import re

_WRAPPERS = re.compile(
    r"\\(?:text|textbf|textrm|textit|texttt|textsf|mathrm|mathbf|mathsf|mathtt|mbox|boxed|bf|rm)\b\*?"
)
_LAYOUT = re.compile(r"\\(?:quad|qquad|left|right|hfill)\b|\\[,;:! ]|[{}$~]|\\[()\[\]]")
_BARE = re.compile(r"[(\[\"*]*([A-Ja-j])[)\]\"*.:,]*|'([A-Ja-j])'")
_NAMED = re.compile(r"(?:the\s+)?(?:correct\s+)?(?:option|choice|answer)(?:\s+is)?:?\s+", re.IGNORECASE)
_FOLLOWED = re.compile(r"(?:[(\[*]+([A-J])[)\]*]+|([A-J])\s*[).:]+)[.:]?\s*(\S.*)", re.DOTALL)
_OTHER = re.compile(r"(?<![\w'])(?:\([A-J]\)|[A-J]\)|[A-J][.:]\s+\S)")  # a letter that is marked as a choice
_DOUBT = re.compile(r"\b(?:or|and|maybe|perhaps|possibly|not|nor)\b[\s({]*(?:\(?[A-J]\b)", re.IGNORECASE)
_NUMBERS = frozenset("ei")  # a small one of these is a number


def letter_of(answer: str, small: bool = True) -> str | None:
    """The letter that an answer chooses, None if it chooses none, or more than one.

    The choice's own text may stand behind its letter, if it names no other letter.

    Args:
        answer: what is in the box.
        small: whether a small letter is a choice too; e and i, which are numbers, never are.
    """
    if len(answer) > 1_000:
        return None
    plain = _LAYOUT.sub(" ", _WRAPPERS.sub(" ", answer)).strip()
    named = _NAMED.match(plain)
    plain = plain[named.end() :] if named else plain
    if found := _BARE.fullmatch(plain.replace(" ", "")):
        letter = found[1] or found[2]
        if letter.islower() and (not small or letter in _NUMBERS):
            return None
        return letter.upper()
    found = _FOLLOWED.fullmatch(plain)
    if found is None:
        return None
    rest = found[3]
    alone = re.fullmatch(r"[\s(]*[A-J]\b[\s).:,]*", rest)
    return None if alone or _OTHER.search(rest) or _DOUBT.search(rest) else found[1] or found[2]


def same_letter(answer: str, gold: str, small: bool = False) -> bool:
    """Whether both choose one letter, and the same."""
    letter = letter_of(answer, small)
    return letter is not None and letter == letter_of(gold, small)
