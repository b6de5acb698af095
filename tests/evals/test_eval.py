"""`trapo eval` and `trapo compare`, whole: numbers against second computations, kills, folders, what a user sees."""

import io
import json
import math
import multiprocessing
import random
import re
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from trapo.plotting import read_settings
from trapo_cli.cli import app
from trapo_evals import evaluate as run
from trapo_evals import models, report
from trapo_evals.evaluate import Settings
from trapo_evals.folder import EvalFolder
from trapo_evals.journal import fingerprint
from trapo_evals.sources import register_world
from trapo_toy import world
from trapo_toy import world as the_world

KILLS = 10
CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(
    ["trapo_evals.sampler", "trapo_evals.evaluate", "trapo.rollout.engines.torch", "trapo.command.job"]
)
SETTINGS = Settings("world", str(world.BASE), samples=4, limit=12, temperature=1.0)


def evaluate(out, settings=SETTINGS, **kwargs):
    """The folder, and what was printed."""
    register_world(the_world, settings.model)
    text = io.StringIO()
    folder = run.evaluate(settings, out, Console(file=text, width=100), **kwargs)
    return folder, text.getvalue()


def child(out, settings):
    evaluate(out, settings, slots=16)


def world_questions(part):
    return world.training_data()[1][part]


def invoke(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], prog_name="trapo")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return evaluate(tmp_path_factory.mktemp("eval") / "whole")


def test_ten_kills_give_the_same_bits_and_no_sample_twice(tmp_path):
    settings, total = replace(SETTINGS, samples=16, limit=40), 3 * 40 * 16

    def start(name):
        process = CHILDREN.Process(target=child, args=(tmp_path / name, settings))
        process.start()
        return process

    def drawn(name="killed"):
        path = tmp_path / name / "samples.jsonl"
        return path.read_bytes().splitlines() if path.exists() else []

    whole = start("whole")
    whole.join()
    assert whole.exitcode == 0
    rng, found = random.Random(0), set()
    # Eight while it draws, at numbers of samples; two while it grades and draws figures.
    for until in (*sorted(rng.sample(range(total), KILLS - 2)), total, total):
        process = start("killed")
        while process.is_alive() and len(drawn()) < until:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.5) if until == total else rng.uniform(0, 0.01))
        assert process.is_alive()
        process.kill()
        process.join()
        found.add(len(drawn()))
    assert len(found - {0, total}) >= 4 and not (tmp_path / "killed" / "lengths.png").exists()
    last = start("killed")
    last.join()
    assert last.exitcode == 0
    lines = drawn()
    assert len(lines) == len(set(lines)) == total  # none lost, none twice
    assert sorted(lines) == sorted(drawn("whole"))
    for path in (tmp_path / "whole").iterdir():
        if path.name != "samples.jsonl":  # its lines come in the order in which samples end
            assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes(), path.name


def test_a_finished_evaluation_starts_no_engine_and_says_the_same(whole, monkeypatch):
    folder, printed = whole
    before = {path.name: path.read_bytes() for path in folder.path.iterdir()}

    def starter(*args, **kwargs):
        def start(how):
            raise AssertionError("the engine was started")

        return start

    monkeypatch.setattr("trapo_evals.job.starter", starter)
    _, again = evaluate(folder.path)
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == before
    table = printed.index("avg@n")
    assert again[again.index("avg@n") :] == printed[table:] and "(144 samples are there)" in again


