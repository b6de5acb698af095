"""What the files of a run folder hold, a type each, and the one reader that names file, line and field.

A reader gives plain dictionaries, with whatever more other versions wrote. What a type says is checked: what has
another type or is missing ends in a ValueError. A number that is null in a file (NaN, which JSON has not) reads as NaN
where the type says `float`; a torn last line is dropped with a warning.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from .files import parse, read_jsonl
from .terminal import visible

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Positive = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Token = Annotated[int, Meta(ge=0, lt=2**31)]
Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | float
NaN = float("nan")


class Method(Struct):
    """`method` of run.json: what a figure must say of a run."""

    alpha: Number | None = None
    stages: list[Literal["sft", "rl"]] = []


class Config(Struct):
    """`config` of run.json, as far as somebody calculates with it."""

    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    alpha: Number | None = None
    max_steps: Number | None = None
    learning_rate: Number | None = None
    temperature: Number | None = None
    per_device_train_batch_size: Number | None = None
    max_completion_length: Count | None = None
    num_generations_eval: Count | None = None
    num_generations: Count | None = None
    micro_group_sizes: list[Number] | None = None
    prefix_ratios: list[Number] | None = None
    thresholds: list[Number] | None = None


class RunRecord(Struct):
    """A run's record."""

    recipe: str | None = None
    model: str | None = None
    data: str | None = None
    method: Method = field(default_factory=Method)
    config: Config = field(default_factory=Config)
    versions: dict[str, str | None] = {}
    command: list[str] = []
    model_path: str | None = None
    git: str | None = None
    device: str | None = None
    platform: str | None = None
    world_size: Count | None = None
    rows: Count | None = None
    parameters: Count | None = None
    rows_fingerprint: str | None = None


class Metrics(Struct):
    """A line of metrics.jsonl, whose further fields are numbers."""

    step: Count
    stage: Literal["sft", "rl"] = "rl"


class HeldOut(Struct):
    """A line of evals.jsonl."""

    step: Count
    set: str
    reward: float = NaN
    samples: Count = 0
    stage: Literal["sft", "rl"] = "rl"
    questions: Count | None = None
    binary: bool | None = None  # whether all rewards were 0 or 1
    by_question: dict[str, float] | None = None


class RolloutSample(Struct):
    """A line of rollouts.jsonl."""

    step: Count
    sample: Count
    prompt_id: str | Count | None = None
    stage: Literal["sft", "rl"] = "rl"
    micro_group: Count = 0
    prefix_ratio: float = 0.0
    trace: int | None = None
    reward: float = NaN
    advantage: float = NaN
    status: str | None = None
    finish: str | None = None
    prompt: str | None = None
    prefix: str | None = None
    own: str | None = None
    prefix_ids: list[Token] = []
    own_ids: list[Token] = []
    own_logprobs: list[float] = []


class Prefix(Struct):
    """A line of prefixes.jsonl."""

    step: Count
    rollout: Count
    sample: Count
    prompt_id: str | Count | None = None
    stage: Literal["sft", "rl"] = "rl"
    p: list[float] = []
    w: list[float] = []


class Dropped(Struct):
    """A line of dropped.jsonl."""

    data: str
    row: Count
    reason: str
    trace: Count | None = None


class Marker(Struct):
    """trapo.json of a checkpoint: the counts that a resumed run goes on with."""

    step: Count
    samples: Count
    shown: list[str]
    stage: Literal["sft", "rl"] = "rl"
    logs: dict[str, Count] | None = None  # the bytes of the JSONL files then


class TrainerState(Struct):
    """trainer_state.json of a checkpoint, transformers', as far as we read it."""

    global_step: Count
    max_steps: Count


LINES: dict[str, type[Struct]] = {
    "metrics.jsonl": Metrics,
    "evals.jsonl": HeldOut,
    "rollouts.jsonl": RolloutSample,
    "prefixes.jsonl": Prefix,
    "dropped.jsonl": Dropped,
}
NUMBERS = (Metrics,)  # of which every further field is a number


def read_json(path: Path, kind: type[Struct]) -> dict[str, Any]:
    """The content of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or not what `kind` says; names file and field.
    """
    try:
        value = parse(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    return checked(value, kind, str(path))


def read_lines(path: Path, kind: type[Struct], start: int = 0) -> Iterator[dict[str, Any]]:
    """The records of a JSONL file, behind its first `start` bytes; ValueError as for `read_json`, with the line."""
    for number, value in enumerate(read_jsonl(path, start), 1):
        yield checked(value, kind, f"{path}, line {number}")


def checked(value: Any, kind: type[Struct], where: str) -> dict[str, Any]:
    """`value` if it is what `kind` says, with its nulls as NaN where `kind` has numbers; ValueError naming `where`."""
    if isinstance(value, dict):
        value = _with_nan(value, kind)
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where} is no {_name(kind)}: {_said(error, value)}") from None
    for name, x in value.items():
        infinite = (math.inf in x or -math.inf in x) if isinstance(x, list) else x in (math.inf, -math.inf)
        if infinite or (kind in NUMBERS and name not in kind.__struct_fields__ and not _is_number(x)):
            raise ValueError(f"{where} is no {_name(kind)}: {visible(name)} is {_shown(x)}, not a number")
    return value


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and not abs(x) >= 2**63


def _with_nan(value: dict[str, Any], kind: type[Struct]) -> dict[str, Any]:
    """null as NaN in the fields, and in the lists, of numbers."""
    changed = {}
    types = {f.name: f.type for f in msgspec.structs.fields(kind)}
    for name, x in value.items():
        declared = types.get(name)
        if x is None and (declared is float or (kind in NUMBERS and declared is None)):
            changed[name] = math.nan
        elif declared == list[float] and isinstance(x, list) and None in x:
            changed[name] = [math.nan if y is None else y for y in x]
    return value | changed if changed else value


def _name(kind: type[Struct]) -> str:
    return kind.__doc__.partition(",")[0].rstrip(".").removeprefix("An ").removeprefix("A ")


def _said(error: msgspec.ValidationError, value: Any) -> str:
    """msgspec's words with the value's."""
    text = str(error).replace("`", "").replace(" - at $.", ", at ").replace(" - at $", ", at ")
    return visible(text) if isinstance(value, dict) else f"it holds {_shown(value)}"


def _shown(value: Any) -> str:
    return visible(repr(value) if not isinstance(value, str) else f"{value[:40]!r}")[:60]
