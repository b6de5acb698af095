"""Run folders as tidy pandas tables: what ran, its steps, its held-out accuracies, its evaluations.

A folder that is not finished, was killed while it wrote, or comes from another version still gives what it has: a
field that is missing is NaN, a file that is missing has no rows, and a torn last line is dropped with a warning.
"""

import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd

from trapo.records import LINES, read_lines
from trapo.redact import redacted_values
from trapo.runs.folder import RunFolder
from trapo.runs.intervals import held_out as held_out_interval
from trapo.runs.intervals import samples_each
from trapo_evals.folder import EvalFolder
from trapo_evals.records import EvalRecord

EVAL = "eval"  # where a run's own evaluation lies, beside its `final`
NAMES = ("model", "data")  # what a run is on, beside its method and configuration


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        name: its path below what was asked for, short for tables; with more of the path where others have the same.
        folder: itself.
        record: the content of run.json.
    """

    name: str
    folder: RunFolder
    record: dict[str, Any]

    @property
    def recipe(self) -> str:
        """The method's name; "?" for a run that no command started."""
        return self.record.get("recipe") or "?"

    @property
    def alpha(self) -> float | None:
        """The trust region's alpha; None for a method without one."""
        return self.record.get("method", {}).get("alpha")

    @property
    def seed(self) -> int | None:
        """The run's seed."""
        return self.record.get("config", {}).get("seed")

    def value(self, name: str) -> Any:
        """A field of the configuration, None where it has not that one; or one of `NAMES`, "?" as for `recipe`."""
        return self.record.get(name) or "?" if name in NAMES else self.record.get("config", {}).get(name)

    def uses(self, name: str) -> bool:
        """Whether the run's method makes use of a field: every configuration has an alpha, GRPO makes nothing of it."""
        method = self.record.get("method", {})
        if name.startswith("sft_"):
            return "sft" in method.get("stages", ["sft"])
        return "alpha" not in method or name not in _weight_parameters() or method.get(name) is not None

    @property
    def samples_each(self) -> int:
        """Samples of each held-out question."""
        return samples_each(self.record.get("config", {}))

    @property
    def finished(self) -> bool:
        """Whether the trained model is there."""
        return self.folder.final.exists()

    @property
    def command(self) -> str:
        """The command line that made it."""
        return " ".join(self.record.get("command", ()))

    def evaluation(self) -> dict[str, Any] | None:
        """The finished evaluation beside the run, None where there is none."""
        try:
            return EvalFolder(self.folder.path / EVAL).finished(EvalRecord)
        except ValueError:
            return None


def base_evaluation(run: Run) -> dict[str, Any] | None:
    """The evaluation of the model that this run began with, which its sweep leaves beside it; None where there is
    none."""
    try:
        return EvalFolder(run.folder.path.parent / "base" / EVAL).finished(EvalRecord)
    except ValueError:
        return None


def base_evaluations(runs: list[Run]) -> dict[str, dict[str, Any]]:
    """Label -> evaluation of each model that runs began with, once each: "base model" where there is only one."""
    found: dict[Any, tuple[str, dict[str, Any]]] = {}
    for run in runs:
        if (record := base_evaluation(run)) is not None:
            weights = record["model"].get("content") or run.value("model")
            found.setdefault(weights, (run.value("model"), record))
    if len(found) == 1:
        return {"base model": next(iter(found.values()))[1]}
    models = [model for model, _ in found.values()]
    return {
        f"base {model}{f' ({i + 1})' if models.count(model) > 1 else ''}": record
        for i, (model, record) in enumerate(found.values())
    }


