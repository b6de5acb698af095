"""`python -m trapo_analysis.study.power`: what a plan's claims could show, simulated from a finished study's residuals.

Each claim's differences in the finished study, less their mean, are drawn with replacement for as many blocks as the
plan has; the smallest difference that matters is added, and the rule is applied at Holm's worst step. An equivalence is
asked at a true difference of 0.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import t

from ..inference import LEVEL, check_family, power
from .results import READINGS, Results
from .runner import Study

DRAWS = 2_000


def residuals(gaps: Sequence[float], blocks: int, draws: int = DRAWS) -> np.ndarray:
    """Differences less their mean, drawn with replacement: (draws, blocks), with the standard deviation of n - 1."""
    gaps = np.asarray(gaps, float)
    left = (gaps - gaps.mean()) * np.sqrt(len(gaps) / (len(gaps) - 1))
    return left[np.random.default_rng(0).integers(len(left), size=(draws, blocks))]


def claim_power(gaps: Sequence[float], smallest: float, blocks: int, family: int, equal: bool = False) -> float:
    """The chance that a claim is told over `blocks` blocks that scatter as `gaps` do, at Holm's worst step of `family`.

    Args:
        gaps: the differences of a finished study.
        smallest: the true difference; for an equivalence the margin, at a true difference of 0.
        blocks, family: of the plan.
        equal: whether the claim is an equivalence.
    """
    noise = residuals(gaps, blocks)
    if not equal:
        return power(smallest, blocks, family, noise)
    half = t.ppf(1 - LEVEL / family, blocks - 1) * noise.std(1, ddof=1) / np.sqrt(blocks)
    return float((np.abs(noise.mean(1)) + half < smallest).mean())


def table(plan: Study, finished: Results, blocks: Sequence[int]) -> str:
    """Claim -> power in both readings, for several numbers of blocks; ValueError for a family that can never reject."""
    claims = plan.plan["claims"]
    for n in blocks:
        check_family("claims", len(claims), n)
    lines = []
    for claim in claims:
        cells = []
        for reading in READINGS:
            gaps = finished.gaps(claim.get("proxy", claim["pair"]), reading=reading)[2]
            cells += [
                f"{claim_power(gaps, claim['smallest'], n, len(claims), claim.get('equal', False)):.2f}" for n in blocks
            ]
        lines.append(f"| {claim['claim']} | {claim['smallest']:g} | {' | '.join(cells)} |")
    head = [f"{name}, {n}" for name in READINGS for n in blocks]
    return "\n".join([f"| claim | smallest | {' | '.join(head)} |", "|" + "---|" * (2 + len(head)), *lines])


def main() -> int:
    """Print the table."""
    here = Path(__file__).parent
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--plan", type=Path, default=here / "plan-2.yaml")
    options.add_argument(
        "--finished", type=Path, default=here / "study.yaml", help="the study whose residuals are taken"
    )
    options.add_argument("--results", type=Path, default=Path("docs/results"), help="its tables")
    options.add_argument("--blocks", type=int, nargs="+", default=[8, 18, 32])
    chosen = options.parse_args()
    runs = Path("runs/study")
    try:
        plan = Study(chosen.plan, runs, chosen.results)
        print(table(plan, Results(Study(chosen.finished, runs, chosen.results)), chosen.blocks))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
