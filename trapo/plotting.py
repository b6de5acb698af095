"""Figures: one style, one colour per method, and no figure that does not say how it was made.

    with style():
        fig, axes = new_figure(columns=2, height=2.2, ncols=3)
        axes[0].plot(steps, void, **method_line("trsft"))
        save_figure(fig, "figures/void.png", {"alpha": 0.021, "seeds": 16}, "trapo toy-gmm --seeds 16")

`save_figure` writes a PNG and a PDF, and a JSON file beside them. All settings and the command are in the JSON and in
the pictures' metadata (`read_settings`); a caption of at most three lines under the figure says what fits, alpha first.
No time stamp is written: the same figure gives the same bytes. matplotlib is loaded when first used; figures are made
without pyplot, so no window opens and none piles up.
"""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trapo.files import write_whole
from trapo.redact import redacted_line, redacted_values

WIDTHS = {1: 3.3, 2: 6.8}  # inches: one and both columns of a two-column paper
FONT = 8  # points, as printed at these widths
CAPTION_FONT = 6
CAPTION_LINES = 3  # the settings, and in the last one the command
CAPTION_LINE = 1.35 * CAPTION_FONT / 72  # inches from one caption line to the next
MARGIN = 0.06  # inches of white around the caption

# Okabe and Ito's colour-blind-safe palette, without its yellow (too pale for a line), and with three dark tones (brown,
# indigo, wine): for lines that are no methods, and for the methods that most figures show. Each method has a colour of
# its own, also for eyes without red or green cones, near its relatives' where there was room; the dashes survive a grey
# print. TrSFT is TRAPO's own expert weight and has its colour, as a method's reference code has its.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#332288", "#882255", "#7A2A00", "#444444")
METHOD_COLORS = {
    "expert": "#000000",
    "base": "#BFBFBF",
    "sft": "#D55E00",
    "trsft": "#0072B2",
    "trapo": "#0072B2",
    "trapo-reference": "#0072B2",
    "grpo": "#E69F00",
    "grpo-hot": "#C08448",
    "grpo-entropy": "#A83C00",
    "grpo-clip-higher": "#F09C48",
    "luffy": "#009E73",
    "dft": "#CC79A7",
    "chord": "#56B4E9",
    "sft-then-rl": "#7A2A00",
    "micro-groups": "#332288",
    "micro-groups-sft": "#CC3C54",
    "micro-groups-luffy": "#6CC084",
    "micro-groups-dft": "#A84884",
    "micro-groups-chord": "#0CA8FC",
    "hpt": "#6C0054",
    "relift": "#483024",
    "prefix-rft": "#843084",
    "srft": "#78CCE4",
    "bread": "#006C3C",
    "uft": "#0CE46C",
    "luffy-reference": "#009E73",
    "hpt-reference": "#6C0054",
    "relift-reference": "#483024",
    "prefix-rft-v1-reference": "#843084",
    "prefix-rft-v2-reference": "#843084",
    "srft-reference": "#78CCE4",
    "uft-reference": "#0CE46C",
    "reverse_kl": "#882255",
}
METHOD_LABELS = {
    "expert": "expert",
    "base": "base model",
    "sft": "SFT",
    "trsft": "TrSFT",
    "trapo": "TRAPO",
    "trapo-reference": "TRAPO (reference code)",
    "grpo": "GRPO",
    "grpo-hot": "GRPO, hot",
    "grpo-entropy": "GRPO, entropy bonus",
    "grpo-clip-higher": "GRPO, clip-higher",
    "luffy": "LUFFY",
    "dft": "DFT",
    "chord": "CHORD",
    "sft-then-rl": "SFT-then-RL",
    "micro-groups": "micro-groups only",
    "micro-groups-sft": "micro-groups + SFT",
    "micro-groups-luffy": "micro-groups + LUFFY",
    "micro-groups-dft": "micro-groups + DFT",
    "micro-groups-chord": "micro-groups + CHORD",
    "hpt": "HPT",
    "relift": "ReLIFT",
    "prefix-rft": "Prefix-RFT",
    "srft": "SRFT",
    "bread": "BREAD",
    "uft": "UFT",
    "luffy-reference": "LUFFY (reference code)",
    "hpt-reference": "HPT (reference code)",
    "relift-reference": "ReLIFT (reference code)",
    "prefix-rft-v1-reference": "Prefix-RFT (reference code, v1)",
    "prefix-rft-v2-reference": "Prefix-RFT (reference code, v2)",
    "srft-reference": "SRFT (HPT's code)",
    "uft-reference": "UFT (reference code)",
    "reverse_kl": "reverse KL (oracle)",
}
METHOD_DASHES = {
    "base": (0, (1, 1)),
    "trapo-reference": (0, (4, 1.5)),
    "grpo-hot": (0, (4, 1.5)),
    "grpo-entropy": (0, (1, 1)),
    "grpo-clip-higher": (0, (4, 1.5, 1, 1.5)),
    "micro-groups-sft": (0, (4, 1.5)),
    "micro-groups-luffy": (0, (4, 1.5)),
    "micro-groups-dft": (0, (4, 1.5)),
    "micro-groups-chord": (0, (4, 1.5)),
    "relift": (0, (2, 1)),
    "prefix-rft": (0, (1, 1)),
    "srft": (0, (1, 1)),
    "bread": (0, (1, 1)),
    "uft": (0, (4, 1.5)),
    "luffy-reference": (0, (1, 1)),
    "hpt-reference": (0, (1, 1)),
    "relift-reference": (0, (6, 1)),
    "prefix-rft-v1-reference": (0, (4, 1.5, 1, 1.5)),
    "prefix-rft-v2-reference": (0, (2, 1)),
    "srft-reference": (0, (2, 1)),
    "uft-reference": (0, (1, 1)),
    "reverse_kl": (0, (4, 1.5)),
}

