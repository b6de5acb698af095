"""`trapo report`: runs or sweeps as one HTML file that needs no network: settings, results, curves, rollouts."""

import base64
import gzip
import hashlib
import html
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trapo.files import write_whole
from trapo.records import LINES, read_lines
from trapo.redact import redacted_line
from trapo.runs.intervals import Interval
from trapo.terminal import say

from . import figures
from .figure_parts import held_out_by_step, smoothed
from .runs import Run, base_evaluation, base_evaluations, cost, find, settings, steps
from .scores import base_scores, forgetting, paired, reward_name, scores
from .seeds import Group, groups, reference

TEMPLATE = Path(__file__).parent / "page.html"
CURVES = {
    "reward/plain": "reward, plain samples",
    "reward/guided": "reward, guided samples",
    "length/own": "tokens of own samples",
    "entropy": "entropy, nats",
    "expert/p": "mean probability of expert tokens",
    "guided/micro_group_1": "share of prompts guided, micro-group 2",
}
TITLES = {
    "learning": "Reward, held-out accuracy, length and entropy over training",
    "guided": "Share of prompts that are guided",
    "probability": "Probability of expert and own tokens",
    "accuracy": "Held-out accuracy, and what was forgotten",
    "axis": "Along the field that was swept",
    "differences": "Differences, paired by seed",
    "pass_at_k": "pass@k",
    "cost": "Accuracy against cost",
    "seconds": "Where the seconds go",
    "published": "Beside published numbers",
}
LEVELS = 10  # a probability is shown as one of so many shades
FORGETTING = ("world_direct", "world_facts", "gpqa", "mmlu_pro", "arc_c")  # benchmarks of what training is not about
KINDS = ("plain", "guided", "whole demonstration")


def make(paths: Sequence[Path], out: Path, command: str, rollouts: int = 20_000) -> Path:
    """Write the report.

    Args:
        paths: runs, or folders of runs.
        out: the HTML file; its figures are also written beside it, into `figures`.
        command: the command line that makes it.
        rollouts: most samples in its browser; where there are more, whole prompts are left out, the same in every run.

    Raises:
        ValueError: for a path without a run, or a place that cannot be written.
    """
    runs = find(paths, lambda line: say(f"[warning] {line}", err=True))
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise ValueError(f"--out {out}: give a file in a folder that exists")
    together = groups(runs)
    pictures = figures.draw(together, out.with_name("figures"), command)
    page = {
        "command": redacted_line(command),
        "methods": [{"label": group.label, "color": group.color, "dash": _dash(group)} for group in together],
        "settings": _settings(runs),
        "results": [_result(group) for group in together],
        "bases": _bases(together),
        "paired": paired(together),
        "first": reference(together).label,
        "reward": reward_name(together),
        "curves": _curves(together),
        "ledger": [_ledger(group, together) for group in together],
        "figures": [_embedded(name, path) for name, path in pictures.items()],
        "rollouts": _rollouts(together, rollouts),
        "evaluations": _evaluations(runs),
    }
    content = gzip.compress(json.dumps(_finite(page)).encode(), mtime=0)
    text = TEMPLATE.read_text(encoding="utf-8")
    text = text.replace("__TITLE__", html.escape(", ".join(path.name or str(path) for path in paths)))
    text = text.replace("__DATA__", base64.b64encode(content).decode())
    before, after = text.split("__PLOTLY__")
    from plotly.offline import get_plotlyjs

    write_whole(out, before + get_plotlyjs() + after)
    return out


def _settings(runs: list[Run]) -> dict[str, Any]:
    """Every configuration field of every run; those in which they differ first."""
    table = settings(runs)
    fields = dict.fromkeys(name for run in runs for name in run.record.get("config", {}))
    rows = {name: [_text(run.record.get("config", {}).get(name)) for run in runs] for name in fields}
    head = {
        name: [_text(value) for value in table[name]]
        for name in ("recipe", "alpha", "seed", "model", "data", "finished")
    }
    head |= {name: [_text(run.record.get(name)) for run in runs] for name in ("git", "device", "parameters")}
    head |= {"command": [run.command for run in runs]}
    versions = [", ".join(f"{k} {v}" for k, v in run.record.get("versions", {}).items()) for run in runs]
    rows = head | {"versions": versions} | {name: row for name, row in rows.items() if name not in head}
    differing = [name for name, row in rows.items() if len(set(row)) > 1]
    same = [name for name in rows if name not in differing]
    return {"runs": [run.name for run in runs], "differing": len(differing),
            "rows": [[name, *rows[name]] for name in (*differing, *same)]}  # fmt: skip


