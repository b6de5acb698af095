"""One sample over the OpenAI-compatible HTTP interface: what is asked, and what an answer must be like to count.

Two interfaces: "completions" takes the prompt's tokens; "chat", for servers that have nothing else, takes a user's
message, which a request then holds as its UTF-8 bytes in place of tokens (`Request.ids`), and the server's own template
turns it into tokens.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from .base import Request, Sample, Sampling

APIS = {"completions": "/completions", "chat": "/chat/completions"}
SERVER_ERROR = "server-error"
FAULTS = ("refused", SERVER_ERROR)  # a `finish` that is no sample's: there is no usable text


@dataclass(frozen=True)
class ServerSample(Sample):
    """A sample as a server gives it; `ids` are empty where it keeps them.

    Attributes:
        text: of the answer. Where a server splits off a thought, it stands before, between <think> and </think>.
        tokens: how many.
        fault: what was wrong, where `finish` is one of `FAULTS`.
    """

    text: str = ""
    tokens: int = 0
    fault: str = ""


class BadAnswer(Exception):
    """An answer that came whole and cannot be used; `finish` is what its sample is recorded as, one of `FAULTS`."""

    finish = SERVER_ERROR


class Refused(BadAnswer):
    """The server will not answer this prompt: a content filter, a refusal, a prompt that it does not take."""

    finish = "refused"


def message_ids(text: str) -> tuple[int, ...]:
    """A user's message as the ids of a request to a chat server: its UTF-8 bytes."""
    return tuple(text.encode())


def body(
    api: str, model: str, request: Request, how: Sampling, eos_ids: list[int], *, plain: bool, limit: str
) -> dict[str, Any]:
    """The JSON of one request.

    Args:
        api: one of `APIS`.
        model: what the server calls it.
        request, how: the sample, and how its tokens are drawn.
        eos_ids: tokens that end it besides the server's own.
        plain: whether to leave out what OpenAI's own interface does not know.
        limit: the field for the most tokens, "max_tokens" or "max_completion_tokens".
    """
    found = {"model": model, limit: request.max_tokens, "seed": request.seed}
    if api == "chat":
        found["messages"] = [{"role": "user", "content": bytes(request.ids).decode()}]
    else:
        found["prompt"] = list(request.ids)
    drawn = asdict(how)
    top_k, min_p = drawn.pop("top_k"), drawn.pop("min_p")
    if plain:
        return found | drawn
    # What a server's own defaults, often those of the model's generation_config.json, would otherwise fill in.
    more = {"top_k": top_k or -1, "min_p": min_p or 0.0, "repetition_penalty": 1.0}
    tokens = {"stop_token_ids": eos_ids} if eos_ids else {}
    return found | drawn | more | tokens | ({"return_token_ids": True} if api == "completions" else {})


def read(api: str, answer: Any, request: Request) -> ServerSample:
    """The sample in a server's answer; raises BadAnswer or Refused where there is none that can be trusted."""
    choices = _field(answer, "choices", list)
    if len(choices) != 1:
        raise BadAnswer(f"{len(choices)} choices where 1 was asked for")
    (choice,) = choices
    if _field(choice, "index", int) != 0:
        raise BadAnswer(f"index {choice['index']} of 1 choice")
    finish = choice.get("finish_reason")
    text = _message(choice, finish) if api == "chat" else choice.get("text")
    if finish == "content_filter":
        raise Refused("finish_reason content_filter")
    if finish not in ("stop", "length"):
        raise BadAnswer(f"finish_reason {finish!r}")
    if not isinstance(text, str):
        raise BadAnswer(f"text {text!r}")
    ids = () if api == "chat" else _ids(choice, request)
    tokens = len(ids) or _tokens(answer)
    if tokens > request.max_tokens:
        raise BadAnswer(f"{tokens} tokens where at most {request.max_tokens} were asked for")
    if text and not tokens:
        raise BadAnswer("a text of 0 tokens")
    return ServerSample(ids, finish, _logprobs(choice, ids), text, tokens)


def _field(value: Any, name: str, kind: type) -> Any:
    if not isinstance(value, dict):
        raise BadAnswer(f"{type(value).__name__} where {name} should be")
    found = value.get(name)
    if not isinstance(found, kind) or isinstance(found, bool):
        raise BadAnswer(f"{name} {found!r}")
    return found


def _message(choice: dict[str, Any], finish: Any) -> str | None:
    message = _field(choice, "message", dict)
    if message.get("refusal"):
        raise Refused(f"refusal: {str(message['refusal'])[:200]}")
    thought, text = message.get("reasoning_content") or message.get("reasoning"), message.get("content")
    if not isinstance(thought, str):
        return text
    if text is None and finish == "length":
        return f"<think>{thought}"
    return f"<think>{thought}</think>{text}" if isinstance(text, str) else None


def _ids(choice: dict[str, Any], request: Request) -> tuple[int, ...]:
    seen, ids = choice.get("prompt_token_ids"), choice.get("token_ids")
    if seen and tuple(seen) != request.ids:
        raise BadAnswer("the server read other prompt tokens than were sent")
    if ids is not None and not (isinstance(ids, list) and all(type(i) is int and i >= 0 for i in ids)):
        raise BadAnswer("token_ids that are no tokens")
    return tuple(ids or ())


def _tokens(answer: dict[str, Any]) -> int:
    tokens = _field(_field(answer, "usage", dict), "completion_tokens", int)
    if tokens < 0:
        raise BadAnswer(f"completion_tokens {tokens}")
    return tokens


def _logprobs(choice: dict[str, Any], ids: tuple[int, ...]) -> tuple[float, ...]:
    """Those of the tokens, or none: a server need not give them, and an evaluation can do without."""
    found = choice.get("logprobs")
    values = found.get("token_logprobs") if isinstance(found, dict) else None
    good = isinstance(values, list) and all(isinstance(v, int | float) and math.isfinite(v) for v in values)
    return tuple(map(float, values)) if good and (not ids or len(values) == len(ids)) else ()
