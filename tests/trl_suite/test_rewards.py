"""Reward functions as TRL calls them."""

import asyncio
import logging

import conftest as tiny
import pytest
import torch
from makers import PROMPTS, length, make, prompts  # noqa: F401
from transformers import Qwen2Config, Qwen2ForSequenceClassification

pytestmark = pytest.mark.trl


class Recorder:
    """A reward function that keeps what it was called with."""

    __name__ = "recorder"

    def __init__(self, rewards=None):
        self.calls, self.rewards = [], rewards or length

    def __call__(self, **kwargs):
        self.calls.append(kwargs)
        return self.rewards(**kwargs)


def test_called_once_per_generation_batch_with_whole_groups_in_order(make):
    reward = Recorder()
    make(reward, fields={"per_device_train_batch_size": 6, "max_steps": 3}).train()
    assert len(reward.calls) == 3
    for call in reward.calls:
        first, second = call["prompts"][:3], call["prompts"][3:]
        assert len(set(first)) == len(set(second)) == 1 and first[0] != second[0]


def test_one_call_for_a_batch_that_several_steps_share(make):
    reward = Recorder()
    make(reward, fields={"num_iterations": 2, "max_steps": 4}).train()
    assert len(reward.calls) == 2


def test_a_reward_may_compare_what_is_in_a_group(make):
    def rank(completions, **kwargs):
        groups = [completions[i : i + 3] for i in range(0, len(completions), 3)]
        return [float(sorted(group).index(text)) for group in groups for text in group]

    trainer = make(rank)
    trainer.train()
    for entry in make.logs(trainer):
        assert entry["reward"] >= 0 and entry["rewards/rank/mean"] <= 1.0  # 0, 1, 2, or fewer where texts are the same


def test_arguments(make):
    reward = Recorder()
    make(reward, train_dataset=prompts(level=list(range(6)), answer=[p[0] for p in PROMPTS])).train()
    call = reward.calls[0]
    assert {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "level"} <= set(
        call
    )
    assert [PROMPTS[i] for i in call["level"]] == call["prompts"]
    assert call["answer"] == [prompt[0] for prompt in call["prompts"]]
    assert all(isinstance(token, int) for ids in call["completion_ids"] for token in ids)


def test_no_column_reaches_a_reward_that_the_dataset_does_not_have(make):
    reward = Recorder()
    make(reward).train()
    named = {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"}
    assert set(reward.calls[0]) - {"environments"} == named


def test_the_state_shows_the_step(make):
    reward = Recorder()
    make(reward, fields={"max_steps": 3}).train()
    assert [call["trainer_state"].max_steps for call in reward.calls] == [3, 3, 3]


def test_completions_are_text_for_text(make):
    reward = Recorder()
    make(reward).train()
    assert all(isinstance(text, str) for text in reward.calls[0]["completions"])


def test_completions_are_messages_for_chat(make):
    tokenizer = tiny.new_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    reward = Recorder(lambda completions, **kwargs: [float(len(c[0]["content"])) for c in completions])
    rows = prompts().map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]})
    trainer = make.trainer_class(
        tiny.new_model(), reward, args=make.config(), train_dataset=rows, processing_class=tokenizer
    )
    trainer.train()
    call = reward.calls[0]
    assert call["prompts"][0][0]["role"] == "user" and call["completions"][0][0]["role"] == "assistant"


def test_several_are_weighted(make):
    def one(completions, **kwargs):
        return [1.0] * len(completions)

    def two(completions, **kwargs):
        return [2.0] * len(completions)

    trainer = make([one, two], fields={"reward_weights": [0.5, 2.0]})
    trainer.train()
    for entry in make.logs(trainer):
        assert entry["rewards/one/mean"] == 1 and entry["rewards/two/mean"] == 2
    assert trainer._logs["rewards"]["one"][0] == 1 and trainer._logs["rewards"]["two"][0] == 2


def test_as_many_weights_as_functions(make):
    with pytest.raises(ValueError, match="reward weights"):
        make([length, length], fields={"reward_weights": [1.0]})


def test_none_is_left_out_of_the_mean(make):
    def every_third(completions, **kwargs):
        return [None if i % 3 == 0 else 1.0 for i in range(len(completions))]

    trainer = make(every_third)
    trainer.train()
    assert [entry["rewards/every_third/mean"] for entry in make.logs(trainer)] == [1.0, 1.0]


