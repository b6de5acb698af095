"""What the study's tables answer: differences paired by base, read along training and at its end, by `..inference`.

Two readings of each difference. `last` is what the plan registered: held-out accuracy at the last step. `curve` is the
mean of the training curve: the reward of plain samples (without any expert's prefix), in bins of ten steps, over the
part of the budget that both cells' curves cover. A last step is one moment: who takes off late and is still rising may
be above there and below everywhere before.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from trapo.recipe import load_recipe

from ..inference import Answer, answers
from .runner import Study
from .tables import BIN

READINGS = ("curve", "last")
PROBES = ("test", "direct", "facts")
SAME = 1e-3  # training curves whose means differ by less come from the same samples but for one or two
BATCH = 64  # samples of a step
BUDGET = 100 * BATCH  # samples and demonstrations of a cell at equal samples

Pair = Sequence[Any]  # [a, b], or [[a, b], [c, d]]: (a - b) - (c - d)


@dataclass(frozen=True)
class Question:
    """A family of comparisons.

    Attributes:
        text: what is asked.
        pairs: a minus b each; a pair of pairs is an interaction.
        column: the measure; only "test" has a curve.
        margin: the smallest difference that matters; None where none was named.
        registered: whether the plan asked it before the runs.
    """

    text: str
    pairs: tuple[Pair, ...]
    column: str = "test"
    margin: float | None = None
    registered: bool = True


class Results:
    """The tables of a study, and what is asked of them.

    Args:
        study: whose tables they are; the runs must be there.

    Raises:
        ValueError: there are no runs.
    """

    def __init__(self, study: Study):
        self.study, self.runs = study, study.tables.read("runs")
        if not len(self.runs):
            raise ValueError(f"{study.results}/runs.csv has no runs: `make study` makes them")
        self._answers: dict[tuple[str, str], list[Answer]] = {}
        self.curves, self.passes = study.tables.read("curves"), study.tables.read("pass_at_k")

    @cached_property
    def questions(self) -> list[Question]:
        """All that is asked: what the plan registered, then what was asked afterwards."""
        plan = self.study.plan
        registered = [Question(text, tuple(pairs)) for text, pairs in plan["questions"].items()]
        later = [Question(text, tuple(about["pairs"]), about.get("column", "test"), about.get("margin"), False)
                 for text, about in plan.get("afterwards", {}).items()]  # fmt: skip
        return registered + later

    def question(self, text: str) -> Question:
        """The question with this text."""
        return next(question for question in self.questions if question.text == text)

    @property
    def cells(self) -> list[str]:
        """The cells with at least one run, in the study's order."""
        there = set(self.runs.cell)
        return [name for name in self.study.cells if name in there]

    def of(self, cell: str) -> pd.DataFrame:
        """A cell's runs by base."""
        return self.runs[self.runs.cell == cell].set_index("base")

    def before(self, probe: str) -> pd.Series:
        """What the bases that the parts share could do before training."""
        shared = {f"some-{seed}" for seed in self.study.plan["bases"]["seeds"]}
        return self.runs[self.runs.base.isin(shared)].drop_duplicates("base").set_index("base")[f"{probe}_before"]

    # ---------------------------------------------------------------- along training

    def starts(self, cell: str) -> float:
        """The share of the budget that is spent before a cell's RL stage, whose samples count as in `BUDGET`."""
        run = self.runs[self.runs.cell == cell].iloc[0]
        return 1 - self.rl_steps(cell) * BATCH / load_recipe(run.recipe).get("num_iterations", 1) / BUDGET

    def rl_steps(self, cell: str) -> int:
        """The optimizer steps of a cell's RL stage; 100 where its command does not say."""
        found = re.findall(r"--max_steps (\d+)", str(self.runs[self.runs.cell == cell].iloc[0].command))
        return int(found[-1]) if found else 100

    def curve(self, cell: str, column: str = "reward_plain") -> tuple[np.ndarray, pd.DataFrame]:
        """A cell's training curve: the bins' edges as shares of the budget (K + 1,), and a row per seed (K columns).

        No bins for a cell without an RL stage.
        """
        mine = self.curves[self.curves.cell == cell] if len(self.curves) else self.curves
        if not len(mine):
            return np.array([0.0, 1.0]), pd.DataFrame()
        wide = mine.assign(seed=mine.base.str.rpartition("-")[2].astype(int)).pivot(
            index="seed", columns="step", values=column
        )
        start, steps = self.starts(cell), self.rl_steps(cell)
        ends = np.minimum(wide.columns.to_numpy(), steps)
        return start + (1 - start) * np.concatenate([[ends[0] - min(BIN, ends[0])], ends]) / steps, wide

    def curve_mean(self, cell: str, since: float = 0.0) -> pd.Series:
        """Seed -> mean of a cell's training curve over the budget from `since` on; empty without a curve."""
        edges, wide = self.curve(cell)
        width = np.clip(edges[1:], since, 1) - np.clip(edges[:-1], since, 1)
        there = width > 0
        return wide.loc[:, there] @ (width[there] / width.sum()) if len(wide) else pd.Series(dtype=float)

    def covered(self, cell: str) -> float:
        """The share of the budget at which a cell's curve begins: later where all samples were guided at first."""
        edges, wide = self.curve(cell)
        if not len(wide):
            return np.nan
        return float(edges[:-1][wide.notna().all().to_numpy()].min())

    # ---------------------------------------------------------------- differences

    def differences(self, a: str, b: str, column: str = "test", reading: str = "last") -> np.ndarray:
        """a minus b on the seeds of bases that both have; empty where a curve is asked of a cell without one."""
        left, right = self._values(a, b, column, reading)
        common = left.index.intersection(right.index)
        return (left[common] - right[common]).to_numpy()

    def _values(self, a: str, b: str, column: str, reading: str) -> tuple[pd.Series, pd.Series]:
        if reading == "last":
            left, right = (self.of(cell).set_index("seed")[column] for cell in (a, b))
            return left, right
        since = [self.covered(cell) for cell in (a, b)]
        if column != "test" or not all(found == found for found in since):
            return pd.Series(dtype=float), pd.Series(dtype=float)
        return self.curve_mean(a, max(since)), self.curve_mean(b, max(since))

    def gaps(self, pair: Pair, column: str = "test", reading: str = "last") -> tuple[str, str, np.ndarray]:
        """a, b and a - b on each base; of a pair of pairs (a - b) - (c - d)."""
        if isinstance(pair[0], str):
            return pair[0], pair[1], self.differences(*pair, column, reading)
        (a, b), (c, d) = pair
        first, second = self.differences(a, b, column, reading), self.differences(c, d, column, reading)
        same = len(first) == len(second)
        return f"({a} - {b})", f"({c} - {d})", first - second if same else np.array([])

    def answers(self, question: Question, reading: str = "last") -> list[Answer]:
        """What a question's pairs say, of those whose cells are there."""
        key = repr(question), reading
        if key not in self._answers:
            self._answers[key] = self._answered(question, reading)
        return self._answers[key]

    def _answered(self, question: Question, reading: str) -> list[Answer]:
        there = set(self.cells)
        pairs = [pair for pair in question.pairs if set(np.ravel(pair)) <= there]
        found = [self.gaps(pair, question.column, reading) for pair in pairs]
        return answers(found, question.margin)

    def undelivered(self, a: str, b: str) -> list[str]:
        """The bases on which nothing tells a from b: the same weights, or the same training curve and accuracies.

        Accuracies: of `test` and of one probe at least, since weights may differ without a sample that does.
        """
        if not {a, b} <= set(self.cells):
            return []
        left, right = self.of(a), self.of(b)
        common = left.index.intersection(right.index)
        left, right = left.loc[common], right.loc[common]
        same = left.weights_sha256 == right.weights_sha256
        alike = (left.test == right.test) & ((left.direct == right.direct) | (left.facts == right.facts))
        if not (alike & ~same).any():
            return list(common[same])
        curves = [self.curve_mean(cell, max(self.covered(a), self.covered(b))) for cell in (a, b)]
        near = (curves[0] - curves[1]).abs().reindex(left.seed).to_numpy() < SAME
        return list(common[same | (alike & near)])

    def twins(self, cell: str) -> dict[str, list[str]]:
        """Other cells that are the same as this one on some base -> these bases."""
        return {other: found for other in self.cells if other != cell and (found := self.undelivered(cell, other))}

    def sharpening(self) -> list[Answer]:
        """pass@k at the largest k against the base's: growth, where it is above."""
        if not len(self.passes):
            return []
        last = self.passes[self.passes.k == self.passes.k.max()].pivot(index="base", columns="cell", values="pass")
        cells = [cell for cell in self.cells if cell in last]
        return answers([(cell, "base", (last[cell] - last["base"]).dropna().to_numpy()) for cell in cells])

    # ---------------------------------------------------------------- for figures

    def part(self, *parts: str) -> list[str]:
        """The cells of these parts that are there."""
        return [cell for cell in self.cells if self.study.cells[cell].part in parts]

    def settings(self, cells: Sequence[str], **more: Any) -> dict[str, Any]:
        """What a figure of these cells says."""
        runs = self.runs[self.runs.cell.isin(cells)]
        alphas = list(dict.fromkeys(None if alpha != alpha else float(alpha) for alpha in runs.alpha))
        rates = runs.groupby("cell")[["learning_rate", "sft_learning_rate"]].first().loc[list(dict.fromkeys(runs.cell))]
        said = {cell: "/".join(f"{rate:g}" for rate in row if rate == rate) for cell, row in rates.iterrows()}
        data = sorted(set(runs.data))
        return {"alpha": alphas, "bases": runs.base.nunique()} | more | {
            "samples": f"{runs.samples.min():.0f} to {runs.samples.max():.0f}", "data": data,
            "cells": list(cells), "base models": sorted(set(runs.base)), "learning rates": said}  # fmt: skip


def together(curve: Answer | None, last: Answer | None) -> str:
    """One verdict of the two readings: what both say; else what is known of each."""
    said = {answer.says for answer in (curve, last) if answer is not None}
    if len(said) == 1:
        return said.pop()
    if said == {"above", "below"}:
        return "turns with the horizon"
    return "; ".join(
        f"{answer.says} {where}" for answer, where in ((curve, "on the curve"), (last, "at the last step"))
    )
