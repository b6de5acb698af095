"""The figures of runs, one function each; every one says its settings and the command (`trapo.figure`).

Bands and intervals: bands of curves reach from the lowest to the highest seed; intervals of accuracies are 95%, by
Student's t over seeds where there are three or more, else by Wilson over the held-out problems of all seeds together.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.stats import ttest_1samp

from trapo.figure import METHOD_COLORS, METHOD_DASHES, METHOD_LABELS, PALETTE, new_figure, save_figure, style
from trapo.interval import wilson
from trapo_evals.stats import holm

from .groups import Group, mean_interval
from .runs import base_evaluation, held_out, results, steps, varying

SMOOTH = 7  # steps of the running mean, stated in the caption
COSTS = {
    "drawn tokens": "tokens drawn",
    "samples": "samples",
    "demonstrations": "demonstrations shown",
    "seconds": "seconds",
}


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
    fig, axes = new_figure(height=4.0, nrows=2, ncols=2)
    wanted = {
        "reward/plain": "reward, plain samples",
        "length/own": "tokens of own samples",
        "entropy": "entropy, nats",
    }
    for ax, (name, label) in zip((axes[0, 0], axes[1, 0], axes[1, 1]), wanted.items(), strict=True):
        for group in groups:
            band(ax, group, name)
        ax.set(ylabel=label, xlabel="step")
    for group in groups:
        band(axes[0, 0], group, "reward/guided", linestyle=":", label=None)
    for group in groups:
        found = held_out(list(group.runs))
        if len(found):
            main = found[found.set == found.set.iloc[0]].groupby("step").reward
            axes[0, 1].plot(main.mean(), color=group.color, linestyle=group.dashes, marker="o", label=group.label)
            axes[0, 1].fill_between(
                main.mean().index, main.min(), main.max(), color=group.color, alpha=0.15, linewidth=0
            )
    axes[0, 1].set(ylabel="held-out accuracy", xlabel="step")
    axes[0, 0].set_title("dotted: guided samples")
    axes[1, 1].legend()
    return fig, {"running mean over steps": SMOOTH, "bands": "lowest to highest seed"}


def guided_share(groups: Sequence[Group]) -> Drawn:
    """Share of prompts that are guided, per micro-group, over training."""
    names = sorted({name for group in groups for name in steps(list(group.runs)).columns if name.startswith("guided/")})
    if not names:
        return None
    fig, axes = new_figure(height=1.9, ncols=len(names), sharey=True, squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        for group in groups:
            band(ax, group, name)
        ax.set(title=f"micro-group {int(name.rpartition('_')[2]) + 1}", xlabel="step", ylim=(0, 1.02))
    axes[0, 0].set_ylabel("share of prompts guided")
    axes[0, -1].legend()
    return fig, {"running mean over steps": SMOOTH}


def expert_probability(groups: Sequence[Group]) -> Drawn:
    """The probability that the policy gives the expert's tokens, and its own."""
    shown = [group for group in groups if "expert/p" in steps(list(group.runs)).columns]
    if not shown:
        return None
    fig, axes = new_figure(height=2.3, ncols=2)
    for group in shown:
        band(axes[0], group, "expert/p")
        band(axes[1], group, "entropy", change=lambda nats: np.exp(-nats))
    axes[0].set(ylabel="p of expert tokens", xlabel="step", ylim=(0, 1.02))
    axes[1].set(ylabel="p of own tokens", xlabel="step", ylim=(0, 1.02))
    axes[0].legend()
    means = "arithmetic of the expert's tokens, geometric of own ones"
    return fig, {"running mean over steps": SMOOTH, "means": means}


def accuracy(groups: Sequence[Group]) -> Drawn:
    """Each group's held-out accuracies, forgetting among them, and the base's."""
    table = {group.label: scores(group) for group in groups}
    table = {label: found for label, found in table.items() if found}
    if not table:
        return None
    sets = list(next(iter(table.values())))
    rows = len(table) + 1
    fig, axes = new_figure(height=0.7 + 0.22 * rows, ncols=len(sets), sharey=True, squeeze=False)
    for ax, name in zip(axes[0], sets, strict=True):
        for i, group in enumerate(group for group in groups if group.label in table):
            mean, low, high, _ = table[group.label][name]
            ax.barh(rows - 1 - i, mean, 0.7, color=group.color)
            ax.plot([low, high], [rows - 1 - i] * 2, color="black", linewidth=0.9)
        before = [table[label][name][3] for label in table]
        ax.barh(0, np.mean(before), 0.7, color=METHOD_COLORS["base"])
        ax.set(title=name, xlim=(0, 1.02))
        ax.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(range(rows), ["base model", *list(table)[::-1]])
    return fig, {"intervals": "95%"}


