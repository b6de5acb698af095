"""Run folders as tables, groups, figures and the report, on folders made by hand."""

import base64
import gzip
import json
import math
import re

import pytest
import transformers
import yaml
from run_folders import EVIL, make_run, write
from typer.testing import CliRunner

from trapo.plotting import read_settings
from trapo.runs.intervals import held_out as held_out_interval
from trapo.runs.intervals import mean_interval
from trapo_analysis import figures, report, scores
from trapo_analysis.figure_parts import held_out_by_step
from trapo_analysis.runs import cost, evaluations, find, held_out, results, settings, steps, varying
from trapo_analysis.seeds import groups, reference
from trapo_cli.cli import app


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


def test_runs_of_the_same_name_are_told_apart(sweep, tmp_path):
    for seed in (0, 1):  # the same point in another sweep, of another setting
        make_run(tmp_path / "other" / "sweep" / f"alpha=0.1,seed={seed}", seed=seed, learning_rate=1.0)
    runs = find([sweep, tmp_path / "other" / "sweep"])
    root = tmp_path.name
    assert [run.name for run in runs] == [
        *(f"alpha=0.01,seed={s}" for s in (0, 1)), *(f"{root}/sweep/alpha=0.1,seed={s}" for s in (0, 1)),
        *(f"alpha=1.0,seed={s}" for s in (0, 1)), *(f"other/sweep/alpha=0.1,seed={s}" for s in (0, 1)),
    ]  # fmt: skip
    with figures.style():
        fig, _ = figures.cost(groups(runs))
    assert [len(line.get_xdata()) for line in fig.axes[0].lines] == [2, 2, 2, 2]  # each run in its own group


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
    rollouts = (begun / "rollouts.jsonl").read_text()
    (begun / "rollouts.jsonl").write_text(rollouts.replace("-9.0", "NaN"))  # its loss was no number any more
    before = {"reward": 0.1, "samples": 100}
    runs = find([sweep])
    with pytest.warns(UserWarning, match="torn last line 2 was dropped"):
        table = steps(runs)
    assert len(table) == 24 + 1 + 1 and table[table.run == "old"]["reward/plain"].isna().all()
    assert len(results(runs)) == 7 and runs[-1].seed is None and runs[-1].alpha is None
    with pytest.warns(UserWarning, match="torn"):
        made = report.make([sweep], tmp_path / "r.html", "trapo report sweep")
    page = page_of(made)
    assert len(page["settings"]["runs"]) == 8
    nan = page["rollouts"]["runs"].index("begun")
    columns = page["rollouts"]["columns"]
    assert {p for run, p in zip(columns["run"], columns["own p"], strict=True) if run == nan} == {"950"}
    # The same seed draws the same before training: the base's interval is that of as many seeds as there are.
    assert page["bases"][0]["sets"]["test"]["low"] == pytest.approx(held_out_interval([before] * 2).low, abs=1e-6)


def test_runs_without_held_out_sets_have_a_report(tmp_path):
    for alpha in (0.1, 0.3, 1.0):
        (make_run(tmp_path / "s" / str(alpha), alpha=alpha) / "evals.jsonl").unlink()
    page = page_of(report.make([tmp_path / "s"], tmp_path / "r.html", "trapo report s"))
    assert [figure["name"] for figure in page["figures"]] == ["learning", "guided", "probability", "seconds"]
    assert [row["sets"] for row in page["results"]] == [{}, {}, {}] and page["bases"] == []
    assert len(page["curves"]["reward/plain"]["lines"]) == 3 and page["rollouts"]["shown"] == 3 * 32


def test_groups_are_what_differs_besides_the_seed(sweep, tmp_path):
    assert [group.label for group in groups(find([sweep]))] == ["alpha 0.01", "alpha 0.1", "alpha 1"]
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
        "GRPO, learning rate 1",
        "SFT, learning rate 0.0001",
        "TRAPO, learning rate 0.0001",
    ]


