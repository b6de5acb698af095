"""`python -m trapo_analysis.study`: the study of docs/results/plan.md, in parts that can be stopped and taken up again.

    docs/results/bases.csv    the base models: how each was made, what it can do, the hash of its weights
    docs/results/tuning.csv   every trial of a learning rate, and which was chosen
    docs/results/runs.csv     a row per run: command, seed, accuracies before and after, cost, the hash of its weights
    docs/results/curves.csv   what happened in training, in bins of ten steps
    docs/results/ideas.csv    what might be better, tried on bases and problems that no cell is measured on
    docs/results/pass_at_k.csv

A run that has its row is not run again, whether or not its folder is still there. `trapo_analysis.study.page` makes
figures and tables from these files alone.
"""

import argparse
import sys
from pathlib import Path

from trapo.terminal import Console

from .runner import Study


def study_of(options: argparse.Namespace) -> Study:
    """The study of the command line's options."""
    return Study(options.study, options.runs, options.results)


def parser(description: str) -> argparse.ArgumentParser:
    """The options that the study's commands share."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--study", type=Path, default=Path(__file__).with_name("study.yaml"))
    found.add_argument("--runs", type=Path, default=Path("runs/study"), help="where bases and run folders lie")
    found.add_argument("--results", type=Path, default=Path("docs/results"), help="where the tables lie")
    return found


def main() -> int:
    """Run, or show the plan."""
    options = parser(__doc__)
    options.add_argument("--jobs", type=int, help="runs at a time; default: one per core")
    options.add_argument("--parts", help="comma-separated: parts of the plan, ideas, pass@k; default: all")
    options.add_argument("--dry-run", action="store_true", help="show cells, commands and times, and stop")
    chosen = options.parse_args()
    study = study_of(chosen)
    if chosen.dry_run:
        study.show(Console())
        return 0
    try:
        return 0 if study.run(Console(), chosen.jobs, chosen.parts.split(",") if chosen.parts else None) else 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
