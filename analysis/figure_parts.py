"""What the figures of runs have in common: curves over steps with their bands, intervals, legends."""

import textwrap
from collections import Counter
from collections.abc import Sequence

from trapo.plotting import METHOD_COLORS, METHOD_DASHES
from trapo.runs.intervals import Interval

from .runs import held_out, steps
from .seeds import Group

SMOOTH = 7  # most steps of the running mean
SMOOTHED = f"an eighth of the run's, at most {SMOOTH}"
BANDED = 8  # groups; with more, bands hide each other
MARKERS = ("o", "s", "^", "D", "v", "P")


def held_out_by_step(group: Group, main: bool = True):
    """Mean, min and max over seeds by step over all stages, of the main set or of the other sets' mean."""
    table = held_out(list(group.runs))
    if not len(table):
        return table
    first = table.set.iloc[0]
    table = table[(table.set == first) == main]
    return table.groupby(["run", "at"]).reward.mean().groupby("at").agg(["mean", "min", "max"])


def smoothed(table, name: str, change=lambda value: value):
    """A metric by step over all stages: mean, lowest and highest of each seed's running mean.

    It is over an eighth of the steps, `SMOOTH` at most: over as many as there are, it would be one number.
    """
    wide = table.pivot_table(index="at", columns="run", values=name, aggfunc="last")
    width = max(min(SMOOTH, len(wide) // 8), 1)
    wide = change(wide).rolling(width, min_periods=1, center=True).mean()
    return wide.mean(axis=1), wide.min(axis=1), wide.max(axis=1)


def band(ax, group: Group, name: str, filled: bool = True, change=lambda value: value) -> None:
    """A metric's curve, with its band over seeds if `filled`; nothing where no run has it."""
    table = steps(list(group.runs))
    table = table[table.stage == "rl"] if len(table) else table
    if name not in table.columns or not table[name].notna().any():
        return
    mean, low, high = smoothed(table, name, change)
    ax.plot(mean.index, mean, color=group.color, linestyle=group.dashes)
    if filled:
        ax.fill_between(mean.index, low, high, color=group.color, alpha=0.15, linewidth=0)


def with_interval(ax, found: Interval, y: float, color: str) -> None:
    """A mean as a point with its interval: a point is seen at 0, where a bar is not."""
    ax.plot([found.low, found.high], [y, y], color=color)
    ax.plot(found.value, y, "o", color=color)


def wrapped(labels: Sequence[str], width: int) -> tuple[list[str], int]:
    """Labels in lines of so many letters, and the lines of the longest."""
    found = [textwrap.fill(label, width) for label in labels]
    return found, max(label.count("\n") + 1 for label in found)


def bands(groups: Sequence[Group]) -> dict[str, str]:
    """What a caption says of the lines: with few groups there are bands around them."""
    return {"bands": "lowest to highest seed"} if len(groups) <= BANDED else {"lines": "means over seeds"}


def markers(groups: Sequence[Group]) -> dict[str, str]:
    """A marker per group: methods that share a colour have different ones."""
    seen: Counter[str] = Counter()
    found = {}
    for group in groups:
        found[group.label] = MARKERS[seen[group.color] % len(MARKERS)]
        seen[group.color] += 1
    return found


def legend(fig, groups: Sequence[Group], markers: dict[str, str] | None = None, bases: Sequence[str] = ()) -> None:
    """The groups' names above the axes, in as many columns as fit; the figure grows by as much as they need."""
    from matplotlib.lines import Line2D

    entries = []
    for group in groups:
        look = {"marker": markers[group.label], "linestyle": ""} if markers else {"linestyle": group.dashes}
        entries.append(Line2D([], [], color=group.color, label=group.label, **look))
    for i, label in enumerate(bases):
        line = {"color": METHOD_COLORS["base"], "linestyle": METHOD_DASHES["base"], "marker": MARKERS[i % len(MARKERS)]}
        entries.append(Line2D([], [], label=label, **line))
    width, height = fig.get_size_inches()
    widest = 0.45 + 0.053 * max(len(entry.get_label()) for entry in entries)  # inches, handle and gap included
    columns = min(max(int(width // widest), 1), len(entries))
    fig.set_size_inches(width, height + 0.1 + 0.15 * -(-len(entries) // columns))
    fig.legend(handles=entries, loc="outside upper left", ncols=columns)