@pytest.mark.parametrize("recipes", [("trapo", "trapo"), ("trapo", "grpo")])
@pytest.mark.parametrize("name", ["model", "data"])
def test_runs_on_other_models_or_data_are_other_groups(name, recipes, tmp_path):
    for where, recipe, first in zip(("a/one", "b/two"), recipes, (0.1, 0.3), strict=True):
        for seed in (0, 1):
            folder = make_run(tmp_path / "s" / f"{where[2:]},seed={seed}", recipe=recipe, seed=seed)
            record = json.loads((folder / "run.json").read_text())
            (folder / "run.json").write_text(json.dumps(record | {name: where}))
            evals = [json.loads(line) for line in (folder / "evals.jsonl").read_text().splitlines()]
            write(folder / "evals.jsonl", [r | {"reward": first} if r["step"] == 0 else r for r in evals])
    runs = find([tmp_path / "s"])
    assert varying(runs) == [name] and list(settings(runs)[name]) == ["a/one", "a/one", "b/two", "b/two"]
    together = groups(runs)
    methods = ("TRAPO, ", "GRPO, ") if "grpo" in recipes else ("", "")
    labels = [f"{method}{name} {where}" for method, where in zip(methods, ("one", "two"), strict=True)]
    assert [(group.label, len(group.runs)) for group in together] == [(label, 2) for label in labels]
    page = page_of(report.make([tmp_path / "s"], tmp_path / "r.html", "trapo report s"))
    assert [base["sets"]["test"]["mean"] for base in page["bases"]] == [0.1, 0.3]
    assert page["bases"][0]["label"] == {"model": "base a/one on world", "data": "base world on a/one"}[name]
    with figures.style():
        fig, _ = figures.accuracy(together)
    assert [text.get_text() for text in fig.axes[0].get_yticklabels()] == labels[::-1]  # no mean of two bases


def test_intervals_by_hand(sweep):
    assert mean_interval([0.5]) == (0.5, pytest.approx(math.nan, nan_ok=True), pytest.approx(math.nan, nan_ok=True))
    mean, _, high = mean_interval([0.4, 0.5, 0.6])
    assert (mean, high - mean) == (pytest.approx(0.5), pytest.approx(4.302653 * 0.1 / math.sqrt(3), abs=1e-6))
    a, b, c = groups(find([sweep]))
    found = scores.scores(b)["test"]
    assert (found.after.value, found.before.value) == (pytest.approx(0.6), 0.1)
    # Two seeds, .5 and .7: one degree of freedom, 12.7 x .1 to both sides, which is all that a share can be.
    assert (found.after.low, found.after.high) == (0, 1)
    assert (found.before.low, found.before.high) == pytest.approx((0.0552, 0.1744), abs=1e-4)  # Wilson, 10 of 100
    assert reference([a, b, c]) is b and reference([a, c]) is a  # the paper's alpha, else the first
    first, second = scores.paired([a, b, c])
    assert first["label"] == "alpha 0.01" and first["each"] == pytest.approx([-0.2, -0.3])
    assert first["difference"] == pytest.approx(-0.25)
    assert first["high"] + 0.25 == pytest.approx(12.7062 * 0.05, abs=1e-3)  # t(.975, 1) sd / sqrt(2)
    assert second["each"] == pytest.approx([0.1, -0.1]) and second["pairs"] == 2
    # Two pairs on one side: p is 2 of 4 flips, doubled by Holm; the rule needs 7 seeds for two comparisons.
    assert (first["p"], first["p (Holm)"], first["says"], first["needed"]) == (0.5, 1.0, "can't tell", 7)
    assert first["detectable"] == math.inf and second["p"] == 1 and first["undelivered"] == 0
    assert first["forgetting"] == 0 and math.isnan(first["forgetting low"])  # equal pairs: no error to be had
    assert scores.forgetting(a) == pytest.approx(-0.1)  # facts .9, then .8


def test_a_sweeps_order_is_kept(sweep):
    names = [f"alpha={alpha},seed={seed}" for alpha in ("1.0", "0.01", "0.1") for seed in (1, 0)]
    (sweep / "sweep.json").write_text(json.dumps({"points": {name: [] for name in names}}))
    assert [run.name for run in find([sweep])] == names
    assert [run.name for run in find([sweep.parent])] == [f"sweep/{name}" for name in names]


def test_steps_of_a_second_stage_follow_the_firsts(tmp_path):
    folder = make_run(tmp_path / "s" / "both", n=2)
    for name in ("metrics.jsonl", "evals.jsonl"):
        rl = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        sft = [record | {"stage": "sft", "reward": 0.0} for record in rl]
        write(folder / name, sft + [record for record in rl if record["step"]])
    (group,) = groups(find([tmp_path / "s"]))
    assert steps(list(group.runs))["at"].tolist() == [1, 2, 3, 4]
    curve = held_out_by_step(group)
    assert curve["mean"].to_dict() == {0: 0.0, 2: 0.0, 4: 0.5}  # not .25 at 2, of both stages
    assert held_out_by_step(group, main=False)["mean"].to_dict() == {0: 0.0, 2: 0.0, 4: 0.8}


