import random

import pytest
import torch

from trapo.rollout.engines.base import Request, Sampling, generate
from trapo.rollout.engines.torch import TorchEngine, check_full_attention
from trapo.rollout.engines.torch_draw import uniform

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("autocast")]


@pytest.fixture
def make_model(make_model, device):
    return lambda **changes: make_model(**changes).to(device)


def same(found, expected):
    """Bit for bit on a CPU; on a GPU other shapes round otherwise, and now and then another token comes out."""
    if not torch.cuda.is_available():
        return found == expected
    return sum(a.ids == b.ids for a, b in zip(found, expected, strict=True)) >= 0.75 * len(expected)


def splitmix64(seed, n):
    """The generator as published, in Python's unbounded integers; its output number n + 1 as a number in [0, 1)."""
    mask = (1 << 64) - 1
    z = (seed + (n + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


def requests(n=24, seed=0):
    rng = random.Random(seed)
    prompts = [tuple(rng.randrange(256) for _ in range(rng.randrange(1, 40))) for _ in range(n // 3)]
    return [Request(prompts[i // 3], rng.randrange(1, 60), rng.getrandbits(63)) for i in range(n)]


def engine(model, **kwargs):
    return TorchEngine(model, [256], 257, **kwargs)


def test_uniform_is_splitmix64():
    pairs = [(0, 0), (5, 3), (2**62 + 7, 9), (2**63 - 1, 10_000)]
    ours = uniform(torch.tensor([s for s, _ in pairs]), torch.tensor([n for _, n in pairs]))
    assert ours.tolist() == [splitmix64(s, n) for s, n in pairs]


def test_splitmix64_published_vector():
    # first output for seed 1234567, from the reference implementation's widely used test vector
    assert splitmix64(1234567, 0) == (6457827717110365317 >> 11) * 2.0**-53


def test_samples_depend_on_nothing_but_their_request(make_model):
    model, todo = make_model(), requests()
    together = generate(engine(model), todo)
    assert same(generate(engine(model, slots=5), todo[::-1])[::-1], together)
    assert same([generate(engine(model), [r])[0] for r in todo], together)
    assert {s.finish for s in together} == {"stop", "length"}  # the case is not trivial


def test_tokens_are_drawn_by_inverting_the_models_distribution(make_model):
    """Every token of a sample from one plain forward over the whole sequence, in float64."""
    model = make_model()
    request = Request((1, 2, 3), 40, 12345)
    sample = generate(engine(model), [request])[0]
    ids = torch.tensor([request.ids + sample.ids], device=model.device)
    with torch.no_grad():
        cumulative = model(ids).logits[0].double().softmax(-1).cumsum(-1).cpu()
    for t, token in enumerate(sample.ids):
        u, c = splitmix64(12345, t), cumulative[len(request.ids) - 1 + t]
        assert (c[token - 1] if token else 0) - 1e-5 <= u <= c[token] + 1e-5


def test_frequencies_are_the_models_probabilities(make_model):
    model = make_model()
    with torch.no_grad():
        p = model(torch.tensor([[7, 8, 9]], device=model.device)).logits[0, -1].float().softmax(-1).cpu()
    drawn = generate(engine(model, slots=256), [Request((7, 8, 9), 1, seed) for seed in range(4000)])
    counts = torch.bincount(torch.tensor([s.ids[0] for s in drawn]), minlength=len(p))
    likely = p > 0.005
    z = (counts[likely] - 4000 * p[likely]) / (4000 * p[likely] * (1 - p[likely])).sqrt()
    assert likely.sum() > 20 and z.abs().max() < 4.5


def test_ends(make_model):
    model = make_model()
    samples = generate(engine(model), requests())
    for request, sample in zip(requests(), samples, strict=True):
        assert 256 not in sample.ids[:-1]
        if sample.finish == "stop":
            assert sample.ids[-1] == 256
        else:
            assert len(sample.ids) == request.max_tokens and sample.ids[-1] != 256


def test_temperature_and_top_k_change_the_distribution_as_named(make_model):
    model, request = make_model(), Request((1, 2), 20, 3)
    greedy = generate(engine(model, sampling=Sampling(top_k=1)), [request])[0].ids
    ids = (1, 2)
    with torch.no_grad():
        for token in greedy:
            assert token == model(torch.tensor([ids], device=model.device)).logits[0, -1].argmax()
            ids += (token,)
    assert generate(engine(model, sampling=Sampling(temperature=1e-4)), [request])[0].ids == greedy


def test_bfloat16_weights_work(make_model):
    samples = generate(engine(make_model().to(torch.bfloat16)), requests(6))
    assert all(samples)


def test_bad_requests_and_models_are_named(make_model):
    with pytest.raises(ValueError, match="max_tokens >= 1"):
        engine(make_model()).submit(Request((1,), 0, 1))
    config = make_model(use_sliding_window=True, sliding_window=8, max_window_layers=0).config
    with pytest.raises(ValueError, match="full attention in every layer, but qwen2 has sliding_attention"):
        check_full_attention(config)
