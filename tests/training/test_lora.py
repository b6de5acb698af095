"""LoRA through the command's own functions: what is trained, what is saved, going on after a kill."""

import shutil

import conftest
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from trapo import run_config as config_module
from trapo.command import stages
from trapo.command.job import Job
from trapo.command.settings import resolve_config
from trapo.run_config import RunConfig as TRAPOConfig
from trapo.training import lora

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("model")
    conftest.new_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings(base, folder, recipe, **fields):
    flags = {
        "output_dir": folder, "lora_r": 4, "sft_max_steps": 2, "sft_batch_size": 4, "sft_learning_rate": 1e-2,
        "max_steps": 2, "learning_rate": 1e-2, "per_device_train_batch_size": 16, "max_completion_length": 30,
        "num_generations_eval": 1, "per_device_eval_batch_size": 16, "save_steps": 1,
    } | conftest.SETTINGS | fields  # fmt: skip
    config = resolve_config(recipe, [], None, [str(p) for k, v in flags.items() for p in (f"--{k}", v)])
    rows = Dataset.from_list(conftest.ROWS)
    return Job(recipe, "model", "rows", str(base), rows, {"held_out": rows}), config


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory, precision):
    job, config = settings(base, tmp_path_factory.mktemp("lora") / "run", "sft-then-rl")
    return stages.train(job, config)


@pytest.mark.gpu
def test_a_stage_ends_in_a_merged_model_and_keeps_the_rest_of_its_base(base, finished):
    before, sft, final = (load_file(p / "model.safetensors") for p in (base, finished.sft, finished.final))
    assert set(before) == set(sft) == set(final)
    adapted = {name for name in before if not torch.equal(before[name], sft[name])}
    assert adapted and all("_proj" in name for name in adapted)  # embeddings, norms and head are as they were
    # The last stage's own adapter, on the model that SFT left: W + (alpha / r) B A.
    adapter = load_file(finished.final / lora.ADAPTER / "adapter_model.safetensors")
    for name in adapted:
        a, b = (adapter[f"base_model.model.{name.removesuffix('.weight')}.lora_{x}.weight"] for x in "AB")
        torch.testing.assert_close(final[name], sft[name] + 32 / 4 * b @ a)


@pytest.mark.gpu
def test_the_merged_model_is_the_adapted_one(finished):
    from peft import PeftModel

    merged = AutoModelForCausalLM.from_pretrained(finished.final)
    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(finished.sft), finished.final / lora.ADAPTER
    )
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("killed_after", [1, 2])
def test_a_killed_run_goes_on_to_the_same_bits(base, finished, tmp_path, killed_after):
    """Killed after the first step of RL, or after the last one and before the model was saved."""
    folder = tmp_path / "run"
    shutil.copytree(finished.path, folder)
    shutil.rmtree(folder / "final")
    for step in range(killed_after + 1, 3):
        shutil.rmtree(folder / "checkpoints" / f"checkpoint-{step}")
    job, config = settings(base, folder, "sft-then-rl")
    again = stages.train(job, config, resume=True)
    for name in ("model.safetensors", f"{lora.ADAPTER}/adapter_model.safetensors"):
        assert (again.final / name).read_bytes() == (finished.final / name).read_bytes()


@pytest.mark.parametrize(
    "fields, message",
    [({"lora_r": -1}, "lora_r is -1: give the adapters' rank"), ({"lora_r": 8}, r"pip install 'trapo\[lora\]'")],
)
def test_what_cannot_be_trained_is_said_before_any_work(fields, message, monkeypatch):
    monkeypatch.setattr(config_module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message):
        TRAPOConfig(output_dir="unused", use_cpu=True, **fields)
