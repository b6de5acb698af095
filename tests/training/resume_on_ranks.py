"""The script of `test_epochs.py`: `torchrun resume_on_ranks.py FOLDER` trains, and resumes copies of the run."""

import shutil
import sys
from pathlib import Path

import conftest
from accelerate import PartialState
from datasets import Dataset

from trapo.command import job as launch
from trapo.command import stages

FLAGS = {
    "sft_max_steps": 6,
    "sft_batch_size": 4,
    "sft_learning_rate": 1e-2,
    "max_steps": 8,
    "save_steps": 1,
    "per_device_train_batch_size": 8,
    "max_completion_length": 12,
    "learning_rate": 1e-3,
    "entropy_coef": 0.05,  # the tiny model earns no reward, and RL must have a gradient
    "use_cpu": "true",
}


def train(folder, name, resume=False):
    flags = [str(part) for name, value in FLAGS.items() for part in (f"--{name}", value)]
    config = launch.resolve_config("sft-then-rl", [], None, [*flags, "--output_dir", str(folder / name)])
    rows = Dataset.from_list(conftest.ROWS[:6])
    job = launch.Job("sft-then-rl", "model", "rows", str(folder / "model"), rows)
    stages.train(job, config, resume=resume)


def as_killed_in_sft(run):
    """Leave what there was when the sixth step of SFT had been taken and not been saved."""
    shutil.rmtree(run / "sft")
    shutil.rmtree(run / "checkpoints" / "sft" / "checkpoint-6")
    for path in run.glob("checkpoints/checkpoint-*"):
        shutil.rmtree(path)
    for log in run.glob("*.jsonl"):
        log.write_text("".join(x for x in log.read_text().splitlines(True) if '"stage": "rl"' not in x))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    train(folder, "whole")
    state = PartialState()
    if state.is_main_process:
        for name in ("sft", "rl"):
            shutil.copytree(folder / "whole", folder / name)
            shutil.rmtree(folder / name / "final")
        shutil.rmtree(folder / "rl" / "checkpoints" / "checkpoint-8")
        as_killed_in_sft(folder / "sft")
    state.wait_for_everyone()
    for name in ("sft", "rl"):
        train(folder, name, resume=True)
