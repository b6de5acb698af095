"""The run folder, the interface between training and everything that looks at it.

    run.json        what ran: resolved configuration, method settings (alpha among them), versions, seeds, git, command
    metrics.jsonl   one line per step
    evals.jsonl     one line per evaluation of a held-out set
    rollouts.jsonl  one line per sample
    prefixes.jsonl  one line per expert prefix that was trained: each token's probability and weight
    dropped.jsonl   one line per row or expert's trace of the user's own data that is not used, and why
    checkpoints/    to resume from, each with a manifest (`checkpoints.py`); one without was not finished and is ignored
    final/          the trained model and its tokenizer, in transformers' format
    .lock           held by the process that trains
    crash.txt       of an error that is a bug of trapo

Files are written whole or not at all; JSONL lines are flushed one by one, and a torn last line is dropped on reading.
Nothing is ever deleted or overwritten that trapo did not write: a folder with anything else in it is refused.
"""

import contextlib
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from ..choices import STAGES
from ..files import to_json, write_whole
from ..records import LINES, RunRecord, TrainerState, read_json, read_lines
from ..redact import redacted_command, redacted_values
from .checkpoints import MARKER, Fault, fault, manifest

PACKAGES = ("trapo", "torch", "transformers", "trl", "accelerate", "datasets", "math-verify", "numpy")
DROPPED = "dropped.jsonl"
LOGS = ("metrics.jsonl", "evals.jsonl", "rollouts.jsonl", "prefixes.jsonl")
FORMAT = "trapo run"  # says in run.json whose it is
LOCK = ".lock"
_FILES = ("run.json", *LOGS, DROPPED, "crash.txt")
_MODELS = ("sft", ".sft", "final", ".final")
_TEMPORARY = re.compile(rf"\.({'|'.join(map(re.escape, _FILES))})\.\d+")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_TRACKERS = ("tensorboard", "server-weights", "completions")  # begun again or not, they are only added to


