"""`trapo data prepare` on 46,000 made-up rows in the layout of Openr1-Math-46k-8192, broken ones among them.

    python benchmarks/prepare.py [--rows 46000] [--check-experts] [--with "--tokenizer M --max-tokens 8192 ..."]

Traces have 8,000 tokens or so (26,000 characters). Seconds and peak memory of the command, and its rate.
"""

import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from sidebyside import parser

CHARACTERS = 26_000
SENTENCES = [
    "First we compute the sum of the two sides and subtract it from the perimeter. ",
    "Wait, let me check: $\\frac{{{a}}}{{{b}}} + {c} = {d}$, so this does not hold. ",
    "Therefore $x^{a} \\equiv {b} \\pmod{{{c}}}$ and the remainder is {d}.\n\n",
]


def trace(rng: random.Random, answer: str) -> str:
    """A long text that ends in a box."""
    parts, length, whole = [], 0, CHARACTERS * rng.uniform(0.6, 1.4)
    while length < whole:
        numbers = {name: rng.randrange(1, 99) for name in "abcd"}
        parts.append(rng.choice(SENTENCES).format(**numbers))
        length += len(parts[-1])
    return "<think>" + "".join(parts) + f"</think>\n\nThe answer is \\boxed{{{answer}}}."


def row(i: int, rng: random.Random, text: str) -> dict:
    """A row of the hub's layout; every 50th is broken in one way or another."""
    answer = str(rng.randrange(1000)) if i % 3 else f"\\frac{{{rng.randrange(1, 99)}}}{{{rng.randrange(1, 99)}}}"
    found = {
        "prompt": [{"role": "system", "content": "Think."},
                   {"role": "user", "content": f"Problem {i}: find {rng.randrange(10**6)} x + {rng.randrange(99)}."}],
        "target": [{"role": "assistant", "content": text[: -len("000}.")] + answer + "}."}],
        "reward_model": {"ground_truth": answer, "style": "rule"},
        "data_source": "math", "ability": "math", "extra_info": {"index": -1, "split": "default"},
    }  # fmt: skip
    if i % 50 == 0:
        broken = {
            0: {"prompt": []}, 1: {"prompt": None},
            2: {"reward_model": {"ground_truth": "", "style": "r"}},
            3: {"reward_model": None}, 4: {"target": []}, 5: {"target": [{"role": "user", "content": "x"}]},
            6: {"target": [{"role": "assistant", "content": " "}]},
            7: {"prompt": [{"role": "user", "content": "same"}]},
        }  # fmt: skip
        found |= broken[i // 50 % len(broken)]
    return found


def make(path: Path, rows: int) -> None:
    """The file; traces are taken from a pool, cut at other places, for the making's sake."""
    rng = random.Random(0)
    pool = [trace(rng, "000") for _ in range(200)]
    writer = None
    for start in range(0, rows, 1000):
        batch = []
        for i in range(start, min(start + 1000, rows)):
            text = rng.choice(pool)
            batch.append(row(i, rng, "<think>" + text[rng.randrange(7, 400) :]))
        table = pa.Table.from_pylist(batch)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table.cast(writer.schema))
    writer.close()


def main() -> None:
    """Make, measure, print, write."""
    options = parser(__doc__, "prepare", 1)
    options.add_argument("--rows", type=int, default=46_000)
    options.add_argument("--check-experts", action="store_true")
    options.add_argument("--with", dest="more", default="--bench ''", help="more flags of the command")
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "rows.parquet", Path(folder) / "out.parquet"
        make(source, options.rows)
        command = [sys.executable, "-P", "-c", "from trapo_cli.cli import app; app()", "data", "prepare", str(source)]
        command += ["--out", str(out), "--check-experts" if options.check_experts else "--no-check-experts"]
        command += shlex.split(options.more)
        started = time.perf_counter()
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        summary = json.loads(Path(f"{out}.summary.json").read_text())
        figures = {
            "exit code": os.waitstatus_to_exitcode(status), "rows": options.rows,
            "experts checked": options.check_experts, "flags": options.more,
            "source MiB": source.stat().st_size / 2**20, "characters, median": summary["characters"][5],
            "seconds": seconds, "CPU seconds": usage.ru_utime + usage.ru_stime,
            "rows per second": options.rows / seconds,
            "peak MiB": usage.ru_maxrss / 1024, "kept": summary["kept"], "dropped": summary["dropped"],
        }  # fmt: skip
    print(json.dumps(figures, indent=1))
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
