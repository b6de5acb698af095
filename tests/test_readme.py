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


def test_no_cell_of_a_table_is_longer_than_a_line():
    cells = [cell.strip() for line in README.splitlines() if line.startswith("|") for cell in line.split("|")]
    assert max(map(len, cells)) <= 120


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "AGENTS.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