def axis_curve(groups: Sequence[Group]) -> Drawn:
    """Held-out accuracies along the one numeric field in which the runs differ, such as alpha."""
    runs = [run for group in groups for run in group.runs]
    fields = varying(runs)
    values = [group.runs[0].record["config"].get(fields[0]) for group in groups] if len(fields) == 1 else []
    if len(set(values)) < 3 or not all(isinstance(value, int | float) for value in values):
        return None
    fig, ax = new_figure(columns=1, height=2.3)
    order = np.argsort(values)
    for color, name in zip(PALETTE, scores(groups[0]), strict=False):
        found = np.array([scores(groups[i])[name][:3] for i in order])
        x = np.array(values, float)[order]
        ax.plot(x, found[:, 0], "o-", color=color, label=name)
        ax.fill_between(x, found[:, 1], found[:, 2], color=color, alpha=0.15, linewidth=0)
    if min(values) > 0 and max(values) / min(values) >= 10:
        ax.set_xscale("log")
    ax.set(xlabel=fields[0].replace("_", " "), ylabel="held-out accuracy (95%)", ylim=(0, 1.02))
    ax.legend()
    return fig, {}


def differences(groups: Sequence[Group]) -> Drawn:
    """Main accuracy minus the first group's, paired by seed."""
    rows = [row for row in paired(groups) if row["pairs"]]
    if not rows:
        return None
    fig, ax = new_figure(columns=1, height=0.7 + 0.25 * len(rows))
    for y, row in zip(range(len(rows), 0, -1), rows, strict=True):
        ax.plot(row["each"], [y] * len(row["each"]), "o", color="#BBBBBB")
        ax.plot([row["low"], row["high"]], [y, y], color=row["color"])
        ax.plot(row["difference"], y, "o", color=row["color"])
    ax.axvline(0, color="#444444", linewidth=0.8)
    ax.set_yticks(range(len(rows), 0, -1), [row["label"] for row in rows])
    ax.set(xlabel=f"{rows[0]['set']}: minus {groups[0].label}, by seed", ylim=(0.4, len(rows) + 0.6))
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
    fig, ax = new_figure(columns=1, height=2.4)
    if (base := base_evaluation([run for group in groups for run in group.runs])) is not None:
        before = next(iter(base["results"].values())).get("pass@k")
        if before:
            line = {"color": METHOD_COLORS["base"], "linestyle": METHOD_DASHES["base"], "label": "base model"}
            ax.plot(before["ks"], before["value"], marker="o", **line)
            ax.fill_between(before["ks"], before["low"], before["high"], color=line["color"], alpha=0.15, linewidth=0)
    for label, (group, _, members) in curves.items():
        ks = members[0]["ks"]
        values = np.array([curve["value"] for curve in members if curve["ks"] == ks])
        ax.plot(ks, values.mean(0), "o-", color=group.color, label=label)
        ax.fill_between(ks, values.min(0), values.max(0), color=group.color, alpha=0.15, linewidth=0)
    ax.set_xscale("log", base=2)
    ax.set_xticks(ks, map(str, ks))
    ax.minorticks_off()
    ax.set(xlabel="k samples", ylabel=f"pass@k, {next(iter(curves.values()))[1]}", ylim=(0, 1.02))
    ax.legend()
    return fig, {"bands": "lowest to highest seed; of the base 95% over questions"}


def cost(groups: Sequence[Group]) -> Drawn:
    """Main accuracy against what it took: tokens, samples, demonstrations, seconds."""
    table = results([run for group in groups for run in group.runs])
    if not len(table):
        return None
    fig, axes = new_figure(height=2.1, ncols=len(COSTS), sharey=True)
    for ax, (column, label) in zip(axes, COSTS.items(), strict=True):
        for group in groups:
            mine = table[table.run.isin([run.name for run in group.runs])]
            if len(mine):
                ax.plot(mine[column], mine[main_set(mine)], "o", color=group.color, label=group.label)
        ax.set(xlabel=label)
        ax.margins(x=0.1)
        ax.set_xlim(left=0)
    axes[0].set(ylabel="held-out accuracy", ylim=(0, 1.02))
    axes[-1].legend()
    return fig, {}


