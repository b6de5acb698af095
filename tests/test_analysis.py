"""Run folders as tables, groups, figures and the report, on folders made by hand."""

import base64
import gzip
import json
import math
import re

import pytest
import yaml
from typer.testing import CliRunner

from trapo.figure import read_settings
from trapo_analysis import figures, report
from trapo_analysis.groups import groups, mean_interval
from trapo_analysis.runs import cost, evaluations, find, held_out, results, settings, steps, varying
from trapo_cli.cli import app

EVIL = "<script>window.evil = 1</script><img src=x onerror='window.evil = 2'>"


def make_run(path, recipe="trapo", alpha=0.1, seed=0, reward=0.5, n=4, finished=True, **config):
    """A run folder of n steps; its last held-out accuracy is `reward`, of 100 problems."""
    path.mkdir(parents=True)
    fields = {"output_dir": str(path), "seed": seed, "alpha": alpha, "learning_rate": 1e-4, "max_steps": n} | config
    record = {"recipe": recipe, "model": "world", "data": "world", "method": {"alpha": alpha}, "config": fields}
    (path / "run.json").write_text(json.dumps(record | {"command": ["trapo", "train"], "versions": {"torch": "2"}}))
    metrics = [
        {"stage": "rl", "step": i, "reward/plain": i / 10, "reward/guided": 0.5, "entropy": math.log(2),
         "expert/p": 0.25,
         "length/own": 10.0, "guided/micro_group_1": 1.0, "tokens/rollout": 100.0, "tokens/aborted": 1.0,
         "tokens/expert": 20.0, "tokens/update": 150.0, "seconds/step": 2.0, "seconds/rollout": 1.0,
         "seen/samples": 56 * i, "seen/demonstrations": 8 * i}
        for i in range(1, n + 1)
    ]  # fmt: skip
    write(path / "metrics.jsonl", metrics)
    evals = [(0, "test", 0.1), (0, "facts", 0.9), (n, "test", reward), (n, "facts", 0.8)]
    write(
        path / "evals.jsonl", [{"stage": "rl", "step": s, "set": k, "reward": r, "samples": 100} for s, k, r in evals]
    )
    rollouts = [
        {"stage": "rl", "step": i, "prompt_id": f"p{i % 2}", "sample": k, "micro_group": k // 4,
         "prefix_ratio": 0.5 * (k > 3),
         "reward": float(k % 2), "advantage": 0.5, "status": ["wrong", "correct"][k % 2],
         "finish": "length" if k == 0 else "stop", "prompt": f"What is {i % 2}? {EVIL}", "prefix": "", "own": EVIL,
         "prefix_ids": [1, 2] if k > 3 else [], "own_ids": [3, 4, 5], "own_logprobs": [0.0, math.log(0.55), -9.0]}
        for i in range(1, n + 1) for k in range(8)
    ]  # fmt: skip
    write(path / "rollouts.jsonl", rollouts)
    prefixes = [
        {
            "stage": "rl",
            "step": i,
            "rollout": i,
            "prompt_id": f"p{i % 2}",
            "sample": 4,
            "p": [0.05, 1.0],
            "w": [0.5, 1.0],
        }
        for i in range(1, n + 1)
    ]
    write(path / "prefixes.jsonl", prefixes)
    if finished:
        (path / "final").mkdir()
    return path


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def page_of(path):
    """The data in a report."""
    found = re.search(r'<script id="data" type="application/octet-stream">(.*?)</script>', path.read_text(), re.S)
    return json.loads(gzip.decompress(base64.b64decode(found[1])))


@pytest.fixture
def sweep(tmp_path):
    """Three alphas of two seeds, accuracies .3 .4, .5 .7, .6 .6."""
    for alpha, rewards in ((0.01, (0.3, 0.4)), (0.1, (0.5, 0.7)), (1.0, (0.6, 0.6))):
        for seed, reward in enumerate(rewards):
            make_run(tmp_path / "sweep" / f"alpha={alpha},seed={seed}", alpha=alpha, seed=seed, reward=reward)
    return tmp_path / "sweep"


def test_runs_are_found_in_sweeps_once(sweep, tmp_path):
    runs = find([sweep, sweep / "alpha=0.1,seed=0"])
    assert [run.name for run in runs] == [f"alpha={a},seed={s}" for a in ("0.01", "0.1", "1.0") for s in (0, 1)]
    assert [run.alpha for run in runs[::2]] == [0.01, 0.1, 1.0] and all(run.finished for run in runs)
    assert find([sweep / "alpha=0.1,seed=0"])[0].name == "alpha=0.1,seed=0"
    with pytest.raises(ValueError, match="holds no run"):
        find([tmp_path / "nothing"])


