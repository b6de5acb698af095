"""The model of an evaluation: where it lies, which run it came from, what ends its answers, the engine that draws."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trapo.data.tokens import CHAT_END, shorten
from trapo.records import RunRecord, read_json
from trapo.redact import redacted_values
from trapo.rollout.engines.base import Engine, Sampling

from .journal import digest, fingerprint

RUN_FIELDS = ("recipe", "model", "data", "method")  # of run.json: what a figure says of the run
# Models that the papers train, and their relatives: when their makers announced them. The first that fits counts.
RELEASED = {
    "Qwen/Qwen2.5": "2024-09",
    "Qwen/Qwen3": "2025-04",
    "meta-llama/Llama-3.1": "2024-07",
    "meta-llama/Llama-3.2": "2024-09",
    "deepseek-ai/DeepSeek-R1": "2025-01",
}
TOKENIZER_FILES = ("*.json", "*.txt", "*.model", "*.jinja")


@dataclass(frozen=True)
class Model:
    """A model that can be loaded.

    Attributes:
        name: as the user gave it.
        path: a folder or a .gguf file on this machine.
        run: of the `trapo train` run it came from: recipe, alpha, data, method settings; {} where there is none.
    """

    name: str
    path: Path
    run: dict[str, Any]

    @property
    def label(self) -> str:
        """A short name for tables and folders: the run's folder, or the model's."""
        if self.path.name == "final" and self.run:
            return self.path.parent.name
        return Path(self.name).name.removesuffix(".gguf")

    @property
    def released(self) -> str | None:
        """Year and month in which it, or the model it was trained from, came out; None where that is not known here."""
        names = (self.name, str(self.run.get("model") or ""))
        return next((date for known, date in RELEASED.items() if any(name.startswith(known) for name in names)), None)

    @property
    def alpha(self) -> float | None:
        """The alpha of its run; None for a model that has none."""
        return self.run.get("method", {}).get("alpha")


def newest_run(folder: Path) -> Path:
    """The `final` folder of the newest finished run under `folder`; ValueError if there is none."""
    finished = sorted(folder.glob("*/final/config.json"), key=lambda path: path.stat().st_mtime)
    if not finished:
        raise ValueError(f"{folder}/ holds no finished run: `trapo train` makes one, or name a model with --model")
    return finished[-1].parent


def locate(name: str, weights: bool = True, chat: bool = False) -> Model:
    """The model behind a folder, a .gguf file or a hub id, downloaded if need be; ValueError if it cannot be found.

    `weights=False` downloads the tokenizer and the configuration only, for a server that has the weights; with `chat`
    nothing is needed here, and the name may be one that only the server knows.
    """
    path = Path(name)
    if not path.exists() and not chat:
        if name.endswith(".gguf") or name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise ValueError(f"model {name} is not there: give a folder, a .gguf file, or an id of the hub")
        path = _download(name, weights)
    return Model(name, path, run_of(path))


def _download(name: str, weights: bool) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[*["*.safetensors"] * weights, *TOKENIZER_FILES]))
    except Exception as error:  # of many kinds, for a hub out of reach as for a gated model
        said = shorten(" ".join(str(error).split()), 200)
        raise ValueError(f"model {name} is no folder here, and the hub says: {said}") from error


def run_of(path: Path) -> dict[str, Any]:
    """What run.json says, for RUN/final, RUN/sft and RUN/checkpoints/checkpoint-N."""
    for folder in path.absolute().parents[:3]:
        if (folder / "run.json").is_file() and (path.name in ("final", "sft") or "checkpoint" in path.name):
            record = redacted_values(read_json(folder / "run.json", RunRecord))
            return {"folder": folder.name, "weights": path.name} | {name: record.get(name) for name in RUN_FIELDS}
    return {}


def end_tokens(path: Path, tokenizer, config, template: str) -> list[int]:
    """The tokens that end an answer: the tokenizer's, the model's, and that of the references' ChatML."""
    from transformers import GenerationConfig

    found = [tokenizer.eos_token_id, config.eos_token_id]
    if (path / "generation_config.json").is_file():
        found.append(GenerationConfig.from_pretrained(path).eos_token_id)
    if template.startswith("reference") and CHAT_END in tokenizer.get_vocab():
        found.append(tokenizer.convert_tokens_to_ids(CHAT_END))
    return sorted({i for ids in found for i in (ids if isinstance(ids, list) else [ids]) if i is not None})


def content(model: Model, eos: list[int], dtype: str, served: str | None = None) -> str:
    """A hash of what decides, besides the prompt and the sampling, which tokens a model draws.

    A server's weights cannot be seen: `served` is what it calls its model, hashed beside the weights of the folder
    where that holds any.
    """
    if served is None:
        return digest(fingerprint(model.path), eos, dtype)
    try:
        return digest(fingerprint(model.path), eos, served)
    except ValueError:  # a tokenizer only
        return digest(served, eos)


def resolve(engine: str, dtype: str, architecture: Any) -> tuple[str, str, str]:
    """Engine, dtype and device with "auto" decided: on a GPU vLLM and bfloat16, else ours and float32.

    Ours is "torch", or "transformers" where the model's configuration `architecture` has sliding windows.
    """
    import importlib.util

    import torch

    from trapo.config_checks import attention_kinds

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if engine == "auto":
        engine = "vllm" if device == "cuda" and importlib.util.find_spec("vllm") else "torch"
        if engine == "torch" and attention_kinds(architecture) != {"full_attention"}:
            engine = "transformers"
    if engine == "vllm" and importlib.util.find_spec("vllm") is None:
        raise ValueError("--engine vllm: vLLM is not installed; pip install 'trapo[vllm]', or --engine torch")
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" else "float32"
    return engine, dtype, device


def starter(
    model: Model, tokenizer, eos: list[int], *, engine: str, dtype: str, device: str, slots: int, longest: int
) -> Callable[[Sampling], Engine]:
    """A function that gives the engine for a way of sampling; the weights are loaded when it is first called.

    Args:
        model, tokenizer, eos: what draws, and what ends an answer.
        engine: "torch", "transformers" or "vllm".
        dtype, device: of the weights.
        slots: most samples drawn at once.
        longest: most tokens of a prompt and its answer.
    """
    loaded: list[Any] = []

    def load():
        import torch

        from trapo.models import load_model

        return load_model(str(model.path), dtype=getattr(torch, dtype))[0].eval()

    def embedded(how: Sampling) -> Engine:
        from trapo.rollout.engines.torch import TorchEngine
        from trapo.rollout.engines.transformers import TransformersEngine

        if not loaded:
            loaded.append(load().to(device))
        pad = eos[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        kind = TorchEngine if engine == "torch" else TransformersEngine
        return kind(loaded[0], eos, pad, sampling=how, slots=slots)

    def vllm(how: Sampling) -> Engine:
        from trapo.rollout.engines.vllm import VLLMEngine

        if not loaded:
            weights = load()  # not on the GPU, which is vLLM's
            share = {"memory_share": 0.85}
            loaded.append(VLLMEngine(weights, eos, slots=slots, dtype=weights.dtype, max_model_len=longest, **share))
            loaded[0].load(weights.named_parameters())
            loaded[0].check(weights)
        loaded[0].sampling = how
        return loaded[0]

    return vllm if engine == "vllm" else embedded
