import json

import pytest
from run_folders import make_checkpoint

from trapo.files import locked, read_jsonl, to_json, write_whole
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
    make_checkpoint((folder.checkpoints / "sft" if stage == "sft" else folder.checkpoints), step, stage, complete)


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


def test_rewind_by_sizes_cuts_what_is_behind_and_reads_nothing_before(tmp_path):
    folder = RunFolder(tmp_path)
    folder.begin({"config": {}})
    for name in ("rollouts.jsonl", "metrics.jsonl"):
        (tmp_path / name).write_text("what is no JSON is not looked at\n")
    folder.append("evals.jsonl", [{"stage": "rl", "step": 1, "set": "a"}])
    sizes = folder.log_sizes()
    assert sizes == {"rollouts.jsonl": 33, "metrics.jsonl": 33, "prefixes.jsonl": 0,
                     "evals.jsonl": (tmp_path / "evals.jsonl").stat().st_size}  # fmt: skip
    folder.append("rollouts.jsonl", [{"stage": "rl", "step": 3, "sample": 0}])
    folder.append("prefixes.jsonl", [{"stage": "rl", "step": 3, "sample": 0, "rollout": 3}])
    # The evaluation behind the last step comes after its checkpoint; one of a later step is dropped.
    folder.append("evals.jsonl", [{"stage": "rl", "step": 2, "set": "a"}, {"stage": "rl", "step": 3, "set": "a"}])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    folder.rewind("rl", 2, sizes)
    assert (tmp_path / "rollouts.jsonl").read_text() == (tmp_path / "metrics.jsonl").read_text()
    assert (tmp_path / "metrics.jsonl").read_text() == "what is no JSON is not looked at\n"
    assert (tmp_path / "prefixes.jsonl").read_text() == ""
    assert [line["step"] for line in folder.records("evals.jsonl")] == [1, 2]


def test_rewind_reads_a_log_that_is_shorter_than_it_was(tmp_path):
    """As after a power cut, or an edit: the size alone is not trusted."""
    folder = RunFolder(tmp_path)
    folder.begin({"config": {}})
    folder.append("metrics.jsonl", [{"stage": "rl", "step": s} for s in (1, 2, 3)])
    for size in (10**6, 5):
        folder.rewind("rl", 2, {"metrics.jsonl": size})
        assert [line["step"] for line in folder.records("metrics.jsonl")] == [1, 2]


def test_newest_checkpoint_by_number_not_by_name(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (9, 10):
        checkpoint(folder, "rl", step)
    assert folder.last_checkpoint().name == "checkpoint-10"


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


def test_what_is_no_number_is_null_in_json():
    record = {"loss": float("nan"), "x": [1.5, float("-inf"), {"y": float("inf")}], "n": 3, "t": (0.1, float("nan"))}
    assert json.loads(to_json(record), parse_constant=lambda word: pytest.fail(word)) == {
        "loss": None, "x": [1.5, None, {"y": None}], "n": 3, "t": [0.1, None],
    }  # fmt: skip
    assert to_json({"a": 0.1, "b": [1]}) == json.dumps({"a": 0.1, "b": [1]})


def test_logs_with_nan_are_json_and_stay_so_when_a_run_is_rewound(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.begin({"config": {}})
    folder.append("metrics.jsonl", [{"stage": "rl", "step": 1, "kl": float("nan"), "loss": 0.5}])
    with open(folder.path / "metrics.jsonl", "a") as file:  # as it was written before
        file.write('{"stage": "rl", "step": 2, "kl": NaN}\n')
    folder.rewind("rl", 2)
    text = (folder.path / "metrics.jsonl").read_text()
    lines = [json.loads(line, parse_constant=lambda word: pytest.fail(word)) for line in text.splitlines()]
    assert lines == [{"stage": "rl", "step": 1, "kl": None, "loss": 0.5}, {"stage": "rl", "step": 2, "kl": None}]


def test_half_a_character_is_written_as_an_escape(tmp_path):
    write_whole(tmp_path / "a.txt", "caf\udce9")
    assert (tmp_path / "a.txt").read_text() == "caf\\udce9"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_whole(tmp_path / "a.json", "old")
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a.json", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "old")]
