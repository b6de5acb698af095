"""The doctor: right about this machine, and each thing broken once."""

import json
import re
import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from places import ROOT
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from typer.testing import CliRunner

from trapo.command import doctor
from trapo.command import memory as estimate
from trapo.command.doctor import CHECKS, TESTED, Patient, examine
from trapo.run_config import RunConfig as TRAPOConfig
from trapo_cli.cli import app
from trapo_toy.world import BASE


@pytest.fixture
def patient(tmp_path):
    config = TRAPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True, max_completion_length=64)
    return Patient(config, str(BASE))


def found(name, patient):
    return [(f.status, f.text, f.remedy) for f in CHECKS[name](patient)]


def test_the_tested_versions_are_those_of_the_constraints():
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    assert {name: pins[name] for name in TESTED} == TESTED


def test_the_default_training_is_well_here():
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split()[1].rstrip(":") for line in lines if line.startswith("ok")] == list(CHECKS)
    assert lines[-1] == "All is well."


def test_a_model_of_ones_own_is_not_examined_with_the_worlds_settings(tmp_path):
    """Of which the completion of 136 tokens would fit, and the whole 8,192 do not; --data need not be given."""
    shutil.copytree(BASE, tmp_path / "model")
    flags = ["--model", str(tmp_path / "model"), "--output_dir", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["doctor", *flags])
    assert result.exit_code == 1
    assert "error   model: max_completion_length 8192 leaves no room" in result.output
    assert "1 prompts x 8 samples per rollout" in result.output
    assert CliRunner().invoke(app, ["doctor", *flags, "--data", "world"]).exit_code == 0


def test_the_disk_is_that_of_the_output_folder(tmp_path, monkeypatch):
    asked = []
    usage = namedtuple("Usage", "free")(1 << 50)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: asked.append(path) or usage)
    CliRunner().invoke(app, ["doctor", "--output_dir", str(tmp_path / "deep" / "run")])
    assert asked == [tmp_path]


def test_a_model_that_cannot_be_had_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = CliRunner().invoke(app, ["doctor", "--model", "nobody/nothing-7b", "--output_dir", str(tmp_path)])
    assert result.exit_code == 1
    errors = [line.split()[1] for line in result.output.splitlines() if line.startswith("error")]
    assert errors == ["model:"]
    assert [line.split()[1].rstrip(":") for line in result.output.splitlines()[:-1]] == [
        name for name in CHECKS if name not in doctor.NEED_A_MODEL
    ]
    assert "ok      grader:" in result.output and result.output.endswith("It cannot work yet.\n")


def test_seven_billion_parameters_do_not_fit_here(tmp_path):
    config = {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 3584, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064,
        "tie_word_embeddings": False, "max_position_embeddings": 4096,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = TRAPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True, max_completion_length=3072)
    patient = Patient(settings, str(tmp_path))
    ((status, text, remedy),) = found("memory", patient)
    assert status == "error" and remedy.startswith("--lora_r 16")
    assert float(text.split()[0]) > 16 * 7.6e9 / 2**30  # weights, gradients and Adam's moments alone
    assert found("gradient", patient)[0][1].startswith("not tried: the model and two gradients take 85")
    ((status, text, _),) = found("training", patient)
    assert status == "warning" and text.startswith("not tried: it takes ")


def test_a_context_without_room(tmp_path):
    shutil.copytree(BASE, tmp_path / "model")
    context = json.loads((BASE / "config.json").read_text())["max_position_embeddings"]
    for length, statuses in ((context - 1, ["ok"]), (context, ["ok", "error"])):
        settings = TRAPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True, max_completion_length=length)
        last = found("model", Patient(settings, str(tmp_path / "model")))
        assert [status for status, _, _ in last] == statuses
    assert last[1][1].endswith(f"leaves no room for a prompt in the model's context of {context}")
    assert last[1][2].startswith("lower it, or raise max_position_embeddings")


def test_memory_is_split_where_the_launcher_shards(patient, monkeypatch):
    whole = patient.memory()
    zero3 = SimpleNamespace(zero_stage=3)
    assert estimate.shards(SimpleNamespace(deepspeed_plugin=zero3, world_size=8)) == 8
    assert estimate.shards(SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=2), world_size=8)) == 1
    assert estimate.shards(SimpleNamespace(deepspeed_plugin=None, world_size=8)) == 1
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert estimate.shards(SimpleNamespace(deepspeed_plugin=None, world_size=8)) == 8
    monkeypatch.setattr(estimate, "shards", lambda config: 4)
    assert patient.memory().optimizer == whole.optimizer / 4


def test_versions_that_differ(patient, monkeypatch):
    installed = doctor.metadata.version
    other = {"trl": "1.17.2", "transformers": "5.20.0", "torch": "2.13.1"}
    monkeypatch.setattr(doctor.metadata, "version", lambda name: other.get(name) or installed(name))
    statuses = {text.split()[0]: (status, remedy) for status, text, remedy in found("versions", patient)[:-1]}
    assert statuses == {  # another patch of torch is none
        "transformers": ("warning", "pip install 'transformers==5.17.0'"),
        "trl": ("error", "pip install 'trl==1.16.0'"),
    }


