"""Is a boxed answer right? The verdict without workers and limits: `trapo.Grader` calls it within them."""

from functools import lru_cache

from .choice import letter_of, same_letter
from .comparison import same_answer
from .latex import Unreadable, canonical, tokens
from .reading import readings
from .splitting import trimmed
from .values import Unread, Value


def judge(answer: str, gold: str, look: bool = True) -> str:
    """ "correct" or "wrong", or "gold-unparsed": the gold has no reading, and the answer does not look the same.

    What looks the same on the page is the same, unless `look` is False; all else by value, see `comparison`.
    """
    if (
        look
        and answer.strip()
        and (answer.strip() == gold.strip() or same_letter(answer, gold) or _look(answer) == _look(gold))
    ):
        return "correct"
    if not look and not is_read(gold):
        return "gold-unparsed"
    golds = _values(gold)
    if any(same_answer(a, g) for g in golds for a in _values(answer)):
        return "correct"
    return "wrong" if is_read(gold) else "gold-unparsed"


def is_read(gold: str) -> bool:
    """Whether the text has a reading, so that answers that look otherwise can be compared with it."""
    return letter_of(gold, small=False) is not None or any(not isinstance(value, Unread) for value in _values(gold))


@lru_cache(maxsize=4096)
def _values(text: str) -> tuple[Value, ...]:
    return tuple(readings(text))


@lru_cache(maxsize=4096)
def _look(text: str) -> str:
    """The marks on the page; a text that has none differs from all others."""
    try:
        found = tokens(text)
    except (Unreadable, RecursionError):
        return repr(text)
    return canonical(trimmed(found)) or canonical(found) or repr(text)