def _dash(group: Group) -> str:
    """The group's dashes as plotly has them: lengths in pixels."""
    return "solid" if group.dashes == "-" else ",".join(f"{2.5 * part:g}px" for part in group.dashes[1])


def _result(group: Group) -> dict[str, Any]:
    found = scores(group)
    sets = {name: _shown(score.after) for name, score in found.items()}
    return {"label": group.label, "alpha": group.alpha, "finished": sum(run.finished for run in group.runs),
            "runs": len(group.runs), "sets": sets, "forgetting": forgetting(group)}  # fmt: skip


def _bases(together: Sequence[Group]) -> list[dict[str, Any]]:
    """What models reach before training, a row per model and data."""
    return [
        {"label": label, "sets": {name: _shown(found) for name, found in sets.items()}}
        for label, sets in base_scores(together).items()
    ]


def _shown(found: Interval) -> dict[str, Any]:
    return {"mean": found.value, "low": found.low, "high": found.high, "questions": found.questions}


def _curves(together: Sequence[Group]) -> dict[str, Any]:
    """Per metric and group: steps, mean, lowest and highest seed; and held-out accuracies."""
    found: dict[str, Any] = {}
    tables = [steps(list(group.runs)) for group in together]
    for name, title in CURVES.items():
        lines = []
        for group, table in zip(together, tables, strict=True):
            rl = table[table.stage == "rl"] if len(table) else table
            if name in rl.columns and rl[name].notna().any():
                mean, low, high = smoothed(rl, name)
                parts = {key: np.round(v, 5).tolist() for key, v in (("mean", mean), ("low", low), ("high", high))}
                lines.append({"label": group.label, "x": mean.index.tolist()} | parts)
        if lines:
            found[name] = {"title": title, "lines": lines}
    accuracies, what = {}, reward_name(together)
    for name, main in ((f"held-out {what}", True), (f"{what} on the other held-out sets (mean)", False)):
        lines = []
        for group in together:
            if len(table := held_out_by_step(group, main)):
                ends = {"mean": table["mean"].tolist(), "low": table["min"].tolist(), "high": table["max"].tolist()}
                lines.append({"label": group.label, "x": table.index.tolist()} | ends)
        if lines:
            accuracies["held-out" if main else "forgetting"] = {"title": name, "lines": lines}
    return accuracies | found


def _ledger(group: Group, together: Sequence[Group]) -> dict[str, Any]:
    """What a method was given: so that a comparison can be called fair, or not."""
    costs = [cost(run) for run in group.runs]
    rates = {_text(run.record.get("config", {}).get("learning_rate")) for run in group.runs}
    mean = {name: float(np.mean([found[name] for found in costs])) for name in costs[0]}
    tried = sum(other.recipe == group.recipe for other in together)
    return {"label": group.label, "settings tried": tried, "runs": len(group.runs),
            "learning rate": ", ".join(sorted(rates)), "forgetting": forgetting(group)} | mean  # fmt: skip


def _evaluations(runs: list[Run]) -> dict[str, Any]:
    """Benchmarks, and per evaluated run and per base what it reached on each; changes are to the run's own base."""
    records = [(label, base, base) for label, base in base_evaluations(runs).items()]
    records += [(run.name, run.evaluation(), base_evaluation(run)) for run in runs]
    rows = []
    for label, record, base in records:
        if not record:
            continue
        cells = {}
        for name, result in record["results"].items():
            cells[name] = {key: result["avg@n"][key] for key in ("value", "low", "high")} | {
                "reference": result.get("reference avg@n", {}).get("value"),
                "pass@n": result["pass@k"]["value"][-1] if "pass@k" in result else None,
                "n": result["samples"], "questions": result["questions"],
            }  # fmt: skip
        change = [
            result["avg@n"]["value"] - base["results"][name]["avg@n"]["value"]
            for name, result in record["results"].items()
            if base and name in FORGETTING and name in base["results"]
        ]
        rows.append({"label": label, "cells": cells, "forgetting": float(np.mean(change)) if change else None})
    return {"benchmarks": list(dict.fromkeys(name for row in rows for name in row["cells"])), "rows": rows}


def _embedded(name: str, path: Path) -> dict[str, str]:
    """A figure's files as text."""
    kinds = {kind: path.with_suffix(f".{kind}").read_bytes() for kind in ("png", "pdf")}
    return {"name": name, "title": TITLES[name]} | {k: base64.b64encode(v).decode() for k, v in kinds.items()}


