"""The originals' update, written a second time from their code's formulas, denominators included, against the recipes.

An original splits its rows over GPUs ("ranks") and micro-batches, takes means within these and sums or averages over
them; here everything has one denominator. Where all responses are equally long the two must agree, up to a common
factor that is worked out beside each. Sources and releases: docs/equivalence.md.
"""

from collections import defaultdict
from dataclasses import dataclass

import conftest
import pytest
import torch
from harness import distance, one_in_three, one_step, rollouts

from trapo import TRAPOTrainer
from trapo.method.presets import AnnealedHint
from trapo.recipe import load_recipe
from trapo.runs.folder import RunFolder

LENGTH = 6  # tokens of every response, so that every row and micro-batch weighs the same
SEED = 3  # in which no response ends earlier
OPTIMIZER = "learning_rate", "lr_scheduler_type", "adam_beta2", "weight_decay", "max_grad_norm"
UPDATES = "skip_grad_norm", "updates_per_rollout"


@dataclass
class Row:
    """A sample as the policy sees it: log-probabilities and entropies (T,) of its tokens, `n` of them the expert's."""

    logp: torch.Tensor
    entropy: torch.Tensor
    n: int
    trained: bool
    reward: float
    group: list[float]  # rewards of its prompt's samples, in order
    plain: list[float]  # of those without expert tokens
    whole: bool
    switched: bool  # whether its prompt has a demonstration

    @property
    def p(self):
        return self.logp[: self.n].exp()

    @property
    def own(self):
        return self.logp[self.n :]

    @property
    def above_mean(self):
        return self.reward - sum(self.group) / len(self.group)


def rows_of(model, tokenizer, samples, max_length=None):
    prompts = {row["id"]: tokenizer(row["prompt"])["input_ids"] for row in conftest.ROWS}
    groups = defaultdict(list)
    for s in samples:
        groups[s["prompt_id"]].append(s)
    found = []
    for s in samples:
        group, prompt = groups[s["prompt_id"]], prompts[s["prompt_id"]]
        ids = torch.tensor([prompt + s["prefix_ids"] + s["own_ids"]])
        logits = model(ids[:, :-1]).logits[0, len(prompt) - 1 :].log_softmax(-1)
        assert max_length is None or len(logits) == max_length, "choose a seed in which no response ends early"
        logp = logits.gather(-1, ids[0, len(prompt) :, None])[:, 0]
        entropy = -(logits.exp() * logits).sum(-1)
        plain = [t["reward"] for t in group if not t["prefix_ids"]]
        rewards, whole = [t["reward"] for t in group], s["finish"] == "demonstration"
        switched = any(t["prefix_ids"] for t in group)
        n = len(s["prefix_ids"])
        found.append(Row(logp, entropy, n, bool(s["expert_loss"]), s["reward"], rewards, plain, whole, switched))
    return found


def mean(parts):
    """verl's masked_mean; 0 where there is nothing."""
    tokens = torch.cat([torch.zeros(0), *parts])
    return tokens.sum() / max(len(tokens), 1)


def entropy_of(rows):
    return 0.001 * mean([row.entropy for row in rows])


def std(values):
    return torch.tensor(values).std() + 1e-4  # 1e-6 there; TRL's here, so that the rest can be compared


# Each original's loss of one micro-batch: rows -> scalar.


def trapo(rows):
    expert = [-(row.p / row.p.detach().clamp(min=0.1)).sum() for row in rows if row.trained]
    own = [-row.above_mean * row.own.sum() for row in rows]
    return (sum(expert) + sum(own)) / LENGTH - entropy_of(rows)


def luffy(rows):
    expert = [-row.above_mean * (row.p / (row.p + 0.1)).sum() for row in rows]
    own = [-row.above_mean * row.own.sum() for row in rows]
    return (sum(expert) + sum(own)) / LENGTH - entropy_of(rows)


def hpt(rows):
    rows = [row for row in rows if row.whole or not row.switched]
    demonstrations = [row for row in rows if row.whole]
    own = [-row.above_mean * row.own.sum() for row in rows if not row.whole]
    return mean([-row.logp for row in demonstrations]) + sum(own) / LENGTH - entropy_of(rows)


def srft(rows):
    def weight(row):
        return 0.5 * torch.exp(-row.entropy.detach().mean())

    def reward(row):
        return 0.1 * torch.exp(row.entropy.detach().mean()) if row.reward == 1 else -1.0

    supervised = mean([-weight(row) * row.logp for row in rows if row.whole])
    shaped = [-row.above_mean * (row.p / (row.p + 0.1)).sum() for row in rows if row.whole]
    own = [-reward(row) * row.own.sum() for row in rows if not row.whole]
    return supervised + (sum(shaped) + sum(own)) / LENGTH - entropy_of(rows)


