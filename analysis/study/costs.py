"""What a cell's training has cost at each point of its curve: tokens and floating-point operations.

runs.csv has each run's exact totals. How they fall on the bins of its curve is worked out: tokens drawn as steps x mean
length, scaled to the exact total; tokens updated evenly over the RL stage's steps, behind those of the SFT stage, which
are demonstrations x their mean length. FLOPs: 2 per parameter and token drawn, 6 per parameter and token updated (a
forward and a backward pass, Kaplan et al. 2020, arXiv 2001.08361); attention and the prompts' prefill are left out.
"""

import re

import numpy as np
import pandas as pd

from .results import BATCH, Results

EPOCHS = 7200  # demonstrations of the SFT stage where no number of steps is given: 3 epochs over 2,400
DRAWN, UPDATED = 2, 6  # FLOPs per parameter and token


def sft_demonstrations(command: str) -> int:
    """The demonstrations, counted as often as they are shown, of the SFT stage of a command that has one."""
    steps = int(re.findall(r"--sft_max_steps (-?\d+)", command)[-1])
    return EPOCHS if steps < 0 else steps * BATCH


def spent(results: Results, cell: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tokens drawn and tokens updated up to each bin's end: a row per seed, a column per bin of the cell's curve."""
    _, lengths = results.curve(cell, "length")
    steps = np.diff(np.minimum([0, *lengths.columns], results.rl_steps(cell)))
    runs = results.of(cell).set_index("seed").loc[lengths.index]
    shares = lengths.mul(steps, axis=1)
    drawn = shares.cumsum(axis=1).div(shares.sum(axis=1), axis=0)
    drawn = drawn.mul(runs.drawn_tokens + runs.aborted_tokens, axis=0)
    before = np.array([sft_tokens(results, run) for run in runs.itertuples()])
    evenly = np.cumsum(steps) / steps.sum()
    updated = before[:, None] + (runs.update_tokens.to_numpy() - before)[:, None] * evenly
    return drawn, pd.DataFrame(updated, index=lengths.index, columns=lengths.columns)


def sft_tokens(results: Results, run) -> float:
    """The tokens updated in a run's SFT stage; 0 without one."""
    if run.sft_learning_rate != run.sft_learning_rate:
        return 0.0
    sft = results.of("sft")
    return sft_demonstrations(run.command) * sft.update_tokens.mean() / EPOCHS


def along(results: Results, cell: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Tokens (drawn and updated), FLOPs and reward of plain samples: a row per seed, a column per bin."""
    drawn, updated = spent(results, cell)
    parameters = results.study.tables.read("bases").parameters.iloc[0]
    _, rewards = results.curve(cell)
    return drawn + updated, parameters * (DRAWN * drawn + UPDATED * updated), rewards
