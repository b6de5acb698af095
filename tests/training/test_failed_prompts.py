"""ReLIFT's steps on failed prompts: which wait, what a step learns, and that a kill loses none of them."""

import shutil

import conftest
import pytest
import torch
from harness import distance, one_in_three, one_step

from trapo import TRAPOConfig, TRAPOTrainer
from trapo.command import stages
from trapo.command.job import Job
from trapo.command.settings import resolve_config
from trapo.recipe import load_recipe
from trapo.runs.folder import RunFolder
from trapo.training import failed_prompts as failed


def never(completions, **kwargs):
    return [0.0] * len(completions)


def only_even(completions, id, **kwargs):
    return [float(int(name[1:]) % 2 == 0) for name in id]


def fields(size, **more):
    recipe = {k: v for k, v in load_recipe("relift").items() if k not in ("learning_rate", "lr_scheduler_type")}
    return recipe | {"failed_prompts": size} | more


def test_a_step_is_the_mean_over_the_demonstrations_tokens(tmp_path, tokenizer):
    """Every sample fails: no step of RL moves anything, and the one of SFT is all there is."""
    change = one_step(
        tmp_path / "run", conftest.new_model(), tokenizer, conftest.ROWS, reward=never, update_tokens=50, **fields(2)
    )
    run = RunFolder(tmp_path / "run")
    prompts = list(dict.fromkeys(line["prompt_id"] for line in run.records("rollouts.jsonl")))
    assert len(prompts) == 2
    model, total, count = conftest.new_model(), 0.0, 0
    rows = {row["id"]: row for row in conftest.ROWS}
    for name in prompts:
        prompt = tokenizer(rows[name]["prompt"])["input_ids"]
        trace = [*tokenizer(rows[name]["expert"][0])["input_ids"], tokenizer.eos_token_id][:24]
        logits = model(torch.tensor([[*prompt, *trace]])).logits[0, len(prompt) - 1 : -1]
        total, count = total + logits.log_softmax(-1).gather(-1, torch.tensor(trace)[:, None]).sum(), count + len(trace)
    gradients = torch.autograd.grad(total / count, list(model.parameters()))
    assert distance(change, dict(zip(dict(model.named_parameters()), gradients, strict=True))) < 1e-5
    (step,) = run.records("metrics.jsonl")
    assert step["expert/sft_steps"] == 1 and step["tokens/expert"] == count and step["seen/demonstrations"] == 2


def test_only_prompts_without_a_right_sample_wait(tmp_path, tokenizer):
    config = TRAPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=64, max_steps=1, use_cpu=True, learning_rate=0.0,
        max_completion_length=24, save_strategy="no", disable_tqdm=True, gradient_checkpointing=False, **fields(100),
    )  # fmt: skip
    from datasets import Dataset

    trainer = TRAPOTrainer(
        conftest.new_model(), only_even, config, Dataset.from_list(conftest.ROWS), processing_class=tokenizer
    )
    trainer.train()
    drawn = {line["prompt_id"] for line in RunFolder(tmp_path).records("rollouts.jsonl")}
    odd = sorted(name for name in drawn if int(name[1:]) % 2)
    assert sorted(name for name, _, _ in trainer.failed.waiting) == [f"{name}:0" for name in odd] and odd
    ((_, prompt, trace), *_) = trainer.failed.waiting
    assert (prompt and trace[-1] == tokenizer.eos_token_id) or len(trace) == 24


@pytest.mark.parametrize("order, steps", [("oldest", ["abc", "def", "ghi"]), ("newest", ["abc", "efg", "ihd"])])
def test_which_of_the_waiting_go_first(order, steps, monkeypatch):
    """Rollouts abcd, efg, hi..., three a step: one step after each, the rest waits."""
    from types import SimpleNamespace

    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(num_processes=1),
        first_trace=lambda columns: SimpleNamespace(ids=(1,)),
    )
    waiting, taken = failed.FailedPrompts(trainer, 3, order), []
    monkeypatch.setattr(waiting, "step", lambda found: taken.append("".join(name[0] for name, _, _ in found)))
    monkeypatch.setattr(failed, "gather_object", lambda found: found)
    for rollout in ("abcd", "efg", "ih" if order == "newest" else "hi"):
        groups = [SimpleNamespace(prompt_id=name, prompt_ids=(0,), columns={}) for name in rollout]
        waiting.take([SimpleNamespace(group=group, solved=False) for group in groups])
        waiting.on_step_end(None, None, None)
    assert taken == steps


def minus_one(completions, **kwargs):
    return [-1.0] * len(completions)


def test_rewards_of_minus_one_fail_too(tmp_path, tokenizer):
    arguments = {"update_tokens": 50, **fields(2)}
    changes = [
        one_step(tmp_path / reward.__name__, conftest.new_model(), tokenizer, conftest.ROWS, reward=reward, **arguments)
        for reward in (never, minus_one)
    ]
    assert distance(*changes) == 0
    (step,) = RunFolder(tmp_path / "minus_one").records("metrics.jsonl")
    assert step["expert/sft_steps"] == 1


@pytest.mark.parametrize("batch, accumulation", [(8, 2), (4, 4)])
def test_the_split_does_not_matter(batch, accumulation, tmp_path, tokenizer):
    changes = [
        one_step(tmp_path / f"{b}", conftest.new_model(), tokenizer, conftest.ROWS, batch=b, accumulation=n, steps=3,
                 reward=one_in_three, learning_rate=0.1, **fields(1))
        for b, n in ((16, 1), (batch, accumulation))
    ]  # fmt: skip
    assert distance(*changes) < 1e-4


def test_what_waits_is_in_the_checkpoint(tmp_path, tokenizer):
    conftest.new_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")

    def job(folder):
        from datasets import Dataset

        flags = {
            "output_dir": folder, "max_steps": 4, "save_steps": 1, "learning_rate": 1e-3, "failed_prompts": 3,
            "per_device_train_batch_size": 16, "max_completion_length": 30, "num_generations_eval": 1,
            "per_device_eval_batch_size": 16, "use_cpu": "true",
        }  # fmt: skip
        config = resolve_config("relift", [], None, [str(p) for k, v in flags.items() for p in (f"--{k}", v)])
        return Job("relift", "model", "rows", str(tmp_path / "model"), Dataset.from_list(conftest.ROWS)), config

    whole = stages.train(*job(tmp_path / "whole"))
    steps = [line.get("expert/sft_steps", 0) for line in whole.records("metrics.jsonl")]
    assert sum(steps) == 2  # 2 prompts a step, all of them failed: 8 wait in turn, 3 make a step
    shutil.copytree(whole.path, tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / "final")
    for step in (2, 3, 4):
        shutil.rmtree(tmp_path / "killed" / "checkpoints" / f"checkpoint-{step}")
    assert (tmp_path / "killed" / "checkpoints" / "checkpoint-1" / failed.FILE).exists()
    again = stages.train(*job(tmp_path / "killed"), resume=True)
    assert (again.final / "model.safetensors").read_bytes() == (whole.final / "model.safetensors").read_bytes()


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="failed_prompts is -1"):
        TRAPOConfig(output_dir="unused", use_cpu=True, failed_prompts=-1)
