"""vLLM's own server as the trainer's engine: any number of training processes draw from it, all requests at once.

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs --dtype bfloat16
    trapo train --engine vllm-server --vllm_server_base_url http://HOST:8000 ...

`trl vllm-serve` hands whole batches with one seed to one blocking call, so that nothing could be drawn while something
else is, nor the same samples whatever the schedule; vLLM's own server takes a request per sample, with its seed. New
weights go through a folder that trainer and server both see: written by the first process, read again by the server
when `/collective_rpc` says `reload_weights`, which a server offers in its development mode only. A push that does not
arrive would be silent, so after each one the server's log-probabilities of fixed tokens are compared with the training
model's, and the run stops where they differ.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import httpx
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from .base import Request
from .server import ServerEngine, reason
from .vllm import compare_with_model

WEIGHTS = "model.safetensors"
RELOAD_S = 1800.0  # most seconds for the server to read the weights


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

    Raises:
        ValueError: there is no such server, or it takes no weights.
        RuntimeError: from `load` and `check`, if the server does not have the weights.
    """

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
        if self._post("/collective_rpc", json={}).status_code == httpx.codes.NOT_FOUND:
            raise ValueError(
                f"the server at {self.root} takes no weights: start it with VLLM_SERVER_DEV_MODE=1, within a network "
                "of your own (in this mode anyone who reaches it can replace its model)"
            )

    def _body(self, request: Request, plain: bool) -> dict[str, Any]:
        # The model's configuration may know fewer tokens that end a sample than the tokenizer.
        return super()._body(request, plain) | {"ignore_eos": True, "logprobs": 0}

    def _may_be_plain(self) -> bool:
        return False

    def _post(self, path: str, **more: Any) -> httpx.Response:
        try:
            return httpx.post(f"{self.root}{path}", headers=self._headers, timeout=RELOAD_S, **more)
        except httpx.HTTPError as error:
            raise RuntimeError(f"the server at {self.root} failed at {path}: {error}") from error

    # ---------------------------------------------------------------- weights

    @torch.no_grad()
    def load(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Take over the training model's tensors, by their names in transformers; every process must call it.

        The first process holds all of them in its memory for a moment, in `dtype`.
        """
        self.loaded, kept = None, {}
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
                    raise RuntimeError(
                        f"the server at {self.root} did not take the weights in {self.weights} "
                        f"({path}: {reason(answer)}): it must see this folder (--vllm_server_weights) "
                        "and serve a model of this shape"
                    )
        self._barrier()

    def check(self, model: PreTrainedModel) -> float:
        """Compare log-probabilities of fixed tokens with the training model's; the mean difference, in nats."""
        return compare_with_model(self._prompt_logprobs, model, self.vocabulary, self.context, self.dtype)

    def _prompt_logprobs(self, ids: tuple[int, ...]) -> list[float]:
        """Log-probability of every token but the first."""
        body = {"model": self.model, "prompt": list(ids), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        answer = self._post("/v1/completions", json=body)
        if answer.is_error:
            raise RuntimeError(f"the server at {self.root} refuses to score tokens: {reason(answer)}")
        found = answer.json()["choices"][0]["prompt_logprobs"]
        return [at[str(token)]["logprob"] for at, token in zip(found[1:], ids[1:], strict=True)]
