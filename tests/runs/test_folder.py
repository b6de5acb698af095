import json

import pytest

from trapo.files import locked, read_jsonl, write_whole
from trapo.runs.folder import RunFolder


def test_torn_last_line_is_dropped_with_a_warning(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": 3')
    with pytest.warns(UserWarning, match="torn last line 3"):
        assert list(read_jsonl(path)) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}\n{"a": 2}')  # JSON, but who knows whether the number went on
    with pytest.warns(UserWarning, match="torn last line 2"):
        assert list(read_jsonl(path)) == [{"a": 1}]


def test_a_broken_line_elsewhere_is_an_error(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\nbroken\n{"a": 3}\n')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        list(read_jsonl(path))


def checkpoint(folder, stage, step, complete=True):
    path = (folder.checkpoints / "sft" if stage == "sft" else folder.checkpoints) / f"checkpoint-{step}"
    path.mkdir(parents=True)
    if complete:
        write_whole(path / "trapo.json", "{}")


def test_rewind_drops_what_came_after_the_checkpoint(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.begin({"config": {}})
    lines = [{"stage": "sft", "step": s} for s in (1, 2, 3)] + [{"stage": "rl", "step": s} for s in (1, 2, 3, 4)]
    folder.append("metrics.jsonl", lines)
    folder.append("rollouts.jsonl", [{"stage": "rl", "step": s, "sample": i} for s in (1, 2, 3) for i in (0, 1)])
    for step, complete in ((1, True), (2, True), (3, True), (4, False)):
        checkpoint(folder, "rl", step, complete)
        checkpoint(folder, "sft", step, complete)
    assert folder.last_checkpoint().name == "checkpoint-3"  # 4 is not complete
    with open(folder.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "lo')
    with pytest.warns(UserWarning):
        folder.rewind("rl", 2)
    assert folder.records("metrics.jsonl") == lines[:5]
    assert [(r["step"], r["sample"]) for r in folder.records("rollouts.jsonl")] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert sorted(p.name for p in folder.checkpoints.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    assert folder.last_checkpoint("sft").name == "checkpoint-3"

    folder.rewind("sft", 2)
    assert folder.records("metrics.jsonl") == lines[:2] and folder.records("rollouts.jsonl") == []
    assert folder.last_checkpoint() is None and folder.last_checkpoint("sft").name == "checkpoint-2"


def test_newest_checkpoint_by_number_not_by_name(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (9, 10):
        checkpoint(folder, "rl", step)
    assert folder.last_checkpoint().name == "checkpoint-10"


def test_a_folder_with_a_run_is_refused(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.check_free()
    folder.begin({"a": 1})
    folder.append("metrics.jsonl", [{"stage": "rl", "step": 1}])
    with pytest.raises(FileExistsError, match="already holds a run: resume it"):
        folder.check_free()
    folder.clear()
    folder.check_free()


def test_a_run_that_failed_before_its_first_step_may_be_begun_again(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.begin({"a": 1})
    folder.append("evals.jsonl", [{"stage": "rl", "step": 0}])
    folder.check_free()
    folder.begin({"a": 2})
    assert folder.record() == {"a": 2} and folder.records("evals.jsonl") == []


def test_a_lock_is_held_by_one(tmp_path):
    lock = tmp_path / "run" / ".lock"
    with locked(lock, "training", "wait"), pytest.raises(ValueError, match=r"process is training into .*run: wait"):
        locked(lock, "training", "wait").__enter__()
    with locked(lock, "training", "wait"), pytest.raises(ValueError, match=r"run/\.lock cannot be written .*: wait"):
        locked(lock / "x", "training", "wait").__enter__()


def test_a_damaged_record_is_named(tmp_path):
    for content, message in (
        ('{"a": ', "run.json is not JSON"),
        ("[1]", r"run.json is no run's record: it holds \[1\]"),
    ):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            RunFolder(tmp_path).record()


def test_whole_writes_leave_no_other_file(tmp_path):
    write_whole(tmp_path / "a.json", json.dumps({"x": 1}))
    write_whole(tmp_path / "a.json", json.dumps({"x": 2}))
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"] and json.loads((tmp_path / "a.json").read_text()) == {
        "x": 2
    }
