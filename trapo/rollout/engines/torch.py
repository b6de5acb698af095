"""The embedded engine: seeded sampling from a transformers decoder, on CPU or one GPU, without another copy of weights.

A pool of slots holds one key/value row per running sample, left-aligned, each with its own cursor. Waiting requests
are prefilled together, a prompt that several of them share only once, whenever enough slots are free; slots of finished
samples are taken over by the last ones, so that running samples stay contiguous. Each token is drawn from one uniform
number, a pure function of the sample's seed and the token's index, by inverting the cumulative distribution.

Every decode step has a fixed shape (`torch_step.py`); on a GPU a few shapes serve all, each a CUDA graph
(`torch_graphs.py`), and tokens are taken to the host every few steps: what was drawn behind a sample's end is dropped.

A sample does not depend on what else is in the pool. Seeds alone would not give that, because floating-point kernels
choose other summation orders for other shapes: so at least four rows are always computed and key/value lengths are
multiples of 16, which was enough for equal bits wherever it was measured (fp32, CPU). Elsewhere `length` does: with it
all prefills have one shape, and all steps have another.
"""

from collections import deque
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache, PreTrainedModel

from ...config_checks import attention_kinds
from .base import Request, Sample, Sampling
from .torch_cache import KV_MULTIPLE, SlotCache, round_up
from .torch_draw import Draw
from .torch_graphs import Capture, GraphedSteps, cuda_capture
from .torch_step import DecodeStep, Slots, decoding

MIN_ROWS = 4
GPU_ROWS = 8  # the smallest of a GPU's shapes; the others are twice the one before
GPU_STEPS = 8  # between two looks at what was drawn
FIXED_PREFILL = 256  # columns of a prefill of fixed shape


@dataclass
class _Running:
    key: int
    request: Request
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def cursor(self) -> int:
        """Where the token that is computed next stands."""
        return len(self.request.ids) + len(self.ids) - 1

    @property
    def longest(self) -> int:
        """Most tokens that prompt and sample will have."""
        return len(self.request.ids) + self.request.max_tokens


