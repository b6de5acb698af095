"""A whole training step, TRL's GRPOTrainer beside ours: plain GRPO and TRAPO.

    python benchmarks/step.py --model DIR [--prompts 8] [--steps 4] [--repetitions 5]
    python benchmarks/step.py --model FILE.gguf --data word-problems --prompts 2 --steps 1 --repetitions 3

Same model (a trained one: `trapo train` leaves it in RUN/final), prompts, group size, reward, loss, fp32, threads. The
learning rate is 0, so that every step samples the same policy; samples differ, because TRL has no seed per sample. TRL
runs with whole and with split batches, its better one is the peer. A repetition trains all of them for `--steps` steps
after one that is not counted; figures are medians over repetitions of a repetition's median step.
"""

import argparse
import tempfile
import time
import warnings
from statistics import mean, median

import torch
from datasets import Dataset
from sidebyside import compare, parser, write
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from trapo import TRAPOConfig, TRAPOTrainer
from trapo.grading.grader import Grader
from trapo.models import load_model
from trapo_toy import word_problems, world


class Watch(TrainerCallback):
    """Seconds of each step."""

    def __init__(self):
        self.steps: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append(time.perf_counter() - self.began)


def fields(options: argparse.Namespace, folder: str, accumulation: int) -> dict:
    """What both trainers are given."""
    return {
        "output_dir": folder,
        "max_steps": options.steps + 1,
        "per_device_train_batch_size": options.prompts * 8 // accumulation,
        "gradient_accumulation_steps": accumulation,
        "num_generations": 8,
        "max_completion_length": 136 if options.data == "world" else 192,
        "learning_rate": 0.0,
        "loss_type": "dr_grpo",
        "scale_rewards": "none",
        "beta": 0.0,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": torch.cuda.is_available(),
        "disable_tqdm": True,
        "report_to": "none",
        "logging_steps": 1,
    }


def main() -> None:
    """Measure, print, write."""
    arguments = parser(__doc__, "step", 5)
    arguments.add_argument("--model", required=True)
    arguments.add_argument("--data", choices=("world", "word-problems"), default="world")
    arguments.add_argument("--prompts", type=int, default=8)
    arguments.add_argument("--steps", type=int, default=4)
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    found = world.rows("train", 512) if options.data == "world" else word_problems.rows(64, 1)
    rows = Dataset.from_list([{**row, "expert": row["expert"][:1]} for row in found])

    ours = {"update_tokens": 2048, "rollout_slots": options.prompts * 8}

    def candidate(trl: bool, accumulation: int = 1, **more):
        def run(repetition):
            model, tokenizer = load_model(options.model)
            tokenizer.padding_side = "left"
            with tempfile.TemporaryDirectory() as folder:
                shared = fields(options, folder, accumulation) | {"seed": repetition}
                watch = Watch()
                data = {"train_dataset": rows, "processing_class": tokenizer, "callbacks": [watch]}
                if trl:
                    grader = Grader()
                    trainer = GRPOTrainer(model, grader, GRPOConfig(**shared), **data)
                else:
                    trainer = TRAPOTrainer(model, args=TRAPOConfig(**shared, **ours, **more), **data)
                    grader = trainer.grader
                trainer.remove_callback(PrinterCallback)
                trainer.train()
                grader.close()
            logs = [log for log in trainer.state.log_history if "loss" in log][1:]
            tokens = mean(log["completions/mean_length"] for log in logs) * options.prompts * 8
            return {"s / step": median(watch.steps[1:]), "completion tokens / step": tokens}

        return run

    candidates = {
        "TRL GRPO": candidate(True),
        "TRL GRPO, 4 micro-batches": candidate(True, 4),
        "our GRPO": candidate(False, guidance="none"),
        "TRAPO": candidate(False),
    }
    part = compare(
        f"{options.prompts} prompts x 8, {options.model}", candidates, options.repetitions, ratios=("s / step",)
    )
    medians = {name: figures["s / step"] for name, figures in part["medians"].items()}
    best = min(seconds for name, seconds in medians.items() if name.startswith("TRL"))
    part["to the better of TRL's"] = {n: round(medians[n] / best, 3) for n in ("our GRPO", "TRAPO")}
    print("to the better of TRL's:", part["to the better of TRL's"])
    write(options.out, [part])


if __name__ == "__main__":
    main()
