"""An engine over any OpenAI-compatible completions server: vLLM's, SGLang's, llama.cpp's.

Prompts go out as tokens, one request per sample with the sample's own seed, many at a time. A request that fails for
now (connection, time-out, 429, 5xx, half an answer) is sent again, later each time; one that is refused ends the
command with the server's words. A sample that is sent again is drawn from the same seed.
"""

import asyncio
import json
import os
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from ...data.tokens import shorten
from .base import Request, Sample, Sampling

FOR_NOW = (408, 409, 425, 429)  # and 5xx: statuses that another attempt may not meet
LONGEST_WAIT = 60.0  # seconds between two attempts


@dataclass(frozen=True)
class ServerSample(Sample):
    """A sample with its text and number of tokens, as the server gives them; `ids` are empty where it does not."""

    text: str = ""
    tokens: int = 0


class Failed(Exception):
    """An attempt failed for now; `after` is how long the server asks to wait, in seconds."""

    def __init__(self, cause: str, after: float = 0.0):
        super().__init__(cause)
        self.after = after


class ServerEngine:
    """Draws samples from a server; what `submit` was given comes back from `poll` in any order.

    Args:
        base_url: such as http://localhost:8000/v1.
        wanted: the model to ask for, where the server has several.
        eos_ids: tokens that end a sample, besides the server's own; known to servers that take `stop_token_ids`.
        concurrency: most requests at once.
        timeout_s: most seconds for one attempt; a server that stalls is left then.
        attempts: for each sample.
        first_wait_s: upper end of the random wait before the second attempt; it doubles with each.

    Attributes:
        model: what the server calls its model.
        context: most tokens of prompt and sample; None where the server does not say.

    Raises:
        ValueError: there is no server, or none of these models.
        ConnectionError: from `poll`, if a sample failed in all attempts.
    """

    def __init__(
        self,
        base_url: str,
        wanted: str | None = None,
        *,
        eos_ids: Sequence[int] = (),
        concurrency: int = 64,
        timeout_s: float = 600.0,
        attempts: int = 6,
        first_wait_s: float = 1.0,
    ):
        self.base_url, self.eos_ids, self.concurrency, self.attempts = (
            base_url.rstrip("/"),
            eos_ids,
            concurrency,
            attempts,
        )
        self.sampling = Sampling()
        self._timeout, self._first_wait = timeout_s, first_wait_s
        self._headers = {"Authorization": f"Bearer {key}"} if (key := os.environ.get("OPENAI_API_KEY")) else {}
        self._plain = False  # the server refuses what OpenAI's own API does not have
        self.model, self.context = self._ask_for_model(wanted)
        self._live: dict[int, Future] = {}
        self._ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._next_key = 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="requests").start()
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(timeout_s), limits=limits, headers=self._headers)
        self._room = asyncio.Semaphore(concurrency)

    def _ask_for_model(self, wanted: str | None) -> tuple[str, int | None]:
        remedy = "start a server, or check --base-url (it ends in /v1) and OPENAI_API_KEY"
        try:
            answer = httpx.get(f"{self.base_url}/models", headers=self._headers, timeout=min(self._timeout, 30))
            answer.raise_for_status()
            served = {model["id"]: model for model in answer.json()["data"]}
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"no server answers at {self.base_url} ({_said(error)}): {remedy}") from None
        name = wanted if wanted in served else next(iter(served), None)
        if name is None or (len(served) > 1 and name != wanted):
            raise ValueError(
                f"the server at {self.base_url} has the models {', '.join(served) or '(none)'}: name one with --model"
            )
        return name, served[name].get("max_model_len")

    def using(self, sampling: Sampling) -> "ServerEngine":
        """This engine, drawing as `sampling` says."""
        self.sampling = sampling
        return self

    # ---------------------------------------------------------------- Engine

    @property
    def free(self) -> int:
        """Requests that could be sent at once; negative while more wait than may."""
        return self.concurrency - len(self._live)

    def submit(self, request: Request) -> int:
        """Queue a request; the key returned names its sample in `poll`'s answer."""
        key = self._next_key
        self._next_key += 1
        self._live[key] = asyncio.run_coroutine_threadsafe(self._draw(request), self._loop)
        self._live[key].add_done_callback(lambda _: self._ended.put(key))
        return key

    def poll(self) -> dict[int, Sample]:
        """Wait for a sample, if any is under way; those that ended, by key."""
        done: dict[int, Sample] = {}
        while self._live and (not done or not self._ended.empty()):
            key = self._ended.get()
            if key not in self._live:  # it was given up
                continue
            if done and self._live[key].exception():  # what has come is journaled first
                self._ended.put(key)
                break
            done[key] = self._live[key].result()
            del self._live[key]
        return done

    def abort(self, key: int) -> int:
        """Give up a request; 0, since what was drawn for it is not known. KeyError if there is none."""
        self._live.pop(key).cancel()
        return 0

    def close(self) -> None:
        """Give up all requests and connections."""
        for key in list(self._live):
            self.abort(key)
        asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)

    # ---------------------------------------------------------------- one sample

    async def _draw(self, request: Request) -> Sample:
        backoff = wait_random_exponential(multiplier=self._first_wait, max=LONGEST_WAIT)

        def wait(state: RetryCallState) -> float:
            return max(backoff(state), min(state.outcome.exception().after, LONGEST_WAIT))

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Failed), wait=wait, stop=stop_after_attempt(self.attempts), reraise=True
        )
        async with self._room:
            try:
                async for attempt in retrying:
                    with attempt:
                        return await self._attempt(request)
            except Failed as failure:
                raise ConnectionError(
                    f"{self.base_url} failed {self.attempts} times for one sample, at last with: {failure}; what was "
                    "saved is kept, and the same command goes on"
                ) from failure
        raise AssertionError("not reached")

    async def _attempt(self, request: Request) -> Sample:
        plain = self._plain
        try:
            answer = await self._client.post(f"{self.base_url}/completions", json=self._body(request, plain))
        except httpx.ReadTimeout as error:  # which has no words of its own
            remedy = "with fewer --slots it may answer each sooner"
            raise Failed(f"no answer within {self._timeout:g} s, {remedy}") from error
        except httpx.TransportError as error:
            raise Failed(_said(error)) from error
        if answer.status_code in FOR_NOW or answer.status_code >= 500:
            raise Failed(f"{reason(answer)}", _retry_after(answer))
        if answer.status_code in (400, 422) and not plain and self._may_be_plain():
            self._plain = True  # once for all: the next answer says whether it was that
            return await self._attempt(request)
        if answer.is_error:
            raise ValueError(f"{self.base_url} refuses a request: {reason(answer)}")
        try:
            return _sample(answer.json(), request)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise Failed(f"an answer that cannot be read: {_said(error)}") from error

    def _may_be_plain(self) -> bool:
        return not self.sampling.top_k and not self.sampling.min_p

    def _body(self, request: Request, plain: bool) -> dict[str, Any]:
        how = asdict(self.sampling)
        top_k, min_p = how.pop("top_k"), how.pop("min_p")
        body = {
            "model": self.model,
            "prompt": list(request.ids),
            "max_tokens": request.max_tokens,
            "seed": request.seed,
        }
        if plain:
            return body | how
        # What a server's own defaults, often those of the model's generation_config.json, would otherwise fill in.
        more = {"top_k": top_k or -1, "min_p": min_p or 0.0, "repetition_penalty": 1.0}
        return body | how | more | {"stop_token_ids": list(self.eos_ids), "return_token_ids": True}


