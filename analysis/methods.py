"""`python -m trapo_analysis.methods`: docs/methods.md's table, from what the recipes say of themselves."""

import argparse
import re
import sys
from pathlib import Path

from trapo.files import write_whole
from trapo.recipe import header, recipe_names

COLUMNS = ("paper", "formula", "guidance", "command")
MARKS = ("<!-- made by: python -m trapo_analysis.methods -->", "<!-- end of what is made -->")


def table(rows: dict[str, dict[str, str]], columns: tuple[str, ...]) -> str:
    """A Markdown table, a row per key."""
    lines = ["| method | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 1)]
    for name, cells in rows.items():
        values = [cells.get(column, "").replace("|", "\\|") for column in columns]
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def describe(recipe: str) -> dict[str, str]:
    """What a recipe's header says: paper, formula, guidance; and its command."""
    found = header(recipe)
    return {name.lower(): found[name] for name in ("Paper", "Formula", "Guidance")} | {
        "command": f"`trapo train --recipe {recipe}`"
    }


def page_with(page: str) -> str:
    """The page with a fresh table between its marks; ValueError where it has none."""
    made = table({name: describe(name) for name in recipe_names()}, COLUMNS)
    start, end = map(re.escape, MARKS)
    page, n = re.subn(f"({start}\n).*?({end})", lambda m: f"{m[1]}\n{made}\n\n{m[2]}", page, flags=re.S)
    if not n:
        raise ValueError(f"the page has no marks to write between: {MARKS[0]} ... {MARKS[1]}")
    return page


def main() -> None:
    """Write the table between the marks of the page."""
    parser = argparse.ArgumentParser(prog="python -m trapo_analysis.methods", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/methods.md"), help="the page whose table is written")
    out = parser.parse_args().out
    try:
        write_whole(out, page_with(out.read_text(encoding="utf-8")))
    except ValueError as error:
        sys.exit(f"{out}: {error}")
    print(out)


if __name__ == "__main__":
    main()
