"""The scripts of benchmarks/ load: nothing that they measure has been renamed under them."""

import subprocess
import sys

from places import ROOT

BENCHMARKS = ROOT / "benchmarks"


def test_every_benchmark_loads():
    names = sorted(path.stem for path in BENCHMARKS.glob("*.py"))
    assert len(names) >= 10
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=BENCHMARKS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
