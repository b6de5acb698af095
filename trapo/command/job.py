"""From a command line to a job: configuration in layers, model and rows, the plan."""

import argparse
import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import datasets
from accelerate import PartialState
from datasets import Dataset
from rich.table import Table
from trl import TrlParser

from ..config import TRAPOConfig
from ..data.read import read_rows
from ..data.tokens import end_trace, expert_part, prompt_text, shorten
from ..data.validate import Report, Screen
from ..grading.grader import Grader
from ..models import load_tokenizer
from ..recipe import load_recipe, load_yaml, read_text
from ..runs.folder import DROPPED, RunFolder
from ..terminal import Console
from ..training import preflight as checks
from ..training.sft import sft_steps
from . import memory as estimate


@dataclass
class Job:
    """What to train on: names for the record, and the loaded things.

    Attributes:
        recipe, model, data: as the user named them.
        model_path: where transformers finds the model; a .gguf file is converted on loading.
        train: training rows.
        held_out: name -> rows; the first is the main one.
        reports: what screening found in the user's own files.
        shown: the first training row as the model reads it, for the eye.
    """

    recipe: str
    model: str
    data: str
    model_path: str
    train: Dataset
    held_out: dict[str, Dataset] = field(default_factory=dict)
    reports: list[Report] = field(default_factory=list)
    shown: str = ""


class _Parser(TrlParser):
    """TRL's parser with errors of one line."""

    def error(self, message: str):
        raise ValueError(message)


def resolve_config(recipe: str, layers: Sequence[dict[str, Any]], config: Path | None, flags: list[str]) -> TRAPOConfig:
    """One configuration from, weakest first: defaults, recipe, `layers`, a YAML file, flags.

    Raises:
        ValueError: for an unknown field or a bad value, in one line.
    """
    values = {"disable_tqdm": True} | load_recipe(recipe)  # the command has a progress line of its own
    for layer in layers:
        values |= layer
    if config is not None:
        if not config.is_file():
            raise ValueError(f"config file {config} is not there")
        values |= load_yaml(read_text(config), f"config file {config}")
    known = {f.name for f in fields(TRAPOConfig)}
    for name in values:
        if name not in known:
            raise ValueError(f"unknown field {name!r}{_suggestion(name, known)}")
    parser = _Parser(TRAPOConfig, allow_abbrev=False)
    parser.set_defaults_with_config(**values)
    try:
        *parsed, rest = parser.parse_args_and_config(flags, return_remaining_strings=True)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None
    if rest:
        name = rest[0].lstrip("-").replace("-", "_")
        raise ValueError(f"unknown option {rest[0]!r}{_suggestion(name, known)}")
    return parsed[0]


