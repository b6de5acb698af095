"""`python -m trapo_analysis.study.page`: the study's figures and tables from docs/results/*.csv, without training.

Figures go to docs/results/figures, tables between the marks of docs/results.md; what the tables mean is written there
by hand. Differences are paired by base: Student's t for intervals, the exact sign-flip test for p.
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trapo.files import write_whole
from trapo.plotting import METHOD_COLORS, METHOD_DASHES, METHOD_LABELS, PALETTE, new_figure, save_figure, style
from trapo_evals.stats import compare, holm

from ..seeds import mean_interval
from .runner import Study, parser, study_of

COMMAND = "make figures"
PROBES = ("test", "direct", "facts")
MARK = "<!-- made by: make figures: {} -->"
END = "<!-- end -->"


class Results:
    """The tables of a study, and what is asked of them.

    Args:
        study: whose tables they are; the runs must be there.
    """

    def __init__(self, study: Study):
        self.study, self.runs = study, study.tables.read("runs")
        if not len(self.runs):
            raise ValueError(f"{study.results}/runs.csv has no runs: `make study` makes them")
        self.curves, self.passes = study.tables.read("curves"), study.tables.read("pass_at_k")

    @property
    def cells(self) -> list[str]:
        """The cells with at least one run, in the study's order."""
        there = set(self.runs.cell)
        return [name for name in self.study.cells if name in there]

    def of(self, cell: str) -> pd.DataFrame:
        """A cell's runs by base."""
        return self.runs[self.runs.cell == cell].set_index("base")

    def before(self, probe: str) -> pd.Series:
        """What the bases that the parts share could do before training."""
        shared = {f"some-{seed}" for seed in self.study.plan["bases"]["seeds"]}
        return self.runs[self.runs.base.isin(shared)].drop_duplicates("base")[f"{probe}_before"]

    def differences(self, a: str, b: str, column: str = "test") -> np.ndarray:
        """a minus b on the seeds of bases that both have."""
        left, right = (self.of(cell).set_index("seed")[column] for cell in (a, b))
        common = left.index.intersection(right.index)
        return (left[common] - right[common]).to_numpy()

    def answers(self, pairs: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        """For each pair of cells that are there: a - b with interval, p, p after Holm, and what it says."""
        there = set(self.cells)
        return _verdicts([(a, b, self.differences(a, b)) for a, b in pairs if {a, b} <= there])

    def sharpening(self) -> list[dict[str, Any]]:
        """As `answers`, of pass@k at the largest k against the base's: growth, where it is above."""
        if not len(self.passes):
            return []
        last = self.passes[self.passes.k == self.passes.k.max()].pivot(index="base", columns="cell", values="pass")
        cells = [cell for cell in self.cells if cell in last]
        return _verdicts([(cell, "base", (last[cell] - last["base"]).dropna().to_numpy()) for cell in cells])

    def settings(self, cells: Sequence[str], **more: Any) -> dict[str, Any]:
        """What a figure of these cells says."""
        runs = self.runs[self.runs.cell.isin(cells)]
        alphas = list(dict.fromkeys(None if alpha != alpha else float(alpha) for alpha in runs.alpha))
        rates = runs.groupby("cell")[["learning_rate", "sft_learning_rate"]].first().loc[list(dict.fromkeys(runs.cell))]
        said = {cell: "/".join(f"{rate:g}" for rate in row if rate == rate) for cell, row in rates.iterrows()}
        data = sorted(set(runs.data))
        return {"alpha": alphas, "cells": list(cells), "bases": sorted(set(runs.base)), "data": data,
                "samples": f"{runs.samples.min():.0f} to {runs.samples.max():.0f}", "learning rates": said,
                "intervals": "95% over bases"} | more  # fmt: skip


def _verdicts(gaps: Sequence[tuple[str, str, np.ndarray]]) -> list[dict[str, Any]]:
    """What differences (a, b, a - b on each base) say together; those of fewer than two bases are left out."""
    rows = []
    for a, b, gap in gaps:
        if len(gap) < 2:
            continue
        mean, low, high = mean_interval(gap)
        found = compare(gap, np.zeros_like(gap), seed=0)
        rows.append({"a": a, "b": b, "bases": len(gap), "difference": mean, "low": low, "high": high, "p": found.p}
                    | {"above": found.wins, "detectable": found.detectable})  # fmt: skip
    for row, p in zip(rows, holm([row["p"] for row in rows]) if rows else (), strict=True):
        row |= {"holm": float(p), "says": "can't tell"}
        if p < 0.05 and not row["low"] <= 0 <= row["high"]:
            row["says"] = "above" if row["difference"] > 0 else "below"
    return rows


# ---------------------------------------------------------------- figures


Drawn = tuple[Any, dict[str, Any]] | None


def methods(results: Results) -> Drawn:
    """Accuracy of every method, and what it keeps of what the base could do."""
    cells = _part(results, "methods", "rivals")
    if not cells:
        return None
    fig, axes = new_figure(height=0.7 + 0.19 * (len(cells) + 1), ncols=3, sharey=True)
    for ax, probe in zip(axes, PROBES, strict=True):
        for y, cell in zip(range(len(cells), 0, -1), cells, strict=True):
            _point(ax, results.of(cell)[probe], y, results, cell)
        base = results.before(probe)
        _point(ax, base, 0, results, "base")
        ax.axvline(base.mean(), color=METHOD_COLORS["base"], linewidth=0.8)
        ax.set(title={"test": "test problems"}.get(probe, f"{probe} (forgetting)"), xlim=(-0.02, 1.02))
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(cells) + 1), ["base", *cells[::-1]])
    return fig, results.settings(cells, dots="one per base")