def find(paths: Iterable[Path], complain: Callable[[str], None] | None = None) -> list[Run]:
    """The runs in folders: each path is a run, or holds runs one or two levels below (a sweep).

    Args:
        paths: where to look.
        complain: told of each run that is left out because a file of it cannot be read; without it that is an error.

    Raises:
        ValueError: for a path without a run, or a run.json that is none; with `complain`, if no run is left.
    """
    found: dict[Path, tuple[Path, int]] = {}  # folders, and how many parts of the path are the name
    listed: dict[Path, list[str]] = {}

    def place(file: Path) -> tuple:
        """A sweep's points in its order, which is not the alphabet's: the first is what others are compared with."""
        folder, parent = file.parent, file.parent.parent
        names = listed.setdefault(parent, _points(parent))
        return (parent, names.index(folder.name) if folder.name in names else len(names), folder.name)

    for path in paths:
        files = sorted((file for depth in ("", "*/", "*/*/") for file in path.glob(f"{depth}run.json")), key=place)
        if not files:
            raise ValueError(
                f"{path} holds no run (no run.json in it or below): `trapo train` and `trapo sweep` make them"
            )
        for file in files:
            below = len(file.parent.relative_to(path).parts)
            found.setdefault(file.parent.resolve(), (file.parent, max(below, 1)))
    runs, bad = [], []
    for name, (folder, _) in zip(_names(found.values()), found.values(), strict=True):
        try:
            run = Run(name, RunFolder(folder), _record(RunFolder(folder)))
            if complain is not None:
                _check_lines(run.folder)
            runs.append(run)
        except (OSError, ValueError) as error:
            if complain is None:
                raise
            bad.append((name, error))
    if not runs:
        raise ValueError(f"no run is left: {bad[0][1]}")
    for name, error in bad:
        complain(f"{name} is left out: {error}")
    return runs


def _check_lines(folder: RunFolder) -> None:
    """Read every line that a report reads; ValueError naming the first that is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a torn last line is told of when it is used
        for name, kind in LINES.items():
            if (folder.path / name).exists():
                for _ in read_lines(folder.path / name, kind):
                    pass


def _record(folder: RunFolder) -> dict[str, Any]:
    return redacted_values(folder.record())  # older versions wrote secrets into it


def _names(folders: Iterable[tuple[Path, int]]) -> list[str]:
    """The last parts of each path, as many as are asked for; more of them where names would be the same."""
    paths, lengths = zip(*((folder.absolute().parts, length) for folder, length in folders), strict=True)
    while True:
        names = ["/".join(path[-length:]) for path, length in zip(paths, lengths, strict=True)]
        counts = Counter(names)
        if len(counts) == len(names):
            return names
        lengths = [length + (counts[name] > 1) for name, length in zip(names, lengths, strict=True)]


def _points(folder: Path) -> list[str]:
    try:
        return list(json.loads((folder / "sweep.json").read_text(encoding="utf-8"))["points"])
    except (OSError, ValueError, KeyError, TypeError):
        return []  # no sweep


def varying(runs: list[Run]) -> list[str]:
    """What the runs differ in: `NAMES` and configuration fields, but the seed and what is no part of the method."""
    apart = {"output_dir", "seed", "data_seed", "run_name", "logging_dir", "do_eval", "report_to", "log_rollouts"}
    apart |= {f"{what}_{how}" for what in ("eval", "save", "logging") for how in ("strategy", "steps")}
    fields = dict.fromkeys((*NAMES, *(name for run in runs for name in run.record.get("config", {}))))

    def value(run, name):
        return json.dumps(run.value(name), sort_keys=True)

    return [name for name in fields if name not in apart and len({value(run, name) for run in runs}) > 1]


def settings(runs: list[Run]) -> pd.DataFrame:
    """A row per run: name, recipe, alpha, seed, model, data, whether it is finished, and the fields that vary."""
    columns = [name for name in varying(runs) if name not in ("alpha", *NAMES)]
    return pd.DataFrame(
        [
            {"run": run.name, "recipe": run.recipe, "alpha": run.alpha, "seed": run.seed}
            | {name: run.value(name) for name in NAMES}
            | {"finished": run.finished}
            | {name: _cell(run.value(name)) for name in columns}
            for run in runs
        ]
    )


def steps(runs: list[Run]) -> pd.DataFrame:
    """metrics.jsonl: a row per run and step, a column per metric; NaN where a run does not have it.

    `step` counts within a stage, `at` over all of them: RL's first step after 100 of SFT is at 101.
    """
    return _stacked(runs, "metrics.jsonl", ["run", "recipe", "alpha", "seed", "stage", "step", "at"])


def held_out(runs: list[Run]) -> pd.DataFrame:
    """evals.jsonl: a row per run, step and held-out set: `reward`, its 95% interval over questions `low` to `high`.

    `share` is whether rewards are 0 or 1, `questions` and `samples` how many there are; `step` and `at` as in `steps`.
    """
    names = ["run", "recipe", "alpha", "seed", "stage", "step", "at", "set", "reward", "samples"]
    found = _stacked(runs, "evals.jsonl", names).drop(columns=["by_question", "binary"], errors="ignore")
    known = [
        held_out_interval([record], run.samples_each) for run in runs for record in run.folder.records("evals.jsonl")
    ]
    for name in ("low", "high", "share", "questions"):
        found[name] = [getattr(one, name) for one in known]
    return found


def results(runs: list[Run]) -> pd.DataFrame:
    """A row per finished run: last accuracy per held-out set, the first as `before NAME`, and what it cost.

    Cost: samples drawn, demonstrations shown, tokens drawn, expert tokens trained, tokens updated, seconds.
    """
    rows = []
    for run in runs:
        if not run.finished:
            continue
        records = run.folder.records("evals.jsonl")
        row = {"run": run.name, "recipe": run.recipe, "alpha": run.alpha, "seed": run.seed}
        for name in dict.fromkeys(record["set"] for record in records):
            mine = [record["reward"] for record in records if record["set"] == name]
            row |= {f"before {name}": mine[0], name: mine[-1]}
        rows.append(row | cost(run))
    return pd.DataFrame(rows)


def cost(run: Run) -> dict[str, float]:
    """What a run took so far, over all its stages."""
    records = run.folder.records("metrics.jsonl")
    last = records[-1] if records else {}

    def total(name: str) -> float:
        return float(sum(record.get(name, 0.0) for record in records))

    seconds = {part: total(f"seconds/{part}") for part in ("step", "rollout", "grading", "update")}
    return {
        "samples": last.get("seen/samples", 0),
        "demonstrations": last.get("seen/demonstrations", 0),
        "drawn tokens": total("tokens/rollout"),
        "aborted tokens": total("tokens/aborted"),
        "expert tokens": total("tokens/expert"),
        "update tokens": total("tokens/update"),
        "seconds": seconds["step"],
    } | {f"seconds {part}": seconds[part] for part in ("rollout", "grading", "update")}


def evaluations(runs: list[Run]) -> pd.DataFrame:
    """A row per evaluated run and benchmark: avg@n with its interval, the papers' grading, pass@n, maj@n."""
    rows = []
    for run in runs:
        record = run.evaluation()
        for name, result in (record or {"results": {}})["results"].items():
            rows.append(
                {"run": run.name, "recipe": run.recipe, "alpha": run.alpha, "seed": run.seed, "benchmark": name}
                | {key: result["avg@n"][key] for key in ("value", "low", "high", "se_questions")}
                | {"questions": result["questions"], "n": result["samples"]}
                | {"reference": result.get("reference avg@n", {}).get("value")}
                | {"pass@n": result["pass@k"]["value"][-1] if "pass@k" in result else None}
            )
    return pd.DataFrame(rows)


