"""What an answer must be like to count, and what becomes of one that is not."""

import json

import pytest
from fake_server import answer, changed, engine, expected, requests

from trapo.rollout.engines.base import Request, generate
from trapo.rollout.engines.completions import BadAnswer, Refused, ServerSample, message_ids, read
from trapo_evals.journal import Journal, Wanted, draw

REQUEST = Request((1, 2, 3), 20, 0)
BODY = {"prompt": [1, 2, 3], "seed": 0}
CHAT = {"messages": [{"content": "hi"}], "seed": 0}


def of(choice=None, **more):
    return changed(BODY, choice, **more)


BAD = {
    "text null": (of({"text": None}), "text None"),
    "no text": (of({"text": 7}), "text 7"),
    "usage null": (of({"token_ids": None}, usage=None), "usage None"),
    "no count": (of({"token_ids": None}, usage={}), "completion_tokens None"),
    "negative count": (of({"token_ids": None}, usage={"completion_tokens": -1}), "completion_tokens -1"),
    "true is no count": (of({"token_ids": None}, usage={"completion_tokens": True}), "completion_tokens True"),
    "finish null": (of({"finish_reason": None}), "finish_reason None"),
    "finish unknown": (of({"finish_reason": "abort"}), "finish_reason 'abort'"),
    "wrong index": (of({"index": 1}), "index 1 of 1 choice"),
    "index null": (of({"index": None}), "index None"),
    "no choice": (of(choices=[]), "0 choices where 1 was asked for"),
    "two choices": (of(choices=[1, 2]), "2 choices where 1 was asked for"),
    "choices null": (of(choices=None), "choices None"),
    "choice no object": (of(choices=["x"]), "str where index should be"),
    "a list": ([], "list where choices should be"),
    "too many ids": (of({"token_ids": [1] * 21}), "21 tokens where at most 20 were asked for"),
    "too many": (of({"token_ids": None}, usage={"completion_tokens": 21}), "21 tokens where at most 20"),
    "text of nothing": (of({"token_ids": None}, usage={"completion_tokens": 0}), "a text of 0 tokens"),
    "ids no tokens": (of({"token_ids": [1, "2"]}), "token_ids that are no tokens"),
    "another prompt": (of({"prompt_token_ids": [9]}), "the server read other prompt tokens than were sent"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_is_named(name):
    found, said = BAD[name]
    with pytest.raises(BadAnswer, match=said):
        read("completions", found, REQUEST)


def test_a_missing_index_is_bad():
    found = answer(BODY)
    del found["choices"][0]["index"]
    with pytest.raises(BadAnswer, match="index None"):
        read("completions", found, REQUEST)


@pytest.mark.parametrize(
    ("logprobs", "kept"),
    [
        (None, ()),
        ({}, ()),
        ({"token_logprobs": [-1, -2.0, -3.0, -4.0, -5.0]}, (-1.0, -2.0, -3.0, -4.0, -5.0)),
        ({"token_logprobs": [None, -2.0, -3.0, -4.0, -5.0]}, ()),
        ({"token_logprobs": [-1.0]}, ()),  # not one per token
        ({"token_logprobs": [float("nan")] * 5}, ()),
        ("none", ()),
    ],
)
def test_log_probabilities_are_optional(logprobs, kept):
    sample = read("completions", of({"logprobs": logprobs}), REQUEST)
    assert sample.logprobs == kept and len(sample.ids) == 5


def test_an_empty_text_is_an_answer():
    found = of({"text": "", "token_ids": None}, usage={"completion_tokens": 0})
    assert read("completions", found, REQUEST) == ServerSample((), "stop")


def test_chat_answers():
    def of_chat(message, **choice):
        return changed(CHAT, choice | {"message": message})

    assert read("chat", answer(CHAT), REQUEST) == ServerSample((), "stop", (), "209 210 211 212 213", 5)
    thinking = {"content": "so 2", "reasoning_content": "1+1"}
    assert read("chat", of_chat(thinking), REQUEST).text == "<think>1+1</think>so 2"
    assert read("chat", of_chat({"content": "so 2", "reasoning": "1+1"}), REQUEST).text == "<think>1+1</think>so 2"
    cut = of_chat(thinking | {"content": None}, finish_reason="length")
    assert read("chat", cut, REQUEST).text == "<think>1+1"
    with pytest.raises(BadAnswer, match="text None"):
        read("chat", of_chat({"content": None}), REQUEST)
    with pytest.raises(BadAnswer, match="message None"):
        read("chat", of_chat(None), REQUEST)
    with pytest.raises(Refused, match="refusal: I will not"):
        read("chat", of_chat({"content": None, "refusal": "I will not"}), REQUEST)
    with pytest.raises(Refused, match="content_filter"):
        read("chat", of_chat({"content": None}, finish_reason="content_filter"), REQUEST)


# ---------------------------------------------------------------- what becomes of it


@pytest.mark.parametrize("content", [b"<html>busy</html>", b"[]", json.dumps(BAD["text null"][0]).encode()])
def test_it_is_asked_again(content, serve):
    def babbles(handler, body, times):
        if times <= 3:
            handler.reply(200, content)
        return times <= 3

    server = serve(babbles)
    assert [sample.ids for sample in generate(engine(server), requests())] == expected()
    assert set(server.asked.values()) == {4}


def test_the_trainers_samples_must_all_come(serve):
    server = serve(lambda handler, body, times: handler.reply(200, changed(body, {"text": None})) or True)
    with pytest.raises(ConnectionError, match=r"failed 3 times for one sample, in 0 s, at last with: text None"):
        generate(engine(server, retries=2), requests(1))


def faulty(handler, body, times):
    """Of eight samples one is filtered, one always bad, one answered 500, one refused; the others are fine."""
    which = body["seed"] % 8
    if which == 1:
        handler.reply(200, changed(body, {"finish_reason": "content_filter", "text": None}))
    elif which == 3:
        handler.reply(200, changed(body, {"finish_reason": None}))
    elif which == 5:
        handler.reply(500, {"error": {"message": "of this prompt"}})
    elif which == 7:
        handler.reply(400, {"error": {"message": "the prompt is too long"}})
    return which in (1, 3, 5, 7)


def test_faults_are_recorded_and_the_others_go_on(serve, tmp_path):
    wanted = [Wanted("task", f"q{i}", 0, r.ids, r.seed, r.max_tokens) for i, r in enumerate(requests(8))]
    how = {"model": "m", "sampling": engine(serve()).sampling, "decode": lambda ids: " ".join(map(str, ids))}

    def drawn(server, first=0):
        mine = engine(server, retries=1, record_faults=True, concurrency=1)
        return draw(wanted[first:], mine, Journal(tmp_path / "samples.jsonl"), **how)

    server = serve(faulty)
    found = drawn(server)
    assert [record["finish"] for record in found] == [
        "stop", "refused", "stop", "server-error", "stop", "server-error", "stop", "refused",
    ]  # fmt: skip
    faults = [record["fault"] for record in found if "fault" in record]
    assert faults[:2] == ["finish_reason content_filter", "finish_reason None"]
    assert faults[2:] == ["HTTP 500 of this prompt", "HTTP 400 the prompt is too long"]
    assert all(record["text"] == "" and record["tokens"] == 0 for record in found if "fault" in record)
    # The same command again asks for what the server failed to give, and for nothing else.
    well = serve()
    again = drawn(well)
    assert sum(well.asked.values()) == 2
    assert [record["finish"] for record in again] == ["stop", "refused", *["stop"] * 5, "refused"]
    assert [record["finish"] for record in Journal(tmp_path / "samples.jsonl").records.values()].count("stop") == 6


def test_a_server_that_fails_for_everybody_ends_the_command_even_then(serve):
    server = serve(lambda handler, body, times: handler.reply(500, {"error": "broken"}) or True)
    with pytest.raises(ConnectionError, match="failed 2 times"):
        generate(engine(server, retries=1, record_faults=True), requests(4))
    server = serve(lambda handler, body, times: handler.reply(400, {"error": "no such field"}) or True)
    with pytest.raises(ValueError, match=r"refuses a request: HTTP 400 .*no such field"):
        generate(engine(server, retries=1, record_faults=True), requests(4))


# ---------------------------------------------------------------- chat


def test_a_chat_server_is_asked_with_messages(serve):
    def knows_openais_fields(handler, body, times):
        if body.keys() - {"model", "messages", "max_completion_tokens", "temperature", "top_p", "seed"}:
            unknown = "max_tokens is not supported: use max_completion_tokens" if "max_tokens" in body else "top_k"
            handler.reply(400, {"error": {"message": unknown}})
            return True
        return False

    text = "What is 1 + 1? ½"
    request = Request(message_ids(text), 20, 2**62)
    server = serve()
    (sample,) = generate(engine(server, api="chat"), [request])
    assert sample.text == " ".join(map(str, [(sum(text.encode()) + 2**62 + i) % 250 for i in range(5)]))
    assert sample.ids == () and sample.tokens == 5
    (body,) = server.bodies
    assert body["messages"] == [{"role": "user", "content": text}] and server.paths == ["/v1/chat/completions"]
    assert "prompt" not in body and body["max_tokens"] == 20 and body["seed"] == 2**62
    picky = serve(knows_openais_fields)
    mine = engine(picky, api="chat", concurrency=1)
    assert generate(mine, [request, request])[1].text == sample.text
    assert len(picky.bodies) == 4 and picky.bodies[-1]["max_completion_tokens"] == 20  # two forms were refused once


# ---------------------------------------------------------------- secrets


def test_no_secret_of_the_address_or_the_key_is_shown(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hush")
    echo = lambda handler, body, times: handler.reply(503, {"error": "bad key sk-hush"}) or True  # noqa: E731
    server = serve(echo)
    url = server.url.replace("http://", "http://anna:pass@") + "?api-key=secret"
    mine = engine(server, base_url=url, retries=0)
    assert mine.shown == server.url.replace("http://", "http://***@") + "?api-key=***" and mine.version == "1.2.3"
    with pytest.raises(ConnectionError) as error:
        generate(mine, requests(1))
    said = str(error.value)
    assert "HTTP 503" in said and "bad key ***" in said
    assert not [word for word in ("anna", "pass", "secret", "hush") if word in said]
    assert server.paths == ["/v1/completions?api-key=secret"]
