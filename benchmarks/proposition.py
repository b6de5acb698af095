"""Is the exact solver of Proposition 1 fast enough for a real vocabulary? Beside a bare sort and a general solver.

    python benchmarks/proposition.py --out proposition.json

Every repetition times all contestants, one after the other, so that a busy machine slows them alike; ratios are taken
within a repetition, and medians over repetitions are printed with their ranges.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import scipy
from scipy.optimize import minimize

from trapo.files import write_whole
from trapo_toy.proposition import certificate, gradient, objective, paper_lambda, solve

VOCABULARY = 151_936  # Qwen2.5's
SMALL = 200  # what a general solver takes in a moment
ALPHA = 0.1


def general(expert):
    """The same optimum by sequential quadratic programming."""
    size = len(expert)
    return minimize(
        lambda p: -objective(np.maximum(p, 0), expert, ALPHA),
        np.full(size, 1 / size),
        jac=lambda p: -gradient(p, expert, ALPHA),
        method="SLSQP",
        bounds=[(0, 1)] * size,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1, "jac": lambda p: np.ones(size)},
        options={"maxiter": 2000, "ftol": 1e-12},
    )


def seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the figures here too, as JSON")
    parser.add_argument("--repetitions", type=int, default=11)
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    large = np.exp(rng.normal(0, 3, VOCABULARY))  # softmax of normal logits
    large /= large.sum()
    small = rng.dirichlet(np.full(SMALL, 0.5))
    contestants = {
        "sort": lambda: np.sort(large),
        "solve": lambda: solve(large, ALPHA),
        "paper_lambda": lambda: paper_lambda(large, ALPHA),
        "solve_small": lambda: solve(small, ALPHA),
        "scipy_small": lambda: general(small),
    }
    for call in contestants.values():
        call()  # the first call loads and allocates
    times = {name: [] for name in contestants}
    for _ in range(arguments.repetitions):
        for name, call in contestants.items():
            times[name].append(seconds(call))

    def ratio(one: str, other: str) -> dict[str, float]:
        return spread([a / b for a, b in zip(times[one], times[other], strict=True)])

    best = solve(large, ALPHA)
    gap = -general(small).fun - float(objective(solve(small, ALPHA).p, small, ALPHA))
    found = {
        "settings": {"alpha": ALPHA, "vocabulary": VOCABULARY, "small": SMALL, "repetitions": arguments.repetitions},
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread",
        "seconds": {name: spread(values) for name, values in times.items()},
        "solve / sort": ratio("solve", "sort"),
        "scipy / solve, small": ratio("scipy_small", "solve_small"),
        "certificate": certificate(best.p, large, ALPHA),
        "scipy's F - ours": gap,
    }
    for name, size in (("sort", VOCABULARY), ("solve", VOCABULARY), ("paper_lambda", VOCABULARY),
                       ("solve_small", SMALL), ("scipy_small", SMALL)):  # fmt: skip
        s = found["seconds"][name]
        print(
            f"{name:13} |C| {size:7,}  {1e3 * s['median']:9.3f} ms  ({1e3 * s['least']:.3f} to {1e3 * s['most']:.3f})"
        )
    for name in ("solve / sort", "scipy / solve, small"):
        r = found[name]
        print(f"{name:22}  {r['median']:8.1f}  ({r['least']:.1f} to {r['most']:.1f})")
    print(f"certificate {found['certificate']:.1e}, scipy's F - ours {gap:.1e}, alpha {ALPHA}")
    if arguments.out:
        write_whole(arguments.out, json.dumps(found, indent=1) + "\n")
        print(arguments.out)


if __name__ == "__main__":
    main()
