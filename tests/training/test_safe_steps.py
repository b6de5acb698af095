"""No step on a gradient that is no number, no save of weights that are none; the last good checkpoint stays."""

import json
import math
import shutil

import conftest
import pytest
import torch
from datasets import Dataset
from harness import one_in_three
from run_folders import make_checkpoint
from safetensors.torch import load_file, save_file

from trapo import TRAPOConfig, TRAPOTrainer
from trapo.command.stages import _newest
from trapo.models import load_model
from trapo.run_config import RunConfig
from trapo.runs.checkpoints import fault
from trapo.runs.folder import RunFolder
from trapo.training.lora import check_tied, save_merged
from trapo.training.preflight import best_metric
from trapo.training.saving import save_model


def trainer(path, model=None, **fields):
    defaults = {
        "max_steps": 6,
        "save_steps": 2,
        "per_device_train_batch_size": 16,
        "max_completion_length": 12,
        "learning_rate": 1e-3,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    args = TRAPOConfig(output_dir=str(path), **(defaults | fields))
    rows = Dataset.from_list(conftest.ROWS)
    tokenizer = conftest.new_tokenizer()
    return TRAPOTrainer(model or conftest.new_model(), one_in_three, args, rows, processing_class=tokenizer)


def steps(path):
    return sorted(int(p.name[11:]) for p in (path / "checkpoints").glob("checkpoint-*"))


@pytest.mark.parametrize(("step", "max_grad_norm"), [(3, 1.0), (6, 1.0), (6, 0.0)])
def test_a_gradient_that_is_no_number_is_not_stepped_on(step, max_grad_norm, tmp_path):
    run = trainer(tmp_path, max_grad_norm=max_grad_norm)
    weight = next(p for p in run.model.parameters() if p.requires_grad)
    weight.register_hook(lambda g: g * (math.nan if run.state.global_step == step - 1 else 1))
    with pytest.raises(
        FloatingPointError,
        match=rf"gradient's norm is nan at step {step}: .*checkpoint-{(step - 1) // 2 * 2}$",
    ):
        run.train()
    assert all(torch.isfinite(p).all() for p in run.model.parameters())
    assert steps(tmp_path) == list(range(2, step, 2)) and all(map(math.isfinite, loss_of(tmp_path)))


def loss_of(path):
    return [record["loss"] for record in RunFolder(path).records("metrics.jsonl")]


def test_a_learning_rate_that_ruins_the_weights_ends_the_run_without_a_final(tmp_path):
    with pytest.raises(FloatingPointError, match="lower learning rate"):
        trainer(tmp_path, max_steps=3, save_steps=1, learning_rate=9e18, weight_decay=9e18, entropy_coef=0.05).train()
    assert all(torch.isfinite(t).all() for s in steps(tmp_path) for t in weights(tmp_path, s).values())


def weights(path, step):
    return load_file(path / "checkpoints" / f"checkpoint-{step}" / "model.safetensors")


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    run = trainer(tmp_path, max_steps=2)
    run.train()
    with torch.no_grad():
        next(iter(run.model.parameters()))[0, 0] = math.nan
    with pytest.raises(FloatingPointError, match=r"weight model.embed_tokens.weight is nan at step 2: .*checkpoint-2$"):
        save_model(run, tmp_path / "final")
    assert not (tmp_path / "final").exists() and not (tmp_path / ".final").exists()


def test_a_full_disk_costs_neither_the_old_checkpoint_nor_a_traceback(tmp_path, monkeypatch):
    run, real = trainer(tmp_path, save_total_limit=1), torch.save

    def full(value, path, *args, **kwargs):
        if "checkpoint-4" in str(path):
            raise OSError(28, "No space left on device")
        return real(value, path, *args, **kwargs)

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(OSError, match=r"could not be saved .*No space left.* --resume, from .*checkpoint-2$"):
        run.train()
    assert steps(tmp_path) == [2] and fault(tmp_path / "checkpoints" / "checkpoint-2") is None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "run"
    run = trainer(path)
    run.train()
    return path, run.model.state_dict()


@pytest.mark.parametrize("harm", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "zeroed"])
def test_resumed_from_the_newest_whole_one(harm, whole, tmp_path, caplog):
    path = shutil.copytree(whole[0], tmp_path / "run")
    newest = path / "checkpoints" / "checkpoint-6"
    if harm == "zeroed":
        (newest / "model.safetensors").write_bytes(bytes((newest / "model.safetensors").stat().st_size))
    else:
        (newest / harm).unlink()
    run = trainer(path)
    run.train(True)
    assert all(torch.equal(whole[1][name], value) for name, value in run.model.state_dict().items())
    said = caplog.text
    assert "going on from" in said and "checkpoint-4; checkpoint-6 is not whole" in said
    for step in (2, 4, 6):
        (path / "checkpoints" / f"checkpoint-{step}" / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match=r"no whole checkpoint in .*checkpoint-6 is not whole .*without resuming"):
        trainer(path).train(True)
    with pytest.raises(ValueError, match="cannot resume: checkpoint-4 is not whole"):
        trainer(path).train(str(path / "checkpoints" / "checkpoint-4"))