class RunFolder:
    """One run's folder; see the module's docstring for what lies in it."""

    def __init__(self, path: str | Path):
        if not os.fspath(path):
            raise ValueError("output_dir is empty: name a folder")
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
        return read_json(self.path / "run.json", RunRecord)

    # ---------------------------------------------------------------- checkpoints

    def whole_checkpoint(self, stage: str = "rl") -> tuple[Path | None, list[Fault]]:
        """The newest checkpoint of a stage that is whole, and what is wrong with the newer ones, newest first."""
        faults = []
        for path in sorted(self._checkpoints(stage), key=_step_of, reverse=True):
            found = fault(path)
            if found is None:
                return path, faults
            faults.append(found)
        return None, faults

    def last_checkpoint(self, stage: str = "rl") -> Path | None:
        """The newest whole checkpoint of a stage."""
        return self.whole_checkpoint(stage)[0]

    def has_saved(self, stage: str) -> bool:
        """Whether the logs prove that a checkpoint of the stage was once whole: a step behind it was begun."""
        paths = [self.path / name for name in ("metrics.jsonl", "rollouts.jsonl")]
        records = (r for path in paths if path.exists() for r in read_lines(path, LINES[path.name]))
        records = (r for r in records if r.get("stage") == stage)
        config = self.record().get("config", {})
        if config.get("save_strategy") == "epoch" and stage == "rl":
            return any((r.get("epoch") or 0) > 1 for r in records)
        every = config.get("save_steps") if config.get("save_strategy") == "steps" else math.inf
        return any(r.get("step", 0) > (every or math.inf) for r in records)

    @staticmethod
    def stage_is_over(checkpoint: Path) -> bool:
        """Whether the last step of its stage was taken at this checkpoint; transformers would take one more."""
        state = read_json(checkpoint / "trainer_state.json", TrainerState)
        return state["global_step"] >= state["max_steps"]

    def _checkpoints(self, stage: str) -> list[Path]:
        folder = self.checkpoints / "sft" if stage == "sft" else self.checkpoints
        found = folder.iterdir() if folder.is_dir() else ()
        return [path for path in found if _CHECKPOINT.fullmatch(path.name) and path.is_dir()]

    # ---------------------------------------------------------------- whose folder it is

    def is_ours(self) -> bool:
        """Whether trapo provably wrote a run here: its run.json says so, or, where that is damaged, a manifest does."""
        try:
            record = self.record()
        except (OSError, ValueError):
            record = {}
        versions = record.get("versions")
        if record.get("format") == FORMAT or (isinstance(versions, dict) and "trapo" in versions):
            return True
        marked = (self.sft, self.final, *(path for stage in STAGES for path in self._checkpoints(stage)))
        return any(manifest(path) is not None for path in marked)

    def written(self) -> list[Path]:
        """What of this folder trapo wrote, and may delete; nothing where a run of ours cannot be proved."""
        if not self.is_ours():
            return []
        names = sorted(path.name for path in self.path.iterdir())
        files = [name for name in names if name in _FILES or name in _MODELS or _TEMPORARY.fullmatch(name)]
        found = [self.path / name for name in files] + self._links()
        return found + [path for stage in STAGES for path in sorted(self._checkpoints(stage), key=_step_of)]

    def _links(self) -> list[Path]:
        """The links to checkpoints that `link` made, those to deleted ones too."""
        found = [path for path in self.path.glob("checkpoint-*") if path.is_symlink()]
        return sorted(path for path in found if os.readlink(path) == f"{self.checkpoints.name}/{path.name}")

    def link(self) -> None:
        """Link the RL stage's checkpoints beside run.json, where transformers' `get_last_checkpoint` looks for them."""
        linked = {path.name: path for path in self._links()}
        there = {path.name for path in self._checkpoints("rl")}
        for name in linked.keys() - there:
            linked[name].unlink()
        for name in there - linked.keys():
            with contextlib.suppress(OSError):  # something else has this name, or there are no links here
                (self.path / name).symlink_to(f"{self.checkpoints.name}/{name}")

    def _foreign(self) -> list[str]:
        """The names in this folder that are not of a run of ours."""
        known = {path.name for path in self.written()} | {LOCK, *_TRACKERS}
        known |= {"checkpoints"} if not self._strange_checkpoints() else set()
        return sorted(p.name for p in self.path.iterdir() if p.name not in known and not _is_trl_card(p))

    def _strange_checkpoints(self) -> list[str]:
        """What lies in checkpoints/ and is none of ours."""
        if not self.checkpoints.is_dir():
            return ["checkpoints"] if self.checkpoints.exists() else []
        ours = {self.checkpoints / "sft", *self.written()}
        inside = [path for folder in (self.checkpoints, self.checkpoints / "sft") if folder.is_dir()
                  for path in folder.iterdir()]  # fmt: skip
        return sorted(path.name for path in inside if path not in ours and not _is_trl_card(path))

    def check_free(self, overwrite: bool = False) -> None:
        """Raise, with the remedy, unless a run can be begun here without losing anything.

        Args:
            overwrite: whether what trapo wrote here may be deleted (`written`); what it did not write stays.

        Raises:
            FileExistsError: if a run was begun here.
            ValueError: if something else is here, or the folder cannot be written.
        """
        nearest = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
            raise ValueError(f"output_dir {self.path} cannot be written: {nearest} is no folder that you may write to")
        if not self.path.is_dir():
            return
        foreign = self._foreign()
        if overwrite:
            needed = {*_FILES, *_MODELS, "checkpoints"}
            if clash := [name for name in foreign if name in needed]:
                raise ValueError(
                    f"output_dir {self.path} has {_some(clash)}, which trapo cannot prove to have written and so does "
                    "not delete, not even with --overwrite: move it away, or choose another output_dir"
                )
        elif self.is_ours() and self._has_trained():
            raise FileExistsError(
                f"{self.path} already holds a run: resume it (trapo train --resume, or "
                "trainer.train(resume_from_checkpoint=True)), choose another output_dir, or delete it with --overwrite"
            )
        elif foreign:
            raise ValueError(
                f"output_dir {self.path} is not empty and holds no run of trapo (it has {_some(foreign)}): choose "
                "another; or, to train beside what is there, --overwrite, which deletes what trapo wrote and no more"
            )

    def _has_trained(self) -> bool:
        """Whether there is anything that would be lost: a run that failed before its first step may be begun again."""
        kept = (self.path / "metrics.jsonl", self.sft, self.final)
        return any(path.exists() for path in kept) or any(self._checkpoints(stage) for stage in STAGES)

    def begin(self, record: dict[str, Any]) -> None:
        """Create the folder with its run.json, without what a run that failed before its first step left."""
        if self.path.is_dir():
            self.clear()
        self.path.mkdir(parents=True, exist_ok=True)
        said = redacted_values({"format": FORMAT} | record)
        write_whole(self.path / "run.json", to_json(said, indent=1, default=str) + "\n")

    def amend(self, fields: dict[str, Any]) -> None:
        """Put fields into run.json that were not known when the run began."""
        write_whole(self.path / "run.json", json.dumps(self.record() | fields, indent=1, default=str) + "\n")

    def clear(self) -> None:
        """Delete what trapo wrote here, and nothing else."""
        for path in self.written():
            _delete(path)
        for path in (self.checkpoints / "sft", self.checkpoints):
            if path.is_dir() and not path.is_symlink() and all(map(_is_trl_card, path.iterdir())):
                _delete(path)

    def rotate(self, stage: str, keep: int, best: str | None) -> None:
        """Delete a stage's oldest checkpoints but `keep`; the newest and the `best` stay whatever `keep` says."""
        found = sorted(self._checkpoints(stage), key=_step_of)
        stay = {path.name for path in (found[-1:] + ([Path(best)] if best else []))}
        old = [path for path in found if path.name not in stay]
        for path in old[: max(len(found) - max(keep, len(stay)), 0)]:
            _delete(path)

    def rewind(self, stage: str, step: int, sizes: dict[str, int] | None = None) -> None:
        """Drop what a killed run wrote after `step` of `stage`: later lines, and checkpoints later or not whole.

        Args:
            stage, step: of the checkpoint that is gone back to.
            sizes: `log_sizes` of then: what is behind is cut off without reading what is before. None: all is read.
        """
        here = (STAGES.index(stage), step)
        for name in LOGS:
            path = self.path / name
            size = (sizes or {}).get(name, 0)
            if not path.exists():
                continue
            if sizes is None or not _ends_a_line(path, size):  # of an earlier version; lost with the machine; edited
                size, tail = 0, read_lines(path, LINES[name])
            else:  # the stage's last evaluation comes after its last checkpoint, and is kept
                tail = read_lines(path, LINES[name], size) if name == "evals.jsonl" else ()
            kept = (to_json(r) for r in tail if (STAGES.index(r.get("stage", "rl")), r["step"]) <= here)
            _replace_tail(path, size, kept)
        for s in STAGES:
            for checkpoint in self._checkpoints(s):
                later = (STAGES.index(s), _step_of(checkpoint)) > here
                if later or not (checkpoint / MARKER).exists():
                    _delete(checkpoint)

    # ---------------------------------------------------------------- logs

    def append(self, name: str, records: Iterable[dict[str, Any]]) -> None:
        """Append records to one of `LOGS`, flushed."""
        with open(self.path / name, "a", encoding="utf-8") as file:
            for record in records:
                file.write(to_json(record) + "\n")
                file.flush()

    def log_sizes(self) -> dict[str, int]:
        """The bytes of each of `LOGS`, which are on the disk then."""
        sizes = {}
        for name in LOGS:
            sizes[name] = 0
            if (self.path / name).exists():
                with open(self.path / name, "rb") as file:
                    os.fsync(file.fileno())
                    sizes[name] = os.fstat(file.fileno()).st_size
        return sizes

    def records(self, name: str) -> list[dict[str, Any]]:
        """All records of one of `LOGS`, [] where the file is not there; ValueError naming a line that is none."""
        path = self.path / name
        return list(read_lines(path, LINES[name])) if path.exists() else []


def _ends_a_line(path: Path, size: int) -> bool:
    """Whether a line of the file ends behind so many bytes."""
    with open(path, "rb") as file:
        file.seek(max(size - 1, 0))
        return size == 0 or file.read(1) == b"\n"


def _replace_tail(path: Path, size: int, lines: Iterable[str]) -> None:
    """Put `lines` behind the first `size` bytes of a file; where that is all of it, a whole new file."""
    if size == 0:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with open(temporary, "w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        return
    tail = "".join(line + "\n" for line in lines)  # read before it is cut
    with open(path, "r+b") as file:
        file.truncate(size)
        file.seek(size)
        file.write(tail.encode())


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _is_trl_card(path: Path) -> bool:
    """Whether this is the card that TRL put beside its checkpoints until trapo kept it from doing so."""
    return path.name == "README.md" and path.is_file() and "trl" in path.read_text(errors="replace").lower()


def _some(names: list[str]) -> str:
    """The first names of a list, for a line."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


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
