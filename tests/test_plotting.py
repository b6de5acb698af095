import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from trapo.plotting import (
    CAPTION_LINES,
    METHOD_COLORS,
    METHOD_DASHES,
    METHOD_LABELS,
    _caption,
    _captioned,
    _wrap,
    method_line,
    new_figure,
    read_settings,
    save_figure,
    style,
)
from trapo.recipe import recipe_names

SETTINGS = {"seeds": 16, "alpha": 0.021, "expert": {"means": [-6.0, 0.0, 8.0]}, "note": r"(p) costs $5 & \frac$"}


def draw():
    with style():
        figure, axis = new_figure(columns=1, height=1.5)
        axis.plot([0, 1], [0, 1], **method_line("trsft"))
        axis.set_title("void mass, alpha = 0.021")
    return figure


def test_settings_and_command_come_back_from_the_png(tmp_path):
    from PIL import Image

    png, _ = save_figure(draw(), tmp_path / "new" / "void.png", SETTINGS, "trapo toy-gmm --seeds 16")
    assert read_settings(png) == SETTINGS
    with Image.open(png) as image:
        assert image.text["Command"] == "trapo toy-gmm --seeds 16"


def test_the_pdf_names_settings_and_command_and_no_date(tmp_path):
    _, pdf = save_figure(draw(), tmp_path / "void", {"alpha": 0.021}, "trapo toy-gmm --seeds 16")
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF") and content.rstrip().endswith(b"%%EOF")
    assert b"/Subject (trapo toy-gmm --seeds 16)" in content
    assert b'/Keywords ({"alpha": 0.021})' in content
    assert b"Date" not in content


def test_a_dot_in_the_name_is_kept_and_only_the_three_files_are_there(tmp_path):
    save_figure(draw(), tmp_path / "alpha0.1", SETTINGS, "c")
    save_figure(draw(), tmp_path / "alpha0.1.pdf", SETTINGS, "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alpha0.1.json", "alpha0.1.pdf", "alpha0.1.png"]


def test_everything_is_in_the_json_beside(tmp_path):
    settings = {"alpha": 0.1, "cells": [f"cell-{i}" for i in range(300)]}
    save_figure(draw(), tmp_path / "void.png", settings, "trapo  toy-gmm")
    assert json.loads((tmp_path / "void.json").read_text()) == {"settings": settings, "command": "trapo toy-gmm"}


@pytest.mark.parametrize("width", [3.2, 6.7])
@pytest.mark.parametrize(("cells", "words"), [(1, 2), (1, 200), (300, 2), (300, 200)])
def test_a_caption_has_at_most_three_lines_and_says_where_the_rest_is(width, cells, words):
    """alpha and the beginning of the command are always there."""
    command = " ".join(["trapo toy-gmm", *map(str, range(words))])
    with style():
        lines = _caption({"cells": ["long-name"] * cells, "alpha": 0.1}, command, "void.json", width)
        assert len(lines) <= CAPTION_LINES == 3 and all(_wrap(line, width) == [line] for line in lines)
    assert lines[0].startswith("alpha 0.1;") and any(line.startswith("$ trapo toy-gmm 0 1") for line in lines)
    assert ("... (void.json)" in " ".join(lines)) == (cells > 1)


MAKE = """
import sys
sys.path.insert(0, "tests")
from test_plotting import SETTINGS, draw, save_figure
save_figure(draw(), sys.argv[1], SETTINGS, "trapo toy-gmm")
"""


def test_the_same_figure_is_the_same_bytes_in_another_process(tmp_path):
    ours = save_figure(draw(), tmp_path / "ours", SETTINGS, "trapo toy-gmm")
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for seed in ("1", "2"):  # sets of glyphs are iterated in an order that depends on it
        env = {**os.environ, "PYTHONHASHSEED": seed, "MPLBACKEND": "svg"}
        subprocess.run([sys.executable, "-c", MAKE, str(tmp_path / "theirs")], cwd=root, env=env, check=True)
        for path in ours:
            assert path.read_bytes() == (tmp_path / f"theirs{path.suffix}").read_bytes(), path.name


