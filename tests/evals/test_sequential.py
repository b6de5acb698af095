"""The stopping rule: its boundary against a second computation, its coverage by simulation, and `--samples auto`."""

import io
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from trapo.terminal import Console
from trapo_cli.cli import app
from trapo_evals import evaluate as run
from trapo_evals.folder import EvalFolder
from trapo_evals.sequential import ALPHA, FIRST, Look, boundary, look, next_samples


def test_a_look_by_hand():
    """Predictions 1/2, then (hits + 1/2) / rounds: of 1, 1, 0 they are 1/2, 3/4, 5/6."""
    found = look([[1, 1, 0]], 0.1)
    spread = 0.5**2 + 0.25**2 + (5 / 6) ** 2
    assert found.samples == 3 and found.value == pytest.approx(2 / 3)
    assert found.half_width == pytest.approx(boundary(spread, 0.1) / 3)
    both = look([[1, 1, 0], [0, 0, 0]], 0.1)
    spread += 0.5**2 + 0.25**2 + (1 / 6) ** 2
    assert both.value == pytest.approx(1 / 3) and both.half_width == pytest.approx(boundary(spread, 0.1) / 6)


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0, 1000.0])
def test_the_boundary_is_where_the_mixture_reaches_two_over_alpha(spread):
    s = boundary(spread, 0.02)
    rates = np.geomspace(0.08, 0.9, 7)  # 0.9 / 0.08 is 1.5 ** 5.97
    mixture = np.mean([math.exp(r * s - (-math.log(1 - r) - r) * spread) for r in rates])
    assert mixture == pytest.approx(2 / ALPHA)


def test_bad_shapes():
    for bad in ([], [[]], [[1, 2]], [0, 1]):
        with pytest.raises(ValueError, match="give as many samples, 0 or 1, of each question"):
            look(bad, 0.1)


def test_the_next_look():
    assert next_samples(Look(10, 0.5, 0.02), 0.02, 256) == 10  # enough
    assert next_samples(Look(256, 0.5, 0.5), 0.02, 256) == 256  # no more
    assert next_samples(Look(10, 0.5, 0.03), 0.02, 256) == 20  # 22.5 are needed; it never more than doubles
    assert next_samples(Look(20, 0.5, 0.022), 0.02, 256) == 25  # 24.2
    assert next_samples(Look(200, 0.5, 0.04), 0.02, 256) == 256
    assert next_samples(Look(10, 0.5, 0.0200001), 0.02, 256) == 11


def stopped(rng, p, wanted):
    """The look at which a simulated evaluation of questions with chances p stops."""
    right, found = (rng.random((len(p), 512)) < p[:, None]).astype(int), None
    n = FIRST
    while found is None or n > found.samples:
        found = look(right[:, :n], wanted)
        n = next_samples(found, wanted, 512)
    return found


@pytest.mark.parametrize(
    ("questions", "wanted", "beta"),
    [(30, 0.05, (0.4, 0.4)), (30, 0.08, (5, 5)), (5, 0.15, (1, 1)), (200, 0.03, (0.3, 2))],
)
def test_the_interval_where_it_stops_covers_the_accuracy(questions, wanted, beta):
    """At least 95%, whatever the questions: of 300 runs 285, less four standard deviations (3.8 each)."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        p = rng.beta(*beta, questions)
        found = stopped(rng, p, wanted)
        assert found.half_width <= wanted
        covered += abs(found.value - p.mean()) <= found.half_width
    assert covered >= 285 - 4 * math.sqrt(300 * 0.95 * 0.05)


def test_no_moment_is_better_chosen_than_another():
    """Who looks after every round and stops at the worst of them still errs in at most 5% of all runs."""
    rng, errors = np.random.default_rng(1), 0
    for _ in range(200):
        p = rng.beta(0.5, 0.5, 4)
        right = (rng.random((4, 60)) < p[:, None]).astype(int)
        errors += any(abs((found := look(right[:, :n], 0.1)).value - p.mean()) > found.half_width for n in range(1, 61))
    assert errors <= 0.05 * 200


# ---------------------------------------------------------------- the command


def evaluate(out, *more):
    what = ["--bench", "world_facts", "--model", "world", "--limit", 6, "--temperature", 1, "--out", out]
    return CliRunner().invoke(app, ["eval", *map(str, what), *map(str, more)], prog_name="trapo")


def test_samples_are_drawn_until_the_interval_is_narrow(tmp_path):
    done = evaluate(tmp_path / "e", "--samples", "auto", "--half-width", 0.15)
    assert done.exit_code == 0, done.output
    folder = EvalFolder(tmp_path / "e")
    record, lines = folder.record(), folder.graded()
    found = record["results"]["world_facts"]
    stopping, n = found["stopping"], found["samples"]
    assert n > FIRST and stopping["samples"] == record["data"]["world_facts"]["samples"] == n
    assert stopping["reached"] and stopping["half_width"] <= 0.15 and stopping["wanted"] == 0.15
    correct = [[line["status"] == "correct" for line in lines if line["question"] == q] for q in
               dict.fromkeys(line["question"] for line in lines)]  # fmt: skip
    again = look(correct, 0.15)
    assert (again.value, again.half_width) == (stopping["value"], stopping["half_width"])
    assert f"on these questions after {n} samples of each (95%, valid whenever one stops)" in done.output
    before = (tmp_path / "e" / "eval.json").read_bytes(), (tmp_path / "e" / "samples.jsonl").read_bytes()
    assert evaluate(tmp_path / "e", "--samples", "auto", "--half-width", 0.15).exit_code == 0
    assert before == ((tmp_path / "e" / "eval.json").read_bytes(), (tmp_path / "e" / "samples.jsonl").read_bytes())
    run.regrade(folder, Console(file=io.StringIO()))
    assert folder.record()["results"] == record["results"]


def test_there_is_an_end_to_it(tmp_path):
    done = evaluate(tmp_path / "e", "--samples", "auto", "--half-width", 0.01, "--max-samples", 6)
    assert done.exit_code == 0, done.output
    assert "not ± 0.01 even after 6 samples of each" in done.output
    assert EvalFolder(tmp_path / "e").record()["results"]["world_facts"]["stopping"]["reached"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "many"], "--samples many: give a number, or auto"),
        (["--samples", "auto", "--half-width", 0], "--half-width 0.0: give a number from 0.001 to 0.5"),
        (["--samples", "auto", "--temperature", 0], "--temperature 0 gives auto times the same sample"),
        (["--samples", "auto", "--max-samples", 1], "--max-samples 1: give a number from 2"),
        (["--model-date", "2024"], "--model-date 2024: give a year and a month, such as 2024-09"),
        (["--server-api", "chat"], "--server-api chat needs --engine server"),
        (["--server-api", "grpc"], "--server-api grpc: choose from completions, chat"),
        (["--server-timeout", 0], "--server-timeout 0.0: give a number from 0.1"),
    ],
)
def test_bad_settings(arguments, message, tmp_path):
    done = evaluate(tmp_path / "e", *arguments)
    assert done.exit_code == 2 and message in done.output and done.output.count("\n") == 1
    assert not (tmp_path / "e").exists()
