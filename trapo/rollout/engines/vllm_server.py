"""vLLM's own server as the trainer's engine: any number of training processes draw from it, all requests at once.

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs --dtype bfloat16
    trapo train --engine vllm-server --vllm_server_base_url http://HOST:8000 ...

`trl vllm-serve` hands whole batches with one seed to one blocking call, so that nothing could be drawn while something
else is, nor the same samples whatever the schedule; vLLM's own server takes a request per sample, with its seed. New
weights go through a folder that trainer and server both see: written by the first process, read again by the server
when `/collective_rpc` says `reload_weights`, which a server offers in its development mode only.

Wrong weights would be silent, so they are looked for twice. After each push the server's log-probabilities of fixed
tokens are compared with the training model's. With every batch of samples they are compared with those of the push: a
server, or a replica behind the same address, that was restarted meanwhile has the base's weights again.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import torch
from safetensors.torch import save_file
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential
from torch import Tensor
from transformers import PreTrainedModel

from .base import Sample
from .completions import BadAnswer, ServerSample
from .server import LONGEST_WAIT, ServerEngine
from .vllm import compare_with_model

WEIGHTS = "model.safetensors"
RELOAD_S = 1800.0  # most seconds for the server to read the weights
# Nats: what the same weights may differ by from one batch to the next, since other requests change the rounding.
DRIFT = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.05}


class VLLMServerEngine(ServerEngine):
    """Draws samples from vLLM's server; weights come from `load`, which must be called before the first request.

    Args:
        base_url: such as http://localhost:8000, with or without /v1.
        eos_ids: tokens that end a sample.
        slots: most requests of this process at once.
        dtype: of the weights that are pushed.
        vocabulary: the training model's number of tokens.
        weights: the folder, seen by trainer and server, through which weights go.
        first: whether this process is the one that pushes.
        barrier: waits for all processes of the run.
        client: more for `ServerEngine`, such as patience_s.

    Raises:
        ValueError: there is no such server, or it takes no weights.
        ConnectionError: from `load`, `check` and `poll`, if the server does not have the weights, or is gone for longer
            than `patience_s`.
    """

    remedy = "see to the server, then go on with the same command and --resume"

    def __init__(
        self,
        base_url: str,
        eos_ids: Sequence[int],
        *,
        slots: int,
        dtype: torch.dtype,
        vocabulary: int,
        weights: Path,
        first: bool = True,
        barrier: Callable[[], None] = lambda: None,
        **client: Any,
    ):
        self.root = base_url.rstrip("/").removesuffix("/v1")
        super().__init__(f"{self.root}/v1", eos_ids=sorted(eos_ids), concurrency=slots, **client)
        self.dtype, self.vocabulary, self.weights, self.first = dtype, vocabulary, weights.absolute(), first
        self.loaded: object = None  # whose weights it has, for its user to say
        self._barrier = barrier
        self._pushed: list[tuple[tuple[int, ...], list[float]]] = []  # tokens, and their log-probabilities at the push
        if self._post("/collective_rpc", json={}).status_code == httpx.codes.NOT_FOUND:
            raise ValueError(
                f"the server at {self.shown} takes no weights: start it with VLLM_SERVER_DEV_MODE=1, within a network "
                "of your own (in this mode anyone who reaches it can replace its model)"
            )

    def _body(self, fields: dict[str, Any]) -> dict[str, Any]:
        # The model's configuration may know fewer tokens that end a sample than the tokenizer.
        return fields | {"ignore_eos": True, "logprobs": 0}

    def _checked(self, sample: ServerSample) -> ServerSample:
        if not sample.ids or len(sample.logprobs) != len(sample.ids):
            raise BadAnswer(f"{len(sample.ids)} tokens with {len(sample.logprobs)} log-probabilities")
        return sample

    def _may_be_plain(self) -> bool:
        return False

    def _post(self, path: str, **more: Any) -> httpx.Response:
        """The answer to a request that is not for a sample; a server that is being restarted is waited for."""
        retrying = Retrying(
            retry=retry_if_exception_type(httpx.TransportError),
            wait=wait_random_exponential(multiplier=self._first_wait, max=LONGEST_WAIT),
            stop=stop_after_delay(self._patience),
            reraise=True,
        )
        url = httpx.URL(self.root)
        url = url.copy_with(path=url.path.rstrip("/") + path)
        try:
            return retrying(httpx.post, url, headers=self._headers, timeout=RELOAD_S, **more)
        except httpx.HTTPError as error:
            raise ConnectionError(f"{self.shown} failed at {path}: {self._said(error)}; {self.remedy}") from error

    # ---------------------------------------------------------------- weights

    @torch.no_grad()
    def load(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Take over the training model's tensors, by their names in transformers; every process must call it.

        The first process holds all of them in its memory for a moment, in `dtype`.
        """
        self.loaded, self._pushed, kept = None, [], {}
        for name, tensor in parameters:  # a walk that sharded processes make together
            if self.first:
                kept[name] = tensor.detach().to("cpu", self.dtype, copy=True).contiguous()
        self._barrier()  # nobody draws with the old weights any more
        if self.first:
            self.weights.mkdir(parents=True, exist_ok=True)
            part = self.weights / f"{WEIGHTS}.part"
            save_file(kept, part, metadata={"format": "pt"})
            part.replace(self.weights / WEIGHTS)
            reload = {"method": "reload_weights", "kwargs": {"weights_path": str(self.weights)}}
            for path, more in (("/collective_rpc", {"json": reload}), ("/reset_prefix_cache", {})):
                answer = self._post(path, **more)
                if answer.is_error:
                    raise ConnectionError(
                        f"{self.shown} did not take the weights in {self.weights} ({path}: {self._reason(answer)}): it "
                        "must see this folder (--vllm_server_weights) and serve a model of this shape; "
                        f"{self.remedy}"
                    )
        self._barrier()

    def check(self, model: PreTrainedModel) -> float:
        """Compare log-probabilities of fixed tokens with the training model's; the mean difference, in nats."""
        pushed = []

        def scored(ids: tuple[int, ...]) -> list[float]:
            pushed.append((ids, self._prompt_logprobs(ids)))
            return pushed[-1][1]

        try:
            found = compare_with_model(scored, model, self.vocabulary, self.context, self.dtype)
        except RuntimeError as error:
            raise ConnectionError(f"{error}; {self.remedy}") from error
        self._pushed = pushed
        return found

    def poll(self) -> dict[int, Sample]:
        """As every server's; once all that was asked for is there, its weights are known to be those of the push.

        Raises:
            ConnectionError: they are not, so that some of the samples are another policy's.
        """
        done = super().poll()
        if done and not self._live:
            try:
                self._verify()
            except BaseException:
                self._live |= {key: Future() for key in done}  # for who asked to give up
                raise
        return done

    def _verify(self) -> None:
        gaps = [abs(a - b) for ids, were in self._pushed for a, b in zip(self._prompt_logprobs(ids), were, strict=True)]
        gap = sum(gaps) / max(len(gaps), 1)
        if not gap <= DRIFT[self.dtype]:
            raise ConnectionError(
                f"the log-probabilities of {self.shown} are {gap:.3g} nats from those of its weights when they were "
                f"pushed (at most {DRIFT[self.dtype]:g} is rounding): it was restarted, or other weights were loaded. "
                f"This batch is not used; {self.remedy}"
            )

    def _prompt_logprobs(self, ids: tuple[int, ...]) -> list[float]:
        """Log-probability of every token but the first."""
        body = {"model": self.model, "prompt": list(ids), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        answer = self._post("/v1/completions", json=body)
        if answer.is_error:
            raise ConnectionError(f"{self.shown} refuses to score tokens: {self._reason(answer)}; {self.remedy}")
        found = answer.json()["choices"][0]["prompt_logprobs"]
        return [at[str(token)]["logprob"] for at, token in zip(found[1:], ids[1:], strict=True)]
