"""`trapo eval` with vLLM: in process, and its own OpenAI server on loopback, killed in the middle."""

import json
import subprocess
import time

import pytest
from places import TRAPO
from served import Server
from transformers import AutoModelForCausalLM, AutoTokenizer

from trapo_toy import world
from trapo_toy.world.wide import widen_heads

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """The world's base with heads as wide as vLLM's CPU kernels need; it computes the same."""
    folder = tmp_path_factory.mktemp("model") / "wide"
    widen_heads(AutoModelForCausalLM.from_pretrained(world.BASE)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(world.BASE).save_pretrained(folder)
    return folder


@pytest.fixture
def serve(wide, tmp_path):
    servers = []

    def start():
        with open(tmp_path / "server.log", "ab") as log:
            servers.append(Server(wide, log))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.kill()


def command(model, out, *more):
    flags = ["--bench", "world", "--model", model, "--samples", 4, "--limit", 20, "--temperature", 1, "--out", out]
    return [str(part) for part in (TRAPO, "eval", *flags, *more)]


def evaluate(model, out, *more):
    done = subprocess.run(command(model, out, *more), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return samples(out)


def samples(out):
    """(task, question, index) -> tokens."""
    records = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    found = {(r["task"], r["question"], r["index"]): tuple(r["ids"]) for r in records}
    assert len(found) == len(records)
    return found


def test_the_likeliest_tokens_are_the_same_whatever_draws(wide, serve, tmp_path):
    greedy = ("--temperature", 0, "--samples", 1)
    server = serve()
    torch = evaluate(wide, tmp_path / "torch", *greedy)
    assert len(torch) == 60 and all(ids[-1] == 501 for ids in torch.values())
    assert evaluate(wide, tmp_path / "vllm", *greedy, "--engine", "vllm") == torch
    assert evaluate(wide, tmp_path / "server", *greedy, "--engine", "server", "--base-url", server.url) == torch


def test_a_servers_samples_survive_its_death_and_depend_on_the_seed_only(wide, serve, tmp_path):
    server = serve()
    whole = evaluate(wide, tmp_path / "whole", "--engine", "server", "--base-url", server.url)
    by_question = {}
    for (task, question, _), ids in whole.items():
        by_question.setdefault((task, question), set()).add(ids)
    assert len(whole) == 240 and max(map(len, by_question.values())) > 1  # seeds matter
    one_by_one = ("--engine", "server", "--base-url", server.url, "--slots", 3)
    process = subprocess.Popen(command(wide, tmp_path / "killed", *one_by_one), stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "killed" / "samples.jsonl"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 40:
        assert process.poll() is None
        time.sleep(0.01)
    server.kill()
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1 and "failed 9 times for one sample" in error and "Traceback" not in error
    kept = samples(tmp_path / "killed")
    assert 40 <= len(kept) < 240 and kept.items() <= whole.items()
    again = serve()  # at another address
    assert evaluate(wide, tmp_path / "killed", "--engine", "server", "--base-url", again.url) == whole
