"""Resumed behind the first epoch, a run goes on in the same order: in both stages, on one rank and on two."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import conftest
import pytest
import torch
from datasets import Dataset
from harness import one_in_three
from places import TESTS
from safetensors.torch import load_file
from trl.trainer.utils import RepeatSampler

from trapo import TRAPOConfig, TRAPOTrainer
from trapo.runs.folder import RunFolder
from trapo.training.order import EpochSampler
from trapo.training.sft import sft_order


def trained(path, resume=None):
    fields = {
        "max_steps": 20,
        "save_steps": 4,
        "per_device_train_batch_size": 16,
        "max_completion_length": 12,
        "learning_rate": 1e-3,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    args = TRAPOConfig(output_dir=str(path), **fields)
    rows = Dataset.from_list(conftest.ROWS)
    model, tokenizer = conftest.new_model(), conftest.new_tokenizer()
    TRAPOTrainer(model, one_in_three, args, rows, processing_class=tokenizer).train(resume)
    return model.state_dict()


def prompts(folder):
    """The prompts of each step of RL."""
    found = {}
    for line in folder.records("rollouts.jsonl"):
        found.setdefault(line["step"], {})[line["prompt_id"]] = None
    return [list(found[step]) for step in sorted(found)]


def test_resumed_in_a_later_epoch_is_as_if_nothing_happened(tmp_path):
    whole = RunFolder(tmp_path / "whole")  # 16 rows, 2 prompts a step: 2.5 epochs
    weights = trained(whole.path)
    order = prompts(whole)
    assert [sorted({p for step in order[i : i + 8] for p in step}) for i in (0, 8)] == [
        sorted(row["id"] for row in conftest.ROWS)
    ] * 2
    assert order[:8] != order[8:16]
    for step in (4, 8, 12, 16):  # within the first epoch, at its end, within the second, at its end
        again = RunFolder(shutil.copytree(whole.path, tmp_path / str(step)))
        for later in range(step + 4, 21, 4):
            shutil.rmtree(again.checkpoints / f"checkpoint-{later}")
        resumed = trained(again.path, True)
        assert prompts(again) == order, step
        assert all(torch.equal(weights[name], resumed[name]) for name in weights), step


def test_the_order_of_an_epoch_is_a_function_of_the_seed_and_its_number():
    def one_after_another(seed):
        sampler = RepeatSampler(range(7), 2, 3, 2, seed=seed)
        return [list(sampler) for _ in range(4)]

    for seed in (0, 7):
        epochs = one_after_another(seed)
        for epoch in (3, 0, 2, 1, 2):
            sampler = EpochSampler(range(7), 2, 3, 2, seed=seed)
            sampler.set_epoch(epoch)
            assert list(sampler) == epochs[epoch]
    whole = sft_order(5, 23, 1)
    assert all(sorted(whole[i : i + 5]) == list(range(5)) for i in range(0, 20, 5))
    assert whole[:17] == sft_order(5, 17, 1) and whole[:5] != whole[5:10]


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_two_ranks_resume_in_a_later_epoch(stage, two_ranks):
    whole, resumed = two_ranks / "whole", two_ranks / stage
    for name in ("sft", "final"):
        a, b = (load_file(path / name / "model.safetensors") for path in (whole, resumed))
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), name
    assert (whole / "rollouts.jsonl").read_bytes() == (resumed / "rollouts.jsonl").read_bytes()
    order = prompts(RunFolder(whole))
    assert len(order) == 8 and order[:3] != order[3:6]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """A run on two ranks, and copies of it that were resumed there: sft from step 5, rl from step 7."""
    folder = tmp_path_factory.mktemp("ranks")
    conftest.new_model().save_pretrained(folder / "model")
    conftest.new_tokenizer().save_pretrained(folder / "model")
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command = [sys.executable, "-P", *launch, Path(__file__).with_name("resume_on_ranks.py"), folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder
