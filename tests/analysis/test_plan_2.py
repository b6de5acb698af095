"""The replication's plan: what can be run of it can run, its family can reject, and its power is what the page says."""

import shlex

import numpy as np
import pytest
import yaml
from places import ROOT

from trapo_analysis.inference import power
from trapo_analysis.study.power import claim_power, residuals, table
from trapo_analysis.study.results import Results
from trapo_analysis.study.runner import Study
from trapo_cli.cli import job_maker

STUDY = ROOT / "analysis" / "study"
GAPS = [0.10, 0.12, 0.08, 0.11, 0.09, 0.13, 0.07, 0.10]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return Study(STUDY / "plan-2.yaml", ROOT / "runs" / "study", tmp_path_factory.mktemp("results"))


def test_every_cell_draws_the_same_samples_and_is_measured_at_four_checkpoints(plan):
    for cell in plan.cells.values():
        config = job_maker().config_of_flags(shlex.split(plan.command(plan.point(cell, 101)))[2:])
        assert config.max_steps * config.generation_batch_size // config.num_iterations == 12_800, cell.name
        assert config.max_steps // config.eval_steps == 4 and config.eval_strategy == "steps"


def test_its_blocks_are_fresh(plan):
    first = yaml.safe_load((STUDY / "study.yaml").read_text())
    met = {*first["bases"]["seeds"], *first["bases"]["fresh"], *first["ideas"]["bases"]}
    met |= {first["tuning"][phase]["base"] for phase in ("screen", "full")}
    mine, tuned = set(plan.plan["bases"]["seeds"]), {plan.plan["tuning"][phase]["base"] for phase in ("screen", "full")}
    assert len(mine) == 32 and not mine & met and not tuned & (met | mine)


def test_its_claims_are_one_family_of_six(plan):
    (family,) = plan.plan["questions"].values()
    assert len(family) == len(plan.plan["claims"]) == 6
    assert {name for claim in plan.plan["claims"] for name in np.ravel(claim["pair"])} <= set(plan.cells)


def test_the_pages_power_is_the_codes(plan):
    finished = Results(Study(STUDY / "study.yaml", ROOT / "runs" / "study", ROOT / "docs" / "results"))
    made = table(plan, finished, [8, 18, 32])
    assert made in (ROOT / "docs" / "results" / "plan-2.md").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="claims: 6 comparisons over 7 blocks can never reject"):
        table(plan, finished, [7])


def test_a_claims_power_is_that_of_its_residuals():
    """Residuals keep the standard deviation of the gaps; a normal sample of it has the same power."""
    noise = residuals(GAPS, 16)
    assert noise.shape == (2000, 16) and noise.mean() == pytest.approx(0, abs=5e-4)
    assert noise.std() == pytest.approx(0.02, rel=0.02)  # sd of the gaps with 7 degrees of freedom
    assert claim_power(GAPS, 0.02, 8, 1) == pytest.approx(power(1.0, 8, 1), abs=0.08)
    assert claim_power(GAPS, 0.2, 8, 6) == 1 and claim_power(GAPS, 1e-6, 8, 6) < 0.05
    assert claim_power(GAPS, 0.05, 8, 1, equal=True) > 0.99 and claim_power(GAPS, 0.001, 8, 1, equal=True) == 0
