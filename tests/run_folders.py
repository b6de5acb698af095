"""Run folders made by hand."""

import json
import math

from trapo.runs.checkpoints import seal

EVIL = "<script>window.evil = 1</script><img src=x onerror='window.evil = 2'>"


def make_run(path, recipe="trapo", alpha=0.1, seed=0, reward=0.5, n=4, finished=True, **config):
    """A run folder of n steps; its last held-out accuracy is `reward`, of 100 problems."""
    path.mkdir(parents=True)
    fields = {"output_dir": str(path), "seed": seed, "alpha": alpha, "learning_rate": 1e-4, "max_steps": n} | config
    record = {"recipe": recipe, "model": "world", "data": "world", "method": {"alpha": alpha}, "config": fields}
    (path / "run.json").write_text(json.dumps(record | {"command": ["trapo", "train"], "versions": {"torch": "2"}}))
    metrics = [
        {"stage": "rl", "step": i, "reward/plain": i / 10, "reward/guided": 0.5, "entropy": math.log(2),
         "expert/p": 0.25,
         "length/own": 10.0, "guided/micro_group_1": 1.0, "tokens/rollout": 100.0, "tokens/aborted": 1.0,
         "tokens/expert": 20.0, "tokens/update": 150.0, "seconds/step": 2.0, "seconds/rollout": 1.0,
         "seen/samples": 56 * i, "seen/demonstrations": 8 * i}
        for i in range(1, n + 1)
    ]  # fmt: skip
    write(path / "metrics.jsonl", metrics)
    evals = [(0, "test", 0.1), (0, "facts", 0.9), (n, "test", reward), (n, "facts", 0.8)]
    write(
        path / "evals.jsonl", [{"stage": "rl", "step": s, "set": k, "reward": r, "samples": 100} for s, k, r in evals]
    )
    rollouts = [
        {"stage": "rl", "step": i, "prompt_id": f"p{i % 2}", "sample": k, "micro_group": k // 4,
         "prefix_ratio": 0.5 * (k > 3),
         "reward": float(k % 2), "advantage": 0.5, "status": ["wrong", "correct"][k % 2],
         "finish": "length" if k == 0 else "stop", "prompt": f"What is {i % 2}? {EVIL}", "prefix": "", "own": EVIL,
         "prefix_ids": [1, 2] if k > 3 else [], "own_ids": [3, 4, 5], "own_logprobs": [0.0, math.log(0.55), -9.0]}
        for i in range(1, n + 1) for k in range(8)
    ]  # fmt: skip
    write(path / "rollouts.jsonl", rollouts)
    prefixes = [
        {
            "stage": "rl",
            "step": i,
            "rollout": i,
            "prompt_id": f"p{i % 2}",
            "sample": 4,
            "p": [0.05, 1.0],
            "w": [0.5, 1.0],
        }
        for i in range(1, n + 1)
    ]
    write(path / "prefixes.jsonl", prefixes)
    if finished:
        (path / "final").mkdir()
    return path


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def make_checkpoint(folder, step, stage="rl", complete=True):
    """A checkpoint with every file that a resumed run needs, each of its own content."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        (path / name).write_text(f"{name} at {step}")
    if complete:
        seal(path, {"stage": stage, "step": step, "samples": 8 * step, "shown": []})
    return path
