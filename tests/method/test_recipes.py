"""Every recipe's first step against its paper's objective, written out here a second time and left to autograd.

Recipes that follow the originals' code are in test_originals.py.
"""

import json
from collections import defaultdict

import conftest
import pytest
import torch
from datasets import Dataset
from harness import distance, one_step, rollouts
from test_originals import ORIGINALS

from trapo import TRAPOConfig, TRAPOTrainer
from trapo.recipe import load_recipe, recipe_names
from trapo.runs.folder import RunFolder
from trapo.training.sft import Demonstration, SFTStage, sft_order

ALPHA = GAMMA = 0.1

# The expert's part of each paper's objective, per token: p is the policy's probability, a the row's advantage.
EXPERT_OBJECTIVE = {
    "trapo": lambda p, a: torch.where(p >= ALPHA, p.log(), p / ALPHA),  # method.md's F, up to a constant
    "micro-groups-sft": lambda p, a: p.log(),
    "micro-groups-dft": lambda p, a: p,
    "dft": lambda p, a: p,
    "micro-groups-luffy": lambda p, a: a * p / (p + GAMMA),  # the off-policy ratio of LUFFY's code, shaped
    "luffy": lambda p, a: a * p / (p + GAMMA),
    "micro-groups-chord": lambda p, a: p - p**2 / 2,  # its derivative in log p is p (1 - p)
} | dict.fromkeys(("micro-groups", "grpo", "grpo-hot", "grpo-entropy"), lambda p, a: 0 * p)
EXPERT_OBJECTIVE |= {"hpt": lambda p, a: p.log(), "bread": lambda p, a: 0 * p, "uft": lambda p, a: 0.008 * p.log()}
# The same where the entropy h of the policy at the token counts too, as a constant.
ENTROPY_OBJECTIVE = {
    "srft": lambda p, a, h: 0.5 * torch.exp(-h.mean()) * p.log() + a * p,
    "prefix-rft": lambda p, a, h: a * p.log()[h.argsort(descending=True)[: -(-len(h) // 5)]],
}
DEMONSTRATIONS_APART = ("dft",)  # not in the group's mean
ENTROPY = {"luffy": 0.0001}
TEMPERATURE = {"grpo-hot": 1.2}
RL_RECIPES = sorted(set(recipe_names()) - {"sft", "sft-then-rl", "grpo-clip-higher", "relift", *ORIGINALS})
MAX_LENGTH = 24


def fields_of(name):
    """The recipe without its learning rate and optimizer settings: the harness takes one step of plain SGD."""
    mine = ("learning_rate", "lr_scheduler_type", "adam_beta2", "weight_decay", "max_grad_norm")
    return {k: v for k, v in load_recipe(name).items() if k not in mine}


def one_in_nine(completions, **kwargs):
    return [float(sum(map(ord, text)) % 9 == 0) for text in completions]


def advantages(samples, apart):
    groups = defaultdict(list)
    for s in samples:
        groups[s["prompt_id"]].append(s)
    found = {}
    for group in groups.values():
        kept = [s["reward"] for s in group if not (apart and s["finish"] == "demonstration")]
        for s in group:
            in_mean = not (apart and s["finish"] == "demonstration")
            found[s["prompt_id"], s["sample"]] = (s["reward"] - sum(kept) / len(kept)) if in_mean else 0.0
    return found


def objective_gradient(model, tokenizer, samples, name):
    """The gradient of the recipe's objective over all samples, row by row, without padding."""
    prompts = {row["id"]: tokenizer(row["prompt"])["input_ids"] for row in conftest.ROWS}
    advantage = advantages(samples, name in DEMONSTRATIONS_APART)
    total, entropies, tokens = 0.0, 0.0, 0
    for s in samples:
        prompt, prefix, own = prompts[s["prompt_id"]], s["prefix_ids"], s["own_ids"]
        ids = torch.tensor([prompt + prefix + own])
        logits = model(ids[:, :-1]).logits[0, len(prompt) - 1 :]
        logp = (logits / TEMPERATURE.get(name, 1.0)).log_softmax(-1)
        token_logp = logp.gather(-1, ids[0, len(prompt) :, None])[:, 0]
        entropy = -(logp.exp() * logp).sum(-1)
        a, n = advantage[s["prompt_id"], s["sample"]], len(prefix)
        mine = a
        if name == "srft":
            a = a / (torch.tensor([t["reward"] for t in samples if t["prompt_id"] == s["prompt_id"]]).std() + 1e-4)
            mine = 0.1 * torch.exp(entropy[n:].detach().mean()) if s["reward"] else -1.0
        if name == "hpt" and any(t["prefix_ids"] for t in samples if t["prompt_id"] == s["prompt_id"]):
            mine = 0.0
        total = total + mine * token_logp[n:].sum()
        first = n if name == "luffy" and s["expert_loss"] else 0
        entropies, tokens = entropies + entropy[n - first :].sum(), tokens + len(own) + first
        if s["expert_loss"] and name in ENTROPY_OBJECTIVE:
            total = total + ENTROPY_OBJECTIVE[name](token_logp[:n].exp(), a, entropy[:n].detach()).sum()
        elif s["expert_loss"]:
            total = total + EXPERT_OBJECTIVE[name](token_logp[:n].exp(), a).sum()
    objective = total / (len(samples) * MAX_LENGTH) + ENTROPY.get(name, 0.0) * entropies / tokens
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(objective, list(parameters.values()))
    return dict(zip(parameters, gradients, strict=True))


@pytest.mark.parametrize("name", RL_RECIPES)
def test_the_gradient_is_that_of_the_papers_objective(name, tmp_path, tokenizer):
    fields = fields_of(name)
    if name in ("hpt", "bread"):  # guided only where all samples fail
        fields["reward"] = one_in_nine
    change = one_step(tmp_path / "run", conftest.new_model(), tokenizer, conftest.ROWS, **fields)
    samples = rollouts(tmp_path / "run")
    if name not in ("grpo", "grpo-hot", "grpo-entropy"):
        assert any(s["prefix_tokens"] for s in samples)
    assert distance(change, objective_gradient(conftest.new_model(), tokenizer, samples, name)) < 1e-5


def test_luffy_shows_one_whole_demonstration_in_every_group(tmp_path, tokenizer):
    one_step(tmp_path / "run", conftest.new_model(), tokenizer, conftest.ROWS, **fields_of("luffy"))
    by_index = {i: [s for s in rollouts(tmp_path / "run") if s["sample"] == i] for i in range(8)}
    assert all(s["finish"] == "demonstration" and s["prefix_ratio"] == 1 for s in by_index[7])
    assert all(s["prefix_tokens"] == 0 for i in range(7) for s in by_index[i])


def test_clip_higher_clips_the_second_pass_at_its_own_bounds(tmp_path, tokenizer):
    """Two passes over one batch: the second is against the ratios that the first has made."""
    model = conftest.new_model()
    recipe = fields_of("grpo-clip-higher")
    after = one_step(tmp_path / "run", model, tokenizer, conftest.ROWS, steps=2, learning_rate=30.0, **recipe)
    samples = rollouts(tmp_path / "run")
    advantage = advantages(samples, apart=False)
    prompts = {row["id"]: tokenizer(row["prompt"])["input_ids"] for row in conftest.ROWS}

    def logps(model):
        for s in samples:
            ids = torch.tensor([prompts[s["prompt_id"]] + s["own_ids"]])
            logits = model(ids[:, :-1]).logits[0, len(prompts[s["prompt_id"]]) - 1 :].log_softmax(-1)
            yield s, logits.gather(-1, torch.tensor(s["own_ids"])[:, None])[:, 0]

    again = conftest.new_model()
    old = [logp.detach() for _, logp in logps(again)]
    clipped = {"low": 0, "high": 0}
    for _ in range(2):
        total, count = 0.0, 0
        for (s, logp), before in zip(logps(again), old, strict=True):
            a, ratio = advantage[s["prompt_id"], s["sample"]], (logp - before).exp()
            total = total + torch.minimum(ratio * a, ratio.clamp(0.8, 1.28) * a).sum()
            clipped["low"] += int(((ratio < 0.8) & (a < 0)).sum())
            clipped["high"] += int(((ratio > 1.28) & (a > 0)).sum())
            count += len(logp)
        gradients = torch.autograd.grad(total / count, list(again.parameters()))
        with torch.no_grad():
            for p, g in zip(again.parameters(), gradients, strict=True):
                p += 30.0 * g
    assert clipped["low"] and clipped["high"]
    start = dict(conftest.new_model().named_parameters())
    expected = {name: p.detach() - start[name].detach() for name, p in again.named_parameters()}
    assert distance(after, expected) < 1e-4


def test_the_adaptive_coefficient_follows_the_entropy(tmp_path, tokenizer):
    """.005 up while the step's entropy is at or below the target, down above it, within its bounds."""
    recipe = fields_of("grpo-entropy") | {"entropy_target": 100.0, "entropy_coef_max": 0.012}
    one_step(tmp_path / "up", conftest.new_model(), tokenizer, conftest.ROWS, steps=4, **recipe)
    steps = RunFolder(tmp_path / "up").records("metrics.jsonl")
    assert [s["entropy_coef"] for s in steps] == pytest.approx([0.005, 0.01, 0.012, 0.012])
    recipe |= {"entropy_target": 0.0, "entropy_coef": 0.008}
    one_step(tmp_path / "down", conftest.new_model(), tokenizer, conftest.ROWS, steps=3, **recipe)
    steps = RunFolder(tmp_path / "down").records("metrics.jsonl")
    assert [s["entropy_coef"] for s in steps] == pytest.approx([0.003, 0.0, 0.0])


@pytest.mark.parametrize("batch, accumulation", [(16, 1), (8, 2)])
def test_the_adaptive_bonus_does_not_depend_on_the_split(batch, accumulation, tmp_path, tokenizer):
    recipe = fields_of("grpo-entropy") | {"entropy_target": 100.0, "entropy_coef": 0.01}
    changes = []
    for b, n in ((batch, accumulation), (4, 4)):
        split = recipe | {"steps": 2, "batch": b, "accumulation": n}
        changes.append(one_step(tmp_path / f"{b}", conftest.new_model(), tokenizer, conftest.ROWS, **split))
    assert distance(*changes) < 1e-5


# ------------------------------------------------------------------ SFT


def demonstrations(tokenizer):
    eos = tokenizer.eos_token_id
    return [
        Demonstration(
            row["id"], tokenizer(row["prompt"])["input_ids"], [*tokenizer(row["expert"][0])["input_ids"], eos]
        )
        for row in conftest.ROWS[:6]
    ]


def sft_change(path, tokenizer, micro, loss_type="nll"):
    config = TRAPOConfig(
        output_dir=str(path), stages=["sft"], sft_max_steps=1, sft_batch_size=8, sft_learning_rate=1.0, optim="sgd",
        sft_lr_scheduler_type="constant", sft_warmup_ratio=0.0, per_device_train_batch_size=micro, weight_decay=0.0,
        gradient_accumulation_steps=8 // micro, max_grad_norm=0.0, save_strategy="no", gradient_checkpointing=False,
        use_cpu=True, disable_tqdm=True, sft_loss_type=loss_type, seed=3,
    )  # fmt: skip
    model = conftest.new_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    stage = SFTStage(model, config, demonstrations(tokenizer), tokenizer, RunFolder(path))
    stage.train()
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


@pytest.mark.parametrize("loss_type", ["nll", "dft"])
@pytest.mark.parametrize("micro", [8, 2, 1])
def test_sft_is_the_mean_over_the_steps_expert_tokens_whatever_the_split(micro, loss_type, tmp_path, tokenizer):
    model, total, count = conftest.new_model(), 0.0, 0
    shown = demonstrations(tokenizer)
    for i in sft_order(6, 8, seed=3):
        d = shown[i]
        logits = model(torch.tensor([[*d.prompt_ids, *d.trace_ids]])).logits[0, len(d.prompt_ids) - 1 : -1]
        logp = logits.log_softmax(-1).gather(-1, torch.tensor(d.trace_ids)[:, None])
        total, count = total + (logp if loss_type == "nll" else logp.exp()).sum(), count + len(logp)
    gradients = torch.autograd.grad(total / count, list(model.parameters()))
    expected = dict(zip(dict(model.named_parameters()), gradients, strict=True))
    assert distance(sft_change(tmp_path, tokenizer, micro, loss_type), expected) < 1e-4  # the dft gradient is tiny


def test_sft_equals_trls_own_trainer_on_the_same_rows(tmp_path, tokenizer):
    from trl import SFTConfig, SFTTrainer

    rows = [
        {"prompt": conftest.ROWS[i]["prompt"], "completion": conftest.ROWS[i]["expert"][0]}
        for i in sft_order(6, 8, seed=3)
    ]
    config = SFTConfig(
        output_dir=str(tmp_path / "trl"), max_steps=1, per_device_train_batch_size=8, learning_rate=1.0, optim="sgd",
        lr_scheduler_type="constant", max_grad_norm=0.0, save_strategy="no", gradient_checkpointing=False, use_cpu=True,
        bf16=False, report_to="none", disable_tqdm=True, train_sampling_strategy="sequential",
    )  # fmt: skip
    model = conftest.new_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    SFTTrainer(model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer).train()
    theirs = {name: p.detach() - before[name] for name, p in model.named_parameters()}
    assert distance(sft_change(tmp_path / "ours", tokenizer, 4), theirs) < 1e-5


def test_every_epoch_of_sft_shows_every_demonstration_once_in_an_order_of_its_own():
    order = sft_order(5, 13, seed=1)
    assert sorted(order[:5]) == sorted(order[5:10]) == list(range(5)) and len(set(order[10:])) == 3
    assert order[:5] != order[5:10] and order == sft_order(5, 13, seed=1) != sft_order(5, 13, seed=2)


def test_the_sft_stage_learns_the_tokens_that_rl_would_show(tmp_path, tokenizer):
    rows = [dict(conftest.ROWS[0], expert=["one", "two, which is longer than eight tokens"]), *conftest.ROWS[1:4]]
    config = TRAPOConfig(
        output_dir=str(tmp_path), guidance="none", expert_weight="none", per_device_train_batch_size=8, use_cpu=True,
        max_completion_length=8, num_generations=2, stages=["sft", "rl"],
    )  # fmt: skip
    trainer = TRAPOTrainer(
        conftest.new_model(), args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    found = {d.name: d for d in trainer.demonstrations()}
    assert list(found) == ["p0:0", "p0:1", "p1:0", "p2:0", "p3:0"]
    assert found["p0:0"].prompt_ids == tuple(tokenizer("0+0=")["input_ids"])
    assert found["p0:0"].trace_ids == (*tokenizer("one")["input_ids"], tokenizer.eos_token_id)
    assert found["p0:1"].trace_ids == tuple(tokenizer("two, whi")["input_ids"])  # cut, and EOS with it


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"stages": ["rl", "sft"]}, "stages are rl, sft: choose rl, sft, or sft rl"),
        ({"stages": []}, "stages are none"),
        ({"stages": ["sft"], "sft_epochs": 0.0}, "the SFT stage would have no step"),
        ({"stages": ["sft"], "sft_batch_size": 0}, "the SFT stage would have no step"),
    ],
)
def test_impossible_stages_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TRAPOConfig(use_cpu=True, **fields)