def test_a_missing_package(patient, monkeypatch):
    def version(name):
        if name in ("datasets", "peft"):
            raise doctor.metadata.PackageNotFoundError(name)
        return TESTED.get(name, "1")

    monkeypatch.setattr(doctor.metadata, "version", version)
    assert found("versions", patient)[:-1] == [("error", "datasets is not installed", "pip install datasets==5.2.0")]


def test_a_deepspeed_that_loses_gradients(patient, monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: True)
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "0.18.3")
    ((status, text, remedy),) = found("deepspeed", patient)
    assert status == "warning" and "0.18.3 loses gradients" in text and remedy == "pip install 'deepspeed>=0.19.0'"


def test_a_group_that_would_be_torn_apart(patient):
    patient.config.per_device_train_batch_size = 12
    patient.config.steps_per_generation = 1
    ((status, text, _),) = found("groups", patient)
    assert status == "error" and text == "each rank draws 12 samples, no multiple of the group size 8"


@pytest.mark.parametrize(
    "free, status", [(1 << 40, "ok"), (1 << 20, "error"), ("just", "warning")], ids=["ok", "error", "warning"]
)
def test_memory_that_is_short(patient, monkeypatch, free, status):
    needed = max(patient.memory().peaks.values())
    free = needed * 1.1 if free == "just" else free
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    assert found("memory", patient)[0][0] == status
    patient.config.stages, patient.config.per_device_train_batch_size = ["sft", "rl"], 64
    assert "at the peak (SFT)," in found("memory", patient)[0][1]


def test_a_disk_that_is_full(patient, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(1000))
    ((status, _, remedy),) = found("disk", patient)
    assert status == "error" and remedy.startswith("set --save_total_limit 2")


def edited_tokenizer(tmp_path, **tokens):
    shutil.copytree(BASE, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    for name, token in tokens.items():
        setattr(tokenizer, name, token)
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_an_end_that_the_model_does_not_know(patient, tmp_path):
    folder = edited_tokenizer(tmp_path, eos_token="think")
    ((status, text, remedy),) = found("tokenizer", Patient(patient.config, folder))
    assert status == "error" and "the tokenizer ends at 'think'" in text and remedy.startswith("make them one")


def test_a_model_that_names_no_end(patient, tmp_path):
    folder = Path(edited_tokenizer(tmp_path))
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))
    ((status, text, remedy),) = found("tokenizer", Patient(patient.config, str(folder)))
    assert (status, text) == ("warning", "EOS '<|eos|>' is the tokenizer's; the model's configuration names none")
    assert remedy.startswith("set eos_token_id in config.json")


def test_a_tokenizer_without_an_end(patient, tmp_path):
    folder = edited_tokenizer(tmp_path, eos_token=None)
    assert ("error", "there is no EOS: no sample would ever end", "set tokenizer.eos_token") in found(
        "tokenizer", Patient(patient.config, folder)
    )


def test_text_that_does_not_come_back(patient, monkeypatch):
    monkeypatch.setattr(PreTrainedTokenizerFast, "decode", lambda self, ids, **kwargs: "something else")
    assert found("tokenizer", patient)[0][:2] == ("warning", "text comes back changed: 'something else'")


def with_template(tmp_path, chat_template, **fields):
    folder = edited_tokenizer(tmp_path, chat_template=chat_template)
    config = TRAPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True, max_completion_length=64, **fields)
    return found("tokenizer", Patient(config, folder))


@pytest.mark.parametrize(
    "template, status, text",
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "ok", "EOS '<|eos|>', a chat template"),
        ("{{ raise_exception('no such role') }}", "error", "the chat template fails: no such role"),
        ("{{ messages[0].content | upper }}", "warning", "the template changes the prompt: 'FIRST, 3 * 4 = 12."),
    ],
    ids=["whole", "failing", "changing"],
)
def test_a_template_is_rendered(template, status, text, tmp_path):
    first = with_template(tmp_path, template)[0]
    assert first[0] == status and first[1].startswith(text)


def test_a_template_of_tokens_that_the_model_does_not_have(tmp_path):
    ((status, text, remedy), _) = with_template(tmp_path, None, template="reference")
    assert status == "warning" and text == "template 'reference' writes <|im_end|>, which is 10 tokens of this model"
    assert remedy.startswith("it is made for Qwen")


def test_an_engine_that_does_not_take_the_weights(patient, monkeypatch):
    engine = SimpleNamespace(load=lambda parameters: len(list(parameters)), check=lambda model: 2e-7)
    monkeypatch.setattr("trapo.rollout.engines.weights.start_vllm", lambda *args, **kwargs: engine)
    patient.config.engine = "vllm-server"
    assert found("engine", patient) == [
        ("ok", "vllm-server draws with the pushed weights (log-probabilities differ by 2.0e-07)", "")
    ]

    def check(model):
        raise RuntimeError("log-probabilities differ from the training model's by 3.1")

    engine.check = check
    ((status, text, remedy),) = found("engine", patient)
    assert status == "error" and text.startswith("vllm-server: log-probabilities differ") and "--engine torch" in remedy


