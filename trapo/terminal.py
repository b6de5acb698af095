"""What a terminal is shown: no secrets, no control or direction characters of names, no markup, in any encoding.

A name of a file, a model or a field may hold anything. What is printed here is text: "[bold]" is seven letters, and
ESC or U+202E, which move the cursor or turn a line around, are shown as escapes. A terminal that has no "±" gets "+-".
"""

import sys
import unicodedata
from typing import Any

import typer
from rich import console as rich_console
from rich.markup import escape
from rich.segment import Segment

from .redact import redacted

_PLAIN = str.maketrans({"±": "+-", "–": "-", "—": "-", "…": "...", "×": "x", "→": "->", "≤": "<=", "≥": ">=", "•": "*"})


def visible(text: str, keep: str = "\n\t") -> str:
    """Text with control, format (direction, zero-width) and surrogate characters as escapes, but those of `keep`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or unicodedata.category(c) not in _ESCAPED else _escape(c) for c in text)


_ESCAPED = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def shown(text: str, encoding: str = "utf-8", keep: str = "\n\t") -> str:
    """Text as a terminal of that encoding may have it."""
    text = visible(redacted(text), keep)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:  # an encoding that Python does not know
        return text.translate(_PLAIN).encode("ascii", "backslashreplace").decode()
    return text


class Console(rich_console.Console):
    """rich's console for texts as they are: no markup, no highlighting; every text goes through `shown`."""

    def __init__(self, **kwargs: Any):
        super().__init__(**{"markup": False, "highlight": False, "emoji": False} | kwargs)

    def render_str(self, text, **kwargs):
        """As in rich, its text made fit to be shown before it is measured and laid out."""
        return super().render_str(shown(text, self.encoding), **kwargs)

    def render(self, renderable, options=None):
        """As in rich, whatever text is left made fit to be shown."""
        encoding = (options or self.options).encoding
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(shown(segment.text, encoding), segment.style)

    def status(self, status, **kwargs: Any):
        """As in rich, a text taken as it is."""
        return super().status(escape(status) if isinstance(status, str) else status, **kwargs)


def say(text: str, *, err: bool = False) -> None:
    """Print a line, or several, as they are."""
    stream = sys.stderr if err else sys.stdout
    typer.echo(shown(text, getattr(stream, "encoding", None) or "utf-8"), err=err)