def test_tables_are_tidy(sweep):
    runs = find([sweep])
    assert varying(runs) == ["alpha"]
    assert list(settings(runs).columns) == ["run", "recipe", "alpha", "seed", "model", "data", "finished"]
    table = steps(runs)
    assert len(table) == 24 and table["reward/plain"].sum() == pytest.approx(6 * 1.0) and set(table.stage) == {"rl"}
    table = held_out(runs)
    assert len(table) == 24
    last = table[(table.run == "alpha=0.1,seed=1") & (table.set == "test") & (table.step == 4)].iloc[0]
    assert (
        last.reward == 0.7
        and last.low == pytest.approx(0.6042, abs=1e-4)
        and last.high == pytest.approx(0.7811, abs=1e-4)
    )
    table = results(runs).set_index("run")
    assert table.test.tolist() == [0.3, 0.4, 0.5, 0.7, 0.6, 0.6] and set(table["before test"]) == {0.1}
    assert set(table.facts) == {0.8} and set(table["before facts"]) == {0.9}
    assert cost(runs[0]) == {
        "samples": 224, "demonstrations": 32, "drawn tokens": 400.0, "aborted tokens": 4.0, "expert tokens": 80.0,
        "update tokens": 600.0, "seconds": 8.0, "seconds rollout": 4.0, "seconds grading": 0.0, "seconds update": 0.0,
    }  # fmt: skip
    assert len(evaluations(runs)) == 0


def test_folders_that_are_not_whole(sweep, tmp_path):
    begun = make_run(sweep / "begun", n=2, seed=7, finished=False)
    (begun / "evals.jsonl").unlink()
    metrics = (begun / "metrics.jsonl").read_text()
    (begun / "metrics.jsonl").write_text(metrics[:-20])  # killed while it wrote
    old = make_run(sweep / "old", seed=8)  # of a version that logged less
    write(old / "metrics.jsonl", [{"stage": "rl", "step": 1, "entropy": 0.1}])
    (old / "run.json").write_text(json.dumps({"recipe": "trapo"}))
    (old / "rollouts.jsonl").unlink()
    runs = find([sweep])
    with pytest.warns(UserWarning, match="torn last line 2 was dropped"):
        table = steps(runs)
    assert len(table) == 24 + 1 + 1 and table[table.run == "old"]["reward/plain"].isna().all()
    assert len(results(runs)) == 7 and runs[-1].seed is None and runs[-1].alpha is None
    with pytest.warns(UserWarning, match="torn"):
        made = report.make([sweep], tmp_path / "r.html", "trapo report sweep")
    assert len(page_of(made)["settings"]["runs"]) == 8


def test_groups_are_what_differs_besides_the_seed(sweep, tmp_path):
    assert [group.label for group in groups(find([sweep]))] == ["alpha 0.01", "alpha 0.1", "alpha 1.0"]
    for recipe, alpha, extra in (
        ("trapo", 0.1, {}),
        ("grpo", None, {"guidance": "none"}),
        ("sft", None, {"stages": ["sft"]}),
    ):
        for seed in (0, 1):
            make_run(tmp_path / "methods" / f"{recipe}{seed}", recipe=recipe, alpha=alpha, seed=seed, **extra)
    made = {group.label: group for group in groups(find([tmp_path / "methods"]))}
    assert made.keys() == {"TRAPO", "GRPO", "SFT"} and made["TRAPO"].color == "#0072B2"  # the method's own
    make_run(tmp_path / "methods" / "grpo2", recipe="grpo", alpha=None, guidance="none", learning_rate=1.0)
    labels = [group.label for group in groups(find([tmp_path / "methods"]))]
    assert labels == [
        "GRPO, learning rate 0.0001",
        "GRPO, learning rate 1.0",
        "SFT, learning rate 0.0001",
        "TRAPO, learning rate 0.0001",
    ]


