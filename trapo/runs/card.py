"""The model card of `final/`, written from the run: trained on what, how, what it reached, how to do it again."""

import json
import shlex
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ..recipe import header, recipe_names
from .folder import RunFolder
from .intervals import held_out, samples_each

BODY = """# {name}

{model} after {steps}, trained with trapo's recipe `{recipe}` (alpha: {alpha}) on {data}.

{paper}

## Results

Held-out sets before and after, sampled at temperature {temperature}, with 95% intervals over questions (samples of one
question are alike, so they are not counted as independent):

{results}

## Method

```yaml
{method}
```

## How to reproduce

    {command}

{world}Versions: {versions}. Commit of trapo: {git}. Device: {device}, {processes} process(es). {rows} training rows,
fingerprint {fingerprint}; {seen}.

## All settings

```json
{config}
```
"""


def write_card(folder: RunFolder) -> str:
    """The card's text, from run.json, evals.jsonl and metrics.jsonl of a run that has ended."""
    record = folder.record()
    config, method = record["config"], record["method"]
    recipe = record.get("recipe", "of one's own")
    said = header(recipe) if recipe in recipe_names() else {}
    metrics = folder.records("metrics.jsonl")
    stages = {stage: max(r["step"] for r in metrics if r["stage"] == stage) for stage in {r["stage"] for r in metrics}}
    last = metrics[-1] if metrics else {}
    data = ModelCardData(
        library_name="transformers",
        tags=["trapo", "trl", "reinforcement-learning", recipe],
        base_model=record["model"] if "/" in record.get("model", "") else None,
    )
    text = BODY.format(
        name=folder.path.name,
        model=record.get("model") or record["model_path"],
        steps=" and ".join(f"{n} steps of {stage.upper()}" for stage, n in sorted(stages.items(), reverse=True)),
        recipe=recipe,
        alpha="none" if method["alpha"] is None else f"{method['alpha']:g}",
        data=record.get("data", "a dataset of one's own"),
        paper="\n".join(f"- {label}: {said[label]}" for label in ("Paper", "Formula", "Guidance") if label in said),
        temperature=config.get("eval_temperature"),
        results=_results(folder),
        method="\n".join(f"{name}: {json.dumps(value)}" for name, value in method.items()),
        command=shlex.join(record["command"]),
        world="The built-in world needs no download: data and base model come with trapo.\n"
        if record.get("data", "").startswith("world")
        else "",
        versions=", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        git=record["git"] or "unknown (an installed package)",
        device=record["device"],
        processes=record["world_size"],
        rows=record["rows"],
        fingerprint=record["rows_fingerprint"],
        seen=f"{last.get('seen/samples', 0)} samples drawn, {last.get('seen/demonstrations', 0)} demonstrations shown",
        config=json.dumps(config, indent=1, default=str),
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))


def _results(folder: RunFolder) -> str:
    records: list[dict[str, Any]] = folder.records("evals.jsonl")
    if not records:
        return "None: there was no held-out set."
    record = folder.record()
    shared, each = record.get("held_out_in_training"), samples_each(record.get("config", {}))
    lines = [f"{shared} held-out prompts were among the training rows.", ""] if shared else []
    lines += ["| held-out set | questions | samples | before | after |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(record["set"] for record in records):
        mine = [record for record in records if record["set"] == name]
        before, after = (held_out([record], each) for record in (mine[0], mine[-1]))
        counts = f"{after.questions or '-'} | {mine[-1].get('samples', '-')}"
        lines.append(f"| {name}, {after.name} | {counts} | {before} | {after} |")
    return "\n".join(lines)
