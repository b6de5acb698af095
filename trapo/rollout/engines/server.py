"""An engine over any OpenAI-compatible server: vLLM's, SGLang's, llama.cpp's, or a service.

One request per sample with the sample's own seed, many at a time. A request that fails for now (connection, time-out,
429, 5xx) or is answered with something that is no sample (see `completions.read`) is sent again, later each time, from
the same seed. What is left after all attempts ends the command with the server's words, or, for an evaluation, is
recorded as that sample's outcome, and the others go on.
"""

import asyncio
import json
import os
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from ...data.tokens import shorten
from ...redact import HIDDEN, redacted, redacted_url
from .base import Request, Sample, Sampling
from .completions import APIS, SERVER_ERROR, BadAnswer, Refused, ServerSample, body, read

FOR_NOW = (408, 409, 425, 429)  # and 5xx: statuses that another attempt may not meet
OF_THE_PROMPT = (400, 413, 422)  # statuses that may be one prompt's: too long, filtered
LONGEST_WAIT = 60.0  # seconds between two attempts
LONGEST_ASKED = 600.0  # seconds between two attempts where the server asks for more
LOST = 3  # samples that may fail for now one after the other before that is an error of the server
POLL_S = 0.05  # most seconds that `poll` waits for a sample: then whoever called has other work


class Failed(Exception):
    """An attempt failed for now.

    Attributes:
        after: how long the server asks to wait, in seconds.
        there: whether a server answered at all.
    """

    def __init__(self, cause: str, after: float = 0.0, there: bool = True):
        super().__init__(cause)
        self.after, self.there = after, there


