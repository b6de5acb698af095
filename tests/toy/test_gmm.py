from statistics import NormalDist

import numpy as np
import pytest
import torch

from trapo_toy import mixture_command as run
from trapo_toy.gmm import Mixture, _imitation, log_density, parameters, train
from trapo_toy.mixture_metrics import Ruler, floor, regions

EXPERT, POLICY = run.EXPERT, run.POLICY
NORMAL = Mixture((1,), (0,), (1,))
SEEDS = range(16)


@pytest.fixture(scope="module")
def found():
    """The K = 3 run of the command: 16 seeds, every method."""
    return run.mixture(run.Settings())


def measured(found, method, metric, step):
    """(seeds,)"""
    return np.array(found["methods"][method][metric][found["step"].index(step)])


def sweep(start, alphas_over_peak, method="trsft", seeds=8):
    """Every measure at steps 50 and 1000: (steps, alphas, seeds)."""
    policy = run.starts(run.Settings())[start]
    ruler = Ruler(EXPERT)
    return ruler.measure(
        train(method, EXPERT, policy, [a * ruler.peak for a in alphas_over_peak], range(seeds), marks=(50, 1000))
    )


# The picture


def test_sft_fills_the_void_early_and_trsft_does_not(found):
    sft, trsft = (measured(found, method, "void", 50) for method in ("sft", "trsft"))
    assert (sft > 0.1).sum() >= 14 and (trsft < 0.02).sum() >= 14


def test_trsft_ends_near_the_floor_of_two_modes(found):
    assert found["floor"] == pytest.approx(-np.log(0.7))
    final = measured(found, "trsft", "reverse_kl", 1000)
    assert (final > 0.35).all() and (final < 0.40).all()
    assert (measured(found, "trsft", "modes", 1000) < 2.01).all()


def test_the_oracle_reaches_the_floor(found):
    assert np.abs(measured(found, "reverse_kl", "reverse_kl", 1000) - found["floor"]).max() < 1e-3


def test_sft_wins_in_the_end(found):
    assert np.median(measured(found, "sft", "reverse_kl", 1000)) < 0.02
    assert np.median(measured(found, "sft", "modes", 1000)) > 2.9
    assert np.median(measured(found, "sft", "void", 1000)) < 0.015


def test_without_room_for_three_modes_sft_stays_in_the_void():
    two = Mixture((0.5, 0.5), (-6, 0.5), (1, 1))
    ruler = Ruler(EXPERT)
    alpha = [0.15 * ruler.peak]
    sft, trsft = (ruler.measure(train(m, EXPERT, two, alpha, range(8), marks=(1000,))) for m in ("sft", "trsft"))
    assert (sft["void"] > 0.2).all() and (sft["reverse_kl"] > 1).all() and (sft["modes"] < 2.5).all()
    assert (trsft["void"] < 0.02).all() and (trsft["reverse_kl"] < 0.38).all()


def test_dft_collapses(found):
    assert np.median(measured(found, "dft", "modes", 1000)) < 1.5
    assert (measured(found, "dft", "reverse_kl", 1000) > 2).all()


def test_luffy_stays_on_its_modes_with_more_in_the_void_than_trsft(found):
    assert (measured(found, "luffy", "modes", 1000) < 2.01).all()
    assert (measured(found, "luffy", "void", 1000) > measured(found, "trsft", "void", 1000)).all()


def test_methods_start_alike(found):
    for metric in ("void", "modes", "forward_kl", "reverse_kl"):
        for method in ("trsft", "dft", "luffy", "reverse_kl"):
            np.testing.assert_array_equal(measured(found, method, metric, 0), measured(found, "sft", metric, 0))


def test_the_summary_is_median_and_range(found):
    values = measured(found, "sft", "void", 50)
    assert found["summary"]["sft"]["50"]["void"] == [np.median(values), values.min(), values.max()]


# Where it fails


def test_from_a_bridge_trsft_crosses_the_void_to_the_third_mode():
    seen = sweep("bridge", [0.15])
    assert (seen["void"][0] > 0.1).all() and (seen["modes"][1] > 2.9).all() and (seen["reverse_kl"][1] < 0.05).all()


