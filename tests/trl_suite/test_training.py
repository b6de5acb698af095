"""Datasets, arguments, training, metrics, saving and evaluation as in TRL."""

import inspect
import json

import conftest as tiny
import pytest
import torch
from datasets import Dataset, IterableDataset
from makers import PROMPTS, length, make, prompts  # noqa: F401
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import GRPOConfig, GRPOTrainer, ModelConfig, ScriptArguments, TrlParser

from trapo import TRAPOConfig, TRAPOTrainer

pytestmark = pytest.mark.trl


def changed(trainer, before):
    return [name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])]


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "dapo", "sapo", "cispo", "vespo"])
def test_every_loss_type_trains(make, loss):
    trainer = make(fields={"loss_type": loss, "epsilon_high": 5.0} if loss == "cispo" else {"loss_type": loss})
    before = weights(trainer)
    trainer.train()
    assert changed(trainer, before)


@pytest.mark.parametrize(
    "fields",
    [
        {"beta": 0.1},
        {"num_iterations": 2},
        {"gradient_accumulation_steps": 2},
        {"gradient_accumulation_steps": 2, "steps_per_generation": 4},
        {"generation_batch_size": 6, "per_device_train_batch_size": 3},
        {"importance_sampling_level": "sequence"},
        {"epsilon": 0.1, "epsilon_high": 0.3},
        {"delta": 2.0},
        {"temperature": 0.7},
        {"top_p": 0.9, "top_k": 20},
        {"entropy_coef": 0.01},
        {"shuffle_dataset": False},
        {"gradient_checkpointing": True},
        {"lr_scheduler_type": "cosine", "warmup_steps": 1},
        {"sync_ref_model": True, "beta": 0.1, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.5},
        {"num_generations": 2, "per_device_train_batch_size": 4},
        {"log_completions": True},
        {"bf16": True},
    ],
    ids=lambda fields: ",".join(fields),
)
def test_every_setting_trains(make, fields, capsys):
    trainer = make(fields=fields)
    before = weights(trainer)
    trainer.train()
    assert changed(trainer, before)
    if fields.get("log_completions"):
        assert "Completion" in capsys.readouterr().out


def test_a_model_by_its_path(make, tmp_path):
    tiny.new_model().save_pretrained(tmp_path / "model")
    tiny.new_tokenizer().save_pretrained(tmp_path / "model")
    trainer = make.trainer_class(
        str(tmp_path / "model"),
        length,
        args=make.config(model_init_kwargs={"dtype": "float32"}),
        train_dataset=prompts(),
    )
    trainer.train()
    assert trainer.model.dtype == torch.float32


def test_arguments_by_position(make):
    """In TRL's order: processing class seventh, callbacks eighth, optimizers ninth."""
    seen = []

    class Seen(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(state.global_step)

    model = tiny.new_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    trainer = make.trainer_class(
        model, length, make.config(), prompts(), None, tiny.new_tokenizer(), None, [Seen()], (optimizer, None)
    )
    trainer.train()
    assert seen == [1, 2] and trainer.optimizer.optimizer is optimizer


def test_the_order_of_arguments_is_trls():
    ours, theirs = (list(inspect.signature(c.__init__).parameters) for c in (TRAPOTrainer, GRPOTrainer))
    assert ours == theirs


def test_a_callback_learns_of_every_event(make):
    events = []

    class Events(TrainerCallback):
        def on_train_begin(self, *args, **kwargs):
            events.append("begin")

        def on_log(self, *args, logs=None, **kwargs):
            events.append("log")

        def on_train_end(self, *args, **kwargs):
            events.append("end")

    make(callbacks=[Events()]).train()
    assert events[0] == "begin" and events[-1] == "end" and events.count("log") == 3


def stream():
    for i, prompt in enumerate(PROMPTS):
        yield {"prompt": prompt, "number": i}


@pytest.mark.parametrize(
    "dataset",
    [
        lambda: IterableDataset.from_generator(stream),
        lambda: prompts().to_iterable_dataset(),
        lambda: prompts().map(lambda row: {"prompt": row["prompt"] + " "}),
        lambda: prompts().select(range(4)),
        lambda: IterableDataset.from_generator(stream).map(lambda row: {"twice": 2 * row["number"]}),
    ],
    ids=["generator", "stream", "mapped", "selected", "mapped stream"],
)
def test_datasets(make, dataset):
    trainer = make(train_dataset=dataset())
    before = weights(trainer)
    trainer.train()
    assert changed(trainer, before)


def test_metrics(make):
    trainer = make()
    trainer.train()
    names = set(make.logs(trainer)[0])
    wanted = {
        "reward", "reward_std", "frac_reward_zero_std", "rewards/length/mean", "rewards/length/std", "entropy",
        "completions/mean_length", "completions/min_length", "completions/max_length", "completions/clipped_ratio",
        "completions/mean_terminated_length", "completions/min_terminated_length", "completions/max_terminated_length",
        "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean", "num_tokens", "step_time",
        "learning_rate", "grad_norm", "loss", "epoch",
    }  # fmt: skip
    assert wanted <= names


def test_all_of_trls_metrics_are_there(tmp_path):
    from makers import Maker

    found = []
    for ours in (False, True):
        maker = Maker(ours, tmp_path / str(ours))
        trainer = maker(fields={"beta": 0.1, "entropy_coef": 0.01})
        trainer.train()
        found.append(set(maker.logs(trainer)[0]))
    assert found[0] - found[1] == set()


def test_evaluation(make):
    trainer = make(eval_dataset=prompts(), fields={"eval_strategy": "steps", "eval_steps": 1})
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "eval_reward" in entry]
    assert len(logs) == 2 and all("eval_rewards/length/mean" in entry for entry in logs)


