"""A few of the tries of `make test-hostile`, and that the harness sees what it looks for."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import kinds
import tries


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return kinds.Base(tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize("kind", [k for k in kinds.KINDS if k.__name__ not in ("run_folder", "template", "option")])
def test_nothing_but_successes_and_one_line_errors(kind, base, tmp_path, monkeypatch):
    tries.quick(monkeypatch.setattr)
    result, said = tries.outcome(kind(base, tmp_path, random.Random("a few")), tmp_path)
    assert result in ("ok", "refused"), said


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (lambda: 1 / 0, "traceback"),
        (lambda: print("\x1b[31m"), "raw characters"),
        (lambda: print(kinds.SECRET), "leak"),
        (lambda: Path("mine").unlink(), "lost"),
        (lambda: sys.exit(5), "exit code"),
        (lambda: None, "ok"),
    ],
)
def test_the_harness_sees_what_it_looks_for(body, what, tmp_path, monkeypatch):
    import typer

    import trapo_cli.cli
    from trapo.command.errors import Commands

    app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)
    app.command("one")(lambda: body())
    app.command("other")(lambda: None)
    monkeypatch.setattr(trapo_cli.cli, "app", app)
    (tmp_path / "mine").write_text("x")
    assert tries.outcome(kinds.Try(["one"], [tmp_path / "mine"], secret=True), tmp_path)[0] == what
