"""The wheel holds what git holds, and the installed command is ours, from any folder, beside colliding packages."""

import os
import subprocess
import sys
import tomllib
import zipfile

import pytest
from places import ROOT


def sh(*command, **kwargs):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True, **kwargs)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: the wheel is compared with git ls-files")
    folder = tmp_path_factory.mktemp("wheel")
    sh("git", "archive", "--output", folder / "source.tar", "HEAD", cwd=ROOT)
    (folder / "source").mkdir()
    sh("tar", "xf", folder / "source.tar", "-C", folder / "source")
    sh(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, folder / "source")
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_file_of_the_rooms(wheel):
    rooms = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    expected = set()
    for path in sh("git", "ls-tree", "-r", "--name-only", "HEAD", cwd=ROOT).stdout.splitlines():
        for package, folder in rooms.items():
            if folder == ".":
                if "/" not in path and path.endswith(".py"):
                    expected.add(f"{package}/{path}")
            elif path.startswith(f"{folder}/"):
                expected.add(package + path.removeprefix(folder))
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == expected


def test_installed_elsewhere_it_runs_beside_a_package_that_owns_the_plain_names(wheel, tmp_path):
    site = tmp_path / "site"
    sh(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel)
    for name in ("evals", "cli", "toy", "analysis"):
        (site / f"{name}.py").write_text("raise SystemExit('the wrong package')")
    code = (
        "import trapo, trapo_toy.world, trapo_cli.cli as c, pathlib; "
        "assert all('site' in pathlib.Path(m.__file__).parts for m in (trapo, trapo_toy, c)); "
        "assert (trapo_toy.world.BASE / 'config.json').exists(); c.app(['recipes'])"
    )
    done = sh(sys.executable, "-c", code, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(site)})
    assert "trapo-reference" in done.stdout
    train = "from trapo_cli.cli import app; app(['train', '--dry-run'])"
    done = sh(sys.executable, "-c", train, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(site)})
    assert "world" in done.stdout and list(tmp_path.iterdir()) == [site]