def relift(rows):
    return sum(-row.above_mean * row.own.sum() for row in rows) / LENGTH - entropy_of(rows)


def chord(rows):  # times the micro-batch's share of each kind's samples, below
    own = [-(row.reward - sum(row.plain) / 7) / std(row.plain) * row.own for row in rows if not row.whole]
    phi = [-(row.p * (1 - row.p)).detach() * row.logp for row in rows if row.whole]
    return 0.9 * mean(own) + 0.1 * mean(phi)


def uft(rows):
    own = [-row.above_mean / std(row.group) * row.own for row in rows]
    hints = [-row.logp[: row.n] for row in rows]
    return mean(own) + 0.001 * mean(hints) - 0.001 * mean([row.entropy[row.n :] for row in rows])


def prefix_rft(rows, version):
    loss = 0.0
    for row in rows:
        base = sum(row.plain) / len(row.plain)
        if not row.n:
            loss = loss - (row.reward - base) * row.own.sum()
            continue
        prefix, own = {1: (row.reward - base, row.reward), 2: (-base, 0.0)}[version]
        # sorted by entropy, the lowest int(.8 n) of a micro-batch's prefix tokens lose their advantage
        kept = row.entropy[: row.n].detach().argsort()[int(0.8 * row.n) :]
        loss = loss - prefix * row.logp[: row.n][kept].sum() - own * row.own.sum()
    return loss / LENGTH


ORIGINALS = {
    "trapo-reference": trapo,
    "luffy-reference": luffy,
    "hpt-reference": hpt,
    "srft-reference": srft,
    "relift-reference": relift,
    "chord": chord,
    "uft-reference": uft,
    "prefix-rft-v1-reference": lambda rows: prefix_rft(rows, 1),
    "prefix-rft-v2-reference": lambda rows: prefix_rft(rows, 2),
}
SUMMED = ("trapo", "luffy", "hpt", "srft", "relift")  # losses of a rank's micro-batches are added, not averaged


def original_change(loss, rows, ranks, micro_batches):
    """Minus the gradient of the originals' update: per rank over its micro-batches, then the mean over ranks."""
    share = len(rows) // (ranks * micro_batches)
    parts = [rows[i : i + share] for i in range(0, len(rows), share)]
    return sum(loss(part) for part in parts) / ranks


def gradient(model, value):
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(value, list(parameters.values()))
    return {name: -g for name, g in zip(parameters, found, strict=True)}


def half_of_the_prompts(completions, id, **kwargs):
    """Rewards for the prompts of even number only."""
    return [r * (int(name[1:]) % 2 == 0) for r, name in zip(one_in_three(completions), id, strict=True)]


def fields_of(name, ranks, micro_batches, rows=32):
    """The recipe, its coefficients for so many ranks and micro-batches; plain SGD takes one step of it."""
    fields = {k: v for k, v in load_recipe(name).items() if k not in (*OPTIMIZER, *UPDATES)}
    fields["beta"] = 0.0  # uft-reference's KL has no gradient in the first step
    per_rank = rows // ranks
    if name.split("-")[0] in SUMMED:  # the micro-batches' sum beside a sum over rows
        fields["entropy_coef"] = 0.001 * micro_batches / per_rank
        if name == "hpt-reference":
            fields["expert_coef"] = micro_batches / per_rank
        if name == "srft-reference":
            fields["supervised_coef"] = micro_batches / per_rank
    return fields


# Micro-batches of two prompts (each with one that fails, for HPT) and of one.
SPLITS = {name: [(2, 1), (1, 2)] for name in ORIGINALS}
for name in ("prefix-rft-v1-reference", "prefix-rft-v2-reference"):
    SPLITS[name] = [(2, 2), (4, 1)]  # one prefix in each: there the share of its tokens is one of the micro-batch's
SPLITS["trapo-reference"] = [(2, 1), (1, 2), (2, 2), (4, 1)]


