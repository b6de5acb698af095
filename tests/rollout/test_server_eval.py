"""`trapo eval` on a server, whatever it answers."""

from functools import partial

from fake_server import MODEL, answer, changed
from typer.testing import CliRunner

from trapo.rollout.engines.server import ServerEngine
from trapo_cli.cli import app
from trapo_evals import stats
from trapo_evals.folder import EvalFolder


def evaluate(server, out, *more):
    what = ["--bench", "world_facts", "--model", "world", "--limit", "5", "--samples", "4", "--out", str(out)]
    where = ["--engine", "server", "--base-url", server.url]
    return CliRunner().invoke(app, ["eval", *what, *where, *map(str, more)], prog_name="trapo")


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
    impatient = partial(ServerEngine, first_wait_s=0.001)
    monkeypatch.setattr("trapo.rollout.engines.server.ServerEngine", impatient)
    server = serve(lambda handler, body, times: handler.reply(500, {"error": "broken"}) or True)
    done = evaluate(server, tmp_path / "e", "--server-retries", 1)
    assert done.exit_code == 1 and "failed 2 times for one sample, in 0 s, at last with: HTTP 500" in done.output
    assert "Traceback" not in done.output
    done = evaluate(serve(), tmp_path / "e")  # at another address
    assert done.exit_code == 0 and EvalFolder(tmp_path / "e").finished()["results"]
    small = serve(models=[MODEL | {"max_model_len": 64}])
    done = evaluate(small, tmp_path / "f")
    assert done.exit_code == 2 and "exceed the model's context of 64: set --max-tokens to at most 60" in done.output


def test_the_command_and_a_chat_server_needs_no_tokenizer(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hush-hush-hush")
    path = tmp_path / "rows.jsonl"
    path.write_text('{"problem": "What is 1 + 1?", "answer": "2"}\n{"problem": "What is 2 + 2?", "answer": "4"}\n')

    def says(handler, body, times):
        if "1 + 1" in body["messages"][0]["content"]:
            handler.reply(200, changed(body, {"message": {"content": r"so \boxed{2}", "reasoning_content": "hm"}}))
        else:
            handler.reply(200, changed(body, {"finish_reason": "content_filter"}))
        return True

    server = serve(says)
    url = server.url.replace("http://", "http://anna:swordfish@") + "?code=1234567"
    what = [
        "--bench",
        f"mine={path}",
        "--model",
        "tiny",
        "--server-api",
        "chat",
        "--engine",
        "server",
        "--samples",
        "2",
    ]
    what += ["--base-url", url, "--out", str(tmp_path / "e"), "--server-retries", "0", "--samples", "2"]
    done = CliRunner().invoke(app, ["eval", *what], prog_name="trapo")
    assert done.exit_code == 0, done.output
    record = EvalFolder(tmp_path / "e").record()
    result = record["results"]["mine"]
    assert result["avg@n"]["value"] == 0.5 and result["statuses"]["correct"] == result["statuses"]["refused"] == 0.5
    assert "[warning] mine: the server refused 50.0% of the samples, which count as wrong" in done.output
    assert record["settings"]["template"] == "the server's" and record["model"]["server"] == "1.2.3"
    texts = {r["text"] for r in EvalFolder(tmp_path / "e").journal.records.values()}
    assert texts == {r"<think>hm</think>so \boxed{2}", ""}
    assert server.bodies[0]["messages"][0]["content"].endswith("put your final answer within \\boxed{}.")
    written = b"".join(file.read_bytes() for file in (tmp_path / "e").iterdir() if file.is_file())
    for secret in (b"anna", b"swordfish", b"1234567", b"hush"):
        assert secret not in written and secret.decode() not in done.output
