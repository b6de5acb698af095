"""What `trapo sweep GRID ... [FLAGS]` means: its points and what they have in common, checked before any training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trapo.command.settings import parse_names
from trapo_evals import benchmarks

from .sweep import Sweep, merged, points


def sweep_of_flags(
    flags: Sequence[str],
    config_of: Callable[[list[str]], Any],
    *,
    seeds: range,
    bench: str,
    samples: int,
    out: Path | None,
) -> tuple[Sweep, int]:
    """The sweep that a command asks for, and how many points were asked for; equal ones are one.

    Args:
        flags: grids, then flags of `trapo train` that hold for all points.
        config_of: the configuration that flags of `trapo train` mean.
        seeds: of each point.
        bench: what trained models are evaluated on; "" for nothing.
        samples: of each question of it.
        out: the folder; named after the grids where it is None.

    Raises:
        ValueError: for whatever any of the points could not be trained with.
    """
    first = next((i for i, part in enumerate(flags) if part.startswith("-")), len(flags))
    grids, common = list(flags[:first]), list(flags[first:])
    if common and not grids:
        raise ValueError(f"{' '.join(common)}: give a grid before the flags, as in trapo sweep alpha --max_steps 50")
    if len(seeds) < 1 or samples < 1:
        raise ValueError(f"--seeds {len(seeds)}, --samples {samples}: give at least 1 of each")
    if bench:
        benchmarks.names(bench)  # its error comes before any training
    asked = points(grids, seeds)
    found = merged(asked, lambda own: config_of([*common, *own]))
    folder = out or Path("sweeps") / "-".join(grid.replace("=", "_").replace(",", "_") for grid in grids)
    named, _ = parse_names(common)
    same = named.data in (None, "world") and not any(grid.startswith(("model=", "data=")) for grid in grids)
    base = named.model if same else None  # elsewhere it would be asked other questions than the runs
    return Sweep(found, tuple(common), bench, samples, folder, grids, base), len(asked)
