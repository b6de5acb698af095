"""Rows from the hub, or one line that says why not."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from bench_rows import STAND_IN, refusal, write

from trapo_evals.benchmarks import load


@pytest.fixture
def log_lines():
    """All that the two libraries log."""
    lines, handler = [], logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    loggers = [logging.getLogger(library) for library in ("huggingface_hub", "datasets")]
    for logger in loggers:
        logger.addHandler(handler)
    yield lines
    for logger in loggers:
        logger.removeHandler(handler)


@pytest.mark.parametrize("offline", ["1", "0"])
def test_without_the_hub_it_ends_soon_in_one_line(offline, tmp_path):
    """With HF_HUB_OFFLINE=0 at an address where nothing listens: the libraries alone would sleep for 20 seconds."""
    code = """
import sys, time
slept = []
time.sleep = slept.append
import datasets
from trapo_evals.benchmarks import load
try:
    load("gpqa")
except ValueError as error:
    print(error)
assert sum(slept) < 8
assert datasets.config.HF_HUB_OFFLINE == (sys.argv[1] == "1")  # as it was before
"""
    hub = {"HF_HUB_OFFLINE": offline, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "NO_PROXY": "*"}
    done = subprocess.run([sys.executable, "-c", code, offline], env=os.environ | hub, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert line.startswith("gpqa: Idavidrein/gpqa (revision 633f5ee") and "the hub is out of reach" in line
    assert line.endswith("or put gpqa.parquet, .jsonl or .csv into a folder and give it as --data-dir")
    assert "gated" not in line


@pytest.mark.parametrize("fake", ["datasets", "hub"])
def test_a_gated_set_says_so(fake, tmp_path, monkeypatch, log_lines):
    """Both as datasets raises it, which loses the cause on its way, and with the cause still there."""
    import datasets
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def gated(*args, **kwargs):
        raise GatedRepoError("403", response=SimpleNamespace(status_code=403, headers={}, request=None))

    def load_dataset(*args, **kwargs):
        try:
            gated()
        except GatedRepoError as error:
            raise RuntimeError("no") from error

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(head=lambda *a, **k: None))
    if fake == "hub":
        monkeypatch.setattr(huggingface_hub.HfApi, "hf_hub_download", gated)
    else:
        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    said = refusal("gpqa")
    assert "is gated: accept its terms at https://huggingface.co/datasets/Idavidrein/gpqa and set HF_TOKEN" in said
    assert "out of reach" not in said and "or put gpqa.parquet" in said and log_lines == []


def test_another_failure_of_the_hub_is_passed_on(monkeypatch):
    import datasets

    def load_dataset(*args, **kwargs):
        raise datasets.exceptions.DatasetNotFoundError("no such\nrevision")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    said = refusal("gpqa")
    assert "cannot be loaded from the hub: no such revision; or put" in said and "gated" not in said


def test_a_cached_set_loads_offline(tmp_path, monkeypatch, log_lines):
    import datasets

    file = write(tmp_path / "rows.jsonl", STAND_IN) / "rows.jsonl"
    made = datasets.load_dataset("json", data_files={"test": str(file)}, cache_dir=str(tmp_path / "made"))["test"]
    arrow = Path(made.cache_files[0]["filename"])
    cached = tmp_path / "cache" / "math-ai___aime25" / "default" / "0.0.0" / "abc"
    cached.mkdir(parents=True)
    shutil.copy(arrow, cached / "aime25-test.arrow")
    info = json.loads((arrow.parent / "dataset_info.json").read_text()) | {"dataset_name": "aime25"}
    (cached / "dataset_info.json").write_text(json.dumps(info))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    before = logging.getLogger("datasets").level
    with pytest.warns(UserWarning, match="the papers' is 20163a6125362aa4; its revision 563bb84.* is unverified"):
        questions = load("aime25")
    assert [q.answer for q in questions] == [row["answer"] for row in STAND_IN] and log_lines == []
    assert logging.getLogger("datasets").level == before
