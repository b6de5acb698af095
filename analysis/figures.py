"""The figures of runs, one function each; every one says its settings and the command (`trapo.plotting`).

Bands of curves reach from the lowest to the highest seed, and are left out where there are many groups; intervals of
accuracies are those of `scores.interval`.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from trapo.plotting import METHOD_COLORS, METHOD_DASHES, METHOD_LABELS, PALETTE, new_figure, save_figure, style

from .figure_parts import (
    BANDED,
    MARKERS,
    SMOOTHED,
    band,
    bands,
    held_out_by_step,
    legend,
    markers,
    with_interval,
    wrapped,
)
from .runs import NAMES, base_evaluations, results, steps, varying
from .runs import cost as cost_of
from .scores import base_scores, main_set, paired, reward_name, scores
from .seeds import PREFIX_FIELDS, Group, reference

WIDEST = 44  # letters in a line of a label that stands left of axes
COSTS = {
    "drawn tokens": ("tokens drawn", 1e3),
    "samples": ("samples drawn", 1),
    "demonstrations": ("demonstrations", 1),
    "seconds": ("seconds", 1),
}
PARTS = {"rollout": "#0072B2", "grading": "#009E73", "update": "#E69F00", "rest": "#BFBFBF"}
PUBLISHED_MODEL = "Qwen2.5-Math-7B"
FIVE = ("aime24", "amc23", "math500", "minerva", "olympiad")  # whose mean TRAPO's tables give
AVERAGE = "average of five"


def settings_of(groups: Sequence[Group], **more: Any) -> dict[str, Any]:
    """What a figure of these runs says: alpha and all that is common, and what each group is."""
    runs = [run for group in groups for run in group.runs]
    apart = set(varying(runs))
    config = runs[0].record.get("config", {})
    names = ("learning_rate", "max_steps", "per_device_train_batch_size", "temperature", "max_completion_length")
    return (
        {"alpha": list(dict.fromkeys(group.alpha for group in groups))}
        | {"methods": list(dict.fromkeys(group.recipe for group in groups))}
        | {name: list(dict.fromkeys(str(run.record.get(name)) for run in runs)) for name in ("model", "data")}
        | {name: config.get(name) for name in names if name in config and name not in apart}
        | {"seeds": sorted({run.seed for run in runs if run.seed is not None})}
        | more
    )


def draw(groups: Sequence[Group], out: Path, command: str) -> dict[str, Path]:
    """All figures that these runs can give, into `out`; their PNGs by name."""
    drawers = {
        "learning": learning_curves,
        "guided": guided_share,
        "probability": expert_probability,
        "accuracy": accuracy,
        "axis": axis_curve,
        "differences": differences,
        "pass_at_k": pass_at_k,
        "cost": cost,
        "seconds": seconds,
        "published": published,
    }
    made = {}
    with style():
        for name, drawer in drawers.items():
            if (found := drawer(groups)) is not None:
                figure, more = found
                made[name] = save_figure(figure, out / f"{name}.png", settings_of(groups, **more), command)[0]
    return made


Drawn = tuple[Any, dict[str, Any]] | None  # a figure, and what its caption adds


def learning_curves(groups: Sequence[Group]) -> Drawn:
    """Reward, held-out accuracy, length and entropy over steps (the paper's Figure 4)."""
    fig, axes = new_figure(height=3.6, nrows=2, ncols=3)
    wanted = {
        "reward/plain": "reward, plain samples",
        "reward/guided": "reward, guided samples",
        "length/own": "tokens of own samples",
        "entropy": "entropy, nats",
    }
    for ax, (name, label) in zip((*axes[0, :2], *axes[1, :2]), wanted.items(), strict=True):
        for group in groups:
            band(ax, group, name, len(groups) <= BANDED)
        ax.set(title=label)
    for ax, main in ((axes[0, 2], True), (axes[1, 2], False)):
        for group in groups:
            if len(found := held_out_by_step(group, main)):
                ax.plot(found["mean"], color=group.color, linestyle=group.dashes, marker="o", markersize=2.5)
                if len(groups) <= BANDED:
                    ax.fill_between(found.index, found["min"], found["max"], color=group.color, alpha=0.15, linewidth=0)
        ax.set(title=f"held-out {reward_name(groups)}" if main else "on the other sets (mean)")
    for ax in axes.flat:
        ax.xaxis.get_major_locator().set_params(integer=True)
    for ax in axes[1]:
        ax.set(xlabel="step")
    legend(fig, groups)
    return fig, {"running mean over steps": SMOOTHED} | bands(groups)


def guided_share(groups: Sequence[Group]) -> Drawn:
    """Share of prompts that are guided, per micro-group, over training."""
    tables = {group.label: steps(list(group.runs)) for group in groups}
    names = sorted({name for table in tables.values() for name in table.columns if name.startswith("guided/")})
    if not names:
        return None
    fig, axes = new_figure(height=1.9, ncols=len(names), sharey=True, squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        for group in groups:
            band(ax, group, name, len(groups) <= BANDED)
        ax.set(title=f"micro-group {int(name.rpartition('_')[2]) + 1}", xlabel="step", ylim=(0, 1.02))
    axes[0, 0].set_ylabel("share of prompts guided")
    legend(fig, [group for group in groups if set(tables[group.label].columns) & set(names)])
    return fig, {"running mean over steps": SMOOTHED} | bands(groups)


def expert_probability(groups: Sequence[Group]) -> Drawn:
    """The probability that the policy gives the expert's tokens, and its own."""
    shown = [group for group in groups if "expert/p" in steps(list(group.runs)).columns]
    if not shown:
        return None
    fig, axes = new_figure(height=2.1, ncols=2)
    for group in shown:
        band(axes[0], group, "expert/p", len(shown) <= BANDED)
        band(axes[1], group, "entropy", len(shown) <= BANDED, change=lambda nats: np.exp(-nats))
    axes[0].set(ylabel="p of expert tokens", xlabel="step", ylim=(0, 1.02))
    axes[1].set(ylabel="p of own tokens", xlabel="step", ylim=(0, 1.02))
    legend(fig, shown)
    means = "arithmetic of the expert's tokens, geometric of own ones"
    return fig, {"running mean over steps": SMOOTHED, "means": means} | bands(shown)


def accuracy(groups: Sequence[Group]) -> Drawn:
    """Each group's held-out accuracies, forgetting among them, and the base's where that is one for all."""
    table = {group.label: (group, found) for group in groups if (found := scores(group))}
    if not table:
        return None
    sets = list(dict.fromkeys(name for _, found in table.values() for name in found))
    bases = base_scores(groups) if not set(NAMES) & set(varying([r for group in groups for r in group.runs])) else {}
    base = len(bases)
    rows = len(table) + base
    labels, lines = wrapped([*bases, *list(table)[::-1]], WIDEST)
    fig, axes = new_figure(height=0.5 + 0.19 * rows * lines, ncols=len(sets), sharey=True, squeeze=False)
    for ax, name in zip(axes[0], sets, strict=True):
        for y, (group, found) in zip(range(rows - 1, base - 1, -1), table.values(), strict=True):
            if name in found:
                with_interval(ax, found[name].after, y, group.color)
        for y, found in enumerate(bases.values()):
            if name in found:
                with_interval(ax, found[name], y, "#777777")
        ax.set(title=name, xlabel=reward_name(groups), ylim=(-0.6, rows - 0.4))
        if reward_name(groups) == "accuracy":
            ax.set_xlim(-0.02, 1.02)
        ax.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(range(rows), labels)
    return fig, {"intervals": "95% over questions and seeds"}


def axis_curve(groups: Sequence[Group]) -> Drawn:
    """Held-out accuracies with intervals along what was swept: a numeric field such as alpha, or named prefixes."""
    fields = varying([run for group in groups for run in group.runs])
    reached = {group.label: found for group in groups if (found := scores(group))}
    shown = [group for group in groups if group.label in reached]
    if len(shown) < 3 or len({group.recipe for group in shown}) > 1:
        return None
    values = [group.runs[0].value(fields[0]) for group in shown] if len(fields) == 1 else []
    numeric = bool(values) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if not numeric and set(fields) - set(PREFIX_FIELDS):
        return None
    order = np.argsort(values) if numeric else range(len(shown))
    x = np.array(values, float)[order] if numeric else np.arange(len(shown))
    fig, ax = new_figure(columns=1 if numeric else 2, height=2.4)
    sets = list(reached[shown[0].label])
    for k, (color, name) in enumerate(zip(PALETTE, sets, strict=False)):
        found = [reached[shown[i].label][name] for i in order]
        low, mean, high = np.array([(s.after.low, s.after.value, s.after.high) for s in found]).T
        if numeric:
            ax.plot(x, mean, "o-", color=color, label=name)
            ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        else:
            at = x + 0.14 * (k - (len(sets) - 1) / 2)
            ax.errorbar(at, mean, (mean - low, high - mean), fmt="o", color=color, elinewidth=1, label=name)
    if numeric:
        if min(values) > 0 and max(values) / min(values) >= 10:
            ax.set_xscale("log")
        ax.set_xticks(x, [f"{value:g}" for value in x])
        ax.minorticks_off()
        ax.set(xlabel=fields[0].replace("_", " "))
    else:
        ax.set_xticks(x, [textwrap.fill(shown[i].label, 16) for i in order])
        ax.grid(axis="x", visible=False)
    ax.set(ylabel=f"held-out {reward_name(groups)}")
    if reward_name(groups) == "accuracy":
        ax.set_ylim(-0.02, 1.02)
    fig.legend(loc="outside upper left", ncols=len(sets))
    return fig, {"intervals": "95% over questions and seeds"}


def differences(groups: Sequence[Group]) -> Drawn:
    """Main accuracy minus the reference's, paired by seed."""
    rows = [row for row in paired(groups) if row["pairs"]]
    if not rows:
        return None
    labels, lines = wrapped([row["label"] for row in rows], WIDEST // 2)
    (label,), more = wrapped([f"{rows[0]['set']}: minus {reference(groups).label}, by seed"], WIDEST)
    fig, ax = new_figure(columns=1, height=0.58 + 0.12 * more + max(0.25, 0.15 * lines) * len(rows))
    for y, row in zip(range(len(rows), 0, -1), rows, strict=True):
        ax.plot(row["each"], [y] * len(row["each"]), "o", color="#BBBBBB")
        ax.plot([row["low"], row["high"]], [y, y], color=row["color"])
        ax.plot(row["difference"], y, "o", color=row["color"])
    ax.axvline(0, color="#444444", linewidth=0.8)
    ax.set_yticks(range(len(rows), 0, -1), labels)
    ax.set(xlabel=label, ylim=(0.4, len(rows) + 0.6))
    ax.grid(axis="y", visible=False)
    return fig, {"pairs": [row["pairs"] for row in rows], "intervals": "95%, Student's t over pairs"}


def pass_at_k(groups: Sequence[Group]) -> Drawn:
    """pass@k of each group's evaluations on the first benchmark: growth, or sharpening? (The paper's Figure 6.)"""
    curves = {}
    for group in groups:
        found = [run.evaluation() for run in group.runs]
        found = [next(iter(record["results"].items())) for record in found if record]
        if found and all("pass@k" in result for _, result in found):
            curves[group.label] = (group, found[0][0], [result["pass@k"] for _, result in found])
    if not curves:
        return None
    fig, ax = new_figure(columns=1 if len(curves) <= BANDED else 2, height=2.4)
    benchmark = next(iter(curves.values()))[1]
    bases = base_evaluations([run for group in groups for run in group.runs])
    bases = {label: found for label, one in bases.items() if (found := one["results"].get(benchmark, {}).get("pass@k"))}
    for i, before in enumerate(bases.values()):
        line = {"color": METHOD_COLORS["base"], "linestyle": METHOD_DASHES["base"]}
        ax.plot(before["ks"], before["value"], marker=MARKERS[i % len(MARKERS)], **line)
        ax.fill_between(before["ks"], before["low"], before["high"], color=line["color"], alpha=0.15, linewidth=0)
    for label, (group, _, members) in curves.items():
        ks = members[0]["ks"]
        values = np.array([curve["value"] for curve in members if curve["ks"] == ks])
        ax.plot(ks, values.mean(0), marker="o", color=group.color, linestyle=group.dashes, label=label)
        if len(curves) <= BANDED:
            ax.fill_between(ks, values.min(0), values.max(0), color=group.color, alpha=0.15, linewidth=0)
    ax.set_xscale("log", base=2)
    ax.set_xticks(ks, map(str, ks))
    ax.minorticks_off()
    ax.set(xlabel="k samples", ylabel=f"pass@k, {benchmark}")
    ax.set_ylim(0, min(1.05 * ax.get_ylim()[1], 1.02))
    legend(fig, [group for group, _, _ in curves.values()], bases=list(bases))
    return fig, {"bands": "lowest to highest seed; of the base 95% over questions"}


def cost(groups: Sequence[Group]) -> Drawn:
    """Main accuracy against what it took: tokens, samples, demonstrations, seconds."""
    table = results([run for group in groups for run in group.runs])
    if (main := main_set(table)) is None:
        return None
    fig, axes = new_figure(height=2.1, ncols=len(COSTS), sharey=True)
    shapes = markers(groups)
    for ax, (column, (label, unit)) in zip(axes, COSTS.items(), strict=True):
        for group in groups:
            mine = table[table.run.isin([run.name for run in group.runs])]
            ax.plot(mine[column] / unit, mine[main], shapes[group.label], color=group.color)
        ax.set(xlabel=f"thousand {label}" if unit > 1 else label, xlim=(0, 1.08 * max(table[column].max() / unit, 1)))
    axes[0].set(ylabel=f"held-out {reward_name(groups)}")
    if reward_name(groups) == "accuracy":
        axes[0].set_ylim(-0.02 * axes[0].get_ylim()[1], min(1.08 * axes[0].get_ylim()[1], 1.02))
    legend(fig, groups, markers=shapes)
    return fig, {}


def seconds(groups: Sequence[Group]) -> Drawn:
    """Where each group's seconds went: rollout, grading, update; mean over its runs."""
    rows = []
    for group in groups:
        costs = [cost_of(run) for run in group.runs]
        parts = {
            part: np.mean([found[f"seconds {part}"] for found in costs]) for part in ("rollout", "grading", "update")
        }
        rows.append(parts | {"rest": max(np.mean([found["seconds"] for found in costs]) - sum(parts.values()), 0.0)})
    fig, ax = new_figure(height=0.7 + 0.19 * len(rows))
    left = np.zeros(len(rows))
    for part, color in PARTS.items():
        values = np.array([row[part] for row in rows])
        ax.barh(range(len(rows), 0, -1), values, 0.7, left=left, color=color, label=part)
        left += values
    ax.set_yticks(range(len(rows), 0, -1), [group.label for group in groups])
    ax.set(xlabel="seconds of training, mean over runs", xlim=(0, 1.03 * left.max()), ylim=(0.4, len(rows) + 0.6))
    ax.grid(axis="y", visible=False)
    fig.legend(loc="outside upper left", ncols=len(PARTS))
    return fig, {}


def published(groups: Sequence[Group]) -> Drawn:
    """Our evaluations on public benchmarks beside published numbers, where the axis is the same."""
    theirs = published_numbers()
    ours: dict[str, dict[str, tuple[Group, list[dict[str, float]]]]] = {}
    sampling = set()
    for group in groups:
        for record in filter(None, (run.evaluation() for run in group.runs)):
            sampling.add(f"T {record['settings']['temperature']:g}, top-p {record['settings']['top_p']:g}")
            for name, found in (_avg_at_n(record) | _average(record)).items():
                ours.setdefault(name, {}).setdefault(group.label, (group, []))[1].append(found)
    names = [name for name in ours if any(name in entry["scores"] for entry in theirs)]
    if not names:
        return None
    rows = max(len(ours[name]) + sum(name in entry["scores"] for entry in theirs) for name in names)
    fig, axes = new_figure(height=0.5 + 0.19 * rows * len(names), nrows=len(names), sharex=True, squeeze=False)
    for ax, name in zip(axes[:, 0], names, strict=True):
        labels = []
        for group, found in ours[name].values():
            ax.barh(len(labels), np.mean([one["value"] for one in found]), 0.7, color=group.color)
            ends = [min(one["low"] for one in found), max(one["high"] for one in found)]
            ax.plot(ends, [len(labels)] * 2, color="black", linewidth=0.9)
            labels.append(group.label)
        for entry in (entry for entry in theirs if name in entry["scores"]):
            color = METHOD_COLORS.get(entry["method"], METHOD_COLORS["base"])
            ax.barh(len(labels), entry["scores"][name] / 100, 0.7, color="white", edgecolor=color, hatch="////")
            labels.append(f"{METHOD_LABELS[entry['method']]}, published{'' if entry['checked'] else ', unchecked'}")
        ax.set_yticks(range(len(labels)), labels)
        ax.invert_yaxis()
        ax.set(title=name, xlim=(0, 1))
        ax.grid(axis="y", visible=False)
    sources = "; ".join(dict.fromkeys(entry["source"] for entry in theirs if set(names) & set(entry["scores"])))
    return fig, {
        "ours": ", ".join(sorted(sampling)) + "; lines: 95% over questions, of all runs",
        "hatched": f"published on {PUBLISHED_MODEL}, not compared with the papers where it says unchecked: {sources}",
    }


# ---------------------------------------------------------------- numbers behind them


def published_numbers() -> list[dict[str, Any]]:
    """The papers' numbers, with their sources."""
    return yaml.safe_load((Path(__file__).parent / "published.yaml").read_text(encoding="utf-8"))


def _avg_at_n(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {name: result["avg@n"] for name, result in record["results"].items()}


def _average(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The papers' average of five benchmarks, where all five are there; its error from theirs, as independent."""
    found = _avg_at_n(record)
    if not all(name in found for name in FIVE):
        return {}
    value = float(np.mean([found[name]["value"] for name in FIVE]))
    half = 1.96 * float(np.sqrt(sum(found[name]["se_questions"] ** 2 for name in FIVE))) / len(FIVE)
    return {AVERAGE: {"value": value, "low": value - half, "high": value + half}}