def differences(results: Results) -> Drawn:
    """Every paired difference of the study's questions."""
    groups = {question: results.answers(pairs) for question, pairs in results.study.plan["questions"].items()}
    groups = {question: rows for question, rows in groups.items() if rows}
    if not groups:
        return None
    lines = sum(len(rows) + 1 for rows in groups.values())
    fig, ax = new_figure(height=0.6 + 0.16 * lines)
    y, ticks, labels = lines, [], []
    for question, rows in groups.items():
        ticks, labels, y = [*ticks, y], [*labels, question], y - 1
        for row in rows:
            gap = results.differences(row["a"], row["b"])
            sure = row["says"] != "can't tell"
            ax.plot(gap, [y] * len(gap), "o", color="#BBBBBB", markersize=2)
            ax.plot([row["low"], row["high"]], [y, y], color=PALETTE[0] if sure else "#444444")
            ax.plot(row["difference"], y, "o", color=PALETTE[0] if sure else "#444444")
            ticks, labels, y = [*ticks, y], [*labels, f"{row['a']} - {row['b']}"], y - 1
    ax.axvline(0, color="#444444", linewidth=0.8)
    ax.set_yticks(ticks, labels)
    for label in ax.get_yticklabels():
        if label.get_text() in groups:
            label.set_fontweight("bold")
    ax.set(xlabel="difference of test accuracies, paired by base", ylim=(0.4, lines + 0.6))
    ax.grid(axis="y", visible=False)
    cells = list(dict.fromkeys(row[side] for rows in groups.values() for row in rows for side in "ab"))
    return fig, results.settings(cells, coloured="the interval is free of 0 and Holm's p is below 5%")


def alpha(results: Results) -> Drawn:
    """Accuracy and forgetting along alpha; micro-groups with plain SFT and without imitation at the ends."""
    cells = [cell for cell in (*_part(results, "alpha"), "trapo") if cell in results.cells]
    if len(cells) < 3:
        return None
    cells.sort(key=lambda cell: results.of(cell).alpha.iloc[0])
    fig, ax = new_figure(columns=1, height=2.4)
    x = [results.of(cell).alpha.iloc[0] for cell in cells]
    for color, probe in zip(PALETTE, PROBES, strict=False):
        found = np.array([mean_interval(results.of(cell)[probe]) for cell in cells])
        ax.plot(x, found[:, 0], "o-", color=color, label=probe)
        ax.fill_between(x, found[:, 1], found[:, 2], color=color, alpha=0.15, linewidth=0)
    for cell, at in (("micro-groups", ":"), ("micro-groups-sft", "--")):
        if cell in results.cells:
            ax.axhline(
                results.of(cell).test.mean(), color=PALETTE[0], linestyle=at, linewidth=0.9, label=f"test, {cell}"
            )
    ax.set(xscale="log", xlabel="alpha", ylabel="accuracy", ylim=(0, 1.02))
    ax.set_xticks(x, [f"{value:g}" for value in x])
    ax.minorticks_off()
    ax.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.45, 1.0), fontsize=6.5)
    return fig, results.settings(cells)


def changes(results: Results) -> Drawn:
    """TRAPO with one thing changed: prefixes, the group's mean, wrong experts, bases that do not know the style."""
    cells = [cell for cell in ("trapo", *_part(results, "prefixes", "errors", "style")) if cell in results.cells]
    if len(cells) < 2:
        return None
    fig, axes = new_figure(height=0.7 + 0.19 * len(cells), ncols=3, sharey=True)
    for ax, probe in zip(axes, PROBES, strict=True):
        for y, cell in zip(range(len(cells) - 1, -1, -1), cells, strict=True):
            _point(ax, results.of(cell)[probe], y, results, cell)
        ax.set(title=probe, xlim=(-0.02, 1.02))
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(cells)), cells[::-1])
    return fig, results.settings(cells, dots="one per base")


