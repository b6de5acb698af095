"""The study's runs: bases, trials of learning rates, cells; each is done once, whatever stops it in between."""

import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from trapo.recipe import load_recipe
from trapo.runs.folder import RunFolder
from trapo.terminal import Console

from .. import sweep as sweeps
from ..inference import check_family
from ..runs import Run
from .cell import Cell
from .tables import Tables, curve_rows, pass_rows, run_row, weights_hash

FIELDS = ("learning_rate", "sft_learning_rate")


class Study:
    """The study that a YAML file describes, its folders and its tables.

    Args:
        path: the YAML file.
        runs: where bases and run folders lie.
        results: where the tables lie.

    Raises:
        ValueError: for a cell that is named twice or has an unknown recipe, or a question whose comparisons can never
            reject over the bases that its cells are trained on.
    """

    def __init__(self, path: Path, runs: Path, results: Path):
        self.plan = yaml.safe_load(path.read_text(encoding="utf-8"))
        self.runs, self.results, self.tables = runs, results, Tables(results)
        self.cells: dict[str, Cell] = {}
        for part, cells in self.plan["parts"].items():
            for name, fields in cells.items():
                if name in self.cells:
                    raise ValueError(f"{path}: cell {name} is named twice")
                self.cells[name] = self._cell(name, part, fields)
        for question, pairs in self.plan["questions"].items():
            blocks = min(len(self.seeds(self.cells[cell])) for pair in pairs for cell in pair)
            check_family(f"{path}: {question}", len(pairs), blocks)
        split = {"data": "world:held_out=tune"}
        self.ideas = [self._cell(n, "ideas", split | fields) for n, fields in self.plan["ideas"]["cells"].items()]

    @staticmethod
    def _cell(name: str, part: str, fields: dict[str, str]) -> Cell:
        recipe = fields.get("recipe", name)
        load_recipe(recipe)
        return Cell(name, part, **{"recipe": recipe, "rates": recipe} | fields)

    def seeds(self, cell: Cell) -> list[int]:
        """The seeds of the bases that a cell is trained on."""
        return self.plan["bases"][cell.seeds]

    # ---------------------------------------------------------------- bases

    def base(self, kind: str, seed: int) -> Path:
        """The folder of a base."""
        return self.runs / "bases" / f"{kind}-{seed}"

    def needed_bases(self) -> list[tuple[str, int]]:
        """The bases that what is missing begins with and that are not there."""
        wanted = [("some", self.plan["tuning"][phase]["base"]) for phase in ("screen", "full") if self.trials_missing()]
        wanted += [(cell.base, seed) for cell, seed in self.missing()]
        return [pair for pair in dict.fromkeys(wanted) if not (self.base(*pair) / "made.json").exists()]

    def make_bases(self, wanted: list[tuple[str, int]], jobs: int) -> None:
        """Make those of the bases that are not there, each once however often it is wanted."""
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda pair: self.make_base(*pair), dict.fromkeys(wanted)))
        self.collect_bases()

    def make_base(self, kind: str, seed: int) -> None:
        """Make a base in a process of its own: the same bits on the same kind of machine."""
        folder = self.base(kind, seed)
        if folder.exists():
            return
        (folder.parent / "logs").mkdir(parents=True, exist_ok=True)
        part = folder.with_name(f"{folder.name}.part")
        command = [sys.executable, "-P", "-m", "trapo_toy.world.make", "--seed", str(seed), "--out", str(part)]
        command += shlex.split(self.plan["bases"]["kinds"][kind])
        with open(folder.parent / "logs" / f"{folder.name}.log", "w") as output:
            subprocess.run(command, stdout=output, stderr=output, check=True)
        part.rename(folder)

    # ---------------------------------------------------------------- tuning

    def tuned_recipes(self, parts: list[str] | None = None) -> list[str]:
        """The recipes whose rates these parts need, SFT first: SFT-then-RL takes its rate for the first stage."""
        cells = self.cells.values()
        names = {cell.rates for cell in cells if parts is None or cell.part in parts or cell.rates == "sft"}
        return sorted(names, key=lambda name: (name != "sft", name))

    def field(self, recipe: str) -> str:
        """The learning rate that is tuned for a recipe: of its last stage."""
        return FIELDS[0] if "rl" in load_recipe(recipe).get("stages", ["rl"]) else FIELDS[1]

    def chosen(self) -> dict[str, float]:
        """recipe -> tuned learning rate, as far as the trials are done."""
        table = self.tables.read("tuning")
        full = table[table.phase == "full"] if len(table) else table
        found = {}
        for recipe in self.tuned_recipes():
            mine = full[full.recipe == recipe] if len(full) else full
            if len(mine) == self.plan["tuning"]["full"]["rates"]:
                found[recipe] = float(mine.sort_values(["tune", "rate"], ascending=[False, True]).iloc[0].rate)
        return found

    def trials(self, phase: str) -> list[tuple[str, float]]:
        """(recipe, rate) of a phase, as far as what comes before is known: all rates in the screen, then the best."""
        found = []
        screen = self.tables.read("tuning")
        screen = screen[screen.phase == "screen"] if len(screen) else screen
        for recipe in self.tuned_recipes():
            rates = self.plan["tuning"]["rates"][self.field(recipe)]
            if phase == "full":
                mine = screen[screen.recipe == recipe] if len(screen) else screen
                if len(mine) < len(rates):
                    continue
                mine = mine.sort_values(["tune", "rate"], ascending=[False, True])
                rates = mine.rate[: self.plan["tuning"]["full"]["rates"]].tolist()
            found += [(recipe, float(rate)) for rate in rates]
        return found

    def trials_missing(self) -> bool:
        """Whether a learning rate is still to be chosen."""
        return len(self.chosen()) < len(self.tuned_recipes())

    def trial_point(self, phase: str, recipe: str, rate: float) -> sweeps.Point:
        """A trial as a point of a sweep."""
        tuning = self.plan["tuning"][phase]
        cell = next(cell for cell in self.cells.values() if cell.rates == recipe and cell.recipe == recipe)
        stages, chosen = load_recipe(recipe).get("stages", ["rl"]), self.chosen()
        rates = ["--sft_learning_rate", f"{chosen['sft']:g}"] if len(stages) > 1 and "sft" in chosen else []
        flags = ["--recipe", recipe, "--model", str(self.base("some", tuning["base"])), "--data", "world:held_out=tune"]
        flags += ["--seed", str(tuning["base"]), *shlex.split(cell.flags), *shlex.split(tuning.get("flags", ""))]
        return sweeps.Point(f"{recipe},rate={rate:g}", (*flags, *rates, f"--{self.field(recipe)}", f"{rate:g}"))

    # ---------------------------------------------------------------- ideas

    def screen_ideas(self, console: Console, jobs: int) -> bool:
        """Try the ideas that were not tried yet; whether all are done."""
        table = self.tables.read("ideas")
        done = set(table.command) if len(table) else set()
        pairs = [(cell, seed, self.point(cell, seed)) for cell in self.ideas for seed in self.plan["ideas"]["bases"]]
        wanted = [found for found in pairs if self.command(found[2]) not in done]
        if wanted:
            self.make_bases([(cell.base, seed) for cell, seed, _ in wanted], jobs)
            self._sweep("ideas", [point for *_, point in wanted], console, jobs)
        rows = []
        for cell, seed, point in wanted:
            folder = RunFolder(self.runs / "ideas" / point.name)
            if folder.final.exists():
                last = {record["set"]: record["reward"] for record in folder.records("evals.jsonl")}
                row = {"cell": cell.name, "base": f"{cell.base}-{seed}"}
                rows.append(row | last | {"command": self.command(point)})
        self.tables.put("ideas", rows, ("cell", "base"))
        return len(rows) == len(wanted)

    # ---------------------------------------------------------------- cells

    def rate_flags(self, recipe: str) -> list[str]:
        """The flags of a recipe's tuned learning rates."""
        chosen, stages = self.chosen(), load_recipe(recipe).get("stages", ["rl"])
        flags = []
        if "sft" in stages and "sft" in chosen:
            flags += ["--sft_learning_rate", f"{chosen['sft']:g}"]
        if "rl" in stages and recipe in chosen:
            flags += ["--learning_rate", f"{chosen[recipe]:g}"]
        return flags

    def point(self, cell: Cell, seed: int) -> sweeps.Point:
        """A cell on a base as a point of a sweep."""
        flags = ["--recipe", cell.recipe, "--model", str(self.base(cell.base, seed)), "--data", cell.data]
        flags += ["--seed", str(seed), *shlex.split(cell.flags), *self.rate_flags(cell.rates)]
        return sweeps.Point(f"{cell.name},base={seed}", tuple(flags))

    def command(self, point: sweeps.Point) -> str:
        """The command that makes a run."""
        return shlex.join(["trapo", "train", *shlex.split(self.plan["common"]), *point.flags])

    def missing(self) -> list[tuple[Cell, int]]:
        """Cells and bases without a row for the command that they have now, in the order in which they are run."""
        table = self.tables.read("runs")
        done = set(zip(table.cell, table.base, table.command, strict=True)) if len(table) else set()
        return [
            (cell, seed)
            for cell in self.cells.values()
            for seed in self.seeds(cell)
            if (cell.name, f"{cell.base}-{seed}", self.command(self.point(cell, seed))) not in done
        ]

    # ---------------------------------------------------------------- running

    def run(self, console: Console, jobs: int | None, parts: list[str] | None = None) -> bool:
        """Do what is missing: bases, trials, cells of the given parts, pass@k; whether nothing failed."""
        slots = jobs or os.cpu_count() or 1
        if not self._tune(self.tuned_recipes(parts), console, slots):
            return False
        wanted = [(c, s) for c, s in self.missing() if parts is None or c.part in parts]
        for name in dict.fromkeys(cell.name for cell, _ in wanted):
            mine = [(cell, seed) for cell, seed in wanted if cell.name == name]
            self.make_bases([(cell.base, seed) for cell, seed in mine], slots)
            points = [self.point(cell, seed) for cell, seed in mine]
            self._sweep("confirm", points, console, slots)
            self.collect_runs()
        screened = self.screen_ideas(console, slots) if parts is None or "ideas" in parts else True
        if parts is None or "pass@k" in parts:
            self._pass_at_k(console, slots)
        return screened and not [c for c, _ in self.missing() if parts is None or c.part in parts]

    def _tune(self, recipes: list[str], console: Console, jobs: int) -> bool:
        """Do the trials of these recipes that have no row; whether their rates are chosen."""
        table = self.tables.read("tuning")
        done = set(table.command) if len(table) else set()
        # SFT's rate is needed for the trials of SFT-then-RL.
        for phase, names in [(p, r) for r in (recipes[:1], recipes) for p in ("screen", "full")]:
            points = [self.trial_point(phase, *trial) for trial in self.trials(phase) if trial[0] in names]
            points = [point for point in points if self.command(point) not in done]
            if points:
                self.make_bases([("some", self.plan["tuning"][phase]["base"])], jobs)
                self._sweep(phase, points, console, jobs)
                self.collect_trials()
        return set(recipes) <= set(self.chosen())

    def _sweep(self, name: str, points: list[sweeps.Point], console: Console, jobs: int, **evaluation: Any) -> None:
        what = sweeps.Sweep(points, tuple(shlex.split(self.plan["common"])), out=self.runs / name,
                            **{"bench": "", "samples": 1} | evaluation)  # fmt: skip
        if points:
            sweeps.run(what, console, jobs)

    def _pass_at_k(self, console: Console, jobs: int) -> None:
        """Evaluate many samples of the bases and, cell by cell, of models; those that are gone are made again."""
        wanted, done = self.plan["pass_at_k"], self.tables.read("pass_at_k")
        done = set(zip(done.cell, done.base, strict=True)) if len(done) else set()
        flags = ("--limit", str(wanted["limit"]))
        for name in ("base", *wanted["cells"]):
            seeds = [seed for seed in self.plan["bases"]["seeds"] if (name, f"some-{seed}") not in done]
            self.make_bases([("some", seed) for seed in seeds], jobs)
            models = {seed: self.base("some", seed) for seed in seeds}
            if name != "base":
                cell = self.cells[name]
                models = {seed: RunFolder(self.runs / "confirm" / self.point(cell, seed).name).final for seed in seeds}
                gone = [self.point(cell, seed) for seed, final in models.items() if not final.exists()]
                self._sweep("confirm", gone, console, jobs)
                for seed, final in models.items():
                    self._check_again(cell, seed, final)
            points = [sweeps.Point(f"{name},base={seed}", model=str(folder)) for seed, folder in models.items()
                      if folder.exists()]  # fmt: skip
            self._sweep("pass-at-k", points, console, jobs, bench=wanted["bench"], samples=wanted["samples"],
                        eval_flags=flags)  # fmt: skip
            self.collect_pass_at_k()

    def _check_again(self, cell: Cell, seed: int, final: Path) -> None:
        """ValueError where a model is not the one of its row."""
        table = self.tables.read("runs")
        row = table[(table.cell == cell.name) & (table.base == f"{cell.base}-{seed}")]
        if len(row) and final.exists() and weights_hash(final) != row.iloc[0].weights_sha256:
            raise ValueError(f"{final}: its bits are not those of {cell.name} on {cell.base}-{seed} in "
                             f"{self.results}/runs.csv: --results DIR begins another study")  # fmt: skip

    # ---------------------------------------------------------------- tables

    def collect_bases(self) -> None:
        """bases.csv from the bases that are there.

        Raises:
            ValueError: for a base whose weights are not those of its row, as happens on another kind of processor: what
                is trained from it can't be paired with what was trained from the recorded one.
        """
        rows, table = [], self.tables.read("bases")
        recorded = dict(zip(table.base, table.weights_sha256, strict=True)) if len(table) else {}
        for kind, flags in self.plan["bases"]["kinds"].items():
            for folder in (self.runs / "bases").glob(f"{kind}-*/made.json"):
                made = json.loads(folder.read_text(encoding="utf-8"))
                seed = made["making"]["seed"]
                if recorded.get(folder.parent.name, made["weights_sha256"]) != made["weights_sha256"]:
                    raise ValueError(
                        f"{folder.parent}: this machine makes {folder.parent.name} with other bits than the one of "
                        f"{self.results}/bases.csv, and runs are paired by base: --results DIR begins another study"
                    )
                command = f"python -m trapo_toy.world.make --seed {seed} {flags}".strip()
                rows.append({"base": f"{kind}-{seed}", "command": command} | made["tune_accuracy"]
                            | {"parameters": made["parameters"], "weights_sha256": made["weights_sha256"]})  # fmt: skip
        self.tables.put("bases", rows, ("base",))

    def collect_trials(self) -> None:
        """tuning.csv from the trials that are done."""
        rows = []
        for phase in ("screen", "full"):
            for recipe, rate in self.trials(phase):
                point = self.trial_point(phase, recipe, rate)
                folder = RunFolder(self.runs / phase / point.name)
                if folder.final.exists():
                    last = [r for r in folder.records("evals.jsonl") if r["set"] == "tune"][-1]
                    rows.append({"recipe": recipe, "phase": phase, "field": self.field(recipe), "rate": rate}
                                | {"tune": last["reward"], "samples": last["samples"]}
                                | {"command": self.command(point)})  # fmt: skip
        self.tables.put(
            "tuning", rows, ("recipe", "phase", "rate"), lambda r: (r["recipe"], r["phase"] == "full", r["rate"])
        )

    def collect_runs(self) -> None:
        """runs.csv and curves.csv from the runs that are done."""
        rows, curves = [], []
        for cell, seed in self.missing():
            point = self.point(cell, seed)
            folder = RunFolder(self.runs / "confirm" / point.name)
            if not folder.final.exists():
                continue
            run = Run(point.name, folder, folder.record())
            about = {"part": cell.part, "cell": cell.name, "recipe": cell.recipe, "data": cell.data}
            about |= {"base": f"{cell.base}-{seed}", "seed": seed, "command": self.command(point)}
            rows.append(run_row(about, run))
            curves += curve_rows(cell.name, f"{cell.base}-{seed}", folder)
        position = {name: i for i, name in enumerate(self.cells)}

        def order(row: dict[str, Any]) -> tuple:
            return position.get(row["cell"], len(position)), row["cell"], row["base"], row.get("step", 0)

        self.tables.put("curves", curves, ("cell", "base", "step"), order)
        self.tables.put("runs", rows, ("cell", "base"), order)

    def collect_pass_at_k(self) -> None:
        """pass_at_k.csv from the evaluations that are done."""
        rows = []
        for folder in (self.runs / "pass-at-k").glob("*,base=*/eval"):
            name, _, seed = folder.parent.name.partition(",base=")
            rows += pass_rows(name, f"some-{seed}", folder)
        self.tables.put("pass_at_k", rows, ("cell", "base", "k"), lambda row: (row["cell"], row["base"], int(row["k"])))

    # ---------------------------------------------------------------- the plan

    def show(self, console: Console) -> None:
        """What there is, what is missing, and how long it takes by the runs that are done."""
        missing, table = self.missing(), self.tables.read("runs")
        seconds = table.groupby("cell").seconds.mean().to_dict() if len(table) else {}
        usual = sum(seconds.values()) / len(seconds) if seconds else 60.0
        total = 0.0
        for cell in self.cells.values():
            left = sum(c == cell for c, _ in missing)
            total += left * (each := seconds.get(cell.name, usual))
            seeds = self.seeds(cell)
            console.print(f"{cell.part:9} {cell.name:22} {len(seeds) - left} of {len(seeds)} done, "
                          f"{each:4.0f} s each: {self.command(self.point(cell, seeds[0]))}",
                          markup=False, highlight=False, soft_wrap=True)  # fmt: skip
        trials = sum(len(self.plan["tuning"]["rates"][self.field(r)]) + 2 for r in self.tuned_recipes())
        done = len(self.tables.read("tuning"))
        console.print(f"{len(self.needed_bases())} bases to make (about 3 minutes each); {done} of {trials} trials of "
                      f"learning rates done; {len(missing)} runs to do: {total / 3600:.1f} hours of one core",
                      soft_wrap=True)  # fmt: skip
