"""A cell of the study made again from nothing: base, training, weights. Minutes; `make test-study`."""

import shlex
import subprocess
import sys

import pandas as pd
import pytest
from places import ROOT

from trapo_analysis.study.runner import Study
from trapo_analysis.study.tables import weights_hash

TRAPO = [sys.executable, "-P", "-c", "from trapo_cli.cli import app; app(prog_name='trapo')"]

pytestmark = pytest.mark.study


def test_a_cell_comes_out_with_the_same_bits(tmp_path, monkeypatch):
    results = ROOT / "docs" / "results"
    runs, bases = pd.read_csv(results / "runs.csv"), pd.read_csv(results / "bases.csv")
    row = runs[(runs.cell == "grpo") & (runs.base == "some-1")].iloc[0]
    study = Study(ROOT / "analysis" / "study" / "study.yaml", tmp_path / "runs" / "study", tmp_path / "results")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    study.make_base("some", 1)
    made, recorded = weights_hash(study.base("some", 1)), bases[bases.base == "some-1"].iloc[0].weights_sha256
    if made != recorded:
        pytest.skip("this machine's sums differ from those of the machine that made the study: so does its base model")
    command = [*TRAPO, *shlex.split(row.command)[1:], "--output_dir", "again"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=1800)
    assert weights_hash(tmp_path / "again" / "final") == row.weights_sha256
