"""The study: its plan, its tables, what they answer, and that figures come from them alone."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from places import ROOT

from trapo.plotting import read_settings
from trapo.recipe import recipe_names
from trapo_analysis.study import costs, figures
from trapo_analysis.study import page as study_page
from trapo_analysis.study import runner as studies
from trapo_analysis.study.results import Question, Results, together
from trapo_cli.cli import job_maker

PLAN = ROOT / "analysis" / "study" / "study.yaml"
RESULTS = ROOT / "docs" / "results"


@pytest.fixture
def study(tmp_path):
    return studies.Study(PLAN, tmp_path / "runs", tmp_path / "results")


def trial(recipe, phase, rate, tune):
    return {"recipe": recipe, "phase": phase, "field": "learning_rate", "rate": rate, "tune": tune}


def test_every_cell_is_a_training_that_can_run_within_its_budget(study):
    for cell in (*study.cells.values(), *study.ideas):
        command = shlex.split(study.command(study.point(cell, 1)))
        config = job_maker().config_of_flags(command[2:])
        assert config.seed == 1 and config.report_to in ("none", [])
        samples = config.max_steps * config.generation_batch_size // config.num_iterations
        if "sft_max_steps" in cell.flags:
            assert samples + config.sft_max_steps * config.sft_batch_size == 6400
        elif "rl" in config.stages:
            assert samples == 6400, cell.name
        assert cell.part in (*study.plan["parts"], "ideas") and cell.rates in study.tuned_recipes()
        assert (cell.part == "ideas") == ("held_out=tune" in cell.data)


def test_ideas_are_tried_where_nothing_is_measured(study):
    measured = {*study.plan["bases"]["seeds"], *study.plan["bases"]["fresh"]}
    assert len(measured) == 16 and not measured & {*study.plan["ideas"]["bases"]}
    tuned_on = {study.plan["tuning"][phase]["base"] for phase in ("screen", "full")}
    assert not measured & tuned_on


def test_questions_are_about_cells_of_the_study(study):
    pairs = [pair for pairs in study.plan["questions"].values() for pair in pairs]
    assert pairs and {name for pair in pairs for name in pair} <= set(study.cells)


def test_the_methods_page_names_the_recipes_without_a_cell(study):
    without = {*recipe_names()} - {cell.recipe for cell in study.cells.values()}
    code = {name for name in without if name.endswith("-reference")}
    said = f"but for {' and '.join(f'`{name}`' for name in sorted(without - code))} and all `*-reference`"
    assert said in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert code == {name for name in recipe_names() if name.endswith("-reference")}


def test_the_best_full_trial_is_chosen_and_a_tie_goes_to_the_lower_rate(study):
    screened = [(1.5e-4, 0.1), (3e-4, 0.3), (6e-4, 0.2)]
    study.tables.put("tuning", [trial("grpo", "screen", *found) for found in screened], ("recipe", "phase", "rate"))
    assert [rate for recipe, rate in study.trials("full") if recipe == "grpo"] == [3e-4, 6e-4]
    assert "grpo" not in study.chosen()
    study.tables.put("tuning", [trial("grpo", "full", 6e-4, 0.4)], ("recipe", "phase", "rate"))
    assert "grpo" not in study.chosen()  # of two trials one is missing
    study.tables.put("tuning", [trial("grpo", "full", 3e-4, 0.4)], ("recipe", "phase", "rate"))
    assert study.chosen() == {"grpo": 3e-4}
    assert study.rate_flags("grpo") == ["--learning_rate", "0.0003"]


def test_a_row_stands_for_its_run_until_its_command_changes(study):
    cell = study.cells["grpo"]
    everything = len(study.missing())
    row = {"cell": "grpo", "base": "some-3", "command": study.command(study.point(cell, 3)), "test": 0.25}
    study.tables.put("runs", [row], ("cell", "base"))
    assert len(study.missing()) == everything - 1 and (cell, 3) not in study.missing()
    study.tables.put("runs", [row | {"test": 0.5}], ("cell", "base"))  # in place of the other
    assert study.tables.read("runs").test.tolist() == [0.5]
    trials = [trial("grpo", phase, rate, 0.1) for phase in ("screen", "full") for rate in (3e-4, 6e-4)]
    study.tables.put("tuning", trials, ("recipe", "phase", "rate"))
    assert (cell, 3) in study.missing()  # its learning rate is another now


def make_run(folder: Path, test: float):
    """A finished run folder by hand: 20 steps, two evaluations."""
    (folder / "final").mkdir(parents=True)
    (folder / "final" / "model.safetensors").write_bytes(b"weights")
    config = {"learning_rate": 3e-4, "sft_learning_rate": 1e-3, "stages": ["rl"], "seed": 1}
    record = {"config": config, "method": {"alpha": 0.1}, "recipe": "trapo"}
    (folder / "run.json").write_text(json.dumps(record))
    steps = [{"stage": "rl", "step": i, "reward/plain": i / 10, "seconds/step": 0.5, "seen/samples": 64 * i,
              "tokens/rollout": 100, "tokens/update": 10} for i in range(1, 21)]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    evals = [{"set": "test", "stage": "rl", "step": step, "reward": reward, "samples": 800}
             for step, reward in ((0, 0.02), (20, test))]  # fmt: skip
    (folder / "evals.jsonl").write_text("".join(json.dumps(e) + "\n" for e in evals))


def test_tables_say_what_the_run_folders_hold(study):
    make_run(study.runs / "confirm" / "trapo,base=1", test=0.5)
    study.collect_runs()
    (row,) = study.tables.read("runs").to_dict("records")
    assert (row["cell"], row["base"], row["seed"], row["alpha"]) == ("trapo", "some-1", 1, 0.1)
    assert (row["test_before"], row["test"], row["test_samples"]) == (0.02, 0.5, 800)
    assert (row["samples"], row["drawn_tokens"], row["update_tokens"], row["seconds"]) == (1280, 2000, 200, 10)
    assert row["weights_sha256"].startswith("9a129038")  # printf weights | sha256sum
    curves = study.tables.read("curves")
    assert curves.step.tolist() == [10, 20] and curves.reward_plain.tolist() == [0.55, 1.55]
    before = (study.results / "runs.csv").read_bytes()
    study.collect_runs()
    assert (study.results / "runs.csv").read_bytes() == before


def test_a_base_of_other_bits_is_refused(study):
    made = {"making": {"seed": 1}, "tune_accuracy": {"pass@1": 0.02}, "parameters": 9, "weights_sha256": "a" * 64}
    folder = study.base("some", 1)
    folder.mkdir(parents=True)
    (folder / "made.json").write_text(json.dumps(made))
    study.collect_bases()
    study.collect_bases()  # the same again
    before = (study.results / "bases.csv").read_bytes()
    (folder / "made.json").write_text(json.dumps(made | {"weights_sha256": "b" * 64}))
    with pytest.raises(ValueError, match=r"some-1: this machine makes some-1 with other bits .*: --results DIR"):
        study.collect_bases()
    assert (study.results / "bases.csv").read_bytes() == before


def test_a_base_that_several_cells_want_is_made_once(study, monkeypatch):
    made = []
    monkeypatch.setattr(study, "make_base", lambda *pair: made.append(pair))
    study.make_bases([("some", 1), ("some", 1), ("some", 2), ("some", 1)], 2)
    assert sorted(made) == [("some", 1), ("some", 2)]


def test_a_trial_that_has_its_row_is_not_made_again(study, monkeypatch):
    started = []
    monkeypatch.setattr(studies.sweeps, "run", lambda sweep, *_: started.extend(point.name for point in sweep.points))
    monkeypatch.setattr(study, "make_bases", lambda *_: None)
    shutil.copytree(RESULTS, study.results)
    study.runs = Path("runs/study")  # as the recorded commands say
    assert study.tuned_recipes(["rate"]) == ["sft", "micro-groups-dft"]
    assert study._tune(["sft", "trapo", "sft-then-rl"], None, 1) and started == []
    table = study.tables.read("tuning")
    lost = (table.recipe == "trapo") & (table.phase == "full") & (table.rate == 3e-4)
    table[~lost].to_csv(study.results / "tuning.csv", index=False)
    assert not study._tune(["sft", "trapo"], None, 1)
    assert started == ["trapo,rate=0.0003"]


def test_models_of_other_bits_are_not_asked_for_pass_at_k(study, monkeypatch):
    evaluated = []
    monkeypatch.setattr(studies.sweeps, "run", lambda sweep, *_: evaluated.extend(sweep.points))
    monkeypatch.setattr(study, "make_bases", lambda *_: None)
    study.plan["bases"]["seeds"], study.plan["pass_at_k"]["cells"] = [1], ["trapo"]
    make_run(study.runs / "confirm" / "trapo,base=1", test=0.5)
    study.collect_runs()
    study._pass_at_k(None, 1)
    assert [point.name for point in evaluated] == ["trapo,base=1"]
    evaluated.clear()
    (study.runs / "confirm" / "trapo,base=1" / "final" / "model.safetensors").write_bytes(b"others")
    with pytest.raises(ValueError, match=r"its bits are not those of trapo on some-1 in .*runs\.csv"):
        study._pass_at_k(None, 1)
    assert evaluated == []


def results_of(study, accuracies, curves=None, **more):
    """Results over hand-made rows: cell -> accuracies on bases 1, 2, ..., and bins of its training curve."""
    columns = {"direct": 0.5, "facts": 0.5, "recipe": "trapo", "command": "x", "learning_rate": 1e-4}
    rows = [{"cell": cell, "base": f"some-{i}", "seed": i, "test": value, "weights_sha256": f"{cell}{i}"}
            | columns | more
            for cell, values in accuracies.items() for i, value in enumerate(values, 1)]  # fmt: skip
    study.tables.put("runs", rows, ("cell", "base"))
    bins = [{"cell": cell, "base": f"some-{i}", "step": 10 * k, "reward_plain": value, "length": 10.0 * k}
            for cell, bases in (curves or {}).items() for i, curve in enumerate(bases, 1)
            for k, value in enumerate(curve, 1)]  # fmt: skip
    study.tables.put("curves", bins, ("cell", "base", "step"), lambda row: (row["cell"], row["base"], row["step"]))
    return Results(study)


def asked(*pairs, **more):
    return Question("?", pairs, **more)


def test_answers_are_paired_by_base(study):
    trapo = np.array([0.50, 0.55, 0.45, 0.60, 0.40, 0.52, 0.48, 0.50])
    gaps = np.array([0.10, 0.12, 0.08, 0.11, 0.09, 0.13, 0.07, 0.10])
    noise = np.array([0.2, -0.2, 0.1, -0.1, 0.05, -0.05, 0.02, -0.03])
    results = results_of(study, {"trapo": trapo, "grpo": trapo - gaps, "luffy": trapo + noise, "sft": trapo + gaps})
    above, below, unclear = results.answers(asked(["trapo", "grpo"], ["trapo", "sft"], ["luffy", "trapo"]))
    # sd = .02 over eight: se = .0070711, t(.975, 7) = 2.36462
    assert above.difference == pytest.approx(0.1)
    assert (above.low, above.high) == pytest.approx((0.1 - 0.0167204, 0.1 + 0.0167204), abs=1e-6)
    assert above.p == pytest.approx(2 / 256) and above.holm == pytest.approx(6 / 256)  # three of this size
    assert (above.says, below.says, unclear.says) == ("above", "below", "can't tell")
    assert above.above == 8 and below.above == 0
    assert results.answers(asked(["trapo", "dft"])) == []  # not run


def test_a_cell_that_takes_off_late_turns_with_the_horizon(study):
    """Above at the end on every base, below as the mean of the curve."""
    ends = np.linspace(0.5, 0.57, 8)
    steady, late = [[0.5] * 10] * 8, [[0.0] * 8 + [0.6, 0.7 + 0.01 * i] for i in range(8)]
    results = results_of(
        study, {"trapo": ends, "dft": ends + 0.1 + 0.01 * np.arange(8)}, {"trapo": steady, "dft": late}
    )
    pair = asked(["dft", "trapo"])
    (last,), (curve,) = results.answers(pair), results.answers(pair, "curve")
    assert (last.says, curve.says) == ("above", "below") and together(curve, last) == "turns with the horizon"
    assert curve.gaps[0] == pytest.approx((0.6 + 0.7) / 10 - 0.5)


def test_a_curve_is_read_over_the_budget_that_both_cover(study):
    """One cell spends 12% of its budget on SFT; the other's first half has no plain samples."""
    curves = {"dft": [[None] * 5 + [0.2] * 5] * 2, "trapo": [[0.1] * 9] * 2, "grpo": [[0.0] * 5 + [0.4] * 5] * 2}
    results = results_of(study, {"dft": [0.5, 0.5], "trapo": [0.5, 0.5], "grpo": [0.5, 0.5]}, curves)
    results.runs.loc[results.runs.cell == "trapo", "command"] = "trapo train --max_steps 100 --max_steps 88"
    assert results.starts("trapo") == pytest.approx(0.12) and results.starts("dft") == 0
    edges, _ = results.curve("trapo")  # 88 steps in bins of ten, the last of eight
    assert edges == pytest.approx([0.12, 0.22, 0.32, 0.42, 0.52, 0.62, 0.72, 0.82, 0.92, 1.0])
    assert results.covered("dft") == pytest.approx(0.5) and results.covered("trapo") == pytest.approx(0.12)
    assert results.differences("trapo", "dft", reading="curve") == pytest.approx([0.1 - 0.2] * 2)
    # GRPO from 12% on: .38 of .88 at 0, .5 at .4.
    assert results.differences("grpo", "trapo", reading="curve") == pytest.approx([0.4 * 0.5 / 0.88 - 0.1] * 2)
    assert len(results.differences("grpo", "trapo", "direct", "curve")) == 0  # probes are not asked along training


