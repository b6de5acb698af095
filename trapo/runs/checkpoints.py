"""What makes a checkpoint whole: its manifest, written last, with the name, the size and the hash of every file.

    {"stage": "rl", "step": 8, "samples": 512, "shown": [...], "files": {"trapo.json": {"bytes": 1, "sha256": ""}}}

A checkpoint without it was not finished; one that differs from it was damaged. Those of before there were hashes are
held to what can be read of them.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..files import sync_folder, to_json, write_whole

MARKER = "trapo.json"
COUNTS = {"stage", "step", "samples", "shown"}
# What a resumed run needs, as patterns of which one must be there: one process, DeepSpeed and FSDP name them otherwise.
NEEDED = {
    "the weights": ("*.safetensors", "pytorch_model*", "adapter_model*", "global_step*"),
    "optimizer.pt": ("optimizer*", "global_step*"),
    "scheduler.pt": ("scheduler.pt", "global_step*"),
    "rng_state.pth": ("rng_state*.pth",),
    "trainer_state.json": ("trainer_state.json",),
}


@dataclass(frozen=True)
class Fault:
    """Why a folder cannot be gone on from.

    Attributes:
        path: the folder.
        why: in a few words, for people.
        unfinished: whether it was never whole: a kill while it was saved.
    """

    path: Path
    why: str
    unfinished: bool = False

    def __str__(self) -> str:
        return f"{self.path.name} is not whole ({self.why})"


def seal(folder: Path, counts: dict[str, Any]) -> None:
    """Wait until all of a folder's files are on the disk, then write its manifest.

    Args:
        folder: with everything else in it.
        counts: what the recorder goes on with: `COUNTS`.
    """
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file() and path != folder / MARKER:
            with open(path, "rb") as file:
                files[path.relative_to(folder).as_posix()] = {
                    "bytes": path.stat().st_size,
                    "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
                }
                os.fsync(file.fileno())
    write_whole(folder / MARKER, to_json(counts | {"files": files}))
    sync_folder(folder.parent)


def manifest(folder: Path) -> dict[str, Any] | None:
    """A folder's manifest; None where it is missing, damaged or somebody else's."""
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.keys() >= COUNTS else None


def fault(folder: Path, needed: Sequence[str] = tuple(NEEDED)) -> Fault | None:
    """Why a checkpoint cannot be gone on from; None if it is whole.

    Args:
        folder: the checkpoint.
        needed: which of `NEEDED` must be there.
    """
    if not (folder / MARKER).exists():
        return Fault(folder, f"it has no {MARKER}: saving it was not finished", unfinished=True)
    found = manifest(folder)
    if found is None:
        return Fault(folder, f"its {MARKER} is damaged")
    try:
        why = _unlike_manifest(folder, found["files"]) if "files" in found else _unreadable(folder)
    except (AttributeError, KeyError, TypeError):
        why = f"its {MARKER} is damaged"
    missing = [name for name in needed if not any(any(folder.glob(pattern)) for pattern in NEEDED[name])]
    if why is None and missing:
        why = f"it was saved without {', '.join(missing)}"
    return None if why is None else Fault(folder, why)


def _unlike_manifest(folder: Path, files: dict[str, dict[str, Any]]) -> str | None:
    for name, what in files.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if (size := (folder / name).stat().st_size) != what["bytes"]:
            return f"{name} has {size} bytes instead of {what['bytes']}"
    for name, what in files.items():
        with open(folder / name, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != what["sha256"]:
                return f"{name} was changed or damaged: its hash differs"
    return None


def _unreadable(folder: Path) -> str | None:
    """Of a checkpoint without hashes: the first file that is visibly broken."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder)
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, "pt"):
                    pass
            elif path.suffix in (".pt", ".pth"):
                with zipfile.ZipFile(path) as archive:
                    if archive.testzip():
                        return f"{name} is damaged"
            elif path.suffix == ".json":
                found = json.loads(path.read_text(encoding="utf-8"))
                shards = set(found.get("weight_map", {}).values()) if isinstance(found, dict) else set()
                if missing := sorted(shard for shard in shards if not (path.parent / shard).is_file()):
                    return f"{missing[0]} is missing"
        except (OSError, ValueError, SafetensorError, zipfile.BadZipFile):
            return f"{name} is damaged"
    return None
