"""vLLM itself, its CPU build, as the engine: run by `make test-vllm`."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import conftest
import pytest
import torch
from harness import one_step
from slow import SlowJudge, facts, roll
from transformers import AutoModelForCausalLM, AutoTokenizer

from trapo.rollout.engines.base import Request, Sampling, generate
from trapo.rollout.engines.vllm import VLLMEngine, bit_sum
from trapo.runs.folder import MARKER

pytestmark = pytest.mark.vllm
HEADS = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}  # vLLM's CPU kernels begin at 32


def wide_model(**changes):
    return conftest.new_model(**HEADS, **changes)


@pytest.fixture(scope="module")
def model():
    return wide_model()


@pytest.fixture(scope="module")
def engine(model):
    engine = VLLMEngine(model, [256], slots=16)
    engine.load(model.named_parameters())
    return engine


@pytest.fixture
def loaded(engine, model):
    engine.load(model.named_parameters())
    return engine


def requests(n=32):
    rng = random.Random(0)
    prompts = [tuple(rng.randrange(256) for _ in range(rng.randrange(1, 40))) for _ in range(n // 4)]
    return [Request(prompts[i // 4], rng.randrange(1, 40), rng.getrandbits(63)) for i in range(n)]


def test_log_probabilities_are_the_training_models(loaded, model):
    for request, sample in zip(requests(), generate(loaded, requests()), strict=True):
        ids = torch.tensor([request.ids + sample.ids])
        with torch.no_grad():
            logp = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        expected = logp[len(request.ids) - 1 :]
        assert (torch.tensor(sample.logprobs) - expected).abs().max() < 1e-4
        assert sample.finish == ("stop" if sample.ids[-1] == 256 else "length")
        assert len(sample.ids) == request.max_tokens or sample.finish == "stop"


def test_log_probabilities_are_at_the_sampling_temperature(loaded, model, monkeypatch):
    monkeypatch.setattr(loaded, "sampling", Sampling(temperature=0.7))
    request = requests()[3]
    sample = generate(loaded, [request])[0]
    ids = torch.tensor([request.ids + sample.ids])
    with torch.no_grad():
        logp = (model(ids).logits[0, :-1] / 0.7).log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    assert (torch.tensor(sample.logprobs) - logp[len(request.ids) - 1 :]).abs().max() < 1e-4
    assert loaded.check(model) < 1e-4


def test_samples_depend_on_nothing_but_their_request(loaded):
    together = [s.ids for s in generate(loaded, requests())]
    assert [s.ids for s in generate(loaded, requests()[::-1])[::-1]] == together
    assert [generate(loaded, [r])[0].ids for r in requests()] == together


def test_schedules_draw_the_same_samples(loaded):
    found = []
    for schedule in ("barrier", "pipelined", "speculative"):
        rows, rollout = roll(schedule, loaded, SlowJudge(random.Random(3), 3), n=14)
        found.append([fact for group in facts(rows) for fact in group])
        assert loaded.free == loaded.slots
    assert rollout.cost.aborted_tokens > 0  # the case has losers
    differing = [sum(a != b for a, b in zip(found[0], other, strict=True)) for other in found[1:]]
    print(f"samples that differ from barrier's, of {len(found[0])}: {differing}")
    assert differing == [0, 0]


def test_abort_counts_what_was_drawn(loaded):
    keys = [loaded.submit(Request((1, 2, 3), 30, seed)) for seed in range(3)]
    for _ in range(4):
        assert not loaded.poll()
    drawn = loaded.abort(keys[1])
    assert 2 <= drawn <= 4 and loaded.free == loaded.slots - 2
    with pytest.raises(KeyError):
        loaded.abort(keys[1])
    with pytest.raises(RuntimeError, match="pushed while 2 samples"):
        loaded.load([])
    for key in (keys[0], keys[2]):
        loaded.abort(key)
    assert loaded.free == loaded.slots and loaded.poll() == {}


def test_requests_that_vllm_would_mistake_are_named(loaded):
    with pytest.raises(ValueError, match="token 258 is outside the model's vocabulary of 258"):
        loaded.submit(Request((258,), 4, 1))
    with pytest.raises(ValueError, match="a prompt of 3 tokens and 1000 more exceed vLLM's limit of 256"):
        loaded.submit(Request((1, 2, 3), 1000, 1))


def test_bit_sum_sees_any_bit_and_no_order():
    tensor = torch.randn(7, 5)
    assert bit_sum(tensor) == bit_sum(tensor.T) == bit_sum(tensor.flatten().flip(0))
    parts = sum(bit_sum(row) for row in tensor) % 2**64
    assert bit_sum(tensor) == parts
    changed = tensor.clone()
    changed[3, 2] = torch.nextafter(changed[3, 2], torch.tensor(torch.inf))
    assert bit_sum(changed) != bit_sum(tensor)


def test_a_push_that_leaves_one_tensor_behind_fails(loaded, monkeypatch):
    new = wide_model()
    with torch.no_grad():
        for parameter in new.parameters():
            parameter += 1e-6  # a small update: log-probabilities hardly change
    real = loaded._weights.load_weights
    monkeypatch.setattr(
        loaded._weights, "load_weights", lambda pairs: real([(n, t) for n, t in pairs if "layers.1.mlp.up" not in n])
    )
    with pytest.raises(RuntimeError, match="does not hold the weights that were pushed"):
        loaded.load(new.named_parameters())


def test_weights_that_are_held_but_not_used_fail(loaded, model):
    assert loaded.check(model) < 1e-4
    with pytest.raises(RuntimeError, match="log-probabilities differ from the training model's by"):
        loaded.check(wide_model(seed=1))


def test_an_engine_that_fails_ends_the_rollout_with_its_cause_and_nothing_in_flight(loaded, monkeypatch):
    real, calls = loaded._engine.step, []

    def step():
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("the engine core died")
        return real()

    monkeypatch.setattr(loaded._engine, "step", step)
    with pytest.raises(RuntimeError, match="the engine core died"):
        roll("speculative", loaded, SlowJudge(random.Random(0), 0), n=6)
    monkeypatch.undo()
    assert loaded.free == loaded.slots and not loaded._engine.has_unfinished_requests()
    assert len(generate(loaded, requests(4))) == 4


def test_training_stops_at_the_first_push_that_does_not_arrive(tmp_path, tokenizer, rows, monkeypatch):
    real, pushes = VLLMEngine.load, []

    def load(self, parameters):
        pushes.append(1)
        real(self, list(parameters))
        if len(pushes) == 3:  # vLLM loses a tensor behind our back
            self._sums_agree = True
            real(self, [])

    monkeypatch.setattr(VLLMEngine, "load", load)
    with pytest.raises(RuntimeError, match="does not hold the weights that were pushed"):
        one_step(tmp_path, wide_model(), tokenizer, rows, steps=4, engine="vllm", entropy_coef=0.1)
    assert len(pushes) == 3
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics if "loss" in m] == [1, 2]
    assert all(m["sampling/logp_difference"] < 1e-3 for m in metrics if "loss" in m)


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def world_model(tmp_path_factory):
    from trapo_toy import world
    from trapo_toy.world.wide import widen_heads

    folder = tmp_path_factory.mktemp("world") / "wide"
    base = AutoModelForCausalLM.from_pretrained(world.BASE, dtype=torch.float32)
    wide, ids = widen_heads(base), torch.arange(5, 45)[None]
    with torch.no_grad():
        assert (wide(ids).logits - base(ids).logits).abs().max() < 1e-4
    wide.save_pretrained(folder)
    AutoTokenizer.from_pretrained(world.BASE).save_pretrained(folder)
    return folder


def command(world_model, folder, *more):
    flags = f"train --model {world_model} --data world --engine vllm --max_steps 6 --save_steps 1 --output_dir {folder}"
    return [Path(sys.executable).with_name("trapo"), *flags.split(), *more]


def samples(folder):
    lines = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    return [[line[key] for key in ("step", "seed", "prefix_ids", "own_ids", "reward")] for line in lines]


def test_ctrl_c_leaves_no_process_and_a_run_that_goes_on_to_the_same_bits(world_model, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = subprocess.run(command(world_model, whole), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    child = subprocess.Popen(command(world_model, cut), start_new_session=True, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not list((cut / "checkpoints").glob(f"checkpoint-2/{MARKER}")):
        assert child.poll() is None and time.monotonic() < deadline, child.stderr.read()[-3000:]
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(timeout=60) == 130
    assert "go on with the same command and --resume" in child.stderr.read()
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)
    done = subprocess.run(command(world_model, cut, "--resume"), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert samples(cut) == samples(whole)
    weights = [(folder / "final" / "model.safetensors").read_bytes() for folder in (cut, whole)]
    assert weights[0] == weights[1]
    metrics = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    steps = [m for m in metrics if "loss" in m]
    assert len(steps) == 6 and all(m["sampling/logp_difference"] < 1e-4 for m in steps)
    assert all(m["seconds/push"] > 0 and m["sampling/push_difference"] < 1e-4 for m in steps)
