"""Small real things for tests: a byte tokenizer, a tiny Qwen2, rows with experts; the device, and the precision.

Tests run on the CPU, also where there is a GPU, because many hold bits that are the CPU's. `--device cuda` lets those
marked `gpu` have it; they run on the CPU too.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

# What the fixture `precision` says of a run's device and precision; tests' own settings stand on top of it.
SETTINGS = {"use_cpu": True, "bf16": False}

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


def pytest_addoption(parser):
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="what the tests marked gpu run on")


def pytest_configure(config):
    if config.getoption("--device") == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def device(request):
    """The torch.device of a test that may run on a GPU."""
    import torch

    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def precision(request, device):
    """Every test that uses it runs in float32, and under bf16 autocast over float32 weights: a GPU's default."""
    before = SETTINGS.copy()
    SETTINGS.update(use_cpu=device.type == "cpu", bf16=request.param == "bf16")
    yield request.param
    SETTINGS.update(before)


@pytest.fixture(params=["fp32", "bf16"])
def autocast(request, device):
    """The engine as the trainer runs it, in either precision."""
    import torch

    with torch.autocast(device.type, torch.bfloat16, enabled=request.param == "bf16"):
        yield request.param


@pytest.fixture(scope="session")
def tokenizer():
    return new_tokenizer()


@pytest.fixture(scope="session")
def make_model():
    return new_model


@pytest.fixture(scope="session")
def rows():
    return ROWS


@pytest.fixture
def serve():
    """Starts servers as `fake_server.Server` takes its arguments, and ends them."""
    from fake_server import Server

    servers = []

    def start(*args, **kwargs):
        servers.append(Server(*args, **kwargs))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
