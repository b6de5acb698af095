"""One step of everything that a training does, with a configuration's own model, device, precision, engine and method.

`trapo doctor` believes no setting that has not been through it: held-out evaluation, rollout, update, checkpoint, the
SFT stage where there is one, and the final save, at a size of seconds.
"""

import copy
import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import Dataset
from rich.console import Console

from ..config import TRAPOConfig

TOKENS = 16  # most of a completion
ROW = {"prompt": "1 + 1 =", "answer": "2", "expert": ["1 + 1 = \\boxed{2}"]}


def trial_run(config: TRAPOConfig, model_path: str) -> dict[str, Any]:
    """Train one step per stage in a folder that is deleted afterwards.

    Args:
        config: of the training; left as it is.
        model_path: as for `load_model`.

    Returns:
        seconds: wall time; device: what trained; difference: mean gap, in nats, between the engine's log-probabilities
        of its own tokens and the update's, None without an RL stage.

    Raises:
        whatever the training would raise.
    """
    from . import stages  # TRL and accelerate, whose import takes seconds
    from .job import Job

    rows = [{"id": str(i), **ROW} for i in range(config.world_size)]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        tiny = _tiny(config, Path(folder) / "run")
        job = Job("doctor", model_path, "one question", model_path, Dataset.from_list(rows))
        job.held_out["held_out"] = Dataset.from_list(rows)
        started = time.perf_counter()
        done = stages.train(job, tiny, console=Console(quiet=True))
        seconds = time.perf_counter() - started
        metrics = done.records("metrics.jsonl") if config.process_index == 0 else []
    differences = [m["sampling/logp_difference"] for m in metrics if "sampling/logp_difference" in m]
    return {"seconds": seconds, "device": str(config.device), "difference": differences[-1] if differences else None}


def _tiny(config: TRAPOConfig, output: Path) -> TRAPOConfig:
    """The configuration with one prompt per process, one step per stage, and everything evaluated and saved."""
    tiny, ranks = copy.copy(config), config.world_size
    group = config.num_generations
    small = {
        "output_dir": str(output), "max_steps": 1, "sft_max_steps": 1, "sft_batch_size": ranks,
        "max_completion_length": min(config.max_completion_length, TOKENS), "per_device_train_batch_size": group,
        "gradient_accumulation_steps": 1, "steps_per_generation": 1, "generation_batch_size": group * ranks,
        "per_device_eval_batch_size": 1, "num_generations_eval": 1, "eval_strategy": "steps", "eval_steps": 1,
        "save_strategy": "steps", "save_steps": 1, "logging_steps": 1, "report_to": [], "run_name": None,
        "push_to_hub": False, "load_best_model_at_end": False, "disable_tqdm": True, "grader_workers": 1,
        # A group of equal rewards has no gradient, and its rows would be left out of the update.
        "entropy_coef": config.entropy_coef or 1e-6,
    }  # fmt: skip
    for name, value in small.items():
        setattr(tiny, name, value)
    return tiny


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that a training of this size, and not the user's, deserves."""
    logger = logging.getLogger("trapo")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
