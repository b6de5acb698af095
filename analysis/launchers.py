"""Where the points of a sweep run: in processes of this machine, or as Ray tasks. One code path otherwise.

A launcher is given each point's work (what `trapo_analysis.sweep_worker` is told) by name, and the environment of each
of the processes that run at a time; it yields what happens.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

REFRESH = 1.0  # seconds
POINT = [sys.executable, "-P", "-m", "trapo_analysis.sweep_worker"]
Event = tuple[str, str, str | None]  # a point's name, "start" | "end" | "tick", its error


class _Worker:
    """A process of this machine that runs points one after the other."""

    def __init__(self, environment: dict[str, str]):
        self.environment = os.environ | environment
        self.process: subprocess.Popen | None = None

    def run(self, work: dict[str, Any]) -> str | None:
        """Run a point; its error, None for none."""
        if self.process is None:
            self.process = subprocess.Popen(
                POINT, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                start_new_session=True,
            )  # fmt: skip
        line = ""
        try:
            self.process.stdin.write(json.dumps(work) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
            code, said = json.loads(line)
        except (OSError, ValueError, TypeError):  # it is gone, or says what is no answer; the next point gets another
            if line:
                self.end()  # it is there still, and would wait for the next point
            code, said = self.process.wait(), f"its process printed {line.strip()!r}, no answer" if line else ""
            self.process = None
        return outcome(code, said)

    def end(self) -> None:
        """End the process, and the point that it may be at with all that this started."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, 9)
            self.process.wait()


def local(work: dict[str, dict[str, Any]], slots: list[dict[str, str]]) -> Iterator[Event]:
    """Run points in processes of this machine, one per slot (each an environment)."""
    workers = [_Worker(slot) for slot in slots]
    free = list(workers)

    def one(work: dict[str, Any]) -> str | None:
        worker = free.pop()
        try:
            return worker.run(work)
        finally:
            free.append(worker)

    pool = ThreadPoolExecutor(len(slots))
    try:
        yield from _events(work, lambda point: pool.submit(one, point), len(slots))
    finally:
        for worker in workers:
            worker.end()
        pool.shutdown(cancel_futures=True)


def _events(work: dict[str, dict[str, Any]], submit: Callable, slots: int) -> Iterator[Event]:
    """Submit as many as there are slots, then one more for each that ends."""
    waiting, running = list(work), {}
    while waiting or running:
        while waiting and len(running) < slots:
            name = waiting.pop(0)
            running[submit(work[name])] = name
            yield name, "start", None
        done, _ = wait(running, timeout=REFRESH, return_when=FIRST_COMPLETED)
        for future in done:
            yield running.pop(future), "end", future.result()
        yield "", "tick", None


def on_ray(work: dict[str, dict[str, Any]], slots: list[dict[str, str]]) -> Iterator[Event]:
    """Run points as Ray tasks, on the cluster that RAY_ADDRESS names or a local one; folders must be shared."""
    try:
        import ray
    except ImportError:
        raise ValueError(
            "--launcher ray: Ray is not installed; pip install 'trapo[ray]', or --launcher local"
        ) from None
    ray.init(
        ignore_reinit_error=True, log_to_driver=False, num_cpus=None if os.environ.get("RAY_ADDRESS") else len(slots)
    )
    gpus = 1 if ray.cluster_resources().get("GPU") else 0

    @ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)
    def one(work: dict[str, Any], environment: dict[str, str]) -> str | None:
        done = subprocess.run(
            [*POINT, json.dumps(work)], env=os.environ | environment, stdout=subprocess.PIPE, text=True
        )
        return outcome(done.returncode, done.stdout)

    threads = {"OMP_NUM_THREADS": slots[0]["OMP_NUM_THREADS"]}
    try:
        yield from _events(work, lambda point: one.remote(point, threads).future(), len(slots))
    finally:
        ray.shutdown()


def outcome(code: int, said: str) -> str | None:
    """None for a point that is done; else its error, in one line."""
    if code == 0:
        return None
    return said.strip().splitlines()[-1] if said.strip() else f"its process ended with exit code {code}"


def process_slots(jobs: int | None) -> list[dict[str, str]]:
    """The environment of each of the processes that run at a time."""
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs {jobs}: give at least 1")
    gpus = _gpus()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = jobs or max(len(gpus), 1 if gpus else max(cores // 2, 1))
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(cores // jobs, 1))}
    return [threads | ({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}) for i in range(jobs)]


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (listed := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in listed.split(",") if name.strip()]
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True
        )
        return done.stdout.split() if done.returncode == 0 else []
    except OSError:
        return []


LAUNCHERS = {"local": local, "ray": on_ray}
