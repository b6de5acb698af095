"""Tokenizer and model from a folder, a hub id, or a .gguf file, with errors of one line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


def _locate(path: str, trust_remote_code: bool) -> tuple[str, dict[str, Any]]:
    """What transformers' `from_pretrained` needs for a folder, a hub id, or a .gguf file."""
    extra = {"trust_remote_code": trust_remote_code}
    if path.endswith(".gguf"):
        if not Path(path).is_file():
            raise ValueError(f"model file {path} is not there")
        path, extra["gguf_file"] = os.path.split(os.path.abspath(path))
    return path, extra


@contextmanager
def _loading(path: str) -> Iterator[None]:
    """A damaged model raises whatever the library stumbles over: say whose fault it is."""
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
        raise ValueError(f"model {path} cannot be loaded: {kind}{' '.join(str(error).split())}") from error


def context_of(architecture) -> int | None:
    """Most tokens that a model of this transformers configuration takes; None where it does not say.

    Raises:
        ValueError: it says what is no number.
    """
    found = getattr(architecture.get_text_config(), "max_position_embeddings", None)
    if found is not None and (isinstance(found, bool) or not isinstance(found, int) or found < 1):
        raise ValueError(f"the model's config.json has max_position_embeddings {found!r}: it must be a whole number")
    return found


def load_tokenizer(path: str, trust_remote_code: bool = False):
    """Tokenizer and configuration of a model, without its weights."""
    path, extra = _locate(path, trust_remote_code)
    with _loading(path):
        tokenizer = AutoTokenizer.from_pretrained(path, **extra)
        config = AutoConfig.from_pretrained(path, **extra)
    if "gguf_file" in extra and config.eos_token_id is not None:
        # The tokenizer may come out with a wrong EOS (SmolLM2's <|im_start|>); the model's is the file's.
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(config.eos_token_id)
    return tokenizer, config


def load_model(path: str, trust_remote_code: bool = False, dtype: torch.dtype = torch.float32):
    """Model and tokenizer from a folder, a hub id, or a .gguf file."""
    tokenizer, _ = load_tokenizer(path, trust_remote_code)
    path, extra = _locate(path, trust_remote_code)
    with _loading(path):
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **extra)
    if "gguf_file" in extra:
        # The weights are plain numbers by now, but transformers still calls the model quantized and would not train it.
        model.is_quantized, model.hf_quantizer = False, None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
    return model, tokenizer
