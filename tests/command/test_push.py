"""A push to the hub: asked for before any work; what fails at the end loses nothing."""

import io

import pytest
from typer.testing import CliRunner

from trapo import TRAPOConfig
from trapo.command.hub import check_hub, push
from trapo.terminal import Console
from trapo_cli.cli import app


def config(tmp_path, **fields):
    return TRAPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True, **fields)


class Hub:
    """Records what it is asked; raises where it is told to."""

    def __init__(self, token=None, fails=None):
        self.token, self.fails, self.calls = token, fails, []

    def __call__(self, token=None):
        self.token = token
        return self

    def whoami(self, token=None):
        if self.fails:
            raise self.fails

    def create_repo(self, name, **options):
        if self.fails:
            raise self.fails
        return type("Url", (), {"repo_id": f"me/{name}"})

    def upload_folder(self, **what):
        self.calls.append(what)


def test_training_with_a_push_is_refused_where_there_is_no_hub(tmp_path):
    done = CliRunner().invoke(app, ["train", "--push_to_hub", "true", "--output_dir", str(tmp_path / "run")])
    assert done.exit_code == 2 and done.stderr.startswith("error: push_to_hub: the hub does not take it"), done.output
    assert done.stderr.count("\n") == 1 and not (tmp_path / "run").exists()


def test_without_a_push_nobody_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub(fails=RuntimeError("asked")))
    check_hub(config(tmp_path))
    push(config(tmp_path), tmp_path, Console(file=io.StringIO()))


def test_a_push_uploads_the_finished_model(tmp_path, monkeypatch):
    hub, said = Hub(), io.StringIO()
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    check_hub(config(tmp_path, push_to_hub=True))
    push(config(tmp_path, push_to_hub=True, hub_token="t0ken"), tmp_path / "run/final", Console(file=said))
    assert hub.calls[0]["repo_id"] == "me/run" and hub.calls[0]["folder_path"] == tmp_path / "run/final"
    assert hub.token == "t0ken" and "Pushed to the hub: me/run" in said.getvalue()


def test_a_push_that_fails_is_a_warning_that_says_where_the_model_is(tmp_path, monkeypatch):
    said = io.StringIO()
    monkeypatch.setattr("huggingface_hub.HfApi", Hub(fails=ConnectionError("no route, Bearer abcdefgh1234")))
    push(config(tmp_path, push_to_hub=True), tmp_path / "final", Console(file=said, width=500))
    assert "[warning] not pushed to the hub (ConnectionError: no route, Bearer ***)" in said.getvalue()
    assert str(tmp_path / "final") in said.getvalue()
    with pytest.raises(ValueError, match="push_to_hub: the hub does not take it"):
        check_hub(config(tmp_path, push_to_hub=True))
