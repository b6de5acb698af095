"""Two processes train to the weights of one, sharded or not, with or without LoRA, whole or killed and resumed.

DDP is in the regular tests; FSDP2 and DeepSpeed, which take a minute each, are `make test-ranks`.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import conftest
import on_ranks
import pytest
import torch
from places import ROOT
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from trapo.runs.folder import RunFolder
from trapo.training import lora

pytest.importorskip("peft")
CONFIGS = ROOT / "configs" / "accelerate"
TOLERANCE = 1e-5  # largest difference of a weight; a step of Adam moves one by up to its learning rate, 1e-3
LATER = ["final", "checkpoints/checkpoint-2"]
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
KINDS = [
    "ddp",
    pytest.param("fsdp2", marks=pytest.mark.ranks),
    pytest.param("zero2", marks=[pytest.mark.ranks, needs_deepspeed]),
    pytest.param("zero3", marks=[pytest.mark.ranks, needs_deepspeed]),
]


def runs(folder, model):
    every = [
        {"folder": folder / "full"},
        {"folder": folder / "killed", "copy": folder / "full", "drop": LATER},
        {"folder": folder / "unsaved", "copy": folder / "full", "drop": ["final"]},
        {"folder": folder / "lora", "fields": {"lora_r": 4}},
        {"folder": folder / "lora-killed", "copy": folder / "lora", "drop": LATER, "fields": {"lora_r": 4}},
        # Every sample of the tiny model fails: four prompts make a step each time, in two parts a rank.
        {"folder": folder / "relift", "recipe": "relift", "fields": RELIFT},
    ]
    return [run | {"model": model} for run in every]


RELIFT = {"stages": ["rl"], "failed_prompts": 4, "update_tokens": 40, "lr_scheduler_type": "constant"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    conftest.new_model().save_pretrained(folder)
    conftest.new_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def one(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    on_ranks.run("ddp", 1, [run for run in runs(folder, model) if "copy" not in run], folder)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def two(request, model, one, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    more = [{"folder": folder / "from-one", "copy": one / "full", "drop": LATER, "model": model}]
    said = on_ranks.run(request.param, 2, runs(folder, model) + (more if request.param == "ddp" else []), folder)
    return SimpleNamespace(kind=request.param, folder=folder, said=said)


SAMPLE = ("step", "prompt_id", "sample", "seed", "own_ids", "prefix_ids", "reward")


def facts(run, name, fields):
    return [tuple(line[field] for field in fields) for line in run.records(name)]


def weights(run, part="final"):
    return load_file(run / part / "model.safetensors")


def distance(a, b):
    assert set(a) == set(b)
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.mark.parametrize("name", ["full", "lora", "relift"])
def test_two_ranks_train_to_the_weights_of_one(name, one, two, model):
    """With evaluations and checkpoints before, between and after the updates."""
    before = load_file(model / "model.safetensors")
    for part in ("final",) if name == "relift" else ("sft", "final"):
        a, b = weights(one / name, part), weights(two.folder / name, part)
        assert distance(a, b) < TOLERANCE, part
        assert distance(a, before) > 50 * TOLERANCE
        before = a  # each stage moves them


@pytest.mark.parametrize("name", ["full", "lora", "relift"])
def test_ranks_draw_the_same_samples_and_each_held_out_prompt_once(name, one, two):
    a, b = RunFolder(one / name), RunFolder(two.folder / name)
    drawn = [sorted(map(str, facts(run, "rollouts.jsonl", SAMPLE))) for run in (a, b)]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 2 * on_ranks.BATCH
    evaluated = [facts(run, "evals.jsonl", ("stage", "step", "samples", "reward", "length/own")) for run in (a, b)]
    assert evaluated[0] == evaluated[1] and {line[2] for line in evaluated[0]} == {11 * 2}
    assert len(evaluated[0]) == (3 if name == "relift" else 4)


@pytest.mark.parametrize("name, whole", [("killed", "full"), ("unsaved", "full"), ("lora-killed", "lora")])
def test_a_killed_run_goes_on_to_the_same_bits(name, whole, two):
    """Killed after the first step of RL, or after the last one before the model was saved.

    FSDP2 rounds otherwise after it has loaded a checkpoint: by up to 6e-8 where it was measured.
    """
    a, b = weights(two.folder / whole), weights(two.folder / name)
    assert distance(a, b) <= (1e-6 if two.kind == "fsdp2" else 0)
    rollouts = [(two.folder / n / "rollouts.jsonl").read_bytes() for n in (name, whole)]
    assert rollouts[0] == rollouts[1]


def test_one_process_goes_on_as_two_and_two_as_one(one, two, model, tmp_path):
    if two.kind != "ddp":
        pytest.skip("sharded checkpoints are for the processes that wrote them")
    back = {"folder": tmp_path / "from-two", "copy": two.folder / "full", "drop": LATER, "model": model}
    on_ranks.run("ddp", 1, [back], tmp_path)
    whole = facts(RunFolder(one / "full"), "rollouts.jsonl", SAMPLE)
    for run in (two.folder / "from-one", tmp_path / "from-two"):
        assert distance(weights(one / "full"), weights(run)) < TOLERANCE
        assert sorted(map(str, facts(RunFolder(run), "rollouts.jsonl", SAMPLE))) == sorted(map(str, whole))


def test_another_total_is_refused(one, model, tmp_path):
    run = {"folder": tmp_path / "run", "copy": one / "full", "drop": LATER, "model": model}
    with pytest.raises(AssertionError, match=r"begun with 32 samples a step \(1 process\(es\) x 32 samples x 1 accum"):
        on_ranks.run("ddp", 1, [run | {"fields": {"per_device_train_batch_size": 16}}], tmp_path)


def test_the_adapter_of_ranks_is_whole_and_merged(two):
    from peft import PeftModel

    run = two.folder / "lora"
    merged = AutoModelForCausalLM.from_pretrained(run / "final")
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(run / "sft"), run / "final" / lora.ADAPTER)
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=1e-5, atol=1e-5)


def test_failed_prompts_make_one_optimizer_step_each_time(one, two):
    for folder in (one, two.folder):
        steps = RunFolder(folder / "relift").records("metrics.jsonl")
        assert [step["expert/sft_steps"] for step in steps] == [1, 1]  # 4 prompts a step, all of them failed


def test_the_first_line_says_how_many_processes_train(two):
    how = {"ddp": "DDP", "fsdp2": "FSDP2", "zero2": "DeepSpeed ZeRO-2", "zero3": "DeepSpeed ZeRO-3"}[two.kind]
    assert two.said.count(f"2 processes train on cpu, {how}\n") == len(runs(Path(), Path())) + (two.kind == "ddp")
    assert ("the model is sharded" in two.said) == (two.kind == "fsdp2")


def torchrun(*flags):
    command = [sys.executable, "-P", "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d"]
    command += ["--rdzv_endpoint", "localhost:0", "-m", "trapo_cli.cli", "train", *map(str, flags)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_processes_that_would_each_train_alone_are_refused_in_one_line(tmp_path):
    done = torchrun("--max_steps", 1, "--output_dir", tmp_path / "run")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and not (tmp_path / "run").exists()
    assert errors[0].startswith("error: the launcher started 2 processes, but accelerate knows of 1")
    assert "--use_cpu true" in errors[0]


def test_the_plan_is_printed_once(tmp_path):
    done = torchrun("--use_cpu", "true", "--dry-run", "--output_dir", tmp_path / "run")
    assert done.returncode == 0 and done.stdout.count("Resolved configuration") == 1


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_the_configurations_are_what_accelerate_reads(name):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert config.num_processes == 8 * config.num_machines and config.mixed_precision == "bf16"
    kind = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}[name.partition("-")[0]]
    assert config.distributed_type == kind and config.num_machines == (2 if name.endswith("-2nodes") else 1)