@pytest.mark.parametrize(
    ("settings", "command", "complaint"),
    [
        ({"seeds": 16}, "c", "do not say alpha; add 'alpha'"),
        ({"alpha": ""}, "c", "do not say alpha"),
        ({"alpha": []}, "c", "do not say alpha"),
        ({"alpha": float("nan")}, "c", "cannot be written as JSON"),
        ({"alpha": 0.1, "run": object()}, "c", "cannot be written as JSON"),
        ({"alpha": 0.1}, " ", "name the command"),
    ],
)
def test_a_figure_that_does_not_say_how_it_was_made_is_refused(tmp_path, settings, command, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        save_figure(draw(), tmp_path / "void", settings, command)
    assert "\n" not in str(error.value) and "void" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_methods_without_alpha_say_none(tmp_path):
    png, _ = save_figure(draw(), tmp_path / "void", {"alpha": None}, "c")
    assert read_settings(png) == {"alpha": None}


def test_nothing_is_written_where_the_second_file_cannot_be_drawn(tmp_path, monkeypatch):
    figure = draw()
    saved = figure.savefig

    def savefig(file, format, **kwargs):
        if format == "pdf":
            raise OSError("no")
        saved(file, format=format, **kwargs)

    monkeypatch.setattr(figure, "savefig", savefig)
    with pytest.raises(OSError):
        save_figure(figure, tmp_path / "void", SETTINGS, "c")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("columns", [1, 2])
def test_the_caption_is_whole_and_inside_the_picture(columns):
    dots = 200  # per inch, as it is saved
    caption = f"alpha 0.1; path {'x' * 400} costs $5 and $6; {' '.join(map(str, range(200)))}\n$ trapo toy-gmm"
    with style():
        figure, _ = new_figure(columns=columns, height=1.0)
        figure.set_dpi(dots)
        with _captioned(figure, _wrap(caption, figure.get_size_inches()[0] - 0.12)) as box:
            drawn = [text.get_text() for text in figure.texts]
            extents = [text.get_window_extent() for text in figure.texts]
        assert not figure.texts
    assert "".join(drawn).replace(" ", "") == caption.replace(" ", "").replace("\n", "")
    for above, below in itertools.pairwise(extents):
        assert above.y0 >= below.y1  # no line on another
    for extent in extents:
        assert extent.x0 >= 0 and extent.x1 <= box.x1 * dots
        assert box.y0 * dots <= extent.y0 and extent.y1 <= 0  # below the figure, above the picture's end


def test_saving_leaves_the_figure_and_the_users_style_alone(tmp_path):
    import matplotlib

    matplotlib.get_backend()  # resolved when it is first asked for, whoever asks
    before = matplotlib.rcParams.copy()
    figure = draw()
    save_figure(figure, tmp_path / "void", SETTINGS, "c")
    assert tuple(figure.get_size_inches()) == (3.3, 1.5) and not figure.texts
    assert matplotlib.rcParams == before


def test_a_picture_of_someone_elses_is_named(tmp_path):
    from PIL import Image

    Image.new("RGB", (2, 2)).save(tmp_path / "cat.png")
    (tmp_path / "text.png").write_text("no picture")
    for name in ("cat.png", "text.png"):
        with pytest.raises(ValueError, match=f"{name} is no PNG that save_figure wrote"):
            read_settings(tmp_path / name)


def test_a_missing_matplotlib_is_one_line_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"^figures need matplotlib.*pip install 'trapo\[toy\]'$"), style():
        pass


def test_importing_loads_neither_matplotlib_nor_torch():
    code = "import sys, trapo.plotting; print([m for m in ('matplotlib', 'torch', 'PIL') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_every_recipe_has_a_colour_a_label_and_a_line_of_its_own():
    names = [*recipe_names(), "expert", "base", "reverse_kl"]
    assert set(names) <= set(METHOD_COLORS) == set(METHOD_LABELS)
    lines = [(METHOD_COLORS[name], METHOD_DASHES.get(name)) for name in names]
    assert len(set(lines)) == len(names)
    methods = [name for name in names if not name.endswith("-reference")]
    assert len({METHOD_COLORS[name] for name in methods}) == len(methods)  # a colour is never two methods
    assert len(set(METHOD_LABELS.values())) == len(METHOD_LABELS)


# Linear RGB as seen without the red or the green cones (Machado, Oliveira and Fernandes 2009, severity 1).
EYES = {
    "usual": np.eye(3),
    "protanope": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.052]],
    "deuteranope": [[0.3673, 0.8606, -0.228], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
}


def lab(color, eye):
    """CIE L*a*b* of "#RRGGBB"; a distance of about 2 can just be seen."""
    srgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.clip(
        np.array(EYES[eye]) @ np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4), 0, 1
    )
    to_xyz = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])
    x, y, z = np.cbrt(np.maximum(to_xyz @ linear / [0.9505, 1, 1.0888], 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eye", EYES)
def test_colours_stay_apart_from_each_other_and_from_paper(eye):
    seen = {color: lab(color, eye) for color in {*METHOD_COLORS.values(), "#FFFFFF"}}
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 15, (one, other)
