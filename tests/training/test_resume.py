"""The same bits after kill -9 and resume."""

import json
import os
import shutil
import signal
import subprocess
import time

import conftest
import pytest
import safetensors.torch
import torch
from places import TRAPO

from trapo.files import locked
from trapo.runs.folder import RunFolder


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    conftest.new_model().save_pretrained(folder / "model")
    conftest.new_tokenizer().save_pretrained(folder / "model")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in conftest.ROWS))
    flags = {
        "model": folder / "model",
        "data": folder / "rows.jsonl",
        "eval_data": folder / "rows.jsonl",
        "max_steps": 12,
        "save_steps": 2,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "max_completion_length": 40,
        "learning_rate": 1e-3,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "per_device_eval_batch_size": 16,
        "num_generations_eval": 1,
        "entropy_coef": 0.001,
    }
    return [str(part) for name, value in flags.items() for part in (f"--{name}", value)]


def train(arguments, folder, *more):
    return [TRAPO, "train", *arguments, "--output_dir", str(folder), *more]


TIMES = ("seconds", "runtime", "per_second", "step_time", "preparation_time")


def untimed(records):
    return [{k: v for k, v in record.items() if not any(t in k for t in TIMES)} for record in records]


def count(path):
    """Lines of a file that may come and go: a run without a checkpoint begins anew."""
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def test_killed_anywhere_and_resumed_is_as_if_nothing_happened(arguments, tmp_path):
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    subprocess.run(train(arguments, whole.path), check=True, capture_output=True)
    metrics = killed.path / "metrics.jsonl"
    process = subprocess.Popen(train(arguments, killed.path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for lines in (1, 5, 8):  # before the first checkpoint, between two, and again after a resume
        while process.poll() is None and count(metrics) < lines:
            time.sleep(0.005)
        assert process.poll() is None, "it ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not killed.final.exists()
        command = train(arguments, killed.path, "--resume")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert process.wait() == 0
    a, b = (safetensors.torch.load_file(f.final / "model.safetensors") for f in (whole, killed))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert (whole.path / "rollouts.jsonl").read_bytes() == (killed.path / "rollouts.jsonl").read_bytes()
    for name in ("metrics.jsonl", "evals.jsonl"):
        assert untimed(whole.records(name)) == untimed(killed.records(name))
    assert [record["step"] for record in killed.records("metrics.jsonl")] == list(range(1, 13))
    assert [record["step"] for record in killed.records("evals.jsonl")] == [0, 4, 8, 12]

    done = subprocess.run(train(arguments, killed.path, "--resume"), capture_output=True, text=True)
    assert done.returncode == 2 and "is finished" in done.stderr


def test_another_configuration_and_other_rows_are_refused(arguments, tmp_path):
    short = [*arguments, "--max_steps", "2"]
    subprocess.run(train(short, tmp_path / "run"), check=True, capture_output=True)
    (tmp_path / "run" / "final").rename(tmp_path / "elsewhere")
    done = subprocess.run(train(short, tmp_path / "run", "--resume", "--alpha", "0.2"), capture_output=True, text=True)
    assert done.returncode == 2
    assert "begun with another configuration: alpha was 0.1, is 0.2" in done.stderr and "\n" not in done.stderr.strip()

    copy = str(shutil.copytree(short[short.index("--model") + 1], tmp_path / "copy"))
    command = train([*short, "--model", copy], tmp_path / "run", "--resume")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and f", is {copy!r}" in done.stderr and "model was " in done.stderr
    with locked(tmp_path / "run" / ".lock", "training", "wait"):
        done = subprocess.run(train(short, tmp_path / "run", "--resume"), capture_output=True, text=True)
    assert done.returncode == 2 and "another process is training into" in done.stderr

    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in conftest.ROWS[::-1]))
    command = train([*short, "--data", str(other)], tmp_path / "run", "--resume")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "begun with other training rows" in done.stderr


def test_resume_without_a_run_says_so(arguments, tmp_path):
    done = subprocess.run(train(arguments, tmp_path / "none", "--resume"), capture_output=True, text=True)
    assert done.returncode == 2 and "holds no run to resume" in done.stderr
    assert not (tmp_path / "none").exists()
