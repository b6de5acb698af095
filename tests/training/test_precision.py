"""Evaluations and checkpoints between updates, in float32 and under bf16 autocast over float32 weights."""

import conftest
import pytest
import torch
from conftest import SETTINGS
from datasets import Dataset
from harness import distance, one_in_three
from safetensors.torch import load_file

from trapo import TRAPOConfig, TRAPOTrainer
from trapo.command import job as launch
from trapo.command import stages
from trapo.runs.folder import RunFolder

pytestmark = pytest.mark.gpu


def trained(path, tokenizer, *, evaluate=False, model=None, **fields):
    """A trainer after three steps; with `evaluate`, held-out samples are drawn before them all and wherever asked."""
    settings = {
        "output_dir": str(path), "max_steps": 3, "per_device_train_batch_size": 16, "max_completion_length": 24,
        "learning_rate": 1e-2, "save_strategy": "no", "disable_tqdm": True, "num_generations_eval": 1,
        "per_device_eval_batch_size": 16,
    }  # fmt: skip
    rows = Dataset.from_list(conftest.ROWS)
    trainer = TRAPOTrainer(
        model or conftest.new_model(),
        one_in_three,
        TRAPOConfig(**(SETTINGS | settings | fields)),
        rows,
        eval_dataset=rows,
        processing_class=tokenizer,
    )
    if evaluate:
        trainer.evaluate()
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def plain(tmp_path_factory, tokenizer, precision):
    return trained(tmp_path_factory.mktemp("plain"), tokenizer)


@pytest.mark.parametrize(
    "between",
    [
        {"evaluate": True},
        {"eval_strategy": "steps", "eval_steps": 1},
        {"save_strategy": "steps", "save_steps": 1},
        {"evaluate": True, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1},
    ],
    ids=["evaluated first", "evaluated", "saved", "all"],
)
def test_what_comes_between_updates_does_not_matter(between, plain, tmp_path, tokenizer, precision):
    """Not a bit, unless it is an evaluation after the first step: TRL then adds a batch's rows in another order."""
    other = trained(tmp_path, tokenizer, **between)
    before = dict(conftest.new_model().named_parameters())
    one, two = ({n: p.detach().cpu() - before[n] for n, p in t.model.named_parameters()} for t in (plain, other))
    near = {"fp32": 1e-4, "bf16": 0.02}[precision] if "eval_steps" in between or not SETTINGS["use_cpu"] else 0
    assert distance(two, one) <= near


def test_mixed_precision_keeps_the_weights_in_float32_and_its_step_near_the_exact_one(plain, precision):
    assert {p.dtype for p in plain.model.parameters()} == {torch.float32}
    computed = torch.bfloat16 if precision == "bf16" else torch.float32
    ids = torch.tensor([[1, 2, 3]], device=plain.model.device)
    with plain.accelerator.autocast():
        assert plain.model.model.layers[0].mlp(plain.model.get_input_embeddings()(ids)).dtype == computed


def test_run_json_says_what_has_drawn(plain, precision):
    found = RunFolder(plain.args.output_dir).record()["rollout"]
    weights = "copy" if precision == "bf16" else "the model's"
    assert (found["engine"], found["weights"]) == ("torch", weights)
    assert found["decoding"] == ("eager" if SETTINGS["use_cpu"] else "CUDA graphs")
    assert "fixed length" not in found


def test_deterministic_runs_compute_one_shape_where_bits_depend_on_it(tmp_path, tokenizer, precision):
    samples = []
    for schedule in ("speculative", "barrier"):
        path = tmp_path / schedule
        trained(path, tokenizer, schedule=schedule, deterministic=True, max_steps=1)
        samples.append((path / "rollouts.jsonl").read_bytes())
        # "10+10=" and 24 tokens, in multiples of 16
        assert RunFolder(path).record()["rollout"].get("fixed length") == (
            32 if precision == "bf16" or not SETTINGS["use_cpu"] else None
        )
    assert samples[0] == samples[1]


@pytest.mark.parametrize("asked", ["auto", "transformers"])
def test_sliding_windows_are_drawn_by_transformers(asked, tmp_path, tokenizer, precision):
    model = conftest.new_model(use_sliding_window=True, sliding_window=8, max_window_layers=1)
    other = trained(tmp_path, tokenizer, model=model, evaluate=True, engine=asked, max_steps=2)
    assert RunFolder(tmp_path).record()["rollout"]["engine"] == "transformers"
    metrics = RunFolder(tmp_path).records("metrics.jsonl")
    assert max(m["sampling/logp_difference"] for m in metrics) < {"fp32": 1e-4, "bf16": 0.05}[precision]
    assert {p.dtype for p in other.model.parameters()} == {torch.float32}
    assert other.model.config._attn_implementation == "sdpa"


def test_the_sft_stage_then_rl(tmp_path, tokenizer, precision):
    """The command's own stages; the SFT step is plain autograd's to the precision's rounding."""
    conftest.new_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = Dataset.from_list(conftest.ROWS[:4])
    flags = SETTINGS | {
        "output_dir": tmp_path / "run", "sft_max_steps": 1, "sft_batch_size": 4, "sft_learning_rate": 1.0,
        "sft_warmup_ratio": 0.0, "optim": "sgd", "max_grad_norm": 0.0, "weight_decay": 0.0, "max_steps": 1,
        "per_device_train_batch_size": 16, "max_completion_length": 40, "num_generations_eval": 1,
        "per_device_eval_batch_size": 4,
    }  # fmt: skip
    config = launch.resolve_config("sft-then-rl", [], None, [str(x) for k, v in flags.items() for x in (f"--{k}", v)])
    job = launch.Job("sft-then-rl", "model", "rows", str(tmp_path / "model"), rows, {"held_out": rows})
    folder = stages.train(job, config)

    model, loss, tokens = conftest.new_model(), 0.0, 0
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for row in conftest.ROWS[:4]:
        prompt, trace = (tokenizer(text)["input_ids"] for text in (row["prompt"], row["expert"][0]))
        logp = model(torch.tensor([prompt + trace + [256]])).logits[0].log_softmax(-1)
        found = logp[len(prompt) - 1 : -1].gather(-1, torch.tensor([*trace, 256])[:, None])
        loss, tokens = loss - found.sum(), tokens + len(found)
    gradients = torch.autograd.grad(loss / tokens, list(model.parameters()))
    expected = {name: -g for name, g in zip(before, gradients, strict=True)}
    saved = load_file(folder.sft / "model.safetensors")
    change = {name: saved[name] - before[name] for name in expected if name in saved}
    near = {"fp32": 1e-4, "bf16": 0.05}[precision]
    assert distance(change, {name: expected[name] for name in change}) < near
    assert [m["step"] for m in folder.records("metrics.jsonl")] == [1, 1]  # one of each stage
    assert {t.dtype for t in load_file(folder.final / "model.safetensors").values()} == {torch.float32}
