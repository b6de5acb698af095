"""Whose a folder is: nothing is deleted or overwritten that trapo did not provably write."""

import json

import pytest
from run_folders import make_checkpoint
from typer.testing import CliRunner

from trapo.runs.folder import RunFolder
from trapo_cli.cli import app


def tree(path):
    """Every file below a folder, with its content."""
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def begun(path):
    """A run that has trained for eight steps."""
    folder = RunFolder(path)
    folder.begin({"config": {"save_strategy": "steps", "save_steps": 4}})
    folder.append("metrics.jsonl", [{"stage": "rl", "step": step} for step in range(1, 9)])
    for step in (4, 8):
        make_checkpoint(folder.checkpoints, step)
    return folder


FOREIGN = {
    "a file": {"notes.txt": "mine"},
    "somebody's checkpoints": {"checkpoints/checkpoint-5/weights.pt": "mine", "checkpoints/best.pt": "mine"},
    "somebody's logs": {"metrics.jsonl": "{}\n"},
    "somebody's run.json": {"run.json": '{"id": 7}'},
    "a run.json that is no object": {"run.json": "[1, 2]"},
    "a damaged run.json alone": {"run.json": '{"config": '},
    "a model": {"final/config.json": "{}"},
    "a hidden file": {".env": "KEY=1"},
    "a folder": {"data/rows.jsonl": "{}\n"},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_folder_with_anything_of_others_is_refused(kind, tmp_path):
    for name, text in FOREIGN[kind].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    before = tree(tmp_path)
    folder = RunFolder(tmp_path)
    with pytest.raises(ValueError, match=r"is not empty and holds no run of trapo \(it has .*--overwrite"):
        folder.check_free()
    assert folder.written() == []
    folder.clear()
    assert tree(tmp_path) == before
    clash = {name.partition("/")[0] for name in FOREIGN[kind]} & {"run.json", "metrics.jsonl", "checkpoints", "final"}
    if clash:
        with pytest.raises(ValueError, match="cannot prove to have written and so does not delete"):
            folder.check_free(overwrite=True)
    else:
        folder.check_free(overwrite=True)


@pytest.mark.parametrize("harm", ["lost", "damaged", "emptied"])
def test_after_a_lost_record_the_checkpoints_stay(harm, tmp_path):
    folder = begun(tmp_path / "run")
    record = folder.path / "run.json"
    record.unlink() if harm == "lost" else record.write_text('{"config": ' if harm == "damaged" else "")
    before = tree(folder.path)
    with pytest.raises(FileExistsError, match="already holds a run: resume it"):
        folder.check_free()
    assert tree(folder.path) == before
    folder.check_free(overwrite=True)  # its manifests prove whose it is


def test_overwriting_deletes_what_is_ours_and_no_more(tmp_path):
    folder = begun(tmp_path / "run")
    for name in ("notes.txt", "final-report.md", "checkpoints.md"):
        (folder.path / name).write_text("mine")
    with pytest.raises(FileExistsError):
        folder.check_free()
    folder.check_free(overwrite=True)
    assert [p.name for p in folder.written()] == ["metrics.jsonl", "run.json", "checkpoint-4", "checkpoint-8"]
    folder.clear()
    assert tree(folder.path) == dict.fromkeys(("checkpoints.md", "final-report.md", "notes.txt"), b"mine")


def test_somebody_elses_folder_among_ours_is_refused_and_stays(tmp_path):
    folder = begun(tmp_path / "run")
    (folder.checkpoints / "best").mkdir()
    (folder.checkpoints / "best" / "w.pt").write_text("mine")
    with pytest.raises(ValueError, match="has checkpoints, which trapo cannot prove"):
        folder.check_free(overwrite=True)
    folder.clear()
    assert tree(folder.path) == {"checkpoints/best/w.pt": b"mine"}


def test_a_link_is_deleted_and_not_what_it_leads_to(tmp_path):
    folder = begun(tmp_path / "run")
    real = make_checkpoint(tmp_path / "elsewhere", 12)
    (folder.checkpoints / "checkpoint-12").symlink_to(real)
    folder.clear()
    assert len(tree(real)) == 6 and list(folder.path.iterdir()) == []


def test_a_folder_of_before_there_was_a_format(tmp_path):
    folder = begun(tmp_path / "run")
    (folder.path / "run.json").write_text(json.dumps({"config": {}, "versions": {"trapo": "0.1.0"}}))
    assert folder.is_ours()
    (folder.path / "run.json").write_text(json.dumps({"config": {}, "versions": {"torch": "2"}}))
    assert folder.is_ours()  # by its manifests
    (folder.path / "README.md").write_text("trained with TRL")  # which TRL put there
    folder.check_free(overwrite=True)


def test_a_run_that_failed_before_its_first_step_may_be_begun_again(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.check_free()
    folder.begin({"a": 1})
    folder.append("evals.jsonl", [{"stage": "rl", "step": 0}])
    folder.check_free()
    folder.begin({"a": 2})
    assert folder.record() == {"format": "trapo run", "a": 2} and folder.records("evals.jsonl") == []
    (folder.path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"it has notes\.txt"):
        folder.check_free()


def run(*flags):
    done = CliRunner().invoke(app, ["train", "--max_steps", "1", *flags])
    return done.exit_code, done.output


def test_the_command_refuses_before_any_work(tmp_path, monkeypatch):
    checkpoint = make_checkpoint(tmp_path / "checkpoints", 4, complete=False)
    (tmp_path / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    for flags in (["--output_dir", str(tmp_path)], ["--output-dir", "."], ["--output_dir=."]):
        code, output = run(*flags)
        assert code == 2 and "is not empty and holds no run of trapo (it has checkpoints, notes.txt)" in output
    assert tree(tmp_path) == before and checkpoint.exists()


def test_the_command_lists_what_it_would_delete(tmp_path, monkeypatch):
    folder = begun(tmp_path / "run")
    before = tree(folder.path)
    code, output = run("--output_dir", str(folder.path), "--overwrite", "--dry_run")
    assert code == 0 and tree(folder.path) == before
    for path in folder.written():
        assert f"--overwrite deletes {path}" in output
    code, output = run("--output_dir", str(folder.path), "--overwrite", "--resume")
    assert code == 2 and "--resume goes on with the run that --overwrite deletes" in output
    code, output = run("--output_dir", str(folder.path), "--overwrite", "--data", str(folder.path / "metrics.jsonl"))
    assert code == 2 and tree(folder.path) == before


EMPTY = [
    ["train", "--output_dir", ""], ["train", "--output-dir="], ["train", "--data", ""], ["train", "--model", ""],
    ["train", "--eval_data", ""], ["train", "--config", ""], ["train", "--recipe", ""], ["train", "--run_name", ""],
    ["data", "prepare", "", "--out", "x.jsonl"], ["data", "prepare", "x.jsonl", "--out", ""],
    ["data", "prepare", "x.jsonl", "--out", "y.jsonl", "--second", ""], ["doctor", "--model", ""],
    ["toy-gmm", "--out", ""], ["report", ""], ["report", "x", "--out", ""], ["compare", "a", "b", "--out", ""],
    ["eval", "--bench", "math", "--model", ""], ["eval", "--bench", "math", "--out", ""],
    ["sweep", "alpha", "--out", ""],
]  # fmt: skip


@pytest.mark.parametrize("arguments", EMPTY, ids=" ".join)
def test_an_empty_string_is_no_name(arguments, tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2 and "is empty" in done.output and "unset" in done.output
    assert tree(tmp_path) == {"mine.txt": b"mine"}


def test_bytes_that_are_not_utf8_are_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["train", "--run_name", "caf\udce9", "--output_dir", "run"])
    assert done.exit_code == 2 and r"caf\udce9" in done.output and "not UTF-8" in done.output
    assert list(tmp_path.iterdir()) == []
