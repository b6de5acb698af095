"""What `gpu_check.py` measures: a function per section, from a size and an empty folder to figures.

`ok` among the figures says whether what must hold does; where it is not among them there is nothing that must.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
QWEN_7B = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 4096,
}  # fmt: skip
QWEN_1B = QWEN_7B | {
    "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2,
    "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
TINY = {
    "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "vocab_size": 600, "max_position_embeddings": 4096,
}  # fmt: skip
# What is measured at each size: shapes, decode steps (rows, columns), samples and their lengths (median, sigma, most).
SIZES = {
    "1.5b": {
        "model": QWEN_1B, "lora": QWEN_7B, "steps": [(8, 512), (64, 512), (256, 512), (64, 2048), (256, 2048)],
        "samples": 256, "log-normal": (80, 1.0, 512), "uniform": (128, 0.0, 128), "rows": 32, "longest": 2048,
        "completion": 256, "world": 60, "lora tokens": 128,
    },
    "tiny": {
        "model": TINY, "lora": TINY, "steps": [(8, 64)], "samples": 16, "log-normal": (8, 1.0, 24),
        "uniform": (8, 0.0, 8), "rows": 8, "longest": 64, "completion": 16, "world": 2, "lora tokens": 16,
    },
}  # fmt: skip


def on_gpu() -> bool:
    """Whether there is one; on a CPU the same code runs without figures of the device."""
    return torch.cuda.is_available()


def device() -> torch.device:
    """What is measured."""
    return torch.device("cuda" if on_gpu() else "cpu")


def sync() -> None:
    """Wait for the device."""
    if on_gpu():
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any], times: int = 1) -> float:
    """Wall seconds of `work`, on average, the device's included."""
    sync()
    began = time.perf_counter()
    for _ in range(times):
        work()
    sync()
    return (time.perf_counter() - began) / times