def _suggestion(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f": did you mean {close[0]!r}?" if close else ": see `trapo train --fields`"


def describe_fields() -> str:
    """Every field of the configuration with its default and its help, a line each."""
    lines = []
    for f in sorted(fields(TRAPOConfig), key=lambda f: f.name):
        text = " ".join(str(f.metadata.get("help", "")).replace("%%", "%").split())
        lines.append(f"--{f.name}  [{f.default!r}]  {text}")
    return "\n".join(lines)


def plan(job: Job, config: TRAPOConfig) -> dict[str, Any]:
    """What a run will do, before it does it: rows, steps, bounds on tokens."""
    plan = {
        "recipe": job.recipe,
        "model": job.model,
        "data": job.data,
        "training rows": len(job.train),
        "held-out rows": {name: len(rows) for name, rows in job.held_out.items()},
    }
    if "sft" in config.stages:
        demonstrations = sum(len(traces or []) for traces in job.train["expert"])
        steps = sft_steps(config, demonstrations)
        plan |= {
            "SFT: demonstrations": demonstrations,
            "SFT: steps": steps,
            "SFT: epochs": round(steps * config.sft_batch_size / max(demonstrations, 1), 3),
        }
    return plan | (rl_plan(len(job.train), config) if "rl" in config.stages else {})


def rl_plan(rows: int, config: TRAPOConfig) -> dict[str, Any]:
    """What the RL stage will do with so many training rows."""
    groups = config.generation_batch_size // config.num_generations
    generations_per_epoch = rows // groups
    per_generation = config.steps_per_generation * config.num_iterations / config.gradient_accumulation_steps
    steps = config.max_steps
    if steps <= 0:
        steps = int(config.num_train_epochs * generations_per_epoch * per_generation)
    rollouts = -(-steps // per_generation) if per_generation else 0
    samples = int(rollouts * config.generation_batch_size)
    return {
        "engine": config.resolved_engine(),
        "steps": steps,
        "prompts per step": groups / per_generation,
        "samples": samples,
        "epochs": round(rollouts / generations_per_epoch, 3) if generations_per_epoch else None,
        "rollout tokens, at most": samples * config.max_completion_length,
    }


def estimated(job: Job, config: TRAPOConfig, rates: tuple[float, float] = (0.0, 0.0)) -> dict[str, str]:
    """Memory per GPU, and tokens and operations per step, for the plan (`trapo.command.memory`).

    Args:
        job, config: the run.
        rates: tokens per second that are drawn and trained, for a time; 0 where unknown.

    Raises:
        ValueError: where the training would refuse these rows or this model.
    """
    tokenizer, model = load_tokenizer(job.model_path, config.trust_remote_code)
    checks.check_inputs(config, None, job.train, tokenizer)
    checks.check_model(config, model, tokenizer, job.train)
    longest = max((prompt_text(prompt, tokenizer, config.template) for prompt in job.train["prompt"]), key=len)
    prompt = len(tokenizer(longest)["input_ids"])
    try:
        shape = estimate.Shape.of(model)
    except ValueError as error:
        return {"estimate": str(error)}
    embedded = config.resolved_engine() == "torch"
    found = estimate.memory(shape, config, prompt, shards=estimate.shards(config), embedded=embedded).lines()
    return found | (estimate.work(shape, config, prompt).lines(*rates) if "rl" in config.stages else {})


def print_plan(job: Job, config: TRAPOConfig, console: Console, rates: tuple[float, float] = (0.0, 0.0)) -> None:
    """The plan and every field that differs from its default; `rates` as for `estimated`."""
    table = Table(title="Plan", show_header=False)
    table.add_column(max_width=24)  # leaves room for what it says
    table.add_column(overflow="fold")
    for name, value in (plan(job, config) | estimated(job, config, rates) | config.method_settings()).items():
        table.add_row(name, str(value))
    console.print(table)
    table = Table("field", "value", title="Resolved configuration")
    for name, value in sorted(config.to_dict().items()):
        table.add_row(name, str(value))
    console.print(table)
    print_data(job, console)


def print_data(job: Job, console: Console) -> None:
    """What screening found in the user's files, and the first row as the model reads it."""
    for line in [line for report in job.reports for line in report.lines()] + ([job.shown] if job.shown else []):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def file_job(
    recipe: str,
    model: str,
    data: str,
    model_path: str,
    eval_data: str | None,
    config: TRAPOConfig,
    *,
    resume: bool = False,
    console: Console | None = None,
) -> Job:
    """A job on the user's own data, every row of it screened.

    Raises:
        ValueError: in one line, if a file is not there, of no known layout, or has no usable row.
    """
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # a broken file is told in one line, ours
    tokenizer, model_config = load_tokenizer(model_path, config.trust_remote_code)
    context = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    folder = RunFolder(config.output_dir)
    known = folder.records(DROPPED) if resume and (folder.path / DROPPED).exists() else None
    console = console or Console(quiet=not PartialState().is_main_process)

    def screened(source: str, experts: bool) -> tuple[Dataset, Report]:
        earlier = None if known is None else [record for record in known if record["data"] == source]
        screen = Screen(config, tokenizer, grader, context=context, experts=experts, known=earlier)
        with console.status(f"checking {source}") as status:
            return screen(read_rows(source), source, lambda n: status.update(f"checking {source}: {n} rows"))

    # Nothing else runs yet: all cores may grade, and what a worker says does not depend on how many there are.
    workers = max(config.grader_workers, os.cpu_count() or 1)
    with Grader(workers, config.grader_cpu_seconds, config.grader_memory_mb) as grader:
        train, report = screened(data, experts=True)
        job = Job(recipe, model, data, model_path, train, reports=[report], shown=show_row(train[0], tokenizer, config))
        if eval_data:
            job.held_out["held_out"], report = screened(eval_data, experts=False)
            job.reports.append(report)
    return job


def show_row(row: dict[str, Any], tokenizer, config: TRAPOConfig) -> str:
    """A row as the model reads it, cut in the middle where it is long: the prompt and the first trace."""
    prompt = prompt_text(row["prompt"], tokenizer, config.template, **(config.chat_template_kwargs or {}))
    text = f"The first row's prompt (template {config.template}):\n{shorten(prompt)}\n"
    if row["expert"] and config.uses_experts:
        part = expert_part(row["expert"][0], config.expert_text)
        ids = tokenizer(part, add_special_tokens=False)["input_ids"]
        whole = end_trace(ids, tokenizer.eos_token_id, config.max_completion_length, config.expert_too_long)
        cut = "" if len(whole) == len(ids) + 1 else f", cut to {len(whole)}"
        text += f"Its first trace (expert_text {config.expert_text}, {len(ids) + 1} tokens with EOS{cut}):\n"
        text += f"{shorten(tokenizer.decode(whole))}\n"
    return text + f"Its answer: {shorten(row['answer'])}"