def test_an_interaction_is_a_difference_of_differences(study):
    results = results_of(study, {"trapo": [0.5, 0.6], "dft": [0.7, 0.9], "grpo": [0.1, 0.1], "luffy": [0.15, 0.1]})
    (answer,) = results.answers(asked([["dft", "trapo"], ["luffy", "grpo"]]))
    assert answer.gaps == pytest.approx((0.2 - 0.05, 0.3 - 0.0)) and answer.a == "(dft - trapo)"


def test_a_treatment_that_changed_nothing_is_named(study):
    """Base 1: the same accuracies and curve. Base 2: the same accuracies, another curve. Base 3: the same weights."""
    curves = {"grpo": [[0.1] * 10] * 3, "grpo-entropy": [[0.1] * 10, [0.3] * 10, [0.1] * 10]}
    results = results_of(study, {"grpo": [0.4, 0.5, 0.6], "grpo-entropy": [0.4, 0.5, 0.7]}, curves)
    results.runs.loc[results.runs.base == "some-3", "weights_sha256"] = "one"
    assert results.undelivered("grpo", "grpo-entropy") == ["some-1", "some-3"]
    assert results.twins("grpo") == {"grpo-entropy": ["some-1", "some-3"]}


def test_an_interval_without_zero_is_not_enough_after_holm(study):
    gaps = [0.1, 0.1, 0.1, 0.12, 0.1]  # five of five: p = 2/32
    results = results_of(study, {"trapo": [0.5] * 5, "grpo": [0.5 - gap for gap in gaps]})
    (answer,) = results.answers(asked(["trapo", "grpo"]))
    assert answer.low > 0 and answer.p == pytest.approx(1 / 16) and answer.says == "can't tell"


