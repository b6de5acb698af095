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

from trapo.run import read_jsonl, write_whole

from . import figures
from .groups import Group, groups
from .runs import Run, cost, find, settings

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
    "published": "Beside published numbers",
}
LEVELS = 10  # a probability is shown as one of so many shades
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
    runs = find(paths)
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise ValueError(f"--out {out}: give a file in a folder that exists")
    together = groups(runs)
    pictures = figures.draw(together, out.with_name("figures"), command)
    page = {
        "command": command,
        "methods": [{"label": group.label, "color": group.color, "runs": len(group.runs)} for group in together],
        "settings": _settings(runs),
        "results": [_result(group) for group in together],
        "paired": figures.paired(together),
        "first": together[0].label,
        "curves": _curves(together),
        "ledger": [_ledger(group) for group in together],
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


def _result(group: Group) -> dict[str, Any]:
    sets = {
        name: {"mean": mean, "low": low, "high": high, "before": before}
        for name, (mean, low, high, before) in figures.scores(group).items()
    }
    return {"label": group.label, "alpha": group.alpha, "finished": sum(run.finished for run in group.runs),
            "runs": len(group.runs), "sets": sets}  # fmt: skip


def _curves(together: Sequence[Group]) -> dict[str, Any]:
    """Per metric and group: steps, mean, lowest and highest seed; and held-out accuracies."""
    found: dict[str, Any] = {}
    tables = [figures.steps(list(group.runs)) for group in together]
    for name, title in CURVES.items():
        lines = []
        for group, table in zip(together, tables, strict=True):
            rl = table[table.stage == "rl"] if len(table) else table
            if name in rl.columns and rl[name].notna().any():
                mean, low, high = figures.smoothed(rl, name)
                parts = {key: np.round(v, 5).tolist() for key, v in (("mean", mean), ("low", low), ("high", high))}
                lines.append({"label": group.label, "x": mean.index.tolist()} | parts)
        if lines:
            found[name] = {"title": title, "lines": lines}
    lines = []
    for group in together:
        table = figures.held_out(list(group.runs))
        if len(table):
            main = table[table.set == table.set.iloc[0]].groupby("step").reward
            lines.append({"label": group.label, "x": main.mean().index.tolist(), "mean": main.mean().tolist(),
                          "low": main.min().tolist(), "high": main.max().tolist()})  # fmt: skip
    return ({"held-out": {"title": "held-out accuracy", "lines": lines}} if lines else {}) | found


def _ledger(group: Group) -> dict[str, Any]:
    """What a method was given: so that a comparison can be called fair, or not."""
    costs = [cost(run) for run in group.runs]
    rates = {str(run.record.get("config", {}).get(name)) for run in group.runs for name in ("learning_rate",)}
    mean = {name: float(np.mean([found[name] for found in costs])) for name in costs[0]}
    return {"label": group.label, "runs": len(group.runs), "learning rate": ", ".join(sorted(rates))} | mean


def _evaluations(runs: list[Run]) -> list[dict[str, Any]]:
    from .runs import evaluations

    return evaluations(runs).to_dict("records")


def _embedded(name: str, path: Path) -> dict[str, str]:
    """A figure's files as text."""
    kinds = {kind: path.with_suffix(f".{kind}").read_bytes() for kind in ("png", "pdf")}
    return {"name": name, "title": TITLES[name]} | {k: base64.b64encode(v).decode() for k, v in kinds.items()}


# ---------------------------------------------------------------- rollouts


def _rollouts(together: Sequence[Group], most: int) -> dict[str, Any]:
    """The samples of the browser, column by column, and the words of their tokens."""
    runs = [run for group in together for run in group.runs]
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
    words: dict[int, str] = {}
    for i, run in enumerate(runs):
        shades = {
            (line["rollout"], str(line["prompt_id"]), line["sample"]): line
            for line in _lines(run, "prefixes.jsonl")
            if str(line["prompt_id"]) in chosen
        }
        used: set[int] = set()
        for line in _lines(run, "rollouts.jsonl"):
            prompt = str(line.get("prompt_id"))
            if prompt not in chosen:
                continue
            texts.setdefault(prompt, line.get("prompt") or prompt)
            shade = shades.get((line["step"], prompt, line["sample"]), {})
            prefix, own = line.get("prefix_ids", []), line.get("own_ids", [])
            used.update(prefix, own)
            kind = 2 if line.get("finish") == "demonstration" else 1 if prefix else 0
            row = {
                "run": i, "step": line["step"], "prompt": chosen[prompt], "sample": line["sample"],
                "group": line.get("micro_group", 0), "kind": kind, "ratio": line.get("prefix_ratio", 0),
                "reward": line.get("reward"), "status": statuses.setdefault(str(line.get("status")), len(statuses)),
                "finish": str(line.get("finish"))[0], "advantage": round(line.get("advantage") or 0.0, 3),
                "prefix": prefix, "own": own, "prefix p": _shades(shade.get("p")), "prefix w": _shades(shade.get("w")),
                "own p": _shades([math.exp(x) for x in line.get("own_logprobs", [])]),
            }  # fmt: skip
            for name, value in row.items():
                columns[name].append(value)
        words |= _words(run, used - words.keys())
    return {
        "columns": columns,
        "runs": [run.name for run in runs],
        "prompts": [texts[prompt] for prompt in chosen if prompt in texts],
        "statuses": list(statuses),
        "kinds": KINDS,
        "words": words,
        "shown": total,
        "of": sum(counts.values()),
    }


def _lines(run: Run, name: str) -> Iterator[dict[str, Any]]:
    path = run.folder.path / name
    return read_jsonl(path) if path.exists() else iter(())


def _shades(values: Sequence[float] | None) -> str:
    """Probabilities or weights as one digit each; weights above 1 count as 1."""
    return "".join(str(min(int(min(max(x, 0.0), 1.0) * LEVELS), LEVELS - 1)) for x in values or ())


def _words(run: Run, ids: set[int]) -> dict[int, str]:
    """Each token as text, by the run's own tokenizer; its number where there is none."""
    try:
        from transformers import AutoTokenizer

        folder = run.folder.final if run.finished else run.record.get("model_path")
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
