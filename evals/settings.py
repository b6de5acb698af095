"""What `trapo eval` is told: settings, and their check before any work."""

import re
from dataclasses import dataclass

from trapo.rollout.engines.completions import APIS

from . import sequential

AUTO = "auto"
_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])(-\d\d)?")


def number_of(samples: str | None) -> int | str | None:
    """What --samples says: a number, AUTO, or nothing."""
    if samples is None or samples == AUTO:
        return samples
    try:
        return int(samples)
    except ValueError:
        raise ValueError(f"--samples {samples}: give a number, or {AUTO}") from None


@dataclass(frozen=True)
class Settings:
    """What to evaluate and how; None leaves a thing to the benchmark's own file.

    `samples` may be AUTO: as many as make the interval's half-width `half_width`, at most `max_samples` (`sequential`).
    """

    bench: str
    model: str
    data_dir: str | None = None
    samples: int | str | None = None
    limit: int | None = None
    temperature: float = 0.6
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int | None = None
    template: str = "tokenizer"
    seed: int = 0
    engine: str = "auto"
    base_url: str | None = None
    dtype: str = "auto"
    grader: str = "own"
    half_width: float = 0.02
    max_samples: int = 256
    server_api: str = "completions"
    server_timeout: float = 600.0
    server_retries: int = 8
    model_date: str | None = None

    @property
    def auto(self) -> bool:
        """Whether the number of samples is found while they are drawn."""
        return self.samples == AUTO

    @property
    def first_samples(self) -> int | None:
        """Samples of each question to begin with; None leaves it to the benchmark."""
        if self.auto:
            return min(sequential.FIRST, self.max_samples)
        return self.samples or (1 if self.temperature == 0 else None)

    def check(self) -> None:
        """ValueError, naming the value and the remedy."""
        from trapo.choices import GRADERS, TEMPLATES

        for name, given, known in (
            ("template", self.template, TEMPLATES),
            ("grader", self.grader, GRADERS),
            ("engine", self.engine, ("auto", "torch", "transformers", "vllm", "server")),
            ("server-api", self.server_api, tuple(APIS)),
            ("dtype", self.dtype, ("auto", "float32", "bfloat16", "float16")),
        ):
            if given not in known:
                raise ValueError(f"--{name} {given}: choose from {', '.join(known)}")
        for name, value, low, high in (
            ("samples", None if self.auto else self.samples, 1, 10**6),
            ("max-samples", self.max_samples, 2, 10**6),
            ("half-width", self.half_width, 0.001, 0.5),
            ("server-timeout", self.server_timeout, 0.1, 10**6),
            ("server-retries", self.server_retries, 0, 1000),
            ("limit", self.limit, 1, 10**9),
            ("max-tokens", self.max_tokens, 1, 10**7),
            ("temperature", self.temperature, 0, 100),
            ("top-k", self.top_k, 0, 10**7),
            ("min-p", self.min_p, 0, 1),
        ):
            if value is not None and not low <= value <= high:
                raise ValueError(f"--{name} {value}: give a number from {low} to {high}")
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed}: it must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"--top-p {self.top_p}: give a number above 0 and up to 1")
        if self.temperature == 0 and self.samples not in (None, 1):
            raise ValueError(f"--temperature 0 gives {self.samples} times the same sample: use --samples 1")
        if (self.engine == "server") != (self.base_url is not None):
            raise ValueError("--engine server and --base-url http://HOST:PORT/v1 belong together: give both or neither")
        if self.server_api == "chat" and (self.engine != "server" or self.template != "tokenizer"):
            raise ValueError("--server-api chat needs --engine server, and no --template: the server has its own")
        if self.model_date is not None and not _MONTH.fullmatch(self.model_date):
            raise ValueError(f"--model-date {self.model_date}: give a year and a month, such as 2024-09")
