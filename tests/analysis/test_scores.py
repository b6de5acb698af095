"""What groups of runs reached: the right base, the right alpha, questions as the unit, rewards that are no shares."""

import json
import math

import pytest
from test_analysis import evaluated, make_run, page_of, write

from trapo.runs.intervals import wilson
from trapo_analysis import figures, report, scores
from trapo_analysis.figure_parts import smoothed
from trapo_analysis.inference import detectable
from trapo_analysis.runs import base_evaluations, find, held_out, steps
from trapo_analysis.seeds import groups


def with_record(folder, **changes):
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | changes))
    return folder


def with_rewards(folder, change):
    lines = [json.loads(line) for line in (folder / "evals.jsonl").read_text().splitlines()]
    write(folder / "evals.jsonl", [line | change(line) for line in lines])
    return folder


def of_base(folder, content, **values):
    evaluated(folder, **values)
    record = json.loads((folder / "eval" / "eval.json").read_text())
    (folder / "eval" / "eval.json").write_text(json.dumps(record | {"model": {"content": content}}))


def test_every_run_is_compared_with_the_base_that_it_began_with(tmp_path):
    """Two sweeps of two models: one base had .1 and .9, the other .3 and .6."""
    for name, direct, facts in (("small", 0.1, 0.9), ("large", 0.3, 0.6)):
        with_record(make_run(tmp_path / name / "run"), model=name)
        of_base(tmp_path / name / "base", name, world_test=direct, world_facts=facts)
        evaluated(tmp_path / name / "run", world_test=0.5, world_facts=0.7)
    runs = find([tmp_path / "small", tmp_path / "large"])
    assert list(base_evaluations(runs)) == ["base small", "base large"]
    found = page_of(report.make([tmp_path / "small", tmp_path / "large"], tmp_path / "r.html", "trapo report"))
    rows = {row["label"]: row for row in found["evaluations"]["rows"]}
    assert list(rows) == ["base small", "base large", "small/run", "large/run"]
    forgetting = {label: row["forgetting"] for label, row in rows.items()}
    assert forgetting == pytest.approx({"base small": 0, "base large": 0, "small/run": -0.2, "large/run": 0.1})
    with figures.style():
        fig, _ = figures.pass_at_k(groups(runs))
    assert [text.get_text() for text in fig.legends[0].get_texts()][-2:] == ["base small", "base large"]


def test_a_base_of_several_sweeps_is_there_once(tmp_path):
    for name in ("first", "second"):
        make_run(tmp_path / name / "run")
        of_base(tmp_path / name / "base", "the same weights", world_test=0.1)
    assert list(base_evaluations(find([tmp_path / "first", tmp_path / "second"]))) == ["base model"]


def test_a_method_without_alpha_is_not_labelled_with_one(tmp_path):
    """`trapo sweep recipe=trapo,grpo alpha=.1,1` trains GRPO once; its configuration has an alpha that it never
    uses."""
    for recipe, alpha, said in (("trapo", 0.1, 0.1), ("trapo", 1.0, 1.0), ("grpo", 0.1, None), ("grpo", 1.0, None)):
        folder = make_run(tmp_path / "s" / f"{recipe}{alpha}", recipe=recipe, alpha=alpha, seed=int(alpha))
        with_record(folder, method={"alpha": said, "stages": ["rl"]})
    found = {group.label: group for group in groups(find([tmp_path / "s"]))}
    assert list(found) == ["GRPO", "TRAPO, alpha 0.1", "TRAPO, alpha 1"]
    assert len(found["GRPO"].runs) == 2 and found["GRPO"].alpha is None  # its two runs are seeds of one setting


def test_questions_are_the_unit_of_tables_and_scores(tmp_path):
    """400 samples of 100 questions that are always or never solved: the interval of 100."""
    answers = {f"q{i}": float(i < 30) for i in range(100)}
    for seed in (0, 1, 2):
        folder = make_run(tmp_path / "s" / str(seed), seed=seed, reward=0.3)
        with_rewards(folder, lambda line: {"samples": 400, "reward": 0.3, "by_question": answers, "binary": True})
    expected = pytest.approx(wilson(0.3, 100), abs=1e-12)
    (group,) = groups(find([tmp_path / "s"]))
    found = scores.scores(group)["test"].after
    assert (found.low, found.high) == expected
    table = held_out(list(group.runs))
    assert {(row.low, row.high, row.questions) for row in table.itertuples()} == {(*wilson(0.3, 100), 100)}
    assert "by_question" not in table.columns


