"""transformers' continuous batching: paged keys and values, for any attention that transformers knows.

What it cannot promise is that a sample depends on its request only: it has one random generator for all, so that a
sample also depends on what is drawn beside it. The same requests in the same order on the same machine give the same
samples; another schedule gives others of the same distribution.

Its loop is run here step by step, not in its background thread, whose timing would decide about the samples and which
autocast does not reach. It computes in the model's own type, without autocast.
"""

import logging
import queue
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from .base import Request, Sample, Sampling

logger = logging.getLogger("trapo")
CPU_BLOCK = 32  # columns of a page; on a GPU transformers' own choice, which its kernels are made for
BATCH_TOKENS = 2048  # most tokens of a forward, prompts included
HEADROOM = 0.5  # largest share of a GPU's free memory for keys and values


class TransformersEngine:
    """Draws samples with `ContinuousBatchingManager`; its memory is there from the first `poll` to `release`.

    Args:
        model: the training model, unwrapped; its attention is another while samples are drawn, nothing else is changed.
        eos_ids, pad_id, sampling, slots, graphs: as for `TorchEngine`.
        prefill_tokens: most tokens of a forward, at most 2,048.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        eos_ids: list[int],
        pad_id: int,
        *,
        sampling: Sampling = Sampling(),  # noqa: B008, it cannot be changed
        slots: int = 64,
        graphs: str = "auto",
        prefill_tokens: int = BATCH_TOKENS,
    ):
        self.model, self.eos_ids, self.pad_id, self.sampling = model, sorted(eos_ids), pad_id, sampling
        self.slots, self.prefill_tokens = slots, prefill_tokens
        self._graphs = graphs != "off" and model.device.type == "cuda"
        self._why_not = "switched off" if graphs == "off" else "" if self._graphs else "no GPU"
        self._live: dict[int, Request] = {}
        self._next_key = 0
        self._loop: _Loop | None = None

    @property
    def free(self) -> int:
        """Slots neither running nor promised to a waiting request; negative while more wait than fit."""
        return self.slots - len(self._live)

    def submit(self, request: Request) -> int:
        """Queue a request; the key returned names its sample in `poll`'s answer."""
        key, self._next_key = self._next_key, self._next_key + 1
        self._live[key] = request
        if self._loop is not None:
            self._loop.add(key, request)
        return key

    @torch.no_grad()
    def poll(self) -> dict[int, Sample]:
        """One step; the samples that ended, by key.

        Raises:
            RuntimeError: if a request fails.
        """
        if not self._live:
            self.release()
            return {}
        if self._loop is None:
            self._begin()
        try:
            ended = self._loop.step()
        except Exception as error:
            if not self._graphs:
                raise
            self._graphs, self._why_not = False, " ".join(str(error).split())[:200]
            logger.warning("continuous batching goes on without CUDA graphs: %s", self._why_not)
            self.release()
            self._begin()  # what was running is drawn anew
            ended = self._loop.step()
        done = {}
        for key, ids, logprobs in ended:
            del self._live[key]
            done[key] = Sample(ids, "stop" if ids[-1] in self.eos_ids else "length", logprobs)
        return done

    def abort(self, key: int) -> int:
        """Give up a request that has not ended; the tokens that were drawn for it. KeyError if there is none."""
        del self._live[key]
        return self._loop.cancel(key) if self._loop is not None else 0

    def release(self) -> None:
        """Free keys and values, and put the model's own attention back."""
        if self._loop is not None:
            self._loop.close()
            self._loop = None

    def describe(self) -> dict[str, str]:
        """Which path decodes, for the record of a run."""
        path = "CUDA graphs where transformers takes them" if self._graphs else "eager"
        return {"engine": "transformers", "decoding": path, "samples depend on": "all that is drawn beside them"} | (
            {"no graphs": self._why_not} if self._why_not else {}
        )

    def _begin(self) -> None:
        longest = max(len(request.ids) + request.max_tokens for request in self._live.values())
        how = GenerationConfig(
            do_sample=self.sampling.temperature > 0,
            temperature=self.sampling.temperature or 1.0,
            top_k=self.sampling.top_k,
            top_p=self.sampling.top_p,
            min_p=self.sampling.min_p,
            eos_token_id=self.eos_ids or -1,
            pad_token_id=self.pad_id,
            max_new_tokens=longest,
        )
        settings = ContinuousBatchingConfig(
            max_batch_tokens=max(self.slots, min(self.prefill_tokens, BATCH_TOKENS)),
            max_requests_per_batch=self.slots,
            max_memory_percent=HEADROOM,
            use_cuda_graph=None if self._graphs else False,
            use_async_batching=False,  # a step ends with its tokens
            return_logprobs=True,
            seed=next(iter(self._live.values())).seed,
        )
        if self.model.device.type == "cpu":  # it would take all the memory there is
            settings.block_size = CPU_BLOCK
            settings.num_blocks = (self.slots + 1) * (-(-longest // CPU_BLOCK) + 1)
        self._loop = _Loop(self.model, how, settings)
        for key, request in self._live.items():
            self._loop.add(key, request)


class _Loop:
    """A manager of transformers' without its thread, with a random generator of its own."""

    def __init__(self, model: PreTrainedModel, how: GenerationConfig, settings: ContinuousBatchingConfig):
        self.model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._attention, self._kind = self.model.config._attn_implementation, self.model.device.type
        self._random: list[torch.Tensor] = []
        with self._apart():
            try:
                self._manager = self.model.init_continuous_batching(how, settings)
                self._processor = self._manager._create_batch_processor()
                self._manager.batch_processor = self._processor
            except BaseException:
                self.model.set_attn_implementation(self._attention)
                raise

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Without autocast, and with the loop's own random numbers: training's are as they were afterwards."""
        cuda = self._kind == "cuda"
        devices = [self.model.device] if cuda else []
        with torch.random.fork_rng(devices=devices), torch.autocast(self._kind, enabled=False):
            if self._random:
                torch.set_rng_state(self._random[0])
                if cuda:
                    torch.cuda.set_rng_state(self._random[1], self.model.device)
            yield
            self._random = [torch.get_rng_state(), *([torch.cuda.get_rng_state(self.model.device)] if cuda else [])]

    def add(self, key: int, request: Request) -> None:
        """Queue a request."""
        self._manager.add_request(list(request.ids), request_id=str(key), max_new_tokens=request.max_tokens)

    def step(self) -> list[tuple[int, tuple[int, ...], tuple[float, ...]]]:
        """One forward; key, tokens and log-probabilities of each sample that ended."""
        with self._apart():
            if self._processor.prepare_next_batch():
                self._processor._generation_step(self.model)
                self._processor.update_batch()
        ended = []
        while True:
            try:
                output = self._manager.output_router.output_queue.get_nowait()
            except queue.Empty:
                return ended
            if output.error is not None:
                raise RuntimeError(f"continuous batching failed: {output.error}")
            key, ids = int(output.request_id), tuple(output.generated_tokens)
            ended.append((key, ids, tuple(output.logprobs)))

    def cancel(self, key: int) -> int:
        """Give up a request; the tokens that were drawn for it."""
        state = self._processor.scheduler.active_requests.get(str(key))
        self._manager.cancel_request(str(key))
        return state.generated_len() if state is not None else 0

    def close(self) -> None:
        """Free everything."""
        self._processor = self._manager.batch_processor = None
        self._manager.destroy()
        self.model.set_attn_implementation(self._attention)
