"""`trapo sweep`: the same training at every point of a grid, several seeds each, as ordinary run folders.

    OUT/sweep.json             the grids that were asked for, and what all points have in common
    OUT/alpha=0.1,seed=0/      a run folder, and in its `eval` what `trapo eval` leaves
    OUT/base/eval              the evaluation of the model before training
    OUT/logs/...               what each point's processes printed

Points run in processes of their own, on this machine or through Ray. A point that is finished is not run again and one
that was killed goes on from its last checkpoint, so the same command again does only what is missing; one that fails is
named with its last error and does not stop the others.
"""

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from msgspec import Struct
from rich.live import Live
from rich.table import Table

from trapo.files import locked, write_whole
from trapo.records import Count, read_json
from trapo.redact import redacted_command
from trapo.runs.folder import RunFolder
from trapo.terminal import Console
from trapo_evals.folder import EvalFolder

from .launchers import LAUNCHERS, POINT, outcome, process_slots

ALPHAS = ("0.01", "0.03", "0.1", "0.3", "1")
# The paper's guidance, with less and more of the trace, whole demonstrations only, eager and reluctant.
PREFIXES = {
    "paper": {},
    "short prefixes": {"prefix_ratios": "0 0.1 0.25 0.5"},
    "long prefixes": {"prefix_ratios": "0 0.5 0.8 1"},
    "whole or nothing": {"micro_group_sizes": "7 1", "prefix_ratios": "0 1", "thresholds": "-1 0.9"},
    "always whole": {"micro_group_sizes": "7 1", "prefix_ratios": "0 1", "thresholds": "-1 2"},
    "only where all fail": {"thresholds": "-1 0.01 0.01 0.01"},
    "small first group": {"micro_group_sizes": "2 2 2 2"},
}
NAMED = ("alpha", "prefix", "methods")
BASE = "base"  # the folder with the evaluation of the model before training
MEASURED_STEPS = 4  # of the dry run


@dataclass(frozen=True)
class Point:
    """One point of a grid: a name, which is its folder's, and the flags of `trapo train` that make it.

    With `model`, that is evaluated under the point's name and nothing is trained.
    """

    name: str
    flags: tuple[str, ...] = ()
    model: str | None = None


class SweepRecord(Struct):
    """A record of a sweep: sweep.json."""

    common: list[str]
    bench: str
    samples: Count
    grids: list[str]
    points: dict[str, list[str]]
    command: list[str] = []


@dataclass
class Sweep:
    """What to run.

    Attributes:
        points: by name, none twice.
        common: flags of `trapo train` for all of them.
        bench: what `trapo eval` is given for each finished point; "" for no evaluation.
        samples: of each question of it.
        out: the folder.
        grids: as the user gave them, for the record.
        base: the model before training, which is evaluated too; None where the points begin with different ones.
        eval_flags: of `trapo eval`, besides the model, the benchmark, the samples and temperature 1.
    """

    points: list[Point]
    common: tuple[str, ...]
    bench: str
    samples: int
    out: Path
    grids: list[str] = field(default_factory=list)
    base: str | None = None
    eval_flags: tuple[str, ...] = ()


def points(grids: Sequence[str], seeds: Sequence[int]) -> list[Point]:
    """The points of named grids ("alpha", "prefix", "methods") and of FIELD=a,b,c, in all combinations.

    Raises:
        ValueError: for a grid that is neither, an unknown field, or a point given twice.
    """
    if not grids:
        raise ValueError(f"give a grid: {', '.join(NAMED)}, or FIELD=a,b,c (trapo train --fields lists the fields)")
    axes = [_axis(grid) for grid in grids]
    flags = [flag for axis in axes for flag in {f for _, fs in axis for f in fs if f.startswith("--")}]
    if twice := [flag for flag in flags if flags.count(flag) > 1]:
        raise ValueError(f"{twice[0].lstrip('-')} is given twice, in grids {', '.join(grids)}: sweep it in one of them")
    found = []
    for parts in itertools.product(*axes, [(f"seed={seed}", ("--seed", str(seed))) for seed in seeds]):
        name = ",".join(part for part, _ in parts)
        found.append(Point(name, tuple(flag for _, flags in parts for flag in flags)))
    if twice := [name for name, n in Counter(point.name for point in found).items() if n > 1]:
        raise ValueError(f"two points would be called {twice[0]}: sweep their values into folders of their own")
    return found


