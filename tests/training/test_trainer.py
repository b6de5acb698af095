import math

import pytest
import torch
from conftest import SETTINGS
from datasets import Dataset
from harness import one_in_three, one_step, rollouts

from trapo import TRAPOConfig, TRAPOTrainer
from trapo.choices import SCHEDULES
from trapo.runs.folder import RunFolder

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("precision")]


def trainer(path, model, tokenizer, rows, reward=one_in_three, **fields):
    defaults = {
        "output_dir": str(path),
        "max_steps": 2,
        "per_device_train_batch_size": 16,
        "max_completion_length": 40,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    args = TRAPOConfig(**(SETTINGS | defaults | fields))
    return TRAPOTrainer(model, reward, args, Dataset.from_list(rows), processing_class=tokenizer)


def test_rollouts_say_what_happened(tmp_path, make_model, tokenizer, rows):
    trainer(tmp_path, make_model(), tokenizer, rows).train()
    lines = rollouts(tmp_path)
    assert len(lines) == 32 and {line["step"] for line in lines} == {1, 2}
    by_id = {row["id"]: row for row in rows}
    for start in range(0, 32, 8):
        group = lines[start : start + 8]
        assert len({line["prompt_id"] for line in group}) == 1
        assert [line["sample"] for line in group] == list(range(8))
        assert [line["micro_group"] for line in group] == [0, 0, 0, 0, 1, 1, 2, 3]
        expert = [*tokenizer(by_id[group[0]["prompt_id"]]["expert"][0])["input_ids"], 256]
        rewards = [line["reward"] for line in group]
        guided = [False, sum(rewards[:4]) / 4 < 0.5, sum(rewards[:6]) / 6 < 0.7, sum(rewards[:7]) / 7 < 0.9]
        for line in group:
            ratio = (0, 0.2, 0.5, 1.0)[line["micro_group"]] * guided[line["micro_group"]]
            assert line["prefix_ratio"] == ratio
            assert line["prefix_ids"] == expert[: int(ratio * len(expert))]
            assert line["prefix_tokens"] == len(line["prefix_ids"]) and line["own_tokens"] == len(line["own_ids"])
            text = tokenizer.decode(line["prefix_ids"] + line["own_ids"], skip_special_tokens=True)
            assert line["reward"] == one_in_three([text])[0]
            assert line["advantage"] == pytest.approx(line["reward"] - sum(rewards) / 8, abs=1e-6)
        assert [line["expert_loss"] for line in group] == [False] * 4 + [guided[1], False, guided[2], guided[3]]


def test_metrics_are_what_the_rollouts_add_up_to(tmp_path, make_model, tokenizer, rows):
    trainer(tmp_path, make_model(), tokenizer, rows).train()
    lines = [line for line in rollouts(tmp_path) if line["step"] == 2]
    metrics = RunFolder(tmp_path).records("metrics.jsonl")[1]

    def mean(values):
        values = list(values)
        return pytest.approx(sum(values) / len(values), rel=1e-5)

    plain, guided = ([x for x in lines if bool(x["prefix_tokens"]) is kind] for kind in (False, True))
    drawn = [x for x in lines if x["finish"] != "demonstration"]
    assert metrics["reward/plain"] == mean(x["reward"] for x in plain)
    assert metrics["reward/guided"] == mean(x["reward"] for x in guided)
    assert metrics["truncated"] == mean(x["finish"] == "length" for x in drawn)
    assert metrics["length/own"] == mean(x["own_tokens"] for x in drawn)
    assert metrics["tokens/rollout"] == sum(x["own_tokens"] for x in lines)
    assert metrics["tokens/expert"] == sum(x["prefix_tokens"] for x in lines if x["expert_loss"])
    for i, samples in ((1, 4), (2, 6), (3, 7)):
        assert metrics[f"guided/micro_group_{i}"] == mean(
            x["prefix_ratio"] > 0 for x in lines if x["sample"] == samples
        )
    everything = rollouts(tmp_path)
    assert metrics["seen/samples"] == sum(x["finish"] != "demonstration" for x in everything)
    assert metrics["seen/demonstrations"] == len({x["prompt_id"] for x in everything if x["prefix_tokens"]})
    assert 0 < metrics["expert/p"] < 1 and 0 <= metrics["expert/outside_trust_region"] <= 1
    assert metrics["entropy"] > 0 and metrics["seconds/rollout"] > 0 and metrics["seconds/update"] > 0


def test_expert_metrics_by_hand(tmp_path, make_model, tokenizer, rows, precision):
    """Mean p and the share outside the trust region, from plain forwards of the untouched model."""
    trainer(tmp_path, make_model(), tokenizer, rows, max_steps=1).train()
    model, p = make_model(), []
    prompts = {row["id"]: tokenizer(row["prompt"])["input_ids"] for row in rows}
    for line in rollouts(tmp_path):
        if line["expert_loss"]:
            ids = torch.tensor([prompts[line["prompt_id"]] + line["prefix_ids"]])
            with torch.no_grad():
                probabilities = model(ids).logits[0, :-1].softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
            p += probabilities[-len(line["prefix_ids"]) :].tolist()
    metrics, near = RunFolder(tmp_path).records("metrics.jsonl")[0], {"fp32": 1e-4, "bf16": 1e-2}[precision]
    assert metrics["expert/p"] == pytest.approx(sum(p) / len(p), rel=near)
    assert metrics["expert/outside_trust_region"] == pytest.approx(sum(x < 0.1 for x in p) / len(p), rel=1e-5)
    assert metrics["expert/weight"] == pytest.approx(sum(min(1, x / 0.1) for x in p) / len(p), rel=near)


def test_schedules_train_to_the_same_bits(tmp_path, make_model, tokenizer, rows):
    models = [make_model() for _ in SCHEDULES]
    for model, schedule in zip(models, SCHEDULES, strict=True):
        # the default grader bounds rewards in [0, 1], so micro-groups are decided early, and bets are lost
        fields = {"schedule": schedule, "learning_rate": 1e-2, "deterministic": not SETTINGS["use_cpu"]}
        trainer(tmp_path / schedule, model, tokenizer, rows, None, **fields).train()
    assert len({(tmp_path / schedule / "rollouts.jsonl").read_bytes() for schedule in SCHEDULES}) == 1
    assert all(
        torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*(m.parameters() for m in models), strict=True)
    )
    lost = [RunFolder(tmp_path / s).records("metrics.jsonl")[0]["tokens/aborted"] for s in SCHEDULES]
    assert [tokens > 0 for tokens in lost] == [s == "speculative" for s in SCHEDULES]


