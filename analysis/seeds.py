"""Runs that differ only in their seed, together, under the name that a figure gives them."""

from collections.abc import Sequence
from dataclasses import dataclass

from trapo.plotting import METHOD_COLORS, METHOD_DASHES, METHOD_LABELS, PALETTE

from .runs import NAMES, Run, varying
from .sweep import PREFIXES

PREFIX_FIELDS = ("micro_group_sizes", "prefix_ratios", "thresholds")


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
        values = (_value(run.value(name)) if run.uses(name) else None for name in fields)
        found.setdefault((run.recipe, *values), []).append(run)
    methods_only = not fields and len(recipes) == len(found)
    prefixes = _prefix_names(runs, fields)
    shown = _last_parts({run.value(name) for run in runs for name in NAMES})
    made = []
    for i, (key, members) in enumerate(found.items()):
        name = METHOD_LABELS.get(key[0], key[0])
        parts = [
            f"{_short(field)} {shown.get(value, value) if field in NAMES else value}"
            for field, value in zip(fields, key[1:], strict=True)
            if value is not None and not (prefixes and field in PREFIX_FIELDS)
        ]
        parts += [prefixes[members[0].name]] if prefixes else []
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
    return {name for name in names if name not in (*within, *NAMES)}


def reference(together: Sequence[Group]) -> Group:
    """Whom the others are compared with: the paper's TRAPO where it is among them, else the first."""
    return next((group for group in together if group.recipe == "trapo" and group.alpha == 0.1), together[0])


def _prefix_names(runs: Sequence[Run], fields: Sequence[str]) -> dict[str, str]:
    """Run -> what `trapo sweep prefix` calls its guidance; {} where guidance is the same or a run's has no name."""
    if not set(fields) & set(PREFIX_FIELDS):
        return {}
    known = {}
    for name, flags in PREFIXES.items():
        numbers = [
            [float(part) for part in flags[field].split()] if field in flags else None for field in PREFIX_FIELDS
        ]
        known[str(numbers)] = name
    named = {}
    for run in runs:
        config = run.record.get("config", {})
        named[run.name] = known.get(str([_numbers(config.get(field)) for field in PREFIX_FIELDS]), "")
    return named if all(named.values()) else {}


def _last_parts(paths: set[str]) -> dict[str, str]:
    """Path or hub id -> its last part, where no other has the same."""
    last = {path: path.rstrip("/").rpartition("/")[2] for path in paths}
    return {path: name for path, name in last.items() if list(last.values()).count(name) == 1}


def _numbers(values: Sequence | None) -> list[float] | None:
    return None if values is None else [float(value) for value in values]


def _short(field: str) -> str:
    return {"micro_group_sizes": "sizes", "prefix_ratios": "ratios"}.get(field, field.replace("_", " "))


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(_value, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "preset's" if value is None else str(value)