@pytest.mark.parametrize("name, ranks, micro", [(n, *split) for n, splits in SPLITS.items() for split in splits])
def test_a_recipe_has_its_originals_gradient(name, ranks, micro, tmp_path, tokenizer, monkeypatch):
    fields = fields_of(name, ranks, micro) | {"max_completion_length": LENGTH, "seed": SEED}
    if name == "uft-reference":  # the same hint for every prompt, two fifths of it
        at = AnnealedHint.at
        monkeypatch.setattr(AnnealedHint, "at", lambda self, progress, draw: at(self, 0.36, 0.5))
    if name == "hpt-reference":
        fields["reward"] = half_of_the_prompts
    change = one_step(tmp_path / "run", conftest.new_model(), tokenizer, conftest.ROWS, batch=32, **fields)
    model = conftest.new_model()
    rows = rows_of(model, tokenizer, rollouts(tmp_path / "run"), LENGTH)
    size = fields["micro_group_sizes"][0] if name == "uft-reference" else 8
    if name == "hpt-reference":  # one switched prompt in each micro-batch
        groups = [rows[i : i + size] for i in range(0, 32, size)]
        switched = [g for g in groups if g[0].switched]
        assert len(switched) == 2
        kept = [g for g in groups if not g[0].switched]
        rows = [row for pair in zip(switched, kept, strict=True) for group in pair for row in group]
    if name != "relift-reference":
        assert any(row.n for row in rows) and any(row.reward for row in rows)
    value = original_change(ORIGINALS[name], rows, ranks, micro)
    # What the originals' gradient is times: sums over a rank's rows, or means of the micro-batches' means.
    factor = 32 / ranks if name.split("-")[0] in SUMMED else micro
    if name.startswith("prefix-rft"):  # sum / max length, times the micro-batch's share of the mini-batch
        value, factor = value / micro, 32 / ranks / micro
    theirs = {k: v / factor for k, v in gradient(model, value).items()}
    assert distance(change, theirs) < 2e-5


def test_the_second_update_of_a_batch_goes_by_the_unclipped_ratio(tmp_path, tokenizer, monkeypatch):
    """LUFFY's two mini-batches: the first moves the policy, the second's own tokens weigh by p / p_old, far from 1."""
    taken, compute = [], TRAPOTrainer.compute_loss
    monkeypatch.setattr(
        TRAPOTrainer, "compute_loss", lambda self, m, i, *a, **k: taken.append(i["row"].tolist()) or compute(self, m, i)
    )
    fields = fields_of("luffy-reference", 2, 1) | {"updates_per_rollout": 2, "entropy_coef": 0.0, "learning_rate": 30.0}
    fields |= {"max_completion_length": LENGTH, "seed": SEED, "steps": 2}
    change = one_step(tmp_path / "run", conftest.new_model(), tokenizer, conftest.ROWS, batch=16, **fields)
    samples = rollouts(tmp_path / "run")
    assert len(samples) == 32 and sorted(taken[0] + taken[1]) == list(range(32))
    model, ratios = conftest.new_model(), []
    old = [row.own.detach() for row in rows_of(model, tokenizer, samples)]
    for mini_batch in taken:
        rows, loss = rows_of(model, tokenizer, samples), 0.0
        for i in mini_batch:
            row, ratio = rows[i], (rows[i].own - old[i]).exp()
            loss = loss - row.above_mean * (ratio.sum() + (row.p / (row.p + 0.1)).sum())
            ratios.append(ratio.detach())
        step = gradient(model, loss / (16 * LENGTH))
        with torch.no_grad():
            for name, p in model.named_parameters():
                p += 30.0 * step[name]
    ratios = torch.cat(ratios[16:])
    assert ((ratios < 0.8) | (ratios > 1.2)).sum() > 20  # a clip at .2 would show
    start = dict(conftest.new_model().named_parameters())
    expected = {name: p.detach() - start[name].detach() for name, p in model.named_parameters()}
    assert distance(change, expected) < 1e-4


@pytest.mark.parametrize("bound, moves", [(1e-3, False), (1e3, True)])
def test_a_step_whose_gradient_is_too_large_is_skipped(bound, moves, tmp_path, tokenizer):
    fields = {"skip_grad_norm": bound, "weight_decay": 0.1, "optim": "adamw_torch", "learning_rate": 1e-3, "steps": 2}
    change = one_step(tmp_path / "run", conftest.new_model(), tokenizer, conftest.ROWS, **fields)
    assert any(x.abs().max() > 0 for x in change.values()) == moves  # not even weight decay
    steps = RunFolder(tmp_path / "run").records("metrics.jsonl")
    assert [step["update/skipped_steps"] for step in steps] == [float(not moves)] * 2
    assert all(1e-3 < step["grad_norm"] < 1e3 for step in steps)