def test_intervals_by_hand(sweep):
    assert mean_interval([0.5]) == (0.5, pytest.approx(math.nan, nan_ok=True), pytest.approx(math.nan, nan_ok=True))
    mean, low, high = mean_interval([0.4, 0.5, 0.6])
    assert (mean, high - mean) == (pytest.approx(0.5), pytest.approx(4.302653 * 0.1 / math.sqrt(3), abs=1e-6))
    a, b, c = groups(find([sweep]))
    mean, low, high, before = figures.scores(b)["test"]
    assert (mean, before) == (pytest.approx(0.6), 0.1)
    assert (low, high) == (pytest.approx(0.5309, abs=1e-4), pytest.approx(0.6653, abs=1e-4))  # Wilson, 120 of 200
    first, second = figures.paired([a, b, c])
    assert first["each"] == pytest.approx([0.2, 0.3]) and first["difference"] == pytest.approx(0.25)
    assert first["high"] - 0.25 == pytest.approx(12.7062 * 0.05, abs=1e-3)  # t(.975, 1) sd / sqrt(2)
    assert second["each"] == pytest.approx([0.3, 0.2]) and second["pairs"] == 2
    # t = .25 / .05 with one degree of freedom: p = 2 (1/2 - atan(5) / pi); Holm doubles the smaller of two.
    assert first["p"] == pytest.approx(1 - 2 * math.atan(5) / math.pi) and first["p (Holm)"] == pytest.approx(
        2 * first["p"]
    )


def test_figures_say_their_settings(sweep, tmp_path):
    made = figures.draw(groups(find([sweep])), tmp_path / "figures", "trapo report sweep")
    assert set(made) == {"learning", "guided", "probability", "accuracy", "axis", "differences", "cost"}
    for path in made.values():
        found = read_settings(path)
        assert found["alpha"] == [0.01, 0.1, 1.0] and found["seeds"] == [0, 1] and found["learning_rate"] == 1e-4
    with pytest.raises(ValueError, match="do not say alpha"):
        figures.save_figure(*[None, tmp_path / "x.png", {"methods": ["trapo"]}, "trapo report"])


def test_published_numbers_have_sources():
    entries = figures.published_numbers()
    assert entries == yaml.safe_load((report.TEMPLATE.parent / "published.yaml").read_text())
    for entry in entries:
        assert re.search(r"arXiv \d{4}\.\d{5}", entry["source"]) and entry["checked"] in (True, False)
        assert all(0 < score < 100 for score in entry["scores"].values())


def test_the_report_holds_everything(sweep, tmp_path):
    done = CliRunner().invoke(app, ["report", str(sweep), "--out", str(tmp_path / "r.html")])
    assert done.exit_code == 0 and "r.html" in done.output and "MiB" in done.output
    text, page = (tmp_path / "r.html").read_text(), page_of(tmp_path / "r.html")
    assert "https://" not in text.split("<script>")[0] and EVIL not in text
    assert [method["label"] for method in page["methods"]] == ["alpha 0.01", "alpha 0.1", "alpha 1.0"]
    assert page["results"][1]["sets"]["test"]["mean"] == pytest.approx(0.6)
    assert page["settings"]["differing"] == 3  # alpha, seed, output_dir
    assert page["ledger"][0]["samples"] == 224 and page["ledger"][0]["expert tokens"] == 80
    assert page["curves"]["reward/plain"]["lines"][0]["x"] == [1, 2, 3, 4]
    rollouts = page["rollouts"]
    columns = rollouts["columns"]
    assert rollouts["shown"] == rollouts["of"] == len(columns["run"]) == 6 * 32 and len(rollouts["prompts"]) == 2
    row = next(i for i in range(192) if columns["sample"][i] == 4)
    assert columns["prefix p"][row] == "09" and columns["prefix w"][row] == "59" and columns["own p"][row] == "950"
    assert columns["kind"][row] == 1 and columns["finish"][row] == "s" and rollouts["words"]["3"] == "[3]"
    few = report.make([sweep], tmp_path / "few.html", "trapo report", rollouts=100)
    assert page_of(few)["rollouts"]["shown"] == 96 and len(page_of(few)["rollouts"]["prompts"]) == 1


def test_a_report_that_cannot_be_made_is_one_line(sweep, tmp_path):
    for arguments, message in (
        ([str(tmp_path / "none")], "holds no run"),
        ([str(sweep), "--out", str(tmp_path)], "give a file in a folder that exists"),
    ):
        done = CliRunner().invoke(app, ["report", *arguments])
        assert done.exit_code == 2 and message in done.output and done.output.count("\n") == 1
