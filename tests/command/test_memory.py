"""What a run needs, by hand: sizes, bytes, operations."""

import random
import sys
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import conftest
import pytest
import torch
from places import ROOT
from transformers import AutoModelForCausalLM

from trapo.command.memory import memory, work
from trapo.rollout.engines.base import Request, generate
from trapo.rollout.engines.torch import TorchEngine
from trapo.rollout.engines.torch_weights import RolloutWeights
from trapo.run_config import RunConfig as TRAPOConfig
from trapo.training.footprint import Shape
from trapo_toy.world import BASE

QWEN_7B = Shape(3584, 28, 3584, 512, 18944, 152064, False)  # Qwen2.5-Math-7B's config.json
TINY = Shape(hidden=8, layers=2, queries=8, keys=4, mlp=16, vocabulary=10, tied=True)


def settings(**fields):
    shared = {
        "output_dir": "unused", "use_cpu": True, "update_tokens": 100, "max_completion_length": 60, "rollout_slots": 5,
        "gradient_checkpointing": False, "per_device_train_batch_size": 16,
    }  # fmt: skip
    return TRAPOConfig(**shared | fields)


def test_parameters_of_real_models():
    assert QWEN_7B.parameters == pytest.approx(7_615_616_512, rel=1e-4)  # the model card's 7.61 billion
    model = AutoModelForCausalLM.from_pretrained(BASE)
    assert Shape.of(model.config).parameters == pytest.approx(model.num_parameters(), rel=5e-3)  # norms are left out


def test_sizes_by_hand():
    assert TINY.layer_parameters == 8 * (16 + 8 + 48) == 576
    assert TINY.parameters == 2 * 576 + 80
    assert TINY.activations(False) == 4 * (48 + 24 + 8 + 64) == 576
    assert TINY.activations(True) == 28 * 8 + 2 * (24 + 8 + 64) == 416
    assert TINY.linear_parameters == TINY.parameters == 1232  # the tied embedding is the head
    # rank 1: q 16, k and v 12 each, o 16, gate and up 24 each, down 24
    assert TINY.lora_parameters(1) == 2 * (16 + 24 + 16 + 48 + 24)


def test_memory_by_hand():
    found = memory(TINY, settings(), prompt=30)
    assert (found.weights, found.gradients, found.optimizer) == (4 * 1232, 4 * 1232, 8 * 1232)
    assert found.activations == 100 * 2 * 576  # the budget's 100 tokens, more than a row of 90
    assert found.transient == 4 * (100 * 32768 + 7 * 100 * 10 + 80)  # the tile's buffer, its gradient's way, the head's
    assert found.cache == 2 * 2 * 4 * 5 * 96 * 4  # keys and values, layers, width, slots, tokens in sixteens, bytes
    assert found.step == 100 * (2 * 2 * 4 * 4 + 3 * 4 * 8 + 3 * 4 * 16)  # a prefill of 100 of the slots' 150 tokens
    assert found.copy == found.cast == found.sft == 0
    update = found.weights * 4 + found.activations + found.transient
    assert found.peaks == {"update": update, "rollout": found.weights * 3 + found.cache + found.step}


