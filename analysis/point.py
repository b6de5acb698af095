"""`python -m trapo_analysis.point JSON`: one point of a sweep: train or go on, then evaluate. Started by `sweep.py`.

What the commands print goes to the point's log; on failure the last line of the error goes to standard output, for the
one that started this.
"""

import json
import subprocess
import sys
from pathlib import Path

from trapo.run import RunFolder

TRAPO = [sys.executable, "-P", "-c", "from trapo_cli.cli import app; app(prog_name='trapo')"]


def main(what: dict) -> int:
    """Run what is missing of a point; the exit code."""
    folder = RunFolder(what["folder"])
    if not folder.final.exists():
        resume = ["--resume"] if folder.has_run() else []
        if code := _run(["train", *what["flags"], "--output_dir", what["folder"], *resume], what["log"]):
            return code
    if what["bench"]:
        flags = ["--bench", what["bench"], "--samples", str(what["samples"]), "--temperature", "1"]
        return _run(["eval", *flags, "--model", str(folder.final), "--out", str(folder.path / "eval")], what["log"])
    return 0


def _run(arguments: list[str], log: str) -> int:
    with open(log, "a+", encoding="utf-8") as output:
        output.write(f"$ trapo {' '.join(arguments)}\n")
        output.flush()
        begin = output.tell()
        done = subprocess.run([*TRAPO, *arguments], stdout=output, stderr=output)
        if done.returncode:
            output.seek(begin)
            lines = [line.strip() for line in output.read().splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith("error: ")] or lines[-1:]
            print(errors[-1] if errors else f"trapo {arguments[0]} ended with exit code {done.returncode}")
    return done.returncode


if __name__ == "__main__":
    Path(json.loads(sys.argv[1])["log"]).parent.mkdir(parents=True, exist_ok=True)
    sys.exit(main(json.loads(sys.argv[1])))
