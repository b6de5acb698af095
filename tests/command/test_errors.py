import sys

import pytest
import typer
from typer.testing import CliRunner

from trapo.command import errors


def command(body):
    app = typer.Typer(cls=errors.Commands, pretty_exceptions_enable=False)

    @app.command()
    def one(number: int = 0):
        with errors.one_line_errors():
            body()

    @app.command()
    def other():
        pass

    return app


def run(body, *arguments):
    return CliRunner().invoke(command(body), ["one", *arguments])


def raiser(error):
    def body():
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("x is 1:\nsay 2"), 2, "error: x is 1: say 2\n"),
        (FileNotFoundError("gone"), 2, "error: gone\n"),
        (ConnectionError("http://a:b@c failed"), 1, "error: http://***@c failed\n"),
        (ValueError("[bold] \x1b[31m \u202e"), 2, "error: [bold] \\x1b[31m \\u202e\n"),
    ],
)
def test_what_is_wrong_is_one_line(error, code, said):
    done = run(raiser(error))
    assert (done.exit_code, done.stderr) == (code, said)


def test_a_bug_is_one_line_and_its_text_lies_in_the_run_folder(tmp_path):
    def body():
        errors.crashes_go_to(tmp_path)
        raise KeyError("hub_token=abc")

    done = run(body)
    line = done.stderr
    assert done.exit_code == 70 and line.startswith("error: KeyError") and line.count("\n") == 1
    assert "this is a bug in trapo" in line and str(tmp_path / "crash.txt") in line.replace("\n", "")
    text = (tmp_path / "crash.txt").read_text()
    assert "Traceback" in text and "raise KeyError" in text and "abc" not in text.split("raise KeyError")[1][20:]


def test_a_bug_before_there_is_a_folder_is_kept_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = run(raiser(TypeError("odd")))
    (kept,) = tmp_path.iterdir()
    assert done.exit_code == 70 and str(kept) in done.stderr and "TypeError: odd" in kept.read_text()


def test_no_memory_is_no_bug():
    done = run(raiser(MemoryError()))
    assert done.exit_code == 1 and "not enough memory" in done.stderr and "Traceback" not in done.stderr


def test_usage_errors_show_no_raw_characters():
    done = run(lambda: None, "a\x1b[31m\u202e")
    assert done.exit_code == 2 and "\x1b[31m\u202e" not in done.stderr and "\\u202e" in done.stderr


def test_a_reader_that_went_away_is_no_error():
    done = run(raiser(BrokenPipeError(32, "Broken pipe")))
    assert done.exit_code == 1 and "bug" not in done.stderr and "error" not in done.stderr


def test_an_exit_code_is_kept():
    assert run(raiser(typer.Exit(3))).exit_code == 3
    assert run(lambda: sys.exit(4)).exit_code == 4