def learning(results: Results) -> Drawn:
    """Reward, entropy, length and the expert's probability over training."""
    cells = [cell for cell in ("grpo", "sft-then-rl", "trapo", "micro-groups-sft", "micro-groups", "dft", "luffy")
             if cell in results.cells]  # fmt: skip
    if not cells or not len(results.curves):
        return None
    names = {"reward_plain": "reward, plain samples", "entropy": "entropy, nats", "length": "own tokens per sample",
             "expert_p": "p of expert tokens"}  # fmt: skip
    fig, axes = new_figure(height=4.0, nrows=2, ncols=2)
    for ax, (name, label) in zip(axes.flat, names.items(), strict=True):
        for cell in cells:
            mine = results.curves[results.curves.cell == cell].groupby("step")[name]
            if mine.count().sum():
                mean, error = mine.mean(), mine.sem().fillna(0)
                line = {"color": _color(results, cell), "linestyle": METHOD_DASHES.get(cell, "-")}
                ax.plot(mean, label=METHOD_LABELS.get(cell, cell), **line)
                ax.fill_between(mean.index, mean - error, mean + error, color=line["color"], alpha=0.15, linewidth=0)
        ax.set(xlabel="RL step", ylabel=label)
    axes[0, 1].legend(fontsize=5.5, loc="upper right")
    return fig, results.settings(cells, bands="standard error over bases", points="means over 10 steps")


def guided(results: Results) -> Drawn:
    """Share of prompts guided in the second and the last micro-group over training."""
    cells = [cell for cell in results.cells if results.curves[results.curves.cell == cell].guided_3.notna().any()]
    cells = [cell for cell in cells if cell in ("trapo", "micro-groups", "micro-groups-sft", "only-where-all-fail")]
    if not cells:
        return None
    fig, axes = new_figure(height=2.1, ncols=2, sharey=True)
    for ax, name, title in zip(axes, ("guided_1", "guided_3"), ("second micro-group", "last one"), strict=True):
        for color, cell in zip(PALETTE, cells, strict=False):
            mine = results.curves[results.curves.cell == cell].groupby("step")[name].mean()
            ax.plot(mine, color=color, label=cell)
        ax.set(title=title, xlabel="RL step", ylim=(0, 1.02))
    axes[0].set_ylabel("share of prompts guided")
    axes[1].legend()
    return fig, results.settings(cells, points="means over 10 steps and all bases")


def pass_at_k(results: Results) -> Drawn:
    """pass@k of the base and of what was made of it: growth, or sharpening?"""
    table = results.passes
    if not len(table):
        return None
    fig, ax = new_figure(columns=1, height=2.5)
    cells = [cell for cell in ("base", *results.cells) if cell in set(table.cell)]
    for cell in cells:
        wide = table[table.cell == cell].pivot(index="k", columns="base", values="pass")
        found = np.array([mean_interval(row) for row in wide.to_numpy()])
        line = {"color": _color(results, cell), "linestyle": METHOD_DASHES.get(cell, "-")}
        ax.plot(wide.index, found[:, 0], marker="o", label=METHOD_LABELS.get(cell, cell), **line)
        ax.fill_between(wide.index, found[:, 1], found[:, 2], color=line["color"], alpha=0.15, linewidth=0)
    k, answers = np.array(sorted(set(table.k))), results.study.plan["pass_at_k"]["answers"]
    ax.plot(k, 1 - (1 - 1 / answers) ** k, ":", color="#444444", label="guesses")
    ax.set(xlabel="k samples", ylabel="pass@k on test problems", ylim=(0, 1.02))
    ax.set_xscale("log", base=2)
    ax.set_xticks(k, map(str, k))
    ax.minorticks_off()
    ax.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.45, 1.0), fontsize=6.5)
    asked = {"questions": int(table.questions.iloc[0]), "samples of each": int(table["samples"].iloc[0])}
    return fig, results.settings([cell for cell in cells if cell != "base"], temperature=1, **asked)


