"""Runs that differ only in their seed, together, under the name that a figure gives them; means with errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from trapo.figure import METHOD_COLORS, METHOD_DASHES, METHOD_LABELS, PALETTE

from .runs import Run, varying


@dataclass(frozen=True)
class Group:
    """Runs of one method and setting.

    Attributes:
        label: for tables and legends.
        runs: one per seed.
        color, dashes: of its lines; a method's own where methods are told apart, else from a palette.
    """

    label: str
    runs: tuple[Run, ...]
    color: str
    dashes: object = "-"

    @property
    def recipe(self) -> str:
        """Its method."""
        return self.runs[0].recipe

    @property
    def alpha(self) -> float | None:
        """Its alpha."""
        return self.runs[0].alpha


def groups(runs: Sequence[Run]) -> list[Group]:
    """The runs by everything but their seed, in the order in which they were given."""
    recipes = {run.recipe for run in runs}
    fields = [name for name in varying(list(runs)) if len(recipes) == 1 or name not in _set_by_recipes(runs)]
    found: dict[tuple, list[Run]] = {}
    for run in runs:
        config = run.record.get("config", {})
        found.setdefault((run.recipe, *(str(config.get(name)) for name in fields)), []).append(run)
    methods_only = not fields and len(recipes) == len(found)
    made = []
    for i, (key, members) in enumerate(found.items()):
        name = METHOD_LABELS.get(key[0], key[0])
        parts = [f"{_short(field)} {_value(value)}" for field, value in zip(fields, key[1:], strict=True)]
        label = ", ".join([name] * (len(recipes) > 1) + parts) or name
        known = methods_only and key[0] in METHOD_COLORS
        color = METHOD_COLORS[key[0]] if known else PALETTE[i % len(PALETTE)]
        dashes = METHOD_DASHES.get(key[0], "-") if known else ("-", (0, (4, 1.5)), (0, (1, 1)))[i // len(PALETTE) % 3]
        made.append(Group(label, tuple(members), color, dashes))
    return made


def _set_by_recipes(runs: Sequence[Run]) -> set[str]:
    """Fields that are the same in all runs of a recipe: its own settings, which its name says."""
    names = varying(list(runs))
    by_recipe: dict[str, list[Run]] = {}
    for run in runs:
        by_recipe.setdefault(run.recipe, []).append(run)
    within = {name for members in by_recipe.values() for name in varying(members)}
    return {name for name in names if name not in within}


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of runs and its 95% interval by Student's t over them; NaN bounds for a single run."""
    values = np.asarray([value for value in values if value == value], float)
    if not len(values):
        return (math.nan,) * 3
    mean = float(values.mean())
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def _short(field: str) -> str:
    return {"micro_group_sizes": "sizes", "prefix_ratios": "ratios"}.get(field, field.replace("_", " "))


def _value(text: str) -> str:
    return "preset's" if text == "None" else text
