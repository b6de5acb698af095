"""What groups of runs reached: accuracies with intervals, what was forgotten, differences paired by seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trapo.runs.intervals import Interval, held_out, mean_interval

from .inference import Answer, answers, blocks_needed
from .runs import Run
from .seeds import Group, reference

CURVE = 3  # held-out evaluations after the first that make a curve


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
    """Each group's main accuracy minus the reference's, paired by seed, by the rule of `inference`; a row per group.

    A row has the last evaluation's `difference` with `low`, `high`, `each` pair, `p` of the sign-flip test, `p
    (Holm)` over all groups, what the rule `says`; `detectable` (80% power under the rule) and `within` (the
    narrowest margin in which the two would be called equal); `curve`: the same of the mean along training, by
    `along`; `needed`, how many seeds the rule asks for; `undelivered`, on how many seeds the two are the same run.
    `forgetting` is the difference of what was forgotten. What a single pair cannot give is None or NaN, as are the
    ends for pairs that are all equal (accuracies come in steps of one problem: equal ones say nothing of how far
    others would be apart).
    """
    if len(groups) < 2:
        return []
    first, others = reference(groups), [group for group in groups if group is not reference(groups)]
    measures = {"last": _last, "curve": along(groups)}
    gaps = {name: [_differences(group, first, value) for group in others] for name, value in measures.items()}
    told = {
        name: {answer.a: answer for answer in answers([(str(i), "", each) for i, each in enumerate(found)])}
        for name, found in gaps.items()
    }
    rows = []
    for i, group in enumerate(others):
        names = [name for run in group.runs if run.finished for name in _ends(run)]
        forgot = _with_error(_differences(group, first, forgotten))
        rows.append(
            {"label": group.label, "color": group.color, "set": names[0] if names else ""}
            | _told(gaps["last"][i], told["last"].get(str(i)))
            | {"curve": _told(gaps["curve"][i], told["curve"].get(str(i))), "undelivered": undelivered(group, first)}
            | {"needed": blocks_needed(max(len(told["last"]), 1))}
            | dict(zip(("forgetting", "forgetting low", "forgetting high"), forgot, strict=True))
        )
    return rows


def _told(each: Sequence[float], answer: Answer | None) -> dict[str, Any]:
    """A reading of a difference; without an answer, of a single pair, only its mean."""
    row = {"pairs": len(each), "each": each} | dict(zip(("difference", "low", "high"), _with_error(each), strict=True))
    if answer is None:
        return row | dict.fromkeys(("p", "p (Holm)", "says", "above", "detectable", "within", "coverage"))
    return row | {
        "p": answer.p, "p (Holm)": answer.holm, "says": answer.says, "above": answer.above,
        "detectable": answer.detectable, "within": answer.within, "coverage": answer.coverage,
    }  # fmt: skip


def along(groups: Sequence[Group]) -> Callable[[Run], float | None]:
    """What "along training" is for these groups: the mean of a run's held-out evaluations after the first.

    Where some run has fewer than `CURVE` of them, it is that of the reward of plain samples over its RL steps.
    """
    runs = [run for group in groups for run in group.runs if run.finished]
    if runs and all(len(_evaluations(run)) > CURVE for run in runs):
        return lambda run: float(np.mean(_evaluations(run)[1:]))
    return _plain


def undelivered(group: Group, first: Group) -> int:
    """On how many seeds nothing tells the two apart: the same evaluations and the same training curve."""
    known = {run.seed: (_evaluations(run), _plain(run)) for run in first.runs if run.finished}
    mine = [(run.seed, (_evaluations(run), _plain(run))) for run in group.runs if run.finished]
    return sum(known.get(seed) == found and bool(found[0]) for seed, found in mine)


def _evaluations(run: Run) -> list[float]:
    """The rewards of a run's first held-out set, one per evaluation."""
    records = run.folder.records("evals.jsonl")
    return [record["reward"] for record in records if record["set"] == records[0]["set"]]


def _plain(run: Run) -> float | None:
    """The mean reward of plain samples over a run's RL steps; None where no step had any."""
    found = [r["reward/plain"] for r in run.folder.records("metrics.jsonl") if r.get("reward/plain") is not None]
    return float(np.mean(found)) if found else None


def _last(run: Run) -> float:
    return next(iter(_ends(run).values()))[1]["reward"]


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
