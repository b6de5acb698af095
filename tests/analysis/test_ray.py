"""A sweep through Ray on a local cluster."""

import pytest
from test_sweep import run

from trapo_analysis.runs import find

pytestmark = pytest.mark.ray


def test_points_run_on_a_cluster_and_fail_by_themselves(tmp_path):
    out = tmp_path / "s"
    common = ("--max_steps", "1", "--per_device_train_batch_size", "16", "--max_completion_length", "24")
    (out / "alpha=1,seed=0").mkdir(parents=True)
    (out / "alpha=1,seed=0" / "run.json").write_text("{}")  # a run that cannot go on
    failed, printed = run(out, ["alpha=0.1,1"], common=common, jobs=2, launcher="ray")
    assert failed == ["alpha=1,seed=0"] and "alpha=0.1,seed=0: done" in printed
    assert [run.name for run in find([out]) if run.finished] == ["alpha=0.1,seed=0"]
