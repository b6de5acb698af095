from types import SimpleNamespace

import pytest
from datasets import Dataset

from trapo import TRAPOConfig, TRAPOTrainer
from trapo.run_config import RunConfig


def config(**kwargs):
    return TRAPOConfig(**({"output_dir": "unused", "use_cpu": True, "max_completion_length": 24} | kwargs))


def test_defaults_are_the_papers():
    c = TRAPOConfig(use_cpu=True)
    assert (c.loss_type, c.scale_rewards, c.beta, c.num_iterations, c.num_generations) == ("dr_grpo", "none", 0.0, 1, 8)
    assert (c.alpha, c.expert_weight, c.learning_rate, c.max_completion_length) == (0.1, "trsft", 5e-6, 8192)
    assert c.steps_per_generation == c.gradient_accumulation_steps and not c.vllm_importance_sampling_correction
    assert (c.lr_scheduler_type, c.weight_decay, c.disable_dropout) == ("constant", 0.01, True)


def test_a_preset_with_fields_put_over_it():
    groups = config(prefix_ratios=[0, 0.3, 0.6, 1.0], thresholds=[-1, 0.4, 0.6, 0.8]).micro_groups()
    assert groups.ratios == (0, 0.3, 0.6, 1.0) and groups.sizes == (4, 2, 1, 1) and groups.compare == "mean"
    custom = config(
        guidance="reference",
        micro_group_sizes=[6, 2],
        prefix_ratios=[0, 1],
        thresholds=[-1, 1],
        per_device_train_batch_size=8,
    )
    assert custom.num_generations == 8 and custom.micro_groups().traces == ()


@pytest.mark.parametrize(
    ("fields", "alpha"),
    [({}, 0.1), ({"alpha": 0.5}, 0.5), ({"guidance": "none"}, None), ({"expert_weight": "sft"}, None)],
)
def test_settings_always_say_alpha(fields, alpha):
    settings = config(**fields).method_settings()
    assert "alpha" in settings and settings["alpha"] == alpha
    assert settings["guidance"]["sizes"] == ((8,) if "guidance" in fields else (4, 2, 1, 1))


ERRORS = [
    ({"loss_type": "bnpo"}, "gradient depends on how the batch is split .* choose one of dr_grpo"),
    ({"loss_type": "ppo"}, "loss_type 'ppo' is unknown; choose one of dr_grpo"),
    (
        {"guidance": "papr"},
        "guidance 'papr' is unknown; choose one of paper, reference, .*, shortest-prefix, none",
    ),
    ({"guidance": "none", "prefix_ratios": [0.0]}, "guidance='none' ignores prefix_ratios"),
    ({"expert_weight": "sfft"}, "expert_weight 'sfft' is unknown; choose one of sft, trsft"),
    ({"alpha": 0.0}, r"alpha is 0.0, .* choose it in \(0, 1\]"),
    ({"alpha": 1.5}, "alpha is 1.5"),
    ({"gamma": 0.0}, "gamma is 0.0"),
    ({"schedule": "eager"}, "schedule 'eager' is unknown; choose one of speculative, pipelined, barrier"),
    ({"rollout_slots": 0}, "rollout_slots is 0"),
    ({"num_generations": 4}, r"num_generations is 4, but the micro-groups \(4, 2, 1, 1\) add up to 8"),
    ({"micro_group_sizes": [4, 4]}, "ratios .* needs one value per micro-group"),
    ({"per_device_train_batch_size": 4}, r"= 4 samples, which is not a multiple of the group size 8"),
    ({"temperature": 0.9}, "temperature=0.9 would temper p in the expert weight 'trsft'"),
    ({"mask_truncated_completions": True}, "mask_truncated_completions hides .* switch it off"),
    ({"engine": "cuda"}, "engine 'cuda' is unknown; choose one of auto, torch, transformers, vllm"),
    ({"engine": "vllm"}, r"engine 'vllm' needs vLLM: pip install 'trapo\[vllm\]', or use --engine torch"),
    ({"rollout_weights": "cast"}, "rollout_weights 'cast' is unknown; choose one of copy, autocast"),
    ({"engine_graphs": "on"}, "engine_graphs 'on' is unknown; choose one of auto, off"),
    ({"engine": "transformers", "deterministic": True}, "engine 'transformers' cannot be deterministic"),
    ({"update_tokens": 0}, "update_tokens is 0, but a forward needs at least one token"),
    ({"temperature": -1.0, "guidance": "none"}, "temperature is -1.0, but must be above 0"),
    ({"top_p": 2.0}, r"top_p is 2.0, but must be in \(0, 1\]"),
    ({"top_k": -5}, "top_k is -5, but must not be negative"),
    ({"min_p": 1.5}, r"min_p is 1.5, but must be in \[0, 1\]"),
    ({"seed": -1}, "seed is -1, but must not be negative"),
    ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0, but must be at least 1"),
    ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0, but must be at least 1"),
    ({"guidance": "none", "num_generations": 0}, "num_generations is 0, but must be at least 1"),
    ({"sft_warmup_ratio": 3.0}, r"sft_warmup_ratio is 3.0, but must be in \[0, 1\]"),
    ({"alpha": [0.1]}, r"alpha is \[0.1\], but must be a number"),
    ({"alpha": None}, "alpha is None, but must be a number"),
    ({"stages": "rl"}, "stages is 'rl', but must be a list"),
    ({"guidance": "none", "threshold_on": "sum"}, "guidance='none' ignores threshold_on"),
    ({"use_vllm": True}, "use_vllm=True is not supported: .* use --engine vllm"),
    ({"use_transformers_continuous_batching": True}, "casts the live model to bf16 for good"),
    ({"generation_kwargs": {"top_k": 3}}, "generation_kwargs=.* is not supported"),
    ({"use_liger_kernel": True}, "use_liger_kernel=True is not supported"),
    ({"top_entropy_quantile": 0.2}, "top_entropy_quantile=0.2 .* leave it at 1.0"),
    ({"repetition_penalty": 1.1}, "repetition_penalty=1.1 .* leave it at 1.0"),
]