def merged(points: Sequence[Point], config_of: Callable[[tuple[str, ...]], Any]) -> list[Point]:
    """The points without what their method makes no use of, such as GRPO of alpha; those that are then the same, once.

    Args:
        points: of a grid.
        config_of: a point's flags -> its configuration.
    """
    found: dict[str, Point] = {}
    for point in points:
        unused = _unused(config_of(point.flags))
        starts = [i for i, part in enumerate(point.flags) if part.startswith("--")]
        fields = [point.flags[i:j] for i, j in zip(starts, [*starts[1:], None], strict=True)]
        kept = [part for parts in fields if parts[0][2:] not in unused for part in parts]
        name = ",".join(part for part in point.name.split(",") if part.partition("=")[0] not in unused)
        found.setdefault(name, Point(name, tuple(kept)))
    return list(found.values())


def _unused(config: Any) -> set[str]:
    """Parameters of other expert weights than the configuration's, and of an SFT stage that it does not have."""
    from trapo.method.expert import WEIGHTS, weight_parameters

    used = set(weight_parameters(config.expert_weight)) if config.trains_expert_tokens else set()
    unused = {name for weight in WEIGHTS for name in weight_parameters(weight)} - used
    return unused | (set() if "sft" in config.stages else {n for n in vars(config) if n.startswith("sft_")})


def _axis(grid: str) -> list[tuple[str, tuple[str, ...]]]:
    """One axis of a grid: (what a point is called by it, its flags)."""
    if grid == "alpha":
        return _axis(f"alpha={','.join(ALPHAS)}")
    if grid == "prefix":
        return [
            (f"prefix={_safe(name)}", tuple(part for k, v in flags.items() for part in (f"--{k}", *v.split())))
            for name, flags in PREFIXES.items()
        ]
    if grid == "methods":
        from trapo.recipe import recipe_names

        return _axis(f"recipe={','.join(sorted(recipe_names(), key=lambda name: name != 'trapo'))}")
    name, equals, values = grid.partition("=")
    if not equals:
        raise ValueError(f"{grid!r} is no grid: give {', '.join(NAMED)}, or FIELD=a,b,c")
    name = name.strip().replace("-", "_")
    _check_field(name)
    listed = [value.strip() for value in values.split(",")]
    if len(set(listed)) < len(listed) or "" in listed:
        raise ValueError(f"{grid}: give each value once, and none that is empty")
    # Several numbers of one value, such as prefix_ratios, are given with spaces or plus signs: 0+0.5+1.
    return [(f"{name}={_safe(value)}", (f"--{name}", *re.split(r"(?<![eE])\+|\s+", value))) for value in listed]


def _check_field(name: str) -> None:
    from dataclasses import fields
    from difflib import get_close_matches

    from trapo.config import TRAPOConfig

    known = {"recipe", "model", "data"} | {f.name for f in fields(TRAPOConfig)} - {"output_dir", "seed"}
    if name not in known:
        close = get_close_matches(name, known, n=1) if name != "seed" else []
        raise ValueError(f"{name!r} cannot be swept{f': did you mean {close[0]!r}?' if close else ''} (seeds: --seeds)")


def _safe(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text)


# ---------------------------------------------------------------- running