def test_whole_demonstrations_can_be_left_out_of_the_groups_mean(tmp_path, make_model, tokenizer, rows):
    def demonstrations_win(completions, **kwargs):
        return [float("boxed" in c) for c in completions]

    for inside in (True, False):
        path = tmp_path / str(inside)
        trainer(path, make_model(), tokenizer, rows, demonstrations_win, demonstrations_in_baseline=inside).train()
        advantages = {(x["finish"] == "demonstration", round(x["advantage"], 6)) for x in rollouts(path)}
        # 7 samples fail, the demonstration earns 1: with it the mean is 1/8, without it 0
        assert advantages == ({(False, -0.125), (True, 0.875)} if inside else {(False, 0.0), (True, 0.0)})


def test_default_grader_and_its_statuses(tmp_path, make_model, tokenizer, rows):
    trainer(tmp_path, make_model(), tokenizer, rows, None).train()
    lines = rollouts(tmp_path)
    assert {x["status"] for x in lines if x["finish"] == "demonstration"} == {"correct"}
    metrics = RunFolder(tmp_path).records("metrics.jsonl")
    shares = [sum(m[f"grade/{s}"] for s in ("correct", "wrong", "no_box", "timeout", "error")) for m in metrics]
    assert shares == pytest.approx([1.0, 1.0])


def test_rows_without_a_trace_and_prompts_that_repeat(tmp_path, make_model, tokenizer, rows):
    mixed = [
        {**row, "id": "same", "prompt": "1+1=", "expert": row["expert"] if i % 2 else []} for i, row in enumerate(rows)
    ]
    trainer(tmp_path, make_model(), tokenizer, mixed, max_steps=8).train()
    lines = rollouts(tmp_path)
    assert {x["prompt_id"] for x in lines} == {"same", "same#2"}
    step = [x for x in lines if x["step"] == 1]
    assert len({x["seed"] for x in step}) == 16
    metrics = RunFolder(tmp_path).records("metrics.jsonl")
    assert sum(m["expert/prompts_without_trace"] for m in metrics) / 8 == pytest.approx(0.5)


