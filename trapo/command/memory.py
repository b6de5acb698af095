"""What a run needs before it is started: bytes of tensors per GPU, tokens and operations per step.

Everything is arithmetic over the model's configuration; nothing is loaded. Bytes are of tensors, as PyTorch counts
them; CUDA's own context, fragmentation and communication buffers come on top. `benchmarks/estimate.py` holds the
estimate of the update against measured peaks, `tests/command/test_memory.py` that of the rollout.
"""

import os
from dataclasses import dataclass, fields

from ..run_config import RunConfig
from ..training.footprint import ADAM, DEFAULT_UPDATE_TOKENS, FLOAT32, Shape, part


@dataclass(frozen=True)
class Memory:
    """Bytes of tensors on one GPU, at the peaks of the SFT stage, of the update and of the rollout.

    Attributes:
        weights, gradients, optimizer: there all the time (gradients: from the first part of an update on).
        copy: the whole weights that an embedded engine draws with where the model is sharded (FSDP), else 0.
        cast: the rollout's copy of the weights in bf16, else 0.
        activations: kept for the backward pass of the update's largest part; 0 without an RL stage.
        transient: besides them, the larger of the head's work (tiles of logits, its gradient) and, where activations
            are checkpointed, one layer's in full: they are not there at the same time.
        cache: keys and values of an embedded engine's slots, in a rollout.
        step: the larger of a prefill and of a decode step's logits.
        sft: activations and transient of the SFT stage's largest part, its rows padded to the longest possible one; 0
            without that stage.
    """

    weights: float
    gradients: float
    optimizer: float
    copy: float
    cast: float
    activations: float
    transient: float
    cache: float
    step: float
    sft: float

    @property
    def peaks(self) -> dict[str, float]:
        """The peak of each thing that the run does; a rollout is also what evaluates it."""
        lasting = self.weights + self.optimizer + self.copy
        found = {"SFT": lasting + self.gradients + self.sft} if self.sft else {}
        if self.activations:
            found["update"] = lasting + self.gradients + self.activations + self.transient
        return found | {"rollout": lasting + self.cast + self.cache + self.step}

    def lines(self) -> dict[str, str]:
        """For the plan: GiB by part."""

        def gib(parts: dict[str, float]) -> str:
            return ", ".join(f"{name} {value / 2**30:.3g}" for name, value in parts.items() if value)

        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"GiB of tensors per GPU": gib(parts), "GiB at the peak": gib(self.peaks)}


def shards(config: RunConfig) -> int:
    """GPUs that weights, gradients and optimizer are split over: all where the launcher says FSDP or ZeRO-3, else 1."""
    sharded = bool(config.deepspeed_plugin and config.deepspeed_plugin.zero_stage == 3)
    sharded |= os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")
    return config.world_size if sharded else 1


def memory(shape: Shape, config: RunConfig, prompt: int, *, shards: int = 1, engine: str = "torch") -> Memory:
    """Bytes per GPU.

    Args:
        shape: of the model.
        config: of the run.
        prompt: tokens of a long prompt.
        shards: GPUs that weights, gradients and optimizer are split over (FSDP, ZeRO-3); 1 for DDP.
        engine: what draws; vLLM takes the memory that it is given.
    """
    trained = shape.lora_parameters(config.lora_r) if config.lora_r else shape.parameters
    held = shape.parameters + (trained if config.lora_r else 0)
    row, embedded = prompt + config.max_completion_length, engine in ("torch", "transformers")
    activations = transient = sft = 0.0
    if "rl" in config.stages:  # a row that is longer than the budget runs alone
        activations, transient = part(shape, config, max(row, budget(config)), sharded=shards > 1)
    if "sft" in config.stages:
        sft = sum(part(shape, config, row * config.sft_micro_batch, sharded=shards > 1))
    cache = step = cast = 0.0
    if embedded:
        cache, step = drawing(shape, config, prompt)
        if config.bf16:  # the whole model where transformers draws; autocast's own copies where none is made
            cast = 2 * (shape.parameters if engine == "transformers" else shape.linear_parameters)
    return Memory(
        weights=held * FLOAT32 / shards,
        gradients=trained * FLOAT32 / shards,
        optimizer=trained * ADAM / shards,
        copy=shape.parameters * FLOAT32 if shards > 1 and embedded else 0,
        cast=cast,
        activations=activations,
        transient=transient,
        cache=cache,
        step=step,
        sft=sft,
    )


def budget(config: RunConfig) -> int:
    """Most tokens of a forward of the update."""
    return config.update_tokens or DEFAULT_UPDATE_TOKENS


def drawing(shape: Shape, config: RunConfig, prompt: int) -> tuple[float, float]:
    """Bytes of keys and values of all slots at their longest, and of a prefill or a step's logits, in a rollout.

    A prefill makes keys and values of its own, which are copied into the slots, and one layer's intermediates: the
    residual stream three times over, and the gated MLP's gate, up and product. A step's logits are there as they come,
    in float32, as probabilities, and once more in blocks.
    """
    lower, slots = 2 if config.bf16 else FLOAT32, max(config.rollout_slots, 4)
    pair = 2 * shape.layers * shape.keys * lower  # bytes of a token's keys and values
    row = -(-(prompt + config.max_completion_length) // 16) * 16
    prefilled = min(max(budget(config), 4 * 16), slots * prompt)
    intermediates = 3 * FLOAT32 * shape.hidden + 3 * lower * shape.mlp
    logits = slots * shape.vocabulary * (lower + 3 * FLOAT32)
    return pair * slots * row, max(prefilled * (pair + intermediates), logits)


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


def work(shape: Shape, config: RunConfig, prompt: int) -> Work:
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
