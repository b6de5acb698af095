"""`python -m trapo_analysis.point JSON`: one point of a sweep: train or go on, then evaluate. Started by `sweep.py`.

What the commands print goes to the point's log; on failure the last line of the error goes to standard output, for the
one that started this.
"""

import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, TextIO

from trapo.run import RunFolder

TRAPO = [sys.executable, "-P", "-c", "from trapo_cli.cli import app; app(prog_name='trapo')"]


def main(what: dict[str, Any]) -> int:
    """Run what is missing of a point; the exit code.

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
            if code := _run(["train", *what["flags"], "--output_dir", what["folder"], *resume], output):
                return code
        if what["bench"]:
            flags = ["--bench", what["bench"], "--samples", str(what["samples"]), "--temperature", "1"]
            flags += ["--model", model, "--out", str(evaluation)]
            return _run(["eval", *flags], output)
    return 0


def _run(arguments: list[str], output: TextIO) -> int:
    output.write(f"$ trapo {' '.join(arguments)}\n")
    output.flush()
    begin = output.tell()
    code = subprocess.run([*TRAPO, *arguments], stdout=output, stderr=output).returncode
    if code:
        output.seek(begin)
        lines = [line.strip() for line in output.read().splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")] or lines[-1:]
        print(errors[-1] if errors else f"trapo {arguments[0]} ended with exit code {code}")
    return code


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
