"""`trapo toy-gmm`: trains the toys, writes their numbers, draws them.

make(Settings(), folder, console)    everything the command does; results(Settings()) is the numbers alone
"""

import csv
import io
import json
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from trapo.files import write_whole
from trapo.plotting import METHOD_LABELS, save_figure, style
from trapo.terminal import Console
from trapo_toy import categorical, proposition_figure
from trapo_toy.gmm import METHODS, Mixture, grid, train
from trapo_toy.mixture_metrics import METRICS, Ruler, floor
from trapo_toy.proposition import solve

EXPERT = Mixture((0.35, 0.35, 0.3), (-6, 0, 8), (1, 1, 1))
POLICY = Mixture((1 / 3, 1 / 3, 1 / 3), (-6, -0.3, 0.6), (1, 1, 1))
SHARE = 0.15  # TrSFT's alpha as a share of the expert's peak, unless said otherwise
SNAPSHOTS = (0, 50, 100, 1000)
SNAPSHOT_METHODS = ("sft", "trsft", "reverse_kl")
SWEEP = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.15, 0.3, 1.0, 3.0)  # alpha / peak
SWEEP_STEPS = (50, 1000)
TOKEN_STEPS = 3000

Say = Callable[[str], Any]


@dataclass(frozen=True)
class Settings:
    """What is run; ValueError, one line, for what cannot be.

    Attributes:
        expert, policy: the mixtures; the policy is the start.
        alphas: of TrSFT, densities in 1 / length: the first is drawn everywhere, and LUFFY's gamma; all join the sweep.
            None given is 0.15 of the expert's peak.
        token_alpha: TrSFT's alpha on tokens, in (0, 1].
        seeds: how many; they are seed, seed + 1, ...
        batch, lr, jitter: of `trapo_toy.gmm.train`.
        token_width: the tokens' start has the policy's standard deviations times this. At 1, Adam's eps of 1e-8 hides
            the far mode's gradients (p0 is 1e-13); both are run.
    """

    expert: Mixture = EXPERT
    policy: Mixture = POLICY
    alphas: tuple[float, ...] = ()
    token_alpha: float = 0.1
    seeds: int = 16
    seed: int = 0
    batch: int = 256
    lr: float = 0.05
    jitter: float = 0.15
    token_width: float = 1.5

    def __post_init__(self):
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}: at least 1 is needed")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: it must be 0 or more")
        for alpha in self.alphas:
            if not 0 < alpha < np.inf:
                raise ValueError(f"alpha is {alpha:g}: as a density it is a finite number above 0, in 1 / length")
        if not 0 < self.token_alpha <= 1:
            raise ValueError(f"token_alpha is {self.token_alpha:g}: on tokens alpha is a probability in (0, 1]")
        for name in ("expert", "policy"):
            try:
                Ruler(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"{name} {getattr(self, name).text(6)}: {error}") from None
        try:
            grid(self.expert, self.policy, points=20)
        except ValueError as error:
            raise ValueError(f"expert and policy together: {error}") from None

    @property
    def density_alpha(self) -> float:
        """Alpha of the mixture, in 1 / length."""
        return self.alphas[0] if self.alphas else SHARE * Ruler(self.expert).peak

    @property
    def all_seeds(self) -> list[int]:
        """The seeds."""
        return list(range(self.seed, self.seed + self.seeds))

    @property
    def training(self) -> dict[str, Any]:
        """What `train` is told besides method, mixtures, alpha and marks."""
        return {"batch": self.batch, "lr": self.lr, "jitter": self.jitter}

    @property
    def command(self) -> str:
        """The command line with these settings; where the files go is left out: it changes nothing in them."""
        words = ["trapo", "toy-gmm", "--seeds", str(self.seeds)]
        if self.alphas:
            words += ["--alpha", ",".join(map(str, self.alphas))]
        for name, default in (
            ("seed", 0),
            ("token_alpha", 0.1),
            ("expert", EXPERT),
            ("policy", POLICY),
        ):
            if getattr(self, name) != default:
                value = getattr(self, name)
                words += [f"--{name.replace('_', '-')}", value.text() if isinstance(value, Mixture) else str(value)]
        return shlex.join(words)

    def to_dict(self) -> dict[str, Any]:
        """The settings for a figure's caption and `results.json`, alpha both as a density and against the peak."""
        peak = Ruler(self.expert).peak
        return {
            "alpha": self.density_alpha,
            "alpha_over_peak": self.density_alpha / peak,
            "luffy_gamma": self.density_alpha,
            "token_alpha": self.token_alpha,
            "expert": self.expert.text(),
            "policy": self.policy.text(),
            "seeds": self.all_seeds,
            "optimizer": "adam",
            **self.training,
            "token_width": self.token_width,
        }


