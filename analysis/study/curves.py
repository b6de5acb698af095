"""The study's figures of what happens along training: per base, per method, along samples, tokens and FLOPs."""

from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from trapo.plotting import METHOD_COLORS, METHOD_DASHES, METHOD_LABELS, PALETTE, label_ends, new_figure

from .costs import along
from .results import Results

MAIN = ("trapo", "micro-groups-dft", "dft", "sft-then-rl", "grpo", "grpo-clip-higher")
UPPER, LOWER = 1.03, -0.03
PER_ROW = 4
TOKENS = "thousand tokens, drawn and updated"
WORKED_OUT = "tokens within a run worked out from bin lengths and the run's exact totals"

Drawn = tuple[Any, dict[str, Any]] | None


def bases(results: Results) -> Drawn:
    """Each base by itself: the training curve of the main methods along tokens."""
    cells = _there(results, MAIN)
    seeds = results.study.plan["bases"]["seeds"]
    if len(cells) < 2:
        return None
    rows = -(-len(seeds) // PER_ROW)
    fig, axes = new_figure(height=0.6 + 1.35 * rows, nrows=rows, ncols=PER_ROW, sharex=True, sharey=True, squeeze=False)
    found = {cell: along(results, cell) for cell in cells}
    for ax, seed in zip(axes.flat, seeds, strict=False):
        for cell in cells:
            tokens, _, rewards = found[cell]
            if seed in tokens.index:
                ax.plot(tokens.loc[seed] / 1e3, rewards.loc[seed], **_line(results, cell), linewidth=1.1)
        ax.set_title(f"base {seed}", fontsize=7)
    axes[0, 0].set(ylim=(LOWER, UPPER), xlim=(0, None))
    for ax in axes.flat[len(seeds) :]:
        ax.axis("off")
    fig.supxlabel(TOKENS, fontsize=7)
    fig.supylabel("reward of plain samples, 10-step means", fontsize=7)
    handles = [Line2D([], [], label=METHOD_LABELS.get(cell, cell), **_line(results, cell)) for cell in cells]
    fig.legend(handles=handles, loc="outside upper left", ncols=len(handles), fontsize=6, columnspacing=1)
    return fig, results.settings(cells, note=WORKED_OUT)


def by_method(results: Results) -> Drawn:
    """Each method by itself: a training curve per base along the budget, and their mean."""
    cells = [cell for cell in results.part("methods", "rivals") if len(results.curve(cell)[1])]
    if not cells:
        return None
    columns = 5
    rows = -(-len(cells) // columns)
    fig, axes = new_figure(height=0.5 + 1.05 * rows, nrows=rows, ncols=columns, sharex=True, sharey=True, squeeze=False)
    for ax, cell in zip(axes.flat, cells, strict=False):
        edges, wide = results.curve(cell)
        middle = (edges[1:] + edges[:-1]) / 2
        ax.plot(middle, wide.T.to_numpy(), color="#B5B5B5", linewidth=0.7)
        ax.plot(middle, wide.mean(), color=color(results, cell), linewidth=1.8)
        ax.set_title(cell, fontsize=6.5)
        ax.set(xlim=(0, 1), ylim=(LOWER, UPPER))
        ax.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
    for ax in axes.flat[len(cells) :]:
        ax.axis("off")
    fig.supxlabel("share of the budget of 6,400 samples", fontsize=7)
    fig.supylabel("reward of plain samples", fontsize=7)
    return fig, results.settings(cells, grey="one line per base", coloured="their mean", points="means over 10 steps")


def tokens(results: Results) -> Drawn:
    """The mean training curve of the main methods along tokens and along FLOPs."""
    cells = _there(results, (*MAIN, "bread", "micro-groups-chord"))
    if len(cells) < 2:
        return None
    fig, axes = new_figure(height=2.8, ncols=2, sharey=True)
    units = ((TOKENS, 1e3), ("TFLOP: 2 N per token drawn, 6 N per token updated", 1e12))
    for i, (ax, (label, unit)) in enumerate(zip(axes, units, strict=True)):
        ends = {}
        for cell in cells:
            found = along(results, cell)
            x, y = found[i].mean() / unit, found[2].mean()
            ax.plot(x, y, **_line(results, cell))
            ax.plot(x.iloc[-1], y.iloc[-1], "o", color=color(results, cell))
            ends[METHOD_LABELS.get(cell, cell)] = (x.iloc[-1], y.iloc[-1], color(results, cell))
        ax.set(xlabel=label, xlim=(0, None), ylim=(0, 0.7))
        if i:
            label_ends(ax, ends)
    axes[0].set_ylabel("reward of plain samples, mean over bases")
    return fig, results.settings(cells, note=WORKED_OUT, N="173,952 parameters")


def learning(results: Results) -> Drawn:
    """Reward, entropy, length and the expert's probability over training, means over bases."""
    cells = _there(results, ("grpo", "sft-then-rl", "trapo", "micro-groups-sft", "micro-groups", "dft", "luffy"))
    if not cells:
        return None
    names = {"reward_plain": "reward, plain samples", "entropy": "entropy, nats per token",
             "length": "own tokens per sample", "expert_p": "mean p of the expert's tokens"}  # fmt: skip
    fig, axes = new_figure(height=4.3, nrows=2, ncols=2)
    for ax, (name, label) in zip(axes.flat, names.items(), strict=True):
        ends = {}
        for cell in cells:
            mean = results.curves[results.curves.cell == cell].groupby("step")[name].mean().dropna()
            if len(mean):
                ax.plot(mean, **_line(results, cell))
                ends[METHOD_LABELS.get(cell, cell)] = (mean.index[-1], mean.iloc[-1], color(results, cell))
        ax.set(xlabel="RL step", ylabel=label, xlim=(0, 100))
        if name != "expert_p":  # all near .8: on an axis from 0 they are one line
            ax.set_ylim(bottom=0)
        label_ends(ax, ends, 5.5)
    return fig, results.settings(cells, lines="means over bases of means over 10 steps")


def guided(results: Results) -> Drawn:
    """Share of prompts guided in the second and the last micro-group over training, a panel per method."""
    cells = _there(results, ("trapo", "only-where-all-fail", "micro-groups", "micro-groups-sft"))
    cells = [cell for cell in cells if results.curves[results.curves.cell == cell].guided_3.notna().any()]
    if not cells:
        return None
    fig, axes = new_figure(height=1.9, ncols=len(cells), sharey=True, squeeze=False)
    for ax, cell in zip(axes[0], cells, strict=True):
        mine = results.curves[results.curves.cell == cell].groupby("step")[["guided_1", "guided_3"]].mean()
        for name, tint, dashes in (("guided_1", PALETTE[1], "-"), ("guided_3", PALETTE[0], "--")):
            ax.plot(mine[name], color=tint, linestyle=dashes)
        ax.set(title=cell, xlabel="RL step", ylim=(LOWER, UPPER))
    axes[0, 0].set_ylabel("share of prompts guided")
    looks = (("second micro-group", PALETTE[1], "-"), ("last one", PALETTE[0], "--"))
    handles = [Line2D([], [], label=label, color=tint, linestyle=dashes) for label, tint, dashes in looks]
    fig.legend(handles=handles, loc="outside upper left", ncols=2)
    return fig, results.settings(cells, points="means over 10 steps and all bases")


def pass_at_k(results: Results) -> Drawn:
    """pass@k of the base and of what was made of it, a panel per method: growth, or sharpening?"""
    table = results.passes
    cells = [cell for cell in results.cells if len(table) and cell in set(table.cell)]
    if not cells:
        return None
    fig, axes = new_figure(height=2.2, ncols=len(cells), sharey=True, squeeze=False)
    k = np.array(sorted(set(table.k)))
    wide = {
        cell: table[table.cell == cell].pivot(index="k", columns="base", values="pass") for cell in ("base", *cells)
    }
    guesses = 1 - (1 - 1 / results.study.plan["pass_at_k"]["answers"]) ** k
    for ax, cell in zip(axes[0], cells, strict=True):
        ax.plot(k, wide[cell], color="#CCCCCC", linewidth=0.7)
        ax.plot(k, wide["base"].mean(axis=1), ":", color="#444444")
        ax.plot(k, guesses, "--", color="#999999", linewidth=0.9)
        ax.plot(k, wide[cell].mean(axis=1), "D-", color=color(results, cell))
        ax.set(title=METHOD_LABELS.get(cell, cell), xlabel="k samples", ylim=(LOWER, UPPER))
        ax.set_xscale("log", base=2)
        ax.set_xticks(k[::2], map(str, k[::2]))
        ax.minorticks_off()
    axes[0, 0].set_ylabel("pass@k on problems of test")
    looks = (("mean over bases", "#000000", "-"), ("each base", "#CCCCCC", "-"), ("before training", "#444444", ":"),
             ("guessing", "#999999", "--"))  # fmt: skip
    handles = [Line2D([], [], label=label, color=tint, linestyle=dashes) for label, tint, dashes in looks]
    fig.legend(handles=handles, loc="outside upper left", ncols=4)
    asked = {"questions": int(table.questions.iloc[0]), "samples of each": int(table["samples"].iloc[0])}
    return fig, results.settings(cells, temperature=1, **asked)


def color(results: Results, cell: str) -> str:
    """The colour of a cell: its own, or its recipe's."""
    known = {found.name: found.recipe for found in (*results.study.cells.values(), *results.study.ideas)}
    return METHOD_COLORS.get(cell) or METHOD_COLORS.get(known.get(cell, cell)) or PALETTE[-1]


def _line(results: Results, cell: str) -> dict[str, Any]:
    return {"color": color(results, cell), "linestyle": METHOD_DASHES.get(cell, "-")}


def _there(results: Results, cells: tuple[str, ...]) -> list[str]:
    """Those of these cells that have a curve."""
    return [cell for cell in cells if cell in results.cells and len(results.curve(cell)[1])]
