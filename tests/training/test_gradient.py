"""One gradient: against plain autograd on unpadded rows, for every split, for one rank and two, for every loss type."""

import json
import os
import subprocess
import sys

import pytest
import torch
from harness import distance, expected_change, idle_step, one_step, rollouts, tokens_step
from places import TESTS

from trapo.choices import SPLIT_INVARIANT_LOSSES


def trsft(p):
    return (p / 0.1).clamp(max=1)


@pytest.fixture(scope="module")
def reference(tmp_path_factory, make_model, tokenizer, rows):
    """Per loss type: the change of a 16 x 1 step with an entropy bonus, and the folder of its run."""
    path = tmp_path_factory.mktemp("reference")
    return {
        kind: (one_step(path / kind, make_model(), tokenizer, rows, kind, entropy_coef=0.01), path / kind)
        for kind in SPLIT_INVARIANT_LOSSES
    }


@pytest.mark.parametrize("loss_type", SPLIT_INVARIANT_LOSSES)
def test_joint_gradient_is_plain_autograd(loss_type, reference, make_model, tokenizer, rows):
    change, path = reference[loss_type]
    samples = rollouts(path)
    assert any(s["prefix_ids"] and s["own_ids"] and s["expert_loss"] for s in samples)
    assert len({s["advantage"] for s in samples}) > 1
    prompts = {row["id"]: tokenizer(row["prompt"])["input_ids"] for row in rows}
    expected = expected_change(make_model(), samples, prompts, loss_type, trsft, entropy_coef=0.01)
    assert distance(change, expected) < 1e-4


@pytest.mark.parametrize("which", ["trained", "response"])
def test_entropy_over_expert_tokens_too(which, tmp_path, make_model, tokenizer, rows):
    arguments = {"entropy_coef": 0.1, "entropy_tokens": which, "update_tokens": 90}
    arguments["thresholds"] = [-1.0, 2.0, 2.0, 2.0]  # the second micro-group has a twin, whose prefix is not trained
    change = one_step(tmp_path, make_model(), tokenizer, rows, **arguments)
    prompts = {row["id"]: tokenizer(row["prompt"])["input_ids"] for row in rows}
    arguments = (make_model(), rollouts(tmp_path), prompts, "dr_grpo", trsft)
    for other in ("own", "trained", "response"):  # the case tells the three apart
        expected = expected_change(*arguments, entropy_coef=0.1, entropy_tokens=other)
        assert (distance(change, expected) < 1e-4) == (other == which)


@pytest.mark.parametrize(("batch", "accumulation"), [(1, 16), (4, 4), (2, 8)])
@pytest.mark.parametrize("loss_type", SPLIT_INVARIANT_LOSSES)
def test_any_split_has_the_same_gradient(
    loss_type, batch, accumulation, reference, tmp_path, make_model, tokenizer, rows
):
    change = one_step(tmp_path, make_model(), tokenizer, rows, loss_type, batch, accumulation, entropy_coef=0.01)
    assert rollouts(tmp_path)[0]["own_ids"] == rollouts(reference[loss_type][1])[0]["own_ids"]
    assert distance(change, reference[loss_type][0]) < 2e-5


def test_two_ranks_have_the_gradient_of_one(reference, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", str(TESTS / "harness.py"), str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    changes = torch.load(tmp_path / "two.pt")
    for kind in SPLIT_INVARIANT_LOSSES:
        # rank 0 writes the rollouts of both ranks
        assert sorted(s["seed"] for s in rollouts(tmp_path / f"two-{kind}")) == sorted(
            s["seed"] for s in rollouts(reference[kind][1])
        )
        assert distance(changes[kind], reference[kind][0]) < 2e-5
    assert distance(changes["tokens"], tokens_step(tmp_path / "one-tokens", batch=16)) < 2e-5
    assert distance(changes["idle"], idle_step(tmp_path / "one-idle", batch=16)) < 2e-5
    skipped = json.loads((tmp_path / "two-idle" / "metrics.jsonl").read_text().splitlines()[0])["update/skipped_rows"]
    assert skipped == 0.5
