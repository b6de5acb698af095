"""Trainings through the command's own function on as many processes as torchrun starts: on_ranks.py KIND RUNS.json.

KIND is ddp, fsdp2, zero2 or zero3, on CPU processes over gloo; `run` starts it. RUNS.json is a list of runs, done one
after the other in the same processes, because starting them takes longer than they do.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve()
# What `accelerate launch` puts into the environment for configs/accelerate/*.yaml; FSDP's: fsdp_on_cpu.py.
ENVIRONMENT = {
    "ddp": {"ACCELERATE_USE_CPU": "true"},
    "fsdp2": {"ACCELERATE_USE_CPU": "true"},
    "zero2": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
    "zero3": {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
        "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
        "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
    },
}
BATCH = 32  # samples of a step, on all ranks
FIELDS = {
    "stages": ["sft", "rl"], "max_steps": 2, "learning_rate": 1e-3, "max_completion_length": 30, "save_steps": 1,
    "num_generations_eval": 2, "per_device_eval_batch_size": 8, "eval_strategy": "steps", "eval_steps": 1,
    "sft_max_steps": 2, "sft_batch_size": 4, "sft_learning_rate": 1e-3, "seed": 7, "update_tokens": 200,
}  # fmt: skip


def run(kind, ranks, runs, scratch):
    """Do `runs`: of each `folder`, `recipe`, `fields`; or the rest of a `copy` of a run, of which `drop` is missing."""
    plan = scratch / f"{kind}-{ranks}.json"
    plan.write_text(json.dumps(runs, default=str))
    start = ["-m", "torch.distributed.run", "--nproc_per_node", str(ranks), "--rdzv_backend", "c10d"]
    start += ["--rdzv_endpoint", "localhost:0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    path = os.pathsep.join(map(str, (HERE.parent, HERE.parents[1])))
    done = subprocess.run(
        [sys.executable, *(start if ranks > 1 else ()), str(HERE), kind, str(plan)],
        env=environment | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-20000:]
    return done.stdout


def job_and_config(kind, run, ranks):
    import conftest
    from datasets import Dataset

    from trapo.command import job

    fields = FIELDS | {"output_dir": run["folder"], "per_device_train_batch_size": BATCH // ranks}
    if kind.startswith("zero"):
        fields["ddp_backend"] = "gloo"  # without it DeepSpeed's processes on a CPU do not find each other
    flags = []
    for name, value in (fields | run.get("fields", {})).items():
        flags += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    recipe = run.get("recipe", "trapo")
    config = job.resolve_config(recipe, [], None, flags)
    rows = Dataset.from_list(conftest.ROWS)
    held_out = {"held_out": rows.select(range(11))}  # no number of ranks divides it
    return job.Job(recipe, "model", "rows", run["model"], rows, held_out), config


def main(kind, plan):
    os.environ.update(ENVIRONMENT[kind])
    if kind == "fsdp2":
        import fsdp_on_cpu

        os.environ.update(fsdp_on_cpu.environment())
        fsdp_on_cpu.patch()
    import torch

    from trapo.command import stages

    rank, ranks = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    for run in json.loads(Path(plan).read_text()):
        if rank == 0 and "copy" in run:
            shutil.copytree(run["copy"], run["folder"])
            for name in run["drop"]:
                shutil.rmtree(Path(run["folder"]) / name)
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        job, config = job_and_config(kind, run, ranks)
        stages.train(job, config, resume="copy" in run)


if __name__ == "__main__":
    main(*sys.argv[1:])
