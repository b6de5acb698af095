"""How a command ends when something is wrong: one line with the remedy, and an exit code that says whose fault it was.

1    a server's fault, a loss of NaN, no memory left: what was kept is kept
2    bad input
70   a bug of ours: the full text is in the run's folder
130  interrupted
"""

import os
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import typer
from typer.core import TyperGroup

from ..redact import redacted, redacted_command
from ..terminal import say, shown

UsageError = typer.BadParameter.__mro__[1]  # click's, which some versions of typer bring with them
BUG = 70  # sysexits.h: EX_SOFTWARE
CRASH = "crash.txt"
MAY_BE_EMPTY = ("--bench",)  # for none
SECONDS_FOR_THE_FIRST = 10.0  # of several processes, to fail and be noticed by the launcher
_OUT_OF_MEMORY = (
    "there is not enough memory ({text}): lower --update_tokens, --rollout_slots or --max_completion_length, or use "
    "--lora_r 16"
)
_folder: list[Path] = []  # where the text of a crash goes


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Bad input ends with one line and exit code 2, not with a traceback."""
    try:
        yield
    except BrokenPipeError:  # whoever read our output is gone
        raise
    except (ConnectionError, FloatingPointError) as error:  # a server's fault, after all attempts; a loss of NaN
        fail(str(error), 1)
    except (ValueError, OSError) as error:
        fail(str(error), 2)


def fail(text: str, code: int) -> None:
    """End the command with one line."""
    say(f"{_error()}: {' '.join(text.split())}", err=True)
    raise typer.Exit(code) from None


def _error() -> str:
    """How an error's line begins: once, however many processes a launcher has started.

    Where the first process fails too, the launcher ends the others while they wait here; what they say afterwards is
    theirs alone.
    """
    rank = int(os.environ.get("RANK", "0"))
    if rank == 0:
        return "error"
    time.sleep(SECONDS_FOR_THE_FIRST)
    return f"error in process {rank}"


@contextmanager
def interruptible(remedy: str) -> Iterator[None]:
    """Ctrl-C ends with one line and exit code 130, whatever a library in the middle makes of the exception."""
    received = []

    def handler(number, frame):
        received.append(number)
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    except BaseException:
        if not received:
            raise
        if os.environ.get("RANK", "0") == "0":
            say(f"interrupted; {remedy}", err=True)
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGINT, before)


def check_installed(command: str, extra: str, packages: tuple[str, ...]) -> None:
    """ValueError with the remedy for packages of an extra that a command needs and that are not installed."""
    if missing := [name for name in packages if not find_spec(name)]:
        raise ValueError(f"trapo {command} needs {', '.join(missing)}: pip install 'trapo[{extra}]'")


def command_line() -> str:
    """The command that is running, as it may be written down."""
    return shlex.join(redacted_command(["trapo", *sys.argv[1:]]))


def crashes_go_to(folder: Path) -> None:
    """Where the full text of an unexpected error is written, if the folder is there by then."""
    _folder[:] = [folder]


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise ValueError for an empty string, which a shell makes of an unset variable, and for what is not UTF-8."""
    before = ""
    for argument in arguments:
        name, equals, value = argument.partition("=") if argument.startswith("-") else (before, "=", argument)
        if equals and not value and name not in MAY_BE_EMPTY:
            what = name if name.startswith("-") else "an argument"
            raise ValueError(f"{what} is empty (an unset variable of the shell?): give a value, or leave it out")
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{argument!r} holds bytes that are not UTF-8: choose another name") from None
        before = argument


class Commands(TyperGroup):
    """The commands, and what is said where one fails: a usage error without raw characters, a bug in one line."""

    def main(self, *args, **kwargs):
        """As in typer; an exception that nobody expected becomes one line and exit code 70."""
        _folder.clear()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a terminal without "±" must not end an evaluation
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().main(*args, **kwargs)
        except Exception as error:
            if not kwargs.get("standalone_mode", True):
                raise
            sys.exit(_unexpected(error))

    def make_context(self, *args, **kwargs):
        """As in click."""
        with _usage_errors():
            return super().make_context(*args, **kwargs)

    def parse_args(self, context, args):
        """As in click; what no command could make sense of is refused."""
        with one_line_errors():
            check_arguments(args)
        return super().parse_args(context, args)

    def invoke(self, context):
        """As in click."""
        with _usage_errors():
            return super().invoke(context)


@contextmanager
def _usage_errors() -> Iterator[None]:
    """What click says of an option, without raw characters and secrets of its value."""
    try:
        yield
    except UsageError as error:
        error.message = shown(error.message)
        raise


def is_ours(error: BaseException) -> bool:
    """Whether it was raised in trapo's own code, not in a library's."""
    return _modules(error)[-1][0].startswith("trapo")


def _modules(error: BaseException) -> list[tuple[str, int]]:
    """Module and line of every frame that an exception went through, the one that raised it last."""
    return [(frame.f_globals.get("__name__", ""), line) for frame, line in traceback.walk_tb(error.__traceback__)]


def _unexpected(error: Exception) -> int:
    """Say an error that is no input's fault; the exit code."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # Python's, torch's
        say(f"{_error()}: " + _OUT_OF_MEMORY.format(text=text[:200] or type(error).__name__), err=True)
        return 1
    ours = [(name, line) for name, line in _modules(error) if name.startswith("trapo") and name != __name__]
    place = f", {ours[-1][0]} line {ours[-1][1]}" if ours else ""
    try:
        kept = f"the full text is in {_keep(error)}"
    except OSError as full:
        kept = f"its full text could not be kept ({full})"
    say(
        f"{_error()}: {type(error).__name__}: {text[:300]}{place}: this is a bug in trapo, please report it; {kept}",
        err=True,
    )
    return BUG


def _keep(error: Exception) -> Path:
    """Write the whole traceback, without secrets, where it is found again; the path."""
    full = "".join(traceback.format_exception(error))
    text = f"$ {' '.join(redacted_command([Path(sys.argv[0]).name, *sys.argv[1:]]))}\n{redacted(full)}"
    if _folder and _folder[0].is_dir():
        path = _folder[0] / CRASH
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
        return path
    handle, name = tempfile.mkstemp(prefix="trapo-", suffix=f"-{CRASH}")
    with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    return Path(name)