def _sample(answer: dict[str, Any], request: Request) -> ServerSample:
    choice = answer["choices"][0]
    if choice["finish_reason"] not in ("stop", "length"):
        raise ValueError(f"finish_reason {choice['finish_reason']!r}")
    if (seen := choice.get("prompt_token_ids")) and tuple(seen) != request.ids:
        raise ValueError("the server read other prompt tokens than were sent")
    ids = tuple(choice.get("token_ids") or ())
    tokens = len(ids) or int(answer["usage"]["completion_tokens"])
    logprobs = tuple((choice.get("logprobs") or {}).get("token_logprobs") or ())
    return ServerSample(ids, choice["finish_reason"], logprobs, choice["text"], tokens)


def reason(answer: httpx.Response) -> str:
    """The status and the words of an answer that reports a failure."""
    try:
        found = answer.json()
        found = found.get("error", found)
        text = found["message"] if isinstance(found, dict) and "message" in found else json.dumps(found)
    except (ValueError, AttributeError):
        text = answer.text
    return f"HTTP {answer.status_code} {shorten(' '.join(str(text).split()), 300)}"


def _retry_after(answer: httpx.Response) -> float:
    try:
        return float(answer.headers.get("Retry-After", 0))
    except ValueError:  # a date, which no server of this kind sends
        return 0.0


def _said(error: Exception) -> str:
    return shorten(" ".join(f"{type(error).__name__}: {error}".split()), 200)
