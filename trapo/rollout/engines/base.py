"""What rollouts and evaluations ask of an engine, and what it answers."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Request:
    """One sample to draw: the tokens to continue, the most tokens to add (at least 1), and its seed (63 bits)."""

    ids: tuple[int, ...]
    max_tokens: int
    seed: int

    def __post_init__(self):
        if not self.ids or self.max_tokens < 1:
            raise ValueError(f"a request needs a prompt and max_tokens >= 1: {len(self.ids)}, {self.max_tokens}")


@dataclass(frozen=True)
class Sample:
    """One sample.

    Attributes:
        ids: the tokens drawn, EOS included.
        finish: why they ended: "stop" at EOS, or "length" at max_tokens.
        logprobs: their log-probabilities, in nats, at the sampling temperature; one per token. With top-p, top-k or
            min-p: before them from the embedded engine, after them from vLLM.
    """

    ids: tuple[int, ...]
    finish: str
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, as in transformers' generation; the defaults sample the policy itself."""

    temperature: float = 1.0  # 0: the likeliest token
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None

    @property
    def is_policy(self) -> bool:
        """Whether tokens are drawn from the (tempered) policy itself, nothing cut off."""
        return self.top_p >= 1 and not self.top_k and not self.min_p


class Engine(Protocol):
    """Draws samples; a sample depends on its request and on the weights only, not on what else is being drawn."""

    @property
    def free(self) -> int:
        """Slots that are neither running nor promised to a waiting request; negative while more wait than fit."""

    def submit(self, request: Request) -> int:
        """Queue a request; the key names it in `poll` and `abort`. First come, first served."""

    def poll(self) -> dict[int, Sample]:
        """Work for a while; the samples that ended, by key."""

    def abort(self, key: int) -> int:
        """Give up a request that has not ended; the tokens that were drawn for it. KeyError if there is none."""


def generate(engine: Engine, requests: list[Request]) -> list[Sample]:
    """The samples of `requests`, in their order. On an exception nothing is left in flight."""
    places = {engine.submit(request): i for i, request in enumerate(requests)}
    samples: dict[int, Sample] = {}
    try:
        while len(samples) < len(places):
            samples |= engine.poll()
    except BaseException:
        for key in places.keys() - samples.keys():
            engine.abort(key)
        raise
    engine.poll()  # lets an idle engine give its memory back
    return [samples[key] for key in places]