def test_rewards_that_are_no_shares_have_a_report(tmp_path):
    for seed in (0, 1, 2):
        folder = make_run(tmp_path / "s" / str(seed), seed=seed)
        with_rewards(folder, lambda line, seed=seed: {"reward": -1.0 - 0.1 * seed * (line["step"] > 0)})
    make_run(tmp_path / "s" / "other", alpha=1.0)
    page = page_of(report.make([tmp_path / "s"], tmp_path / "r.html", "trapo report s"))
    assert page["reward"] == "mean reward" and page["results"][0]["sets"]["test"]["mean"] == pytest.approx(-1.1)
    assert page["curves"]["held-out"]["title"] == "held-out mean reward"
    with figures.style():
        fig, _ = figures.accuracy(groups(find([tmp_path / "s"])))
    assert fig.axes[0].get_xlabel() == "mean reward" and fig.axes[0].get_xlim()[0] < -1


def sweep_of(tmp_path, gaps, evaluations=()):
    """Runs of seven seeds at alpha .1, and at alpha 1 with their accuracy above by these gaps."""
    for seed, gap in enumerate(gaps):
        make_run(tmp_path / "s" / f"a{seed}", seed=seed, reward=0.5)
        folder = make_run(tmp_path / "s" / f"b{seed}", seed=seed, reward=0.5 + gap, alpha=1.0)
        for name, values in (("a", [0.2, 0.2, 0.5]), ("b", evaluations)) if evaluations else ():
            lines = [{"stage": "rl", "step": k, "set": "test", "reward": value + gap * (name == "b" and k == 3)}
                     for k, value in enumerate([0.1, *values])]  # fmt: skip
            write(folder.with_name(f"{name}{seed}") / "evals.jsonl", lines)
    return groups(find([tmp_path / "s"]))


def test_a_users_sweep_is_held_to_the_rule_of_the_study(tmp_path):
    """Seven seeds, all above: 2 of 128 flips; sd .02, so that the interval is free of 0."""
    gaps = [0.10, 0.12, 0.08, 0.11, 0.09, 0.13, 0.07]
    (row,) = scores.paired(sweep_of(tmp_path, gaps))
    assert row["says"] == "above" and row["p"] == pytest.approx(2 / 128) and row["needed"] == 6
    assert row["detectable"] == pytest.approx(detectable(7, 1) * 0.0216025, rel=1e-4)  # sd of the gaps
    assert row["within"] == pytest.approx(0.1 + 1.943180 * 0.0216025 / math.sqrt(7), abs=1e-6)  # t(.95, 6)
    # Along training: two evaluations are no curve, so the reward of plain samples, which is the same in all runs.
    assert row["curve"]["difference"] == 0 and row["curve"]["says"] == "can't tell"


def test_who_is_late_turns_with_the_horizon(tmp_path):
    gaps = [0.10, 0.12, 0.08, 0.11, 0.09, 0.13, 0.07]
    (row,) = scores.paired(sweep_of(tmp_path, gaps, evaluations=(0.0, 0.0, 0.5)))
    assert row["says"] == "above" and row["curve"]["says"] == "below"
    assert row["curve"]["each"][0] == pytest.approx((0.6 - 0.9) / 3)  # the evaluation before training is not counted


def test_a_sweep_whose_field_changed_nothing_says_so(tmp_path):
    (row,) = scores.paired(sweep_of(tmp_path, [0.0] * 5 + [0.1, 0.2]))
    assert row["undelivered"] == 5


def test_a_short_run_is_not_smoothed_to_one_number(tmp_path):
    """reward/plain is step / 10: over 8 steps it stays so, over 56 it is a mean of 7 away from the ends."""
    for n, at, expected in ((8, 8, 0.8), (56, 28, 2.8), (56, 56, (5.3 + 5.4 + 5.5 + 5.6) / 4)):
        run = find([make_run(tmp_path / f"{n}-{at}", n=n)])
        mean, low, high = smoothed(steps(run), "reward/plain")
        assert mean[at] == pytest.approx(expected) and low[at] == high[at] == mean[at]
