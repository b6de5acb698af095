import json
import re
import subprocess
import sys

from places import ROOT

README = (ROOT / "README.md").read_text()


def test_the_python_example_runs(tmp_path):
    (block,) = re.findall(r"the test suite runs this block -->\n```python\n(.*?)```", README, re.S)
    assert sum(bool(line.strip()) for line in block.splitlines()) <= 12
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "runs/python/metrics.jsonl").read_text().splitlines()) == 2
    assert json.loads((tmp_path / "runs/python/run.json").read_text())["method"]["alpha"] == 0.1
    assert (tmp_path / "runs/python/final/model.safetensors").exists()


def test_the_readme_names_every_file_of_the_core():
    for path in (ROOT / "trapo").glob("*.py"):
        if path.name not in ("__init__.py", "grading_worker.py"):
            assert f"`{path.name}`" in README, path.name
