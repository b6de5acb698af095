"""Does trapo work on this machine's GPU, and how fast: one JSON and one table in at most eight minutes.

    make gpu-check                                  # or: python benchmarks/gpu_check.py --out FILE
    python benchmarks/gpu_check.py --size tiny      # on a CPU: nothing of it can rot

Needs nothing from a hub: random weights of a real shape (`--size 1.5b`, adapters at 7b) and the built-in world's
tokenizer. Each section (`gpu_sections.py`) runs in a process of its own, so that one that dies takes no other with it;
what time does not allow is listed as such. Exit code 1 if anything failed that must hold.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from gpu_sections import SECTIONS, SIZES, on_gpu
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve()
SECONDS = 480


def measure(name: str, size: str) -> dict:
    """A section's figures, its seconds, and whether it held."""
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = {"ok": True} | SECTIONS[name](SIZES[size], Path(folder))
        except Exception as error:  # one line in the table, the others go on
            found = {"ok": False, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:1000]}"}
    return found | {"seconds": time.perf_counter() - began}


def in_a_process(name: str, size: str, left: float) -> dict:
    """`measure`, where nothing that it leaves behind is in another's way."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        call = [sys.executable, str(HERE), "--section", name, "--size", size, "--out", str(out)]
        try:
            done = subprocess.run(call, timeout=max(left, 1), capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            return {"ok": None, "error": "no time left"}
        if not out.exists():
            return {"ok": False, "error": f"died with {done.returncode}: {done.stderr.strip()[-500:]}"}
        return json.loads(out.read_text())


def machine() -> dict[str, Any]:
    """What the figures belong to."""
    from importlib import metadata

    packages = ("torch", "transformers", "trl", "accelerate", "peft", "vllm", "trapo")
    found = {name: metadata.version(name) for name in packages if find_spec(name)}
    if on_gpu():
        properties = torch.cuda.get_device_properties(0)
        found |= {"GPU": properties.name, "GiB": properties.total_memory / 2**30, "CUDA": torch.version.cuda}
    return found | {"processor": platform.machine(), "python": platform.python_version()}


def show(found: dict[str, dict], console: Console) -> None:
    """A line per figure."""
    table = Table("section", "figure", "value", title="gpu-check")

    def put(section: str, name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                put(section, f"{name}: {key}" if name else key, inner)
        else:
            table.add_row(section, name, f"{value:.4g}" if isinstance(value, float) else str(value))

    for section, figures in found.items():
        put(section, "", figures)
    console.print(table)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1.5b")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu_check.json"))
    options = parser.parse_args()
    if options.section:
        options.out.write_text(json.dumps(measure(options.section, options.size), default=str))
        return 0
    if not on_gpu() and options.size != "tiny":
        print("there is no GPU that torch can use: --size tiny runs everything on a CPU", file=sys.stderr)
        return 2
    began, found = time.monotonic(), {}
    for name in options.only:
        found[name] = in_a_process(name, options.size, options.seconds - (time.monotonic() - began))
        print(f"{name}: {found[name].get('error') or 'ok'} ({found[name].get('seconds', 0):.0f} s)", flush=True)
    show(found, Console(width=160))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"machine": machine(), "size": options.size, "sections": found}, indent=1))
    print(options.out)
    return int(any(figures["ok"] is False for figures in found.values()))


if __name__ == "__main__":
    sys.exit(main())