def run(
    sweep: Sweep,
    console: Console,
    jobs: int | None = None,
    launcher: str = "local",
) -> list[str]:
    """Run what is missing; the names of the points that failed.

    Args:
        sweep: what.
        console: for the live table.
        jobs: points at a time; by default one per GPU, or per two cores (a trainer and its graders).
        launcher: "local" or "ray".

    Raises:
        ValueError: the folder holds a sweep with other common flags, or another process is at it; no Ray.
    """
    slots = process_slots(jobs)
    with _held(sweep):
        base = [Point(BASE, model=sweep.base)] if sweep.base and sweep.bench else []
        work = {point.name: _work(sweep, point) for point in [*sweep.points, *base] if _missing(sweep, point)}
        launch = LAUNCHERS[launcher]
        failed: dict[str, str] = {}
        running: set[str] = set()
        with Live(console=console, auto_refresh=False, transient=False) if console.is_terminal else _Quiet() as live:
            for name, event, error in launch(work, slots):
                if event == "start":
                    running.add(name)
                elif event == "end":
                    running.discard(name)
                    if error:
                        failed[name] = error
                    if not console.is_terminal:
                        console.print(f"{name}: {error or 'done'}", markup=False, highlight=False, soft_wrap=True)
                live.update(_table(sweep, running, failed), refresh=True)
    console.print(_table(sweep, set(), failed)) if not console.is_terminal else None
    for name, error in failed.items():
        log = sweep.out / "logs" / f"{name}.log"
        console.print(f"{name} failed: {error}  (see {log})", markup=False, highlight=False, soft_wrap=True)
    return list(failed)


class _Quiet:
    """In place of a live table where there is no terminal."""

    def __enter__(self):
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def update(self, *args, **kwargs) -> None:
        """Nothing to show."""


@contextmanager
def _held(sweep: Sweep) -> Iterator[None]:
    """Hold the sweep's folder while the block runs, after making sure that it is this sweep's."""
    with locked(sweep.out / ".lock", "sweeping", "choose another --out"):
        (sweep.out / "logs").mkdir(exist_ok=True)
        path = sweep.out / "sweep.json"
        common = {"common": redacted_command(sweep.common), "bench": sweep.bench, "samples": sweep.samples}
        new = common | {"grids": [], "points": {}}
        try:
            before = read_json(path, SweepRecord) if path.exists() else new
        except ValueError as error:
            raise ValueError(f"{error}; remove it, or choose another --out") from None
        changed = [f"{k} {shlex.join(map(str, [before[k]] if not isinstance(before[k], list) else before[k]))!r} there"
                   for k in common if before[k] != common[k]]  # fmt: skip
        if changed:
            raise ValueError(
                f"{sweep.out} holds a sweep with other settings ({'; '.join(changed)}): give the same, or another --out"
            )
        record = common | {
            "grids": list(dict.fromkeys([*before["grids"], *sweep.grids])),
            "points": before["points"] | {point.name: redacted_command(point.flags) for point in sweep.points},
            "command": redacted_command([Path(sys.argv[0]).name, *sys.argv[1:]]),
        }
        write_whole(path, json.dumps(record, indent=1) + "\n")
        yield


def _missing(sweep: Sweep, point: Point) -> bool:
    folder = sweep.out / point.name
    trained = point.model or RunFolder(folder).final.exists()
    return not trained or (bool(sweep.bench) and not _evaluated(folder))


def _evaluated(folder: Path) -> bool:
    try:
        return bool(EvalFolder(folder / "eval").finished())
    except ValueError:
        return False


def _work(sweep: Sweep, point: Point) -> dict[str, Any]:
    """What `trapo_analysis.sweep_worker` is told: run a point, or go on with it, and evaluate it."""
    return {
        "folder": str((sweep.out / point.name).absolute()),
        "log": str((sweep.out / "logs" / f"{point.name}.log").absolute()),
        "flags": [*sweep.common, *point.flags],
        "bench": sweep.bench,
        "samples": sweep.samples,
        "eval_flags": list(sweep.eval_flags),
        "model": point.model,
    }


# ---------------------------------------------------------------- showing


