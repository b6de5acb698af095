import json
import sys

import pytest
import torch
from datasets import Dataset
from harness import distance, expected_change, one_in_three, one_step, only_p5, rollouts
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from trapo.choices import SPLIT_INVARIANT_LOSSES
from trapo.training.micro_batches import blank, pack, take, without_gradient


def trsft(p):
    return (p / 0.1).clamp(max=1)


def test_pack_by_hand():
    # longest first: 9 alone fills 9 of 10 tokens; 5 + 4 padded to 5 are 10; 3 + 3 + 2 padded to 3 are 9
    assert pack([3, 9, 5, 2, 4, 3], 10) == [[1], [2, 4], [0, 5, 3]]
    assert pack([7, 30, 7], 10) == [[1], [0], [2]]  # what is longer than the budget runs alone
    assert pack([], 10) == []


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 200))
def test_pack_holds_every_row_once_and_the_budget(lengths, budget):
    parts = pack(lengths, budget)
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    assert all(len(part) == 1 or len(part) * max(lengths[i] for i in part) <= budget for part in parts)
    assert [lengths[i] for part in parts for i in part] == sorted(lengths, reverse=True)


def test_rows_without_gradient_by_hand():
    advantages = torch.tensor([0.0, 0.0, 0.5, 0.5])
    own = torch.tensor([[1, 1], [1, 0], [1, 1], [0, 0]])  # the last is a demonstration
    expert = torch.tensor([[0, 0], [0, 1], [0, 0], [0, 0]])
    arguments = (advantages, own, expert)
    assert without_gradient(*arguments, kl_or_entropy=False, router=False).tolist() == [True, False, False, True]
    assert without_gradient(*arguments, kl_or_entropy=True, router=False).tolist() == [False, False, False, True]
    assert without_gradient(*arguments, kl_or_entropy=False, router=True).tolist() == [False] * 4


def test_take_cuts_padding_and_nothing_else():
    inputs = {
        "prompt_ids": torch.tensor([[0, 1, 2], [0, 0, 3], [4, 5, 6]]),
        "prompt_mask": torch.tensor([[0, 1, 1], [0, 0, 1], [1, 1, 1]]),
        "completion_ids": torch.tensor([[7, 8, 0], [9, 0, 0], [1, 2, 3]]),
        "tool_mask": torch.ones(3, 3),
        "expert_mask": torch.ones(3, 3),
        "prefix_mask": torch.ones(3, 3),
        "completion_lengths": torch.tensor([2, 1, 3]),
        "advantages": torch.tensor([1.0, 2.0, 3.0]),
        "num_items_in_batch": torch.tensor(6),
        "ref_per_token_logps": None,
    }
    part = take(inputs, [1, 0])
    assert part["prompt_ids"].tolist() == [[0, 3], [1, 2]]
    assert part["completion_ids"].tolist() == [[9, 0], [7, 8]]
    assert part["advantages"].tolist() == [2.0, 1.0]
    assert part["num_items_in_batch"] == 6 and part["ref_per_token_logps"] is None
    nothing = blank(part)
    assert nothing["advantages"].abs().sum() == nothing["tool_mask"].sum() == 0
    assert nothing["expert_mask"].sum() == nothing["prefix_mask"].sum() == 0
    assert nothing["completion_ids"].tolist() == part["completion_ids"].tolist()


@pytest.mark.parametrize("loss_type", SPLIT_INVARIANT_LOSSES)
def test_skipping_and_packing_leave_the_gradient(loss_type, tmp_path, make_model, tokenizer, rows):
    """One batch of four groups, of which only one has rewards, in parts of 1 row, of a few, and in one."""
    rows, changes, metrics = rows[4:8], [], []
    for budget in (1, 120, 10**6):
        path = tmp_path / str(budget)
        arguments = {"batch": 32, "reward": only_p5, "update_tokens": budget, "max_grad_norm": 1e9}
        changes.append(one_step(path, make_model(), tokenizer, rows, loss_type, **arguments))
        metrics.append(json.loads((path / "metrics.jsonl").read_text().splitlines()[0]))
    prompts = {row["id"]: tokenizer(row["prompt"])["input_ids"] for row in rows}
    expected = expected_change(make_model(), rollouts(tmp_path / "1"), prompts, loss_type, trsft)
    for change in changes:
        assert distance(change, expected) < 1e-4
        assert distance(change, changes[0]) < 2e-5
    samples = rollouts(tmp_path / "1")
    idle = [not (s["advantage"] and s["own_ids"]) and not (s["expert_loss"] and s["prefix_ids"]) for s in samples]
    assert 0 < sum(idle) < len(idle) == 32
    for metric in metrics:
        assert metric["update/skipped_rows"] == pytest.approx(sum(idle) / 32)
        for name in metrics[0]:
            if isinstance(metric[name], float) and not name.startswith(("seconds", "step_time")):
                assert metric[name] == pytest.approx(metrics[0][name], rel=2e-4, abs=1e-6, nan_ok=True), name


