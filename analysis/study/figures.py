"""The study's figures, drawn from its tables; what is along training is in `.curves`.

Cells are compared base by base: a figure that compares shows paired differences with their intervals, and one that
shows accuracies shows every base. An interval of a cell's own accuracies is mostly the spread of the bases, which a
comparison does not feel.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trapo.plotting import PALETTE, new_figure, save_figure, style
from trapo.runs.intervals import mean_interval

from . import curves
from .results import PROBES, READINGS, Results

COMMAND = "make figures"
SURE, UNSURE = PALETTE[0], "#666666"
DOT = "#B5B5B5"
LOWER, UPPER = -0.03, 1.03  # of axes of accuracies

Drawn = tuple[Any, dict[str, Any]] | None


def methods(results: Results) -> Drawn:
    """Accuracy of every method on every base, its paired difference to TRAPO, and what it keeps of the base's
    skills."""
    cells = results.part("methods", "rivals")
    if "trapo" not in cells:
        return None
    cells.sort(key=lambda cell: results.of(cell).test.mean())
    fig, axes = new_figure(height=0.75 + 0.19 * len(cells), ncols=4, sharey=True, width_ratios=(1.2, 1, 1, 1))
    for y, cell in enumerate(cells):
        runs, color = results.of(cell), curves.color(results, cell)
        _dots(axes[0], runs.test, y)
        axes[0].plot(runs.test.mean(), y, "D", color=color)
        if cell != "trapo":
            _interval(axes[1], results.differences(cell, "trapo"), y, color)
        for ax, probe in zip(axes[2:], PROBES[1:], strict=True):
            _interval(ax, runs[probe] - runs[f"{probe}_before"], y, color)
    axes[0].set(xlabel="accuracy on test, last step", xlim=(LOWER, UPPER))
    axes[1].set(xlabel="minus TRAPO, paired")
    for ax, probe in zip(axes[2:], PROBES[1:], strict=True):
        ax.set(xlabel=f"{probe} minus before")
    for ax in axes[1:]:
        ax.axvline(0, color="#444444", linewidth=0.8)
    _named_rows(axes, cells)
    return fig, results.settings(cells, dots="one per base", diamonds="means", lines="paired 95%, Student's t")


def differences(results: Results) -> Drawn:
    """Every paired difference of the registered questions, along training and at the last step."""
    groups = {question.text: {reading: results.answers(question, reading) for reading in READINGS}
              for question in results.questions if question.registered}  # fmt: skip
    groups = {text: found for text, found in groups.items() if found["last"]}
    if not groups:
        return None
    lines = sum(len(found["last"]) + 1 for found in groups.values())
    fig, axes = new_figure(height=0.65 + 0.155 * lines, ncols=2, sharey=True, sharex=True)
    y, ticks, labels = lines, [], []
    for text, found in groups.items():
        ticks, labels, y = [*ticks, y], [*labels, text], y - 1
        for answer in found["last"]:
            curve = next((one for one in found["curve"] if (one.a, one.b) == (answer.a, answer.b)), None)
            for ax, one in zip(axes, (curve, answer), strict=True):
                if one is not None:
                    _dots(ax, one.gaps, y)
                    tint = SURE if one.says in ("above", "below") else UNSURE
                    ax.plot([one.low, one.high], [y, y], color=tint)
                    ax.plot(one.difference, y, "o", color=tint)
            ticks, labels, y = [*ticks, y], [*labels, f"{answer.a} - {answer.b}"], y - 1
    for ax, title in zip(axes, ("mean of the curve", "last step (registered)"), strict=True):
        ax.axvline(0, color="#444444", linewidth=0.8)
        ax.set(title=title, ylim=(0.4, lines + 0.6))
        ax.grid(axis="y", visible=False)
    fig.supxlabel("difference of accuracies, paired by base", fontsize=7)
    axes[0].set_yticks(ticks, labels, fontsize=6)
    for label in axes[0].get_yticklabels():
        if label.get_text() in groups:
            label.set_fontweight("bold")
    cells = list(
        dict.fromkeys(one[i] for pairs in results.study.plan["questions"].values() for one in pairs for i in (0, 1))
    )
    said = "told by the rule: 95% free of 0, and Holm's p of the sign-flip test below 5%"
    return fig, results.settings([c for c in cells if c in results.cells], blue=said, dots="one per base")


def heat(results: Results) -> Drawn:
    """Every cell on every base: the mean of its training curve, and the last step."""
    cells = [cell for cell in results.cells if results.study.cells[cell].seeds == "seeds"]
    if not cells:
        return None
    last = pd.DataFrame({cell: results.of(cell).set_index("seed").test for cell in cells})
    along = pd.DataFrame({c: results.curve_mean(c, results.covered(c)) for c in cells if len(results.curve(c)[1])})
    order = last.mean().sort_values(ascending=False).index
    fig, axes = new_figure(height=0.6 + 0.15 * len(order), ncols=2, sharey=True)
    titles = ("mean of the training curve", "last step, problems of test")
    for ax, table, title in zip(axes, (along, last), titles, strict=True):
        grid = table.reindex(columns=order).T.to_numpy()
        shown = ax.imshow(grid, aspect="auto", cmap="cividis", vmin=0, vmax=1)
        for (i, j), value in np.ndenumerate(grid):
            if value == value:
                ink = "black" if value > 0.55 else "white"
                ax.text(j, i, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize=5, color=ink)
        ax.set_xticks(range(len(last)), [str(seed) for seed in last.index])
        ax.set(title=title, xlabel="base (and training seed)")
        ax.grid(visible=False)
    axes[0].set_yticks(range(len(order)), order, fontsize=6)
    fig.colorbar(shown, ax=axes, shrink=0.5, aspect=40, label="accuracy")
    return fig, results.settings(cells, empty="no RL stage, so no curve")


def rates(results: Results) -> Drawn:
    """Every trial of a learning rate: accuracy on tune along the rate, in the screen and at full length."""
    table, chosen = results.study.tables.read("tuning"), results.study.chosen()
    recipes = [recipe for recipe in results.study.tuned_recipes() if len(table) and recipe in set(table.recipe)]
    if not recipes:
        return None
    columns = 5
    fig, axes = new_figure(height=0.5 + 1.05 * -(-len(recipes) // columns), ncols=columns, sharey=True,
                           nrows=-(-len(recipes) // columns), squeeze=False)  # fmt: skip
    looks = {"screen": ("#888888", "--", "40 steps, base 0"), "full": (SURE, "-", "full length, base 9")}
    for ax, recipe in zip(axes.flat, recipes, strict=False):
        for phase, (tint, dashes, _) in looks.items():
            mine = table[(table.recipe == recipe) & (table.phase == phase)].sort_values("rate")
            ax.plot(mine.rate, mine.tune, dashes, marker="o", color=tint)
            if phase == "full" and recipe in chosen:
                best = mine[mine.rate == chosen[recipe]]
                ax.plot(best.rate, best.tune, "o", markersize=8, markerfacecolor="none", color=PALETTE[3])
        tried = sorted(set(table[table.recipe == recipe].rate))
        ax.set_xscale("log")
        ax.set_xticks(tried, [f"{rate * 1e4:g}" for rate in tried])
        ax.minorticks_off()
        ax.set_title(recipe, fontsize=6.5)
        ax.set(xlim=(tried[0] / 1.6, tried[-1] * 1.6), ylim=(LOWER, UPPER))
    for ax in axes.flat[len(recipes) :]:
        ax.axis("off")
    fig.supxlabel("learning rate, 1e-4", fontsize=7)
    fig.supylabel("accuracy on tune, last step", fontsize=7)
    _legend(fig, [(tint, dashes, label) for tint, dashes, label in looks.values()])
    return fig, {"alpha": [0.1, None], "ring": "the rate that was taken", "samples": 800, "recipes": recipes}


def alpha(results: Results) -> Drawn:
    """Accuracy and forgetting along alpha, base by base; what micro-groups do with plain SFT and without imitation."""
    cells = [cell for cell in (*results.part("alpha"), "trapo") if cell in results.cells]
    if len(cells) < 3:
        return None
    cells.sort(key=lambda cell: results.of(cell).alpha.iloc[0])
    x = [results.of(cell).alpha.iloc[0] for cell in cells]
    fig, axes = new_figure(height=2.3, ncols=3, sharey=True)
    for ax, tint, probe in zip(axes, PALETTE, PROBES, strict=False):
        table = np.array([results.of(cell).set_index("seed")[probe] for cell in cells])  # (cells, bases)
        ax.plot(x, table, "-", color=DOT, linewidth=0.7)
        ax.plot(x, table.mean(1), "D-", color=tint)
        ax.set(xscale="log", xlabel="alpha", title=f"{probe}", ylim=(LOWER, UPPER))
        ax.set_xticks(x, [f"{value:g}".lstrip("0") for value in x])
        ax.minorticks_off()
    axes[0].set_ylabel("accuracy, last step")
    return fig, results.settings(cells, lines="one per base", diamonds="means over bases")


def changes(results: Results) -> Drawn:
    """TRAPO with one thing changed, minus TRAPO on the same base: accuracy along training and at its end,
    forgetting."""
    cells = [cell for cell in results.part("prefixes", "errors", "rate")
             if results.study.cells[cell].recipe == "trapo"]  # fmt: skip
    if not cells or "trapo" not in results.cells:
        return None
    fig, axes = new_figure(height=0.75 + 0.2 * len(cells), ncols=4, sharey=True)
    views = (("test", "curve"), ("test", "last"), ("direct", "last"), ("facts", "last"))
    for ax, (probe, reading) in zip(axes, views, strict=True):
        for y, cell in enumerate(reversed(cells)):
            gap = results.differences(cell, "trapo", probe, reading)
            _dots(ax, gap, y)
            _interval(ax, gap, y, PALETTE[y % len(PALETTE)])
        ax.axvline(0, color="#444444", linewidth=0.8)
        ax.set(
            title=f"{probe}, {'training curve' if reading == 'curve' else 'last step'}", xlabel="minus TRAPO, paired"
        )
    _named_rows(axes, cells[::-1])
    return fig, results.settings(["trapo", *cells], dots="one per base", lines="95%, Student's t over bases")


def cost(results: Results) -> Drawn:
    """Accuracy against what it took, in both budget views and in tokens; a row per method."""
    cells = results.part("methods", "rivals")
    if not cells:
        return None
    table = results.runs[results.runs.cell.isin(cells)].groupby("cell").mean(numeric_only=True).loc[cells]
    views = {"samples drawn": table.samples, "samples + distinct demonstrations": table.samples + table.demonstrations,
             "tokens drawn, thousands": (table.drawn_tokens + table.aborted_tokens) / 1e3,
             "tokens updated, thousands": table.update_tokens / 1e3,
             "seconds of a run (shared machine)": table.seconds}  # fmt: skip
    fig, axes = new_figure(height=5.2, nrows=2, ncols=3)
    *axes, names = axes.flat
    marks = "os^vDP*Xph<>"
    for ax, (label, x) in zip(axes, views.items(), strict=True):
        for i, cell in enumerate(cells):
            hollow = {"markerfacecolor": "none"} if i // len(marks) % 2 else {}
            tint = curves.color(results, cell)
            ax.plot(x[cell], table.test[cell], marks[i % len(marks)], color=tint, label=cell, markersize=5, **hollow)
        ax.set(xlabel=label, ylim=(LOWER, 0.7), xlim=(-0.05 * x.max(), 1.1 * x.max()))
    for ax in axes[::3]:
        ax.set_ylabel("accuracy on test, mean over bases")
    names.axis("off")
    names.legend(*axes[0].get_legend_handles_labels(), loc="center", fontsize=5.5, ncols=2, columnspacing=0.8)
    return fig, results.settings(cells, points="means over bases at the last step")


def better(results: Results) -> Drawn:
    """The ideas where they were screened; those that went on, along training and at the last step, on fresh bases."""
    tried, cells = results.study.tables.read("ideas"), results.part("better")
    if not len(tried) or not cells:
        return None
    ideas = [cell.name for cell in results.study.ideas if cell.name in set(tried.cell)]
    fig, axes = new_figure(height=0.75 + 0.2 * max(len(ideas), len(cells)), ncols=3)
    values = {
        "screened: problems of tune": {name: tried[tried.cell == name].tune for name in ideas},
        "fresh bases, training curve": {name: results.curve_mean(name, results.covered(name)) for name in cells},
        "fresh bases, last step": {name: results.of(name).test for name in cells},
    }
    for ax, (title, found) in zip(axes, values.items(), strict=True):
        for y, (name, mine) in enumerate(reversed(found.items())):
            _dots(ax, mine, y)
            ax.plot(mine.mean(), y, "D", color=curves.color(results, name))
        ax.set_yticks(range(len(found)), [name.removesuffix("-fresh") for name in reversed(found)])
        ax.set(title=title, xlim=(LOWER, UPPER), xlabel="accuracy")
        ax.grid(axis="y", visible=False)
    axes[2].set_yticklabels([])
    return fig, results.settings(cells, dots="one per base", diamonds="means", screened=sorted(set(tried.base)))


FIGURES: dict[str, Callable[[Results], Drawn]] = {
    drawer.__name__: drawer
    for drawer in (curves.bases, differences, heat, methods, curves.by_method, curves.tokens, curves.learning, alpha,
                   changes, rates, curves.guided, curves.pass_at_k, cost, better)
}  # fmt: skip


def _dots(ax, values: Sequence[float], y: float) -> None:
    """Each base as a dot."""
    ax.plot(values, [y] * len(values), "o", color=DOT, markersize=2)


def _interval(ax, gap: Sequence[float], y: float, tint: str) -> None:
    """The mean of differences with Student's 95% interval."""
    mean, low, high = mean_interval(gap)
    ax.plot([low, high], [y, y], color=tint)
    ax.plot(mean, y, "D", color=tint)


def _named_rows(axes, cells: Sequence[str]) -> None:
    axes[0].set_yticks(range(len(cells)), cells)
    axes[0].set_ylim(-0.6, len(cells) - 0.4)
    for ax in axes:
        ax.grid(axis="y", visible=False)


def _legend(fig, looks: Sequence[tuple[str, str, str]]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=tint, linestyle=dashes, marker="o", label=label) for tint, dashes, label in looks]
    fig.legend(handles=handles, loc="outside upper left", ncols=len(handles))


def draw(results: Results, out: Path) -> list[Path]:
    """All figures that the tables can give; their PNGs."""
    made = []
    with style():
        for name, drawer in FIGURES.items():
            if (found := drawer(results)) is not None:
                figure, settings = found
                made.append(save_figure(figure, out / f"{name}.png", settings, COMMAND)[0])
    return made