def test_a_claim_holds_only_if_all_that_it_needs_does(study):
    """The registered rule: TrSFT prevents the collapse if it is above plain SFT and plain SFT is below no imitation."""
    steps = 0.01 * np.arange(8)
    cells = {"trapo": 0.5 + steps, "micro-groups-sft": [0.05] * 8, "micro-groups": [0.1] * 4 + [0.05] * 4}
    study.plan["verdicts"] = study.plan["verdicts"][:1]
    text = study_page.verdict_table(results_of(study, cells))
    assert text.splitlines()[-1].endswith("| 0.1 | **can't tell** |")
    cells["micro-groups"] = 0.3 + steps
    study.tables.put("runs", [], ("cell", "base"))
    assert "| **yes** |" in study_page.verdict_table(results_of(study, cells)).replace(
        "last step: yes; curve: can't tell", "yes"
    )


def test_tokens_along_a_run_add_up_to_its_totals(study):
    """Bins of 10 steps of lengths 10, 20, 30, 40; 1,000 tokens drawn; 800 updated, 400 of them by SFT."""
    curves = {"trapo": [[0.1] * 4] * 2}
    totals = {"drawn_tokens": 900.0, "aborted_tokens": 100.0, "update_tokens": 800.0, "sft_learning_rate": None}
    results = results_of(study, {"trapo": [0.5, 0.6], "sft": [0.1, 0.1]}, curves, **totals)
    mine = results.runs.cell == "trapo"
    results.runs.loc[mine, "command"] = "trapo train --max_steps 40 --sft_max_steps -1"
    results.runs.loc[mine, "sft_learning_rate"] = 1e-3
    results.runs.loc[~mine, "update_tokens"] = 400.0  # what three epochs of demonstrations come to
    drawn, updated = costs.spent(results, "trapo")
    assert drawn.loc[1].tolist() == pytest.approx([100, 300, 600, 1000])
    assert updated.loc[1].tolist() == pytest.approx([500, 600, 700, 800])
    assert costs.sft_demonstrations("--sft_max_steps -1 --sft_max_steps 12") == 768


