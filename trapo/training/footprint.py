"""What a model and a part of its update take: sizes, and bytes of tensors as PyTorch counts them, by arithmetic.

`tests/training/test_footprint.py` and `benchmarks/estimate.py` hold the arithmetic against measured peaks.
"""

from dataclasses import dataclass
from typing import Any

from ..config import TRAPOConfig

FLOAT32 = 4  # bytes: weights are trained in float32, under autocast where bf16 is set
ADAM = 8  # bytes of AdamW's two moments, per trained parameter
CPU_TILE, GPU_TILE = 256, 4096  # tokens whose logits are there at a time (`micro_batches.fit_tiles`, TRL)
LOGIT_BLOCK = 32768  # of the vocabulary, in TRL's tiles: a buffer of a tile and so many words is there in any case
LOGIT_COPIES = 7  # on a CPU a tile's logits and what its gradient goes through; a GPU's kernel needs none
DEFAULT_UPDATE_TOKENS = 16384  # more pads more: slower, where it was measured (docs/performance.md)
FEWEST_UPDATE_TOKENS = 512
SPARE = 0.8  # share of what is free that a part of the update may take by default


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes, from its transformers configuration.

    Attributes:
        hidden, layers, mlp, vocabulary: as transformers names them, roughly.
        queries, keys: width of all query heads and of all key heads (values are as wide).
        tied: whether input and output embeddings are one matrix.
    """

    hidden: int
    layers: int
    queries: int
    keys: int
    mlp: int
    vocabulary: int
    tied: bool

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """The shape of a transformers configuration; ValueError where it lacks one of the sizes."""
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        try:
            heads = text.num_attention_heads
            width = getattr(text, "head_dim", None) or text.hidden_size // heads
            keys = (getattr(text, "num_key_value_heads", None) or heads) * width
            return cls(
                text.hidden_size, text.num_hidden_layers, heads * width, keys, text.intermediate_size, text.vocab_size,
                bool(getattr(text, "tie_word_embeddings", False)),
            )  # fmt: skip
        except AttributeError as error:
            raise ValueError(f"no estimate for this model: its configuration has no {error.name}") from None

    @property
    def layer_parameters(self) -> int:
        """Weights of a layer's matrices; norms and biases, a ten-thousandth of them, aside."""
        return self.hidden * (2 * self.queries + 2 * self.keys + 3 * self.mlp)

    @property
    def parameters(self) -> int:
        """All weights, embeddings included."""
        return self.layers * self.layer_parameters + self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def linear_parameters(self) -> int:
        """Weights of the linear layers, the head among them."""
        return self.layers * self.layer_parameters + self.vocabulary * self.hidden

    def activations(self, bf16: bool) -> int:
        """Bytes per token that a layer keeps for its backward pass, in float32 or under bf16 autocast.

        Two norms keep input, normed value and output; attention its rotated queries, keys and values, output, and the
        output as the projection reads it; the gated MLP gate, up, the activated gate and the product. Under autocast
        the norms, on the residual stream, stay in float32, and their outputs are kept as the projections read them too.
        """
        norms = (28 if bf16 else 24) * self.hidden
        return norms + (2 if bf16 else 4) * (3 * self.queries + 2 * self.keys + 4 * self.mlp)

    def lora_parameters(self, rank: int) -> int:
        """Weights of adapters of this rank on all linear layers but the head."""
        h, q, k, f = self.hidden, self.queries, self.keys, self.mlp
        return self.layers * rank * ((h + q) + 2 * (h + k) + (q + h) + 2 * (h + f) + (f + h))


def adapter_rank(config: TRAPOConfig) -> int:
    """Rank of LoRA's adapters; 0 where all weights are trained, or where a script of one's own has a `peft_config`."""
    return getattr(config, "lora_r", 0)


def part(shape: Shape, config: TRAPOConfig, tokens: int, *, sharded: bool = False) -> tuple[float, float]:
    """Bytes that a forward and backward pass of so many tokens keeps, and those that it needs besides for a while.

    Autocast keeps its copies of trained weights until the forward pass is over, or where activations are kept as long
    as these; it makes those of frozen weights (LoRA) anew for each layer, and a sharded model's layers come cast.
    """
    bf16, lower = bool(config.bf16), 2 if config.bf16 else FLOAT32
    on_cpu = config.use_cpu
    tile, block = min(tokens, CPU_TILE if on_cpu else GPU_TILE), min(shape.vocabulary, LOGIT_BLOCK)
    head = tile * LOGIT_BLOCK * lower + (LOGIT_COPIES * tile * block * FLOAT32 if on_cpu else 0)
    head += block * shape.hidden * lower if bf16 else 0  # of the head's weight, cast
    head += 0 if adapter_rank(config) else shape.vocabulary * shape.hidden * FLOAT32  # its gradient
    cast = shape.layers * shape.layer_parameters * 2 if bf16 and not sharded else 0  # autocast's copies of the weights
    layer = tokens * shape.activations(bf16)
    if config.gradient_checkpointing:  # every layer's input, in float32, and what stands around the head
        kept = tokens * FLOAT32 * shape.hidden * (shape.layers + 4)
        forward = (0 if adapter_rank(config) else cast) + tile * LOGIT_BLOCK * lower
        return kept, max(head, layer, forward)
    return shape.layers * layer, head + cast


def fitting_update_tokens(shape: Shape, config: TRAPOConfig, free: int) -> int:
    """The most tokens of a forward of the update, up to the default, that fit into so many free bytes.

    Args:
        shape, config: of the model and the run.
        free: what is free where weights are already, and gradients and optimizer are not yet.
    """
    rank = adapter_rank(config)
    trained = shape.lora_parameters(rank) if rank else shape.parameters
    room = SPARE * (free - trained * (FLOAT32 + ADAM))
    tokens = DEFAULT_UPDATE_TOKENS
    while tokens > FEWEST_UPDATE_TOKENS and sum(part(shape, config, tokens)) > room:
        tokens //= 2
    return tokens