RC = {
    "font.size": FONT,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "mathtext.fontset": "dejavusans",
    "axes.titlesize": FONT,
    "axes.labelsize": FONT,
    "xtick.labelsize": FONT - 1,
    "ytick.labelsize": FONT - 1,
    "legend.fontsize": FONT - 1,
    "figure.titlesize": FONT + 1,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "text.hinting": "none",  # letters as wide as they are measured, in the PNG as in the PDF
    "pdf.fonttype": 42,  # TrueType: the text of the PDF can be searched and edited
}


def _matplotlib():
    """The package matplotlib, or ValueError with the remedy."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ValueError("figures need matplotlib, which is not installed: pip install 'trapo[toy]'") from None
    return matplotlib


@contextmanager
def style() -> Iterator[None]:
    """The project's style while the block runs; draw and save inside it. ValueError where matplotlib is missing."""
    with _matplotlib().rc_context({**_matplotlib().rcParamsDefault, **RC, "backend": "agg"}):
        yield


def new_figure(columns: int = 2, height: float = 2.2, **subplots: Any):
    """A figure as wide as one or two columns of a paper, and its axes.

    Args:
        columns: 1 (3.3 in) or 2 (6.8 in).
        height: in inches, without the caption, which `save_figure` adds below.
        subplots: nrows, ncols, sharex, ... of `Figure.subplots`; call inside `style()`.

    Returns:
        figure, axes: axes as from `Figure.subplots`.
    """
    _matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTHS[columns], height), layout="constrained")
    return figure, figure.subplots(**subplots)


def method_line(method: str, **changes: Any) -> dict[str, Any]:
    """Keyword arguments of `Axes.plot` for a method: its colour, dashes and label; KeyError for an unknown method."""
    line = {"color": METHOD_COLORS[method], "label": METHOD_LABELS[method]}
    return {**line, "linestyle": METHOD_DASHES.get(method, "-"), **changes}


