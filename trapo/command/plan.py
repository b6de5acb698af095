"""What a run will do, before it does it: rows, steps, tokens, memory, and the first row as the model reads it."""

from typing import Any

from rich.table import Table

from ..data.tokens import prompt_text
from ..models import load_tokenizer
from ..run_config import RunConfig
from ..terminal import Console
from ..training import preflight
from ..training.footprint import Shape
from ..training.sft import sft_steps
from . import memory
from .job import Job


def plan(job: Job, config: RunConfig) -> dict[str, Any]:
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


def rl_plan(rows: int, config: RunConfig) -> dict[str, Any]:
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


def total_steps(rows: int, config: RunConfig) -> int | None:
    """Steps of all stages on so many training rows; None where they depend on the rows' demonstrations."""
    if "sft" in config.stages:
        sft, rl = config.sft_max_steps, config.max_steps if "rl" in config.stages else 0
        return sft + rl if sft > 0 and rl >= 0 else None
    return rl_plan(rows, config)["steps"]


def estimated(job: Job, config: RunConfig, rates: tuple[float, float] = (0.0, 0.0)) -> dict[str, str]:
    """Memory per GPU, and tokens and operations per step, for the plan (`trapo.command.memory`).

    Args:
        job, config: the run.
        rates: tokens per second that are drawn and trained, for a time; 0 where unknown.

    Raises:
        ValueError: where the training would refuse these rows or this model.
    """
    tokenizer, model = load_tokenizer(job.model_path, config.trust_remote_code)
    preflight.check_inputs(config, None, job.train, tokenizer)
    preflight.check_model(config, model, tokenizer, job.train)
    arguments = config.chat_template_kwargs or {}
    texts = (prompt_text(prompt, tokenizer, config.template, **arguments) for prompt in job.train["prompt"])
    longest = max(texts, key=len)
    prompt = len(tokenizer(longest)["input_ids"])
    try:
        shape = Shape.of(model)
    except ValueError as error:
        return {"estimate": str(error)}
    engine = config.resolved_engine(model)
    found = memory.memory(shape, config, prompt, shards=memory.shards(config), engine=engine).lines()
    return found | (memory.work(shape, config, prompt).lines(*rates) if "rl" in config.stages else {})


def print_plan(job: Job, config: RunConfig, console: Console, rates: tuple[float, float] = (0.0, 0.0)) -> None:
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
    found = [line for report in job.reports for line in report.lines()]
    if job.shared:
        found.append(
            f"{job.shared} held-out prompts are among the training rows: their results say what was learned by heart"
        )
    for line in found + ([job.shown] if job.shown else []):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def parse_rates(text: str | None) -> tuple[float, float]:
    """ "2000,9000" as two numbers; zeros for None."""
    try:
        drawn, trained = map(float, text.split(",")) if text else (0.0, 0.0)
    except ValueError:
        raise ValueError(f"--rates {text}: give tokens drawn and trained per second, such as 2000,9000") from None
    return drawn, trained
