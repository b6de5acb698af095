import json

import pytest

from trapo_toy.proposition_figure import Settings, figure, results

QUICK = Settings(steps=300, starts=3, rare=(0.01, 0.1))


def test_the_figures_numbers_are_the_same_every_time_and_fit_into_json():
    once, again = (json.dumps(results(QUICK)) for _ in range(2))
    assert once == again
    found = json.loads(once)
    assert found == results(QUICK)
    assert found["jump"]["0.5"]["paper_lambda"] is None and found["jump"]["0.5"]["mu"] == pytest.approx(0.6)
    assert len(found["distance"]["trsft"]) == len(found["distance"]["step"])
    assert all(len(row) == 3 for row in found["distance"]["sft"])
    assert found["escape"]["trsft"] == pytest.approx(found["escape"]["formula"], rel=0.1)


def test_the_figure_says_alpha_and_draws_all_four_panels():
    drawn = figure(QUICK)
    assert "alpha = 0.1" in drawn.get_suptitle()
    assert [axis.get_title()[:3] for axis in drawn.axes] == ["(a)", "(b)", "(c)", "(d)"]
    assert all(axis.get_xlabel() and axis.get_ylabel() and axis.get_legend() for axis in drawn.axes)


@pytest.mark.parametrize("alpha", [1e-3, 1.0])
def test_extreme_alphas_are_drawn_too(alpha, tmp_path):
    settings = Settings(alpha=alpha, steps=20, starts=2, rare=(0.1, 0.3))
    found = results(settings)
    reached = [found["escape"][name] for name in ("trsft", "trsft_adam", "sft")]
    # With alpha = 1 the trust region is p = 1, which no softmax reaches.
    assert all((step is None) == (alpha == 1) for steps in reached for step in steps)
    labels = [text.get_text() for text in figure(settings, found).axes[3].get_legend().get_texts()]
    assert sum("never" in label for label in labels) == (3 if alpha == 1 else 0)


def test_an_alpha_that_is_no_probability_is_one_line():
    with pytest.raises(ValueError, match=r"alpha is 2: on tokens it is a probability in \(0, 1\]"):
        results(Settings(alpha=2))
