"""Figures of an evaluation, and of several beside each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trapo.plotting import METHOD_COLORS, PALETTE, new_figure, save_figure, style

from .folder import EvalFolder

SHOWN = ("temperature", "top_p", "top_k", "min_p", "template", "seed", "engine", "dtype")
OVERLAID = 4  # curves with bands in one panel that can still be told apart


def draw(folder: EvalFolder) -> list[Path]:
    """All figures of a finished evaluation, into its folder; the PNGs' paths."""
    record = folder.finished()
    with style():
        return [bars([record], folder.path), *_curves(record, folder.path), lengths(folder, record)]


def draw_comparison(records: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], folder: Path, command: str):
    """Accuracies beside each other, and differences with their intervals."""
    with style():
        bars(records, folder, command)
        fig, axes = new_figure(columns=1, height=0.7 + 0.25 * len(rows))
        places = range(len(rows), 0, -1)
        for y, row in zip(places, rows, strict=True):
            color = colors_of(records)[row["evaluation"]]
            low, high = ("low", "high") if len(rows) == 1 else ("all low", "all high")
            axes.plot([row[low], row[high]], [y, y], color=color, linewidth=1.2)
            axes.plot(row["difference"], y, "o", color=color)
        axes.axvline(0, color="#444444", linewidth=0.8)
        of = [records[row["evaluation"]]["model"]["label"] for row in rows]
        if len(records) > 2:
            of = [f"{name} - {records[row['first']]['model']['label']}" for name, row in zip(of, rows, strict=True)]
        labels = [f"{name}\n{row['benchmark']}" for name, row in zip(of, rows, strict=True)]
        axes.set_yticks(list(places), labels)
        axes.set_ylim(0.4, len(rows) + 0.6)
        axes.grid(axis="y", visible=False)
        axes.locator_params(axis="x", nbins=5)
        # Two lines that end where the axes do: long labels at the left leave little room.
        other = records[0]["model"]["label"] if len(records) == 2 else "the other"
        held = "95%, paired" if len(rows) == 1 else "95% all at once, paired"
        axes.set_xlabel(f"avg@n minus that of\n{other} ({held})", loc="right")
        save_figure(fig, folder / "differences.png", settings_of(records), command)


def colors_of(records: Sequence[dict[str, Any]]) -> list[str]:
    """The methods' own colours where all are methods and differ, else a palette's."""
    methods = [METHOD_COLORS.get(record["model"]["run"].get("recipe") or "base") for record in records]
    if None not in methods and len(set(methods)) == len(methods):
        return methods
    return [PALETTE[i % len(PALETTE)] for i in range(len(records))]


