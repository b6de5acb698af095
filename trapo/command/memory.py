"""What a run needs before it is started: bytes of tensors per GPU, tokens and operations per step.

Everything is arithmetic over the model's configuration; nothing is loaded. Bytes are of tensors, as PyTorch counts
them; CUDA's own context, fragmentation and communication buffers come on top. `benchmarks/estimate.py` holds the
estimate of the update against measured peaks.
"""

import os
from dataclasses import dataclass, fields
from typing import Any

from ..config import TRAPOConfig

FLOAT32 = 4  # bytes: weights are trained in float32, under autocast where bf16 is set
ADAM = 8  # bytes of AdamW's two moments, per trained parameter
CPU_TILE, GPU_TILE = (
    256,
    4096,
)  # tokens whose logits are there at a time (`micro_batches.fit_tiles`, TRL)
LOGIT_BLOCK = 32768  # of the vocabulary, in TRL's tiles
LOGIT_COPIES = 3  # a tile's logits, their gradient, and one intermediate
HEAD_GRADIENTS = 2  # the head's gradient as the tiles add it up, and as autograd hands it on


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
    def activations(self) -> int:
        """Numbers per token that a layer keeps for its backward pass.

        Two norms keep input, normed value and output; attention its rotated queries, keys and values, output, and the
        output as the projection reads it; the gated MLP gate, up, the activated gate and the product.
        """
        return 6 * self.hidden + 3 * self.queries + 2 * self.keys + 4 * self.mlp

    def lora_parameters(self, rank: int) -> int:
        """Weights of adapters of this rank on all linear layers but the head."""
        h, q, k, f = self.hidden, self.queries, self.keys, self.mlp
        return self.layers * rank * ((h + q) + 2 * (h + k) + (q + h) + 2 * (h + f) + (f + h))


@dataclass(frozen=True)
class Memory:
    """Bytes of tensors on one GPU, at the peaks of the SFT stage, of the update and of the rollout.

    Attributes:
        weights, gradients, optimizer: there all the time (gradients: from the first part of an update on).
        copy: the whole weights that the embedded engine draws with where the model is sharded (FSDP), else 0.
        activations: kept for the backward pass of the update's largest part; 0 without an RL stage.
        transient: besides them, the larger of the head's work (tiles of logits, its gradient) and, where activations
            are checkpointed, one layer's in full: they are not there at the same time.
        cache: keys and values of the embedded engine's slots, in a rollout.
        sft: activations and transient of the SFT stage's largest part, its rows padded to the longest possible one; 0
            without that stage.
    """

    weights: float
    gradients: float
    optimizer: float
    copy: float
    activations: float
    transient: float
    cache: float
    sft: float

    @property
    def peaks(self) -> dict[str, float]:
        """The peak of each thing that the run does; a rollout is also what evaluates it."""
        lasting = self.weights + self.optimizer + self.copy
        found = {"SFT": lasting + self.gradients + self.sft} if self.sft else {}
        if self.activations:
            found["update"] = lasting + self.gradients + self.activations + self.transient
        return found | {"rollout": lasting + self.cache}

    def lines(self) -> dict[str, str]:
        """For the plan: GiB by part."""

        def gib(parts: dict[str, float]) -> str:
            return ", ".join(f"{name} {value / 2**30:.3g}" for name, value in parts.items() if value)

        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"GiB of tensors per GPU": gib(parts), "GiB at the peak": gib(self.peaks)}


def shards(config: TRAPOConfig) -> int:
    """GPUs that weights, gradients and optimizer are split over: all where the launcher says FSDP or ZeRO-3, else 1."""
    sharded = bool(config.deepspeed_plugin and config.deepspeed_plugin.zero_stage == 3)
    sharded |= os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")
    return config.world_size if sharded else 1