def test_prefixes_have_their_sweeps_names(tmp_path):
    for i, flags in enumerate(({}, {"prefix_ratios": [0.0, 0.1, 0.25, 0.5]}, {"thresholds": [-1.0, 0.01, 0.01, 0.01]})):
        guidance = dict.fromkeys(("micro_group_sizes", "prefix_ratios", "thresholds")) | flags
        make_run(tmp_path / "s" / str(i), reward=i / 10, **guidance)
    together = groups(find([tmp_path / "s"]))
    assert [group.label for group in together] == ["paper", "short prefixes", "only where all fail"]
    assert "axis" in figures.draw(together, tmp_path / "figures", "trapo report s")
    make_run(tmp_path / "s" / "own", **dict.fromkeys(("micro_group_sizes", "thresholds")), prefix_ratios=[0.0, 0.3])
    labels = [group.label for group in groups(find([tmp_path / "s"]))]
    assert (
        labels[1] == "ratios 0 0.1 0.25 0.5, thresholds preset's" and labels[3] == "ratios 0 0.3, thresholds preset's"
    )


def test_a_figure_of_all_methods_has_room_for_them(tmp_path):
    for recipe in ("trapo", "grpo", *(f"own-{i}" for i in range(20))):
        make_run(tmp_path / "s" / recipe, recipe=recipe, alpha=0.1 if recipe == "trapo" else None)
    together = groups(find([tmp_path / "s"]))
    with figures.style():
        for drawer in (figures.learning_curves, figures.guided_share, figures.expert_probability, figures.cost):
            fig, _ = drawer(together)
            fig.draw_without_rendering()  # matplotlib warns, and the suite fails, where axes collapse to nothing
            legend = fig.legends[0].get_window_extent()
            for ax in fig.axes:
                assert ax.get_window_extent().height > 80 and not legend.overlaps(ax.get_tightbbox())
            assert legend.x1 <= fig.bbox.x1 and legend.y1 <= fig.bbox.y1


@pytest.mark.filterwarnings("error:constrained_layout not applied")
def test_figures_of_a_single_run_have_room(tmp_path):
    make_run(tmp_path / "run")
    with figures.style():
        for drawer in (figures.accuracy, figures.seconds):
            fig, _ = drawer(groups(find([tmp_path / "run"])))
            fig.draw_without_rendering()
            assert fig.axes[0].get_window_extent().height > 10


def evaluated(run, temperature=0.6, **values):
    """Write an evaluation beside a run: benchmark -> avg@n."""
    results = {
        name: {"questions": 30, "samples": 4, "pass@k": {"ks": [1, 4], "value": [value, 0.9], "low": [0, 0],
               "high": [1, 1]},
               "avg@n": {"value": value, "low": value - 0.1, "high": value + 0.1, "se_questions": 0.05}}
        for name, value in values.items()
    }  # fmt: skip
    (run / "eval").mkdir(parents=True)
    rest = {"settings": {"temperature": temperature, "top_p": 1.0}, "model": {}, "data": {}}
    (run / "eval" / "eval.json").write_text(json.dumps({"results": results} | rest))


def test_published_numbers_stand_beside_ours_as_unchecked(sweep, tmp_path):
    five = dict(zip(figures.FIVE, (0.1, 0.2, 0.3, 0.4, 0.5), strict=True))
    evaluated(sweep / "alpha=0.1,seed=0", **five, gpqa=0.2)
    evaluated(sweep / "alpha=0.1,seed=1", aime24=0.3)
    with figures.style():
        fig, caption = figures.published(groups(find([sweep])))
    assert [ax.get_title() for ax in fig.axes] == [*figures.FIVE, "average of five"]
    ours = fig.axes[0].patches[0]
    assert fig.axes[0].get_yticklabels()[0].get_text() == "alpha 0.1" and ours.get_width() == pytest.approx(0.2)
    assert fig.axes[-1].patches[0].get_width() == pytest.approx(0.3)  # of the run that has all five
    names = [label.get_text() for label in fig.axes[-1].get_yticklabels()]
    assert "TRAPO, published, unchecked" in names and "micro-groups + SFT, published, unchecked" in names
    assert "T 0.6" in caption["ours"] and "arXiv 2512.17636" in caption["hatched"]