def test_nothing_is_skipped_where_every_row_has_a_gradient(tmp_path, make_model, tokenizer, rows):
    arguments = {"guidance": "none", "num_generations": 8, "reward": only_p5, "update_tokens": 100}
    one_step(tmp_path, make_model(), tokenizer, rows[4:6], entropy_coef=0.01, **arguments)
    metric = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert metric["update/skipped_rows"] == 0


def test_a_batch_without_any_gradient_is_a_step_of_zero(tmp_path, make_model, tokenizer, rows):
    arguments = {"guidance": "none", "num_generations": 8, "reward": only_p5}
    change = one_step(tmp_path, make_model(), tokenizer, rows[6:8], **arguments)
    assert all((delta == 0).all() for delta in change.values())


def test_the_engines_log_probabilities_and_entropy_are_the_training_models(
    tmp_path, make_model, tokenizer, rows, precision
):
    one_step(tmp_path, make_model(), tokenizer, rows)
    metric = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert 0 < metric["sampling/logp_difference"] < {"fp32": 1e-4, "bf16": 0.02}[precision]
    prompts = {row["id"]: tokenizer(row["prompt"])["input_ids"] for row in rows}
    surprise = tokens = 0
    for s in rollouts(tmp_path):
        ids = prompts[s["prompt_id"]] + s["prefix_ids"] + s["own_ids"]
        with torch.no_grad():
            logp = make_model()(torch.tensor([ids])).logits[0].log_softmax(-1)
        start = len(ids) - len(s["own_ids"])
        surprise -= sum(logp[t - 1, ids[t]].item() for t in range(start, len(ids)))
        tokens += len(s["own_ids"])
    assert metric["entropy"] == pytest.approx(surprise / tokens, rel={"fp32": 1e-4, "bf16": 1e-2}[precision])


def test_the_logits_of_a_long_row_never_exist_at_once(tmp_path, make_model, tokenizer, rows):
    """Peak bytes of all tensors while a row of 2,048 tokens and 100,000 words is updated: less than half its logits."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from tensors import PeakBytes

    from trapo import TRAPOConfig, TRAPOTrainer

    model = make_model(vocab_size=100_000, max_position_embeddings=4096)
    config = TRAPOConfig(
        output_dir=str(tmp_path), use_cpu=True, max_completion_length=2048, per_device_train_batch_size=8,
        gradient_checkpointing=False,
    )  # fmt: skip
    trainer = TRAPOTrainer(model, one_in_three, config, Dataset.from_list(rows), processing_class=tokenizer)
    trainer.current_gradient_accumulation_steps = 1
    model.train()
    ids, zeros, ones = torch.randint(0, 100_000, (1, 2048)), torch.zeros(1, 2048), torch.ones(1, 2048, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :8], "prompt_mask": ones[:, :8], "completion_ids": ids, "completion_mask": ones,
        "tool_mask": ones, "expert_mask": zeros.long(), "advantages": torch.ones(1), "idle": torch.tensor([False]),
        "prefix_mask": zeros.long(), "expert_advantages": torch.ones(1), "expert_items": torch.tensor(0),
        "completion_lengths": torch.tensor([2048]), "num_items_in_batch": torch.tensor(2048),
        "entropy_items": torch.tensor(2048), "sampling_per_token_logps": zeros,
    }  # fmt: skip
    logits = 2048 * 100_000 * 4
    with PeakBytes() as memory:
        trainer.compute_loss(model, inputs).backward()
    assert 0.1 * logits < memory.peak < 0.5 * logits
    with PeakBytes() as memory:  # the meter sees them where they do exist
        model(ids).logits.sum().backward()
    assert memory.peak > logits