def read_settings(
    expert: str | None, policy: str | None, alphas: Sequence[str], token_alpha: float, seeds: int, seed: int
) -> Settings:
    """The settings of a command line; ValueError that names the option, its value and the remedy."""
    found = {}
    for name, text, default in (("expert", expert, EXPERT), ("policy", policy, POLICY)):
        try:
            found[name] = default if text is None else Mixture.parse(text)
        except ValueError as error:
            raise ValueError(f"{name} {text}: {error}") from None
    densities = []
    for text in ",".join(alphas).split(",") if alphas else ():
        try:
            densities.append(float(text))
        except ValueError:
            raise ValueError(f"alpha {text!r} is not a number; give one or several, as in 0.02,0.05") from None
    return Settings(**found, alphas=tuple(densities), token_alpha=token_alpha, seeds=seeds, seed=seed)


def starts(settings: Settings) -> dict[str, Mixture]:
    """The policies of the sweep: the one asked for, and two at which TrSFT does not do what the picture promises.

    bridge: a component on each mode but the last, and one between the last two, a quarter of their distance wide.
    wide: one component, half as wide again as the expert as a whole.
    """
    expert, found = settings.expert, {"policy": settings.policy}
    mean, sd = expert.moments
    modes = sorted(zip(expert.means, expert.sds, strict=True))
    if len(modes) > 1:
        (last, _), (before, _) = modes[-1], modes[-2]
        middle = ((last + before) / 2, max((last - before) / 4, modes[-1][1]))
        means, sds = zip(*modes[:-1], middle, strict=True)
        found["bridge"] = Mixture((1 / len(means),) * len(means), means, sds)
    return {**found, "wide": Mixture((1.0,), (mean,), (1.5 * sd,))}


def results(settings: Settings, say: Say = lambda _: None) -> dict[str, Any]:
    """All numbers, the same for the same settings: dicts, lists, strings, numbers; `say` hears what is being done."""
    token_settings = proposition_figure.Settings(alpha=settings.token_alpha)
    found = {
        "settings": settings.to_dict(),
        "command": settings.command,
        "mixture": mixture(settings, say),
        "sweep": sweep(settings, say),
        "tokens": tokens(settings, say),
    }
    say("proposition 1")
    return {**found, "proposition": proposition_figure.results(token_settings)}


def mixture(settings: Settings, say: Say = lambda _: None) -> dict[str, Any]:
    """Every method from the settings' start; numbers per step and seed, parameters at the snapshots."""
    s, ruler = settings, Ruler(settings.expert)
    marks = sorted({*SNAPSHOTS, *np.geomspace(1, SNAPSHOTS[-1], 40).round().astype(int).tolist()})
    found: dict[str, Any] = {
        "peak": ruler.peak,
        "floor": floor(s.expert, s.policy),
        "step": marks,
        "methods": {},
        "summary": {},
        "snapshots": {},
    }
    worst = []
    for method in METHODS:
        say(f"mixture, {METHOD_LABELS[method]}")
        theta = train(method, s.expert, s.policy, [s.density_alpha], s.all_seeds, marks=marks, **s.training)[:, 0]
        seen = ruler.measure(theta)
        worst.append(seen.pop("error").max())
        found["methods"][method] = {name: values.tolist() for name, values in seen.items()}
        found["summary"][method] = {
            str(step): {name: _spread(seen[name][marks.index(step)]) for name in METRICS} for step in SNAPSHOTS
        }
        if method in SNAPSHOT_METHODS:
            found["snapshots"][method] = {str(step): theta[marks.index(step)].tolist() for step in SNAPSHOTS}
    return {**found, "largest_grid_error": float(max(worst))}


def sweep(settings: Settings, say: Say = lambda _: None) -> dict[str, Any]:
    """TrSFT over alpha, and SFT, from three starts: arrays (steps, alphas, seeds); SFT's have one alpha."""
    s, ruler = settings, Ruler(settings.expert)
    shares = sorted({*SWEEP, *(alpha / ruler.peak for alpha in s.alphas)})
    alphas = [share * ruler.peak for share in shares]
    found: dict[str, Any] = {"alpha_over_peak": shares, "step": list(SWEEP_STEPS), "starts": {}}
    for name, policy in starts(s).items():
        found["starts"][name] = {"policy": policy.text()}
        for method, tried in (("trsft", alphas), ("sft", alphas[:1])):
            say(f"alpha sweep, {name}, {METHOD_LABELS[method]}")
            theta = train(method, s.expert, policy, tried, s.all_seeds, marks=SWEEP_STEPS, **s.training)
            seen = ruler.measure(theta)
            found["starts"][name][method] = {metric: seen[metric].tolist() for metric in METRICS}
    return found


