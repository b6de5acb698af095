"""The journal of an evaluation: every sample is on disk before it counts, and is never drawn twice.

`samples.jsonl` has one line per sample and no header. A line's `key` is a hash of all that the sample depends on: the
content of the weights, the prompt's tokens, how tokens are drawn, and the sample's seed. So an evaluation that was
killed goes on where it was, one that is repeated draws nothing, and one with other settings finds nothing to reuse.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trapo.files import parse
from trapo.records import checked
from trapo.rollout.engines.base import Engine, Request, Sample, Sampling
from trapo.rollout.engines.completions import FAULTS, SERVER_ERROR

from .records import JournaledSample

WEIGHTS = ("*.safetensors", "*.gguf", "config.json")


def digest(*parts: Any, size: int = 8) -> str:
    """A hash, 2 * size hexadecimal digits, of values as JSON writes them."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=size).hexdigest()


def fingerprint(path: str | Path) -> str:
    """16 hexadecimal digits for a model's content, wherever it lies: its weight files and its configuration.

    Raises:
        ValueError: if there are no weights.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted({file for pattern in WEIGHTS for file in path.glob(pattern)})
    if not [file for file in files if file.name != "config.json"]:
        raise ValueError(f"{path} holds no weights ({', '.join(WEIGHTS[:2])}): name a model's folder or a .gguf file")
    found = hashlib.blake2b(digest_size=8)
    for file in files:
        with open(file, "rb") as stream:
            found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()


def question_seed(seed: int, task: str, question: str, index: int) -> int:
    """The 63-bit seed of a question's sample number `index`; without the model, so that two draw common numbers."""
    return int(digest(seed, task, question, index), 16) >> 1


@dataclass(frozen=True)
class Wanted:
    """One sample to have: number `index` of a question of a task, from these prompt tokens."""

    task: str
    question: str
    index: int
    prompt_ids: tuple[int, ...]
    seed: int
    max_tokens: int

    def key(self, model: str, sampling: Sampling) -> str:
        """What the sample depends on, hashed; `model` is the weights' fingerprint."""
        return digest(model, self.prompt_ids, asdict(sampling), self.seed, self.max_tokens)


class Journal:
    """The samples of one evaluation folder, by key; their tokens' numbers, which are most of it, on the disk only.

    A sample that a server failed to give has a record of that, and counts as missing: the same command asks again.

    A torn last line, of a process that was killed while it wrote, is cut off when the next one is written: whoever only
    looks may meet another process in the middle of writing.
    """

    def __init__(self, path: Path):
        self.path = path
        self.records: dict[str, dict[str, Any]] = {}
        self._torn_at: int | None = None
        if path.exists():
            content = path.read_bytes()
            lines, whole = content.split(b"\n")[:-1], content.rfind(b"\n") + 1
            self._torn_at = whole if whole < len(content) else None
            for number, line in enumerate(lines, 1):
                try:
                    record = checked(parse(line), JournaledSample, f"{path}, line {number}")
                except ValueError as error:
                    said = str(error) if str(error).startswith(str(path)) else f"{path}, line {number} is no sample"
                    raise ValueError(f"{said}: remove the line, and its sample is drawn again") from None
                self.records[record["key"]] = _kept(record)
        path.parent.mkdir(parents=True, exist_ok=True)

    def __contains__(self, key: str) -> bool:
        """Whether the sample need not be drawn."""
        return key in self.records and self.records[key]["finish"] != SERVER_ERROR

    def add(self, records: Iterable[dict[str, Any]]) -> None:
        """Append records; they are on the disk when this returns."""
        records = list(records)
        with open(self.path, "ab") as file:
            if self._torn_at is not None:
                file.truncate(self._torn_at)
                self._torn_at = None
            file.write(b"".join(json.dumps(record).encode() + b"\n" for record in records))
            file.flush()
            os.fsync(file.fileno())
        self.records |= {record["key"]: _kept(record) for record in records}


def _kept(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "ids"}


def draw(
    wanted: list[Wanted],
    engine: Engine,
    journal: Journal,
    *,
    model: str,
    sampling: Sampling,
    decode: Callable[[tuple[int, ...]], str],
    watch: Callable[[list[dict[str, Any]]], None] = lambda records: None,
) -> list[dict[str, Any]]:
    """The journal's records of all `wanted`, in order; those that are missing are drawn first.

    Args:
        wanted: the samples; those of one prompt belong next to each other, since an engine then computes it once.
        engine: draws as `sampling` says.
        journal: where samples are found and put.
        model: the weights' fingerprint.
        decode: tokens to text, without special tokens.
        watch: told of the records that have just been written.
    """
    keys = [want.key(model, sampling) for want in wanted]
    missing = {key: want for key, want in zip(keys, wanted, strict=True) if key not in journal}
    running = {engine.submit(Request(w.prompt_ids, w.max_tokens, w.seed)): (key, w) for key, w in missing.items()}
    try:
        while running:
            records = [_record(*running.pop(number), sample, decode) for number, sample in engine.poll().items()]
            if records:
                journal.add(records)
                watch(records)
    except BaseException:
        for number in running:
            engine.abort(number)
        raise
    if missing:
        engine.poll()  # lets an idle engine give its memory back
    return [journal.records[key] for key in keys]


def _record(key: str, want: Wanted, sample: Sample, decode: Callable[[tuple[int, ...]], str]) -> dict[str, Any]:
    record = {
        "key": key,
        "task": want.task,
        "question": want.question,
        "index": want.index,
        "seed": want.seed,
        "finish": sample.finish,
        "prompt_tokens": len(want.prompt_ids),
        "tokens": getattr(sample, "tokens", len(sample.ids)),  # a server may keep the tokens themselves to itself
        "ids": list(sample.ids),
        "logprob": sum(sample.logprobs) if sample.logprobs else None,
        "text": decode(sample.ids) if sample.ids else getattr(sample, "text", ""),
    }
    return record | ({"fault": sample.fault} if sample.finish in FAULTS else {})