def test_numbers_are_what_the_lines_say(whole):
    folder, printed = whole
    record, lines, journal = folder.record(), folder.graded(), folder.journal.records
    assert list(record["results"]) == ["world_test", "world_direct", "world_facts"]
    for name, result in record["results"].items():
        mine = [line for line in lines if line["task"] == name]
        correct = np.array([line["status"] == "correct" for line in mine]).reshape(12, 4)  # by question, by index
        assert [line["index"] for line in mine] == [0, 1, 2, 3] * 12
        assert result["avg@n"]["value"] == pytest.approx(correct.mean())
        assert result["avg@n"]["se_questions"] == pytest.approx(correct.mean(1).std(ddof=1) / math.sqrt(12))
        assert result["pass@k"]["ks"] == [1, 2, 4]
        assert result["pass@k"]["value"][0] == pytest.approx(correct.mean())
        assert result["pass@k"]["value"][2] == pytest.approx(correct.any(1).mean())
        assert record["lm_eval"][f"trapo_{name}"]["avg@n,none"] == pytest.approx(correct.mean())
        lengths = [journal[line["key"]]["tokens"] for line in mine]
        assert result["tokens"]["mean"] == pytest.approx(np.mean(lengths)) and result["tokens"]["total"] == sum(lengths)
        assert sum(result["statuses"].values()) == pytest.approx(1)
        assert f"{correct.mean():.3f}" in printed
    golds = {row["id"]: row["answer"] for row in folder.questions()}
    right = [line for line in lines if line["status"] == "correct"]
    assert len(right) > 50 and all(line["answer"] == golds[line["question"]] for line in right)  # all are integers
    assert all(line["answer"] != golds[line["question"]] for line in lines if line["status"] == "wrong")


def test_the_record_says_where_everything_came_from(whole):
    folder, printed = whole
    record = folder.record()
    assert record["model"]["alpha"] is None and record["model"]["run"] == {} and record["device"] == "cpu"
    assert record["settings"]["engine"] == "torch" and record["settings"]["dtype"] == "float32"
    assert {"torch", "lm_eval", "math-verify"} <= record["environment"]["versions"].keys()
    data = record["data"]["world_test"]
    assert (data["questions"], data["of"], data["samples"], data["max_tokens"]) == (12, 200, 4, 136)
    assert data["first prompt"] in printed and len(data["prompts"]) == len(data["hash"]) == 16
    settings = read_settings(folder.path / "accuracy.png")
    assert settings["alpha"] is None and settings["temperature"] == 1.0
    assert settings["benchmarks"]["world_facts"] == "12 x 4, 136 tokens at most"
    asked = [run.benchmarks.Question(row["id"], row["prompt"], row["answer"]) for row in world_questions("test")]
    assert data["hash"] == run.benchmarks.content_hash(asked) and data["source"] is None


