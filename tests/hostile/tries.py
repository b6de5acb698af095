"""`make test-hostile`: thousands of hostile command lines in this process, counted by what became of them.

    python tests/hostile/tries.py --tries 2000 --seed 0 --minutes 20 --out build/hostile.json

The goal is nothing but successes and one-line errors: no traceback, no hang, nothing lost, no secret anywhere.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TQDM_DISABLE"] = "1"

from kinds import KINDS, SECRET, Base, Try
from typer.testing import CliRunner

LIMIT = 60  # seconds of one try
RAW = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
FAULTS = ("traceback", "hang", "lost", "leak", "raw characters", "many lines", "exit code")


class Hang(BaseException):
    """A try that takes too long; no exception that a library would catch."""


def outcome(tried: Try, folder: Path) -> tuple[str, str]:
    """What became of a try, "ok", "refused" or one of FAULTS, and what was printed."""
    from trapo_cli.cli import app

    before = {file: content for path in tried.kept for file, content in contents(path).items()}
    signal.signal(signal.SIGALRM, _hang)
    signal.alarm(LIMIT)
    here = Path.cwd()
    os.chdir(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = CliRunner().invoke(app, tried.arguments, prog_name="trapo")
    except Hang:
        return "hang", ""
    finally:
        signal.alarm(0)
        os.chdir(here)
    said = done.output
    if done.exit_code == 70 or "Traceback" in said or not isinstance(done.exception, SystemExit | None):
        return "traceback", said
    if any(not file.exists() or file.read_bytes() != was for file, was in before.items()):
        return "lost", said
    if tried.secret and (SECRET in said or holds(folder, SECRET.encode())):
        return "leak", said
    if RAW.search(said):
        return "raw characters", said
    if done.exit_code not in (0, 1, 2, 130):
        return "exit code", said
    if done.exit_code == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") != 1:
        return "many lines", said
    return ("refused" if done.exit_code else "ok"), said


def _hang(number, frame):
    raise Hang


def contents(path: Path) -> dict[Path, bytes]:
    """What a file holds, or every file below a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return {file: file.read_bytes() for file in files if file.is_file() and file.name != ".lock"}


def holds(folder: Path, secret: bytes) -> bool:
    """Whether any file below a folder, which only the command wrote into, has the secret."""
    return any(secret in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def quick(put=setattr) -> None:
    """Leave out what takes seconds and is not what is tried: pictures. `put` as setattr."""
    from trapo_analysis import figures
    from trapo_evals import figures as eval_figures

    put(figures, "draw", lambda *args, **kwargs: {})
    put(eval_figures, "draw", lambda *args, **kwargs: [])
    put(eval_figures, "draw_comparison", lambda *args, **kwargs: [])


def main(tries: int, seed: int, minutes: float, only: str | None = None) -> dict:
    """Run; kind -> outcome -> count, and the first of each fault."""
    ends = time.monotonic() + 60 * minutes
    counts: dict[str, Counter] = {kind.__name__: Counter() for kind in KINDS}
    found: list[dict] = []
    with tempfile.TemporaryDirectory() as top:
        base = Base(Path(top))
        quick()
        kinds = [kind for kind in KINDS if only in (None, kind.__name__)]
        for number in range(tries):
            if time.monotonic() > ends:
                break
            rng = random.Random(f"{seed} {number}")
            kind = rng.choices(kinds, [KINDS[k] for k in kinds])[0]
            folder = Path(top) / f"try-{number}"
            folder.mkdir()
            tried = kind(base, folder, rng)
            result, said = outcome(tried, folder)
            counts[kind.__name__][result] += 1
            if result in FAULTS:
                found.append({"try": number, "kind": kind.__name__, "what": result, "said": said[-500:],
                              "arguments": [a.replace(top, "TOP") for a in tried.arguments]})  # fmt: skip
            shutil.rmtree(folder, ignore_errors=True)
    return {"seed": seed, "counts": counts, "faults": found}


def table(counts: dict[str, Counter]) -> list[str]:
    """A line per kind, as docs/reliability.md has them."""
    names = ("ok", "refused", *FAULTS)
    rows = [("kind", "tries", *names), ("---",) * (len(names) + 2)]
    rows += [(kind, sum(c.values()), *(c[name] for name in names)) for kind, c in counts.items()]
    total = sum(counts.values(), Counter())
    rows.append(("all", sum(total.values()), *(total[name] for name in names)))
    return ["| " + " | ".join(map(str, row)) + " |" for row in rows]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tries", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--only", help="One kind.")
    parser.add_argument("--out", type=Path, help="The faults, as JSON.")
    asked = parser.parse_args()
    made = main(asked.tries, asked.seed, asked.minutes, asked.only)
    print("\n".join(table(made["counts"])))
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(made, indent=1))
    for fault in made["faults"]:
        print(ascii(fault))
    sys.exit(bool(made["faults"]))
