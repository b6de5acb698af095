"""The embedded engine: seeded sampling from a transformers decoder, on CPU or one GPU, without another copy of weights.

A pool of slots holds one key/value row per running sample, left-aligned, each with its own cursor. Waiting requests
are prefilled together, a prompt that several of them share only once, whenever enough slots are free; a finished
sample's slot is taken over by the last one, so that running samples stay contiguous. Each token is drawn from one
uniform number, a pure function of the sample's seed and the token's index, by inverting the cumulative distribution.

A sample does not depend on what else is in the pool. Seeds alone would not give that, because floating-point kernels
choose other summation orders for other shapes: so at least four rows are always computed and key/value lengths are
multiples of 16, which was enough for equal bits wherever it was measured (fp32, CPU).
"""

from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import (
    Cache,
    DynamicCache,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .base import Request, Sample, Sampling

MIN_ROWS = 4
KV_MULTIPLE = 16


@dataclass
class _Running:
    key: int
    request: Request
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


def uniform(seeds: Tensor, index: Tensor) -> Tensor:
    """One float64 in [0, 1) per (seed, token index): the SplitMix64 generator's output number `index + 1`.

    Args:
        seeds: (N,) int64.
        index: (N,) int64, counted from 0.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
    """

    def shift(z: Tensor, bits: int) -> Tensor:  # logical, where torch's >> is arithmetic
        return (z >> bits) & ((1 << (64 - bits)) - 1)

    z = seeds + (index + 1) * -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed number; int64 wraps
    z = (z ^ shift(z, 30)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
    z = (z ^ shift(z, 27)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    z = z ^ shift(z, 31)
    return shift(z, 11).double() * 2.0**-53


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


class _SlotCache(Cache):
    """Keys and values of all slots, (slots, heads, capacity, head_dim) per layer; one decode step writes one column."""

    def __init__(self):
        super().__init__(layers=[])
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.rows: Tensor | None = None  # (rows,) the slots computed in this step
        self.cursor: Tensor | None = None  # (rows,) where each writes its token
        self.width = 0  # key/value columns in view

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs):
        """Write this step's column of each row, and show the columns in use. Called by the model's attention."""
        n, keys, values = len(self.rows), self.keys[layer_idx], self.values[layer_idx]
        keys[self.rows, :, self.cursor] = key_states[:, :, 0].to(keys.dtype)
        values[self.rows, :, self.cursor] = value_states[:, :, 0].to(values.dtype)
        return keys[:n, :, : self.width], values[:n, :, : self.width]

    def store(self, prefilled: DynamicCache, source: list[int], slots: list[int]) -> None:
        """Copy row source[i] of a prefilled cache into slot slots[i]."""
        for i, layer in enumerate(prefilled.layers):
            for kept, found in ((self.keys[i], layer.keys), (self.values[i], layer.values)):
                kept[slots, :, : found.shape[2]] = found[source].to(kept.dtype)

    def move(self, source: int, target: int) -> None:
        """Let slot `target` take over what slot `source` holds."""
        for tensor in (*self.keys, *self.values):
            tensor[target] = tensor[source]

    def reserve(self, keys: list[Tensor], values: list[Tensor], slots: int, capacity: int) -> None:
        """Make room for `capacity` columns, shaped like `keys` and `values`, keeping what is there.

        Under autocast a layer may give keys in float32 (after the rotary embedding) beside values in bfloat16. Both are
        kept as attention computes with them: in autocast's type.
        """
        device = keys[0].device.type
        lower = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        for old, like in ((self.keys, keys), (self.values, values)):
            new = [x.new_zeros(slots, x.shape[1], capacity, x.shape[3], dtype=lower or x.dtype) for x in like]
            for before, after in zip(old, new, strict=False):
                after[:, :, : before.shape[2]] = before
            old[:] = new


class TorchEngine:
    """Draws samples from a live transformers model; what `submit` was given comes back from `poll` in any order.

    Args:
        model: a causal language model whose layers all use full attention; read, never changed.
        eos_ids: tokens that end a sample.
        pad_id: any valid token.
        sampling: how tokens are drawn.
        slots: most samples in the pool at once.

    Raises:
        ValueError: if the model has layers other than full attention.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        eos_ids: list[int],
        pad_id: int,
        *,
        sampling: Sampling = Sampling(),  # noqa: B008, it cannot be changed
        slots: int = 64,
    ):
        check_full_attention(model.config)
        self.model, self.eos_ids, self.pad_id = model, frozenset(eos_ids), pad_id
        self.temperature, self.slots = sampling.temperature, max(slots, MIN_ROWS)
        self._warpers = LogitsProcessorList(
            ([TopKLogitsWarper(sampling.top_k)] if sampling.top_k else [])
            + ([TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else [])
            + ([MinPLogitsWarper(sampling.min_p)] if sampling.min_p else [])
        )
        self._waiting: deque[tuple[int, Request]] = deque()
        self._running: list[_Running] = []  # slot i holds _running[i]
        self._cache: _SlotCache | None = None
        self._next_key = 0

    def submit(self, request: Request) -> int:
        """Queue a request; the key returned names its sample in `poll`'s answer."""
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
                self._release(slot)
                return len(running.ids)
        raise KeyError(key)

    def _release(self, slot: int) -> None:
        """Free a slot; the last running sample moves into it."""
        last = self._running.pop()
        if slot < len(self._running):
            self._cache.move(len(self._running), slot)
            self._running[slot] = last

    @torch.no_grad()
    def poll(self) -> dict[int, Sample]:
        """Advance every running sample by one token; the samples that ended, by key."""
        free = self.slots - len(self._running)
        # Refills are batched, or a long prefill would run for every single sample that ends.
        if self._waiting and (not self._running or free >= min(len(self._waiting), self.slots // 2)):
            self._admit(free)
        if not self._running:
            self._cache = None  # the pool's memory belongs to the update between two rollouts
            return {}
        tokens, logprobs = self._decode()
        done = {}
        for slot in reversed(range(len(self._running))):
            running = self._running[slot]
            running.ids.append(tokens[slot])
            running.logprobs.append(logprobs[slot])
            stopped = tokens[slot] in self.eos_ids
            if stopped or len(running.ids) == running.request.max_tokens:
                finish = "stop" if stopped else "length"
                done[running.key] = Sample(tuple(running.ids), finish, tuple(running.logprobs))
                self._release(slot)
        return done

    def _admit(self, free: int) -> None:
        """Prefill waiting requests into free slots: all their tokens but the last, which the next step computes."""
        admitted = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
        slots = range(len(self._running), len(self._running) + len(admitted))
        self._running += [_Running(key, request) for key, request in admitted]
        distinct = list(dict.fromkeys(request.ids for _, request in admitted))
        width = _round_up(max(len(ids) for ids in distinct), KV_MULTIPLE)
        padded = [ids + (self.pad_id,) * (width - len(ids)) for ids in distinct]
        padded += padded[:1] * (MIN_ROWS - len(padded))
        # Padding on the right is never seen: attention is causal, and decoding overwrites it.
        prefilled = DynamicCache()
        input_ids = torch.tensor(padded, device=self.model.device)
        self.model(input_ids=input_ids, past_key_values=prefilled, use_cache=True, logits_to_keep=1)
        if self._cache is None:
            self._cache = _SlotCache()
        if not self._cache.keys or self._cache.keys[0].shape[2] < width:
            keys, values = [x.keys for x in prefilled.layers], [x.values for x in prefilled.layers]
            self._cache.reserve(keys, values, self.slots, width)
        self._cache.store(prefilled, [distinct.index(request.ids) for _, request in admitted], list(slots))

    def _decode(self) -> tuple[list[int], list[float]]:
        """One forward of one token per running sample; the tokens drawn, and their log-probabilities."""
        n, device = len(self._running), self.model.device
        spare = max(MIN_ROWS - n, 0)
        last = [r.ids[-1] if r.ids else r.request.ids[-1] for r in self._running] + [self.pad_id] * spare
        cursor = [len(r.request.ids) + len(r.ids) - 1 for r in self._running] + [0] * spare
        cache = self._cache
        cache.width = _round_up(max(cursor) + 1, KV_MULTIPLE)
        if cache.keys[0].shape[2] < cache.width:
            capacity = _round_up(cache.width + cache.width // 2, KV_MULTIPLE)
            cache.reserve(cache.keys, cache.values, self.slots, capacity)
        cache.cursor = torch.tensor(cursor, device=device)
        cache.rows = torch.arange(n + spare, device=device)
        hidden = torch.arange(cache.width, device=device) > cache.cursor[:, None]  # (rows, width)
        dtype = cache.keys[0].dtype
        mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill(hidden, torch.finfo(dtype).min)
        logits = self.model(
            input_ids=torch.tensor(last, device=device)[:, None],
            position_ids=cache.cursor[:, None],
            attention_mask=mask[:, None, None],
            past_key_values=cache,
            use_cache=True,
        ).logits[:n, -1]
        seeds = torch.tensor([r.request.seed for r in self._running], device=device)
        index = torch.tensor([len(r.ids) for r in self._running], device=device)
        tokens, logprobs = self._draw(logits.float(), uniform(seeds, index))
        return tokens.tolist(), logprobs.tolist()

    def _draw(self, logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """(N, V) logits and (N,) uniform numbers to (N,) tokens, the first whose cumulative probability exceeds u.

        And their log-probabilities, (N,), before the warpers. At temperature 0 the likeliest token, whatever u.
        """
        if self.temperature == 0:
            logp, tokens = logits.log_softmax(-1).max(-1)
            return tokens, logp
        if self.temperature != 1:
            logits = logits / self.temperature
        p = logits.softmax(-1)
        warped = self._warpers(None, logits).softmax(-1) if self._warpers else p
        cumulative = warped.double().cumsum(-1)  # float32 would lose the tail of a large vocabulary
        target = u[:, None] * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, target, right=True).clamp(max=logits.shape[-1] - 1)
        return tokens[:, 0], p.gather(-1, tokens)[:, 0].log()


def check_full_attention(config) -> None:
    """ValueError unless all layers of the model's config use full attention, the only kind whose cache is slots."""
    text = config.get_text_config()
    default = "sliding_attention" if getattr(text, "sliding_window", None) else "full_attention"
    kinds = set(getattr(text, "layer_types", None) or [default])
    if kinds != {"full_attention"}:
        raise ValueError(
            f"the embedded engine needs full attention in every layer, but {text.model_type} has "
            f"{', '.join(sorted(kinds))}: choose a model with full attention (Qwen2, Qwen3, Llama, SmolLM2 ...), or "
            "--engine vllm"
        )