def cost(results: Results) -> Drawn:
    """Accuracy against what it took, in both budget views and in tokens."""
    cells = _part(results, "methods", "rivals")
    if not cells:
        return None
    table = results.runs[results.runs.cell.isin(cells)].groupby("cell").mean(numeric_only=True).loc[cells]
    views = {"samples": table.samples, "samples + distinct demonstrations": table.samples + table.demonstrations,
             "tokens drawn, thousands": (table.drawn_tokens + table.aborted_tokens) / 1e3,
             "tokens updated, thousands": table.update_tokens / 1e3,
             "seconds (shared machine)": table.seconds}  # fmt: skip
    fig, axes = new_figure(height=4.6, nrows=2, ncols=3)
    *axes, names = axes.flat
    marks = "os^vDP*Xph<>"
    for ax, (label, x) in zip(axes, views.items(), strict=True):
        for i, cell in enumerate(cells):
            hollow = {"markerfacecolor": "none"} if i // len(marks) % 2 else {}  # cells of one colour may share a mark
            color = _color(results, cell)
            ax.plot(x[cell], table.test[cell], marks[i % len(marks)], color=color, label=cell, **hollow)
        ax.set(xlabel=label)
        ax.set_xlim(left=0)
        ax.margins(x=0.1)
        ax.set(ylabel="test accuracy, mean over bases", ylim=(0, 1.02))
    names.axis("off")
    names.legend(*axes[0].get_legend_handles_labels(), loc="center", fontsize=5.5, ncols=2, columnspacing=0.8)
    return fig, results.settings(cells)


def better(results: Results) -> Drawn:
    """The ideas where they were screened; those that went on, beside the best so far, on fresh bases."""
    tried, cells = results.study.tables.read("ideas"), _part(results, "better")
    if not len(tried) or not cells:
        return None
    ideas = [cell.name for cell in results.study.ideas if cell.name in set(tried.cell)]
    fig, axes = new_figure(height=0.7 + 0.19 * max(len(ideas), len(cells)), ncols=2)
    for y, name in enumerate(reversed(ideas)):
        _point(axes[0], tried[tried.cell == name].tune, y, results, name)
    for y, name in enumerate(reversed(cells)):
        _point(axes[1], results.of(name).test, y, results, name)
    titles = ("ideas, problems of the split tune", "confirmed on fresh bases, test problems")
    for ax, names, title in zip(axes, (ideas, cells), titles, strict=True):
        ax.set_yticks(range(len(names)), names[::-1])
        ax.set(title=title, xlim=(-0.02, 1.02))
        ax.grid(axis="y", visible=False)
    return fig, results.settings(cells, dots="one per base", screened=sorted(set(tried.base)))


FIGURES: dict[str, Callable[[Results], Drawn]] = {
    drawer.__name__: drawer
    for drawer in (methods, differences, alpha, changes, learning, guided, pass_at_k, cost, better)
}


def _part(results: Results, *parts: str) -> list[str]:
    return [cell for cell in results.cells if results.study.cells[cell].part in parts]


def _color(results: Results, cell: str) -> str:
    known = {found.name: found.recipe for found in (*results.study.cells.values(), *results.study.ideas)}
    recipe = known.get(cell, cell)
    return METHOD_COLORS.get(cell) or METHOD_COLORS.get(recipe) or PALETTE[-1]


def _point(ax, values: pd.Series, y: int, results: Results, cell: str) -> None:
    """Each base as a dot, their mean with its interval."""
    mean, low, high = mean_interval(values)
    ax.plot(values, [y] * len(values), "o", color="#BBBBBB", markersize=2)
    ax.plot([low, high], [y, y], color=_color(results, cell))
    ax.plot(mean, y, "o", color=_color(results, cell))


def draw(results: Results, out: Path) -> list[Path]:
    """All figures that the tables can give; their PNGs."""
    made = []
    with style():
        for name, drawer in FIGURES.items():
            if (found := drawer(results)) is not None:
                figure, settings = found
                made.append(save_figure(figure, out / f"{name}.png", settings, COMMAND)[0])
    return made


# ---------------------------------------------------------------- tables


def accuracy_table(results: Results) -> str:
    """Every cell: accuracies with intervals, and what they cost."""
    columns = ("cell", "alpha", "rates", "bases", *PROBES, "samples", "demonstrations", "ktokens drawn",
               "ktokens updated", "s")  # fmt: skip
    before = [results.before(probe) for probe in PROBES]
    lines = [_row(["base", "-", "-", str(len(before[0])), *map(_mean, before), *["0"] * 5])]
    for cell in results.cells:
        runs = results.of(cell)
        first, mean = runs.iloc[0], runs.mean(numeric_only=True)
        rates = [f"{rate:.1e}" for rate in (first.sft_learning_rate, first.learning_rate) if rate == rate]
        lines.append(_row([
            cell, "-" if first.alpha != first.alpha else f"{first.alpha:g}", " / ".join(rates), str(len(runs)),
            *(_mean(runs[probe]) for probe in PROBES), f"{mean.samples:.0f}", f"{mean.demonstrations:.0f}",
            f"{(mean.drawn_tokens + mean.aborted_tokens) / 1e3:.0f}", f"{mean.update_tokens / 1e3:.0f}",
            f"{mean.seconds:.0f}",
        ]))  # fmt: skip
    return "\n".join([_row(columns), _row(["---"] * len(columns)), *lines])