def settings_of(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a figure of these evaluations says: alpha, models, and everything that was set."""
    found = {"alpha": [record["model"]["alpha"] for record in records]}
    found["model"] = [f"{record['model']['label']} ({record['model']['content']})" for record in records]
    found["run"] = [_run(record) for record in records]
    for name in SHOWN:
        values = [record["settings"][name] for record in records]
        found[name] = values[0] if len(set(values)) == 1 else values
    sizes = {
        name: f"{data['questions']} x {data['samples']}, {data['max_tokens']} tokens at most"
        for name, data in records[0]["data"].items()
    }
    found = {k: v[0] if isinstance(v, list) and len(v) == 1 else v for k, v in found.items()}
    return found | {"benchmarks": sizes}


def command_of(record: dict[str, Any]) -> str:
    """The command that made an evaluation."""
    import shlex

    return shlex.join(record["environment"]["command"])


def _run(record: dict[str, Any]) -> str | None:
    run = record["model"]["run"]
    return f"{run['recipe']} on {run['data']}" if run else None


def bars(records: Sequence[dict[str, Any]], folder: Path, command: str | None = None) -> Path:
    """Accuracy of each benchmark with its 95% interval, the evaluations beside each other."""
    names = [name for name in records[0]["results"] if all(name in record["results"] for record in records)]
    width, colors = 0.8 / len(records), colors_of(records)
    several = len(records) > 1
    height = 2.3 + 0.16 * len(records) * several + 0.3 * (len(names) > 8)
    fig, axes = new_figure(columns=2 if len(names) > 3 else 1, height=height)
    for i, record in enumerate(records):
        estimates = [record["results"][name]["avg@n"] for name in names]
        places = [x + (i - (len(records) - 1) / 2) * width for x in range(len(names))]
        values = [e["value"] for e in estimates]
        errors = [[e["value"] - e["low"] for e in estimates], [e["high"] - e["value"] for e in estimates]]
        axes.bar(places, values, 0.9 * width, color=colors[i], label=record["model"]["label"])
        axes.errorbar(places, values, errors, fmt="none", ecolor="black", elinewidth=0.8, capsize=2)
    slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len(names) > 8 else {}
    axes.set_xticks(range(len(names)), [f"{name}\n{_size(records[0], name)}" for name in names], **slanted)
    axes.set(ylabel="share correct (avg@n, 95%)", ylim=(0, 1.02))
    axes.grid(axis="x", visible=False)
    if several:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1))  # above the bars, which may fill the axes
    else:
        axes.set_title(records[0]["model"]["label"])
    return save_figure(fig, folder / "accuracy.png", settings_of(records), command or command_of(records[0]))[0]


def _curves(record: dict[str, Any], folder: Path) -> list[Path]:
    with_curves = {name: result["pass@k"] for name, result in record["results"].items() if "pass@k" in result}
    if not with_curves:
        return []
    names = list(with_curves)
    panels = [names] if len(names) <= OVERLAID else [[name] for name in names]
    rows, columns = -(-len(panels) // 3), min(len(panels), 3)
    size = {"columns": 1, "height": 2.4} if columns == 1 else {"columns": 2, "height": 1.8 * rows}
    fig, axes = new_figure(**size, nrows=rows, ncols=columns, squeeze=False)
    for ax, panel in zip(axes.flat, panels, strict=False):
        for color, name in zip(PALETTE, panel, strict=False):
            curve = with_curves[name]
            ax.plot(curve["ks"], curve["value"], color=color, marker="o", label=name)
            ax.fill_between(curve["ks"], curve["low"], curve["high"], color=color, alpha=0.15, linewidth=0)
        ax.set_xscale("log", base=2)
        ticks = _apart(sorted({k for name in panel for k in with_curves[name]["ks"]}))
        ax.set_xticks(ticks, map(str, ticks))
        ax.minorticks_off()
        ax.set(xlabel="k samples", ylim=(0, 1.02), title=panel[0] if len(panels) > 1 else record["model"]["label"])
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for ax in axes[:, 0]:
        ax.set_ylabel("pass@k (95%)" if len(panels) > 1 else "pass@k (95% over questions)")
    if len(panels) == 1:
        axes[0, 0].legend()
    return [save_figure(fig, folder / "pass_at_k.png", settings_of([record]), command_of(record))[0]]


def _apart(ks: list[int]) -> list[int]:
    """The largest k and those of the others, powers of two, whose labels do not meet on a logarithmic axis."""
    ks = [k for k in ks if k == ks[-1] or ks[-1] / k >= 1.5]
    return ks[:: -1 if len(ks) <= 7 else -2][::-1]


def lengths(folder: EvalFolder, record: dict[str, Any]) -> Path:
    """How long right, wrong and cut-off samples are, per benchmark."""
    import numpy as np

    lines = folder.graded()
    names = list(record["results"])
    rows = -(-len(names) // 3)
    columns = min(len(names), 3)
    fig, axes = new_figure(columns=2 if columns > 1 else 1, height=1.7 * rows, nrows=rows, ncols=columns, squeeze=False)
    for ax, name in zip(axes.flat, names, strict=False):
        mine = [line for line in lines if line["task"] == name]
        edges = np.linspace(0, max(line["tokens"] for line in mine) + 1, 25)
        kinds = {
            "correct": [x["tokens"] for x in mine if x["status"] == "correct"],
            "not correct": [x["tokens"] for x in mine if x["status"] != "correct" and x["finish"] != "length"],
            "cut off": [x["tokens"] for x in mine if x["status"] != "correct" and x["finish"] == "length"],
        }
        ax.hist(list(kinds.values()), edges, stacked=True, color=["#009E73", "#BFBFBF", "#D55E00"], label=list(kinds))
        ax.set(title=name, xlabel="tokens")
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    axes[0, 0].set_ylabel("samples")
    axes[0, 0].legend()
    return save_figure(fig, folder.path / "lengths.png", settings_of([record]), command_of(record))[0]


def _size(record: dict[str, Any], name: str) -> str:
    result = record["results"][name]
    return f"{result['questions']} x {result['samples']}"
