"""`trapo doctor`: is this machine, and this model, fit for the training that these settings ask for?

Every check yields findings: ok, warning or error, with the remedy. A check that breaks is an error itself, and does not
keep the others from being made.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch
from datasets import Dataset
from packaging.version import Version
from transformers import AutoConfig, PretrainedConfig
from transformers.utils import logging as transformers_logging

from ..config_checks import check_deepspeed
from ..data.tokens import CHAT_END, apply_template, prompt_text, shorten
from ..grading.grader import Grader
from ..models import context_of, load_model, load_tokenizer
from ..run_config import RunConfig
from ..training.footprint import ADAM, FLOAT32, Shape
from . import memory as estimate
from .trial import trial_run

# What the tests run with; tests/command/test_doctor.py holds it against constraints.txt.
TESTED = {
    "torch": "2.13.0", "transformers": "5.17.0", "trl": "1.16.0", "accelerate": "1.15.0", "datasets": "5.2.0",
    "math-verify": "0.9.0", "tokenizers": "0.23.3", "peft": "0.21.2",
}  # fmt: skip
OPTIONAL = ("peft",)
SAME = 1e-4  # largest difference of the two gradients, relative to the largest entry, in float32
SAMPLE = "First, 3 * 4 = 12.\n\nSo the answer is \\boxed{12}."
RANK = {"ok": 0, "warning": 1, "error": 2}


@dataclass(frozen=True)
class Finding:
    """What a check says: `status` ok, warning or error; `text`; and what to do about it."""

    status: str
    text: str
    remedy: str = ""

    def line(self, name: str) -> str:
        """The finding as a line."""
        return f"{self.status:8}{name}: {self.text}" + (f": {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class Patient:
    """What is examined: the settings, and where the model is."""

    config: RunConfig
    model_path: str

    def tokenizer(self):
        """Tokenizer and transformers configuration of the model."""
        return load_tokenizer(self.model_path, self.config.trust_remote_code)

    def architecture(self) -> PretrainedConfig:
        """The model's configuration; its folder needs no more than a config.json."""
        if self.model_path.endswith(".gguf"):
            return self.tokenizer()[1]
        try:
            return AutoConfig.from_pretrained(self.model_path, trust_remote_code=self.config.trust_remote_code)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self.model_path} cannot be loaded: {shorten(' '.join(str(error).split()), 200)}"
            ) from None

    def shape(self) -> Shape:
        """The model's sizes."""
        return Shape.of(self.architecture())

    def memory(self) -> estimate.Memory:
        """The estimate for one GPU; sharded where the launcher says so."""
        engine, shards = self.config.resolved_engine(self.architecture()), estimate.shards(self.config)
        return estimate.memory(self.shape(), self.config, prompt=512, shards=shards, engine=engine)


def versions(patient: Patient) -> Iterator[Finding]:
    """Installed against tested; TRL's minor version is pinned, because its internals are used."""
    for name, tested in TESTED.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name not in OPTIONAL:
                yield Finding("error", f"{name} is not installed", f"pip install {name}=={tested}")
            continue
        if Version(found).release[:2] == Version(tested).release[:2]:
            continue
        status = "error" if name == "trl" else "warning"
        yield Finding(status, f"{name} {found}, tested with {tested}", f"pip install '{name}=={tested}'")
    yield Finding("ok", ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "trl")))


def device(patient: Patient) -> Iterator[Finding]:
    """GPU, driver, bf16 and NCCL, or the CPU."""
    driver = _driver()
    if not torch.cuda.is_available() and driver and not patient.config.use_cpu:
        text = f"there is a GPU (driver {driver}), but torch {torch.__version__} cannot use it"
        yield Finding("warning", text, "install a build of torch for a CUDA that this driver knows, or --use_cpu true")
        return
    if not torch.cuda.is_available():
        yield Finding("ok", f"no GPU that torch {torch.__version__} can use: the CPU trains small models only")
        return
    properties = torch.cuda.get_device_properties(0)
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if torch.distributed.is_nccl_available() else "none"
    found = f"driver {driver or 'unknown'}, CUDA {torch.version.cuda}, NCCL {nccl}"
    yield Finding("ok", f"{torch.cuda.device_count()} x {properties.name}, {found}")
    if torch.cuda.device_count() > 1 and nccl == "none":
        yield Finding("error", "several GPUs but no NCCL", "install a build of torch with NCCL")
    if not torch.cuda.is_bf16_supported():
        yield Finding("warning", "this GPU has no bf16: float32 is used", "expect half the speed")


