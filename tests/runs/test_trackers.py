"""Trackers through TRL: a run of two stages is one run of theirs, open whenever something is logged."""

import json
import os
import subprocess

from places import TRAPO

# In place of trackio: as strict about an open run, and it writes down what it is told.
TRACKIO = """
import json, types
from contextvars import ContextVar
__version__ = "0.20.0"
run = ContextVar("run", default=None)
context_vars = types.SimpleNamespace(current_run=run, current_project=ContextVar("p", default=None),
                                     current_space_id=ContextVar("s", default=None))
class Config(dict):
    def update(self, values, allow_val_change): pass
config = Config()
def say(what, **more):
    with open("told.jsonl", "a") as file:
        file.write(json.dumps({"what": what, **more}, default=str) + chr(10))
def init(project, name, resume=None, **_):
    run.set(types.SimpleNamespace(_space_id=None))
    say("init", name=name, resume=resume)
def log(metrics, step=None):
    if run.get() is None:
        raise RuntimeError("Call trackio.init() before trackio.log().")
    say("log", metrics=metrics)
def finish():
    run.set(None)
    say("finish")
"""


def test_trackio_gets_every_stage_as_one_run(tmp_path):
    (tmp_path / "lib" / "trackio-0.20.0.dist-info").mkdir(parents=True)
    (tmp_path / "lib" / "trackio-0.20.0.dist-info" / "METADATA").write_text("Name: trackio\nVersion: 0.20.0\n")
    (tmp_path / "lib" / "trackio.py").write_text(TRACKIO)
    flags = ["--recipe", "sft-then-rl", "--sft_max_steps", "1", "--max_steps", "1", "--report_to", "trackio",
             "--per_device_train_batch_size", "16", "--max_completion_length", "8", "--output_dir", "m"]  # fmt: skip
    done = subprocess.run(
        [TRAPO, "train", *flags], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "lib")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert {(line["name"], line["resume"]) for line in told if line["what"] == "init"} == {("m", "allow")}
    logged = {name for line in told if line["what"] == "log" for name in line["metrics"]}
    assert {"train/loss", "train/reward/plain", "eval/test_reward"} <= logged
    assert told[-1]["what"] == "finish"