def test_regrade_finds_the_same_without_a_model(whole, tmp_path):
    folder = EvalFolder(shutil.copytree(whole[0].path, tmp_path / "copy"))
    before = folder.record()
    (folder.path / "graded.jsonl").unlink()
    run.regrade(folder, Console(file=io.StringIO()))
    assert folder.record()["results"] == before["results"] and "graded again" in folder.record()
    assert folder.graded() == whole[0].graded()
    screen = io.StringIO()
    run.regrade(folder, Console(file=screen, width=200), "luffy")  # nothing here stands behind </think>
    results = folder.record()["results"]
    assert {result["avg@n"]["value"] for result in results.values()} == {0.0}
    assert [r["pass@k"]["ks"] for r in results.values()] == [r["pass@k"]["ks"] for r in before["results"].values()]
    assert folder.record()["settings"]["grader"] == "luffy" and "grader luffy" in screen.getvalue()
    with pytest.raises(ValueError, match="--grader lufy: choose from own, reference, luffy"):
        run.regrade(folder, Console(file=io.StringIO()), "lufy")
    (folder.path / "samples.jsonl").write_text("")
    with pytest.raises(ValueError, match="lacks samples of world_test, such as"):
        run.regrade(folder, Console(file=io.StringIO()))
    (folder.path / "questions.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"questions\.jsonl has no question of world_test: run its command again"):
        run.regrade(folder, Console(file=io.StringIO()))


@pytest.mark.parametrize("content", ["{}", "[]", '{"settings": {}, "data": {}}'])
def test_an_eval_json_of_something_else_is_one_line(content, tmp_path):
    (tmp_path / "eval.json").write_text(content)
    done = invoke("eval", "--regrade", tmp_path)
    assert done.exit_code == 2, done.output
    said = f"error: {tmp_path} holds no evaluation ({tmp_path / 'eval.json'} is no evaluation: "
    assert done.output.startswith(said) and done.output.count("\n") == 1
    assert (tmp_path / "eval.json").read_text() == content


def test_a_folder_grows_and_refuses_another_evaluation(tmp_path):
    small = replace(SETTINGS, bench="world_direct", samples=2, limit=3)
    folder, _ = evaluate(tmp_path / "e", small)
    two = {line["key"]: line for line in folder.graded()}
    evaluate(tmp_path / "e", replace(small, samples=3, limit=4))
    more = {line["key"]: line for line in folder.graded()}
    assert len(two) == 6 and len(more) == 12 and two.items() <= more.items()
    for change, message in (
        ({"temperature": 0.9}, "temperature 1.0 there, 0.9 now"),
        ({"bench": "world_facts"}, "bench 'world_direct' there, 'world_facts' now"),
        ({"seed": 1}, "seed 0 there, 1 now"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            evaluate(tmp_path / "e", replace(small, **change))
    other = json.loads(json.dumps(folder.record()).replace('"first prompt": "', '"first prompt": "You are'))
    with pytest.raises(ValueError, match=r"prompts \{'world_direct': .* there"), folder.begin(other):
        pass
    with folder.begin(folder.record()), pytest.raises(ValueError, match="another process is evaluating into"):
        evaluate(tmp_path / "e", small)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        evaluate(tmp_path / "file" / "e", small)


def test_greedy_takes_one_sample_each(tmp_path):
    greedy = replace(SETTINGS, bench="world_direct", samples=None, temperature=0.0, limit=5)
    folder, _ = evaluate(tmp_path / "e", greedy)
    result = folder.record()["results"]["world_direct"]
    assert result["samples"] == 1 and "pass@k" not in result and result["avg@n"]["se_resampling"] is None


def test_two_models_draw_the_same_numbers(whole, tmp_path):
    other = shutil.copytree(world.BASE, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"note": "another model"}))
    folder, _ = evaluate(tmp_path / "e", replace(SETTINGS, model=str(other), bench="world_direct", limit=3))
    seeds = {(r["question"], r["index"]): r["seed"] for r in folder.journal.records.values()}
    before = {(r["question"], r["index"]): r["seed"] for r in whole[0].journal.records.values()}
    assert seeds.items() <= before.items() and len(set(seeds.values())) == 12
    assert not folder.journal.records.keys() & whole[0].journal.records.keys()


def test_dry_run_says_what_would_run_and_makes_nothing(tmp_path):
    folder, printed = evaluate(tmp_path / "e", dry_run=True)
    assert folder is None and not (tmp_path / "e").exists()
    assert "12 of 200" in printed and "6,528" in printed  # 12 x 4 x 136
    assert "As the model reads it" in printed or "as the model reads it:\nQ " in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --bench, such as --bench aime24,math500"),
        (["--bench", "aime23"], "'aime23' is no benchmark: there are aime24"),
        (["--bench", "world", "--regrade", "x"], "or --regrade DIR, without it"),
        (["--bench", "world", "--model", "nowhere"], "model nowhere is not there"),
        (["--bench", "world", "--samples", "0"], "--samples 0: give a number from 1"),
        (["--bench", "world", "--temperature", "-1"], "--temperature -1.0: give a number from 0"),
        (["--bench", "world", "--seed", "-1", "--dry-run"], "--seed -1: it must be 0 or more"),
        (["--bench", "world", "--top-p", "0"], "--top-p 0.0: give a number above 0"),
        (["--bench", "world", "--temperature", "0", "--samples", "2"], "--temperature 0 gives 2 times the same sample"),
        (["--bench", "world", "--template", "chat"], "--template chat: choose from tokenizer"),
        (["--bench", "world", "--grader", "lufy"], "--grader lufy: choose from own, reference, luffy"),
        (
            ["--bench", "world", "--engine", "sglang"],
            "--engine sglang: choose from auto, torch, transformers, vllm, server",
        ),
        (["--bench", "world", "--engine", "server"], "--engine server and --base-url"),
        (["--bench", "world", "--engine", "vllm"], "vLLM is not installed"),
        (["--bench", "world", "--slots", "0"], "--slots 0: give a number of at least 1"),
        (["--bench", "world", "--max-tokens", "600"], "world_test: the longest prompt has 11 tokens, and 600 more"),
        (["--regrade", "nowhere"], "nowhere holds no evaluation"),
        (["--regrade", "x", "--dry-run"], "--regrade x only grades again what was drawn: leave out --dry-run"),
        (["--regrade", "x", "--seed", "0", "--top-p", "0.9"], "was drawn: leave out --seed, --top-p"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = [] if "--model" in arguments or "--regrade" in arguments[:1] else ["--model", "world"]
    done = invoke("eval", *arguments, *model)
    assert done.exit_code == 2, done.output
    assert message in done.output and done.output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_math_benchmark_needs_a_template_and_a_context(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"problem": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(30)]
    (tmp_path / "aime24.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(run.benchmarks, "BENCHMARKS", run.benchmarks.BENCHMARKS | {})
    aime = run.benchmarks.BENCHMARKS["aime24"]
    monkeypatch.setitem(run.benchmarks.BENCHMARKS, "aime24", replace(aime, content_hash=None))
    common = ["--bench", "aime24", "--model", "world", "--data-dir", tmp_path, "--out", tmp_path / "e"]
    done = invoke("eval", *common)
    assert done.exit_code == 2 and f"{world.BASE} has no chat template: choose another with --template" in done.output
    done = invoke("eval", *common, "--template", "raw")
    assert done.exit_code == 2 and re.search(r"set --max-tokens to at most \d+", done.output)
    done = invoke("eval", *common, "--template", "raw", "--max-tokens", 8, "--limit", 2)
    assert done.exit_code == 0, done.output
    data = EvalFolder(tmp_path / "e").record()["data"]["aime24"]
    assert data["source"] == str(tmp_path / "aime24.jsonl")
    assert data["hash"] == run.benchmarks.content_hash(run.benchmarks.load("aime24", tmp_path))
    prompt = data["first prompt"]
    assert prompt.startswith("What is 0 + 0?") and prompt.rstrip().endswith("\\boxed{}.")
    result = EvalFolder(tmp_path / "e").record()["results"]["aime24"]
    assert (result["questions"], result["samples"], result["statuses"]["no_box"]) == (2, 32, 1.0)
    assert "reference avg@n" in result and "[warning] aime24: " in done.output  # cut off


def test_the_newest_run_and_its_alpha_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="runs/ holds no finished run"):
        models.newest_run(tmp_path / "runs")
    for i, name in enumerate(("old", "new")):
        final = tmp_path / "runs" / name / "final"
        shutil.copytree(world.BASE, final)
        record = {"recipe": "trapo", "model": "world", "data": "world:steps=2-3", "method": {"alpha": 0.1 + i}}
        (final.parent / "run.json").write_text(json.dumps(record))
        time.sleep(0.02)
    (tmp_path / "runs" / "new" / "final" / "config.json").touch()
    (tmp_path / "runs" / "unfinished").mkdir()
    assert models.newest_run(tmp_path / "runs") == tmp_path / "runs" / "new" / "final"
    done = invoke("eval", "--bench", "world", "--limit", 2, "--out", tmp_path / "e")
    assert done.exit_code == 0, done.output
    assert "new, alpha 1.1" in done.output
    record = EvalFolder(tmp_path / "e").record()
    assert record["model"]["alpha"] == 1.1 and record["model"]["run"]["folder"] == "new"
    assert read_settings(tmp_path / "e" / "accuracy.png")["alpha"] == 1.1
    assert len(record["data"]["world_test"]["first prompt"].split()) == 2 + 2 + 1  # Q, start, two or three steps, A
    assert models.run_of(tmp_path / "runs/new/checkpoints/sft/checkpoint-3")["weights"] == "checkpoint-3"
    assert fingerprint(final) == fingerprint(world.BASE)
    assert models.locate(str(final)).label == "new" and models.locate(str(world.BASE)).label == "base"


def test_warnings_name_what_a_number_hides():
    statuses = {"correct": 0.4, "wrong": 0.4, "no_box": 0.0, "timeout": 0.15, "error": 0.05}
    result = {"all samples equal": True, "truncated": 0.3, "statuses": statuses, "ended by the wall clock": 3}
    equal, cut, failed, late = report.warnings({"aime24": result})
    assert late == "aime24: the wall clock ended the grading of 3 samples: --regrade on a quiet machine"
    assert "the server ignores seeds" in equal and "30.0% of the samples were cut off" in cut
    assert "20.0% of the answers could not be graded" in failed
    fine = {"all samples equal": False, "truncated": 0.01, "ended by the wall clock": 0}
    fine |= {"statuses": statuses | {"timeout": 0.0, "error": 0.0}}
    assert report.warnings({"aime24": fine}) == []
