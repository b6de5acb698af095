"""transformers' continuous batching behind the interface: what it holds, and what it does not promise."""

import random

import pytest
import torch
from test_engine import requests, same

from trapo.rollout.engines.base import Request, Sampling, generate
from trapo.rollout.engines.transformers import TransformersEngine

pytestmark = pytest.mark.gpu


def engine(model, **kwargs):
    return TransformersEngine(model, [256], 257, **{"slots": 16} | kwargs)


def sliding(make_model):
    return make_model(use_sliding_window=True, sliding_window=8, max_window_layers=0)


@pytest.fixture(params=["full attention", "sliding window"])
def model(request, make_model, device):
    made = make_model() if request.param == "full attention" else sliding(make_model)
    made.set_attn_implementation("sdpa")
    return made.to(device)


def logprobs_of(model, request, sample, temperature=1.0):
    """Of a sample's tokens, from one plain forward over the whole sequence."""
    ids = torch.tensor([request.ids + sample.ids], device=model.device)
    with torch.no_grad():
        logp = (model(ids).logits[0].float() / temperature).log_softmax(-1)
    return [logp[len(request.ids) - 1 + t, token].item() for t, token in enumerate(sample.ids)]


def test_samples_end_as_asked_and_their_log_probabilities_are_the_models(model):
    before, generator = [p.data_ptr() for p in model.parameters()], torch.get_rng_state()
    todo, drawing = requests(), engine(model)
    samples = generate(drawing, todo)
    for request, sample in zip(todo, samples, strict=True):
        assert 256 not in sample.ids[:-1]
        if sample.finish == "stop":
            assert sample.ids[-1] == 256
        else:
            assert len(sample.ids) == request.max_tokens and sample.ids[-1] != 256
        assert list(sample.logprobs) == pytest.approx(logprobs_of(model, request, sample), abs=2e-4)
    assert {s.finish for s in samples} == {"stop", "length"}
    assert drawing.free == drawing.slots
    # nothing of the model or of training's random numbers is another
    assert model.config._attn_implementation == "sdpa" and {p.dtype for p in model.parameters()} == {torch.float32}
    assert [p.data_ptr() for p in model.parameters()] == before and torch.equal(torch.get_rng_state(), generator)


def test_the_same_requests_in_the_same_order_are_the_same_samples(make_model, device):
    model, todo = make_model().to(device), requests()
    first = generate(engine(model), todo)
    torch.manual_seed(1)
    assert generate(engine(model), todo) == first
    other = [Request(r.ids, r.max_tokens, r.seed + 1) for r in todo]
    assert generate(engine(model), other) != first


def test_frequencies_are_the_models_probabilities(make_model, device):
    model = make_model().to(device)
    with torch.no_grad():
        p = model(torch.tensor([[7, 8, 9]], device=device)).logits[0, -1].softmax(-1).cpu()
    drawn = generate(engine(model, slots=256), [Request((7, 8, 9), 1, seed) for seed in range(2000)])
    counts = torch.bincount(torch.tensor([s.ids[0] for s in drawn]), minlength=len(p))
    likely = p > 0.005
    z = (counts[likely] - 2000 * p[likely]) / (2000 * p[likely] * (1 - p[likely])).sqrt()
    assert likely.sum() > 20 and z.abs().max() < 4.5


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(top_k=1), Sampling(temperature=0.5)])
def test_ways_of_sampling(sampling, make_model, device):
    model, request = make_model().to(device), Request((1, 2), 20, 3)
    (sample,) = generate(engine(model, sampling=sampling), [request])
    if sampling.temperature == 0.5:
        assert list(sample.logprobs) == pytest.approx(logprobs_of(model, request, sample, 0.5), abs=2e-4)
        return
    ids = (1, 2)
    with torch.no_grad():
        for token in sample.ids:
            assert token == model(torch.tensor([ids], device=device)).logits[0, -1].argmax()
            ids += (token,)


def test_giving_up(make_model, device):
    drawing = engine(make_model().to(device), slots=4)
    keys = [drawing.submit(Request((1, 2, 3), 50, seed)) for seed in range(8)]
    assert drawing.free == -4
    found = drawing.poll() | drawing.poll()
    rng = random.Random(0)
    given_up = rng.sample([key for key in keys if key not in found], 3)
    assert [drawing.abort(key) for key in given_up] != [0, 0, 0]
    while len(found) < 5:
        found |= drawing.poll()
    assert sorted(found) == sorted(set(keys) - set(given_up)) and drawing.free == 4
    with pytest.raises(KeyError):
        drawing.abort(keys[0])


def test_graphs_that_fail_are_given_up_with_one_line(make_model, monkeypatch, caplog):
    from transformers.generation.continuous_batching.continuous_api import ContinuousBatchProcessor

    model, todo = make_model(), requests(6)
    drawing, step = engine(model), ContinuousBatchProcessor._generation_step
    drawing._graphs, drawing._why_not = True, ""

    def refused(self, model):
        if self.cb_config.use_cuda_graph is not False and drawing._graphs:
            raise RuntimeError("operation not permitted when stream is capturing")
        return step(self, model)

    monkeypatch.setattr(ContinuousBatchProcessor, "_generation_step", refused)
    assert same(generate(drawing, todo), generate(engine(model), todo))
    assert drawing.describe()["no graphs"] == "operation not permitted when stream is capturing"
    assert sum("without CUDA graphs" in r.getMessage() for r in caplog.records) == 1