def test_a_command_whose_checkpoints_are_gone_does_not_begin_again(tmp_path):
    folder, config = RunFolder(tmp_path / "run"), RunConfig(output_dir="unused", use_cpu=True)
    folder.begin({"config": {"save_strategy": "steps", "save_steps": 4}})
    folder.append("metrics.jsonl", [{"stage": "rl", "step": 4}])
    make_checkpoint(folder.checkpoints, 4, complete=False)
    assert _newest(folder, config) == (None, f"{folder.path} had no checkpoint yet: it begins again")
    folder.append("metrics.jsonl", [{"stage": "rl", "step": 5}])
    assert "cannot be resumed: checkpoint-4 is not whole" in _newest(folder, config)
    shutil.rmtree(folder.checkpoints)
    assert "are gone, and no older one is there" in _newest(folder, config)
    point = make_checkpoint(folder.checkpoints, 8)
    assert _newest(folder, config) == (point, f"Going on from {point}")
    (make_checkpoint(folder.checkpoints, 12) / "optimizer.pt").unlink()
    assert _newest(folder, config)[1].endswith("checkpoint-8; checkpoint-12 is not whole (optimizer.pt is missing)")


# ------------------------------------------------------------------ models


@pytest.fixture
def model_folder(tmp_path):
    conftest.new_model().save_pretrained(tmp_path / "model")
    conftest.new_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_model_with_weights_missing_or_no_numbers_is_refused(model_folder):
    path = model_folder / "model.safetensors"
    before = load_file(path)
    load_model(str(model_folder))
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({k: v for k, v in before.items() if k != name}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=f"has no weights for {name}: its files are not all there"):
        load_model(str(model_folder))
    save_file(before | {name: before[name] * math.nan}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=f"has NaN or infinite weights, the first in {name}"):
        load_model(str(model_folder))


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows(tmp_path):
    tokenizer = conftest.new_tokenizer()
    tokenizer.add_tokens(["<new>", "<other>"])
    args = TRAPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True, max_completion_length=12)
    rows = Dataset.from_list(conftest.ROWS)
    with pytest.raises(
        ValueError, match=r"has 2 tokens that the model has no row for \('<new>', '<other>'; it has 258 rows\)"
    ):
        TRAPOTrainer(conftest.new_model(), one_in_three, args, rows, processing_class=tokenizer)
    assert not (tmp_path / "run").exists()


def adapted(targets, **changes):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        conftest.new_model(**changes), LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    )
    return model.eval()


@pytest.mark.parametrize("targets", [["embed_tokens"], ["q_proj", "lm_head"]])
def test_adapters_on_tied_weights_are_refused_before_and_after(targets, tmp_path):
    config = RunConfig(output_dir="unused", use_cpu=True, lora_r=4, lora_target_modules=targets)
    with pytest.raises(ValueError, match=f"lora_target_modules has .*{targets[-1]}, whose weights are also those"):
        check_tied(config, conftest.new_model(tie_word_embeddings=True))
    check_tied(config, conftest.new_model(tie_word_embeddings=False))


