import io

import pytest
from rich.table import Table

from trapo.terminal import Console, shown, visible


def printed(*things, encoding="utf-8", **kwargs):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    console = Console(file=file, width=200, **kwargs)
    for thing in things:
        console.print(thing)
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("text", ["[/a]", "[bold]x[/bold]", "[link=http://x]", ":smile:", "[red", "\\[x]"])
def test_markup_is_text(text):
    table = Table("name", "value", title=text)
    table.add_row(text, text)
    assert printed(text) == text + "\n"
    assert printed(table).count(text) == 3


def test_control_and_direction_characters_are_escapes():
    assert visible("a\x1b[31mb\u202ec\u200bd\x00\x85é\n\t") == "a\\x1b[31mb\\u202ec\\u200bd\\x00\\x85é\n\t"
    assert visible("half \ud800") == "half \\ud800"
    out = printed("a\x1b]0;title\x07b\u202e", force_terminal=True)
    assert "\\x1b]0;title" in out and "\x1b]" not in out and "\u202e" not in out


def test_styles_still_reach_a_terminal():
    from rich.text import Text

    assert "\x1b[1m" in printed(Text("a", "bold"), force_terminal=True)


def test_what_an_ascii_terminal_has_no_sign_for():
    assert shown("0.5 ± 0.1 – ü", "ascii") == "0.5 +- 0.1 - \\xfc"
    assert printed("0.5 ± 0.1", encoding="ascii") == "0.5 +- 0.1\n"
    table = Table("±", title="…")
    table.add_row("é")
    assert "\\xe9" in printed(table, encoding="ascii")
    assert shown("±", "no-such-encoding") == "+-"


def test_no_secret_reaches_a_terminal():
    assert printed("at http://me:pw@host/v1") == "at http://***@host/v1\n"


def test_a_status_takes_a_name_as_it_is():
    with Console(file=io.StringIO(), force_terminal=True).status("checking [/a]"):
        pass
