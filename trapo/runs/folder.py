"""The run folder, the interface between training and everything that looks at it.

    run.json        what ran: resolved configuration, method settings (alpha among them), versions, seeds, git, command
    metrics.jsonl   one line per step
    evals.jsonl     one line per evaluation of a held-out set
    rollouts.jsonl  one line per sample
    prefixes.jsonl  one line per expert prefix that was trained: each token's probability and weight
    dropped.jsonl   one line per row or expert's trace of the user's own data that is not used, and why
    checkpoints/    to resume from; one without `trapo.json` was not finished and is ignored
    final/          the trained model and its tokenizer, in transformers' format
    .lock           held by the process that trains

Files are written whole or not at all; JSONL lines are flushed one by one, and a torn last line is dropped on reading.
"""

import fcntl
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from ..config import STAGES
from ..files import read_jsonl, write_whole
from ..redact import redacted_command, redacted_values

PACKAGES = ("trapo", "torch", "transformers", "trl", "accelerate", "datasets", "math-verify", "numpy")
DROPPED = "dropped.jsonl"
LOGS = ("metrics.jsonl", "evals.jsonl", "rollouts.jsonl", "prefixes.jsonl")
MARKER = "trapo.json"  # written last into a checkpoint: it is complete
class RunFolder:
    """One run's folder; see the module's docstring for what lies in it."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def final(self) -> Path:
        """Where the trained model lies."""
        return self.path / "final"

    @property
    def sft(self) -> Path:
        """Where the model after an SFT stage lies; it appears whole, when the stage is over."""
        return self.path / "sft"

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints of the RL stage lie, `checkpoint-STEP` each; those of SFT lie in `sft` below it."""
        return self.path / "checkpoints"

    def has_run(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / "run.json").exists()

    def record(self) -> dict[str, Any]:
        """The content of run.json; ValueError where it is damaged."""
        path = self.path / "run.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise ValueError(f"{path} is no run's record: it holds {str(found)[:40]}")
        return found

    def last_checkpoint(self, stage: str = "rl") -> Path | None:
        """The newest complete checkpoint of a stage."""
        complete = [path for path in self._checkpoints(stage) if (path / MARKER).exists()]
        return max(complete, key=_step_of, default=None)

    @staticmethod
    def stage_is_over(checkpoint: Path) -> bool:
        """Whether the last step of its stage was taken at this checkpoint; transformers would take one more."""
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        return state["global_step"] >= state["max_steps"]

    def _checkpoints(self, stage: str) -> list[Path]:
        return list((self.checkpoints / "sft" if stage == "sft" else self.checkpoints).glob("checkpoint-*"))

    def check_free(self) -> None:
        """Raise, with the remedy, if a run was begun here (FileExistsError) or none can be (ValueError)."""
        if self.has_run() and self._has_trained():
            raise FileExistsError(
                f"{self.path} already holds a run: resume it (trapo train --resume, or "
                "trainer.train(resume_from_checkpoint=True)), or choose another output_dir"
            )
        nearest = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
            raise ValueError(f"output_dir {self.path} cannot be written: {nearest} is no folder that you may write to")

    def _has_trained(self) -> bool:
        """Whether there is anything that would be lost: a run that failed before its first step may be begun again."""
        return any(path.exists() for path in (self.path / "metrics.jsonl", self.checkpoints, self.sft, self.final))

    def begin(self, record: dict[str, Any]) -> None:
        """Create the folder with its run.json, without what a run that failed before its first step left."""
        self.clear()
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / "run.json", json.dumps(redacted_values(record), indent=1, default=str) + "\n")

    def clear(self) -> None:
        """Remove what a run that died before its first checkpoint left."""
        for path in [self.path / name for name in ("run.json", *LOGS)]:
            path.unlink(missing_ok=True)
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def rewind(self, stage: str, step: int) -> None:
        """Drop what a killed run wrote after `step` of `stage`: later lines, and checkpoints later or incomplete."""
        here = (STAGES.index(stage), step)
        for name in LOGS:
            path = self.path / name
            if path.exists():
                kept = [json.dumps(r) for r in read_jsonl(path) if (STAGES.index(r["stage"]), r["step"]) <= here]
                write_whole(path, "".join(line + "\n" for line in kept))
        for s in STAGES:
            for checkpoint in self._checkpoints(s):
                if (STAGES.index(s), _step_of(checkpoint)) > here or not (checkpoint / MARKER).exists():
                    shutil.rmtree(checkpoint)

    def append(self, name: str, records: Iterable[dict[str, Any]]) -> None:
        """Append records to one of `LOGS`, flushed."""
        with open(self.path / name, "a", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(record) + "\n")
                file.flush()

    def records(self, name: str) -> list[dict[str, Any]]:
        """All records of one of `LOGS`, [] where the file is not there."""
        path = self.path / name
        return list(read_jsonl(path)) if path.exists() else []


def check_finite(loss: float, step: int, folder: RunFolder, stage: str) -> None:
    """Stop a run whose loss is NaN or infinite before it ruins the weights; FloatingPointError with the remedy."""
    if not math.isfinite(loss):
        checkpoint = folder.last_checkpoint(stage)
        raise FloatingPointError(
            f"the loss is {loss} at step {step}: start a new run with a lower learning rate or expert_coef; the last "
            f"good weights are in {checkpoint or 'no checkpoint: none was saved yet'}"
        )


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def environment() -> dict[str, Any]:
    """Versions, machine, git commit and command line, for run.json."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "versions": versions | {"python": platform.python_version()},
        "platform": platform.platform(),
        "git": _git(),
        "command": redacted_command([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _git() -> str | None:
    """The commit of the code that runs, "+changes" where the tree differs from it; None for an installed package."""
    here = Path(__file__).resolve().parent

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not git("ls-files", Path(__file__).name):
            return None  # some other project's repository, which this package happens to be installed in
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
