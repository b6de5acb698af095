"""The weights that samples are drawn with: the same numbers as autocast's, adapters merged, the model as it was."""

import pytest
import torch
from test_engine import engine, requests, same
from torch import nn

from trapo.rollout.engines.base import generate
from trapo.rollout.engines.torch_weights import RolloutWeights

pytestmark = pytest.mark.gpu


def adapted(model):
    """The model with adapters that do something."""
    peft = pytest.importorskip("peft")
    found = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    g = torch.Generator().manual_seed(0)
    for name, parameter in found.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=g).mul(0.1).to(parameter.device)
    return found.eval()


def facts(model):
    """Everything that must be as it was: each parameter itself, its place, its bits, whether it is trained."""
    return [(name, id(p), p.data_ptr(), p.dtype, p.requires_grad, p.sum().item()) for name, p in
            model.named_parameters(remove_duplicate=False)]  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
def test_weights_cast_once_are_those_that_autocast_casts_for_every_token(tied, make_model, device):
    model, weights = make_model(tie_word_embeddings=tied).to(device), RolloutWeights()
    before = facts(model)
    with torch.autocast(device.type, torch.bfloat16):
        expected = generate(engine(model), requests())
        with weights.placed(model, torch.bfloat16):
            linear = {p.dtype for m in model.modules() if isinstance(m, nn.Linear) for p in m.parameters()}
            others = {p.dtype for n, p in model.named_parameters() if "norm" in n or "embed" in n}
            assert (linear, others) == ({torch.bfloat16}, {torch.float32})
            assert same(generate(engine(model), requests()), expected)
    assert facts(model) == before


def test_the_copies_follow_the_weights_and_stay_where_they_are(make_model, device):
    model, weights = make_model().to(device), RolloutWeights()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        with weights.placed(model, torch.bfloat16):
            first = model.lm_head.weight
            assert weights.bytes == 2 * sum(p.numel() for m in model.modules() if isinstance(m, nn.Linear)
                                            for p in m.parameters())  # fmt: skip
        for parameter in model.parameters():  # an update
            parameter.add_(0.02)
        expected = generate(engine(model), requests())
        with weights.placed(model, torch.bfloat16):
            assert model.lm_head.weight is first and torch.equal(first, model.lm_head.weight)
            assert same(generate(engine(model), requests()), expected)
    weights.drop()
    assert weights.bytes == 0


def test_what_autocast_would_still_cast_is_known(make_model, device):
    from transformers import GPT2Config, GPT2LMHeadModel

    weights = RolloutWeights()
    with weights.placed(adapted(make_model().to(device)), torch.bfloat16):
        assert weights.complete
    other = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=8, n_layer=1, n_head=2))  # its layers are no nn.Linear
    with weights.placed(other, torch.bfloat16):
        assert not weights.complete
    with weights.placed(other, torch.bfloat16, whole=True):
        assert weights.complete


def test_adapters_are_merged_for_the_rollout_only(make_model, device):
    model, weights = adapted(make_model().to(device)), RolloutWeights()
    before, ids, calls = facts(model), torch.arange(30, device=device)[None], []
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    base = layer.base_layer.weight.detach().clone()
    layer.lora_A["default"].register_forward_hook(lambda *args: calls.append(1))
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        apart = model(ids).logits
        with model.disable_adapter():
            without = model(ids).logits
        assert calls == [1]
        with weights.placed(model, torch.bfloat16):
            merged, together = layer.base_layer.weight.detach().clone(), model(ids).logits
        assert calls == [1]  # no adapter was computed
        assert torch.equal(model(ids).logits, apart)
    whole = base + 8 / 4 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert torch.equal(merged, whole.to(torch.bfloat16))
    assert facts(model) == before
    assert 0 < (together - apart).abs().mean() < 0.1 * (apart - without).abs().mean()


def test_the_model_is_put_back_when_drawing_fails(make_model, device):
    model = adapted(make_model().to(device))
    before = facts(model)
    with pytest.raises(ZeroDivisionError), RolloutWeights().placed(model, torch.bfloat16):
        1 / 0  # noqa: B018
    assert facts(model) == before
    assert not any(getattr(m, "disable_adapters", False) is True for m in model.modules())
