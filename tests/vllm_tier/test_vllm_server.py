"""Training with vLLM's own server: pushed weights, one and two processes, LoRA."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import conftest
import pytest
import torch
from safetensors.torch import load_file
from served import Server
from transformers import AutoModelForCausalLM, AutoTokenizer

from trapo.rollout.engines.base import Request, Sampling, generate
from trapo.rollout.engines.vllm_server import VLLMServerEngine
from trapo_toy import world
from trapo_toy.world.wide import widen_heads

pytestmark = pytest.mark.vllm
DEV = {"VLLM_SERVER_DEV_MODE": "1", "PYTHONPATH": str(Path(__file__).parent)}
FLAGS = ("--logprobs-mode", "processed_logprobs", "--worker-extension-cls", "unpacked.Worker")
TOLERANCE = 2e-5  # between one process and two, as in test_ranks.py


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "wide"
    widen_heads(AutoModelForCausalLM.from_pretrained(world.BASE)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(world.BASE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(wide, tmp_path_factory):
    with open(tmp_path_factory.mktemp("log") / "server.log", "ab") as log:
        started = Server(wide, log, *FLAGS, **DEV)
        yield started
        started.kill()


def engine(server, folder, **more):
    settings = {"slots": 16, "dtype": torch.float32, "vocabulary": 502, "weights": folder} | more
    return VLLMServerEngine(server.url, [501], **settings)


def other_weights(wide, scale=0.02):
    model = AutoModelForCausalLM.from_pretrained(wide)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return model


def requests(n=24):
    rng = random.Random(0)
    return [
        Request(tuple(rng.randrange(500) for _ in range(rng.randrange(2, 30))), 20, rng.getrandbits(63))
        for _ in range(n)
    ]


def test_weights_reach_the_server_and_samples_are_the_new_policys(server, wide, tmp_path):
    vocabulary = AutoModelForCausalLM.from_pretrained(wide).config.vocab_size
    drawing = engine(server, tmp_path / "weights", vocabulary=vocabulary)
    drawing.sampling = Sampling(temperature=0.7)
    found = []
    for model in (other_weights(wide), AutoModelForCausalLM.from_pretrained(wide), other_weights(wide)):
        drawing.load(model.named_parameters())
        assert drawing.check(model) < 1e-4
        found.append(generate(drawing, requests()))
        for request, sample in zip(requests(), found[-1], strict=True):
            ids = torch.tensor([request.ids + sample.ids])
            with torch.no_grad():
                logp = (model(ids).logits[0, :-1] / 0.7).log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
            assert (torch.tensor(sample.logprobs) - logp[len(request.ids) - 1 :]).abs().max() < 1e-4
            assert sample.finish == ("stop" if sample.ids[-1] == 501 else "length")
            assert len(sample.ids) == 20 or sample.finish == "stop"
    assert [s.ids for s in found[0]] == [s.ids for s in found[2]] != [s.ids for s in found[1]]
    with pytest.raises(ConnectionError, match="log-probabilities differ from the training model's by"):
        drawing.check(AutoModelForCausalLM.from_pretrained(wide))
    drawing.close()


def test_the_doctor_pushes_weights_and_finds_them_there(server, wide, tmp_path):
    command = [sys.executable, "-P", "-m", "trapo_cli.cli", "doctor", "--model", wide, "--max_completion_length", 64]
    command += ["--engine", "vllm-server", "--vllm_server_base_url", server.url, "--use_cpu", "true"]
    command += ["--output_dir", tmp_path, "--vllm_server_weights", tmp_path / "weights"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    (line,) = [line for line in done.stdout.splitlines() if " engine: " in line]
    assert line.startswith("ok      engine: vllm-server draws with the pushed weights (log-probabilities differ by ")


def test_weights_of_another_shape_are_named(server, tmp_path):
    drawing = engine(server, tmp_path)
    with pytest.raises(ConnectionError, match=r"did not take the weights in .*serve a model of this shape"):
        drawing.load(conftest.new_model().named_parameters())
    drawing.close()


def test_a_server_that_takes_no_weights_is_named_before_anything_is_drawn(wide, tmp_path):
    with open(tmp_path / "server.log", "ab") as log:
        plain = Server(wide, log)
    try:
        done = train(wide, tmp_path / "run", plain)
    finally:
        plain.kill()
    assert done.returncode == 2 and "takes no weights: start it with VLLM_SERVER_DEV_MODE=1" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "run" / "rollouts.jsonl").exists()


# ---------------------------------------------------------------- the command


def train(wide, folder, server, *more, ranks=1, batch=64):
    start = ["-m", "torch.distributed.run", "--nproc_per_node", 2, "--rdzv_backend", "c10d", "--rdzv_endpoint"]
    start = [*start, "localhost:0"] if ranks > 1 else []
    flags = [
        "train",
        "--model",
        wide,
        "--data",
        "world",
        "--engine",
        "vllm-server",
        "--vllm_server_base_url",
        server.url,
    ]
    flags += ["--max_steps", 3, "--per_device_train_batch_size", batch, "--use_cpu", "true", "--output_dir", folder]
    command = [sys.executable, "-P", *start, "-m", "trapo_cli.cli", *flags, *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=600)


def steps(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def samples(folder, step=1):
    names = ("prompt_id", "sample", "seed", "own_ids", "prefix_ids", "reward")
    lines = map(json.loads, (folder / "rollouts.jsonl").read_text().splitlines())
    return sorted(tuple(str(line[name]) for name in names) for line in lines if line["step"] == step)


def test_two_processes_draw_from_one_server_what_one_does(server, wide, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, shape in ((one, {}), (two, {"ranks": 2, "batch": 32})):
        done = train(wide, folder, server, **shape)
        assert done.returncode == 0, done.stderr[-3000:]
        assert len(steps(folder)) == 3 and all(step["sampling/logp_difference"] < 1e-4 for step in steps(folder))
        assert all(step["sampling/push_difference"] < 1e-4 and step["seconds/push"] > 0 for step in steps(folder))
    assert samples(one) == samples(two) and len(samples(one)) == 64
    before, *after = (load_file(f / "model.safetensors") for f in (wide, one / "final", two / "final"))
    assert max((before[name] - after[0][name]).abs().max() for name in before) > 10 * TOLERANCE
    assert max((after[0][name] - after[1][name]).abs().max() for name in before) < TOLERANCE


def test_lora_is_pushed_merged(server, wide, tmp_path):
    done = train(wide, tmp_path, server, "--lora_r", 8, "--learning_rate", "5e-3")
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(steps(tmp_path)) == 3 and all(step["sampling/logp_difference"] < 1e-4 for step in steps(tmp_path))
    assert (tmp_path / "final" / "adapter" / "adapter_model.safetensors").exists()