def test_with_one_wide_component_trsft_is_sft_until_alpha_is_a_third_of_the_peak():
    trsft, sft = sweep("wide", [0.05, 0.15, 0.3, 1]), sweep("wide", [1], "sft")
    gap = sft["void"][1] - trsft["void"][1]  # (alphas, seeds)
    assert (np.abs(gap[0]) < 1e-3).all() and (np.abs(gap[1]) < 0.01).all()
    assert (sft["void"][1] > 0.25).all()
    assert (gap[2] > 0.05).all() and (trsft["void"][1, 3] < 0.05).all() and (trsft["modes"][1, 3] < 1.1).all()


# Training


@pytest.mark.parametrize(
    ("method", "weight"), [("sft", 1), ("trsft", 0.5), ("dft", 0.241971), ("luffy", 0.25)], ids=lambda x: str(x)
)
def test_the_loss_by_hand(method, weight):
    # p(1) = exp(-1/2) / sqrt(2 pi) = 0.241971, alpha twice that for TrSFT, gamma just that for LUFFY
    threshold = torch.full((1, 1), 0.483941 if method == "trsft" else 0.241971, dtype=torch.float64)
    theta = torch.tensor(parameters(NORMAL, NORMAL))[None].requires_grad_()
    loss = _imitation(method, NORMAL, threshold, 1)(theta, np.array([[1.0]]))
    assert loss.item() == pytest.approx(weight * 1.418939, rel=1e-5)
    (slope,) = torch.autograd.grad(loss.sum(), theta)
    assert slope[0].ravel().tolist() == pytest.approx([0, -weight, 0], rel=1e-5)  # weight's logit, mean, log sd


@pytest.mark.parametrize("method", ["sft", "trsft", "reverse_kl"])
def test_a_seed_does_not_notice_how_many_seeds_and_alphas_run(method):
    alone = train(method, EXPERT, POLICY, [0.02], [3], marks=(60,))
    among = train(method, EXPERT, POLICY, [0.3, 0.02], range(7), marks=(60,))
    np.testing.assert_array_equal(alone[0, 0, 0], among[0, 1, 3])
    assert not np.array_equal(alone[0, 0, 0], among[0, 1, 2])


@pytest.mark.parametrize("method", ["sft", "trsft", "luffy", "reverse_kl"])
def test_ten_times_the_lengths_and_a_tenth_of_alpha_change_nothing(method):
    def tenfold(m):
        return Mixture(m.weights, tuple(10 * x for x in m.means), tuple(10 * x for x in m.sds))

    small = train(method, EXPERT, POLICY, [0.02], range(3), marks=(0, 50, 100))
    large = train(method, tenfold(EXPERT), tenfold(POLICY), [0.002], range(3), marks=(0, 50, 100))
    one, other = Ruler(EXPERT).measure(small), Ruler(tenfold(EXPERT)).measure(large)
    for metric in ("void", "modes", "forward_kl", "reverse_kl"):
        np.testing.assert_allclose(one[metric], other[metric], rtol=1e-6, atol=1e-9)


def test_training_runs_on_one_thread_and_leaves_torch_as_it_was(monkeypatch):
    seen, before = [], torch.get_num_threads()
    monkeypatch.setattr("trapo_toy.gmm.log_density", lambda *a: seen.append(torch.get_num_threads()) or log_density(*a))
    try:
        torch.set_num_threads(2)
        train("sft", EXPERT, POLICY, [0.02], [0], marks=(1,))
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_samples_have_the_moments_of_the_mixture():
    mean, sd = EXPERT.moments
    assert mean == pytest.approx(0.3) and sd == pytest.approx(np.sqrt(32.71))  # 1 + .35 * 36 + .3 * 64 - .3^2
    x = EXPERT.sample(np.random.default_rng(0), (200_000,))
    assert x.mean() == pytest.approx(mean, abs=5 * sd / np.sqrt(len(x))) and x.std() == pytest.approx(sd, rel=0.01)
    assert (x > 4).mean() == pytest.approx(0.3, abs=0.005)


# Measuring


