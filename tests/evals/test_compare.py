"""`trapo compare`, by hand, and the figures of evaluations."""

import io
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from trapo.plotting import read_settings
from trapo_cli.cli import app
from trapo_evals import compare, figures
from trapo_evals import evaluate as run
from trapo_evals.folder import EvalFolder


def invoke(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], prog_name="trapo")


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
