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
from trapo_evals import compare, figures, models, report
from trapo_evals import evaluate as run
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


# ---------------------------------------------------------------- comparing


def folder_of(path, shares, alpha=None, temperature=1.0):
    """A finished evaluation of questions q0, q1, ... with 2 samples each, of which `shares` are correct."""
    path.mkdir()
    lines = [
        {"key": f"{i}{k}", "task": "math500", "question": f"q{i}", "index": k, "status": status}
        | {"tokens": 3, "finish": "stop"}
        for i, share in enumerate(shares)
        for k, status in enumerate(["correct"] * share + ["wrong"] * (2 - share))
    ]
    value = sum(shares) / 2 / len(shares)
    folder = EvalFolder(path)
    folder.write_lines("graded.jsonl", lines)
    settings = {"temperature": temperature, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "template": "raw", "seed": 0}
    average = {"value": value, "low": max(value - 0.1, 0), "high": min(value + 0.1, 1)}
    said = {"prompts": "x", "hash": "h", "first prompt": "?"}
    folder.write(
        {
            "settings": settings | {"engine": "torch", "dtype": "float32"},
            "model": {"label": path.name, "content": path.name, "alpha": alpha, "run": {}},
            "data": {"math500": {"questions": len(shares), "samples": 2, "max_tokens": 8} | said},
            "results": {"math500": {"avg@n": average, "questions": len(shares), "samples": 2}},
            "environment": {"command": ["trapo", "eval"]},
        }
    )
    return path


def test_a_comparison_by_hand(tmp_path):
    a = folder_of(tmp_path / "a", [0, 1, 1, 2])
    b = folder_of(tmp_path / "b", [2, 2, 1, 1], alpha=0.1)
    c = folder_of(tmp_path / "c", [0, 1, 1, 2, 2], temperature=0.6)
    text = io.StringIO()
    out = compare.run([a, b, c], tmp_path / "out", 0, Console(file=text, width=90))
    found = json.loads((out / "compare.json").read_text())
    first, second, third = found["comparisons"]
    # Differences 1, .5, 0, -.5: their mean is .25; of the 8 sign flips of (1, .5, -.5) |sum| >= 1 in 6.
    assert first["difference"] == 0.25 and (first["wins"], first["ties"], first["losses"]) == (2, 1, 1)
    assert first["p"] == 0.75 and first["p (Holm)"] == 1.0 and first["questions"] == 4
    assert second["difference"] == 0 and second["ties"] == 4 and second["left out"] == 1 and second["se"] is None
    assert found["differing settings"] == ["temperature: 1.0, 1.0, 0.6"]
    assert [(row["first"], row["evaluation"]) for row in (first, second, third)] == [(0, 1), (0, 2), (1, 2)]
    # c minus b: -1, -.5, 0, .5. All at once: no narrower than each alone, and around the difference.
    assert third["difference"] == -0.25 and third["left out"] == 1
    for row in (first, third):
        assert row["all low"] <= row["low"] < row["difference"] < row["high"] <= row["all high"]
        assert row["all high"] + row["all low"] == pytest.approx(2 * row["difference"])
    assert first["all high"] - first["all low"] == pytest.approx(third["all high"] - third["all low"])
    assert second["all low"] is None
    printed = text.getvalue()
    lines = [line.strip() for line in printed.splitlines()]
    places = [next(i for i, line in enumerate(lines) if line.startswith(f"{names}: ")) for names in
              ("2 minus 1", "3 minus 1", "3 minus 2")]  # fmt: skip
    assert places == sorted(places)  # which rows are whose
    assert (
        next(line for line in lines if line.startswith("1: a ")).split()[-1] == "0.500"
    )  # the models beside each other
    assert "+0.250" in printed and "2/1/1" in printed and "no spread" in printed
    assert "[warning] the evaluations differ in more than the model: temperature: 1.0, 1.0, 0.6" in printed
    assert "[warning] math500: 1 questions that only one of them has are left out" in printed
    settings = read_settings(out / "differences.png")
    assert settings["alpha"] == [None, 0.1, None] and (out / "accuracy.png").exists()


