"""The server engine against a server that misbehaves in every way: each sample once, or one line that says why not."""

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from fake_server import SAMPLING, answer, engine, expected, requests

from trapo.rollout.engines.base import Sampling, generate
from trapo.rollout.engines.server import ServerEngine, ServerSample, _retry_after
from trapo_evals.journal import Journal, Wanted, draw


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
    [(fails, 3), (drops, 3), (hangs_up, 3), (is_busy, 2), (reads_other_tokens, 2)],
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
        generate(engine(serve(delay=0.5), timeout_s=0.1, retries=1), requests(1))


def test_poll_returns_with_what_there_is(serve):
    """Grading and guidance go on while a sample takes its time; a sample that is there comes at once."""
    mine = engine(serve(delay=0.5))
    key = mine.submit(requests(1)[0])
    assert mine.poll() == {} and mine.poll() == {} and mine.free == 7
    mine.abort(key)
    quick = engine(serve())
    wanted = {quick.submit(request): ids for request, ids in zip(requests(3), expected(3), strict=True)}
    while quick._ended.qsize() < 3:
        time.sleep(0.001)
    assert {key: sample.ids for key, sample in quick.poll().items()} == wanted


def test_patience_outlasts_the_attempts(serve):
    """A restart takes longer than any number of quick attempts."""
    began = time.monotonic()

    def restarts(handler, body, times):
        handler.close_connection = True
        return time.monotonic() < began + 1

    samples = generate(engine(serve(restarts), retries=0, patience_s=30.0, concurrency=2), requests(4))
    assert [sample.ids for sample in samples] == expected(4)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("2", 2.0), ("0.25", 0.25), ("-1", 0.0), ("soon", 0.0), (None, 0.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)
def test_retry_after(header, seconds):
    assert _retry_after(httpx.Response(429, headers={"Retry-After": header} if header else {})) == seconds


def test_retry_after_may_be_a_date():
    at = datetime.now(UTC) + timedelta(seconds=100)
    response = httpx.Response(429, headers={"Retry-After": format_datetime(at, usegmt=True)})
    assert 97 < _retry_after(response) <= 100


def test_after_all_attempts_the_cause_is_named_and_nothing_is_in_flight(serve):
    server = serve(lambda handler, body, times: handler.reply(503, {"error": "no GPU"}) or True)
    mine = engine(server, retries=2)
    with pytest.raises(
        ConnectionError, match=r"failed 3 times for one sample, in 0 s, at last with: HTTP 503 .*no GPU"
    ):
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
        mine = engine(dying, retries=1, concurrency=2)
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
