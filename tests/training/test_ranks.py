"""Two ranks train to the weights of one, in both stages, through the command: DDP, and FSDP2 with the embedded engine.

What the launcher sets for FSDP2 is read from configs/accelerate/fsdp2.yaml, as `accelerate launch` would.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from places import ROOT
from safetensors.torch import load_file

from trapo.runs.folder import RunFolder
from trapo.training.preflight import split_evenly
from trapo_toy.world import BASE

CONFIGS = ROOT / "configs" / "accelerate"
SHORT = [
    "train",
    "--stages",
    "sft",
    "rl",
    "--sft_max_steps",
    "3",
    "--sft_learning_rate",
    "1e-3",
    "--max_steps",
    "3",
    "--use_cpu",
    "true",
]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d", "--rdzv_endpoint"]
TOLERANCE = 2e-5  # largest difference of a weight; a step of Adam moves one by up to its learning rate, 3e-4 and 1e-3


def train(folder, start, batch, **environment):
    command = [
        sys.executable,
        "-P",
        *start,
        *SHORT,
        "--per_device_train_batch_size",
        str(batch),
        "--output_dir",
        folder,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def fsdp_environment():
    """What `accelerate launch` puts into the environment for the sharding of fsdp2.yaml."""
    config = yaml.safe_load((CONFIGS / "fsdp2.yaml").read_text())
    assert config["distributed_type"] == "FSDP"
    return {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_USE_CPU": "true"} | {
        name.upper(): str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in config["fsdp_config"].items()
    }


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "run"
    train(folder, ["-c", "from trapo_cli.cli import app; app()"], batch=64)
    return RunFolder(folder)


def samples(folder):
    names = ("step", "prompt_id", "sample", "seed", "own_ids", "prefix_ids", "reward")
    return sorted([tuple(map(str, (line[n] for n in names))) for line in folder.records("rollouts.jsonl")])


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_ranks_train_to_the_weights_of_one(kind, one_rank, tmp_path):
    script = ["-m", "trapo_cli.cli"] if kind == "ddp" else [Path(__file__).with_name("fsdp_on_cpu.py")]
    environment = fsdp_environment() if kind == "fsdp2" else {}
    said = train(tmp_path / "run", [*TORCHRUN, "localhost:0", *script], batch=32, **environment)
    assert ("the model is sharded" in said) == (kind == "fsdp2")
    two = RunFolder(tmp_path / "run")
    assert two.record()["world_size"] == 2 and one_rank.record()["world_size"] == 1
    first = [[line for line in samples(run) if line[0] == "1"] for run in (one_rank, two)]
    assert first[0] == first[1] and len(first[0]) == 64  # later ones may part where rounding tips a token
    before = load_file(BASE / "model.safetensors")
    for part in ("sft", "final"):
        one, other = (load_file(getattr(run, part) / "model.safetensors") for run in (one_rank, two))
        # Sharded, tied weights are gathered, and saved, under both names.
        assert set(other) - set(one) <= {"lm_head.weight"} and set(one) <= set(other)
        assert max((one[name] - before[name]).abs().max() for name in one) > 50 * TOLERANCE
        assert max((one[name] - other[name]).abs().max() for name in one) < TOLERANCE, part
    asked = [("test", 200), ("direct", 100), ("facts", 100)]  # the base: each question once
    assert [e[:2] for e in evaluations(two)[:3]] == asked and evaluations(two)[:3] == evaluations(one_rank)[:3]


def evaluations(run):
    return [(line["set"], line["samples"], line["reward"], line["by_question"]) for line in run.records("evals.jsonl")]


@pytest.mark.parametrize(
    "sizes, ranks, batch, found",
    [({"a": 200, "b": 100}, 2, 100, 50), ({"a": 96}, 8, 100, 12), ({"a": 30, "b": 45}, 1, 7, 7), ({"a": 12}, 4, 8, 3)],
)
def test_held_out_sets_are_split_so_that_no_row_is_drawn_twice(sizes, ranks, batch, found):
    args = SimpleNamespace(
        num_generations_eval=1, num_generations=8, world_size=ranks, per_device_eval_batch_size=batch
    )
    split_evenly(args, {name: range(n) for name, n in sizes.items()})
    assert args.per_device_eval_batch_size == found


def test_a_set_that_cannot_be_split_is_named():
    args = SimpleNamespace(num_generations_eval=1, num_generations=8, world_size=2, per_device_eval_batch_size=4)
    with pytest.raises(ValueError, match=r"\(a 7 prompts x 1 samples\) cannot be split over 2 processes"):
        split_evenly(args, {"a": range(7)})


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_the_configurations_are_what_accelerate_reads(name):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert config.num_processes == 8 * config.num_machines and config.mixed_precision == "bf16"
    kind = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}[name.partition("-")[0]]
    assert config.distributed_type == kind and config.num_machines == (2 if name.endswith("-2nodes") else 1)