def memory(shape: Shape, config: TRAPOConfig, prompt: int, *, shards: int = 1, embedded: bool = True) -> Memory:
    """Bytes per GPU.

    Args:
        shape: of the model.
        config: of the run.
        prompt: tokens of a long prompt.
        shards: GPUs that weights, gradients and optimizer are split over (FSDP, ZeRO-3); 1 for DDP.
        embedded: whether the embedded engine draws; a vLLM takes the memory that it is given.
    """
    trained = shape.lora_parameters(config.lora_r) if config.lora_r else shape.parameters
    held = shape.parameters + (trained if config.lora_r else 0)
    row = prompt + config.max_completion_length
    activations = transient = sft = 0.0
    if "rl" in config.stages:  # a row that is longer than the budget runs alone
        activations, transient = _part(shape, config, max(row, config.update_tokens))
    if "sft" in config.stages:
        sft = sum(_part(shape, config, row * config.sft_micro_batch))
    return Memory(
        weights=held * FLOAT32 / shards,
        gradients=trained * FLOAT32 / shards,
        optimizer=trained * ADAM / shards,
        copy=shape.parameters * FLOAT32 if shards > 1 and embedded else 0,
        activations=activations,
        transient=transient,
        cache=2 * shape.layers * shape.keys * config.rollout_slots * row * FLOAT32 if embedded else 0,
        sft=sft,
    )


def _part(shape: Shape, config: TRAPOConfig, tokens: int) -> tuple[float, float]:
    """Bytes that a forward and backward pass of so many tokens keeps, and those that it needs besides for a while."""
    kept = 2 if config.bf16 else FLOAT32
    tile = min(tokens, CPU_TILE if config.use_cpu else GPU_TILE)
    block = shape.vocabulary if config.use_cpu else min(shape.vocabulary, LOGIT_BLOCK)
    head_gradient = 0 if config.lora_r else HEAD_GRADIENTS * shape.vocabulary * shape.hidden
    head = (LOGIT_COPIES * tile * block + head_gradient) * FLOAT32
    layer = tokens * kept * shape.activations
    if config.gradient_checkpointing:  # every layer's input, and what stands around the head
        return tokens * kept * shape.hidden * (shape.layers + 4), max(head, layer)
    return shape.layers * layer, head


@dataclass(frozen=True)
class Work:
    """Tokens and operations of one step, on all GPUs; as (least, most) where it depends on how much is guided.

    Attributes:
        drawn: tokens that the policy writes, if every sample is `completion` long.
        trained: tokens in the update's forward and backward passes.
        rollout_flops, update_flops: floating-point operations.
    """

    drawn: tuple[float, float]
    trained: tuple[float, float]
    rollout_flops: tuple[float, float]
    update_flops: tuple[float, float]

    def lines(self, drawn_per_second: float = 0.0, trained_per_second: float = 0.0) -> dict[str, str]:
        """For the plan; with seconds where rates are given."""

        def both(pair: tuple[float, float], unit: float = 1.0) -> str:
            low, high = (
                f"{value / unit:,.0f}" if value >= 10 * unit else f"{value / unit:.3g}" for value in sorted(pair)
            )
            return low if low == high else f"{low} to {high}"

        found = {
            "tokens drawn per step, at most": both(self.drawn),
            "tokens trained per step, at most": both(self.trained),
            "TFLOP per step: rollout, update": f"{both(self.rollout_flops, 1e12)}; {both(self.update_flops, 1e12)}",
        }
        if drawn_per_second and trained_per_second:
            seconds = [d / drawn_per_second + t / trained_per_second
                       for d, t in zip(self.drawn, self.trained, strict=True)]  # fmt: skip
            found["seconds per step, at these rates"] = both((min(seconds), max(seconds)))
        return found


def work(shape: Shape, config: TRAPOConfig, prompt: int) -> Work:
    """What a step draws and trains if every response is as long as it may be: none guided, and all that can be.

    A forward pass costs 2 operations per weight and token, and 4 times queries x context for attention; a backward pass
    twice that; checkpointing one more forward (Kaplan et al. 2020, arXiv 2001.08361, section 2.1).
    """
    groups = config.micro_groups()
    per_step = config.generation_batch_size * config.gradient_accumulation_steps / config.steps_per_generation
    length, share = config.max_completion_length, per_step / groups.group_size
    guided = sum(size * (1 - ratio) for size, ratio in zip(groups.sizes, groups.ratios, strict=True))
    drawn = (share * length * groups.group_size, share * length * guided)
    trained = (per_step * (prompt + length),) * 2
    dense = shape.layers * shape.layer_parameters + shape.vocabulary * shape.hidden
    attention = 4 * shape.layers * shape.queries * (prompt + length) / 2  # half the context on average
    forward = 2 * dense + attention
    passes = 4 if config.gradient_checkpointing else 3
    return Work(
        drawn, trained, tuple(n * forward for n in drawn), tuple(n * forward * passes for n in trained)
    )  # fmt: skip
