"""Rows for trainers and evaluations: `id`, `prompt`, `answer`, `expert`."""

from random import Random

from . import task

DRAWS_PER_ROW = 30  # before giving up on finding another different one


def rows(
    split: str,
    n: int,
    seed: int = 0,
    *,
    steps: tuple[int, int] = task.STEPS,
    modulus: int = task.MODULUS,
    traces: int = 2,
    error_rate: float = 0.0,
    style: float = 1.0,
    slip_rate: float = 0.1,
) -> list[dict]:
    """Problems of one split, none twice.

    Args:
        split: "train", "tune" or "test"; no problem is in two, nor in "base", which the base's making saw. Problems of
            one or two operations are so few that the base saw them all.
        n: number of rows; the first k rows for a seed are the same for every n >= k.
        seed: another seed, other problems and other wordings.
        steps: difficulty, as fewest and most operations.
        modulus: a prime in 11..61. A base knows the one it was made for.
        traces: expert traces per problem, of different wordings.
        error_rate, style, slip_rate: see `task.expert_trace`.

    Returns:
        rows of `id` (unique, says the whole problem), `prompt`, `answer` and `expert`, texts without EOS.
    """
    found: dict[str, dict] = {}
    source = task.problems(split, seed, steps, modulus)
    for _ in range(DRAWS_PER_ROW * n):
        if len(found) == n:
            break
        p = next(source)
        if p.key not in found:
            expert = [
                task.expert_trace(p, f"{seed}/{i}", error_rate=error_rate, style=style, slip_rate=slip_rate)
                for i in range(traces)
            ]
            found[p.key] = {"id": p.key, "prompt": p.prompt, "answer": p.answer, "expert": expert}
    if len(found) < n:
        raise ValueError(f"the split {split!r} has no {n} different problems of {steps} operations modulo {modulus}")
    return list(found.values())


def probes(name: str, n: int, seed: int = 0, *, modulus: int = task.MODULUS) -> list[dict]:
    """Questions the base answers well at once, to see what training makes it forget; rows with `expert: []`.

    Args:
        name: "direct", problems of one or two operations, or "facts", single operations asked as bare facts. The base
            was taught both, on all of them: a probe measures what is left of it, not what carries over.
        n, seed, modulus: as for `rows`.
    """
    if name not in ("direct", "facts"):
        raise ValueError(f"probe {name!r} is unknown: choose direct or facts")
    rng, found = Random(f"probe {name} {seed} {modulus}"), {}
    for _ in range(DRAWS_PER_ROW * n):
        if len(found) == n:
            break
        if name == "direct":
            p = task.draw_problem(rng, (1, 2), modulus)
            key, prompt, answer = p.key, p.prompt, p.answer
        else:
            x, op, label = rng.randrange(modulus), rng.choice(task.OPERATIONS), rng.choice(task.LABELS)
            key, prompt = f"{modulus}:{x}{label}{op}", task.fact_prompt(x, label + op)
            answer = str(task.apply(op, x, modulus))
        found.setdefault(key, {"id": f"{name} {key}", "prompt": prompt, "answer": answer, "expert": []})
    if len(found) < n:
        raise ValueError(f"there are no {n} different {name} probes modulo {modulus}")
    return list(found.values())
