"""`python -m trapo_analysis.study.page`: the study's figures and tables from docs/results/*.csv, without training.

Figures go to docs/results/figures, tables between the marks of docs/results.md; what the tables mean is written there
by hand. The rule of every answer is `..inference`'s, the two readings are `.results`'s.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from trapo.files import write_whole

from ..inference import FEW, Answer
from .command import parser, study_of
from .figures import draw
from .results import PROBES, Results, together

MARK = "<!-- made by: make figures: {} -->"
END = "<!-- end -->"


def verdict_table(results: Results) -> str:
    """The page's first table: each claim with its differences, the smallest that matters, and what the rule says."""
    lines = []
    for verdict in results.study.plan["verdicts"]:
        question = results.question(verdict["question"])
        readings = {name: _by_name(results.answers(question, name)) for name in ("curve", "last")}
        needs = verdict["needs"]
        if not set(needs) <= readings["last"].keys():
            continue
        shown = {name: "<br>".join(_short(found.get(need)) for need in needs) for name, found in readings.items()}
        names = "<br>".join(f"`{need}`" for need in needs)
        said = {name: _holds(needs, found) for name, found in readings.items()}
        rule = said["last"] if said["curve"] == said["last"] else f"last step: {said['last']}; curve: {said['curve']}"
        if {said["last"], said["curve"]} == {"yes", "no"}:
            rule = f"turns with the horizon ({rule})"
        asked = "" if question.registered else " (asked afterwards)"
        lines.append(
            [verdict["claim"] + asked, names, shown["curve"], shown["last"], f"{verdict['smallest']:g}", f"**{rule}**"]
        )
    columns = (
        "claim",
        "difference",
        "along training (95%)",
        "at the last step (95%)",
        "smallest that matters",
        "verdict",
    )
    return _table(columns, lines)


def _by_name(found: Sequence[Answer]) -> dict[str, Answer]:
    return {f"{answer.a} - {answer.b}": answer for answer in found}


def _holds(needs: dict[str, str], found: dict[str, Answer]) -> str:
    """Yes where all that a claim needs was found; no where some need was refuted; else can't tell."""
    said = [_need(wanted, found.get(need)) for need, wanted in needs.items()]
    return "no" if "no" in said else "can't tell" if "can't tell" in said else "yes"


def _need(wanted: str, answer: Answer | None) -> str:
    if answer is None:
        return "can't tell"
    if wanted == "equal":
        beyond = answer.margin is not None and (answer.low > answer.margin or answer.high < -answer.margin)
        return "yes" if answer.equal else "no" if beyond else "can't tell"
    if answer.says == wanted:
        return "yes"
    return "no" if answer.says in ("above", "below", "equal") else "can't tell"


def accuracy_table(results: Results) -> str:
    """Every cell: accuracies with the lowest and the highest base, the mean of its curve, and what they cost."""
    before = [results.before(probe) for probe in PROBES]
    lines = [["base", "-", "-", str(len(before[0])), "-", *map(_range, before), *["0"] * 5, ""]]
    for cell in results.cells:
        runs = results.of(cell)
        first, mean = runs.iloc[0], runs.mean(numeric_only=True)
        rates = [f"{rate:.1e}" for rate in (first.sft_learning_rate, first.learning_rate) if rate == rate]
        curve = results.curve_mean(cell, results.covered(cell)) if len(results.curve(cell)[1]) else ()
        twins = "; ".join(f"on {len(found)} as `{other}`" for other, found in results.twins(cell).items())
        lines.append([
            cell, "-" if first.alpha != first.alpha else f"{first.alpha:g}", " / ".join(rates), str(len(runs)),
            f"{curve.mean():.3f}" if len(curve) else "-",
            *(_range(runs[probe]) for probe in PROBES), f"{mean.samples:.0f}", f"{mean.demonstrations:.0f}",
            f"{(mean.drawn_tokens + mean.aborted_tokens) / 1e3:.0f}", f"{mean.update_tokens / 1e3:.0f}",
            f"{mean.seconds:.0f}", twins,
        ])  # fmt: skip
    columns = ("cell", "alpha", "rates", "bases", "curve", *PROBES, "samples", "demonstrations", "ktokens drawn",
               "ktokens updated", "s", "not delivered")  # fmt: skip
    return _table(columns, lines)


def question_tables(results: Results, registered: bool = True) -> str:
    """A table of paired differences for each question that can be answered so far."""
    made = []
    for question in results.questions:
        if question.registered == registered and (last := results.answers(question)):
            curve = _by_name(results.answers(question, "curve"))
            about = f" (margin {question.margin:g})" if question.margin else ""
            rows = [_both(results, curve.get(name), answer) for name, answer in _by_name(last).items()]
            columns = ("a - b", "curve (95%)", "above", "p (Holm)", "last step (95%)", "above", "p (Holm)",
                       "80% power from", "equal within", "a is", "notes")  # fmt: skip
            made.append(f"**{question.text}**{about}\n\n{_table(columns, rows)}")
    return "\n\n".join(made)


def _both(results: Results, curve: Answer | None, last: Answer) -> list[str]:
    def cells(answer: Answer | None) -> list[str]:
        return (
            ["-"] * 3
            if answer is None
            else [_short(answer), f"{answer.above} of {answer.blocks}", f"{answer.holm:.3f}"]
        )

    return [f"{last.a} - {last.b}", *cells(curve), *cells(last), f"{last.detectable:.3f}", f"{last.within:.3f}",
            together(curve, last), _notes(results, curve, last)]  # fmt: skip