def _driver() -> str:
    """The version of NVIDIA's driver; empty where there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.partition("\n")[0].strip()


def deepspeed(patient: Patient) -> Iterator[Finding]:
    """The defect of DeepSpeed below 0.19 with an offloaded optimizer."""
    if not find_spec("deepspeed"):
        yield Finding("ok", "DeepSpeed is not installed")
        return
    plugin = patient.config.deepspeed_plugin
    check_deepspeed(plugin.deepspeed_config if plugin else {})
    found = metadata.version("deepspeed")
    if Version(found) < Version("0.19.0"):
        text = f"DeepSpeed {found} loses gradients where ZeRO-1 or -2 offloads the optimizer (arXiv 2604.23747)"
        yield Finding("warning", text, "pip install 'deepspeed>=0.19.0'")
    else:
        yield Finding("ok", f"DeepSpeed {found}")


def model(patient: Patient) -> Iterator[Finding]:
    """Whether there is one, with room for prompt and completion; what needs it is not examined otherwise."""
    found = patient.architecture()
    yield Finding("ok", f"{patient.model_path}, {(found.architectures or [found.model_type])[0]}")
    context = context_of(found)
    length = patient.config.max_completion_length
    if context is not None and length >= context:
        text = f"max_completion_length {length} leaves no room for a prompt in the model's context of {context}"
        yield Finding("error", text, "lower it, or raise max_position_embeddings and rope_theta in config.json")


def memory(patient: Patient) -> Iterator[Finding]:
    """The estimate against what is free."""
    peaks = patient.memory().peaks
    peak = max(peaks.values())
    free = _free(patient.config)
    if patient.config.resolved_engine(patient.architecture()) == "vllm" and torch.cuda.is_available():
        peak += patient.config.vllm_gpu_memory_utilization * torch.cuda.mem_get_info()[1]
    text = f"{peak / 2**30:.3g} GiB of tensors at the peak ({max(peaks, key=peaks.get)}), {free / 2**30:.3g} GiB free"
    if peak > free:
        remedy = (
            "--lora_r 16, a smaller --max_completion_length, --update_tokens or --rollout_slots, or more GPUs (FSDP)"
        )
        yield Finding("error", text, remedy)
    elif peak > 0.8 * free:
        yield Finding("warning", text, "leave room for fragmentation: lower --update_tokens or --rollout_slots")
    else:
        yield Finding("ok", text)


def _free(config: RunConfig) -> int:
    """Bytes free where the training would run."""
    on_gpu = torch.cuda.is_available() and not config.use_cpu
    return torch.cuda.mem_get_info()[0] if on_gpu else psutil.virtual_memory().available


def disk(patient: Patient) -> Iterator[Finding]:
    """Room for checkpoints and the final model."""
    config, parameters = patient.config, patient.shape().parameters
    kept = config.save_total_limit or (10 if config.save_strategy != "no" else 0)
    trained = patient.shape().lora_parameters(config.lora_r) if config.lora_r else parameters
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "").lower() in (
        "1",
        "true",
    )  # its checkpoints have the weights twice
    needed = parameters * FLOAT32 + kept * trained * (FLOAT32 * (1 + sharded) + ADAM)
    folder = next(path for path in (Path(config.output_dir).absolute(), *Path(config.output_dir).absolute().parents)
                  if path.exists())  # fmt: skip
    free = shutil.disk_usage(folder).free
    text = f"{needed / 2**30:.3g} GiB for the final model and {kept} checkpoints, {free / 2**30:.3g} GiB free"
    if needed > free:
        yield Finding("error", text, "set --save_total_limit 2, or an --output_dir with more room")
    else:
        yield Finding("ok", text)


def tokenizer(patient: Patient) -> Iterator[Finding]:
    """EOS, template, and that text survives the round trip."""
    found, config = patient.tokenizer()
    yield from _template(patient.config, found)
    ids = found(SAMPLE, add_special_tokens=False)["input_ids"]
    if found.decode(ids) != SAMPLE:
        yield Finding("warning", f"text comes back changed: {found.decode(ids)[:60]!r}", "look at the expert's traces")
    if found.eos_token_id is None:
        yield Finding("error", "there is no EOS: no sample would ever end", "set tokenizer.eos_token")
        return
    ends = config.get_text_config().eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    if ends == [None]:
        yield Finding("warning", f"EOS {found.eos_token!r} is the tokenizer's; the model's configuration names none",
                      "set eos_token_id in config.json: other engines stop by it")  # fmt: skip
    elif found.eos_token_id not in ends:
        text = f"the tokenizer ends at {found.eos_token!r} ({found.eos_token_id}), the model at {ends}"
        yield Finding("error", text, "make them one: traces would teach an end that sampling does not know")
    elif found.eos_token in found.decode([*ids, found.eos_token_id], skip_special_tokens=True):
        yield Finding("error", f"EOS {found.eos_token!r} is no special token: it would be graded as text",
                      "declare it special in the tokenizer")  # fmt: skip
    else:
        template = "a chat template" if found.chat_template else "no chat template: prompts must be text"
        yield Finding("ok", f"EOS {found.eos_token!r}, {template}")


def _template(config: RunConfig, tokenizer) -> Iterator[Finding]:
    """Whether the template renders a chat message, and with tokens that the model has."""
    template, chat = config.template, [{"role": "user", "content": SAMPLE}]
    if template == "tokenizer" and not tokenizer.chat_template:
        return
    try:
        text = prompt_text(chat, tokenizer, template, **config.chat_template_kwargs or {})
    except ValueError as error:
        yield Finding("error", shorten(str(error), 300))
        return
    if SAMPLE not in text:
        yield Finding("warning", f"the template changes the prompt: {text[:60]!r}", "look at what --dry-run shows")
    pieces = len(tokenizer(CHAT_END, add_special_tokens=False)["input_ids"])
    if CHAT_END in text and isinstance(apply_template(chat, template), str) and pieces > 1:
        yield Finding("warning", f"template {template!r} writes {CHAT_END}, which is {pieces} tokens of this model",
                      "it is made for Qwen: take --template tokenizer or raw")  # fmt: skip


def grader(patient: Patient) -> Iterator[Finding]:
    """A right, an equal, a wrong and a missing answer, and one that would never end."""
    cases = [
        ("\\boxed{12}", "12", 1.0),
        ("\\boxed{\\frac{1}{2}}", "0.5", 1.0),
        ("\\boxed{11}", "12", 0.0),
        ("12", "12", 0.0),
    ]
    endless = "\\boxed{9^{9^{9^{9}}}}"
    with Grader(1, cpu_seconds=2.0) as found:
        verdicts = found.grade([text for text, _, _ in cases] + [endless], [gold for _, gold, _ in cases] + ["1"])
    wrong = [text for (text, _, reward), v in zip(cases, verdicts, strict=False) if v.reward != reward]
    if wrong or verdicts[-1].reward:
        yield Finding("error", f"misjudged: {', '.join(wrong) or endless}", f"math-verify=={TESTED['math-verify']}")
    else:
        yield Finding("ok", f"five answers judged as they should be; an endless one: {verdicts[-1].status}")


def engine(patient: Patient) -> Iterator[Finding]:
    """What draws the samples, and for vLLM a push of the weights."""
    name = patient.config.resolved_engine(patient.architecture())
    if name == "transformers":
        yield Finding("ok", "transformers' continuous batching: samples depend on what is drawn beside them")
        return
    if name == "torch":
        more = "" if not torch.cuda.is_available() else "; vLLM is faster on a GPU: pip install 'trapo[vllm]'"
        yield Finding("ok", f"the embedded engine{more}")
        return
    from ..rollout.engines.weights import start_vllm

    model, found = load_model(patient.model_path, patient.config.trust_remote_code)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(patient.config.vllm_server_weights or folder)
        try:
            drawer = start_vllm(model, [found.eos_token_id], patient.config, weights)
            drawer.load(model.named_parameters())
            difference = drawer.check(model)
        except (RuntimeError, ValueError) as error:
            yield Finding("error", f"{name}: {error}", "see docs/scale.md, or --engine torch")
            return
    yield Finding("ok", f"{name} draws with the pushed weights (log-probabilities differ by {difference:.1e})")


def training(patient: Patient) -> Iterator[Finding]:
    """Rollout, held-out evaluation, update and save, once each, as the training would do them."""
    if (peak := max(patient.memory().peaks.values())) > (free := _free(patient.config)):
        text = f"not tried: it takes {peak / 2**30:.3g} GiB, {free / 2**30:.3g} GiB are free"
        yield Finding("warning", text, "see memory")
        return
    found = trial_run(patient.config, patient.model_path)
    precision = next((name for name in ("bf16", "fp16") if getattr(patient.config, name)), "float32")
    gap = "" if found["difference"] is None else f"; sampler and update differ by {found['difference']:.1e} nats"
    what = f"{' and '.join(patient.config.stages)} trained a step, was evaluated and saved"
    yield Finding("ok", f"{what} on {found['device']} in {precision} ({found['seconds']:.1f} s{gap})")


def gradient(patient: Patient) -> Iterator[Finding]:
    """One gradient from two rows together and apart, on the real model."""
    needed = patient.memory()
    if (size := needed.weights + 2 * needed.gradients) > 0.5 * psutil.virtual_memory().available:
        yield Finding("ok", f"not tried: the model and two gradients take {size / 2**30:.3g} GiB")
        return
    difference = gradient_difference(patient)
    if difference < SAME:
        yield Finding("ok", f"two rows in one part and in two give one gradient (to {difference:.0e})")
    else:
        yield Finding("error", f"the gradient depends on the split: {difference:.1e} between one part and two",
                      "look for dropout, batch statistics or a patched attention in the model's code")  # fmt: skip


def gradient_difference(patient: Patient) -> float:
    """Largest difference of the gradients of two rows in one part and in two, relative to the largest entry."""
    from ..training.trainer import TRAPOTrainer

    model, found = load_model(patient.model_path, patient.config.trust_remote_code)
    rows = Dataset.from_list([{"prompt": "1 + 1 =", "answer": "2"}] * 2)
    gradients = []
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            output_dir=folder, guidance="none", num_generations=2, per_device_train_batch_size=2, use_cpu=True,
            max_completion_length=16, report_to="none", grader_workers=1, gradient_checkpointing=False, bf16=False,
        )  # fmt: skip
        trainer = TRAPOTrainer(model, args=config, train_dataset=rows, processing_class=found)
        trainer.current_gradient_accumulation_steps = 1
        for update_tokens in (10_000, 1):
            trainer.update_tokens = update_tokens
            model.zero_grad()
            trainer.accelerator.backward(trainer.compute_loss(model.train(), _two_rows(found)))
            gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    largest = max(g.abs().max() for g in gradients[0].values())
    return float(max((a - gradients[1][name]).abs().max() for name, a in gradients[0].items()) / largest)


def _two_rows(tokenizer) -> dict[str, Any]:
    """A micro-batch of two rows of 9 and 5 tokens, as TRL lays it out."""
    ids = torch.tensor(tokenizer("one two three four five six seven eight nine ten " * 4)["input_ids"][:12])
    own = (torch.arange(9) < torch.tensor([[9], [5]])).long()
    return {
        "prompt_ids": ids[:3].repeat(2, 1),
        "prompt_mask": torch.ones(2, 3, dtype=torch.long),
        "completion_ids": torch.stack([ids[3:12], ids[2:11]]),
        "completion_mask": own,
        "tool_mask": torch.ones_like(own),
        "advantages": torch.tensor([1.0, -0.5]),
        "num_items_in_batch": own.sum(),
        "expert_mask": torch.zeros_like(own),
        "completion_lengths": own.sum(1),
        "idle": torch.zeros(2, dtype=torch.bool),
        "entropy_items": own.sum(),
        "sampling_per_token_logps": torch.zeros(own.shape),
    }


def groups(patient: Patient) -> Iterator[Finding]:
    """Whole groups on every rank."""
    config = patient.config
    rows = config.per_device_train_batch_size * config.steps_per_generation
    if rows % config.num_generations:
        text = f"each rank draws {rows} samples, no multiple of the group size {config.num_generations}"
        yield Finding("error", text, "change per_device_train_batch_size or gradient_accumulation_steps")
        return
    prompts = config.generation_batch_size // config.num_generations
    text = f"{prompts} prompts x {config.num_generations} samples per rollout on {config.world_size} rank(s)"
    yield Finding("ok", f"{text}, {rows // config.num_generations} whole groups each")


CHECKS: dict[str, Callable[[Patient], Iterator[Finding]]] = {
    f.__name__: f
    for f in (versions, device, deepspeed, groups, model, tokenizer, memory, disk, grader, engine, gradient, training)
}
NEED_A_MODEL = ("tokenizer", "memory", "disk", "engine", "gradient", "training")


def examine(patient: Patient, say: Callable[[str], None]) -> str:
    """Make every check, say each finding in a line, and return the worst status."""
    transformers_logging.disable_progress_bar()
    worst, there = "ok", True
    for name, check in CHECKS.items():
        if name in NEED_A_MODEL and not there:  # not the same error five times, each after the hub's retries
            continue
        try:
            findings = list(check(patient))
        except Exception as error:  # a check that breaks is a finding too
            findings = [Finding("error", " ".join(str(error).split()) or type(error).__name__)]
        for finding in findings:
            say(finding.line(name))
            worst = max(worst, finding.status, key=RANK.__getitem__)
        there &= name != "model" or findings[0].status == "ok"
    return worst