def test_a_plan_whose_comparisons_can_never_reject_is_refused(tmp_path):
    plan = yaml.safe_load(PLAN.read_text())
    plan["questions"]["Seven at once?"] = [["trapo", "grpo"]] * 7
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(plan))
    with pytest.raises(
        ValueError, match=r"Seven at once\?: 7 comparisons over 8 blocks can never reject: .* take 9 blocks"
    ):
        studies.Study(path, tmp_path, tmp_path)


def test_growth_is_pass_at_the_largest_k_against_the_same_base(study):
    gaps = [0.10, 0.12, 0.08, 0.11, 0.09, 0.13, 0.07, 0.10]
    rows = [{"cell": cell, "base": f"some-{i}", "k": k, "pass": value}
            for i, gap in enumerate(gaps, 1)
            for cell, k, value in (("base", 1, 0.1), ("base", 64, 0.02 * i), ("trapo", 1, 0.4),
                                   ("trapo", 64, 0.02 * i + gap))]  # fmt: skip
    study.tables.put("pass_at_k", rows, ("cell", "base", "k"))
    results = results_of(study, {"trapo": [0.5] * 8})
    (answer,) = results.sharpening()
    assert (answer.a, answer.b, answer.blocks, answer.says) == ("trapo", "base", 8, "above")
    assert answer.difference == pytest.approx(0.1) and answer.low == pytest.approx(0.1 - 0.0167204, abs=1e-6)
    assert "| base | 8 | 0.100 | 0.090 |" in study_page.pass_table(results)  # .02 * 4.5
    assert "| trapo | 8 | 0.400 | 0.190 |" in study_page.pass_table(results)


