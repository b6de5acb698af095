"""What the files of an evaluation's folder hold, a type each; read with `trapo.records`."""

from typing import Annotated, Any

from msgspec import Meta, Struct, field

from trapo.records import Count, Number, Positive, Token

Share = Annotated[float, Meta(ge=0, le=1)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Estimate(Struct):
    """A number with its errors."""

    value: Share
    low: float | None = None
    high: float | None = None
    se_questions: float | None = None
    se_resampling: float | None = None


class Curve(Struct):
    """pass@k."""

    ks: Annotated[list[Positive], Meta(min_length=1)]
    value: Annotated[list[Share], Meta(min_length=1)]
    low: list[float | None] = []
    high: list[float | None] = []


class Value(Struct):
    """A mean, and its error over questions."""

    value: float | None = None
    se_questions: float | None = None


class Result(Struct, rename={"avg": "avg@n", "reference": "reference avg@n", "passes": "pass@k", "majority": "maj@n"}):
    """One benchmark's numbers."""

    questions: Positive
    samples: Positive
    avg: Estimate
    reference: Estimate | None = None
    passes: Curve | None = None
    majority: Value | None = None


class Settings(Struct):
    """How was sampled."""

    temperature: Number | None = None
    top_p: Number | None = None


class WholeSettings(Struct):
    """How was sampled, with all that two evaluations are compared by."""

    temperature: Number
    top_p: Number
    top_k: Count
    min_p: Number
    template: str
    seed: Seed
    engine: str
    dtype: str
    samples: Positive | str | None = None
    half_width: Number | None = None


class RunOf(Struct):
    """The run that a model came from."""

    recipe: str | None = None
    data: str | None = None
    model: str | None = None
    method: dict[str, Any] | None = None


class Model(Struct):
    """Which model."""

    label: str | None = None
    content: str | None = None
    alpha: Number | None = None
    run: RunOf = field(default_factory=RunOf)


class WholeModel(Struct):
    """Which model, with all that a figure says of it."""

    label: str
    content: str
    run: RunOf
    alpha: Number | None = None


class Data(Struct, rename={"first": "first prompt"}):
    """The questions of one benchmark."""

    questions: Positive
    samples: Positive
    max_tokens: Positive
    hash: str
    prompts: str
    first: str


class Environment(Struct):
    """Where it ran."""

    command: list[str]


class EvalRecord(Struct):
    """An evaluation, as far as a report of runs needs it."""

    settings: Settings
    model: Model
    data: dict[str, Any]
    results: dict[str, Result] | None = None


class WholeEvalRecord(Struct):
    """An evaluation."""

    settings: WholeSettings
    model: WholeModel
    data: dict[str, Data]
    environment: Environment
    results: dict[str, Result] | None = None
    groups: dict[str, Value] = {}


class Question(Struct):
    """A question."""

    task: str
    id: str
    answer: str
    prompt: Any = None


class GradedSample(Struct):
    """A graded sample."""

    task: str
    question: str
    status: str
    tokens: Count
    finish: str
    index: Count = 0


class JournaledSample(Struct):
    """A sample."""

    key: str
    task: str
    question: str
    index: Count
    tokens: Count
    finish: str
    text: str
    ids: list[Token] = []
    seed: Seed | None = None