def test_evaluations_stand_beside_the_base(sweep, tmp_path):
    evaluated(sweep / "base", world_test=0.1, world_facts=0.9)
    evaluated(sweep / "alpha=0.1,seed=0", world_test=0.5, world_facts=0.7)
    found = page_of(report.make([sweep], tmp_path / "r.html", "trapo report"))["evaluations"]
    assert found["benchmarks"] == ["world_test", "world_facts"]
    assert [row["label"] for row in found["rows"]] == ["base model", "alpha=0.1,seed=0"]
    assert found["rows"][1]["forgetting"] == pytest.approx(-0.2) and found["rows"][0]["forgetting"] == 0
    assert found["rows"][1]["cells"]["world_test"]["pass@n"] == 0.9


def test_figures_say_their_settings(sweep, tmp_path):
    made = figures.draw(groups(find([sweep])), tmp_path / "figures", "trapo report sweep")
    assert set(made) == {"learning", "guided", "probability", "accuracy", "axis", "differences", "cost", "seconds"}
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


def test_a_run_that_names_no_model_asks_for_no_tokenizer(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda folder: asked.append(folder))
    make_run(tmp_path / "s" / "begun", finished=False)  # its run.json has no model_path
    page = page_of(report.make([tmp_path / "s"], tmp_path / "r.html", "trapo report s"))
    assert asked == [] and page["rollouts"]["words"] == [{str(i): f"[{i}]" for i in range(1, 6)}]


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [
        *((package, "report", "analysis") for package in ("pandas", "scipy", "plotly", "matplotlib")),
        ("plotly", "sweep", "analysis"),
        ("lm_eval", "sweep", "evals"),
        ("scipy", "compare", "evals"),
    ],
)
def test_a_missing_extra_is_one_line_before_any_work(package, command, extra, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trapo.command.errors.find_spec", lambda name: None if name == package else name)
    done = CliRunner().invoke(app, [command, "alpha", *["beta"] * (command == "compare")])
    assert done.exit_code == 2
    assert done.output == f"error: trapo {command} needs {package}: pip install 'trapo[{extra}]'\n"


def test_the_report_holds_everything(sweep, tmp_path):
    done = CliRunner().invoke(app, ["report", str(sweep), "--out", str(tmp_path / "r.html")])
    assert done.exit_code == 0 and "r.html" in done.output and "MiB" in done.output
    text, page = (tmp_path / "r.html").read_text(), page_of(tmp_path / "r.html")
    assert "https://" not in text.split("<script>")[0] and EVIL not in text
    assert [method["label"] for method in page["methods"]] == ["alpha 0.01", "alpha 0.1", "alpha 1"]
    assert page["results"][1]["sets"]["test"]["mean"] == pytest.approx(0.6)
    assert page["settings"]["differing"] == 3  # alpha, seed, output_dir
    assert page["ledger"][0]["samples"] == 224 and page["ledger"][0]["expert tokens"] == 80
    assert page["curves"]["reward/plain"]["lines"][0]["x"] == [1, 2, 3, 4]
    rollouts = page["rollouts"]
    columns = rollouts["columns"]
    assert rollouts["shown"] == rollouts["of"] == len(columns["run"]) == 6 * 32 and len(rollouts["prompts"]) == 2
    row = next(i for i in range(192) if columns["sample"][i] == 4)
    assert columns["prefix p"][row] == "09" and columns["prefix w"][row] == "59" and columns["own p"][row] == "950"
    assert (
        columns["kind"][row] == 1
        and columns["finish"][row] == "s"
        and rollouts["words"] == [{str(i): f"[{i}]" for i in range(1, 6)}]
    )
    twin = next(i for i in range(192) if columns["sample"][i] == 5)
    assert columns["prefix p"][twin] == "09"  # its prefix is sample 4's, which was trained for both
    few = report.make([sweep], tmp_path / "few.html", "trapo report", rollouts=100)
    assert page_of(few)["rollouts"]["shown"] == 96 and len(page_of(few)["rollouts"]["prompts"]) == 1


def test_a_report_that_cannot_be_made_is_one_line(sweep, tmp_path):
    damaged = []
    for name, text, what in (
        ("list", "[1]", "no run's record"),
        ("part", '{"config": 3}', "no run's record"),
        ("torn", '{"recipe": ', "not JSON"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
        damaged.append((tmp_path / name, what))
    for arguments, message in (
        ([str(tmp_path / "none")], "holds no run"),
        ([str(sweep), "--out", str(tmp_path)], "give a file in a folder that exists"),
        *(([str(path)], f"{path / 'run.json'} is {what}") for path, what in damaged),
    ):
        done = CliRunner().invoke(app, ["report", *arguments])
        assert done.exit_code == 2 and message in done.output and done.output.count("\n") == 1