def new_model(shape: dict[str, Any], dtype: torch.dtype = torch.float32):
    """A random Qwen2 of this shape on the device."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(**shape, bos_token_id=None, eos_token_id=501, pad_token_id=502)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device():
            return Qwen2ForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def limits() -> dict[str, float]:
    """What this device does at best: bytes read and written per second by a copy, bf16 operations per second."""
    n = 1 << (28 if on_gpu() else 22)
    source = torch.empty(n, dtype=torch.uint8, device=device())
    target, m = torch.empty_like(source), 8192 if on_gpu() else 128
    a = torch.randn(m, m, device=device(), dtype=torch.bfloat16)
    for _ in range(3):
        target.copy_(source), a @ a
    return {
        "bytes/s": 2 * n / seconds(lambda: target.copy_(source), 10),
        "flop/s": 2 * m**3 / seconds(lambda: a @ a, 10),
    }


# ---------------------------------------------------------------- sections: size, folder -> figures


def world(size: dict, folder: Path) -> dict:
    """The default training: held-out accuracy must rise."""
    done = trapo("train", "--max_steps", str(size["world"]), "--output_dir", str(folder / "world"))
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    evals = lines(folder / "world" / "evals.jsonl")
    record = json.loads((folder / "world" / "run.json").read_text())
    gaps = [m["sampling/logp_difference"] for m in lines(folder / "world" / "metrics.jsonl")]
    before, after = evals[0]["reward"], [e for e in evals if e["set"] == evals[0]["set"]][-1]["reward"]
    found = {"accuracy before": before, "accuracy after": after, "sampler and update, nats": mean(gaps)}
    rises = size["world"] < 20 or after > before + 0.05  # a few steps are no training
    return found | {"ok": rises, "drawn by": record["rollout"], "device": record["device"]}


def kill(size: dict, folder: Path) -> dict:
    """A training killed behind its first checkpoint, and resumed to its end."""
    run, steps = folder / "killed", max(size["world"] // 10, 4)
    flags = ["--max_steps", str(steps), "--save_steps", "2", "--output_dir", str(run)]
    process = subprocess.Popen([*command(), "train", *flags], start_new_session=True, **quiet())
    while process.poll() is None and not list(run.glob("checkpoints/checkpoint-*/trapo.json")):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = trapo("train", *flags, "--resume")
    found = [m["step"] for m in lines(run / "metrics.jsonl")]
    return {"steps": found, "ok": done.returncode == 0 and found == list(range(1, steps + 1))}


def decode(size: dict, folder: Path) -> dict:
    """Milliseconds of a decode step, eager and by graphs, beside the least that reading weights and cache takes."""
    from trapo.rollout.engines.base import Request
    from trapo.rollout.engines.torch import TorchEngine

    model, top = new_model(size["model"], torch.bfloat16), limits()
    weights = sum(p.nbytes for p in model.parameters())
    found: dict[str, Any] = {"limits": top}
    for rows, columns in size["steps"]:
        row = {}
        for graphs in ("off", "auto"):
            engine = TorchEngine(model, [], 0, slots=rows, graphs=graphs)
            prompt = tuple(range(1, columns - 8 * engine.steps))
            for i in range(rows):
                engine.submit(Request(prompt, 6 * engine.steps, i))
            engine.poll(), engine.poll()  # prefill, graphs
            row[graphs] = seconds(engine.poll, 3) / engine.steps * 1e3
            cache = engine.bytes * columns / engine._cache.capacity
            row["path"] = engine.describe()["decoding"]
        row["limit"] = (weights + cache) / top["bytes/s"] * 1e3
        found[f"{rows} x {columns}"] = row | {"x limit": row["auto"] / row["limit"]}
    paths = {row["path"] for row in found.values() if "path" in row}
    return found | {"ok": paths == {"CUDA graphs" if on_gpu() else "eager"}}


def engines(size: dict, folder: Path) -> dict:
    """Tokens per second of given lengths: ours with graphs and without, transformers' two ways, vLLM where it is."""
    from trapo.rollout.engines.base import Request, generate
    from trapo.rollout.engines.torch import TorchEngine
    from trapo.rollout.engines.transformers import TransformersEngine

    model, n = new_model(size["model"], torch.bfloat16), size["samples"]
    rng, found = random.Random(0), {}
    prompts = [tuple(rng.randrange(5, 400) for _ in range(32)) for _ in range(n // 8)]

    def batches(lengths: list[int]) -> None:  # `generate`, to the longest of each batch
        for start in range(0, n, n // 2):
            ids = torch.tensor([prompts[i // 8] for i in range(start, start + n // 2)], device=device())
            most = max(lengths[start : start + n // 2])
            how = {"do_sample": True, "top_k": 0, "max_new_tokens": most, "min_new_tokens": most}
            with torch.no_grad():
                model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, eos_token_id=None, **how)

    makers: dict[str, Callable] = {
        "embedded": lambda: TorchEngine(model, [], 0, slots=n, hold=True),
        "embedded, eager": lambda: TorchEngine(model, [], 0, slots=n, graphs="off"),
        "transformers": lambda: TransformersEngine(model, [], 0, slots=n),
    }
    if on_gpu() and find_spec("vllm"):
        makers["vllm"] = lambda: vllm(model, n)
    for kind in ("log-normal", "uniform"):
        median, sigma, most = size[kind]
        lengths = [min(most, max(4, int(rng.lognormvariate(0, sigma) * median))) for _ in range(n)]
        todo = [Request(prompts[i // 8], length, i) for i, length in enumerate(lengths)]
        row = {}
        for name, make in makers.items():
            engine = make()
            if name == "embedded":
                generate(engine, todo)  # graphs are recorded once per run
            row[name] = sum(lengths) / seconds(lambda engine=engine, todo=todo: generate(engine, todo))
        row["generate"] = sum(lengths) / seconds(lambda lengths=lengths: batches(lengths))
        found[kind] = row | {"embedded / generate": row["embedded"] / row["generate"]}
    return found


def vllm(model, slots: int):
    """vLLM with the model's weights."""
    from trapo.rollout.engines.vllm import VLLMEngine

    engine = VLLMEngine(model, [], slots=slots, dtype=torch.bfloat16)
    engine.load(model.named_parameters())
    return engine


def exactness(size: dict, folder: Path) -> dict:
    """Samples that are others when drawn in other company, in bf16: as it comes, and with a fixed shape."""
    from trapo.rollout.engines.base import Request, generate
    from trapo.rollout.engines.torch import TorchEngine

    model, n, most = new_model(size["model"], torch.bfloat16), size["samples"] // 4, size["uniform"][2]
    todo, found = [Request(tuple(range(5 + i, 25 + i)), most, i) for i in range(n)], {}
    for name, more in (("as it comes", {}), ("fixed shape", {"length": 32 + most})):
        together = generate(TorchEngine(model, [], 0, slots=n, **more), todo)
        slots = n if more else n // 4
        apart = generate(TorchEngine(model, [], 0, slots=slots, **more), todo[::-1])[::-1]
        found[name] = sum(a.ids != b.ids for a, b in zip(together, apart, strict=True)) / n
    return found | {"ok": found["fixed shape"] == 0}


def update(size: dict, folder: Path) -> dict:
    """Tokens per second of forward and backward, ours beside TRL's, and the share of the device's bf16 operations."""
    from memory import PROMPT, batch_of, ours, trainer_of
    from trl import GRPOConfig, GRPOTrainer

    from trapo import TRAPOTrainer
    from trapo.run_config import RunConfig

    rng, top, found = random.Random(1), limits(), {}
    lengths = [min(size["longest"], max(16, int(rng.lognormvariate(0, 0.8) * size["longest"] / 4)))
               for _ in range(size["rows"])]  # fmt: skip
    for name, kind, config in (("ours", TRAPOTrainer, RunConfig), ("TRL", GRPOTrainer, GRPOConfig)):
        model = new_model(size["model"])
        fields = training_fields() | {"max_completion_length": size["longest"], "gradient_checkpointing": True}
        fields |= {"guidance": "none", "expert_weight": "none"} if name == "ours" else {}
        trainer = trainer_of(kind, config, model, str(folder / f"update-{name}"), **fields)
        wrapped = trainer.accelerator.prepare_model(trainer.model)
        trainer.model.gradient_checkpointing_enable()
        trainer.model.train()
        parts = batch_of(lengths, size["model"]["vocab_size"], 0)
        parts = [{k: v[i : i + 8] if v.dim() else v for k, v in parts.items()} for i in range(0, size["rows"], 8)]
        if name == "ours":
            parts = [ours(batch_of(lengths, size["model"]["vocab_size"], 0))]
        trainer.current_gradient_accumulation_steps = len(parts)

        def once(parts=parts, trainer=trainer, wrapped=wrapped):
            for part in parts:
                part = {k: v.to(device()) for k, v in part.items()}
                trainer.accelerator.backward(trainer.compute_loss(wrapped, part))

        once()
        tokens = sum(lengths) + PROMPT * len(lengths)
        speed = tokens / seconds(once, 2)
        share = 6 * sum(p.numel() for p in model.parameters()) * speed / top["flop/s"]
        found[name] = {"tokens/s": speed, "share of bf16 matmul": share}
        del trainer, model, wrapped, once
    return found | {"ours / TRL": found["ours"]["tokens/s"] / found["TRL"]["tokens/s"]}


def step(size: dict, folder: Path) -> dict:
    """Seconds of a whole step of 64 samples: ours, TRAPO's and TRL's with `generate`; peak memory beside the plan's."""
    from trl import GRPOConfig, GRPOTrainer

    from trapo import TRAPOTrainer
    from trapo.run_config import RunConfig

    def reward(completions, **kwargs):
        return [float(len(text) % 2) for text in completions]

    found = {}
    for name, kind, config, more in (
        ("TRL GRPO", GRPOTrainer, GRPOConfig, {}),
        ("our GRPO", TRAPOTrainer, RunConfig, {"guidance": "none", "expert_weight": "none"}),
        ("TRAPO", TRAPOTrainer, RunConfig, {}),
    ):
        fields = training_fields() | {"max_completion_length": size["completion"], "gradient_checkpointing": True}
        found[name] = steps_of(kind, config, reward, size["model"], folder / name, fields | more)
    best = found["TRL GRPO"]["s / step"]
    return found | {f"{name} / TRL": found[name]["s / step"] / best for name in ("our GRPO", "TRAPO")}


def lora(size: dict, folder: Path) -> dict:
    """A step of adapters on the larger shape: seconds, and peak memory beside the plan's."""
    from trapo import TRAPOTrainer
    from trapo.run_config import RunConfig
    from trapo.training.lora import peft_config

    def reward(completions, **kwargs):
        return [float(len(text) % 2) for text in completions]

    fields = training_fields() | {"max_completion_length": size["lora tokens"], "lora_r": 16, "learning_rate": 1e-5}
    adapters = peft_config(RunConfig(output_dir=str(folder), **fields))
    return steps_of(TRAPOTrainer, RunConfig, reward, size["lora"], folder / "lora", fields, adapters)


def steps_of(kind, config, reward, shape: dict, folder: Path, fields: dict, adapters=None) -> dict:
    """Seconds of the last of three steps of 64 samples, what drew them, and the peak of memory."""
    from datasets import Dataset
    from transformers import AutoTokenizer, PrinterCallback, TrainerCallback

    from trapo.command.memory import memory
    from trapo.training.footprint import Shape
    from trapo_toy import world

    class Clock(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            sync()
            self.began = time.perf_counter()

        def on_step_end(self, *args, **kwargs):
            sync()
            self.last = time.perf_counter() - self.began

    tokenizer, clock = AutoTokenizer.from_pretrained(world.BASE), Clock()
    tokenizer.padding_side = "left"
    rows = Dataset.from_list([{**row, "expert": row["expert"][:1]} for row in world.rows("train", 64)])
    if on_gpu():
        torch.cuda.reset_peak_memory_stats()
    args = config(output_dir=str(folder), max_steps=3, per_device_train_batch_size=64, num_generations=8, **fields)
    model = new_model(shape)
    trainer = kind(
        model, reward, args=args, train_dataset=rows, processing_class=tokenizer, callbacks=[clock],
        peft_config=adapters,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    found: dict[str, Any] = {"s / step": clock.last}
    logs = [log for log in trainer.state.log_history if "seconds/rollout" in log]
    if logs:
        found |= {"rollout s": logs[-1]["seconds/rollout"], "drawn by": trainer._engines.describe()}
        gap = "sampling/logp_difference"
        found |= {"sampler and update, nats": logs[-1][gap]} if gap in logs[-1] else {}
        peaks = memory(Shape.of(model.config), args, prompt=max(len(tokenizer(r["prompt"])["input_ids"]) for r in rows))
        found["planned GiB"] = max(peaks.peaks.values()) / 2**30
    if on_gpu():
        found["peak GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def tests(size: dict, folder: Path) -> dict:
    """The tests marked `gpu`, with the GPU."""
    kind = "cuda" if on_gpu() else "cpu"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "4", "-m", "gpu", "--device", kind],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    return {"ok": done.returncode == 0, "said": done.stdout.strip().splitlines()[-1:]}


# In the order of their worth, should the time not do for all.
SECTIONS = {f.__name__: f for f in (world, decode, engines, step, update, exactness, lora, kill, tests)}


# ---------------------------------------------------------------- helpers


def training_fields() -> dict[str, Any]:
    """What all trainers here have in common."""
    return {
        "learning_rate": 0.0, "loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.0, "save_strategy": "no",
        "use_cpu": not on_gpu(), "bf16": on_gpu(), "disable_tqdm": True, "report_to": "none", "logging_steps": 1,
    }  # fmt: skip


def command() -> list[str]:
    """The command `trapo` of this environment."""
    return [sys.executable, "-c", "from trapo_cli.cli import app; app()"]


def quiet() -> dict[str, Any]:
    """Arguments for a process of which only the files count."""
    return {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def trapo(*arguments: str) -> subprocess.CompletedProcess:
    """Run the command to its end."""
    return subprocess.run([*command(), *arguments], capture_output=True, text=True)


def lines(path: Path) -> list[dict]:
    """A JSONL file's records; [] where it is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
