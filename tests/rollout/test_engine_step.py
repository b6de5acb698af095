"""Inside the embedded engine: drawing, keys and values, prefill, the fixed-shape step, and its graphs."""

import sys

import pytest
import torch
from places import ROOT
from test_engine import engine, requests, same
from transformers.integrations.sdpa_attention import repeat_kv

from trapo.rollout.engines import torch_step
from trapo.rollout.engines.base import Request, Sampling, generate
from trapo.rollout.engines.torch_cache import SlotCache
from trapo.rollout.engines.torch_draw import BLOCK, Draw, invert
from trapo.rollout.engines.torch_graphs import difference

pytestmark = pytest.mark.gpu


@pytest.fixture
def model(make_model, device):
    return make_model().to(device)


def shapes_of(model, monkeypatch):
    """The (rows, tokens) of every forward of `model` from now on."""
    seen, forward = [], model.forward

    def spy(*args, input_ids, **kwargs):
        seen.append(tuple(input_ids.shape))
        return forward(*args, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(model, "forward", spy)
    return seen


# ---------------------------------------------------------------- drawing


def test_a_large_vocabulary_is_inverted_as_a_small_one():
    g = torch.Generator().manual_seed(0)
    p = torch.randn(64, 2 * BLOCK + 77, generator=g).mul(4).softmax(-1)
    u = torch.rand(64, generator=g, dtype=torch.float64)
    cumulative = p.double().cumsum(-1)
    expected = torch.searchsorted(cumulative, u[:, None] * cumulative[:, -1:], right=True)[:, 0]
    assert invert(p, u).tolist() == expected.tolist()


@pytest.mark.parametrize("size", [10, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_a_word_without_probability_is_never_drawn(size):
    p = torch.zeros(3, size)
    p[0, size - 1], p[1, 0], p[2, size // 2] = 1.0, 1.0, 1.0
    for u in (0.0, 0.5, 1 - 2.0**-53):
        assert invert(p, torch.full((3,), u, dtype=torch.float64)).tolist() == [size - 1, 0, size // 2]


def test_log_probabilities_are_before_anything_is_cut_off():
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    tokens, logprobs = Draw(Sampling(top_k=1))(logits, torch.zeros(1, dtype=torch.float64))
    assert tokens.tolist() == [2] and logprobs.tolist() == pytest.approx([logits.log_softmax(-1)[0, 2].item()])


# ---------------------------------------------------------------- attention


@pytest.mark.parametrize("heads, shared", [(4, 2), (6, 2), (7, 1), (12, 4)])
def test_grouped_heads_are_those_of_repeated_keys_and_values(heads, shared):
    g = torch.Generator().manual_seed(0)
    query = torch.randn(5, heads, 1, 16, generator=g)
    key, value = (torch.randn(5, shared, 48, 16, generator=g) for _ in "kv")
    hidden = torch.arange(48) > torch.tensor([0, 3, 17, 40, 47])[:, None, None, None]
    mask = torch.zeros(5, 1, 1, 48).masked_fill(hidden, torch.finfo(torch.float32).min)
    groups = heads // shared
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, repeat_kv(key, groups), repeat_kv(value, groups), attn_mask=mask, scale=0.3
    )
    found, _ = torch_step.decode_attention(None, query, key, value, mask, scaling=0.3)
    assert torch.equal(found, expected.transpose(1, 2))  # the bits of the CPU's kernel
    torch.testing.assert_close(torch_step.folded(query, key, value, attn_mask=mask, scale=0.3), expected)


def test_the_models_own_attention_is_put_back(model, monkeypatch):
    before = model.config._attn_implementation
    drawing = engine(model)
    drawing.submit(Request((1, 2, 3), 5, 1))
    drawing.poll()
    assert model.config._attn_implementation == before
    monkeypatch.setattr(model, "forward", lambda **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        drawing.poll()
    assert model.config._attn_implementation == before


# ---------------------------------------------------------------- steps


@pytest.mark.parametrize("steps", [2, 3, 8, 100])
def test_several_steps_between_two_looks_draw_the_same(steps, model, autocast):
    todo = requests()
    assert same(generate(engine(model, steps=steps, slots=7), todo), generate(engine(model), todo))


def test_what_is_drawn_behind_an_end_is_dropped(model):
    drawing = engine(model, steps=8)
    keys = [drawing.submit(Request((1, 2), n, n)) for n in (1, 3, 30)]
    ended = drawing.poll()
    assert [len(ended[key].ids) for key in keys[:2]] == [1, 3] and keys[2] not in ended
    assert drawing.abort(keys[2]) == 8 and drawing.free == drawing.slots


def test_a_slot_that_is_given_up_leaves_the_others_as_they_are(model, autocast):
    todo = requests()
    alone, drawing = generate(engine(model), todo), engine(model, steps=2)
    keys = [drawing.submit(request) for request in todo]
    found = drawing.poll()
    given_up = [key for key in keys[::3] if key not in found]
    for key in given_up:
        drawing.abort(key)
    while len(found) < len(todo) - len(given_up):
        found |= drawing.poll()
    assert len(given_up) > 3
    kept = [(found[key], sample) for key, sample in zip(keys, alone, strict=True) if key not in given_up]
    assert same(*zip(*kept, strict=True))


# ---------------------------------------------------------------- prefill


@pytest.mark.parametrize("budget", [64, 200, 600])
def test_prompts_are_prefilled_under_the_budget(budget, model, autocast, monkeypatch):
    todo = requests(60)
    expected = generate(engine(model), todo)
    seen = shapes_of(model, monkeypatch)
    assert same(generate(engine(model, prefill_tokens=budget), todo), expected)
    prefills = [shape for shape in seen if shape[1] > 1]
    assert max(rows * tokens for rows, tokens in prefills) <= budget
    assert any(tokens < 48 for _, tokens in prefills)  # a prompt of 33 to 48 tokens came in parts, or in company


def test_a_prompt_that_a_running_sample_has_is_not_computed_again(model, autocast, monkeypatch):
    prompt = tuple(range(20))
    todo = [Request(prompt, 30 + i, i) for i in range(12)] + [Request(prompt[:9], 10, 77)]
    expected = [generate(engine(model), [r])[0] for r in todo]
    drawing = engine(model, slots=6)  # the later ones come when some have ended
    seen = shapes_of(model, monkeypatch)
    assert same(generate(drawing, todo), expected)
    assert [shape for shape in seen if shape[1] > 1] == [(4, 32)]


# ---------------------------------------------------------------- keys and values


def test_growing_needs_one_layers_room_besides(make_model):
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from tensors import PeakBytes
    from transformers import DynamicCache

    prefilled = DynamicCache()
    layers, column = 6, 2 * 3 * 8 * 4  # heads, slots, head_dim, bytes
    for i in range(layers):
        prefilled.update(torch.ones(2, 2, 16, 8), torch.ones(2, 2, 16, 8), i)
    with PeakBytes() as memory:
        cache = SlotCache(3)
        cache.reserve(16, like=prefilled)
        cache.store(prefilled, [0, 1], [0, 2])
        before = memory.now
        assert before == 2 * layers * 16 * column
        cache.reserve(64)
        assert memory.now == 4 * before and memory.peak <= 4 * before + 16 * column
    assert cache.keys[3][2, :, :16].eq(1).all() and not cache.keys[3][:, :, 16:].any() and not cache.keys[3][1].any()


def test_no_more_columns_than_the_longest_sample_can_need(model):
    drawing, most = engine(model, slots=8), 0
    todo = [Request((1,) * (i + 1), 40, i) for i in range(24)]
    keys = {drawing.submit(request) for request in todo}
    while keys:
        keys -= drawing.poll().keys()
        most = max(most, drawing._cache.capacity)
    assert 48 <= most <= 64  # 24 + 40 tokens
    drawing.poll()
    assert drawing._cache is None


# ---------------------------------------------------------------- shapes of a GPU, and one shape for all


def like_a_gpu(monkeypatch, drawing, free=1 << 40):
    """Let an engine on a CPU choose shapes and memory as on a GPU."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *args: (free, 1 << 40))
    drawing.gpu = True
    return drawing


def test_a_gpus_shapes_are_few(model):
    drawing = engine(model, slots=100)
    drawing.gpu = True
    assert [drawing._shape(n, 1)[0] for n in (1, 8, 9, 40, 70, 100)] == [8, 8, 16, 64, 100, 100]
    assert [drawing._shape(1, n)[1] for n in (1, 256, 257, 2048, 2049, 5000)] == [256, 256, 512, 2048, 3072, 5120]


@pytest.mark.parametrize("free", [1 << 40, 1 << 10], ids=["much memory", "little memory"])
def test_a_gpus_shapes_draw_the_same(free, model, autocast, monkeypatch):
    todo = requests()
    expected = generate(engine(model), todo)
    assert same(generate(like_a_gpu(monkeypatch, engine(model, steps=8), free), todo), expected)


def test_memory_is_held_until_it_is_given_back(model):
    todo = requests()
    expected = generate(engine(model), todo)
    drawing = engine(model, hold=True)
    assert same(generate(drawing, todo), expected)
    kept = drawing._cache
    assert drawing.bytes == sum(x.nbytes for x in (*kept.keys, *kept.values)) > 0
    assert same(generate(drawing, todo), expected) and drawing._cache is kept
    drawing.release()
    assert drawing.bytes == 0 and same(generate(drawing, todo), expected)


def test_a_fixed_length_has_one_shape_for_all_steps_and_one_for_all_prefills(model, autocast, monkeypatch):
    todo = requests()
    drawing = engine(model, slots=9, length=100)
    seen = shapes_of(model, monkeypatch)
    together = generate(drawing, todo)
    assert set(seen) == {(4, 112), (9, 1)} and drawing.length == 112
    assert generate(engine(model, slots=9, length=100, steps=3), todo[::-1])[::-1] == together
    assert [generate(drawing, [request])[0] for request in todo] == together
    with pytest.raises(ValueError, match="30 tokens and 90 more exceed the engine's fixed length of 112"):
        drawing.submit(Request((1,) * 30, 90, 1))


# ---------------------------------------------------------------- graphs


def with_graphs(drawing, capture):
    drawing._capture, drawing._why_not = capture, ""
    return drawing


def test_steps_that_prove_themselves_are_replayed(model, autocast):
    recorded = []
    drawing = with_graphs(engine(model, steps=4), lambda run: recorded.append(run) or run)
    todo = requests()
    assert same(generate(drawing, todo), generate(engine(model), todo))
    assert len(recorded) > 1 and drawing.describe()["decoding"] == "CUDA graphs"


def broken(kind, drawing):
    """A capture that fails, or one whose graph draws from something else."""

    def capture(run):
        if kind == "refused":
            raise torch.AcceleratorError("operation not permitted when stream is capturing", 900)
        slots = drawing._state

        def replay():
            run()
            at = slots.column[0] - 1
            if kind == "tokens":
                slots.tokens[:, at] = (slots.tokens[:, at] + 1) % 256
            elif kind == "logprobs":
                slots.logprobs[:, at] += 0.5
            elif kind == "nan":
                slots.logprobs[:, at] = torch.nan
            elif kind == "stale":
                slots.column -= 1

        return replay

    return capture


@pytest.mark.parametrize("kind", ["refused", "tokens", "logprobs", "nan", "stale"])
def test_graphs_that_do_not_are_given_up_with_one_line(kind, model, autocast, caplog):
    drawing, todo = engine(model, steps=4), requests()
    with_graphs(drawing, broken(kind, drawing))
    assert same(generate(drawing, todo), generate(engine(model), todo))
    (line,) = [r.getMessage() for r in caplog.records if "without CUDA graphs" in r.getMessage()]
    assert drawing.describe()["decoding"] == "eager" and drawing.describe()["no graphs"] in line
    assert same(generate(drawing, todo), generate(engine(model), todo))  # and are not tried again
    assert len([r for r in caplog.records if "without CUDA graphs" in r.getMessage()]) == 1


def test_graphs_switched_off(model):
    assert engine(model, graphs="off").describe()["no graphs"] == "switched off"


def test_differences_by_hand():
    tokens, logprobs = torch.arange(80).reshape(40, 2), -torch.ones(40, 2)
    assert difference((tokens, logprobs), (tokens, logprobs + 0.01), (0.02, 0.25)) is None
    other, apart = tokens.clone(), logprobs.clone()
    other[3, 0], apart[3] = 99, -90.0  # what follows another token is another sample's
    assert "differ by" in difference((tokens, logprobs), (tokens, apart), (0.02, 0.25))
    apart[3, 0] = -1.0
    assert difference((tokens, logprobs), (other, apart), (1e-5, 1e-3)) is None
    other[:5, 1] = 99  # rows 0 to 4 of 40, more than one in ten over two steps
    assert "other tokens in 12%" in difference((tokens, logprobs), (other, logprobs), (1, 1))
    apart = logprobs.clone()
    apart[0, 0] -= 0.8
    assert "differ by 0.01 on average, 0.8 at most" in difference((tokens, logprobs), (tokens, apart), (0.1, 0.1))
