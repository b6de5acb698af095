"""`python -m trapo_toy.world.make --seed S --out DIR`: a base model from scratch, in minutes on one core."""

import argparse
import hashlib
import json
import time
from dataclasses import asdict, fields
from importlib import resources
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from trapo.grading.grader import boxed_answer
from trapo.rollout.engines.base import Request, generate
from trapo.rollout.engines.torch import TorchEngine

from .base import Making, make_base
from .rows import probes, rows
from .tokenizer import make_tokenizer

_CODE = ("task.py", "tokenizer.py", "base.py")  # what the made weights depend on


def measure(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    questions: list[dict],
    samples: int = 8,
    max_tokens: int = 160,
    seed: int = 0,
) -> dict[str, float]:
    """Accuracy at temperature 1: `pass@1`, the mean over all samples, and `pass@{samples}`, any of a row's samples."""
    engine = TorchEngine(model, [tokenizer.eos_token_id], tokenizer.pad_token_id, slots=128)
    prompts = tokenizer([row["prompt"] for row in questions])["input_ids"]
    requests = [
        Request(tuple(ids), max_tokens, seed=(seed << 40) + i * samples + j)
        for i, ids in enumerate(prompts)
        for j in range(samples)
    ]
    texts = tokenizer.batch_decode([s.ids for s in generate(engine, requests)], skip_special_tokens=True)
    right = torch.tensor(
        [
            [(boxed_answer(texts[i * samples + j]) or "").strip() == row["answer"] for j in range(samples)]
            for i, row in enumerate(questions)
        ]
    ).float()
    return {"pass@1": right.mean().item(), f"pass@{samples}": right.amax(1).mean().item()}


def accuracy(model: LlamaForCausalLM, making: Making, n: int = 200) -> dict[str, float]:
    """What `made.json` says of a base: problems of the split "tune" and both probes."""
    tokenizer = make_tokenizer()
    found = measure(model, tokenizer, rows("tune", n, modulus=making.modulus))
    for name in ("direct", "facts"):
        found[name] = measure(model, tokenizer, probes(name, n, modulus=making.modulus), samples=1)["pass@1"]
    return {name: round(value, 4) for name, value in found.items()}


def code_hash() -> str:
    """SHA-256 of the source that a base is made by, line ends aside."""
    digest = hashlib.sha256()
    for name in _CODE:
        text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
        digest.update(f"{name}\n{text}\n".encode())
    return digest.hexdigest()


def weights_hash(folder: Path) -> str:
    """SHA-256 of the folder's model.safetensors."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def save_base(model: LlamaForCausalLM, making: Making, folder: Path, code: str, measured: dict[str, float]) -> None:
    """Leave model, tokenizer and made.json in `folder`: what `AutoModelForCausalLM` and `AutoTokenizer` load.

    `code` is `code_hash()` from before the making: the source may have changed meanwhile.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    made = {
        "making": asdict(making),
        "code_sha256": code,
        "weights_sha256": weights_hash(folder),
        "parameters": model.num_parameters(),
        "tune_accuracy": measured,
        "torch": torch.__version__,
    }
    (folder / "made.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Make, measure, save, and say where."""
    parser = argparse.ArgumentParser(prog="python -m trapo_toy.world.make", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for model, tokenizer and made.json")
    for field in fields(Making):
        parser.add_argument(f"--{field.name}", type=field.type, default=field.default, help="[%(default)s] see Making")
    options = vars(parser.parse_args())
    folder, making = options.pop("out"), Making(**options)
    torch.set_num_threads(1)  # fastest for so small a model, and the sums then have one order
    code, started = code_hash(), time.perf_counter()
    model = make_base(making, print)
    trained = time.perf_counter()
    measured = accuracy(model, making)
    save_base(model, making, folder, code, measured)
    figures = ", ".join(f"{name} {value:.3f}" for name, value in measured.items())
    print(f"{model.num_parameters()} parameters; tune split and probes: {figures}")
    print(f"made in {trained - started:.0f} s, measured in {time.perf_counter() - trained:.0f} s: {folder}")


if __name__ == "__main__":
    main()