def test_grpo_is_trls(tmp_path, make_model, tokenizer, rows, precision):
    """Without guidance the weights' change is that of TRL's own loss on the same samples."""
    from trl import GRPOConfig, GRPOTrainer

    ours = one_step(tmp_path / "ours", make_model(), tokenizer, rows, guidance="none")
    lines = rollouts(tmp_path / "ours")
    prompts = {row["id"]: row["prompt"] for row in rows}
    by_prompt = {prompts[x["prompt_id"]]: [y for y in lines if y["prompt_id"] == x["prompt_id"]] for x in lines}

    def replay(batch, _):
        samples = [by_prompt[p][i % 8] for i, p in enumerate(batch)]
        return {
            "prompt_ids": [tokenizer(p)["input_ids"] for p in batch],
            "completion_ids": [x["own_ids"] for x in samples],
            "logprobs": None,
        }

    config = GRPOConfig(
        output_dir=str(tmp_path / "trl"), max_steps=1, per_device_train_batch_size=16, max_completion_length=24,
        learning_rate=1.0, optim="sgd", max_grad_norm=0.0, weight_decay=0.0, loss_type="dr_grpo", scale_rewards="none",
        lr_scheduler_type="constant", save_strategy="no", gradient_checkpointing=False, disable_tqdm=True, seed=7,
        report_to="none", **SETTINGS,
    )  # fmt: skip
    model = make_model()
    data = Dataset.from_list(rows)
    GRPOTrainer(model, one_in_three, config, data, processing_class=tokenizer, rollout_func=replay).train()
    near = {"fp32": {"rtol": 1e-4, "atol": 1e-7}, "bf16": {"rtol": 0.02, "atol": 1e-4}}[precision]
    for (name, p), before in zip(model.named_parameters(), make_model().parameters(), strict=True):
        torch.testing.assert_close(ours[name], p.detach().cpu() - before, **near)


def test_held_out_samples_are_plain_and_keep_their_seeds(tmp_path, make_model, tokenizer, rows):
    t = trainer(
        tmp_path, make_model(), tokenizer, rows, one_in_three, num_generations_eval=1, per_device_eval_batch_size=8
    )
    t.eval_dataset = {"first": Dataset.from_list(rows), "second": Dataset.from_list(rows[:5])}
    a, b = t.evaluate(), t.evaluate()
    assert a["eval_first_samples"] == 16 and a["eval_second_samples"] == 5
    for name in ("reward", "truncated", "length/own"):
        assert a[f"eval_first_{name}"] == b[f"eval_first_{name}"]
    records = RunFolder(tmp_path).records("evals.jsonl")
    assert [(r["step"], r["set"], r["samples"]) for r in records] == [(0, "first", 16), (0, "second", 5)] * 2
    assert [r["questions"] for r in records] == [16, 5] * 2 and all(r["binary"] for r in records)
    assert sorted(records[1]["by_question"]) == [f"p{i}" for i in range(5)]
    for record in records:  # the reward is the mean over questions: each was sampled once
        assert sum(record["by_question"].values()) / record["questions"] == pytest.approx(record["reward"])


def test_nan_stops_the_run_and_says_what_to_do(tmp_path, make_model, tokenizer, rows):
    t = trainer(tmp_path, make_model(), tokenizer, rows)
    t._weight = lambda tokens: torch.full_like(tokens.logp, math.nan)
    with pytest.raises(
        FloatingPointError,
        match=r"loss is nan at step 1: start a new run with a lower .* no checkpoint: none was saved",
    ):
        t.train()
    before = make_model()
    assert all(torch.equal(a, b) for a, b in zip(t.model.parameters(), before.parameters(), strict=True))


def test_a_second_run_in_the_same_folder_is_refused(tmp_path, make_model, tokenizer, rows):
    trainer(tmp_path, make_model(), tokenizer, rows, max_steps=1).train()
    with pytest.raises(FileExistsError, match="already holds a run"):
        trainer(tmp_path, make_model(), tokenizer, rows, max_steps=1).train()


def test_chat_prompts_and_trl_style_rewards(tmp_path, make_model, rows):
    from conftest import new_tokenizer

    tokenizer = new_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}>"
    seen = []

    def reward(prompts, completions, completion_ids, answer, trainer_state, **kwargs):
        seen.append((prompts[0], completions[0], answer[0]))
        return [None if i % 5 == 0 else 0.5 for i in range(len(prompts))]

    chat = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows]
    trainer(tmp_path, make_model(), tokenizer, chat, reward, max_steps=1).train()
    prompt, completion, answer = seen[0]
    assert prompt[0]["role"] == "user" and completion[0]["role"] == "assistant" and answer.isdigit()
    assert {x["reward"] for x in rollouts(tmp_path)} == {None, 0.5}  # what nobody scored has no reward