class ServerEngine:
    """Draws samples from a server; what `submit` was given comes back from `poll` in any order.

    Args:
        base_url: such as http://localhost:8000/v1. A user, a password or a query in it are used and never shown.
        wanted: the model to ask for, where the server has several.
        api: "completions", or "chat" for a server that has nothing else (see `completions`).
        eos_ids: tokens that end a sample, besides the server's own; known to servers that take `stop_token_ids`.
        concurrency: most requests at once.
        timeout_s: most seconds for one attempt; a server that stalls is left then.
        retries: attempts after the first.
        patience_s: for how long, in seconds, attempts that fail for now go on in any case: a restart takes minutes.
        first_wait_s: upper end of the random wait before the second attempt; it doubles with each.
        record_faults: whether a sample without a usable answer ends as one of `completions.FAULTS`, not in an error.

    Attributes:
        model: what the server calls its model.
        context: most tokens of prompt and sample; None where the server does not say.
        version: what the server says of itself; None where it does not.

    Raises:
        ValueError: there is no server, or none of these models.
        ConnectionError: from `poll`, if a sample failed in all attempts.
    """

    remedy = "what was saved is kept, and the same command goes on"

    def __init__(
        self,
        base_url: str,
        wanted: str | None = None,
        *,
        api: str = "completions",
        eos_ids: Sequence[int] = (),
        concurrency: int = 64,
        timeout_s: float = 600.0,
        retries: int = 5,
        patience_s: float = 0.0,
        first_wait_s: float = 1.0,
        record_faults: bool = False,
    ):
        self.base_url, self.shown, self.api, self.eos_ids = base_url, redacted_url(base_url), api, list(eos_ids)
        self.concurrency, self.retries, self.record_faults = concurrency, retries, record_faults
        self.sampling = Sampling()
        self._timeout, self._patience, self._first_wait = timeout_s, patience_s, first_wait_s
        self._key = os.environ.get("OPENAI_API_KEY")
        self._headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._plain, self._limit = False, "max_tokens"  # what this server's interface has turned out to be
        self._good = self._lost = 0  # samples that came, and those that failed since the last of these
        self.model, self.context = self._ask_for_model(wanted)
        self.version = self._ask_for_version()
        self._live: dict[int, Future] = {}
        self._ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._next_key = 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="requests").start()
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(timeout_s), limits=limits, headers=self._headers)
        self._room = asyncio.Semaphore(concurrency)

    def _at(self, path: str) -> httpx.URL:
        url = httpx.URL(self.base_url)
        return url.copy_with(path=url.path.rstrip("/") + path)

    def _ask_for_model(self, wanted: str | None) -> tuple[str, int | None]:
        remedy = "start a server, or check --base-url (it ends in /v1) and OPENAI_API_KEY"
        try:
            answer = httpx.get(self._at("/models"), headers=self._headers, timeout=min(self._timeout, 30))
            answer.raise_for_status()
            served = {model["id"]: model for model in answer.json()["data"]}
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"no server answers at {self.shown} ({self._said(error)}): {remedy}") from None
        name = wanted if wanted in served else next(iter(served), None)
        if name is None or (len(served) > 1 and name != wanted):
            raise ValueError(
                f"the server at {self.shown} has the models {', '.join(served) or '(none)'}: name one with --model"
            )
        return name, served[name].get("max_model_len")

    def _ask_for_version(self) -> str | None:
        url = httpx.URL(self.base_url)
        try:
            root = url.path.rstrip("/").removesuffix("/v1")
            answer = httpx.get(url.copy_with(path=f"{root}/version"), headers=self._headers, timeout=10)
            return str(answer.json()["version"]) if answer.is_success else answer.headers.get("Server")
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return None

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
        """The samples that have ended, by key; waits at most `POLL_S` for the first."""
        done: dict[int, Sample] = {}
        wait = POLL_S
        while self._live:
            try:
                key = self._ended.get(timeout=wait)
            except queue.Empty:
                break
            if key not in self._live:  # it was given up
                continue
            if done and self._live[key].exception():  # what has come is journaled first
                self._ended.put(key)
                break
            done[key] = self._live[key].result()
            del self._live[key]
            wait = 0
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
            asked = getattr(state.outcome.exception(), "after", 0.0)
            return max(backoff(state), min(asked, LONGEST_ASKED))

        def stop(state: RetryCallState) -> bool:
            for_now = isinstance(state.outcome.exception(), Failed)
            return state.attempt_number > self.retries and (not for_now or state.seconds_since_start >= self._patience)

        kinds = retry_if_exception_type((Failed, BadAnswer))
        retrying = AsyncRetrying(retry=kinds, wait=wait, stop=stop, reraise=True)
        async with self._room:
            began = time.monotonic()
            try:
                async for attempt in retrying:
                    with attempt:
                        sample = await self._attempt(request)
                self._good, self._lost = self._good + 1, 0
                return sample
            except BadAnswer as bad:
                cause, finish = bad, bad.finish
            except Failed as failure:
                self._lost += 1
                # A few may be their prompts' fault; if no other fares better, it is the server's.
                cause, finish = failure, SERVER_ERROR if failure.there and self._good and self._lost <= LOST else None
        if self.record_faults and finish:
            return ServerSample((), finish, fault=shorten(str(cause), 300))
        times, seconds = retrying.statistics["attempt_number"], time.monotonic() - began
        how = f"{times} times for one sample, in {seconds:.0f} s, at last with: {cause}"
        raise ConnectionError(f"{self.shown} failed {how}; {self.remedy}") from cause

    async def _attempt(self, request: Request) -> Sample:
        now = self._plain, self._limit
        plain, limit = now
        asked = self._body(body(self.api, self.model, request, self.sampling, self.eos_ids, plain=plain, limit=limit))
        try:
            answer = await self._client.post(self._at(APIS[self.api]), json=asked)
        except httpx.ReadTimeout as error:  # which has no words of its own
            remedy = "with fewer --slots it may answer each sooner"
            raise Failed(f"no answer within {self._timeout:g} s, {remedy}") from error
        except httpx.RequestError as error:
            raise Failed(self._said(error), there=False) from error
        if answer.status_code in FOR_NOW or answer.status_code >= 500:
            raise Failed(self._reason(answer), _retry_after(answer))
        if answer.is_error:
            if self._adapts(answer) or (self._plain, self._limit) != now:  # once for all: the next answer says if well
                return await self._attempt(request)
            self._refuse(answer)
        try:
            return self._checked(read(self.api, answer.json(), request))
        except ValueError as error:
            raise BadAnswer(f"an answer that cannot be read: {self._said(error)}") from error

    def _adapts(self, answer: httpx.Response) -> bool:
        """Whether a refused request may be asked in other words from now on."""
        if answer.status_code not in (400, 422):
            return False
        if self._limit == "max_tokens" and "max_completion_tokens" in answer.text:
            self._limit = "max_completion_tokens"
        elif not self._plain and self._may_be_plain():
            self._plain = True
        else:
            return False
        return True

    def _refuse(self, answer: httpx.Response) -> None:
        reason = self._reason(answer)
        of_one = answer.status_code in OF_THE_PROMPT and ("content_filter" in answer.text or self._good > 0)
        if of_one and self.record_faults:
            raise Refused(reason)
        raise ValueError(f"{self.shown} refuses a request: {reason}")

    def _may_be_plain(self) -> bool:
        return not self.sampling.top_k and not self.sampling.min_p

    def _body(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The JSON that is sent; for those who know more of their server."""
        return fields

    def _checked(self, sample: ServerSample) -> ServerSample:
        """The sample, or BadAnswer; for those who need more of it."""
        return sample

    # ---------------------------------------------------------------- words

    def _reason(self, answer: httpx.Response) -> str:
        """The status and the words of an answer that reports a failure."""
        try:
            found = answer.json()
            found = found.get("error", found)
            text = found["message"] if isinstance(found, dict) and "message" in found else json.dumps(found)
        except (ValueError, AttributeError):
            text = answer.text
        return f"HTTP {answer.status_code} {shorten(self._hidden(' '.join(str(text).split())), 300)}"

    def _said(self, error: Exception) -> str:
        return shorten(self._hidden(" ".join(f"{type(error).__name__}: {error}".split())), 200)

    def _hidden(self, text: str) -> str:
        text = text.replace(self._key, HIDDEN) if self._key else text
        return redacted(text.replace(self.base_url, self.shown))


def _retry_after(answer: httpx.Response) -> float:
    """Seconds, of a header that gives them or a date; 0 without one."""
    value = answer.headers.get("Retry-After", "0")
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):  # neither
        return 0.0