@cache
def _weight_parameters() -> frozenset[str]:
    """The fields that some expert weight has."""
    from trapo.method.expert import WEIGHTS, weight_parameters

    return frozenset(name for weight in WEIGHTS for name in weight_parameters(weight))


def _stacked(runs: list[Run], name: str, columns: list[str]) -> pd.DataFrame:
    rows = []
    for run in runs:
        before = _steps_before(run)
        rows += [
            {"run": run.name, "recipe": run.recipe, "alpha": run.alpha, "seed": run.seed}
            | record
            | ({"at": record["step"] + before.get(record.get("stage"), 0)} if "step" in record else {})
            for record in run.folder.records(name)
        ]
    found = pd.DataFrame(rows)
    return found.reindex(columns=[*columns, *(c for c in found.columns if c not in columns)])


def _steps_before(run: Run) -> dict[str | None, int]:
    """Stage -> how many steps the stages before it took."""
    lengths: dict[str | None, int] = {}
    for record in run.folder.records("metrics.jsonl"):
        stage = record.get("stage")
        lengths[stage] = max(lengths.get(stage, 0), record.get("step", 0))
    done = accumulate(lengths.values(), initial=0)
    return dict(zip(lengths, done, strict=False))


def _cell(value: Any) -> Any:
    """Lists and dictionaries as text: a table's cells can be compared and grouped."""
    return json.dumps(value) if isinstance(value, list | dict) else value