def published(groups: Sequence[Group]) -> Drawn:
    """Our evaluations on public benchmarks beside published numbers, where the axis is the same."""
    theirs = published_numbers()
    ours = {}
    for group in groups:
        for record in filter(None, (run.evaluation() for run in group.runs)):
            for name, result in record["results"].items():
                ours.setdefault(name, {}).setdefault(group.label, []).append(result["avg@n"]["value"])
    names = [name for name in ours if any(name in entry["scores"] for entry in theirs)]
    if not names:
        return None
    fig, axes = new_figure(height=2.3, ncols=len(names), sharey=True, squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        rows = [(label, np.mean(values), "#0072B2") for label, values in ours[name].items()]
        rows += [
            (f"{METHOD_LABELS[entry['method']]}, published", entry["scores"][name] / 100, METHOD_COLORS["base"])
            for entry in theirs
            if name in entry["scores"]
        ]
        ax.barh(range(len(rows)), [value for _, value, _ in rows], color=[color for *_, color in rows])
        ax.set_yticks(range(len(rows)), [label for label, *_ in rows])
        ax.set(title=name, xlim=(0, 1))
    return fig, {"published": [entry["source"] for entry in theirs]}


# ---------------------------------------------------------------- numbers behind them


def published_numbers() -> list[dict[str, Any]]:
    """The papers' numbers, with their sources."""
    return yaml.safe_load((Path(__file__).parent / "published.yaml").read_text(encoding="utf-8"))


def main_set(table) -> str:
    """The first held-out set: the one that a run is about."""
    return next(column.removeprefix("before ") for column in table.columns if column.startswith("before "))


def scores(group: Group) -> dict[str, tuple[float, float, float, float]]:
    """Held-out set -> mean last accuracy of the group's finished runs, 95% interval, mean accuracy before."""
    finished = [run for run in group.runs if run.finished]
    last = {run.name: run.folder.records("evals.jsonl") for run in finished}
    found = {}
    for name in dict.fromkeys(record["set"] for records in last.values() for record in records):
        mine = [[record for record in records if record["set"] == name] for records in last.values()]
        mine = [records for records in mine if records]
        ends, samples = [records[-1]["reward"] for records in mine], sum(records[-1]["samples"] for records in mine)
        mean, low, high = mean_interval(ends)
        if len(ends) < 3:
            low, high = wilson(mean, samples)
        found[name] = (mean, max(low, 0.0), min(high, 1.0), float(np.mean([records[0]["reward"] for records in mine])))
    return found


def paired(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Each later group's main accuracy minus the first's, paired by seed: mean, 95% interval and p by t, every pair.

    p is two-sided, `p (Holm)` adjusted for all groups; None for a single pair.
    """
    if len(groups) < 2:
        return []

    def by_seed(group: Group) -> dict[int | None, float]:
        table = results(list(group.runs))
        return dict(zip(table.seed, table[main_set(table)], strict=True)) if len(table) else {}

    first = by_seed(groups[0])
    rows = []
    for group in groups[1:]:
        mine = by_seed(group)
        each = [mine[seed] - first[seed] for seed in mine if seed in first]
        difference, low, high = mean_interval(each)
        rows.append(
            {"label": group.label, "color": group.color, "pairs": len(each), "each": each}
            | {"difference": difference, "low": low, "high": high}
            | {"p": float(ttest_1samp(each, 0).pvalue) if len(each) > 1 and np.ptp(each) > 0 else None}
            | {"set": main_set(results(list(group.runs))) if each else ""}
        )
    tested = [row for row in rows if row["p"] is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]) if tested else (), strict=True):
        row["p (Holm)"] = float(p)
    return rows


def smoothed(table, name: str, change=lambda value: value):
    """A metric by step: mean, lowest and highest seed of each one's running mean over `SMOOTH` steps."""
    wide = table.pivot_table(index="step", columns="run", values=name, aggfunc="last")
    wide = change(wide).rolling(SMOOTH, min_periods=1, center=True).mean()
    return wide.mean(axis=1), wide.min(axis=1), wide.max(axis=1)


def band(ax, group: Group, name: str, change=lambda value: value, **line: Any) -> None:
    """A metric's curve with its band over seeds; nothing where no run has it."""
    table = steps(list(group.runs))
    table = table[table.stage == "rl"] if len(table) else table
    if name not in table.columns or not table[name].notna().any():
        return
    mean, low, high = smoothed(table, name, change)
    ax.plot(mean.index, mean, **{"color": group.color, "linestyle": group.dashes, "label": group.label} | line)
    ax.fill_between(mean.index, low, high, color=group.color, alpha=0.15, linewidth=0)