def test_memory_under_bf16_by_hand():
    found, whole = (memory(TINY, settings(bf16=True), 30, engine=engine) for engine in ("torch", "transformers"))
    exact = memory(TINY, settings(), 30)
    assert (found.weights, found.optimizer) == (exact.weights, exact.optimizer)
    assert found.activations == 100 * 2 * 416
    # the tile's buffer, its gradient's way, the head's weight and its gradient, autocast's copies of the layers
    assert found.transient == 2 * 100 * 32768 + 4 * 7 * 100 * 10 + 2 * 80 + 4 * 80 + 2 * 1152
    assert found.cache == exact.cache / 2 and found.cast == whole.cast == 2 * 1232
    assert memory(QWEN_7B, settings(bf16=True), 30).cast / 2**30 == pytest.approx(13.2, abs=0.1)
    # with checkpointing the copies go before the head's backward pass begins, and count where they are more
    kept, sharded = (memory(QWEN_7B, settings(bf16=True, gradient_checkpointing=True), 30, shards=n) for n in (1, 8))
    assert kept.transient == 2 * 28 * QWEN_7B.layer_parameters + 2 * 100 * 32768 > 2 * sharded.transient
    served = memory(TINY, settings(bf16=True), 30, engine="vllm")
    assert served.cast == served.cache == served.step == 0


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_a_rollout_needs_what_is_estimated(bf16):
    """The engine's peak beyond the weights, all slots at their longest, against the estimate."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from tensors import PeakBytes

    model = conftest.new_model(
        vocab_size=4000, hidden_size=128, intermediate_size=384, num_hidden_layers=6, max_position_embeddings=1024
    )
    config = settings(bf16=bf16, max_completion_length=200, rollout_slots=16, update_tokens=512)
    rng = random.Random(0)
    todo = [Request(tuple(rng.randrange(200) for _ in range(60)), 200 - i, i) for i in range(40)]
    weights, kind = RolloutWeights(), torch.bfloat16
    engine = TorchEngine(model, [], 0, slots=16, prefill_tokens=512)
    with torch.autocast("cpu", kind, enabled=bf16), PeakBytes() as found:
        with weights.placed(model, kind) if bf16 else nullcontext():
            generate(engine, todo)
        weights.drop()
    expected = memory(Shape.of(model.config), config, 60)
    assert expected.cast + expected.cache + expected.step == pytest.approx(found.peak, rel=0.15)


def test_memory_of_the_sft_stage_by_hand():
    found = memory(TINY, settings(stages=["sft", "rl"], sft_batch_size=6), prompt=30)  # 16 a part: 6 divide 6
    head = 4 * (256 * 32768 + 7 * 256 * 10 + 80)
    assert found.sft == 6 * 90 * 2 * 576 + head
    assert found.peaks["SFT"] == found.weights * 4 + found.sft and len(found.peaks) == 3
    alone = memory(TINY, settings(stages=["sft"], sft_batch_size=20, per_device_train_batch_size=8), prompt=30)
    assert alone.sft == 5 * 90 * 2 * 576 + head  # 5 is the largest up to 8 that divides 20
    assert alone.activations == alone.transient == 0 and [*alone.peaks] == ["SFT", "rollout"]


def test_a_row_longer_than_the_budget_counts_and_checkpointing_keeps_inputs_only():
    found = memory(TINY, settings(update_tokens=50, gradient_checkpointing=True), prompt=30)
    assert found.activations == 90 * 4 * 8 * (2 + 4)
    assert found.transient == 4 * (90 * 32768 + 7 * 90 * 10 + 80)
    wide = replace(TINY, mlp=100_000)
    found = memory(wide, settings(update_tokens=50, gradient_checkpointing=True), prompt=30)
    assert found.transient == 90 * wide.activations(False)  # one layer in full is more than the head here


def test_shards_and_adapters():
    whole, half = (memory(TINY, settings(), prompt=30, shards=n) for n in (1, 2))
    assert half.weights == whole.weights / 2 and half.optimizer == whole.optimizer / 2
    assert half.copy == 4 * 1232 and memory(TINY, settings(), prompt=30, shards=2, engine="vllm").copy == 0
    pytest.importorskip("peft")
    lora = memory(TINY, settings(lora_r=1), prompt=30)
    assert lora.weights == 4 * (1232 + 256) and lora.gradients == 4 * 256 and lora.optimizer == 8 * 256
    assert lora.transient == 4 * (100 * 32768 + 7 * 100 * 10)  # the head has no gradient
    checkpointed = memory(QWEN_7B, settings(lora_r=1, bf16=True, gradient_checkpointing=True), prompt=30)
    assert checkpointed.transient < 2 * QWEN_7B.layer_parameters * 28 / 10  # frozen weights are cast layer by layer


def test_seven_billion_parameters_need_what_everybody_knows():
    config = settings(use_cpu=True, max_completion_length=8192)
    assert memory(QWEN_7B, config, prompt=1024).weights / 2**30 == pytest.approx(28.4, abs=0.1)
    assert memory(QWEN_7B, config, prompt=1024, shards=8).optimizer / 2**30 == pytest.approx(7.1, abs=0.05)


def test_work_by_hand():
    found = work(TINY, settings(), prompt=20)
    # two prompts of 8 samples x 60; guided: 4 x 1 + 2 x .8 + 1 x .5 + 1 x 0 = 6.1 of 8
    assert found.drawn == (2 * 8 * 60, pytest.approx(2 * 6.1 * 60))
    assert found.trained == (16 * 80, 16 * 80)
    forward = 2 * (2 * 576 + 80) + 4 * 2 * 8 * 40
    assert found.rollout_flops[0] == 960 * forward and found.update_flops[0] == 3 * 1280 * forward
    checkpointed = work(TINY, settings(gradient_checkpointing=True), prompt=20)
    assert checkpointed.update_flops[0] == 4 * 1280 * forward
    assert work(TINY, settings(guidance="none", expert_weight="none"), prompt=20).drawn == (960, 960)
    # 960 / 96 + 1280 / 128 = 20 seconds unguided, 732 / 96 + 10 guided
    assert found.lines(96, 128)["seconds per step, at these rates"] == "18 to 20"


def test_a_model_without_the_sizes_is_named():
    with pytest.raises(ValueError, match="no estimate for this model: its configuration has no num_attention_heads"):
        Shape.of(SimpleNamespace(hidden_size=3))
