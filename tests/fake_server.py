"""A server that misbehaves in every way, and what is asked of it."""

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from trapo.rollout.engines.base import Request, Sampling
from trapo.rollout.engines.server import ServerEngine

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
        self.asked, self.bodies, self.paths, self.lock = Counter(), [], [], threading.Lock()
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
        if self.path.partition("?")[0].endswith("/version"):
            return self.reply(200, {"version": "1.2.3"})
        self.reply(200, {"data": self.server.models})

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
        if self.path.partition("?")[0] not in ("/v1/completions", "/v1/chat/completions"):
            status = server.others(self.path, body)
            return self.reply(status, {"error": {"message": "no such folder"}} if status >= 400 else {})
        with server.lock:
            server.bodies.append(body | {"authorization": self.headers.get("Authorization")})
            server.paths.append(self.path)
            name = (*prompt_of(body), body.get("seed"))
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


def prompt_of(body):
    return body["prompt"] if "prompt" in body else body["messages"][-1]["content"].encode()


def tokens_of(body, seed=None):
    return [(sum(prompt_of(body)) + (body["seed"] if seed is None else seed) + i) % 250 for i in range(5)]


def answer(body, ids=True, seed=None):
    tokens = tokens_of(body, seed)
    choice = {"index": 0, "finish_reason": "stop"}
    if "messages" in body:
        choice["message"] = {"role": "assistant", "content": " ".join(map(str, tokens))}
    else:
        choice["text"] = " ".join(map(str, tokens))
        choice |= {"token_ids": tokens, "prompt_token_ids": body["prompt"]} if ids else {}
    return {"choices": [choice], "usage": {"completion_tokens": 5}}


def changed(body, choice=None, **more):
    """An answer with other fields."""
    found = answer(body)
    found["choices"][0] |= choice or {}
    return found | more


def engine(server, **kwargs):
    arguments = {"first_wait_s": 0.001, "concurrency": 8, "timeout_s": 5} | kwargs
    return ServerEngine(arguments.pop("base_url", server.url), **arguments).using(SAMPLING)


def requests(n=24):
    return [Request((1, 2, i % 4), 20, seed) for i, seed in enumerate(range(2**62, 2**62 + n))]


def expected(n=24):
    return [tuple(tokens_of({"prompt": r.ids, "seed": r.seed})) for r in requests(n)]