def test_an_sft_batch_is_shared_by_the_processes_in_equal_parts(monkeypatch):
    monkeypatch.setattr(TRAPOConfig, "world_size", property(lambda self: 4))
    sizes = {"generation_batch_size": 64, "per_device_train_batch_size": 8, "stages": ["sft"], "use_cpu": True}
    assert TRAPOConfig(**sizes, sft_batch_size=24).sft_micro_batch == 6  # of each process's 6
    assert TRAPOConfig(**sizes, sft_batch_size=40).sft_micro_batch == 5  # of its 10
    with pytest.raises(ValueError, match="sft_batch_size is 30: it must be a multiple of the 4 processes"):
        TRAPOConfig(**sizes, sft_batch_size=30)


def test_sft_then_rl_in_one_run_folder(tmp_path, tokenizer):
    """Two stages by the command's own function: what each left, and that the second begins where the first ended."""
    from safetensors.torch import load_file

    from trapo.command import stages
    from trapo.command.job import Job
    from trapo.command.plan import plan
    from trapo.command.settings import resolve_config

    conftest.new_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    flags = {
        "output_dir": tmp_path / "run", "sft_max_steps": 3, "sft_batch_size": 4, "sft_learning_rate": 1e-2,
        "max_steps": 1, "learning_rate": 0.0, "weight_decay": 0.0, "per_device_train_batch_size": 16,
        "max_completion_length": 30, "num_generations_eval": 1, "per_device_eval_batch_size": 16, "use_cpu": "true",
    }  # fmt: skip
    flags = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    config = resolve_config("sft-then-rl", [], None, flags)
    rows = Dataset.from_list(conftest.ROWS)
    job = Job("sft-then-rl", "model", "rows", str(tmp_path / "model"), rows, {"held_out": rows})
    planned = plan(job, config)
    assert [planned[k] for k in ("SFT: demonstrations", "SFT: steps", "SFT: epochs", "steps")] == [16, 3, 0.75, 1]
    folder = stages.train(job, config)
    assert [(r["stage"], r["step"]) for r in folder.records("metrics.jsonl")] == [
        ("sft", 1), ("sft", 2), ("sft", 3), ("rl", 1),
    ]  # fmt: skip
    assert [(r["stage"], r["step"]) for r in folder.records("evals.jsonl")] == [("sft", 0), ("sft", 3), ("rl", 1)]
    assert [r["seen/demonstrations"] for r in folder.records("metrics.jsonl")] == [4, 8, 12, 12]
    assert {r["stage"] for r in folder.records("rollouts.jsonl")} == {"rl"}
    record = json.loads((folder.path / "run.json").read_text())["method"]
    assert record["stages"] == ["sft", "rl"] and record["sft_learning_rate"] == 0.01 and record["alpha"] is None
    base, sft, final = (load_file(p / "model.safetensors") for p in (tmp_path / "model", folder.sft, folder.final))
    assert any(not torch.equal(base[k], sft[k]) for k in base)
    assert all(torch.equal(sft[k], final[k]) for k in sft)  # the RL stage had learning rate 0
