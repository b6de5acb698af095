import csv
import json
import subprocess
import sys

import pytest
from places import TRAPO
from typer.testing import CliRunner

from trapo.plotting import read_settings
from trapo_cli.cli import app
from trapo_toy import mixture_command as run

FIGURES = ("snapshots", "curves", "alpha", "tokens", "proposition")
TEXT = "0.5:-3:1,0.5:3:1"
ALPHAS = ("--alpha", 0.05, "--alpha", 0.1)


def invoke(*arguments):
    return CliRunner().invoke(app, ["toy-gmm", *map(str, arguments)], prog_name="trapo")


def small(patch):
    """Fewer alphas and steps: what is tested here is what is written, not what is learned."""
    patch.setattr(run, "SNAPSHOTS", (0, 5, 20, 40))
    patch.setattr(run, "SWEEP", (0.15, 1.0))
    patch.setattr(run, "SWEEP_STEPS", (5, 10))
    patch.setattr(run, "TOKEN_STEPS", 20)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of the command, for two seeds from 5, with alphas of its own: what it printed, its folder, its files."""
    folder = tmp_path_factory.mktemp("toy") / "new" / "out"
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        done = invoke("--out", folder, "--seeds", 2, "--seed", 5, *ALPHAS, "--token-alpha", 0.2, "--policy", TEXT)
    assert done.exit_code == 0, done.stderr
    return done.stdout, folder


def test_the_folder_holds_numbers_and_every_figure(made):
    _, folder = made
    figures = [f"{name}.{kind}" for name in FIGURES for kind in ("png", "pdf", "json")]
    assert sorted(p.name for p in folder.iterdir()) == sorted(["results.csv", "results.json", *figures])


def test_results_say_settings_and_command(made):
    _, folder = made
    found = json.loads((folder / "results.json").read_text())
    assert found["command"] == f"trapo toy-gmm --seeds 2 --alpha 0.05,0.1 --seed 5 --token-alpha 0.2 --policy {TEXT}"
    told = found["settings"]
    assert (told["alpha"], told["token_alpha"], told["seeds"]) == (0.05, 0.2, [5, 6])
    assert told["alpha_over_peak"] == pytest.approx(0.05 / 0.13963, rel=1e-4)
    assert str(folder) not in json.dumps(found)


def test_the_same_settings_give_the_same_bytes(made, monkeypatch):
    small(monkeypatch)
    settings = run.read_settings(None, TEXT, ["0.05,0.1"], 0.2, seeds=2, seed=5)
    again = json.dumps(run.results(settings), allow_nan=False) + "\n"
    assert (made[1] / "results.json").read_text() == again


def test_every_figure_says_alpha_and_the_command(made):
    from PIL import Image

    for name in FIGURES:
        told = read_settings(made[1] / f"{name}.png")
        assert told["alpha"], name
        with Image.open(made[1] / f"{name}.png") as image:
            assert image.text["Command"].startswith("trapo toy-gmm --seeds 2 --alpha 0.05,0.1")


def test_every_title_says_alpha(made):
    from trapo_toy.figures import figures

    found = json.loads((made[1] / "results.json").read_text())
    settings = run.read_settings(None, TEXT, ["0.05,0.1"], 0.2, seeds=2, seed=5)
    drawn = {name: figure for name, (figure, _) in figures(settings, found).items()}
    titles = {name: figure.get_suptitle() for name, figure in drawn.items()}
    assert "= 0.05 per unit length = 0.358 of the expert's peak" in titles["snapshots"]
    assert "= 0.05 per unit length = 0.358 of the expert's peak" in titles["curves"]
    assert "0.15 to 1" in titles["alpha"] and "alpha$ / peak" in titles["alpha"]
    assert "= 0.2" in titles["tokens"] and "0.2" in titles["proposition"]


def test_the_csv_holds_the_numbers_of_the_json(made):
    found = json.loads((made[1] / "results.json").read_text())
    with open(made[1] / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    (row,) = [r for r in rows if (r["start"], r["method"], r["seed"], r["step"]) == ("policy", "sft", "6", "20")]
    numbers = found["mixture"]["methods"]["sft"]["void"][found["mixture"]["step"].index(20)]
    assert float(row["void"]) == numbers[1] and row["alpha"] == ""
    swept = [r for r in rows if (r["start"], r["method"], r["seed"]) == ("wide", "trsft", "5") and r["step"] == "10"]
    assert [float(r["alpha_over_peak"]) for r in swept] == pytest.approx(
        [0.15, 0.05 / 0.13963, 0.1 / 0.13963, 1], rel=1e-4
    )
    assert float(swept[1]["modes"]) == found["sweep"]["starts"]["wide"]["trsft"]["modes"][1][1][0]


def test_the_table_and_the_path_are_printed(made):
    printed, folder = made
    assert "alpha = 0.05 = 0.358 of the peak; median and range, seeds: 2" in printed
    assert all(word in printed for word in ("SFT", "TrSFT", "DFT", "LUFFY", "void mass", "reverse KL", "40"))
    assert f"Made: {folder}" in printed and max(map(len, printed.splitlines()[:-1])) <= 100


def test_help_loads_neither_torch_nor_matplotlib(tmp_path):
    for name in ("torch", "matplotlib", "numpy"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} was loaded')")
    env = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "COLUMNS": "200"}
    done = subprocess.run([TRAPO, "toy-gmm", "--help"], capture_output=True, text=True, env=env)
    assert done.returncode == 0 and "--token-alpha" in done.stdout, done.stderr


ERRORS = [
    (["--alpha", "0"], "alpha is 0: as a density it is a finite number above 0"),
    (["--alpha", "nan"], "alpha is nan"),
    (["--alpha", "0.02,-1"], "alpha is -1: as a density"),
    (["--alpha", "0.02,x"], "alpha 'x' is not a number; give one or several, as in 0.02,0.05"),
    (["--token-alpha", "1.5"], "token_alpha is 1.5: on tokens alpha is a probability in (0, 1]"),
    (["--token-alpha", "0"], "token_alpha is 0: on tokens alpha is a probability in (0, 1]"),
    (["--seeds", "0"], "seeds is 0: at least 1 is needed"),
    (["--seed", "-1"], "seed is -1: it must be 0 or more"),
    (["--expert", "0.5:0:1,0.4:3:1"], "expert 0.5:0:1,0.4:3:1: the weights sum to 0.9: they must sum to 1"),
    (["--policy", "0.5:0:1,0.5:3"], "policy 0.5:0:1,0.5:3: '0.5:3' is not weight:mean:sd"),
    (["--policy", "1:0:0"], "policy 1:0:0: sd 0 is not positive"),
    (["--expert", "0.5:0:1,0.5:1e6:1"], "is too small for components that reach from"),
    (["--policy", "1:1e6:1"], "expert and policy together: sd 1 is too small for components that reach from"),
    (["--out", "file/below"], "out file/below cannot be written (Not a directory): choose another folder"),
    (["--out", "file"], "out file cannot be written (File exists): choose another folder"),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS, ids=["".join(a) for a, _ in ERRORS])
def test_bad_input_is_one_line_and_exit_code_2_before_any_work(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(run, "results", lambda *_: pytest.fail("work was begun"))
    done = invoke(*arguments)
    assert done.exit_code == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and message in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_missing_matplotlib_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(run, "results", lambda *_: pytest.fail("work was begun"))
    done = invoke("--out", tmp_path / "out")
    assert done.exit_code == 2 and "pip install 'trapo[toy]'" in done.stderr and not (tmp_path / "out").exists()


def test_one_mode_and_one_component_are_enough():
    settings = run.Settings(expert=run.Mixture((1,), (2,), (0.5,)), policy=run.Mixture((1,), (0,), (1,)))
    assert list(run.starts(settings)) == ["policy", "wide"]
