"""`make gpu-check` on a CPU at a tiny size: every section runs, and the report says what a GPU's would."""

import json
import sys
from types import SimpleNamespace

import pytest
from places import ROOT
from typer.testing import CliRunner

from trapo_cli.cli import app

sys.path.insert(0, str(ROOT / "benchmarks"))


@pytest.fixture
def check(monkeypatch):
    import gpu_check
    import gpu_sections

    def trapo(*arguments):  # the command, without a process of its own
        done = CliRunner().invoke(app, arguments)
        return SimpleNamespace(returncode=done.exit_code, stderr=done.output)

    monkeypatch.setattr(gpu_check, "in_a_process", lambda name, size, left: gpu_check.measure(name, size))
    monkeypatch.setattr(gpu_sections, "trapo", trapo)
    return gpu_check


def run(check, monkeypatch, out, *names):
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--size", "tiny", "--only", *names, "--out", str(out)])
    code = check.main()
    return code, json.loads(out.read_text())


def test_every_section_runs(check, monkeypatch, tmp_path, capsys):
    names = [name for name in check.SECTIONS if name != "tests"]  # it would run us
    code, found = run(check, monkeypatch, tmp_path / "found.json", *names)
    sections = found["sections"]
    assert {name: section.get("error") for name, section in sections.items()} == dict.fromkeys(names)
    assert code == 0 and all(section["ok"] for section in sections.values())
    assert found["machine"]["torch"] and list(sections) == names
    assert sections["exactness"]["fixed shape"] == 0
    assert sections["kill"]["steps"] == [1, 2, 3, 4]
    assert sections["world"]["drawn by"]["engine"] == "torch"
    assert sections["decode"]["8 x 64"]["path"] == "eager"
    assert set(sections["engines"]["uniform"]) == {
        "embedded", "embedded, eager", "transformers", "generate", "embedded / generate"
    }  # fmt: skip
    assert sections["update"]["ours / TRL"] > 0 and sections["step"]["TRAPO / TRL"] > 0
    assert sections["lora"]["planned GiB"] > 0
    assert "TRAPO / TRL" in capsys.readouterr().out


def test_a_section_that_fails_is_said_and_the_others_go_on(check, monkeypatch, tmp_path):
    def dies(size, folder):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setitem(check.SECTIONS, "decode", dies)
    monkeypatch.setitem(check.SECTIONS, "kill", lambda size, folder: {"ok": False})
    monkeypatch.setitem(check.SECTIONS, "lora", lambda size, folder: {"s / step": 1.0})
    code, found = run(check, monkeypatch, tmp_path / "found.json", "decode", "kill", "lora")
    assert code == 1
    assert found["sections"]["decode"]["error"] == "RuntimeError: CUDA error: device-side assert triggered"
    assert [section["ok"] for section in found["sections"].values()] == [False, False, True]


def test_what_time_does_not_allow_is_no_failure(monkeypatch, tmp_path):
    import gpu_check

    assert gpu_check.in_a_process("decode", "tiny", 0.0) == {"ok": None, "error": "no time left"}


def test_the_real_size_needs_a_gpu(check, monkeypatch, capsys):
    monkeypatch.setattr(check, "on_gpu", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    assert check.main() == 2 and "--size tiny" in capsys.readouterr().err