def _notes(results: Results, curve: Answer | None, last: Answer) -> str:
    notes = [f"equal within {answer.margin:g} ({where})" for where, answer in (("curve", curve), ("last", last))
             if answer is not None and answer.equal]  # fmt: skip
    if same := results.undelivered(last.a, last.b):
        notes.append(f"not delivered on {len(same)}")
    for where, answer in (("curve", curve), ("last", last)):
        if answer is not None and answer.coverage < FEW:
            low, high = np.clip(answer.studentized, -1, 1)  # accuracies cannot differ by more
            notes.append(f"{where}: t covers {answer.coverage:.2f}, bootstrap-t {low:+.3f} to {high:+.3f}")
    return "; ".join(notes)


def later_tables(results: Results) -> str:
    """As `question_tables`, of what was asked afterwards."""
    return question_tables(results, registered=False)


def pass_table(results: Results) -> str:
    """pass@k of each cell, and at the largest k against its base."""
    if not len(results.passes):
        return "Not drawn yet."
    table = results.passes.pivot_table(index="cell", columns="k", values=["pass", "base"],
                                       aggfunc={"pass": "mean", "base": "count"})  # fmt: skip
    ks, cells = sorted(set(results.passes.k)), [cell for cell in ("base", *results.cells) if cell in table.index]
    lines = [[cell, str(table["base"][ks[-1]][cell]), *(f"{table['pass'][k][cell]:.3f}" for k in ks)] for cell in cells]
    means = _table(("cell", "bases", *(f"pass@{k}" for k in ks)), lines)
    rows = [
        [f"{answer.a} - {answer.b}", _short(answer), f"{answer.above} of {answer.blocks}", f"{answer.p:.3f}",
         f"{answer.holm:.3f}", f"{answer.detectable:.3f}", answer.says]
        for answer in results.sharpening()
    ]  # fmt: skip
    columns = ("a - b", "difference (95%)", "bases above", "p", "p (Holm)", "80% power from", "a is")
    return f"{means}\n\nAt k = {ks[-1]}, paired by base:\n\n{_table(columns, rows)}"


def tuning_table(results: Results) -> str:
    """Every trial of a learning rate, and whether the chosen one lies at an edge of what was tried."""
    table, chosen = results.study.tables.read("tuning"), results.study.chosen()
    lines, edges = [], []
    for recipe in results.study.tuned_recipes():
        mine = table[table.recipe == recipe] if len(table) else table
        phases = [mine[mine.phase == phase] if len(mine) else mine for phase in ("screen", "full")]
        cells = ["; ".join(f"{row.rate:g}: {row.tune:.3f}" for row in phase.itertuples()) for phase in phases]
        rate = chosen.get(recipe)
        edge = "" if rate is None else {mine.rate.max(): "highest", mine.rate.min(): "lowest"}.get(rate, "")
        edges.append(edge)
        lines.append([recipe, *cells, "" if rate is None else f"{rate:g}", edge])
    columns = ("recipe", "screen (base 0, 40 steps)", "full length (base 9)", "chosen", "of those tried")
    high, low = edges.count("highest"), edges.count("lowest")
    said = f"Of {len(edges)} rates {high} are the highest that was tried and {low} the lowest: bounds, not optima."
    return f"{_table(columns, lines)}\n\n{said}"


def ideas_table(results: Results) -> str:
    """What was tried in search of something better, base by base."""
    table = results.study.tables.read("ideas")
    if not len(table):
        return "Not screened yet."
    bases = sorted(set(table.base))
    lines = []
    for cell in results.study.ideas:
        mine = table[table.cell == cell.name].set_index("base")
        if len(mine):
            each = [f"{mine.tune[base]:.3f}" if base in mine.index else "-" for base in bases]
            means = [f"{mine[name].mean():.3f}" for name in ("tune", "direct", "facts")]
            lines.append([cell.name, cell.recipe, cell.flags and f"`{cell.flags}`", *each, *means])
    return _table(("idea", "recipe", "flags", *(f"tune, {base}" for base in bases), "mean", "direct", "facts"), lines)


TABLES = {
    "verdicts": verdict_table,
    "accuracies": accuracy_table,
    "questions": question_tables,
    "afterwards": later_tables,
    "pass@k": pass_table,
    "ideas": ideas_table,
    "tuning": tuning_table,
}


def _range(values: pd.Series) -> str:
    """Mean over bases, and the lowest and the highest one: no interval, for cells are compared base by base."""
    return f"{values.mean():.3f} ({values.min():.3f}-{values.max():.3f})"


def _short(answer: Answer | None) -> str:
    return "-" if answer is None else f"{answer.difference:+.3f} ({answer.low:+.3f} to {answer.high:+.3f})"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows))


def write_tables(results: Results, page: Path) -> None:
    """Put every table between its marks; ValueError for a page that lacks one."""
    text = page.read_text(encoding="utf-8")
    for name, maker in TABLES.items():
        mark = MARK.format(name)
        text, n = re.subn(f"({re.escape(mark)}\n).*?({re.escape(END)})",
                          lambda m, maker=maker: f"{m[1]}\n{maker(results)}\n\n{m[2]}", text, flags=re.S)  # fmt: skip
        if n != 1:
            raise ValueError(f"{page} has no {mark} ... {END} to write between")
    write_whole(page, text)


def main() -> int:
    """Draw the figures and write the tables."""
    options = parser(__doc__)
    options.add_argument("--page", type=Path, default=Path("docs/results.md"))
    chosen = options.parse_args()
    results = Results(study_of(chosen))
    for path in draw(results, chosen.results / "figures"):
        print(path)
    write_tables(results, chosen.page)
    print(chosen.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
