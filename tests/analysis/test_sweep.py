"""Sweeps: grids, real runs of the world, kills, failing points, two sweeps in a folder."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from places import TRAPO
from rich.console import Console
from typer.testing import CliRunner

from trapo.recipe import recipe_names
from trapo.runs.folder import RunFolder
from trapo_analysis import launchers
from trapo_analysis import sweep as sweeps
from trapo_analysis.runs import find
from trapo_cli.cli import app

SHORT = (
    "--max_steps",
    "2",
    "--per_device_train_batch_size",
    "16",
    "--max_completion_length",
    "24",
    "--save_steps",
    "1",
)


def run(out, grids, seeds=1, common=SHORT, bench="", **kwargs):
    """The points that failed, and what was printed."""
    text = io.StringIO()
    points = sweeps.points(grids, range(seeds))
    sweep = sweeps.Sweep(points, tuple(common), bench, 2, out, list(grids))
    return sweeps.run(sweep, Console(file=text, width=140), **kwargs), text.getvalue()


def test_grids():
    names = [point.name for point in sweeps.points(["alpha"], range(2))]
    assert names == [f"alpha={a},seed={s}" for a in ("0.01", "0.03", "0.1", "0.3", "1") for s in (0, 1)]
    crossed = sweeps.points(["recipe=grpo,trapo", "prefix_ratios=0+0.2+0.5+1"], [3])
    assert crossed[0] == sweeps.Point(
        "recipe=grpo,prefix_ratios=0+0.2+0.5+1,seed=3",
        ("--recipe", "grpo", "--prefix_ratios", "0", "0.2", "0.5", "1", "--seed", "3"),
    )
    assert len(sweeps.points(["methods"], [0])) == len(recipe_names()) == 29 and len(
        sweeps.points(["prefix"], [0])
    ) == len(sweeps.PREFIXES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a grid: alpha, prefix, methods, or FIELD=a,b,c"),
        (["beta"], "'beta' is no grid"),
        (["alpha", "alpha=0.1"], "alpha is given twice"),
        (["data=world:steps=3-4,world/steps=3-4"], "two points would be called data=world-steps-3-4,seed=0"),
        (["alfa=1"], "'alfa' cannot be swept: did you mean 'alpha'?"),
        (["seed=1,2"], "'seed' cannot be swept (seeds: --seeds)"),
        (["alpha=0.1,0.1"], "give each value once"),
        (["alpha=0.1,7"], "alpha is 7.0, but it bounds a token's probability"),
        (["recipe=trapo,nope"], "recipe 'nope' is unknown"),
        (["alpha", "--launcher", "slurm"], "--launcher slurm: choose local or ray"),
        (["alpha", "--jobs", "0"], "--jobs 0: give at least 1"),
        (["--max_steps", "50", "alpha"], "--max_steps 50 alpha: give a grid before the flags"),
        (["alpha", "--bench", "aime42"], "'aime42' is no benchmark: there are aime24"),
        (["alpha", "--max_stepz", "3"], "unknown option '--max_stepz': did you mean 'max_steps'?"),
    ],
)
def test_bad_input_is_one_line_before_any_run(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["sweep", *arguments], prog_name="trapo")
    assert done.exit_code == 2 and message in done.output and done.output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_points_that_differ_in_what_their_method_does_not_use_are_one():
    from trapo_cli.cli import job_maker

    asked = sweeps.points(["recipe=trapo,grpo,sft", "alpha=0.1,1", "sft_learning_rate=1e-3"], [0])
    assert sweeps.merged(asked, lambda flags: job_maker().config_of_flags(list(flags))) == [
        sweeps.Point("recipe=trapo,alpha=0.1,seed=0", ("--recipe", "trapo", "--alpha", "0.1", "--seed", "0")),
        sweeps.Point("recipe=trapo,alpha=1,seed=0", ("--recipe", "trapo", "--alpha", "1", "--seed", "0")),
        sweeps.Point("recipe=grpo,seed=0", ("--recipe", "grpo", "--seed", "0")),
        sweeps.Point("recipe=sft,sft_learning_rate=1e-3,seed=0",
                     ("--recipe", "sft", "--sft_learning_rate", "1e-3", "--seed", "0")),
    ]  # fmt: skip


OWN = ("--model", "some", "--data", "rows.jsonl", "--per_device_train_batch_size", "8", "--gradient_accumulation_steps")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        # A group of 8 per step: 3 epochs of 80 rows are 240 steps; 3 points (GRPO has no alpha), 4 at a time.
        ((*OWN, "1"), "3 points of 240 steps; a step takes 60.00 s"),
        ((*OWN, "1"), "about 3.0 hours with 4 at a time"),
        ((*OWN, "1", "--stages", "sft", "rl"), "of unknown steps; a step"),
        ((*OWN, "1", "--stages", "sft", "rl"), "as long as they have steps (--max_steps) with 4"),
        ((*OWN, "1", "--stages", "sft", "rl", "--sft_max_steps", "5", "--max_steps", "7"), "of 12 steps"),
        ((*OWN, "1"), "4 points are 3: a method trains the same whatever it makes no use of\n"),
    ],
)
def test_dry_run_knows_the_steps_or_says_that_it_does_not(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(launchers, "_gpus", lambda: [])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)

    def measure(sweep, point, environment):
        assert environment == {"OMP_NUM_THREADS": "2"}  # what a point has when four of them run
        return {"rows": 80, "seconds per step": 60.0, "tokens per step": 5.0}

    monkeypatch.setattr(sweeps, "_measure", measure)
    arguments = ["recipe=trapo,grpo", "alpha=0.1,1", "--seeds", "1", "--jobs", "4", "--dry-run"]
    done = CliRunner().invoke(app, ["sweep", *arguments, *flags], prog_name="trapo", catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert message in done.output


def test_every_prefix_setting_is_a_valid_configuration():
    from trapo_cli.cli import job_maker

    found = [job_maker().config_of_flags(list(point.flags)).micro_groups() for point in sweeps.points(["prefix"], [0])]
    assert len(set(found)) == len(sweeps.PREFIXES) and all(groups.group_size == 8 for groups in found)


def test_points_run_resume_and_fail_by_themselves(tmp_path):
    out = tmp_path / "s"
    failed, printed = run(out, ["alpha=0.1,1"], jobs=2)
    assert failed == [] and "alpha=0.1,seed=0: done" in printed and "rl 2/2" in printed
    runs = find([out])
    assert [(r.name, r.alpha, r.finished) for r in runs] == [
        ("alpha=0.1,seed=0", 0.1, True),
        ("alpha=1,seed=0", 1.0, True),
    ]
    times = {path: path.stat().st_mtime_ns for path in out.glob("*/final/*")}
    # A second sweep in the same folder: what is there is not run again; a point that was begun goes on.
    begun = shutil.copytree(out / "alpha=0.1,seed=0", out / "alpha=0.3,seed=0")
    shutil.rmtree(begun / "final")
    record = json.loads((begun / "run.json").read_text())
    record["config"]["alpha"] = 0.7  # not what the sweep asks of it
    (begun / "run.json").write_text(json.dumps(record))
    failed, printed = run(out, ["alpha=0.3,1,0.03"], jobs=1)
    assert failed == ["alpha=0.3,seed=0"]
    assert (
        "alpha=0.3,seed=0 failed: error: " in printed and "begun with another configuration: alpha was 0.7" in printed
    )
    assert RunFolder(out / "alpha=0.03,seed=0").final.exists()  # the others went on
    assert {path: path.stat().st_mtime_ns for path in times} == times
    shutil.rmtree(begun)
    assert run(out, ["alpha=0.3,1,0.03"], jobs=1)[0] == []
    saved = json.loads((out / "sweep.json").read_text())
    assert saved["grids"] == ["alpha=0.1,1", "alpha=0.3,1,0.03"] and len(saved["points"]) == 4
    with pytest.raises(ValueError, match="holds a sweep with other settings"):
        run(out, ["alpha=0.1"], common=("--max_steps", "3"))


@pytest.mark.parametrize(
    ("text", "what"),
    [("{}", "is no record of a sweep"), ("[1]", "is no record of a sweep"), ('{"common": ', "is not JSON")],
)
def test_a_folder_with_a_foreign_sweep_is_refused(text, what, tmp_path):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'sweep.json'} {what}")):
        run(tmp_path, ["alpha=0.1"])
    assert (tmp_path / "sweep.json").read_text() == text and not (tmp_path / "alpha=0.1,seed=0").exists()


def test_a_killed_sweep_goes_on_to_the_same_runs(tmp_path):
    grid = ["sweep", "alpha=0.1,1", "--seeds", "1", "--jobs", "1", "--bench", "world_facts", "--samples", "2"]
    command = [str(part) for part in (TRAPO, *grid, *SHORT)]
    assert subprocess.run([*command, "--out", tmp_path / "whole"], timeout=300).returncode == 0
    process = subprocess.Popen([*command, "--out", tmp_path / "killed"], start_new_session=True)
    first = tmp_path / "killed" / "alpha=0.1,seed=0" / "checkpoints" / "checkpoint-1" / "trapo.json"
    while not first.exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # The point has a session of its own and outlives this: the next sweep must wait for it, not write beside it.
    assert not (tmp_path / "killed" / "alpha=1,seed=0").exists()
    assert subprocess.run([*command, "--out", tmp_path / "killed"], timeout=300).returncode == 0
    for name in ("report.html", "figures/accuracy.png", "figures/pass_at_k.png", "base/eval/eval.json"):
        assert (tmp_path / "killed" / name).exists()
    assert (tmp_path / "killed" / "logs" / "alpha=0.1,seed=0.log").read_text().count("$ trapo train") == 1
    for path in (tmp_path / "whole").rglob("*"):
        if path.name in ("model.safetensors", "rollouts.jsonl", "graded.jsonl") and "checkpoints" not in str(path):
            assert path.read_bytes() == (tmp_path / "killed" / path.relative_to(tmp_path / "whole")).read_bytes()


@pytest.mark.parametrize(
    ("process", "error"),
    [
        ("from trapo_analysis import sweep_worker as point; point.LOADED = ('noisy',); point.serve()", None),
        ("import noisy, sys; sys.stdin.read()", "its process printed 'Welcome!', no answer"),
    ],
)
def test_a_library_that_prints_on_loading_stops_no_sweep(process, error, tmp_path, monkeypatch):
    (tmp_path / "noisy.py").write_text("print('Welcome!', flush=True)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(launchers, "POINT", [sys.executable, "-P", "-c", process])
    worker = launchers._Worker({})
    work = {"folder": str(tmp_path / "run"), "log": str(tmp_path / "log"), "bench": "", "model": "there"}  # no work
    with ThreadPoolExecutor(1) as pool:
        try:
            assert pool.submit(worker.run, work).result(timeout=60) == error
        finally:
            worker.end()


def test_dry_run_measures_a_step_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["sweep", "alpha=0.1,1", "--seeds", "1", "--dry-run", *SHORT], prog_name="trapo")
    assert done.exit_code == 0, done.output
    assert "alpha=1,seed=0: to run: trapo train" in done.output
    assert re.search(r"2 points of 2 steps; a step takes \d+\.\d\d s and draws \d+ tokens", done.output)
    assert list(tmp_path.iterdir()) == []
