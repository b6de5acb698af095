"""Peak tensor memory of the update, ours beside TRL's: the same rows, losses and gradients.

    python benchmarks/memory.py [--repetitions 1]

Tensors beyond weights and gradients, in MiB, and seconds of forward and backward. A model of 4 layers, 256 wide, with
SmolLM2's vocabulary; 16 rows of log-normal lengths, of which 5 have no gradient (their group's rewards are all the
same). TRL splits them into 1, 4 or 16 micro-batches, ours by `update_tokens`. Then one row of 8,192 tokens and a
vocabulary of 151,936, whose logits alone would be 4.6 GiB.
"""

import math
import random
import tempfile
import warnings

import torch
from datasets import Dataset
from sidebyside import compare, parser, timed, write
from tensors import PeakBytes
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer
from trl.kernels import chunked_logprob

from trapo import TRAPOTrainer
from trapo.run_config import RunConfig
from trapo.training.micro_batches import fit_tiles

ROWS, PROMPT, IDLE = 16, 40, 5
MIB = 2**20
TRL_TILE = chunked_logprob.TOKEN_CHUNK_SIZE


def model_of(vocabulary: int, layers: int = 4, width: int = 256) -> LlamaForCausalLM:
    """A random Llama; memory does not depend on the weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16384,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).train()


def batch_of(lengths: list[int], vocabulary: int, idle: int) -> dict[str, torch.Tensor]:
    """A micro-batch as TRL lays it out; the first `idle` rows have no advantage."""
    generator = torch.Generator().manual_seed(0)
    n, width = len(lengths), max(lengths)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    advantages = torch.linspace(-1, 1, n)
    advantages[:idle] = 0
    return {
        "prompt_ids": torch.randint(0, vocabulary, (n, PROMPT), generator=generator),
        "prompt_mask": torch.ones(n, PROMPT, dtype=torch.long),
        "completion_ids": torch.randint(0, vocabulary, (n, width), generator=generator),
        "completion_mask": mask,
        "tool_mask": torch.ones_like(mask),
        "advantages": advantages,
        "num_items_in_batch": mask.sum(),
    }


def trainer_of(kind, config, model, folder: str, **fields):
    """A trainer to whose loss batches are handed directly."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "<eos>": 1}, unk_token="a")),
        eos_token="<eos>",
        pad_token="<eos>",
    )
    shared = {
        "output_dir": folder, "max_completion_length": 8192, "loss_type": "dr_grpo", "scale_rewards": "none",
        "beta": 0.0, "num_generations": 8, "per_device_train_batch_size": 16, "gradient_checkpointing": False,
        "use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    rows = Dataset.from_list([{"prompt": "a", "answer": "1"}] * 16)
    reward = lambda completions, **_: [0.0] * len(completions)  # noqa: E731
    return kind(model, reward, args=config(**shared | fields), train_dataset=rows, processing_class=tokenizer)


def measured(trainer, model, micro_batches: list[dict], gradients: dict) -> dict[str, float]:
    """Forward and backward of all micro-batches."""
    trainer.current_gradient_accumulation_steps = len(micro_batches)
    model.zero_grad()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # there in any case: not what is compared

    def update():
        with PeakBytes() as memory:
            for inputs in micro_batches:
                trainer.accelerator.backward(trainer.compute_loss(model, dict(inputs)))
        return {"peak MiB": memory.peak / MIB}

    figures = timed(update)
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    reference = gradients.setdefault("gradient", gradient)
    return figures | {"gradient differs by": ((gradient - reference).abs().max() / reference.abs().max()).item()}


def ours(inputs: dict) -> dict:
    """The fields that our trainer adds to a batch."""
    own = inputs["completion_mask"]
    return inputs | {
        "expert_mask": torch.zeros_like(own),
        "completion_lengths": own.sum(1),
        "idle": inputs["advantages"] == 0,
        "entropy_items": own.sum(),
        "sampling_per_token_logps": torch.zeros(own.shape),
    }


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, "memory", 1).parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rng = random.Random(1)
    lengths = [min(400, int(rng.lognormvariate(math.log(80), 0.8))) for _ in range(ROWS)]
    parts, gradients = [], {}
    with tempfile.TemporaryDirectory() as folder:
        model = model_of(49152)
        whole = batch_of(lengths, 49152, IDLE)

        def trl(k):
            trainer = trainer_of(GRPOTrainer, GRPOConfig, model, folder)
            split = [{n: v[i::k] if v.dim() else v for n, v in whole.items()} for i in range(k)]

            def run(repetition):
                chunked_logprob.TOKEN_CHUNK_SIZE = TRL_TILE  # as it comes: ours sets its own for the process
                return measured(trainer, model, split, gradients)

            return run

        def trapo(budget):
            trainer = trainer_of(
                TRAPOTrainer, RunConfig, model, f"{folder}/{budget}", guidance="none", update_tokens=budget
            )

            def run(repetition):
                fit_tiles(model.device)
                return measured(trainer, model, [ours(whole)], gradients)

            return run

        candidates = {f"TRL, {k} micro-batches": trl(k) for k in (1, 4, 16)}
        candidates |= {f"ours, update_tokens {b}": trapo(b) for b in (16384, 4096, 1024)}
        title = f"{ROWS} rows of {min(lengths)} to {max(lengths)} tokens, {IDLE} without gradient"
        parts.append(
            compare(
                title,
                candidates,
                options.repetitions,
                ratios=("peak MiB", "wall s"),
                warm=False,
                settings={"lengths": lengths},
            )
        )

        model, gradients = model_of(151936, layers=1, width=64), {}
        long = batch_of([8192 - PROMPT], 151936, 0) | {"advantages": torch.ones(1)}
        trainer = trainer_of(TRAPOTrainer, RunConfig, model, f"{folder}/long", guidance="none")
        title = f"one row of 8,192 tokens x 151,936 (logits: {8192 * 151936 * 4 / MIB:.0f} MiB)"
        run = {"ours": lambda repetition: measured(trainer, model, [ours(long)], gradients)}
        parts.append(compare(title, run, 1, ratios=(), warm=False))
    write(options.out, parts)


if __name__ == "__main__":
    main()