def test_a_merge_that_changes_the_model_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="merged, the adapter gives other logits than while it was trained"):
        save_merged(adapted(["embed_tokens"], tie_word_embeddings=True), tmp_path / "tied")
    model = adapted(["q_proj", "embed_tokens"], tie_word_embeddings=False)
    save_merged(model, tmp_path / "untied")
    ids = torch.arange(20)[None]
    merged = type(conftest.new_model()).from_pretrained(tmp_path / "untied").eval()
    assert torch.allclose(merged(ids).logits, model(ids).logits, atol=1e-4)


# ------------------------------------------------------------------ the best checkpoint


@pytest.mark.parametrize(
    ("fields", "sets", "metric"),
    [
        ({}, None, "eval_reward"),
        ({}, {"test": 0, "facts": 0}, "eval_test_reward"),
        ({"metric_for_best_model": "reward"}, {"test": 0}, "eval_test_reward"),
        (
            {"metric_for_best_model": "facts_truncated", "greater_is_better": False},
            {"test": 0, "facts": 0},
            "eval_facts_truncated",
        ),
    ],
)  # fmt: skip
def test_the_best_checkpoint_is_chosen_by_the_first_sets_reward(fields, sets, metric):
    args = TRAPOConfig(
        output_dir="unused", use_cpu=True, load_best_model_at_end=True, eval_strategy="steps", eval_steps=500, **fields
    )
    best_metric(args, sets)
    assert args.metric_for_best_model == metric and args.greater_is_better is fields.get("greater_is_better", True)


@pytest.mark.parametrize(
    ("name", "message"), [("loss", "constant 0"), ("eval_loss", "constant 0"), ("x_reward", "no held-out set")]
)
def test_what_cannot_tell_checkpoints_apart_is_refused(name, message):
    args = TRAPOConfig(output_dir="unused", use_cpu=True, metric_for_best_model=name)
    with pytest.raises(ValueError, match=message):
        best_metric(args, {"test": 0})


def test_the_record_ends_with_what_the_best_model_reaches(tmp_path, monkeypatch):
    """Step 2 is the best of three by a made-up held-out reward; `final` must be it, and be said to be."""
    from trapo.command import stages
    from trapo.command.job import Job
    from trapo.command.settings import resolve_config

    conftest.new_model().save_pretrained(tmp_path / "model")
    conftest.new_tokenizer().save_pretrained(tmp_path / "model")
    flags = {
        "max_steps": 6, "save_steps": 2, "eval_steps": 2, "eval_strategy": "steps", "load_best_model_at_end": "true",
        "per_device_train_batch_size": 16, "max_completion_length": 12, "learning_rate": 1e-2, "use_cpu": "true",
        "entropy_coef": 0.05, "num_generations_eval": 1, "per_device_eval_batch_size": 16,
        "output_dir": tmp_path / "run",
    }  # fmt: skip
    config = resolve_config("trapo", [], None, [str(x) for k, v in flags.items() for x in (f"--{k}", v)])
    real = TRAPOTrainer.log

    def log(self, logs, *args, **kwargs):
        real(self, logs, *args, **kwargs)
        if "eval_test_reward" in logs:
            logs["eval_test_reward"] = {0: 0.0, 2: 0.9, 4: 0.5, 6: 0.1}[self.state.global_step]

    monkeypatch.setattr(TRAPOTrainer, "log", log)
    rows = Dataset.from_list(conftest.ROWS)
    folder = stages.train(
        Job("trapo", "model", "rows", str(tmp_path / "model"), rows, {"test": rows, "facts": rows}), config
    )
    best = load_file(folder.checkpoints / "checkpoint-2" / "model.safetensors")
    final = load_file(folder.final / "model.safetensors")
    assert all(torch.equal(best[name], final[name]) for name in final)
    evals = folder.records("evals.jsonl")
    assert [(r["step"], r["set"]) for r in evals[-2:]] == [(2, "test"), (2, "facts")]
    assert all(r["final"] for r in evals[-2:]) and not any(r.get("final") for r in evals[:-2])
    last, chosen = evals[-2], next(r for r in evals if (r["step"], r["set"]) == (2, "test"))
    assert last == chosen | {"final": True}
    assert json.loads((folder.checkpoints / "checkpoint-6" / "trainer_state.json").read_text())["best_global_step"] == 2
