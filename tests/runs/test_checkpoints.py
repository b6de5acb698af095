"""What makes a checkpoint whole, and which one a run goes on from."""

import hashlib
import json
import os

import pytest
import torch
from run_folders import make_checkpoint, write
from safetensors.torch import save_file

from trapo.runs.checkpoints import MARKER, fault, seal
from trapo.runs.folder import RunFolder

FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


def test_the_manifest_names_every_file_with_its_size_and_hash(tmp_path):
    path = make_checkpoint(tmp_path, 8)
    (path / "parts").mkdir()
    (path / "parts" / "0.bin").write_bytes(b"abc")
    seal(path, {"stage": "rl", "step": 8, "samples": 64, "shown": ["p1:0"]})
    found = json.loads((path / MARKER).read_text())
    assert {k: found[k] for k in ("stage", "step", "samples", "shown")} == {
        "stage": "rl", "step": 8, "samples": 64, "shown": ["p1:0"],
    }  # fmt: skip
    assert set(found["files"]) == {*FILES, "parts/0.bin"}
    assert found["files"]["parts/0.bin"] == {"bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    assert fault(path) is None


def test_every_file_is_on_the_disk_before_the_manifest_is_written(tmp_path, monkeypatch):
    path = make_checkpoint(tmp_path, 8, complete=False)
    synced, real = [], os.fsync
    monkeypatch.setattr("os.fsync", lambda n: (synced.append(os.readlink(f"/proc/self/fd/{n}")), real(n)))
    seal(path, {"stage": "rl", "step": 8, "samples": 0, "shown": []})
    names = [name.rpartition("/")[2] for name in synced]
    marker = next(i for i, name in enumerate(names) if MARKER in name)
    assert set(FILES) <= set(names[:marker])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["missing", "truncated", "zeroed", "changed"])
def test_a_harmed_file_is_named(name, harm, tmp_path):
    path = make_checkpoint(tmp_path, 8) / name
    content = path.read_bytes()
    said = harmed(path, harm, content)
    found = fault(path.parent)
    assert str(found).startswith("checkpoint-8 is not whole") and name in found.why and said in found.why
    assert not found.unfinished


def harmed(path, harm, content):
    if harm == "missing":
        path.unlink()
        return "is missing"
    if harm == "truncated":
        path.write_bytes(content[:-1])
        return f"has {len(content) - 1} bytes instead of {len(content)}"
    path.write_bytes(bytes(len(content)) if harm == "zeroed" else content[:-1] + b"?")
    return "its hash differs"


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "{}", '{"stage": "rl", "step": 8, "samples": 0, "shown": [], "files": 3}']
)
def test_a_damaged_manifest_is_no_manifest(text, tmp_path):
    path = make_checkpoint(tmp_path, 8)
    (path / MARKER).write_text(text)
    assert "trapo.json is damaged" in fault(path).why


def test_one_that_was_not_finished_says_so(tmp_path):
    found = fault(make_checkpoint(tmp_path, 8, complete=False))
    assert found.unfinished and "was not finished" in found.why


@pytest.mark.parametrize("name", FILES[1:])
def test_one_that_was_saved_without_what_a_resumed_run_needs(name, tmp_path):
    path = make_checkpoint(tmp_path, 8, complete=False)
    (path / name).unlink()
    seal(path, {"stage": "rl", "step": 8, "samples": 0, "shown": []})
    assert fault(path).why == f"it was saved without {name}"
    assert fault(path, ("the weights",)) is None


def test_a_checkpoint_of_before_there_were_hashes(tmp_path):
    path = tmp_path / "checkpoint-8"
    path.mkdir()
    save_file({"w": torch.ones(4)}, path / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"a": torch.ones(3)}, path / name)
    (path / "trainer_state.json").write_text('{"global_step": 8}')
    (path / MARKER).write_text('{"stage": "rl", "step": 8, "samples": 0, "shown": []}')
    assert fault(path) is None
    for name in ("model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"):
        content = (path / name).read_bytes()
        (path / name).write_bytes(content[: len(content) // 2])
        assert fault(path).why == f"{name} is damaged"
        (path / name).write_bytes(content)
    (path / "scheduler.pt").unlink()
    assert fault(path).why == "it was saved without scheduler.pt"


def test_the_newest_whole_one_is_taken_and_the_others_are_named(tmp_path):
    folder = RunFolder(tmp_path / "run")
    for step, complete in ((4, True), (8, True), (12, True), (16, False)):
        make_checkpoint(folder.checkpoints, step, complete=complete)
    (folder.checkpoints / "checkpoint-abc").mkdir()
    (folder.checkpoints / "checkpoint-12" / "optimizer.pt").unlink()
    point, faults = folder.whole_checkpoint()
    assert point.name == "checkpoint-8"
    assert [f.path.name for f in faults] == ["checkpoint-16", "checkpoint-12"] and faults[
        1
    ].why == "optimizer.pt is missing"
    assert [f.unfinished for f in faults] == [True, False]


@pytest.mark.parametrize(
    ("config", "lines", "saved"),
    [
        ({"save_strategy": "steps", "save_steps": 4}, [("rl", 4, 0.5)], False),  # killed while it saved the first
        ({"save_strategy": "steps", "save_steps": 4}, [("rl", 5, 0.5)], True),
        ({"save_strategy": "steps", "save_steps": 4}, [("sft", 9, 0.5)], False),  # of the other stage
        ({"save_strategy": "epoch", "save_steps": 4}, [("rl", 9, 1.0)], False),
        ({"save_strategy": "epoch", "save_steps": 4}, [("rl", 9, 1.1)], True),
        ({"save_strategy": "no", "save_steps": 4}, [("rl", 9, 1.1)], False),
    ],
)
def test_whether_a_checkpoint_must_have_been_there(config, lines, saved, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.begin({"config": config})
    write(folder.path / "metrics.jsonl", [{"stage": s, "step": n, "epoch": e} for s, n, e in lines])
    assert folder.has_saved("rl") is saved


def test_the_oldest_go_and_never_the_newest_or_the_best(tmp_path):
    folder = RunFolder(tmp_path / "run")
    for step in (9, 10, 11, 100):
        make_checkpoint(folder.checkpoints, step)

    def left():
        return sorted((p.name for p in folder.checkpoints.iterdir()), key=lambda name: int(name[11:]))

    folder.rotate("rl", 5, None)
    assert left() == ["checkpoint-9", "checkpoint-10", "checkpoint-11", "checkpoint-100"]
    folder.rotate("rl", 3, str(folder.checkpoints / "checkpoint-9"))
    assert left() == ["checkpoint-9", "checkpoint-11", "checkpoint-100"]
    folder.rotate("rl", 1, str(folder.checkpoints / "checkpoint-9"))
    assert left() == ["checkpoint-9", "checkpoint-100"]
    folder.rotate("rl", 1, None)
    assert left() == ["checkpoint-100"]
