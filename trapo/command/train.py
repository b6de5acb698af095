"""`trapo train`: from what was asked to a plan or a finished run."""

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..runs.folder import RunFolder
from ..terminal import Console, say
from . import plan, stages
from .errors import crashes_go_to, interruptible
from .job import Jobs


@dataclass
class Asked:
    """The flags of `trapo train` that are not fields of the configuration, as they were given."""

    recipe: str
    model: str
    data: str | None
    eval_data: str | None
    output_dir: Path | None
    config: Path | None
    dry_run: bool
    rates: str | None
    resume: bool
    overwrite: bool = False


def train(asked: Asked, jobs: Jobs, flags: list[str]) -> None:
    """Train, or with `dry_run` show the plan.

    Args:
        asked: names and switches.
        jobs: what makes a job of names.
        flags: fields of the configuration.

    Raises:
        ValueError, FileExistsError: before any work, in one line with the remedy.
    """
    if asked.output_dir is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("--output_dir is needed with several processes: each would name a folder by its own clock")
    if asked.resume and asked.output_dir is None:
        raise ValueError("--resume needs --output_dir, the folder of the run to go on with")
    if asked.resume and asked.overwrite:
        raise ValueError("--resume goes on with the run that --overwrite deletes: give one of them")
    if asked.data is None and asked.model != "world":
        raise ValueError(
            f"--model {asked.model} needs --data: rows of your own, or 'world' for another base of the world"
        )
    name, data = f"{Path(asked.recipe).stem}-{datetime.now():%Y%m%d-%H%M%S}", asked.data or "world"
    folder = asked.output_dir or Path("runs") / name
    crashes_go_to(folder)
    config = jobs.config(asked.recipe, asked.model, data, asked.config, [*flags, "--output_dir", str(folder)])
    if asked.overwrite or not (asked.dry_run or asked.resume):
        target = RunFolder(config.output_dir)
        target.check_free(asked.overwrite)  # before minutes go into checking a large data file
        for path in target.written() if asked.overwrite and config.process_index == 0 else ():
            say(f"--overwrite deletes {path}")
    job = jobs.make(asked.recipe, asked.model, data, asked.eval_data, config, resume=asked.resume)
    if asked.dry_run:
        plan.print_plan(job, config, Console(quiet=config.process_index > 0), plan.parse_rates(asked.rates))
        return
    with interruptible(f"go on with the same command and --resume --output_dir {folder}"):
        stages.train(job, config, resume=asked.resume, overwrite=asked.overwrite)