def test_a_comparison_of_what_cannot_be_compared(tmp_path):
    a = folder_of(tmp_path / "a", [0, 1])
    record = EvalFolder(a).record()
    for arguments, message in (
        ([a], "takes two folders or more"),
        ([a, tmp_path / "none"], "holds no evaluation"),
        ([a, folder_of(tmp_path / "d", [1, 1]), "--seed", -1], "--seed -1: it must be 0 or more"),
    ):
        done = invoke("compare", *arguments, "--out", tmp_path / "out")
        assert done.exit_code == 2 and message in done.output and done.output.count("\n") == 1
    b = folder_of(tmp_path / "b", [0, 1])
    EvalFolder(b).write({k: v for k, v in record.items() if k != "results"})
    assert "is not finished: run its command again" in invoke("compare", a, b, "--out", tmp_path / "out").output
    c = folder_of(tmp_path / "c", [0, 1])
    EvalFolder(c).write_lines("graded.jsonl", [line | {"task": "aime24"} for line in EvalFolder(c).graded()])
    assert "share no question" in invoke("compare", a, c, "--out", tmp_path / "out").output
    assert not (tmp_path / "out").exists()


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


# ---------------------------------------------------------------- figures


def all_benchmarks(path, label):
    """A finished evaluation of all twelve benchmarks, 33 samples each."""
    names, lines = list(run.benchmarks.BENCHMARKS), []
    for name in names:
        for k in range(4):
            line = {"key": k, "task": name, "question": "q", "index": k, "tokens": 9 + k}
            lines.append(line | {"status": "correct" if k else "wrong", "finish": "stop"})
    folder = EvalFolder(folder_of(path, [1]))
    average = {"value": 0.98, "low": 0.9, "high": 1.0}
    curve = {"ks": [1, 2, 4, 8, 16, 32, 33], "value": [0.5] * 7, "low": [0.4] * 7, "high": [0.6] * 7}
    said = {"prompts": "x", "hash": "h", "first prompt": "?"}
    record = folder.record() | {
        "results": {n: {"avg@n": average, "questions": 30, "samples": 33, "pass@k": curve} for n in names},
        "data": {n: {"questions": 30, "samples": 33, "max_tokens": 8192} | said for n in names},
    }
    record["model"]["label"] = label
    folder.write(record)
    folder.write_lines("graded.jsonl", lines)
    return folder


def test_figures_of_all_benchmarks_show_each_and_keep_their_labels_inside(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(figures, "save_figure", lambda fig, path, *rest: drawn.update({path.stem: fig}) or (path, path))
    folders = [all_benchmarks(tmp_path / name, f"a-model-of-a-long-name-{name}") for name in "ab"]
    figures.draw(folders[0])
    names = list(run.benchmarks.BENCHMARKS)
    for name in ("pass_at_k", "lengths"):
        axes = [ax for ax in drawn[name].axes if ax.get_visible()]
        assert [ax.get_title() for ax in axes] == names
    ticks = [label.get_text() for label in drawn["pass_at_k"].axes[0].get_xticklabels()]
    assert ticks == ["1", "2", "4", "8", "16", "33"]  # 32 would lie on 33
    row = {"first": 0, "evaluation": 1, "all low": -0.1, "all high": 0.1, "difference": 0.0}
    records = [folder.record() for folder in folders]
    figures.draw_comparison(records, [row | {"benchmark": name} for name in names], tmp_path, "trapo compare")
    fig = drawn["differences"]
    fig.draw_without_rendering()
    label = fig.axes[0].xaxis.label.get_window_extent()
    assert label.x0 >= 0 and label.x1 <= fig.bbox.x1
    fig = drawn["accuracy"]
    fig.draw_without_rendering()
    (ax,) = fig.axes
    assert ax.get_legend().get_window_extent().y0 >= ax.get_window_extent().y1  # no bar below it
    assert [label.get_text() for label in ax.get_xticklabels()] == [f"{name}\n30 x 33" for name in names]
