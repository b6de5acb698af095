"""The server engine against a server that misbehaves in every way: each sample once, or one line that says why not."""

import json
import threading
import time
from collections import Counter
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from trapo import TRAPOConfig
from trapo.rollout.engines.base import Request, Sampling, generate
from trapo.rollout.engines.server import ServerEngine, ServerSample
from trapo.rollout.engines.vllm_server import VLLMServerEngine
from trapo_cli.cli import app
from trapo_evals import stats
from trapo_evals.folder import EvalFolder
from trapo_evals.journal import Journal, Wanted, draw

SAMPLING = Sampling(0.6)
MODEL = {"id": "tiny", "max_model_len": 512}


class Server(ThreadingHTTPServer):
    """Answers with a text made of prompt and seed, unless `misbehave` does something else with a request.

    Args:
        misbehave: (handler, body, how many times this sample was asked for) -> True if it has answered itself.
        others: (path, body) -> status, of requests that are not for samples.
    """

    daemon_threads = True

    def __init__(self, misbehave=None, models=(MODEL,), ids=True, delay=0.0, others=lambda *_: 404):
        super().__init__(("127.0.0.1", 0), Handler)
        self.misbehave, self.models, self.ids, self.delay = misbehave or (lambda *_: False), list(models), ids, delay
        self.others = others
        self.asked, self.bodies, self.lock = Counter(), [], threading.Lock()
        self.running = self.most = 0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def handle_error(self, request, client_address):
        """A client that has left is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.reply(200, {"data": self.server.models})

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
        if self.path != "/v1/completions":
            status = server.others(self.path, body)
            return self.reply(status, {"error": {"message": "no such folder"}} if status >= 400 else {})
        with server.lock:
            server.bodies.append(body | {"authorization": self.headers.get("Authorization")})
            name = (*body["prompt"], body["seed"])
            server.asked[name] += 1
            times = server.asked[name]
            server.running += 1
            server.most = max(server.most, server.running)
        try:
            time.sleep(server.delay)
            if not server.misbehave(self, body, times):
                self.reply(200, answer(body, server.ids))
        finally:
            with server.lock:
                server.running -= 1

    def reply(self, status, content, **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def tokens_of(body, seed=None):
    return [(sum(body["prompt"]) + (body["seed"] if seed is None else seed) + i) % 250 for i in range(5)]


def answer(body, ids=True, seed=None):
    tokens = tokens_of(body, seed)
    choice = {"text": " ".join(map(str, tokens)), "finish_reason": "stop"}
    choice |= {"token_ids": tokens, "prompt_token_ids": body["prompt"]} if ids else {}
    return {"choices": [choice], "usage": {"completion_tokens": 5}}


@pytest.fixture
def serve():
    servers = []

    def start(*args, **kwargs):
        servers.append(Server(*args, **kwargs))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def engine(server, **kwargs):
    arguments = {"first_wait_s": 0.001, "concurrency": 8, "timeout_s": 5} | kwargs
    return ServerEngine(server.url, **arguments).using(SAMPLING)


def requests(n=24):
    return [Request((1, 2, i % 4), 20, seed) for i, seed in enumerate(range(2**62, 2**62 + n))]


def expected(n=24):
    return [tuple(tokens_of({"prompt": r.ids, "seed": r.seed})) for r in requests(n)]


def test_samples_are_what_the_server_says(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server = serve(delay=0.01)
    mine = engine(server, eos_ids=[7])
    samples = generate(mine, requests())
    assert [sample.ids for sample in samples] == expected()
    assert samples[0] == ServerSample(expected()[0], "stop", (), " ".join(map(str, expected()[0])), 5)
    assert set(server.asked.values()) == {1} and len(server.asked) == 24
    assert 1 < server.most <= 8
    assert mine.model == "tiny" and mine.context == 512 and mine.free == 8
    body = server.bodies[0]
    assert body == {
        "model": "tiny", "prompt": body["prompt"], "max_tokens": 20, "seed": body["seed"], "temperature": 0.6,
        "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "stop_token_ids": [7],
        "return_token_ids": True, "authorization": "Bearer secret",
    }  # fmt: skip
    mine.close()


def test_a_server_that_keeps_the_tokens_gives_text_and_their_number(serve):
    (sample,) = generate(engine(serve(ids=False)), requests(1))
    assert sample == ServerSample((), "stop", (), " ".join(map(str, expected(1)[0])), 5)


def fails(handler, body, times):
    if times <= 2:
        handler.reply(500, {"error": {"message": "out of luck"}})
    return times <= 2


def drops(handler, body, times):
    if times <= 2:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"choices": [')
        handler.close_connection = True
    return times <= 2


def hangs_up(handler, body, times):
    handler.close_connection = True
    return times <= 2


def stalls(handler, body, times):
    if times == 1 and body["seed"] % 4 == 0:
        time.sleep(1.0)
        handler.close_connection = True
        return True
    return False


def babbles(handler, body, times):
    replies = [b"<html>busy</html>", b'{"choices": []}', b"[]", b'{"choices": [{"text": "x"}]}']
    if times <= len(replies):
        handler.reply(200, replies[times - 1])
    return times <= len(replies)


def is_busy(handler, body, times):
    if times == 1:
        handler.reply(429, {"message": "slow down"}, Retry_After="0.01")
    return times == 1


def reads_other_tokens(handler, body, times):
    if times == 1:
        handler.reply(200, answer(body | {"prompt": [9]}))
    return times == 1


@pytest.mark.parametrize(
    ("misbehave", "times"),
    [(fails, 3), (drops, 3), (hangs_up, 3), (babbles, 5), (is_busy, 2), (reads_other_tokens, 2)],
)
def test_what_fails_for_now_is_tried_again_and_each_sample_comes_once(serve, misbehave, times):
    server = serve(misbehave)
    assert [sample.ids for sample in generate(engine(server), requests())] == expected()
    assert set(server.asked.values()) == {times}


def test_a_server_that_stalls_is_left_and_asked_again(serve):
    server = serve(stalls)
    assert [sample.ids for sample in generate(engine(server, timeout_s=0.3), requests())] == expected()
    assert Counter(server.asked.values()) == {1: 18, 2: 6}


def test_a_server_that_is_too_slow_is_told_from_one_that_is_not_there(serve):
    with pytest.raises(ConnectionError, match=r"no answer within 0.1 s, with fewer --slots"):
        generate(engine(serve(delay=0.5), timeout_s=0.1, attempts=2), requests(1))


def test_after_all_attempts_the_cause_is_named_and_nothing_is_in_flight(serve):
    server = serve(lambda handler, body, times: handler.reply(503, {"error": "no GPU"}) or True)
    mine = engine(server, attempts=3)
    with pytest.raises(ConnectionError, match=r"failed 3 times for one sample, at last with: HTTP 503 .*no GPU"):
        generate(mine, requests(4))
    assert mine.free == 8 and mine.poll() == {}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_is_refused_is_not_tried_again(serve, status):
    server = serve(lambda handler, body, times: handler.reply(status, {"error": {"message": "you may not"}}) or True)
    with pytest.raises(ValueError, match=rf"refuses a request: HTTP {status} you may not"):
        generate(engine(server), requests(1))
    assert sum(server.asked.values()) == (2 if status in (400, 422) else 1)  # with and without what OpenAI lacks


def strict(handler, body, times):
    unknown = body.keys() - {"model", "prompt", "max_tokens", "temperature", "top_p", "seed"}
    if unknown:
        handler.reply(422, {"message": f"unknown fields {', '.join(sorted(unknown))}"})
    return bool(unknown)


def test_a_server_that_knows_openais_fields_only_gets_these(serve):
    server = serve(strict, ids=False)
    mine = engine(server, concurrency=1)
    samples = generate(mine, requests(6))
    assert [sample.text for sample in samples] == [" ".join(map(str, ids)) for ids in expected(6)]
    assert len(server.bodies) == 7  # the first was refused once
    with pytest.raises(ValueError, match=r"unknown fields .*top_k"):
        generate(engine(server).using(Sampling(0.6, top_k=20)), requests(1))


def test_servers_that_cannot_be_used(serve):
    with pytest.raises(ValueError, match=r"no server answers at http://127.0.0.1:1/v1 \(ConnectError"):
        ServerEngine("http://127.0.0.1:1/v1")
    with pytest.raises(ValueError, match="no server answers at nonsense"):
        ServerEngine("nonsense")
    server = serve(models=[{"id": "a"}, {"id": "b"}])
    with pytest.raises(ValueError, match="has the models a, b: name one with --model"):
        engine(server)
    mine = engine(server, wanted="b")
    assert mine.model == "b" and mine.context is None
    with pytest.raises(ValueError, match=r"has the models \(none\)"):
        engine(serve(models=[]))


def wanted(n=24):
    return [Wanted("task", f"q{i % 4}", i, r.ids, r.seed, r.max_tokens) for i, r in enumerate(requests(n))]


def test_a_server_that_dies_loses_nothing_and_nothing_is_drawn_twice(serve, tmp_path):
    def dies(handler, body, times):
        if body["seed"] % 3 == 0:
            handler.close_connection = True
        return body["seed"] % 3 == 0

    def decode(ids):
        return " ".join(map(str, ids))

    journal = Journal(tmp_path / "samples.jsonl")
    dying = serve(dies)
    with pytest.raises(ConnectionError, match="what was saved is kept, and the same command goes on"):
        mine = engine(dying, attempts=2, concurrency=2)
        draw(wanted(), mine, journal, model="m", sampling=SAMPLING, decode=decode)
    kept = {(record["question"], record["index"]) for record in journal.records.values()}
    assert 0 < len(kept) <= 16
    well = serve()
    found = draw(wanted(), engine(well), Journal(journal.path), model="m", sampling=SAMPLING, decode=decode)
    assert [record["text"] for record in found] == [decode(ids) for ids in expected()]
    assert sum(well.asked.values()) == 24 - len(kept)
    assert len(journal.path.read_text().splitlines()) == 24
    whole = draw(wanted(), engine(serve()), Journal(tmp_path / "w"), model="m", sampling=SAMPLING, decode=decode)
    assert whole == found


# ---------------------------------------------------------------- the command


def evaluate(server, out):
    what = ["--bench", "world_facts", "--model", "world", "--limit", "5", "--samples", "4", "--out", str(out)]
    where = ["--engine", "server", "--base-url", server.url]
    return CliRunner().invoke(app, ["eval", *what, *where], prog_name="trapo")


def test_the_command_and_a_server_that_ignores_seeds(serve, tmp_path):
    def ignores_seeds(handler, body, times):
        handler.reply(200, answer(body, seed=1))
        return True

    done = evaluate(serve(ignores_seeds), tmp_path / "e")
    assert done.exit_code == 0, done.output
    assert "[warning] world_facts: all samples of every question are equal: the server ignores seeds" in done.output
    record = EvalFolder(tmp_path / "e").record()
    assert (
        record["results"]["world_facts"]["all samples equal"] and record["results"]["world_facts"]["distinct"] == 0.25
    )
    assert record["model"]["served as"] == "tiny" and record["settings"]["engine"] == "server"
    done = evaluate(serve(), tmp_path / "f")
    assert "[warning]" not in done.output
    texts = [record["text"] for record in EvalFolder(tmp_path / "f").journal.records.values()]
    assert not stats.all_equal([texts])


def test_the_command_and_a_server_that_fails(serve, tmp_path, monkeypatch):
    impatient = partial(ServerEngine, attempts=2, first_wait_s=0.001)
    monkeypatch.setattr("trapo.rollout.engines.server.ServerEngine", impatient)
    server = serve(lambda handler, body, times: handler.reply(500, {"error": "broken"}) or True)
    done = evaluate(server, tmp_path / "e")
    assert done.exit_code == 1 and "failed 2 times for one sample, at last with: HTTP 500" in done.output
    assert "Traceback" not in done.output
    done = evaluate(serve(), tmp_path / "e")  # at another address
    assert done.exit_code == 0 and EvalFolder(tmp_path / "e").finished()["results"]
    small = serve(models=[MODEL | {"max_model_len": 64}])
    done = evaluate(small, tmp_path / "f")
    assert done.exit_code == 2 and "exceed the model's context of 64: set --max-tokens to at most 60" in done.output


# ---------------------------------------------------------------- the trainer's engine


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
    with pytest.raises(RuntimeError, match=r"did not take .*HTTP 500 no such folder.*--vllm_server_weights"):
        broken.load([("a", torch.zeros(1))])
    with pytest.raises(ValueError, match="'vllm-server' needs --vllm_server_base_url, such as http://localhost:8000"):
        TRAPOConfig(output_dir=str(tmp_path), engine="vllm-server", use_cpu=True)


def trained_with(server, folder, **more):
    settings = {"slots": 8, "dtype": torch.float32, "vocabulary": 300, "weights": folder} | more
    return VLLMServerEngine(server.url, [250], **settings)