def tokens(settings: Settings, say: Say = lambda _: None) -> dict[str, Any]:
    """The mixture cut into tokens: distance to the exact optimum and mass on the far mode, arrays (steps, seeds)."""
    s, places = settings, categorical.places(settings.expert)
    expert = categorical.expert_tokens(s.expert).numpy()
    best = solve(expert, s.token_alpha)
    far = categorical.far_mode(s.expert, s.policy)
    marks = sorted({0, *np.geomspace(1, TOKEN_STEPS, 40).round().astype(int).tolist()})
    found: dict[str, Any] = {
        "place": places.tolist(),
        "expert": expert.tolist(),
        "optimum": best.p.tolist(),
        "far": far.tolist(),
        "step": marks,
        "runs": [],
    }
    runs = [
        (m, kind, o, s.token_width) for m in ("trsft", "sft") for kind in categorical.KINDS for o in ("sgd", "adam")
    ]
    for method, kind, optimizer, width in [*runs, ("trsft", "tabular", "adam", 1.0)]:
        say(f"tokens, {METHOD_LABELS[method]}, {kind}, {optimizer}")
        policy = Mixture(s.policy.weights, s.policy.means, tuple(width * sd for sd in s.policy.sds))
        p = categorical.train(
            method, kind, optimizer, s.expert, policy, s.token_alpha, s.all_seeds, marks=marks, jitter=s.jitter
        )
        to_optimum = best.distance(p) if method == "trsft" else np.abs(p - expert).sum(-1) / 2
        found["runs"].append(
            {
                "method": method,
                "kind": kind,
                "optimizer": optimizer,
                "lr": categorical.LEARNING_RATES[optimizer],
                "width": width,
                "start": np.median(p[0], axis=0).tolist(),
                "end": np.median(p[-1], axis=0).tolist(),
                "distance": to_optimum.tolist(),
                "far_mass": p[..., far].sum(-1).tolist(),
            }
        )
    return found


def make(settings: Settings, folder: Path, console: Console) -> None:
    """Run, and leave in `folder` results.json, results.csv and the figures; ValueError before any work."""
    from trapo_toy.figures import figures

    with style():
        pass  # matplotlib is there
    _check_writable(folder)
    alpha, share = settings.density_alpha, settings.density_alpha / Ruler(settings.expert).peak
    console.print(
        f"seeds: {settings.seeds}; alpha {alpha:.3g} per unit length, {share:.3g} of the expert's peak; "
        f"on tokens {settings.token_alpha:g}"
    )
    with console.status("") as status:
        found = results(settings, status.update)
        write_whole(folder / "results.json", json.dumps(found, allow_nan=False) + "\n")
        write_whole(folder / "results.csv", as_csv(found))
        status.update("figures")
        for name, (figure, told) in figures(settings, found).items():
            save_figure(figure, folder / name, told, settings.command)
    console.print(table(settings, found["mixture"]))
    console.print(f"Made: {folder}  (results.json, results.csv; figures as .png and .pdf)", soft_wrap=True)


def as_csv(found: dict[str, Any]) -> str:
    """The mixture's and the sweep's numbers, one row per method, alpha, seed and step."""
    peak, seeds = found["mixture"]["peak"], found["settings"]["seeds"]
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["start", "method", "alpha", "alpha_over_peak", "seed", "step", *METRICS])

    def write(start: str, method: str, share: float, steps: list[int], numbers: dict[str, list]) -> None:
        # Of the imitators only TrSFT and LUFFY (its gamma) look at alpha.
        said = [share * peak, share] if method in ("trsft", "luffy") else ["", ""]
        for i, step in enumerate(steps):
            for j, seed in enumerate(seeds):
                rows.writerow([start, method, *said, seed, step, *(numbers[metric][i][j] for metric in METRICS)])

    for method, numbers in found["mixture"]["methods"].items():
        write("policy", method, found["settings"]["alpha_over_peak"], found["mixture"]["step"], numbers)
    for start, case in found["sweep"]["starts"].items():
        for k, share in enumerate(found["sweep"]["alpha_over_peak"]):
            one = {metric: [values[k] for values in case["trsft"][metric]] for metric in METRICS}
            write(start, "trsft", share, found["sweep"]["step"], one)
        one = {metric: [values[0] for values in case["sft"][metric]] for metric in METRICS}
        write(start, "sft", 0.0, found["sweep"]["step"], one)
    return out.getvalue()


def table(settings: Settings, found: dict[str, Any]) -> Table:
    """Medians over seeds, and ranges, at the snapshots."""
    alpha, share = settings.density_alpha, settings.density_alpha / found["peak"]
    missing = f"reverse KL cannot be below {found['floor'] or 0:.3f} without the modes that the start misses"
    shown = Table(
        title=f"alpha = {alpha:.3g} = {share:.3g} of the peak; median and range, seeds: {settings.seeds}",
        caption=missing if found["floor"] else None,
        box=SIMPLE,
    )
    for column in ("", "step", "void mass", "modes covered", "forward KL", "reverse KL"):
        shown.add_column(column, justify="right" if column else "left")
    for method, steps in found["summary"].items():
        name = METHOD_LABELS[method]
        for step, numbers in steps.items():
            if step == "0" and method != METHODS[0]:
                continue  # all start alike
            cells = [f"{_short(m)}\n{_short(low)}-{_short(high)}" for m, low, high in (numbers[x] for x in METRICS)]
            shown.add_row("all" if step == "0" else name, step, *cells, end_section=step in ("0", str(SNAPSHOTS[-1])))
            name = "" if step != "0" else name
    return shown


def _short(number: float) -> str:
    return f"{number:.3f}" if number < 10 else f"{number:.0f}"


def _spread(values: np.ndarray) -> list[float]:
    return [float(np.median(values)), float(values.min()), float(values.max())]


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "you may not write to it")
    except OSError as error:
        raise ValueError(f"out {folder} cannot be written ({error.strerror}): choose another folder") from None