def test_evaluation_of_several_sets(make):
    sets = {"a": prompts(), "b": prompts().select(range(3))}
    trainer = make(eval_dataset=sets)
    found = set(trainer.evaluate()) | {name for entry in trainer.state.log_history for name in entry}
    assert {"eval_a_runtime", "eval_b_runtime"} <= found and (not make.ours or "eval_b_reward" in found)


def test_evaluation_before_training(make):
    trainer = make(eval_dataset=prompts(), fields={"eval_on_start": True, "eval_strategy": "steps", "eval_steps": 5})
    trainer.train()
    assert next(e["step"] for e in trainer.state.log_history if "eval_reward" in e) == 0


def test_other_numbers_of_samples_in_evaluation(make):
    trainer = make(eval_dataset=prompts(), fields={"num_generations_eval": 1})
    assert "eval_reward" in trainer.evaluate() or any("eval_reward" in e for e in trainer.state.log_history)


def test_lora(make):
    from peft import LoraConfig

    trainer = make(peft_config=LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    before = weights(trainer)
    trainer.train()
    assert {("lora_" in name) for name in changed(trainer, before)} == {True}


def test_samples_up_to_the_context_where_no_length_is_given(tmp_path):
    config = TRAPOConfig(
        output_dir=str(tmp_path),
        guidance="none",
        use_cpu=True,
        per_device_train_batch_size=8,
        max_completion_length=None,
    )
    trainer = TRAPOTrainer(tiny.new_model(), length, config, prompts(), processing_class=tiny.new_tokenizer())
    assert trainer.max_completion_length == config.max_completion_length == 256 - len(PROMPTS[0])


def test_a_saved_model_is_the_models(make, tmp_path):
    from transformers import AutoModelForCausalLM

    trainer = make()
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    for name, p in again.named_parameters():
        assert torch.equal(p, trainer.model.get_parameter(name))


def checkpoints(path):
    return sorted(
        int(p.name.rpartition("-")[2]) for p in path.rglob("checkpoint-*") if p.is_dir() and not p.is_symlink()
    )


@pytest.mark.parametrize(("limit", "kept"), [(None, [1, 2, 3, 4]), (2, [3, 4])])
def test_checkpoints_are_rotated(make, limit, kept):
    make(fields={"save_strategy": "steps", "save_steps": 1, "max_steps": 4, "save_total_limit": limit}).train()
    assert checkpoints(make.path) == kept


@pytest.mark.parametrize("steps", [0.5, 2])
def test_save_steps(make, steps):
    make(fields={"save_strategy": "steps", "save_steps": steps, "max_steps": 4}).train()
    assert checkpoints(make.path) == [2, 4]


def test_resume(make):
    fields = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    make(fields=fields).train()
    trainer = make(fields=fields | {"max_steps": 3})
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 3 and checkpoints(make.path) == [1, 2, 3]


def test_transformers_finds_the_last_checkpoint(make):
    make(fields={"save_strategy": "steps", "save_steps": 1, "max_steps": 3, "save_total_limit": 2}).train()
    found = get_last_checkpoint(str(make.path))
    assert found.endswith("checkpoint-3")
    assert sorted(path.name for path in make.path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
    trainer = make(fields={"max_steps": 4})
    trainer.train(resume_from_checkpoint=found)
    assert trainer.state.global_step == 4


def test_resume_from_a_path(make):
    fields = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    make(fields=fields).train()
    path = next(p for p in make.path.rglob("checkpoint-1") if not p.is_symlink())
    trainer = make(fields=fields)
    trainer.train(resume_from_checkpoint=str(path))
    assert trainer.state.global_step == 2


def test_resume_false_starts(make):
    trainer = make()
    trainer.train(resume_from_checkpoint=False)
    assert trainer.state.global_step == 2


def test_a_card_is_written(make):
    trainer = make()
    trainer.train()
    trainer.create_model_card(model_name="mine")
    assert any("mine" in path.read_text() for path in make.path.rglob("README.md"))


def test_a_hub_is_pushed_to(make, monkeypatch):
    pushed = []
    trainer = make()
    monkeypatch.setattr(type(trainer), "push_to_hub", lambda self, *args, **kwargs: pushed.append(kwargs))
    trainer.train()
    trainer.push_to_hub(dataset_name="mine")
    assert pushed == [{"dataset_name": "mine"}]


def test_the_parser_of_a_script():
    """No flag of ours is one of TRL's own, such as --lora_r."""
    parser = TrlParser((ScriptArguments, TRAPOConfig, ModelConfig))
    flags = ["--output_dir", "x", "--use_cpu", "--bf16", "false", "--dataset_name", "d", "--model_name_or_path", "m"]
    script, config, model = parser.parse_args_and_config([*flags, "--lora_r", "4", "--alpha", "0.2"])
    assert (script.dataset_name, config.alpha, model.model_name_or_path, model.lora_r) == ("d", 0.2, "m", 4)


def test_a_plain_config_of_trls_is_taken_over(tmp_path, caplog):
    config = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=3, num_generations=3, max_completion_length=8,
        use_cpu=True, bf16=False, loss_type="grpo", scale_rewards="batch", max_steps=1, report_to="none",
        save_strategy="no", steps_per_generation=2,
    )  # fmt: skip
    trainer = TRAPOTrainer(
        tiny.new_model(), length, args=config, train_dataset=prompts(), processing_class=tiny.new_tokenizer()
    )
    trainer.train()
    assert "plain GRPOConfig" in caplog.text
    for name in ("loss_type", "scale_rewards", "steps_per_generation", "generation_batch_size", "learning_rate"):
        assert getattr(trainer.args, name) == getattr(config, name), name
    assert trainer.args.guidance == "none"
    assert json.loads((tmp_path / "run.json").read_text())["config"]["scale_rewards"] == "batch"


@pytest.mark.parametrize("name", ["tools", "rollout_func", "environment_factory"])
def test_what_leaves_no_place_for_a_prefix_is_refused(tmp_path, name):
    config = TRAPOConfig(output_dir=str(tmp_path / "run"), guidance="none", use_cpu=True)
    given = {"tools": [length]}.get(name, length)
    with pytest.raises(ValueError, match=f"{name} draws samples in TRL's own way"):
        TRAPOTrainer(
            tiny.new_model(), length, config, prompts(), processing_class=tiny.new_tokenizer(), **{name: given}
        )
    assert not (tmp_path / "run").exists()


def test_the_same_step_as_trls_on_the_same_samples(tmp_path):
    """Both draw their own samples; the dataset's order, the step count and the sizes are the same."""
    from makers import Maker

    found = {}
    for ours in (False, True):
        seen = []

        def reward(prompts, completions, seen=seen, **kwargs):
            seen.append(prompts)
            return [1.0] * len(prompts)

        Maker(ours, tmp_path / str(ours))(reward, fields={"max_steps": 4}).train()
        found[ours] = seen
    assert found[True] == found[False]


def test_a_dataset_smaller_than_a_batch_is_said(tmp_path):
    config = TRAPOConfig(output_dir=str(tmp_path), guidance="none", use_cpu=True, per_device_train_batch_size=32)
    with pytest.raises(ValueError, match="train_dataset has 2 rows"):
        TRAPOTrainer(
            tiny.new_model(),
            length,
            config,
            Dataset.from_dict({"prompt": ["a", "b"]}),
            processing_class=tiny.new_tokenizer(),
        )


def test_the_page_is_what_trl_says_today():
    import table

    assert table.written(table.PAGE.read_text()) == table.PAGE.read_text()


def test_no_effect_is_refused():
    for name, value in {"cache_implementation": "static", "vllm_importance_sampling_correction": True}.items():
        with pytest.raises(ValueError, match=f"{name}={value!r} is not supported"):
            TRAPOConfig(output_dir="unused", use_cpu=True, **{name: value})
