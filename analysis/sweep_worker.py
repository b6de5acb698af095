"""`python -m trapo_analysis.sweep_worker [JSON]`: points of a sweep, started by `sweep.py`: train, then evaluate.

With JSON it is that one point. Without, each line of standard input is one and is answered by a line: loading the
libraries takes as long as many small steps, so they are loaded once and every command runs in a fork of this process.

What the commands print goes to the point's log; on failure the last line of the error is the answer.
"""

import fcntl
import importlib
import json
import os
import sys
import traceback
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TextIO

from trapo.redact import redacted_command
from trapo.runs.folder import RunFolder

LOADED = ("trapo.command.stages", "trapo_evals.evaluate")  # what the commands need and is slow to import


def main(what: dict[str, Any]) -> tuple[int, str]:
    """Run what is missing of a point; the exit code, and the error in a line ("" for none).

    Args:
        what: `folder` of the run, `log`, `flags` of `trapo train`, `bench` and `samples` of `trapo eval` ("" for none);
            with `model`, that is evaluated and nothing trained.
    """
    log = Path(what["log"])
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a+", encoding="utf-8") as output:
        # A point of a sweep that was killed may still be at it: wait for it. Its commands hold the lock too.
        fcntl.flock(output, fcntl.LOCK_EX)
        folder = RunFolder(what["folder"])
        evaluation = folder.path / "eval"
        model = what.get("model") or str(folder.final)
        if not (what.get("model") or folder.final.exists()):
            resume = ["--resume"] if folder.has_run() else []
            code, error = _run(["train", *what["flags"], "--output_dir", what["folder"], *resume], output)
            if code:
                return code, error
        if what["bench"]:
            flags = ["--bench", what["bench"], "--samples", str(what["samples"]), "--temperature", "1"]
            flags += ["--model", model, "--out", str(evaluation), *what.get("eval_flags", ())]
            return _run(["eval", *flags], output)
    return 0, ""


def _run(arguments: list[str], output: TextIO) -> tuple[int, str]:
    """`trapo ARGUMENTS` in a fork, its output to the log; as `main`."""
    output.write(f"$ trapo {' '.join(redacted_command(arguments))}\n")
    output.flush()
    begin = output.tell()
    if not (child := os.fork()):
        _become(arguments, output)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if not code:
        return 0, ""
    output.seek(begin)
    lines = [line.strip() for line in output.read().splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")] or lines[-1:]
    return code, errors[-1] if errors else f"trapo {arguments[0]} ended with exit code {code}"


def _become(arguments: list[str], output: TextIO) -> None:
    """Be the command, in a fork; never returns."""
    code = 1
    try:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
        sys.argv = ["trapo", *arguments]  # what the run folder says it was made by
        (command,) = entry_points(group="console_scripts", name="trapo")
        command.load()(prog_name="trapo")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)  # no clean-up that belongs to the parent


def serve() -> None:
    """Answer each line of standard input, a point, with one of standard output."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else prints, libraries on loading among them
    for name in LOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        answers.write(json.dumps(main(json.loads(line))) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        serve()
    else:
        exit_code, said = main(json.loads(sys.argv[1]))
        print(said)
        sys.exit(exit_code)
