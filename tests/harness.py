"""One step of training, and the same gradient worked out a second way; also the script of the two-rank test.

Run as a script (`torchrun --nproc_per_node 2 harness.py OUT`), it takes one step per loss type and writes the weights'
changes of rank 0.
"""

import json
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from conftest import SETTINGS
from datasets import Dataset

from trapo import TRAPOConfig, TRAPOTrainer
from trapo.choices import SPLIT_INVARIANT_LOSSES

# cispo clips the ratio from above at epsilon_high itself, so that 1, its value here, must lie below.
EXTRA = {"cispo": {"epsilon_high": 5.0}, "luspo": {"importance_sampling_level": "sequence"}}


def one_in_three(completions, **kwargs):
    """A reward that a random model earns now and then, and that is not all 0 or 1 in a group."""
    return [float(sum(map(ord, text)) % 3 == 0) for text in completions]


def only_p5(completions, id, **kwargs):
    """Rewards for one prompt's samples only: the other groups' have no gradient where nothing guides them."""
    return [r * (name == "p5") for r, name in zip(one_in_three(completions), id, strict=True)]


def one_step(
    path,
    model,
    tokenizer,
    rows,
    loss_type="dr_grpo",
    batch=16,
    accumulation=1,
    steps=1,
    evaluate=False,
    reward=one_in_three,
    **kwargs,
):
    """Train `steps` steps of SGD with learning rate 1: the weights' change of a single step is minus the gradient."""
    fields = {
        "output_dir": str(path),
        "max_steps": steps,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "max_completion_length": 24,
        "learning_rate": 1.0,
        "optim": "sgd",
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "loss_type": loss_type,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "seed": 7,
    }
    config = TRAPOConfig(**(SETTINGS | fields | EXTRA.get(loss_type, {}) | kwargs))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = TRAPOTrainer(
            model,
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows) if evaluate else None,
            processing_class=tokenizer,
        )
        if evaluate:
            trainer.evaluate()
        trainer.train()
    return {name: p.detach().cpu() - before[name] for name, p in model.named_parameters()}


def idle_step(path, batch):
    """A step on the groups of p5 and another prompt, of which only p5's has a gradient."""
    import conftest

    rows = [conftest.ROWS[5], conftest.ROWS[6]]
    arguments = {"guidance": "none", "num_generations": 8, "reward": only_p5, "update_tokens": 60, "seed": 8}
    return one_step(path, conftest.new_model(), conftest.new_tokenizer(), rows, batch=batch, **arguments)


def tokens_step(path, batch):
    """A step whose expert loss is a mean over the step's expert tokens, and whose entropy is of whole responses."""
    import conftest

    fields = {"expert_reduction": "tokens", "entropy_coef": 0.01, "entropy_tokens": "response", "update_tokens": 90}
    return one_step(path, conftest.new_model(), conftest.new_tokenizer(), conftest.ROWS, "dapo", batch=batch, **fields)


def rollouts(path):
    """The run's samples, as its folder has them."""
    return [json.loads(line) for line in (Path(path) / "rollouts.jsonl").read_text().splitlines()]


def expected_change(model, samples, prompts, loss_type, w, max_length=24, entropy_coef=0.0, entropy_tokens="own"):
    """Minus the gradient of the joint loss, row by row without padding, from the formulas (on-policy: ratio 1)."""
    rows = []
    for s in samples:
        prompt, prefix, own = prompts[s["prompt_id"]], s["prefix_ids"], s["own_ids"]
        ids = torch.tensor([prompt + prefix + own])
        logits = model(ids[:, :-1]).logits[0, len(prompt) - 1 :].log_softmax(-1)
        logp = logits.gather(-1, ids[0, len(prompt) :, None])[:, 0]
        entropy = -(logits.exp() * logits).sum(-1)
        expert, mine = logp[: len(prefix)], logp[len(prefix) :]
        expert_sum = -(w(expert.detach().exp()) * expert).sum() if s["expert_loss"] else expert.sum() * 0
        trained = len(own) + len(prefix) * s["expert_loss"]
        shown = len(prefix) * {"own": False, "trained": s["expert_loss"], "response": True}[entropy_tokens]
        entropies = entropy[len(prefix) - shown :]
        rows.append((-s["advantage"] * mine.sum(), expert_sum, trained, entropies))
    own, expert, trained_n, entropies = zip(*rows, strict=True)
    if loss_type == "dr_grpo":
        loss = sum(own + expert) / (len(rows) * max_length)
    elif loss_type in ("grpo", "sapo"):
        loss = sum((o + e) / n for o, e, n in zip(own, expert, trained_n, strict=True)) / len(rows)
    elif loss_type == "luspo":  # sequence-level ratio: its gradient is the row's mean of grad log p, once per token
        loss = sum(own + expert) / len(rows)
    else:
        loss = sum(own + expert) / sum(trained_n)
    loss = loss - entropy_coef * torch.cat(entropies).mean()
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    return {name: -g for name, g in zip(parameters, gradients, strict=True)}


def distance(a, b):
    """Largest difference of two changes, relative to the largest entry."""
    largest = max(x.abs().max() for x in b.values())
    return max((a[name] - b[name]).abs().max() for name in b) / largest


if __name__ == "__main__":
    import conftest

    out = Path(sys.argv[1])
    changes = {}
    for kind in SPLIT_INVARIANT_LOSSES:
        changes[kind] = one_step(
            out / f"two-{kind}",
            conftest.new_model(),
            conftest.new_tokenizer(),
            conftest.ROWS,
            kind,
            batch=8,
            entropy_coef=0.01,
            evaluate=kind == "dr_grpo",  # before training: it must not leave the ranks to themselves
            per_device_eval_batch_size=8,
            num_generations_eval=1,
            update_tokens=90,  # the ranks' rows fall into different numbers of parts
        )
    changes["tokens"] = tokens_step(out / "two-tokens", batch=8)
    # One rank has a group without any gradient.
    changes["idle"] = idle_step(out / "two-idle", batch=8)
    if os.environ["RANK"] == "0":
        torch.save(changes, out / "two.pt")