def test_a_gaussian_measured_in_closed_form():
    policy = Mixture((1,), (1,), (2,))
    seen = {k: v.item() for k, v in Ruler(NORMAL).measure(parameters(policy, NORMAL)[None]).items()}
    assert seen["forward_kl"] == pytest.approx(np.log(2) + 2 / 8 - 1 / 2, abs=1e-12)
    assert seen["reverse_kl"] == pytest.approx(-np.log(2) + 5 / 2 - 1 / 2, abs=1e-12)
    end = NormalDist().inv_cdf(0.995)
    inside = NormalDist(1, 2).cdf(end) - NormalDist(1, 2).cdf(-end)
    assert seen["void"] == pytest.approx(1 - inside, abs=1e-4) and seen["modes"] == pytest.approx(
        inside / 0.99, abs=1e-4
    )
    assert regions(NORMAL) == pytest.approx(np.array([[-end, end]]), abs=2e-3)
    assert Ruler(NORMAL).peak == pytest.approx(1 / np.sqrt(2 * np.pi), rel=1e-4)


def test_the_expert_measured_by_itself():
    seen = Ruler(EXPERT).measure(parameters(EXPERT, EXPERT)[None])
    assert seen["void"][0] == pytest.approx(0.01, abs=1e-4) and seen["modes"][0] == pytest.approx(3)
    assert abs(seen["forward_kl"][0]) < 1e-12 and abs(seen["reverse_kl"][0]) < 1e-12


@pytest.mark.parametrize("method", ["sft", "trsft", "dft"])
def test_a_grid_four_times_finer_moves_no_more_than_the_stated_error(method):
    theta = train(method, EXPERT, POLICY, [0.02], range(4), marks=(0, 50, 300))
    coarse, fine = Ruler(EXPERT).measure(theta), Ruler(EXPERT, points=160).measure(theta)
    stated = coarse["error"].max()
    assert stated < 1e-3
    for metric in ("forward_kl", "reverse_kl"):
        assert (np.abs(coarse[metric] - fine[metric]) <= (stated + 1e-12) * np.maximum(1, fine[metric])).all()


def test_a_run_states_its_grid_error(found):
    assert 0 < found["largest_grid_error"] < 1e-3


def test_modes_that_run_into_each_other_are_cut_at_the_dip():
    near = Mixture((0.5, 0.5), (-1.5, 1.5), (1, 1))
    (left, right) = regions(near)
    assert left[1] == right[0] == pytest.approx(0, abs=1e-3) and left[0] == pytest.approx(-right[1])
    assert len(regions(Mixture((0.5, 0.5), (-0.5, 0.5), (1, 1)))) == 1


def test_the_floor_counts_the_modes_the_policy_starts_on():
    assert floor(EXPERT, Mixture((1,), (8,), (1,))) == pytest.approx(-np.log(0.3))
    assert floor(EXPERT, EXPERT) is None and floor(EXPERT, Mixture((1,), (100,), (1,))) is None


def test_log_density_by_hand():
    theta = torch.tensor(parameters(Mixture((0.25, 0.75), (0, 2), (1, 2)), EXPERT))[None]
    p = 0.25 * NormalDist(0, 1).pdf(1) + 0.75 * NormalDist(2, 2).pdf(1)
    assert log_density(theta, torch.ones(1, 1, dtype=torch.float64), EXPERT).item() == pytest.approx(np.log(p))


# Mixtures


def test_a_mixture_is_read_back_from_its_text():
    assert Mixture.parse("0.35:-6:1,0.35:0:1,0.3:8:1") == EXPERT
    assert Mixture.parse(EXPERT.text()) == EXPERT and POLICY.text(3).startswith("0.333:-6:1,")


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        (((0.5, 0.5), (0,), (1, 1)), "2 weights, 1 means, 2 sds: give one of each per component"),
        (((), (), ()), "0 weights, 0 means, 0 sds"),
        (((0.5, 0.4), (0, 1), (1, 1)), "the weights sum to 0.9: they must sum to 1"),
        (((1.5, -0.5), (0, 1), (1, 1)), "weight -0.5 is not positive"),
        (((1,), (0,), (0,)), "sd 0 is not positive"),
        (((1,), (float("nan"),), (1,)), "must be finite"),
    ],
)
def test_what_is_no_mixture_is_refused(numbers, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        Mixture(*numbers)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["1:0", "1:0:1:2", "1:0:x", "", "1:0:1,"])
def test_text_that_is_no_mixture_is_named(text):
    with pytest.raises(ValueError, match=r"is not weight:mean:sd, as in 0\.5:-2:1,0\.5:2:1"):
        Mixture.parse(text)
