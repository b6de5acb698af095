"""One decode step of fixed shape: all of a sample's state on the device, read and updated there.

A step of `rows` slots and `width` key/value columns makes no tensor whose shape or address depends on the samples, asks
the device for nothing, and so can be recorded as a CUDA graph (`torch_graphs.py`) and replayed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from .torch_cache import SlotCache
from .torch_draw import Draw, uniform

ATTENTION = "trapo_decode"  # its name among transformers' attention functions


def decode_attention(module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **kwargs):
    """Attention of one query token per row, without a copy of keys and values for every query head that shares them.

    On a GPU by `folded`; on a CPU by torch's own grouped heads, whose bits are those of repeated keys and values, where
    the fold's depend on what else is computed.

    Args:
        module: the layer.
        query: (rows, heads, 1, head_dim).
        key, value: (rows, key/value heads, width, head_dim).
        attention_mask: (rows, 1, 1, width), added to the scores.
        kwargs: `scaling`, and what transformers' other functions take.

    Returns:
        (rows, 1, heads, head_dim), and None in place of attention weights.
    """
    if query.shape[2] != 1 or query.shape[1] == key.shape[1]:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    grouped = scaled_dot_product_attention if query.device.type == "cpu" else folded
    more = {"enable_gqa": True} if query.device.type == "cpu" else {}
    found = grouped(query, key, value, attn_mask=attention_mask, scale=kwargs.get("scaling"), **more)
    return found.transpose(1, 2).contiguous(), None


def folded(query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor, scale: float | None = None) -> Tensor:
    """The query heads of a key/value head in the place of a query's length, which fused kernels take with a mask.

    Shapes as for `decode_attention`; (rows, heads, 1, head_dim) out.
    """
    rows, heads, _, size = query.shape
    query = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
    return scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, scale=scale).reshape(
        rows, heads, 1, size
    )


AttentionInterface.register(ATTENTION, decode_attention)


@contextmanager
def decoding(model) -> Iterator[None]:
    """Let the model's layers attend by `decode_attention`; its own attention is put back at the end."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


class Slots:
    """What the device knows of the running samples, one entry per slot, and the tokens that it has drawn.

    Attributes:
        last: the token to be computed next; cursor: its position, and its column in the cache.
        index: tokens drawn so far; limit: the most there may be; seed: the sample's.
        live: whether the sample goes on; where it does not, the slot computes the same column again and again.
        column: (1,) how many steps were made since the tokens were last taken to the host.
        tokens, logprobs: (slots, steps) what these steps have drawn.
    """

    def __init__(self, slots: int, steps: int, pad_id: int, device: torch.device):
        def numbers(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        self.pad_id, self.device = pad_id, device
        self.last, self.cursor, self.index = numbers(slots) + pad_id, numbers(slots), numbers(slots)
        self.limit, self.seed, self.live = numbers(slots), numbers(slots), numbers(slots).bool()
        self.column, self.tokens = numbers(1), numbers(slots, steps)
        self.logprobs = torch.zeros(slots, steps, device=device)

    def begin(self, slots: Sequence[int], last: list[int], cursor: list[int], limit: list[int], seed: list[int]):
        """Samples of which nothing is drawn yet."""
        where = torch.tensor(slots, device=self.device)
        given = torch.tensor([last, cursor, limit, seed], device=self.device)
        self.last[where], self.cursor[where], self.limit[where], self.seed[where] = given
        self.index[where], self.live[where] = 0, True

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Let slots `targets` go on with what `sources` were at."""
        if sources:
            for tensor in (self.last, self.cursor, self.index, self.limit, self.seed, self.live):
                tensor[targets] = tensor[sources]

    def idle(self, start: int, stop: int) -> None:
        """Slots without a sample."""
        self.last[start:stop], self.cursor[start:stop], self.live[start:stop] = self.pad_id, 0, False

    def take(self, rows: int, steps: int) -> tuple[list[list[int]], list[list[float]]]:
        """The tokens that `steps` steps have drawn and their log-probabilities, by row."""
        return self.tokens[:rows, :steps].tolist(), self.logprobs[:rows, :steps].tolist()

    def state(self) -> list[Tensor]:
        """A copy of everything."""
        return [tensor.clone() for tensor in self._tensors()]

    def restore(self, state: list[Tensor]) -> None:
        """Go back to a copy."""
        for tensor, before in zip(self._tensors(), state, strict=True):
            tensor.copy_(before)

    def _tensors(self) -> tuple[Tensor, ...]:
        return (self.last, self.cursor, self.index, self.limit, self.seed, self.live, self.column, self.tokens,
                self.logprobs)  # fmt: skip


class DecodeStep:
    """Computes a token of each of the first `rows` slots, draws the next, and takes note of it in `slots`.

    Args:
        model: what computes.
        cache: keys and values, one column of which is written.
        slots: the samples.
        draw: from logits to tokens.
        eos_ids: tokens that end a sample.
    """

    def __init__(self, model, cache: SlotCache, slots: Slots, draw: Draw, eos_ids: Sequence[int]):
        self.model, self.cache, self.slots, self.draw = model, cache, slots, draw
        self._eos = torch.tensor(sorted(eos_ids), dtype=torch.int64, device=slots.device)
        self._numbers = torch.arange(cache.slots, device=slots.device)

    def __call__(self, rows: int, width: int) -> None:
        """One step; every cursor of these rows must be below `width`, and `width` at most the cache's capacity."""
        slots, cache = self.slots, self.cache
        cursor, index = slots.cursor[:rows], slots.index[:rows]
        cache.rows, cache.cursor, cache.width = self._numbers[:rows], cursor, width
        hidden = torch.arange(width, device=cursor.device) > cursor[:, None]  # (rows, width)
        dtype = cache.keys[0].dtype
        mask = torch.zeros(hidden.shape, dtype=dtype, device=cursor.device)
        mask = mask.masked_fill(hidden, torch.finfo(dtype).min)
        logits = self.model(
            input_ids=slots.last[:rows, None],
            position_ids=cursor[:, None],
            attention_mask=mask[:, None, None],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        tokens, logprobs = self.draw(logits, uniform(slots.seed[:rows], index))
        slots.tokens[:rows].index_copy_(1, slots.column, tokens[:, None])
        slots.logprobs[:rows].index_copy_(1, slots.column, logprobs[:, None])
        slots.column += 1
        index += 1
        slots.last[:rows] = tokens
        live = slots.live[:rows]
        live &= ~(tokens[:, None] == self._eos).any(-1) & (index < slots.limit[:rows])
        cursor += live
