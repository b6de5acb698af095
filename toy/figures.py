"""The figures of `trapo toy-gmm`, drawn from its numbers alone.

figures(settings, results) -> {name: (figure, settings for its caption)}
"""

from typing import Any

import numpy as np
import torch

from trapo.plotting import METHOD_COLORS, METHOD_LABELS, method_line, new_figure, style
from trapo_toy import proposition_figure
from trapo_toy.categorical import KINDS
from trapo_toy.gmm import METHODS, Mixture, grid, log_density
from trapo_toy.mixture_command import Settings
from trapo_toy.mixture_metrics import regions

VOID = "#EFEFEF"
NO_MORE = 1e-3  # divergences below it are drawn at it
PALE = {"trsft": "#8CC4EA", "sft": "#F5B183"}  # with SGD
START_TITLES = {"policy": "start as in the snapshots", "bridge": "a bridge over the void", "wide": "one wide component"}


def figures(settings: Settings, found: dict[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Every figure with what its caption says."""
    told = {**settings.to_dict(), "expert": settings.expert.text(3), "policy": settings.policy.text(3)}
    mixture = {name: told[name] for name in told if not name.startswith("token")}
    without_luffy = {name: mixture[name] for name in mixture if name != "luffy_gamma"}
    sweep = {name: without_luffy[name] for name in without_luffy if name != "alpha_over_peak"}
    starts = {name: Mixture.parse(case["policy"]).text(3) for name, case in found["sweep"]["starts"].items()}
    tokens = {name: told[name] for name in ("expert", "policy", "seeds", "jitter", "token_width")}
    rates = {run["optimizer"]: run["lr"] for run in found["tokens"]["runs"]}
    proposition = proposition_figure.Settings(alpha=settings.token_alpha)
    with style():
        return {
            "snapshots": (_snapshots(settings, found["mixture"]), without_luffy),
            "curves": (_curves(settings, found["mixture"]), mixture),
            "alpha": (
                _sweep(settings, found["sweep"]),
                {**sweep, "alpha": f"swept, {_range(found['sweep'])} of the peak", **starts},
            ),
            "tokens": (_tokens(settings, found["tokens"]), {"alpha": settings.token_alpha, **tokens, "lr": rates}),
            "proposition": (proposition_figure.figure(proposition, found["proposition"]), proposition.to_dict()),
        }


def _alpha_said(settings: Settings, peak: float) -> str:
    share = settings.density_alpha / peak
    return rf"$\alpha$ = {settings.density_alpha:.3g} per unit length = {share:.3g} of the expert's peak"


def _seeds(settings: Settings) -> str:
    return f"{settings.seeds} seed{'s' * (settings.seeds > 1)}"


def _range(sweep: dict[str, Any]) -> str:
    return f"{min(sweep['alpha_over_peak']):g} to {max(sweep['alpha_over_peak']):g}"


def _snapshots(settings: Settings, found: dict[str, Any]):
    """Densities of all seeds, methods down, steps across."""
    methods, steps = list(found["snapshots"]), list(found["summary"]["sft"])
    figure, axes = new_figure(height=4.3, nrows=len(methods), ncols=len(steps), sharex=True, sharey=True)
    figure.suptitle(f"Three ways to the expert (black), {_seeds(settings)}: {_alpha_said(settings, found['peak'])}")
    x = grid(settings.expert, settings.policy, points=20)
    inside = np.abs(x - np.mean(_ends(settings))) <= np.ptp(_ends(settings)) / 2
    x, expert = x[inside], np.exp(settings.expert.log_density(x[inside]))
    top = 2.7 * found["peak"]
    for row, method in zip(axes, methods, strict=True):
        for axis, step in zip(row, steps, strict=True):
            _shade_void(axis, settings)
            axis.plot(x, expert, color=METHOD_COLORS["expert"], linewidth=1)
            theta = torch.tensor(found["snapshots"][method][step], dtype=torch.float64)
            policies = log_density(theta, torch.from_numpy(x)[None], settings.expert).exp().numpy()
            axis.plot(x, policies.T, color=METHOD_COLORS[method], linewidth=0.5, alpha=0.6)
            void, modes, _, reverse = (numbers[0] for numbers in found["summary"][method][step].values())
            told = f"void {void:.3f}, modes {modes:.1f}\nreverse KL {reverse:.3f}"
            axis.text(0.98, 0.97, told, transform=axis.transAxes, ha="right", va="top", fontsize=6)
            axis.set(ylim=(0, top), xlim=_ends(settings))
            axis.grid(False)
        row[0].set_ylabel(f"{METHOD_LABELS[method]}\ndensity (1/length)")
    for axis, step in zip(axes[0], steps, strict=True):
        axis.set_title(f"step {step}")
    for axis in axes[-1]:
        axis.set_xlabel("x (length)")
    return figure


def _ends(settings: Settings) -> tuple[float, float]:
    """What of the x axis is drawn."""
    low, high = regions(settings.expert)[[0, -1], [0, 1]]
    return low - 0.08 * (high - low), high + 0.08 * (high - low)


def _shade_void(axis, settings: Settings) -> None:
    ends = np.array([-np.inf, *regions(settings.expert).ravel(), np.inf]).clip(*_ends(settings))
    for low, high in ends.reshape(-1, 2):
        axis.axvspan(low, high, color=VOID, linewidth=0, zorder=0)


def _curves(settings: Settings, found: dict[str, Any]):
    """The four measures over steps: median and range of the seeds."""
    steps = list(found["summary"]["sft"])
    figure, axes = new_figure(height=4.2, nrows=2, ncols=2, sharex=True)
    figure.suptitle(f"Median and range of {_seeds(settings)}: {_alpha_said(settings, found['peak'])}")
    panels = {
        "void": ("(a) void mass", "policy's mass in the void"),
        "modes": ("(b) modes covered; read with (a)", "modes covered"),
        "forward_kl": ("(c) forward KL", "KL(expert || policy), nats"),
        "reverse_kl": ("(d) reverse KL", "KL(policy || expert), nats"),
    }
    for axis, (metric, (title, label)) in zip(axes.flat, panels.items(), strict=True):
        for method in METHODS:
            values = np.array(found["methods"][method][metric])
            values = values.clip(NO_MORE) if metric.endswith("kl") else values
            line = method_line(method)
            axis.fill_between(found["step"], values.min(1), values.max(1), color=line["color"], alpha=0.18, linewidth=0)
            axis.plot(found["step"], np.median(values, axis=1), **line)
        axis.set(title=title, ylabel=label, xlim=(0, found["step"][-1]))
        axis.set_xscale("symlog", linthresh=10, linscale=0.5)
        axis.set_xticks([0, 10, *map(int, steps[1:])], ["0", "10", *steps[1:]])
        if metric.endswith("kl"):
            axis.set_yscale("log")
    for axis in axes[1]:
        axis.set_xlabel("gradient step")
    axes[0, 0].axhline(0.01, color=METHOD_COLORS["expert"], linewidth=0.8, linestyle=":", label="expert itself")
    if found["floor"]:
        kept = np.exp(-found["floor"])
        label = f"floor without the missing\nmode: -log {kept:.2g} = {found['floor']:.3f}"
        axes[1, 1].axhline(found["floor"], color="#000000", linewidth=1, linestyle=(0, (1, 3)), zorder=3, label=label)
    handles = axes[0, 0].get_legend_handles_labels()[0]
    axes[0, 0].legend(handles=handles[-1:])
    axes[0, 1].legend(handles=handles[:-1], loc="upper left", ncols=2, labelspacing=0.2)
    axes[0, 1].set_ylim(top=1.2 * axes[0, 1].get_ylim()[1])
    axes[0, 1].set_yticks(range(len(regions(settings.expert)) + 1))
    axes[0, 1].set_ylim(bottom=0)
    if found["floor"]:
        axes[1, 1].legend(handles=axes[1, 1].get_legend_handles_labels()[0][-1:], loc="lower left")
    return figure


def _sweep(settings: Settings, found: dict[str, Any]):
    """TrSFT over alpha at three starts, with SFT's values as a level."""
    names = list(found["starts"])
    figure, axes = new_figure(height=4.6, nrows=3, ncols=len(names), sharex=True, sharey="row")
    figure.suptitle(
        rf"What $\alpha$ does depends on the start: $\alpha$ / peak from {_range(found)}, {_seeds(settings)}"
    )
    share = settings.to_dict()["alpha_over_peak"]
    labels = {"void": "void mass", "modes": "modes covered", "reverse_kl": "reverse KL, nats"}
    looks = {0: {"linestyle": (0, (3, 1.2)), "marker": "s", "markersize": 2.5}, 1: {"linestyle": "-", "marker": "o"}}
    for column, name in zip(axes.T, names, strict=True):
        for axis, metric in zip(column, labels, strict=True):
            for method in ("sft", "trsft"):
                values = np.array(found["starts"][name][method][metric])  # (steps, alphas, seeds)
                values = np.broadcast_to(values, (len(values), len(found["alpha_over_peak"]), values.shape[-1]))
                for i, step in enumerate(found["step"]):
                    look = {**looks[i], **({"marker": None} if method == "sft" else {})}
                    line = method_line(method, label=f"{METHOD_LABELS[method]}, step {step}", **look)
                    x, seen = found["alpha_over_peak"], values[i].clip(NO_MORE if metric == "reverse_kl" else 0)
                    if method == "sft":
                        axis.fill_between(x, seen.min(1), seen.max(1), color=line["color"], alpha=0.15, linewidth=0)
                    else:
                        axis.vlines(x, seen.min(1), seen.max(1), color=line["color"], linewidth=0.8)
                    axis.plot(x, np.median(seen, axis=1), **line)
            axis.axvline(share, color="#555555", linewidth=0.8, linestyle=":", label="the other figures' alpha")
            axis.set_xscale("log")
            if metric == "reverse_kl":
                axis.set_yscale("log")
        column[0].set_title(START_TITLES[name])
        column[-1].set_xlabel(r"$\alpha$ / expert's peak density")
    for axis, label in zip(axes[:, 0], labels.values(), strict=True):
        axis.set_ylabel(label)
    axes[-1, -1].legend(loc="lower left")
    return figure


def _tokens(settings: Settings, found: dict[str, Any]):
    """TrSFT above, SFT below: where training ends, how far that is from the optimum, and the far mode's mass."""
    ratios = {"height_ratios": (1, 1, 0.3)}
    figure, (*axes, below) = new_figure(height=4.9, nrows=3, ncols=3, gridspec_kw=ratios)
    axes = np.array(axes)
    figure.suptitle(rf"On tokens, $\alpha$ = {settings.token_alpha:g}: the optimum has every mode; who gets there?")
    width = 0.9 * np.diff(found["place"])[0]
    for row, method in zip(axes, ("trsft", "sft"), strict=True):
        runs = [run for run in found["runs"] if run["method"] == method]
        best = found["optimum"] if method == "trsft" else found["expert"]
        row[0].bar(found["place"], best, color="#D0D0D0", width=width)
        row[0].plot(found["place"], runs[0]["start"], color="#000000", linewidth=0.7)
        for run in runs:
            look = _token_look(run, settings)
            if run["width"] == settings.token_width:
                row[0].plot(found["place"], run["end"], **look)
            for axis, quantity in zip(row[1:], ("distance", "far_mass"), strict=True):
                values = np.array(run[quantity])
                if run["width"] == settings.token_width:
                    axis.fill_between(
                        found["step"], values.min(1), values.max(1), color=look["color"], alpha=0.15, linewidth=0
                    )
                axis.plot(found["step"], np.median(values, axis=1), **look)
        row[2].axhline(sum(np.array(best)[found["far"]]), color="#D0D0D0", linewidth=3, zorder=0)
        row[0].set_ylabel(f"{METHOD_LABELS[method]}\nprobability of the token")
        row[1].set_ylabel("total variation")
        row[2].set_ylabel("probability")
        for axis in row[1:]:
            axis.set_xscale("symlog", linthresh=10, linscale=0.5)
            axis.set_xticks([0, 10, 100, 1000], ["0", "10", "100", "1000"])
            axis.set_xlim(0, found["step"][-1])
    axes[1, 0].set_xlabel("place of the token (length)")
    titles = ("start (black) and end", "distance to the exact optimum", "mass on the far mode")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    for axis in axes[1, 1:]:
        axis.set_xlabel("gradient step")
    for axis in below:
        axis.set_axis_off()
    legend = below[1].legend(handles=_token_legend(settings), loc="center", ncols=3)
    legend.set_in_layout(False)  # or the middle column would grow to its width
    return figure


def _token_look(run: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Colour by optimizer, dashes by parametrisation; dotted from the narrower start."""
    color = METHOD_COLORS[run["method"]] if run["optimizer"] == "adam" else PALE[run["method"]]
    if run["width"] != settings.token_width:
        return {"color": "#000000", "linestyle": ":", "linewidth": 1.2}
    return {"color": color, "linestyle": "-" if run["kind"] == "shared" else (0, (3, 1)), "linewidth": 1.3}


def _token_legend(settings: Settings) -> list:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    said = {"shared": "shared parameters (mixture)", "tabular": "one logit per token"}
    run = {"method": "trsft", "width": settings.token_width}
    lines = [
        Line2D(
            [], [], **_token_look({**run, "kind": kind, "optimizer": name}, settings), label=f"{said[kind]}, {title}"
        )
        for kind in KINDS
        for name, title in (("sgd", "SGD"), ("adam", "Adam"))
    ]
    narrow = {"method": "trsft", "kind": "tabular", "optimizer": "adam", "width": None}
    return [
        *lines,
        Patch(color="#D0D0D0", label="exact optimum"),
        Line2D([], [], **_token_look(narrow, settings), label="as dashed, narrower start"),
    ]