# ---------------------------------------------------------------- rollouts


def _rollouts(together: Sequence[Group], most: int) -> dict[str, Any]:
    """The samples of the browser, column by column, and the words of their tokens."""
    runs = [run for group in together for run in group.runs]
    vocabularies = [str(run.record.get("model_path")) for run in runs]
    counts: Counter[str] = Counter()
    for run in runs:
        counts.update(str(line.get("prompt_id")) for line in _lines(run, "rollouts.jsonl"))
    chosen, total = {}, 0
    for prompt in sorted(counts, key=lambda name: hashlib.blake2b(name.encode()).digest()):
        if total + counts[prompt] <= most or not chosen:
            chosen[prompt] = len(chosen)
            total += counts[prompt]
    columns: dict[str, list] = {name: [] for name in (
        "run", "step", "prompt", "sample", "group", "kind", "ratio", "reward", "status", "finish", "advantage",
        "prefix", "own", "prefix p", "prefix w", "own p")}  # fmt: skip
    texts: dict[str, str] = {}
    statuses: dict[str, int] = {}
    words: dict[str, dict[int, str]] = {}  # by the model whose tokenizer it is
    for i, run in enumerate(runs):
        shades = {
            (line["rollout"], str(line.get("prompt_id")), line["sample"]): line
            for line in _lines(run, "prefixes.jsonl")
            if str(line.get("prompt_id")) in chosen
        }
        used: set[int] = set()
        trained: dict[tuple, dict[str, Any]] = {}  # a prefix that several samples continue is trained once
        for line in _lines(run, "rollouts.jsonl"):
            prompt = str(line.get("prompt_id"))
            if prompt not in chosen:
                continue
            texts.setdefault(prompt, line.get("prompt") or prompt)
            prefix, own = line.get("prefix_ids", []), line.get("own_ids", [])
            twins = (line["step"], prompt, tuple(prefix))
            if found := shades.get((line["step"], prompt, line["sample"])):
                trained[twins] = found
            shade = trained.get(twins, {}) if prefix else {}
            used.update(prefix, own)
            kind = 2 if line.get("finish") == "demonstration" else 1 if prefix else 0
            row = {
                "run": i, "step": line["step"], "prompt": chosen[prompt], "sample": line["sample"],
                "group": line.get("micro_group", 0), "kind": kind, "ratio": line.get("prefix_ratio", 0),
                "reward": line.get("reward"), "status": statuses.setdefault(str(line.get("status")), len(statuses)),
                "finish": str(line.get("finish"))[:1], "advantage": round(line.get("advantage") or 0.0, 3),
                "prefix": prefix, "own": own, "prefix p": _shades(shade.get("p")), "prefix w": _shades(shade.get("w")),
                "own p": _shades([math.exp(min(x, 0.0)) for x in line.get("own_logprobs", [])]),
            }  # fmt: skip
            for name, value in row.items():
                columns[name].append(value)
        known = words.setdefault(vocabularies[i], {})
        known |= _words(run, used - known.keys())
    return {
        "columns": columns,
        "runs": [run.name for run in runs],
        "prompts": [texts[prompt] for prompt in chosen if prompt in texts],
        "statuses": list(statuses),
        "kinds": KINDS,
        "words": list(words.values()),
        "vocabularies": [list(words).index(name) for name in vocabularies],
        "shown": total,
        "of": sum(counts.values()),
    }


def _lines(run: Run, name: str) -> Iterator[dict[str, Any]]:
    path = run.folder.path / name
    return read_lines(path, LINES[name]) if path.exists() else iter(())


def _shades(values: Sequence[float] | None) -> str:
    """Probabilities or weights as one digit each; weights above 1 count as 1, and NaN, of a run that failed, as 0."""
    return "".join(str(min(int(max(min(x, 1.0), 0.0) * LEVELS), LEVELS - 1)) if x == x else "0" for x in values or ())


def _words(run: Run, ids: set[int]) -> dict[int, str]:
    """Each token as text, by the run's own tokenizer; its number where there is none."""
    folder = run.folder.final if run.finished else run.record.get("model_path")
    try:
        if folder is None:
            raise ValueError("the run does not say what its model is")
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        return {i: tokenizer.decode([i]) for i in ids}
    except (OSError, ValueError, TypeError):
        return {i: f"[{i}]" for i in ids}


def _text(value: Any) -> str:
    if value is None or value != value:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _finite(value: Any) -> Any:
    from trapo_evals.folder import finite

    return finite(value)