def question_tables(results: Results) -> str:
    """A table of paired differences for each question that can be answered so far."""
    questions = results.study.plan["questions"].items()
    return "\n\n".join(f"**{question}**\n\n{_answers(rows)}" for question, pairs in questions
                       if (rows := results.answers(pairs)))  # fmt: skip


def pass_table(results: Results) -> str:
    """pass@k of each cell, and at the largest k against its base."""
    if not len(results.passes):
        return "Not drawn yet."
    table = results.passes.pivot_table(index="cell", columns="k", values=["pass", "base"],
                                       aggfunc={"pass": "mean", "base": "count"})  # fmt: skip
    ks, cells = sorted(set(results.passes.k)), [cell for cell in ("base", *results.cells) if cell in table.index]
    lines = [_row([cell, str(table["base"][ks[-1]][cell]), *(f"{table['pass'][k][cell]:.3f}" for k in ks)])
             for cell in cells]  # fmt: skip
    columns = ("cell", "bases", *(f"pass@{k}" for k in ks))
    means = "\n".join([_row(columns), _row(["---"] * len(columns)), *lines])
    return f"{means}\n\nAt k = {ks[-1]}, paired by base:\n\n{_answers(results.sharpening())}"


def _answers(rows: Sequence[dict[str, Any]]) -> str:
    """Paired differences as a table."""
    columns = ("a - b", "difference", "95%", "bases above", "p", "p (Holm)", "detectable", "a is")
    return "\n".join([_row(columns), _row(["---"] * len(columns)), *map(_answer, rows)])


def _answer(row: dict[str, Any]) -> str:
    return _row([
        f"{row['a']} - {row['b']}", f"{row['difference']:+.3f}", f"{row['low']:+.3f} to {row['high']:+.3f}",
        f"{row['above']} of {row['bases']}", f"{row['p']:.3f}", f"{row['holm']:.3f}", f"{row['detectable']:.3f}",
        row["says"],
    ])  # fmt: skip


def tuning_table(results: Results) -> str:
    """Every trial of a learning rate."""
    table, chosen = results.study.tables.read("tuning"), results.study.chosen()
    lines = []
    for recipe in results.study.tuned_recipes():
        mine = table[table.recipe == recipe] if len(table) else table
        phases = [mine[mine.phase == phase] if len(mine) else mine for phase in ("screen", "full")]
        cells = ["; ".join(f"{row.rate:g}: {row.tune:.3f}" for row in phase.itertuples()) for phase in phases]
        lines.append(_row([recipe, *cells, f"{chosen[recipe]:g}" if recipe in chosen else ""]))
    columns = ("recipe", "screen (base 0, 40 steps)", "full length (base 9)", "chosen")
    return "\n".join([_row(columns), _row(["---"] * len(columns)), *lines])


def ideas_table(results: Results) -> str:
    """What was tried in search of something better, base by base."""
    table = results.study.tables.read("ideas")
    if not len(table):
        return "Not screened yet."
    bases = sorted(set(table.base))
    columns = ("idea", "recipe", "flags", *(f"tune, {base}" for base in bases), "mean", "direct", "facts")
    lines = []
    for cell in results.study.ideas:
        mine = table[table.cell == cell.name].set_index("base")
        if len(mine):
            each = [f"{mine.tune[base]:.3f}" if base in mine.index else "-" for base in bases]
            means = [f"{mine[name].mean():.3f}" for name in ("tune", "direct", "facts")]
            lines.append(_row([cell.name, cell.recipe, cell.flags and f"`{cell.flags}`", *each, *means]))
    return "\n".join([_row(columns), _row(["---"] * len(columns)), *lines])


TABLES = {
    "accuracies": accuracy_table,
    "questions": question_tables,
    "pass@k": pass_table,
    "ideas": ideas_table,
    "tuning": tuning_table,
}


def _mean(values: pd.Series) -> str:
    mean, low, high = mean_interval(values)
    return f"{mean:.3f}" if low != low else f"{mean:.3f} ({max(low, 0):.3f} to {min(high, 1):.3f})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


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
