"""Chat templates with limits: a template is somebody's program, and may loop, or double its text, without an end.

It is run in a fork of this process first, which may take so much time and memory and is killed then. What has come out
of that, and of prompts at most twice as large, is then rendered here.
"""

import json
import os
import resource
import select
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..terminal import visible

CPU_SECONDS = 5
WALL_SECONDS = 60.0  # for a machine that has other things to do
MEMORY = 2**30  # bytes, besides what the process has
LONGEST = 4_000_000  # characters of a prompt
_REMEDY = "mend it, or use --template reference or raw"
_tried: dict[tuple[str, str], int] = {}  # template and arguments -> size of the largest prompt it was tried with


class Endless(ValueError):
    """A template that goes beyond a limit, for whatever prompt."""


def render(messages: list[dict[str, Any]], tokenizer, **arguments: Any) -> str:
    """The messages by the tokenizer's own template, with the prompt for an answer behind.

    Raises:
        Endless: it takes too long, too much memory, or writes too much.
        ValueError: it fails.
    """

    def rendered() -> str:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **arguments)

    key = (str(tokenizer.chat_template), json.dumps(arguments, sort_keys=True, default=str))
    size = sum(64 + len(str(message.get("content"))) for message in messages)
    if size > 2 * _tried.get(key, 0):
        if why := _try(rendered):
            raise Endless(f"the chat template does not end: {why} for one prompt: {_REMEDY}")
        _tried[key] = size
    try:
        return rendered()
    except Exception as error:  # whatever a program may raise
        said = visible(" ".join(str(error).split()))[:300]
        raise ValueError(f"the chat template fails: {said or type(error).__name__}: {_REMEDY}") from error


def _try(work: Callable[[], str]) -> str:
    """What is beyond a limit when `work` runs in a fork; "" where nothing is, or where it fails by itself."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: it runs nothing of theirs
        child = os.fork()
    if not child:
        _limited(work, writing)
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], WALL_SECONDS)
        said = os.read(reading, 100).decode() if ready else "too slow"
    finally:
        os.close(reading)
        if not _ended(child):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return {"ok": "", "": f"it took more than {CPU_SECONDS} s"}.get(said, said)


def _ended(child: int) -> bool:
    """Whether the process is gone; it is collected then."""
    return os.waitpid(child, os.WNOHANG)[0] == child


def _limited(work: Callable[[], str], writing: int) -> None:
    """Be the fork; never returns."""
    said = "ok"
    try:
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        statm = Path("/proc/self/statm")
        if statm.exists():
            most = int(statm.read_text().split()[0]) * resource.getpagesize() + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        if len(work()) > LONGEST:
            said = f"it wrote more than {LONGEST} characters"
    except MemoryError:
        said = f"it took more than {MEMORY // 2**20} MiB"
    except BaseException:
        pass  # it fails here as there, where it is told
    finally:
        os.write(writing, said.encode())
        os._exit(0)
