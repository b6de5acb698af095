"""Files that are written whole or not at all, JSON that is always JSON, JSONL that survives a torn line, and locks."""

import fcntl
import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one, never a part, and that it is on the disk then.

    What UTF-8 has no bytes for (half a character, from a file's name) is written as an escape.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # a full disk: what is there of it is no use
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk; nothing where its file system cannot do that."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def check_output(out: Path, reads: Iterable[str] = (), beside: Sequence[str] = (), overwrite: bool = False) -> None:
    """Raise unless a file can be written where nothing is lost: not onto what is read, nor unasked onto what is there.

    Args:
        out: the file.
        reads: files and folders that are read; names of other things do no harm.
        beside: suffixes of further files that are written beside it.
        overwrite: whether what is there may be replaced.

    Raises:
        ValueError: naming the file.
    """
    for name in reads:
        source = Path(name).resolve()
        if source.exists() and source in (out.resolve(), out.resolve().parent):
            raise ValueError(f"--out {out} would become part of what is read, {name}: choose another place")
    there = [path for path in (out, *(out.with_name(out.name + suffix) for suffix in beside)) if path.exists()]
    if there and not overwrite:
        raise ValueError(f"--out: {there[0]} is there already: choose another name, or replace it with --overwrite")


def to_json(value: Any, **options: Any) -> str:
    """`value` as JSON: NaN and infinities, for which JSON has no word, become null.

    Args:
        value: what `json.dumps` takes.
        options: as for `json.dumps`.
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parse(text: bytes) -> Any:
    """JSON as Python has it, NaN and infinities included; ValueError where it is none or nested too deep."""
    try:
        try:
            return msgspec.json.decode(text)
        except msgspec.MsgspecError:  # it has no NaN and no half characters, which Python writes
            return json.loads(text)
    except RecursionError:
        raise ValueError("brackets are nested too deep") from None


def read_jsonl(path: Path, start: int = 0) -> Iterator[dict[str, Any]]:
    """The records of a JSONL file, behind its first `start` bytes, from where lines are counted.

    A torn last line is dropped with a warning, a broken line elsewhere is an error.
    """
    with open(path, "rb") as file:
        file.seek(start)
        for number, line in enumerate(file, 1):
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("torn")
                yield parse(line)
            except ValueError:
                if file.read(1):
                    raise ValueError(f"{path}, line {number} is not JSON: {line[:80]!r}") from None
                warnings.warn(f"{path}: the torn last line {number} was dropped", stacklevel=2)


@contextmanager
def locked(path: Path, doing: str, remedy: str) -> Iterator[None]:
    """Hold the lock file `path`, whose folder is made; a process that is killed gives it back.

    Raises:
        ValueError: if the folder cannot be written, or another process is `doing` the same; with the remedy.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, "a")  # noqa: SIM115
    except OSError as error:
        raise ValueError(f"{path.parent} cannot be written ({error}): {remedy}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is {doing} into {path.parent}: {remedy}") from None
        yield
