"""What groups of runs reached: accuracies with intervals, what was forgotten, differences paired by seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import ttest_1samp

from trapo.runs.intervals import Interval, held_out, mean_interval
from trapo_evals.stats import holm

from .runs import Run
from .seeds import Group, reference


@dataclass(frozen=True)
class Score:
    """What a group's finished runs reached on a held-out set, with 95% intervals, after training and before."""

    after: Interval
    before: Interval


def scores(group: Group) -> dict[str, Score]:
    """Held-out set -> what the group's finished runs reached, by `trapo.runs.intervals.held_out`: questions are the
    unit,
    seeds a second level."""
    found: dict[str, list[tuple[dict, dict]]] = {}
    for run in group.runs:
        if run.finished:
            for name, ends in _ends(run).items():
                found.setdefault(name, []).append(ends)
    each = group.runs[0].samples_each
    return {
        name: Score(held_out([last for _, last in ends], each), held_out([first for first, _ in ends], each))
        for name, ends in found.items()
    }


def base_scores(groups: Sequence[Group]) -> dict[str, dict[str, Interval]]:
    """What models reach before training: "base model", or a label per model and data -> held-out set -> interval.

    Of each seed once: runs of one seed draw the same before training.
    """
    models: dict[tuple[str, str], dict[int | None, Run]] = {}
    for run in (run for group in groups for run in group.runs if run.finished):
        models.setdefault((run.value("model"), run.value("data")), {}).setdefault(run.seed, run)
    found = {" on ".join(names): scores(Group("", tuple(runs.values()), "")) for names, runs in models.items()}
    return {
        "base model" if len(models) == 1 else f"base {name}": {set_: score.before for set_, score in sets.items()}
        for name, sets in found.items()
        if sets
    }


def reward_name(groups: Sequence[Group]) -> str:
    """What held-out numbers of these groups are: "accuracy", or "mean reward" where some reward is not 0 or 1."""
    found = [score.after for group in groups for score in scores(group).values()]
    return "accuracy" if all(interval.share for interval in found) else "mean reward"


def forgotten(run: Run) -> float | None:
    """Change of the mean accuracy on the held-out sets after the first, which a run is not about; None without any."""
    others = list(_ends(run).values())[1:]
    return float(np.mean([last["reward"] - first["reward"] for first, last in others])) if others else None


def forgetting(group: Group) -> float | None:
    """Mean of `forgotten` over the group's finished runs."""
    found = [change for run in group.runs if run.finished and (change := forgotten(run)) is not None]
    return float(np.mean(found)) if found else None


def paired(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Each group's main accuracy minus the reference's, paired by seed: mean, 95% interval and p by t, every pair.

    p is two-sided, `p (Holm)` adjusted for all groups; None for a single pair, and for pairs that are all equal, which
    (accuracies come in steps of one problem) say nothing of how far others would be apart. `forgetting` is the same
    difference of what was forgotten, `forgetting low` to `forgetting high`.
    """
    if len(groups) < 2:
        return []
    first = reference(groups)
    rows = []
    for group in groups:
        if group is first:
            continue
        each = _differences(group, first, lambda run: next(iter(_ends(run).values()))[1]["reward"])
        others = _differences(group, first, forgotten)
        names = [name for run in group.runs if run.finished for name in _ends(run)]
        rows.append(
            {"label": group.label, "color": group.color, "set": names[0] if names else "", "pairs": len(each)}
            | {"each": each}
            | dict(zip(("difference", "low", "high"), _with_error(each), strict=True))
            | dict(zip(("forgetting", "forgetting low", "forgetting high"), _with_error(others), strict=True))
            | {"p": float(ttest_1samp(each, 0).pvalue) if len(each) > 1 and np.ptp(each) > 1e-9 else None}
        )
    tested = [row for row in rows if row["p"] is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]) if tested else (), strict=True):
        row["p (Holm)"] = float(p)
    return rows


def main_set(table) -> str | None:
    """The first held-out set of a table of `results`: the one that a run is about; None where nothing was held out."""
    return next((column.removeprefix("before ") for column in table.columns if column.startswith("before ")), None)


def _ends(run: Run) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Held-out set -> its first and its last line."""
    found: dict[str, tuple[dict, dict]] = {}
    for record in run.folder.records("evals.jsonl"):
        found[record["set"]] = (found.get(record["set"], (record,))[0], record)
    return found


def _with_error(each: Sequence[float]) -> tuple[float, float, float]:
    mean, low, high = mean_interval(each)
    return (mean, low, high) if len(each) > 1 and np.ptp(each) > 1e-9 else (mean, np.nan, np.nan)


def _differences(group: Group, first: Group, value) -> list[float]:
    """A value of runs, minus that of the reference's run of the same seed; a seed's several runs are averaged."""
    by_seed: list[dict[int | None, float]] = []
    for members in (group.runs, first.runs):
        mine: dict[int | None, list[float]] = {}
        for run in members:
            if run.finished and _ends(run) and (found := value(run)) is not None:
                mine.setdefault(run.seed, []).append(found)
        by_seed.append({seed: float(np.mean(values)) for seed, values in mine.items()})
    mine, theirs = by_seed
    return [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
