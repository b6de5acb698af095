"""Small real things for tests: a byte tokenizer, a tiny Qwen2, rows with experts."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

ROWS = [
    {"id": f"p{i}", "prompt": f"{i}+{i}=", "answer": str(2 * i), "expert": [f"so \n\n it is \\boxed{{{2 * i}}}"]}
    for i in range(16)
]


def new_tokenizer():
    """Bytes, one token each, with <eos> 256 and <pad> 257."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", pad_token="<pad>")


def new_model(seed: int = 0, **changes):
    """The same tiny Qwen2 again and again."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        **{
            "vocab_size": 258,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "bos_token_id": None,
            "eos_token_id": 256,
            "pad_token_id": 257,
            "initializer_range": 0.2,
        }
        | changes
    )
    return Qwen2ForCausalLM(config).eval()


@pytest.fixture(scope="session")
def tokenizer():
    return new_tokenizer()


@pytest.fixture(scope="session")
def make_model():
    return new_model


@pytest.fixture(scope="session")
def rows():
    return ROWS