def _table(sweep: Sweep, running: set[str], failed: dict[str, str]) -> Table:
    """Point, state, step, newest held-out accuracy, evaluation."""
    table = Table("point", "state", "step", "held-out", sweep.bench or "", box=None, padding=(0, 2, 0, 0))
    for point in sweep.points:
        folder = RunFolder(sweep.out / point.name)
        done = not _missing(sweep, point)
        state = "done" if done else "failed" if point.name in failed else "runs" if point.name in running else "waits"
        table.add_row(point.name, state, *_progress(folder, sweep.bench))
    return table


def _progress(folder: RunFolder, bench: str) -> tuple[str, str, str]:
    step, accuracy, evaluated = "-", "-", "-"
    try:
        if records := folder.records("metrics.jsonl"):
            step = f"{records[-1]['stage']} {records[-1]['step']}/{folder.record()['config']['max_steps']}"
        if records := folder.records("evals.jsonl"):
            first = records[-1]["set"] if len(records) == 1 else records[0]["set"]
            accuracy = f"{[r['reward'] for r in records if r['set'] == first][-1]:.3f} {first}"
    except (OSError, ValueError, KeyError):
        pass  # it is being written, or damaged
    if bench and _evaluated(folder.path / ""):
        results = EvalFolder(folder.path / "eval").finished()["results"]
        name, result = next(iter(results.items()))
        evaluated = f"{result['avg@n']['value']:.3f} {name}"
    return step, accuracy, evaluated


def dry_run(
    sweep: Sweep, console: Console, steps_of: Callable[[list[str], int], int | None], jobs: int | None = None
) -> dict[str, Any]:
    """Print the points, and what they would cost by a few measured steps of the first; nothing is left behind.

    Args:
        sweep: what.
        console: to print to.
        steps_of: flags of `trapo train` and its training rows -> steps of the whole run, None if unknown.
        jobs: points at a time, as in `run`.
    """
    slots, missing = process_slots(jobs), [point for point in sweep.points if _missing(sweep, point)]
    for point in sweep.points:
        state = "to run" if point in missing else "done"
        console.print(f"{point.name}: {state}: trapo train {shlex.join([*sweep.common, *point.flags])}",
                      markup=False, highlight=False, soft_wrap=True)  # fmt: skip
    found: dict[str, Any] = {"points": len(sweep.points), "to run": len(missing)}
    if missing:
        found |= _measure(sweep, missing[0], slots[0])
        steps, seconds = steps_of([*sweep.common, *missing[0].flags], found["rows"]), found["seconds per step"]
        found["steps each"] = steps
        found["hours"] = None if steps is None else round(len(missing) * steps * seconds / len(slots) / 3600, 2)
        hours = "as long as they have steps (--max_steps)" if steps is None else f"about {found['hours']} hours"
        console.print(
            f"{len(missing)} points of {'unknown' if steps is None else steps} steps; a step takes {seconds:.2f} s and "
            f"draws {found['tokens per step']:.0f} tokens ({MEASURED_STEPS} steps of {missing[0].name} measured): "
            f"{hours} with {len(slots)} at a time, evaluations apart",
            soft_wrap=True,
        )
    return found


def _measure(sweep: Sweep, point: Point, environment: dict[str, str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        short = ["--max_steps", str(MEASURED_STEPS), "--sft_max_steps", str(MEASURED_STEPS), "--eval_strategy", "no"]
        flags = [*sweep.common, *point.flags, *short, "--save_strategy", "no"]
        what = {"folder": f"{folder}/run", "log": f"{folder}/log", "flags": flags, "bench": "", "samples": 1}
        done = subprocess.run(
            [*POINT, json.dumps(what)], stdout=subprocess.PIPE, text=True, env=os.environ | environment
        )
        if error := outcome(done.returncode, done.stdout):
            raise ValueError(f"{point.name} cannot run: {error}")
        records, rows = RunFolder(f"{folder}/run").records("metrics.jsonl"), RunFolder(f"{folder}/run").record()["rows"]
    return {
        "rows": rows,
        "seconds per step": median(record["seconds/step"] for record in records),
        "tokens per step": median(
            record.get("tokens/rollout", 0.0) + record.get("tokens/aborted", 0.0) for record in records
        ),
    }
