"""From the names on a command line to a job: model, rows, held-out sets, each row checked."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import datasets
from accelerate import PartialState
from datasets import Dataset

from ..data.markup import join_trace, opened_by
from ..data.read import read_rows
from ..data.tokens import end_trace, expert_part, prompt_text, shorten
from ..data.validate import Report, Screen
from ..grading.grader import Grader, usable_cpus
from ..models import check_vocabulary, context_of, load_tokenizer
from ..run_config import RunConfig
from ..runs.folder import DROPPED, RunFolder
from ..terminal import Console
from .settings import parse_names, resolve_config


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
        shared: held-out prompts that are among the training rows.
    """

    recipe: str
    model: str
    data: str
    model_path: str
    train: Dataset
    held_out: dict[str, Dataset] = field(default_factory=dict)
    reports: list[Report] = field(default_factory=list)
    shown: str = ""
    shared: int = 0


class World(Protocol):
    """A built-in world: rows and a base model that a command knows by the name `world`. The caller brings it."""

    BASE: Path

    def settings(self, recipe: str) -> dict[str, Any]:
        """Training defaults for a recipe on this world."""

    def options(self, data: str) -> dict[str, Any]:
        """The options in a name such as `world:error_rate=0.1`; ValueError for one that it does not have."""

    def training_data(self, **options: Any) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
        """Training rows, and held-out rows by name, the main set first."""


class Jobs:
    """Makes jobs and configurations from flags, where `world` names the world that was given.

    Args:
        world: the built-in world.
    """

    def __init__(self, world: World):
        self.world = world

    @staticmethod
    def is_world(data: str | None) -> bool:
        """Whether a data name means the built-in world, with or without options."""
        return data is not None and (data == "world" or data.startswith("world:"))

    def model_path(self, model: str) -> str:
        """Where transformers finds a model; `world` is the built-in base."""
        return str(self.world.BASE) if model == "world" else model

    def config(self, recipe: str, model: str, data: str | None, file: Path | None, flags: list[str]) -> RunConfig:
        """The configuration of a training: the recipe's, the world's where it is about the world, a file's, the flags'.

        Raises:
            ValueError: for an unknown field or a bad value, in one line.
        """
        about_world = model == "world" or self.is_world(data)
        return resolve_config(recipe, [self.world.settings(recipe)] if about_world else [], file, flags)

    def config_of_flags(self, flags: list[str]) -> RunConfig:
        """The configuration that `trapo train FLAGS` trains with; ValueError as there. Rows need not be named."""
        named, rest = parse_names(flags)
        return self.config(named.recipe, named.model, named.data, named.config, ["--output_dir", "runs/none", *rest])

    def rows(self, data: str) -> tuple[Dataset, dict[str, Dataset]]:
        """The training rows and the held-out sets that `world` or `world:...` means."""
        train, held_out = self.world.training_data(**self.world.options(data))
        return Dataset.from_list(train), {name: Dataset.from_list(rows) for name, rows in held_out.items()}

    def make(
        self, recipe: str, model: str, data: str, eval_data: str | None, config: RunConfig, *, resume: bool = False
    ) -> Job:
        """The job that these names mean.

        Raises:
            ValueError: in one line, for what is not there or of no use.
        """
        path = self.model_path(model)
        if self.is_world(data):
            if eval_data:
                raise ValueError(
                    f"--eval_data {eval_data} belongs to data of your own: the world has its held-out sets"
                )
            return Job(recipe, model, data, path, *self.rows(data))
        held_out = self.rows(eval_data)[1] if self.is_world(eval_data) else {}
        job = file_job(recipe, model, data, path, None if held_out else eval_data, config, resume=resume)
        job.held_out |= held_out
        return job


def file_job(
    recipe: str,
    model: str,
    data: str,
    model_path: str,
    eval_data: str | None,
    config: RunConfig,
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
    check_vocabulary(tokenizer, model_config)
    context = context_of(model_config)
    folder = RunFolder(config.output_dir)
    known = folder.records(DROPPED) if resume and (folder.path / DROPPED).exists() else None
    console = console or Console(quiet=not PartialState().is_main_process)

    def screened(source: str, experts: bool) -> tuple[Dataset, Report]:
        earlier = None if known is None else [record for record in known if record["data"] == source]
        screen = Screen(config, tokenizer, grader, context=context, experts=experts, known=earlier)
        with console.status(f"checking {source}") as status:
            return screen(read_rows(source), source, lambda n: status.update(f"checking {source}: {n} rows"))

    # Nothing else runs yet: all cores may grade, and what a worker says does not depend on how many there are.
    workers = max(config.grader_workers, usable_cpus())
    with Grader(workers, config.grader_cpu_seconds, config.grader_memory_mb) as grader:
        train, report = screened(data, experts=True)
        job = Job(recipe, model, data, model_path, train, reports=[report], shown=show_row(train[0], tokenizer, config))
        if eval_data:
            job.held_out["held_out"], report = screened(eval_data, experts=False)
            job.reports.append(report)
            prompts = {json.dumps(prompt) for prompt in train["prompt"]}
            job.shared = sum(json.dumps(prompt) in prompts for prompt in job.held_out["held_out"]["prompt"])
    return job


def show_row(row: dict[str, Any], tokenizer, config: RunConfig) -> str:
    """A row as the model reads it, cut in the middle where it is long: the prompt and the first trace."""
    prompt = prompt_text(row["prompt"], tokenizer, config.template, **(config.chat_template_kwargs or {}))
    text = f"The first row's prompt (template {config.template}):\n{shorten(prompt)}\n"
    if row["expert"] and config.uses_experts:
        part = expert_part(join_trace(row["expert"][0], opened_by(prompt)), config.expert_text)
        ids = tokenizer(part, add_special_tokens=False)["input_ids"]
        whole = end_trace(ids, tokenizer.eos_token_id, config.max_completion_length, config.expert_too_long)
        cut = "" if len(whole) == len(ids) + 1 else f", cut to {len(whole)}"
        text += f"Its first trace (expert_text {config.expert_text}, {len(ids) + 1} tokens with EOS{cut}):\n"
        text += f"{shorten(tokenizer.decode(whole))}\n"
    return text + f"Its answer: {shorten(row['answer'])}"