class TorchEngine:
    """Draws samples from a live transformers model; what `submit` was given comes back from `poll` in any order.

    Args:
        model: a causal language model whose layers all use full attention; read, never changed.
        eos_ids: tokens that end a sample.
        pad_id: any valid token.
        sampling: how tokens are drawn.
        slots: most samples in the pool at once.
        graphs: "auto" (CUDA graphs on a GPU, if they prove themselves) or "off".
        steps: decode steps per `poll`; 0 for 1 on a CPU and 8 on a GPU.
        prefill_tokens: most tokens of a forward over prompts, padding included; four rows of 16 always go.
        length: if given, the most tokens of prompt and sample, and every step computes all slots and so many columns: a
            sample then depends on its request only whatever the kernels, at the price of the largest shape.
        hold: whether keys, values and graphs are kept when nothing is left to draw, until `release`.

    Raises:
        ValueError: if the model has layers other than full attention; from `submit`, for a request beyond `length`.
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
        steps: int = 0,
        prefill_tokens: int = 16384,
        length: int | None = None,
        hold: bool = False,
    ):
        check_full_attention(model.config)
        self.model, self.eos_ids, self.pad_id = model, frozenset(eos_ids), pad_id
        self.slots, self.prefill_tokens, self.hold = max(slots, MIN_ROWS), prefill_tokens, hold
        self.length = round_up(length, KV_MULTIPLE) if length else None
        self.gpu = model.device.type == "cuda"
        self.steps = steps or (GPU_STEPS if self.gpu else 1)
        self._capture: Capture | None = None
        self._why_not = "" if self.gpu else "no GPU"
        if graphs == "off":
            self._why_not = "switched off"
        elif self.gpu:
            self._capture = cuda_capture()
        self._sampling = sampling
        self._waiting: deque[tuple[int, Request]] = deque()
        self._running: list[_Running] = []  # slot i holds _running[i]
        self._cache: SlotCache | None = None
        self._state: Slots | None = None
        self._decode: GraphedSteps | None = None
        self._recorded = 0  # graphs, at most at a time
        self._next_key = 0

    # ---------------------------------------------------------------- requests

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn; may be changed between two rollouts."""
        return self._sampling

    @sampling.setter
    def sampling(self, sampling: Sampling) -> None:
        if sampling != self._sampling:
            self._sampling, self._decode = sampling, None

    def submit(self, request: Request) -> int:
        """Queue a request; the key returned names its sample in `poll`'s answer."""
        if self.length and len(request.ids) + request.max_tokens > self.length:
            raise ValueError(
                f"a prompt of {len(request.ids)} tokens and {request.max_tokens} more exceed the engine's fixed length "
                f"of {self.length}: raise it, or lower --max_completion_length"
            )
        self._waiting.append((self._next_key, request))
        self._next_key += 1
        return self._next_key - 1

    @property
    def free(self) -> int:
        """Slots neither running nor promised to a waiting request; negative while more wait than fit."""
        return self.slots - len(self._running) - len(self._waiting)

    def abort(self, key: int) -> int:
        """Give up a request that has not ended; the tokens that were drawn for it. KeyError if there is none."""
        for i, (waiting, _) in enumerate(self._waiting):
            if waiting == key:
                del self._waiting[i]
                return 0
        for slot, running in enumerate(self._running):
            if running.key == key:
                self._release([slot])
                return len(running.ids)
        raise KeyError(key)

    @torch.no_grad()
    def poll(self) -> dict[int, Sample]:
        """Advance every running sample by `steps` tokens; the samples that ended, by key."""
        free = self.slots - len(self._running)
        # Refills are batched, or a long prefill would run for every single sample that ends.
        if self._waiting and (not self._running or free >= min(len(self._waiting), self.slots // 2)):
            self._admit(free)
        if not self._running:
            if not self.hold:
                self.release()
            return {}
        done, ended = {}, []
        for slot, (tokens, logprobs) in enumerate(zip(*self._advance(), strict=True)):
            running = self._running[slot]
            for token, logprob in zip(tokens, logprobs, strict=True):
                running.ids.append(token)
                running.logprobs.append(logprob)
                stopped = token in self.eos_ids
                if stopped or len(running.ids) == running.request.max_tokens:
                    finish = "stop" if stopped else "length"
                    done[running.key] = Sample(tuple(running.ids), finish, tuple(running.logprobs))
                    ended.append(slot)
                    break  # what was drawn behind its end is nobody's
        self._release(ended)
        return done

    def release(self) -> None:
        """Free keys, values and graphs; nothing may be running."""
        self._cache = self._state = self._decode = None

    @property
    def bytes(self) -> int:
        """Of keys and values."""
        return self._cache.bytes_per_column * self._cache.capacity if self._cache is not None else 0

    def describe(self) -> dict[str, str | int]:
        """Which path decodes, for the record of a run."""
        graphs = bool(self._recorded) and not self._why_not
        found = {"engine": "torch", "decoding": "CUDA graphs" if graphs else "eager", "steps per look": self.steps}
        found |= {"no graphs": self._why_not} if self._why_not else {}
        return found | ({"fixed length": self.length} if self.length else {})

    # ---------------------------------------------------------------- decoding

    def _advance(self) -> tuple[list[list[int]], list[list[float]]]:
        """Some decode steps; the tokens drawn by each running sample, and their log-probabilities."""
        n = len(self._running)
        steps = min(self.steps, max(r.longest - r.cursor - 1 for r in self._running))
        rows, width = self._shape(n, max(min(r.cursor + steps, r.longest) for r in self._running))
        self._reserve(width)
        if self._decode is None:
            step = DecodeStep(self.model, self._cache, self._state, Draw(self._sampling), self.eos_ids)
            self._decode = GraphedSteps(step, self._capture, self._why_not)
        with decoding(self.model):
            self._decode.run(rows, width, steps)
        self._recorded = max(self._recorded, len(self._decode))
        if self._decode.why_not != self._why_not:  # nor in the next rollout
            self._capture, self._why_not = None, self._decode.why_not
        return self._state.take(n, steps)

    def _shape(self, n: int, columns: int) -> tuple[int, int]:
        """Rows and columns that a step computes for n samples that use so many columns."""
        if self.length:
            return self.slots, self.length
        if not self.gpu:
            return max(n, MIN_ROWS), round_up(columns, KV_MULTIPLE)
        rows = GPU_ROWS
        while rows < n:
            rows *= 2
        return min(rows, self.slots), round_up(columns, 256 if columns <= 2048 else 1024)

    def _reserve(self, width: int) -> None:
        """Columns for a step, and half as many more for the following, if the samples at hand may come to need them.

        On a GPU all that they may need, if it fits into half of what is free: graphs end where the cache moves.
        """
        cache = self._cache
        if cache.capacity >= width:
            return
        most = max(width, self._shape(1, max(r.longest for r in self._running))[1])
        wanted = min(most, self._shape(1, width + width // 2)[1])
        if self.gpu:
            unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # torch's own, from the last update
            free = torch.cuda.mem_get_info()[0] + unused
            wanted = most if (most - cache.capacity) * cache.bytes_per_column < free / 2 else wanted
        cache.reserve(wanted)
        if self._decode is not None:
            self._decode.forget()

    def _release(self, ended: list[int]) -> None:
        """Free these slots; the last running samples move into those before them."""
        if not ended:
            return
        n, gone = len(self._running), set(ended)
        left = n - len(gone)
        sources = [slot for slot in range(left, n) if slot not in gone]
        targets = [slot for slot in sorted(gone) if slot < left]
        columns = max((self._running[slot].cursor for slot in sources), default=0)
        self._cache.copy(sources, targets, columns)
        self._state.move(sources, targets)
        self._state.idle(left, n)
        for source, target in zip(sources, targets, strict=True):
            self._running[target] = self._running[source]
        del self._running[left:]

    # ---------------------------------------------------------------- prefill

    def _admit(self, free: int) -> None:
        """Take waiting requests into free slots: all their tokens but the last, which the next step computes."""
        admitted = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
        first = len(self._running)
        if self._cache is None:
            self._cache = SlotCache(self.slots)
            self._state = Slots(self.slots, self.steps, self.pad_id, self.model.device)
        wanted: dict[tuple[int, ...], list[int]] = {}  # tokens -> slots that begin with them
        sources, targets, columns = [], [], 0
        for slot, (_, request) in enumerate(admitted, first):
            if (donor := self._donor(request.ids)) is None:
                wanted.setdefault(request.ids, []).append(slot)
            else:
                sources, targets, columns = [*sources, donor], [*targets, slot], max(columns, len(request.ids) - 1)
        self._running += [_Running(key, request) for key, request in admitted]
        for batch in self._batches(list(wanted)):
            prefilled = self._prefill(batch)
            self._cache.reserve(self.length or prefilled.get_seq_length(), like=prefilled)
            rows = [(row, slot) for row, ids in enumerate(batch) for slot in wanted[ids]]
            self._cache.store(prefilled, [row for row, _ in rows], [slot for _, slot in rows])
        self._cache.copy(sources, targets, columns)
        requests = [request for _, request in admitted]
        self._state.begin(
            range(first, len(self._running)),
            last=[r.ids[-1] for r in requests],
            cursor=[len(r.ids) - 1 for r in requests],
            limit=[r.max_tokens for r in requests],
            seed=[r.seed for r in requests],
        )

    def _donor(self, ids: tuple[int, ...]) -> int | None:
        """A running sample's slot whose request begins with all of `ids` but the last: its columns are theirs too."""
        n = len(ids) - 1
        for slot, running in enumerate(self._running):
            other = running.request.ids
            if len(other) > n > 0 and other[n - 1] == ids[n - 1] and other[:n] == ids[:n]:
                return slot
        return None

    def _batches(self, prompts: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
        """Prompts of similar length together, as many as the budget of tokens allows."""
        prompts, batches = sorted(prompts, key=len, reverse=True), []
        while prompts:
            fitting = self.prefill_tokens // round_up(len(prompts[0]), KV_MULTIPLE)
            rows = MIN_ROWS if self.length else max(MIN_ROWS, fitting)
            batches.append(prompts[:rows])
            prompts = prompts[rows:]
        return batches

    def _prefill(self, prompts: list[tuple[int, ...]]) -> DynamicCache:
        """Keys and values of prompts, in one forward, or several over as many columns as the budget allows."""
        width = round_up(len(prompts[0]), KV_MULTIPLE)  # of the longest
        rows = max(len(prompts), MIN_ROWS)
        chunk = max(self.prefill_tokens // rows // KV_MULTIPLE * KV_MULTIPLE, KV_MULTIPLE)
        if self.length:
            rows, chunk = MIN_ROWS, min(FIXED_PREFILL, self.length)
            width = round_up(width, chunk)
        # Padding on the right is never seen: attention is causal, and decoding overwrites it.
        padded = [ids + (self.pad_id,) * (width - len(ids)) for ids in prompts]
        padded += padded[:1] * (rows - len(padded))
        input_ids, prefilled = torch.tensor(padded, device=self.model.device), DynamicCache()
        for start in range(0, width, chunk):
            part = input_ids[:, start : start + chunk]
            self.model(input_ids=part, past_key_values=prefilled, use_cache=True, logits_to_keep=1)
        return prefilled


def check_full_attention(config) -> None:
    """ValueError unless all layers of the model's config use full attention, the only kind whose cache is slots."""
    if (kinds := attention_kinds(config)) != {"full_attention"}:
        raise ValueError(
            f"the embedded engine needs full attention in every layer, but {config.get_text_config().model_type} "
            f"has {', '.join(sorted(kinds))}: --engine transformers, --engine vllm, or a model with full attention "
            "(Qwen2, Qwen3, Llama, SmolLM2 ...)"
        )