@pytest.mark.parametrize(("fields", "message"), ERRORS, ids=[next(iter(f)) + str(i) for i, (f, _) in enumerate(ERRORS)])
def test_each_trap_has_its_message(fields, message):
    with pytest.raises(ValueError, match=message):
        config(**fields)


def test_temperature_is_free_without_an_expert_loss():
    assert config(temperature=1.2, expert_weight="none").temperature == 1.2
    assert config(temperature=1.2, guidance="none").temperature == 1.2


@pytest.mark.parametrize(("version", "refused"), [("0.18.9", True), ("0.19.0", False)])
def test_deepspeed_that_drops_micro_batches_is_refused(version, refused, monkeypatch):
    import importlib.metadata

    from trapo import config as module

    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    ds = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}
    if refused:
        with pytest.raises(ValueError, match=r"DeepSpeed 0.18.9 with ZeRO-2 .*deepspeed>=0\.19\.0"):
            module.check_deepspeed(ds)
    else:
        module.check_deepspeed(ds)
    module.check_deepspeed({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}})
    module.check_deepspeed({"zero_optimization": {"stage": 2}})


def dataset(rows, **columns):
    return Dataset.from_list([row | {k: v for k, v in columns.items() if v is not ...} for row in rows])


INPUT_ERRORS = [
    (lambda d: d.select(range(7)), {"per_device_train_batch_size": 64}, "has 7 rows, but one generation batch takes 8"),
    (
        lambda d: d.remove_columns("expert"),
        {},
        "guidance 'paper' shows experts' traces, but train_dataset has no column expert: add it",
    ),
    (lambda d: d.remove_columns("answer"), {}, "no column answer .* pass reward_funcs"),
    (lambda d: d.remove_columns("prompt"), {}, "no column prompt"),
    (lambda d: d.map(lambda row: {"expert": []}), {}, "no row of train_dataset has one: fill the column expert"),
    (lambda d: d.add_column("image", ["x"] * len(d)), {}, "vision-language models are not supported"),
    (lambda d: d, {"max_completion_length": 251}, r"longest prompt has 6 tokens .* context of 256. Set .* at most 250"),
    (lambda d: None, {}, "train_dataset is missing"),
    (
        lambda d: d,
        {"grader": "luffy"},
        "no expert's trace has one: every demonstration would be wrong. Use grader 'own'",
    ),
]


@pytest.mark.parametrize(("change", "fields", "message"), INPUT_ERRORS)
def test_each_bad_dataset_has_its_message(change, fields, message, make_model, tokenizer, rows, tmp_path):
    args = (
        config(output_dir=str(tmp_path / "run"), per_device_train_batch_size=8, **fields)
        if ("per_device_train_batch_size" not in fields)
        else config(output_dir=str(tmp_path / "run"), **fields)
    )
    with pytest.raises(ValueError, match=message):
        TRAPOTrainer(make_model(), args=args, train_dataset=change(dataset(rows)), processing_class=tokenizer)
    assert not (tmp_path / "run").exists()  # nothing is half written


def test_foreign_configs_are_refused(make_model, tokenizer, rows):
    with pytest.raises(ValueError, match="args is a dict: pass a trapo"):
        TRAPOTrainer(make_model(), args={"alpha": 0.1}, train_dataset=dataset(rows), processing_class=tokenizer)


def test_the_command_asks_for_a_length():
    """A trainer takes what is left of the model's context; a plan needs a number."""
    with pytest.raises(ValueError, match="max_completion_length is None: give"):
        RunConfig(output_dir="unused", use_cpu=True, max_completion_length=None)


def test_auto_is_a_rule(monkeypatch):
    auto, exact, asked = (
        TRAPOConfig(output_dir="unused", use_cpu=True, **fields)
        for fields in ({}, {"deterministic": True}, {"engine": "torch"})
    )
    full, sliding = (SimpleNamespace(layer_types=[kind] * 2) for kind in ("full_attention", "sliding_attention"))
    for architecture in (full, sliding):
        architecture.get_text_config = lambda found=architecture: found

    def engine(cuda, vllm, architecture=None, config=auto):
        monkeypatch.setattr("trapo.config.torch.cuda.is_available", lambda: cuda)
        monkeypatch.setattr("trapo.config.find_spec", lambda name: object() if vllm else None)
        return config.resolved_engine(architecture)

    assert engine(True, True, sliding) == engine(True, True, full) == "vllm"
    assert engine(True, False, full) == engine(False, True, full) == engine(False, False) == "torch"
    assert engine(True, False, sliding) == engine(False, True, sliding) == "transformers"
    assert engine(True, True, full, exact) == "torch"
    assert engine(True, True, sliding, asked) == "torch"  # refused when the model is known