def test_a_row_that_nobody_scores_is_told_and_has_no_advantage(make, caplog):
    def never(completions, **kwargs):
        return [None] * len(completions)

    logging.getLogger("trl").propagate = True
    with caplog.at_level(logging.WARNING):
        trainer = make(never)
        trainer.train()
    assert any("returned None" in record.getMessage() for record in caplog.records)
    assert list(trainer._logs["advantages"]) == [0.0] * len(trainer._logs["advantages"])


def test_each_function_may_score_rows_of_its_own(make):
    def even(completions, **kwargs):
        return [1.0 if i % 2 == 0 else None for i in range(len(completions))]

    def odd(completions, **kwargs):
        return [3.0 if i % 2 else None for i in range(len(completions))]

    trainer = make([even, odd])
    trainer.train()
    for entry in make.logs(trainer):
        assert (entry["rewards/even/mean"], entry["rewards/odd/mean"]) == (1.0, 3.0)


def test_as_many_rewards_as_completions(make):
    with pytest.raises(ValueError, match="returned 1 rewards"):
        make(lambda completions, **kwargs: [1.0]).train()


def test_async_functions_run(make):
    async def later(completions, **kwargs):
        await asyncio.sleep(0)
        return [float(len(text)) for text in completions]

    trainer = make(later)
    trainer.train()
    assert all(entry["rewards/later/mean"] >= 0 for entry in make.logs(trainer))


def test_async_functions_run_side_by_side(make):
    running = {"now": 0, "most": 0}

    def slow(name):
        async def function(completions, **kwargs):
            running["now"] += 1
            running["most"] = max(running["most"], running["now"])
            await asyncio.sleep(0.05)
            running["now"] -= 1
            return [1.0] * len(completions)

        function.__name__ = name
        return function

    make([slow("a"), slow("b"), length]).train()
    assert running["most"] == 2


def reward_model():
    torch.manual_seed(1)
    return Qwen2ForSequenceClassification(
        Qwen2Config(
            vocab_size=258, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, num_labels=1, pad_token_id=257,
        )
    ).eval()  # fmt: skip


def test_a_reward_model_with_its_tokenizer(make):
    model = reward_model()
    model.config._name_or_path = "judge"
    trainer = make(model, reward_processing_classes=tiny.new_tokenizer())
    trainer.train()
    assert all("rewards/judge/mean" in entry for entry in make.logs(trainer))


def test_a_reward_model_by_its_path(make, tmp_path):
    reward_model().save_pretrained(tmp_path / "judge")
    tiny.new_tokenizer().save_pretrained(tmp_path / "judge")
    trainer = make(str(tmp_path / "judge"))
    trainer.train()
    assert all("rewards/judge/mean" in entry for entry in make.logs(trainer))


def test_a_reward_model_beside_a_function(make):
    model = reward_model()
    model.config._name_or_path = "judge"
    trainer = make([model, length], reward_processing_classes=[tiny.new_tokenizer(), None])
    trainer.train()
    assert all({"rewards/judge/mean", "rewards/length/mean"} <= set(entry) for entry in make.logs(trainer))


def test_as_many_processing_classes_as_functions(make):
    with pytest.raises(ValueError, match="reward processing classes"):
        make([length, length], reward_processing_classes=[None])


def test_log_extra_is_a_column_of_the_completions(make):
    def noted(completions, log_extra, **kwargs):
        log_extra("letters", [len(text) for text in completions])
        return [1.0] * len(completions)

    trainer = make(noted)
    trainer.train()
    texts = list(trainer._logs["completion"])
    assert list(trainer._logs["extra"]["letters"]) == [len(text) for text in texts]


def test_log_metric_is_a_metric(make):
    def noted(completions, log_metric, **kwargs):
        log_metric("mine", 3.0)
        return [1.0] * len(completions)

    trainer = make(noted)
    trainer.train()
    assert [entry["mine"] for entry in make.logs(trainer)] == [3.0, 3.0]


def test_normalize_then_sum(make):
    trainer = make([length, length], fields={"multi_objective_aggregation": "normalize_then_sum"})
    trainer.train()
    assert len(make.logs(trainer)) == 2


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_scaled(make, scale):
    trainer = make(fields={"scale_rewards": scale, "per_device_train_batch_size": 6, "max_steps": 1})
    trainer.train()
    rewards = torch.tensor(list(trainer._logs["rewards"]["length"]))
    groups = rewards.view(-1, 3)
    expected = groups - groups.mean(1, keepdim=True)
    if scale == "group":
        expected = expected / (groups.std(1, keepdim=True) + 1e-4)
    if scale == "batch":
        expected = expected / (rewards.std() + 1e-4)
    found = torch.tensor(list(trainer._logs["advantages"])).view(-1, 3)
    torch.testing.assert_close(found, expected)