def save_figure(figure, path: str | Path, settings: Mapping[str, Any], command: str) -> tuple[Path, Path]:
    """Write a figure as PNG and PDF with what made it: in a caption, in the metadata, and whole in a JSON beside them.

    Legends belong inside axes: one of the figure's own, placed "outside", would lie on the caption.

    Args:
        figure: matplotlib figure; it is left as it was.
        path: where to; ".png" or ".pdf" at its end is optional, both are written. Missing folders are made.
        settings: what the figure shows, JSON-able, the most important first: what does not fit into the caption's lines
            is left to the JSON file. Among it `alpha`: a number, several, or None where no method of the figure has
            one. Floats, lists and dicts come back from `read_settings` as JSON has them.
        command: the command line that makes the figure.

    Returns:
        the paths of the PNG and of the PDF.

    Raises:
        ValueError: settings without alpha, or that JSON cannot hold; no command; matplotlib is missing.
    """
    path = Path(path)
    settings, command = redacted_values(settings), redacted_line(command)
    text = _check_settings(path, settings, command)
    stem = path.name.removesuffix(".png").removesuffix(".pdf")  # not with_suffix(""): "alpha0.1" has a dot of its own
    width = figure.get_size_inches()[0] - 2 * MARGIN
    png, pdf = io.BytesIO(), io.BytesIO()
    with style(), _captioned(figure, _caption(settings, command, f"{stem}.json", width)) as box:
        figure.savefig(png, format="png", bbox_inches=box, metadata={"Settings": text, "Command": command})
        # PDF allows a fixed set of keys; None drops the time stamp.
        metadata = {"Keywords": text, "Subject": command, "CreationDate": None}
        figure.savefig(pdf, format="pdf", bbox_inches=box, metadata=metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    paths = path.with_name(f"{stem}.png"), path.with_name(f"{stem}.pdf")
    for target, content in zip(paths, (png, pdf), strict=True):
        write_whole(target, content.getvalue())
    about = {"settings": dict(settings), "command": " ".join(command.split())}
    write_whole(path.with_name(f"{stem}.json"), json.dumps(about, indent=1) + "\n")
    return paths


def read_settings(png: str | Path) -> dict[str, Any]:
    """The settings that `save_figure` wrote into a PNG; ValueError if there are none."""
    _matplotlib()
    from PIL import Image, UnidentifiedImageError  # matplotlib needs it too

    try:
        with Image.open(png) as image:
            return json.loads(image.text["Settings"])
    except (UnidentifiedImageError, AttributeError, KeyError):
        raise ValueError(f"{png} is no PNG that save_figure wrote: it holds no settings") from None


def _check_settings(path: Path, settings: Mapping[str, Any], command: str) -> str:
    """The settings as JSON; ValueError where they do not say what a reader of the figure needs."""
    try:
        text = json.dumps(dict(settings), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"figure {path.name}: its settings cannot be written as JSON: {error}") from None
    if settings.get("alpha", "") in ("", [], (), {}):
        raise ValueError(
            f"figure {path.name}: its settings do not say alpha; add 'alpha' (None for methods without one)"
        )
    if not command.strip():
        raise ValueError(f"figure {path.name}: name the command that makes it")
    return text


def _in_words(settings: Mapping[str, Any]) -> str:
    """{"alpha": 0.1, "seeds": [0, 1]} as "alpha 0.1; seeds 0, 1", alpha first."""

    def words(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{k} {words(v)}" for k, v in value.items())
        if isinstance(value, list | tuple):
            return ", ".join(f"({words(v)})" if isinstance(v, list | tuple | Mapping) else words(v) for v in value)
        if isinstance(value, float):
            return f"{value:.6g}"
        if value is None or isinstance(value, bool):
            return {None: "none", True: "yes", False: "no"}[value]
        return " ".join(str(value).split())

    ordered = {"alpha": settings["alpha"], **settings}
    return "; ".join(f"{name.replace('_', ' ')} {words(value)}" for name, value in ordered.items())


def _caption(settings: Mapping[str, Any], command: str, rest: str, width: float) -> list[str]:
    """At most `CAPTION_LINES` lines: settings, then the command; what is cut is in the file `rest`."""
    commands = _wrap(f"$ {' '.join(command.split())}", width)
    room = max(CAPTION_LINES - len(commands), CAPTION_LINES - 1)
    said = _wrap(_in_words(settings), width)
    if len(said) > room:
        last = _wrap(" ".join(said[room - 1 :]), width - _width(f" ... ({rest})"))[0]
        said = [*said[: room - 1], f"{last} ... ({rest})"]
    if len(said) + len(commands) > CAPTION_LINES:
        commands = [_wrap(" ".join(commands), width - _width(" ..."))[0] + " ..."]
    return said + commands


@contextmanager
def _captioned(figure, lines: list[str]):
    """Hang the caption's lines below the figure while the block runs; yields the box, in inches, that holds both.

    The caption lies outside the figure (at negative heights), so that it cannot push or overlap what was laid out.
    """
    from matplotlib.transforms import Bbox

    width, height = figure.get_size_inches()
    as_caption = {"fontsize": CAPTION_FONT, "va": "top", "color": "#444444", "parse_math": False, "in_layout": False}
    tops = [-(MARGIN + i * CAPTION_LINE) / height for i in range(len(lines))]
    texts = [figure.text(MARGIN / width, y, line, **as_caption) for y, line in zip(tops, lines, strict=True)]
    try:
        yield Bbox([[0, -(2 * MARGIN + len(lines) * CAPTION_LINE)], [width, height]])
    finally:
        for text in texts:
            text.remove()


def _letters(text: str) -> dict[str, float]:
    """Letter -> how wide it is in the caption's font, in points."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties(family=RC["font.family"])))
    font.set_size(CAPTION_FONT, 72)  # at 72 dots per inch a dot is a point
    return {letter: font.load_char(ord(letter)).linearHoriAdvance / 65536 for letter in {*text, " "} - {"\n"}}


def _width(text: str) -> float:
    """How wide a text is in the caption's font, in inches, with 2% for dots that are rounded to their places."""
    return sum(map(_letters(text).__getitem__, text)) / 72 / 0.98


def _wrap(text: str, width: float) -> list[str]:
    """Break text into lines at most `width` inches wide in the caption's font; a word too long is cut, never lost."""
    advance = _letters(text)
    room = 0.98 * width * 72  # in points; dots round the letters' places

    def size(letters: str) -> float:
        return sum(advance[letter] for letter in letters)

    lines = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split(" "):
            if size(longer := f"{line} {word}" if line else word) <= room:
                line = longer
                continue
            if line:
                lines.append(line)
            while size(word) > room:
                cut = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or size(word[:n]) <= room)
                lines.append(word[:cut])
                word = word[cut:]
            line = word
        lines.append(line)
    return lines


def label_ends(ax, ends: Mapping[str, tuple[float, float, str]], size: float = FONT - 2) -> None:
    """Write names beside the right ends of curves, in their colours, moved apart where they would lie on each other.

    Call when the axes have their limits; the names stand right of the axes, which a constrained layout makes room for.

    Args:
        ax: axes.
        ends: name -> x and y of its curve's last point, and its colour.
        size: of the letters, in points.
    """
    from matplotlib.transforms import blended_transform_factory

    height = ax.get_window_extent().height / ax.figure.dpi * 72  # points
    to_axes = ax.transData + ax.transAxes.inverted()
    order = sorted(ends, key=lambda name: ends[name][1])
    wanted = [float(to_axes.transform(ends[name][:2])[1]) for name in order]
    gap = 1.25 * size / height
    at = list(wanted)
    for _ in range(200):  # neighbours push each other apart, a little at a time
        for i in range(len(at) - 1):
            if (short := gap - (at[i + 1] - at[i])) > 1e-9:
                at[i], at[i + 1] = at[i] - short / 2, at[i + 1] + short / 2
        low, high = min(at, default=0), max(at, default=0)
        shift = max(-low, 0) - max(high - 1, 0)
        at = [y + shift for y in at] if abs(shift) > 1e-9 and high - low <= 1 else at
    right = blended_transform_factory(ax.transAxes, ax.transAxes)
    for name, y, place in zip(order, wanted, at, strict=True):
        ax.plot([1, 1.025], [y, place], color=ends[name][2], linewidth=0.5, transform=right, clip_on=False)
        ax.text(1.03, place, name, color=ends[name][2], fontsize=size, va="center", transform=right)
