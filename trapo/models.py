"""Tokenizer and model from a folder, a hub id, or a .gguf file, with errors of one line."""

import os
from collections.abc import Collection, Iterator
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
        if not isinstance(tokenizer.model_max_length, int | float):
            raise ValueError(f"its tokenizer's model_max_length is {tokenizer.model_max_length!r}, not a number")
    if "gguf_file" in extra and config.eos_token_id is not None:
        # The tokenizer may come out with a wrong EOS (SmolLM2's <|im_start|>); the model's is the file's.
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(config.eos_token_id)
    return tokenizer, config


def load_model(path: str, trust_remote_code: bool = False, dtype: torch.dtype = torch.float32):
    """Model and tokenizer from a folder, a hub id, or a .gguf file."""
    tokenizer, _ = load_tokenizer(path, trust_remote_code)
    path, extra = _locate(path, trust_remote_code)
    with _loading(path):
        model, found = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, output_loading_info=True, **extra)
    check_weights(model, found["missing_keys"], path)
    if "gguf_file" in extra:
        # The weights are plain numbers by now, but transformers still calls the model quantized and would not train it.
        model.is_quantized, model.hf_quantizer = False, None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
    return model, tokenizer


def check_weights(model: torch.nn.Module, missing: Collection[str], path: str) -> None:
    """Every weight of a model was in its files, and is a number.

    Raises:
        ValueError: naming the first that was not: transformers would put random numbers there.
    """
    if missing:
        names = ", ".join(sorted(missing)[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise ValueError(f"model {path} has no weights for {names}: its files are not all there")
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise ValueError(f"model {path} has NaN or infinite weights, the first in {name}: it cannot be used")


def check_vocabulary(tokenizer, config) -> None:
    """The tokenizer ends samples, and has no token without a row in the model's embedding.

    Raises:
        ValueError: naming what is missing.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no EOS token, so no sample could end: set tokenizer.eos_token")
    rows = getattr(config.get_text_config(), "vocab_size", None)
    beyond = {token: i for token, i in tokenizer.get_vocab().items() if rows is not None and i >= rows}
    # A special token that nothing writes does no harm: Qwen's tokenizers bring one whatever the model has.
    used = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id)
    idle = {i for i, t in getattr(tokenizer, "added_tokens_decoder", {}).items() if t.special and i not in used}
    template = str(tokenizer.chat_template or "")
    beyond = {token: i for token, i in beyond.items() if i not in idle or token in template}
    if beyond:
        names = ", ".join(repr(token) for token in sorted(beyond, key=beyond.__getitem__)[:3])
        raise ValueError(
            f"the tokenizer has {len(beyond)} tokens that the model has no row for ({names}; it has {rows} rows): "
            "take the model's own tokenizer, or resize its embedding (model.resize_token_embeddings)"
        )