def test_a_grader_that_errs(patient, monkeypatch):
    right = doctor.Grader.grade

    def grade(self, texts, golds):
        verdicts = right(self, texts, golds)
        return [verdicts[1], *verdicts[1:2], verdicts[0], *verdicts[3:]]  # the wrong answer passes

    monkeypatch.setattr(doctor.Grader, "grade", grade)
    ((status, text, _),) = found("grader", patient)
    assert status == "error" and text == r"misjudged: \boxed{11}"


def test_a_gradient_that_depends_on_the_split(patient, monkeypatch):
    from trapo.training.trainer import TRAPOTrainer

    honest = TRAPOTrainer._compute_loss

    def by_part(self, model, inputs):  # as if it were divided by the rows of the part
        return honest(self, model, inputs | {"share": 1.0})

    monkeypatch.setattr(TRAPOTrainer, "_compute_loss", by_part)
    ((status, text, _),) = found("gradient", patient)
    assert status == "error" and text.startswith("the gradient depends on the split: ")


@pytest.mark.gpu
@pytest.mark.parametrize(
    "fields, what",
    [
        ({}, "rl trained a step, was evaluated and saved on {} in float32"),
        ({"bf16": True}, "rl trained a step, was evaluated and saved on {} in bf16"),
        ({"stages": ["sft", "rl"], "lora_r": 4}, "sft and rl trained a step, was evaluated and saved on {} in float32"),
        ({"guidance": "none", "num_generations": 4, "expert_weight": "none"}, "rl trained a step"),
    ],
    ids=["default", "bf16", "lora and sft", "grpo"],
)
def test_it_does_what_training_does(fields, what, tmp_path, device):
    shared = {"use_cpu": device.type == "cpu", "max_completion_length": 64, "bf16": False}
    config = TRAPOConfig(output_dir=str(tmp_path / "run"), **shared | fields)
    before = config.to_dict()
    ((status, text, _),) = found("training", Patient(config, str(BASE)))
    assert status == "ok" and text.startswith(what.format(config.device)), text
    assert float(re.search(r"differ by (\S+) nats", text)[1]) < (0.05 if config.bf16 else 1e-5)
    assert config.to_dict() == before and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "broken", ["trainer.TRAPOTrainer.prediction_step", "trainer.TRAPOTrainer._compute_loss", "drawing.Rollout.run",
               "trainer.TRAPOTrainer._save_checkpoint"],
)  # fmt: skip
def test_a_training_that_dies_is_not_called_well(broken, patient, monkeypatch):
    def dies(*args, **kwargs):
        raise RuntimeError("Index put requires the source and destination dtypes match")

    monkeypatch.setattr(f"trapo.training.{broken}", dies)
    monkeypatch.setattr(doctor, "CHECKS", {"training": CHECKS["training"]})
    lines = []
    assert examine(patient, lines.append) == "error"
    assert lines == ["error   training: Index put requires the source and destination dtypes match"]


def test_a_check_that_breaks_is_an_error_and_the_others_are_made(patient, monkeypatch):
    def broken(patient):
        raise RuntimeError("boom")
        yield

    lines = []
    monkeypatch.setattr(doctor, "CHECKS", {"broken": broken, "groups": CHECKS["groups"]})
    assert examine(patient, lines.append) == "error"
    assert lines[0] == "error   broken: boom" and lines[1].startswith("ok      groups: ")


def test_without_a_gpu_it_says_so(patient):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert found("device", patient)[0][1].startswith("no GPU that torch")


def test_a_gpu_that_this_torch_cannot_use(patient, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 570.86.15\necho 570.86.15\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    patient.config.use_cpu = False
    ((status, text, _),) = found("device", patient)
    assert status == "warning" and text.startswith("there is a GPU (driver 570.86.15), but torch")
    patient.config.use_cpu = True
    assert found("device", patient)[0][0] == "ok"
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")  # as where there is no driver
    patient.config.use_cpu = False
    assert found("device", patient)[0][1].startswith("no GPU that torch")


def test_gpus_without_nccl_or_bf16(patient, monkeypatch):
    cuda = SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 2, is_bf16_supported=lambda: False,
        get_device_properties=lambda i: SimpleNamespace(name="Tesla V100"),
    )  # fmt: skip
    monkeypatch.setattr(doctor.torch, "cuda", cuda)
    monkeypatch.setattr(doctor.torch.distributed, "is_nccl_available", lambda: False)
    monkeypatch.setattr(doctor, "_driver", lambda: "570.86.15")
    (_, text, _), nccl, bf16 = found("device", patient)
    assert text.startswith("2 x Tesla V100, driver 570.86.15, CUDA ") and text.endswith("NCCL none")
    assert nccl == ("error", "several GPUs but no NCCL", "install a build of torch with NCCL")
    assert bf16[:2] == ("warning", "this GPU has no bf16: float32 is used")
