"""The arithmetic of memory against measured peaks of a small model, and the default of update_tokens."""

import sys
from types import SimpleNamespace

import conftest
import pytest
import torch
from datasets import Dataset
from harness import one_in_three
from places import ROOT

from trapo import TRAPOConfig, TRAPOTrainer
from trapo.training.footprint import Shape, fitting_update_tokens, part

sys.path.insert(0, str(ROOT / "benchmarks"))
MODEL = {
    "vocab_size": 6000, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 8, "num_attention_heads": 6,
    "max_position_embeddings": 2048, "initializer_range": 0.02,
}  # fmt: skip
QWEN_1B = Shape(1536, 28, 1536, 256, 8960, 151936, True)  # Qwen2.5-Math-1.5B's config.json


def measured(path, tokenizer, tokens, **fields):
    """Peak bytes of one row's forward and backward beyond weights and gradients, and their estimate."""
    from memory import batch_of, ours
    from tensors import PeakBytes

    settings = {
        "output_dir": str(path), "guidance": "none", "update_tokens": 1, "max_completion_length": tokens - 16,
        "per_device_train_batch_size": 8, "use_cpu": True, "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip
    config = TRAPOConfig(**settings | fields)
    rows = Dataset.from_list(conftest.ROWS)
    trainer = TRAPOTrainer(
        conftest.new_model(**MODEL), one_in_three, config, rows, processing_class=tokenizer,
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    model = trainer.accelerator.prepare_model(trainer.model)
    if config.gradient_checkpointing:
        trainer.model.gradient_checkpointing_enable()
    trainer.model.train()
    for parameter in trainer.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    batch = ours(batch_of([tokens - 16], MODEL["vocab_size"], 0) | {"advantages": torch.ones(1)})
    with PeakBytes() as found:
        trainer.accelerator.backward(trainer.compute_loss(model, batch))
    return found.peak, sum(part(Shape.of(trainer.model.config), config, tokens))


@pytest.mark.parametrize("checkpointing", [True, False], ids=["checkpointing", "all kept"])
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_the_update_needs_what_is_estimated(bf16, checkpointing, tmp_path, tokenizer):
    peak, expected = measured(tmp_path, tokenizer, 768, bf16=bf16, gradient_checkpointing=checkpointing)
    assert expected == pytest.approx(peak, rel=0.1)


def settings(**fields):
    shared = {"bf16": True, "use_cpu": False, "gradient_checkpointing": True, "lora_r": 0}
    return SimpleNamespace(**shared | fields)


def test_as_many_tokens_as_fit():
    gib = 1 << 30
    adam = QWEN_1B.parameters * 12
    needed = {n: sum(part(QWEN_1B, settings(), n)) for n in (16384, 8192, 4096)}
    assert needed[16384] > 1.5 * needed[8192] / 2 > needed[4096] / 2
    assert fitting_update_tokens(QWEN_1B, settings(), 70 * gib) == 16384
    for tokens in (16384, 8192):
        just = int(adam + needed[tokens] / 0.8) + 1
        assert fitting_update_tokens(QWEN_1B, settings(), just) == tokens
        assert fitting_update_tokens(QWEN_1B, settings(), just - 2) == tokens // 2
    assert fitting_update_tokens(QWEN_1B, settings(), 0) == 512  # the least; a longer row runs alone in any case
    kept = fitting_update_tokens(QWEN_1B, settings(gradient_checkpointing=False), 40 * gib)
    assert kept < fitting_update_tokens(QWEN_1B, settings(), 40 * gib)


def test_on_a_cpu_the_default_is_a_number(tmp_path, tokenizer):
    config = TRAPOConfig(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=8)
    rows = Dataset.from_list(conftest.ROWS)
    config.max_completion_length = 30
    trainer = TRAPOTrainer(conftest.new_model(), one_in_three, config, rows, processing_class=tokenizer)
    assert trainer.update_tokens == 16384 and config.update_tokens is None
