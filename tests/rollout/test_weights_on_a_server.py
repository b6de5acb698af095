"""The trainer's engine on vLLM's server: weights pushed, samples known to be theirs, or one line and --resume."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fake_server import answer
from safetensors.torch import load_file

from trapo import TRAPOConfig
from trapo.rollout.engines.base import Request, generate
from trapo.rollout.engines.vllm_server import VLLMServerEngine


def test_weights_are_written_then_read_again_between_two_barriers(serve, tmp_path):
    said = []

    def others(path, body):
        if path == "/collective_rpc" and body:
            folder = Path(body["kwargs"]["weights_path"])
            said.append((body["method"], {n: t.tolist() for n, t in load_file(folder / "model.safetensors").items()}))
        elif body == {} and path != "/collective_rpc":
            said.append(path)
        return 200

    drawing = trained_with(serve(others=others), tmp_path / "weights", barrier=lambda: said.append("barrier"))
    drawing.load([("a", torch.tensor([1.0, 2.5])), ("b", torch.nn.Parameter(torch.tensor([[3.0]])))])
    pushed = ("reload_weights", {"a": [1.0, 2.5], "b": [[3.0]]})
    assert said == ["barrier", pushed, "/reset_prefix_cache", "barrier"]
    assert [file.name for file in (tmp_path / "weights").iterdir()] == ["model.safetensors"]
    said.clear()
    other = trained_with(serve(others=others), tmp_path / "none", first=False, barrier=lambda: said.append("barrier"))
    walked = []
    other.load(walked.append(n) or (n, torch.zeros(1)) for n in "ab")
    assert walked == ["a", "b"] and said == ["barrier", "barrier"] and not (tmp_path / "none").exists()


def test_a_request_of_the_trainer_names_seed_stop_tokens_and_log_probabilities(serve, tmp_path):
    def with_logprobs(handler, body, times):
        found = answer(body)
        found["choices"][0]["logprobs"] = {"token_logprobs": [-0.5, -1.0, -1.5, -2.0, -2.5]}
        handler.reply(200, found)
        return True

    server = serve(with_logprobs, others=lambda *_: 200)
    drawing = trained_with(server, tmp_path)
    (sample,) = generate(drawing, [Request((1, 2, 3), 7, 11)])
    assert sample.logprobs == (-0.5, -1.0, -1.5, -2.0, -2.5) and len(sample.ids) == 5
    (body,) = server.bodies
    wanted = {
        "seed": 11,
        "max_tokens": 7,
        "stop_token_ids": [250],
        "ignore_eos": True,
        "logprobs": 0,
        "temperature": 1.0,
    }
    assert wanted.items() <= body.items() and body["prompt"] == [1, 2, 3] and body["return_token_ids"] is True


def test_servers_that_take_no_weights_are_named(serve, tmp_path):
    with pytest.raises(ValueError, match="takes no weights: start it with VLLM_SERVER_DEV_MODE=1"):
        trained_with(serve(), tmp_path)
    broken = trained_with(serve(others=lambda path, body: 500 if body else 200), tmp_path)
    with pytest.raises(ConnectionError, match=r"did not take .*HTTP 500 no such folder.*--vllm_server_weights"):
        broken.load([("a", torch.zeros(1))])
    with pytest.raises(ValueError, match="'vllm-server' needs --vllm_server_base_url, such as http://localhost:8000"):
        TRAPOConfig(output_dir=str(tmp_path), engine="vllm-server", use_cpu=True)


class Scores:
    """A server's log-probabilities of any prompt: those of `weights`, a number that a restart sets back."""

    def __init__(self):
        self.weights = 0.0

    def __call__(self, handler, body, times):
        if "prompt_logprobs" in body:
            at = [None, *({str(token): {"logprob": -1.0 - self.weights}} for token in body["prompt"][1:])]
            handler.reply(200, {"choices": [{"prompt_logprobs": at}]})
            return True
        found = answer(body)
        found["choices"][0]["logprobs"] = {"token_logprobs": [-0.5] * 5}
        handler.reply(200, found)
        return True


def test_a_server_that_was_restarted_while_samples_were_drawn_ends_the_run(serve, tmp_path, monkeypatch):
    scores = Scores()
    drawing = trained_with(serve(scores, others=lambda *_: 200), tmp_path)
    monkeypatch.setattr(
        "trapo.rollout.engines.vllm_server.compare_with_model",
        lambda scored, *_: sum(map(sum, map(scored, [(1, 2, 3), (4, 5)]))) and 0.0,
    )
    drawing.load([("a", torch.zeros(1))])
    drawing.check(None)
    batch = [Request((1, 2, i), 7, i) for i in range(6)]
    assert len(generate(drawing, batch)) == 6  # checked, and well
    scores.weights = 0.18  # the base's weights again
    with pytest.raises(ConnectionError) as error:
        generate(drawing, batch)
    said = str(error.value)
    assert "are 0.18 nats from those of its weights when they were pushed (at most 0.0001 is rounding)" in said
    assert said.endswith("go on with the same command and --resume") and "\n" not in said
    drawing.load([("a", torch.ones(1))])  # a push sets it right
    drawing.check(None)
    assert len(generate(drawing, batch)) == 6


def test_a_server_with_stale_weights_is_one_line(serve, tmp_path):
    drawing = trained_with(serve(Scores(), others=lambda *_: 200), tmp_path, vocabulary=20)

    class Model(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, input_ids):
            return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 20))

    with pytest.raises(ConnectionError, match=r"differ from the training model's by 2 nats .*--resume$"):
        drawing.check(Model())  # log 20 is 2.996


def test_a_server_that_is_restarted_is_waited_for(serve, tmp_path):
    began = time.monotonic()

    def restarts(handler, body, times):
        if time.monotonic() < began + 1:
            handler.close_connection = True
            return True
        return Scores()(handler, body, times)

    drawing = trained_with(serve(restarts, others=lambda *_: 200), tmp_path, patience_s=60.0, retries=0)
    assert len(generate(drawing, [Request((1,), 7, 1)])) == 1
    gone = trained_with(serve(others=lambda *_: 200), tmp_path, patience_s=0.3, first_wait_s=0.01)
    gone.root = "http://127.0.0.1:1"
    with pytest.raises(ConnectionError, match=r"failed at /v1/completions: ConnectError.*and --resume$"):
        gone._prompt_logprobs((1, 2))


def test_samples_without_log_probabilities_are_not_taken(serve, tmp_path):
    drawing = trained_with(serve(others=lambda *_: 200), tmp_path, retries=1, first_wait_s=0.001)
    with pytest.raises(ConnectionError, match=r"at last with: 5 tokens with 0 log-probabilities; .*--resume$"):
        generate(drawing, [Request((1, 2, 3), 7, 11)])


def trained_with(server, folder, **more):
    settings = {"slots": 8, "dtype": torch.float32, "vocabulary": 300, "weights": folder} | more
    return VLLMServerEngine(server.url, [250], **settings)
