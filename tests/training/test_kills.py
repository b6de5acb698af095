"""kill -9 at random moments, in both stages of sft-then-rl and at their border: the same bits as without."""

import json
import multiprocessing
import time
from random import Random

import conftest
import pytest
import safetensors.torch
import torch

from trapo.runs.folder import RunFolder

KILLS = 20
# Each child is forked from a process that has imported everything, so that a kill finds training and not imports.
CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["trapo.command.stages", "math_verify"])

FLAGS = {
    "sft_max_steps": 6,
    "sft_batch_size": 4,
    "sft_learning_rate": 1e-2,
    "max_steps": 6,
    "save_steps": 1,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "max_completion_length": 24,
    "learning_rate": 1e-3,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "per_device_eval_batch_size": 16,
    "num_generations_eval": 1,
    "save_total_limit": 2,
    "entropy_coef": 0.05,  # the tiny model earns no reward, and RL must have a gradient
    "use_cpu": "true",
}


def train(files, path):
    """What `trapo train --recipe sft-then-rl` does, resuming where there is something to resume."""
    torch.set_num_threads(1)
    from datasets import Dataset

    from trapo.command import stages
    from trapo.command.job import Job
    from trapo.command.settings import resolve_config

    flags = [str(part) for name, value in FLAGS.items() for part in (f"--{name}", value)]
    config = resolve_config("sft-then-rl", [], None, [*flags, "--output_dir", str(path)])
    rows = Dataset.from_list(conftest.ROWS)
    job = Job("sft-then-rl", "model", "rows", str(files), rows, {"held_out": rows})
    stages.train(job, config, resume=RunFolder(path).has_run())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills") / "model"
    conftest.new_model().save_pretrained(folder)
    conftest.new_tokenizer().save_pretrained(folder)
    return folder


def start(files, path):
    child = CHILDREN.Process(target=train, args=(files, path))
    child.start()
    return child


def contents(folder):
    """Everything that must be the same: weights bit for bit, every line, without the times."""
    timed = ("seconds", "runtime", "per_second", "step_time", "preparation_time")
    logs = {
        name: [
            json.dumps({k: v for k, v in record.items() if not any(t in k for t in timed)})
            for record in folder.records(name)
        ]
        for name in ("metrics.jsonl", "evals.jsonl", "rollouts.jsonl")
    }
    weights = [safetensors.torch.load_file(p / "model.safetensors") for p in (folder.sft, folder.final)]
    return logs, weights


def test_twenty_kills_change_nothing(files, tmp_path):
    whole = RunFolder(tmp_path / "whole")
    for path in (tmp_path / "warm", whole.path):  # the first child also waits for the fork server's imports
        began = time.perf_counter()
        child = start(files, path)
        child.join()
        assert child.exitcode == 0
        duration = time.perf_counter() - began
    logs, weights = contents(whole)
    assert [json.loads(r)["step"] for r in logs["metrics.jsonl"]] == [1, 2, 3, 4, 5, 6] * 2
    assert [(r["stage"], r["step"]) for r in map(json.loads, logs["evals.jsonl"])] == [
        ("sft", 0), ("sft", 6), ("rl", 3), ("rl", 6),
    ]  # fmt: skip
    assert len(logs["rollouts.jsonl"]) == 6 * 16

    rng, kills, runs, reached = Random(0), 0, 0, set()
    while kills < KILLS:
        folder = RunFolder(tmp_path / f"killed{runs}")
        while not folder.final.exists():
            child = start(files, folder.path)
            child.join(rng.uniform(0.1, 0.9) * duration if kills < KILLS else None)
            if child.is_alive():
                child.kill()
                child.join()
                kills += 1
                steps = folder.records("metrics.jsonl") if folder.has_run() else []
                reached.add(steps[-1]["stage"] if steps else "start")
            else:
                assert child.exitcode == 0
        runs += 1
        killed_logs, killed_weights = contents(folder)
        for name, lines in logs.items():
            assert killed_logs[name] == lines, name
        for a, b in zip(weights, killed_weights, strict=True):
            assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert {"sft", "rl"} <= reached  # both stages have met a kill
