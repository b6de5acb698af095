"""Proposition 1 in four panels: the optimum, the jump without a lambda, the way there, how long a rare token waits.

results(Settings()) -> dict          what is drawn, as numbers: deterministic, JSON-able
figure(Settings()) -> Figure         the panels; pass `results` to save doing the work twice
save_figure(figure(s), path, s.to_dict(), command)
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trapo.plotting import METHOD_COLORS, method_line, new_figure, style
from trapo_toy.proposition import check, climb, escape_time, kept_mass, paper_lambda, rare_start, solve

RAMP = ("#9CCBEA", METHOD_COLORS["trsft"], "#0A3A66", "#8C8C8C")
MARKERS = "os^D"
FLOOR = 1e-7  # distances below it are not drawn


@dataclass(frozen=True)
class Settings:
    """What the panels show; every field goes into the figure's caption.

    Attributes:
        alpha: of the panels with training.
        alphas: of the panel with the optimum, at most four.
        expert: pE, falling; the default is Zipf's law on 8 tokens.
        jump_expert, jump_alphas: the paper's equation, once without a solution and once with one.
        starts: random starts, logits normal with standard deviation `spread`, drawn with `seed`.
        steps: gradient steps, on the expected gradient.
        lr, adam_lr: learning rates.
        rare: starting probabilities of the expert's first token in the last panel, as shares of alpha.
    """

    alpha: float = 0.1
    alphas: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    expert: tuple[float, ...] = (0.3679, 0.184, 0.1226, 0.092, 0.0736, 0.0613, 0.0526, 0.046)
    jump_expert: tuple[float, ...] = (0.5, 0.3, 0.2)
    jump_alphas: tuple[float, ...] = (0.5, 0.3)
    starts: int = 16
    spread: float = 2.0
    seed: int = 0
    steps: int = 10_000
    lr: float = 0.5
    adam_lr: float = 0.05
    rare: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON has them, for `save_figure`."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def results(settings: Settings | None = None) -> dict[str, Any]:
    """The numbers behind the panels: the same for the same settings, made of dicts, lists, strings and numbers."""
    s = settings or Settings()
    expert, _ = check(s.expert, s.alpha)
    return {
        "settings": s.to_dict(),
        "optimum": {f"{alpha:g}": _optimum(expert, alpha) for alpha in s.alphas},
        "jump": {f"{alpha:g}": _optimum(s.jump_expert, alpha) for alpha in s.jump_alphas},
        "distance": _distances(s, expert),
        "escape": _escapes(s, expert),
    }


def _optimum(expert, alpha: float) -> dict[str, Any]:
    best = solve(expert, alpha)
    return {
        "mu": best.mu,
        "p": best.p.tolist(),
        "tied": best.tied.tolist(),
        "leftover": best.leftover,
        "paper_lambda": paper_lambda(expert, alpha),
    }


def _runs(s: Settings) -> dict[str, tuple[float, float, str]]:
    """The trainings compared: (alpha, learning rate, optimizer); alpha 0 is SFT."""
    return {"trsft": (s.alpha, s.lr, "sgd"), "trsft_adam": (s.alpha, s.adam_lr, "adam"), "sft": (0.0, s.lr, "sgd")}


def _distances(s: Settings, expert: np.ndarray) -> dict[str, Any]:
    """Total variation of each start to the optimum of its own method (SFT's is the expert), at about 60 steps."""
    logits = np.random.default_rng(s.seed).normal(0, s.spread, (s.starts, len(expert)))
    marks = sorted({0, *np.geomspace(1, s.steps, 60).round().astype(int).tolist()})
    found: dict[str, Any] = {"step": marks}
    for name, (alpha, lr, optimizer) in _runs(s).items():
        course = zip(range(s.steps + 1), climb(expert, alpha, logits, lr, optimizer), strict=False)
        marked = np.array([p for step, p in course if step in marks])  # (marks, starts, C)
        to_optimum = solve(expert, alpha).distance(marked) if alpha else np.abs(marked - expert).sum(-1) / 2
        found[name] = to_optimum.tolist()
    return found


def _escapes(s: Settings, expert: np.ndarray) -> dict[str, Any]:
    """Steps until the expert's first token reaches alpha, from each rare start, and the formula for TrSFT with SGD."""
    p0 = s.alpha * np.array(s.rare)
    formula = escape_time(expert, s.alpha, 0, p0, s.lr)
    most = min(2 * np.max(formula) + 1000, 100_000)  # the formula knows nothing of Adam, and may be infinite
    found: dict[str, Any] = {"p0": p0.tolist(), "formula": [t if np.isfinite(t) else None for t in formula.tolist()]}
    for name, (alpha, lr, optimizer) in _runs(s).items():
        first = np.full(len(s.rare), -1)
        for step, p in enumerate(climb(expert, alpha, rare_start(expert, s.alpha, 0, p0), lr, optimizer)):
            first[(first < 0) & (p[:, 0] >= s.alpha)] = step
            if (first >= 0).all() or step >= most:
                break
        found[name] = [int(step) if step >= 0 else None for step in first]
    return found


def figure(settings: Settings | None = None, numbers: dict[str, Any] | None = None):
    """The four panels as a matplotlib figure, two columns wide; `numbers` as from `results(settings)`."""
    s = settings or Settings()
    numbers = numbers or results(s)
    with style():
        fig, axes = new_figure(columns=2, height=4.7, nrows=2, ncols=2)
        fig.suptitle(f"Proposition 1: what TrSFT converges to, alpha = {s.alpha:g} where not said otherwise")
        _draw_optimum(axes[0, 0], s, numbers["optimum"])
        _draw_jump(axes[0, 1], s, numbers["jump"])
        _draw_distance(axes[1, 0], s, numbers["distance"])
        _draw_escape(axes[1, 1], s, numbers["escape"])
    return fig


def _draw_optimum(axis, s: Settings, found: dict[str, Any]) -> None:
    tokens = np.arange(1, len(s.expert) + 1)
    axis.plot(tokens, s.expert, **method_line("expert", linewidth=2.5))
    for alpha, color, marker in zip(s.alphas, RAMP, MARKERS, strict=False):
        best = found[f"{alpha:g}"]
        label = rf"$\alpha$ = {alpha:g}, $\mu$ = {best['mu']:.3g}"
        axis.plot(tokens, best["p"], color=color, marker=marker, linewidth=0.8, label=label)
    axis.set(xlabel="token, by the expert's probability", ylabel="probability", ylim=(-0.03, 1.03))
    axis.set_title("(a) the exact optimum cuts the tail")
    axis.legend()


def _draw_jump(axis, s: Settings, found: dict[str, Any]) -> None:
    mu = np.linspace(0.4, 1.1, 3001)
    for alpha, color in zip(s.jump_alphas, ("#555555", RAMP[2]), strict=False):
        best = found[f"{alpha:g}"]
        mass = kept_mass(mu, s.jump_expert, alpha)
        jumps = np.flatnonzero(np.diff(mass) < -0.02)
        axis.vlines(mu[jumps], mass[jumps + 1], mass[jumps], color=color, linestyle=":", linewidth=0.9)
        mass[jumps] = np.nan  # no line across a jump
        said = r"no $\lambda$" if best["paper_lambda"] is None else rf"$\lambda$ = {best['paper_lambda']:.2g}"
        axis.plot(mu, mass, color=color, label=rf"$\alpha$ = {alpha:g}: {said}, $\mu$ = {best['mu']:.2g}")
        axis.plot(best["mu"], 1, "o", color=color)
    axis.axhline(1, color="#8C8C8C", linewidth=0.7)
    axis.set(xlabel=r"$\mu$", ylabel=r"$G(\mu)$, mass of the kept tokens", ylim=(0, 2.6))
    axis.set_title(f"(b) G for pE = {', '.join(f'{p:g}' for p in s.jump_expert)}")
    axis.legend()


def _draw_distance(axis, s: Settings, found: dict[str, Any]) -> None:
    for name, line in _lines(s).items():
        distance = np.array(found[name])
        axis.plot(found["step"], distance, **{**line, "label": None, "marker": None}, alpha=0.25, linewidth=0.5)
        axis.plot(found["step"], np.median(distance, axis=1), **{**line, "marker": None})
    axis.set(xscale="symlog", yscale="log", xlabel="gradient step", ylabel="distance to its optimum (TV)")
    axis.set_ylim(FLOOR, 2)
    axis.set_title(f"(c) the way there: {s.starts} random starts, median bold")
    axis.legend(loc="lower left")


def _draw_escape(axis, s: Settings, found: dict[str, Any]) -> None:
    p0 = np.geomspace(min(found["p0"]), max(found["p0"]), 100)
    formula = escape_time(np.array(s.expert), s.alpha, 0, p0, s.lr)
    axis.plot(p0, formula, color="#555555", linewidth=0.9, label="formula (TrSFT, SGD)")
    for name, line in _lines(s).items():
        steps = [np.nan if step is None else float(step) for step in found[name]]
        label = line["label"] + (": never" if np.isnan(steps).all() else "")
        axis.plot(found["p0"], steps, **{**line, "linestyle": "none", "label": label})
    axis.set(xscale="log", yscale="log", xlabel="starting probability of the expert's first token")
    axis.set(ylabel=rf"steps until it is $\alpha$ = {s.alpha:g}")
    axis.set_title("(d) rare tokens stay rare")
    axis.legend()


def _lines(s: Settings) -> dict[str, dict[str, Any]]:
    trsft, sft = method_line("trsft"), method_line("sft")
    return {
        "trsft": {**trsft, "marker": "o", "label": f"TrSFT, SGD {s.lr:g}"},
        "trsft_adam": {**trsft, "marker": "^", "linestyle": "--", "label": f"TrSFT, Adam {s.adam_lr:g}"},
        "sft": {**sft, "marker": "s", "label": f"SFT, SGD {s.lr:g}"},
    }
