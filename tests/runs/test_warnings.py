import logging

import conftest
import pytest
from datasets import Dataset
from harness import one_in_three
from transformers import TrainerControl, TrainerState

from trapo import TRAPOConfig, TRAPOTrainer
from trapo.runs.warnings import SIGNS, Watch

FINE = {"loss": 0.1, "reward/plain": 0.2, "truncated": 0.5, "expert/outside_trust_region": 0.3, "grade/error": 0.0}


def said(caplog, lines):
    watch, state = Watch(), TrainerState()
    with caplog.at_level(logging.WARNING, logger="trapo"):
        for step, line in enumerate(lines, 1):
            state.global_step = step
            watch.on_log(None, state, TrainerControl(), logs=line)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    "bad, message",
    [
        (
            {"reward/plain": 0.0},
            "every plain sample earned 0 for 30 logged steps in a row, up to step 31: usually the g",
        ),
        ({"truncated": 1.0}, "every sample was cut off at max_completion_length for 5 logged steps in a row, up to s"),
        ({"expert/outside_trust_region": 1.0}, "every expert token was outside the trust region for 5 logged steps"),
        ({"grade/error": 0.3, "grade/timeout": 0.3}, "most answers could not be graded for 5 logged steps in a row"),
    ],
)
def test_a_bad_sign_is_told_once_with_its_usual_cause(bad, message, caplog):
    (line,) = said(caplog, [FINE] + [FINE | bad] * 200)
    assert message in line and "usually" in line


def test_a_sign_that_comes_and_goes_is_not_told(caplog):
    assert said(caplog, ([FINE | {"reward/plain": 0.0}] * 29 + [FINE]) * 4) == []
    assert said(caplog, [{"loss": 0.1}] * 100) == []  # a method without these metrics
    assert len({sign.name for sign in SIGNS}) == len(SIGNS)


def trainer(path, tokenizer, reward):
    config = TRAPOConfig(
        output_dir=str(path), per_device_train_batch_size=8, max_completion_length=16, max_steps=1, use_cpu=True,
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    rows = Dataset.from_list(conftest.ROWS)
    return TRAPOTrainer(conftest.new_model(), reward, config, rows, processing_class=tokenizer)


def test_early_decision_is_off_for_rewards_of_ones_own_and_that_is_said(tmp_path, tokenizer, caplog):
    made = trainer(tmp_path, tokenizer, one_in_three)
    assert made._bounded is False
    (said,) = [r.getMessage() for r in caplog.records if "rewards of your own" in r.getMessage()]
    assert "reward.per_sample = True" in said

    def alone(completions, **kwargs):
        return [0.5] * len(completions)

    alone.per_sample = True
    caplog.clear()
    trainer(tmp_path, tokenizer, alone)
    (said,) = [r.getMessage() for r in caplog.records if "rewards of your own" in r.getMessage()]
    assert "reward.bounded = True" in said


def test_a_reward_that_says_it_is_bounded_is_believed_and_held_to_it(tmp_path, tokenizer, caplog):
    def half(completions, **kwargs):
        return [0.5] * len(completions)

    def five(completions, **kwargs):
        return [5.0] * len(completions)

    half.bounded = five.bounded = True
    made = trainer(tmp_path / "half", tokenizer, half)
    assert made._bounded is True and "bounded" not in caplog.text
    made.train()
    with pytest.raises(ValueError, match=r"'five' says that it is bounded, but gave 5\.0: keep it in"):
        trainer(tmp_path / "five", tokenizer, five).train()


def test_the_own_grader_is_bounded(tmp_path, tokenizer):
    assert trainer(tmp_path, tokenizer, None)._bounded is True