def test_a_page_without_marks_is_not_written(study, tmp_path):
    results = results_of(study, {"trapo": [0.5, 0.6]})
    page = tmp_path / "page.md"
    page.write_text("no marks\n")
    with pytest.raises(ValueError, match=r"page\.md has no <!-- made by: make figures: verdicts -->"):
        study_page.write_tables(results, page)
    assert page.read_text() == "no marks\n"


def test_cells_are_named_once(tmp_path):
    plan = yaml.safe_load(PLAN.read_text())
    plan["parts"]["again"] = {"trapo": {}}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(plan))
    with pytest.raises(ValueError, match="cell trapo is named twice"):
        studies.Study(path, tmp_path, tmp_path)


# ---------------------------------------------------------------- what is committed


@pytest.fixture(scope="module")
def committed():
    return studies.Study(PLAN, ROOT / "runs" / "study", RESULTS)


def test_the_committed_figures_and_tables_come_from_the_committed_csvs(committed, tmp_path):
    from PIL import Image

    results = Results(committed)
    made = figures.draw(results, tmp_path)
    assert {path.name for path in made} == {path.name for path in (RESULTS / "figures").glob("*.png")}
    for path in made:
        there = RESULTS / "figures" / path.name
        assert read_settings(path) == read_settings(there) and "alpha" in read_settings(path)
        with Image.open(path) as new, Image.open(there) as old:
            assert new.tobytes() == old.tobytes(), path.name
    page = tmp_path / "results.md"
    page.write_text((ROOT / "docs" / "results.md").read_text())
    study_page.write_tables(results, page)
    assert page.read_text() == (ROOT / "docs" / "results.md").read_text()


def test_every_committed_run_says_its_command_and_its_seed(committed):
    runs = committed.tables.read("runs")
    for row in runs.itertuples():
        assert f"--seed {row.seed} " in row.command + " " and row.base.endswith(f"-{row.seed}")
        assert f"bases/{row.base}" in row.command and f"--recipe {row.recipe} " in row.command
    assert not runs.duplicated(["cell", "base"]).any() and runs.weights_sha256.str.len().eq(64).all()
    bases = committed.tables.read("bases")
    assert set(runs.base) <= set(bases.base) and not pd.isna(bases.weights_sha256).any()
