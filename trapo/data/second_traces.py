"""A second demonstration of the same problem, from another dataset."""

import hashlib
from collections.abc import Mapping
from typing import Any

from .decontaminate import words
from .read import as_traces, is_text, read_cells

SECOND = ("problem", "question", "prompt", "generations", "solution", "expert", "target")


def key_of(prompt: Any) -> bytes:
    """A problem's key for joining: a hash of the folded words of its text, or of its last message."""
    text = prompt[-1].get("content") if isinstance(prompt, list) and prompt and isinstance(prompt[-1], dict) else prompt
    return hashlib.blake2b(" ".join(words(text if isinstance(text, str) else "")).encode(), digest_size=16).digest()


def texts_of(value: Any) -> list[str]:
    """The texts among what stands in an expert's place."""
    texts = [trace.get("content") if isinstance(trace, dict) else trace for trace in as_traces(value)]
    return [text for text in texts if is_text(text) and text.strip()]


def same(text: str) -> bytes:
    """What two copies of a trace have in common; white space around them aside."""
    return hashlib.blake2b(text.strip().encode(), digest_size=16).digest()


def second_traces(source: str, own: Mapping[bytes, set[bytes]], split: str = "train") -> dict[bytes, list[str]]:
    """Key -> demonstrations of the problems in `own` that are not among their own, from a dataset of problems and
    generations (OpenR1-Math's `problem` and `generations`; or `prompt` or `question`, and `solution`, `expert` or
    `target`).

    Raises:
        ValueError: if it cannot be read, or has no such columns.
    """
    found: dict[bytes, list[str]] = {}
    usable = False
    for _, cells in read_cells(source, SECOND, split):
        if not isinstance(cells, dict):
            continue
        problem = next((cells[name] for name in SECOND[:3] if cells.get(name)), None)
        traces = next((cells[name] for name in SECOND[3:] if cells.get(name)), None)
        usable |= problem is not None and traces is not None
        if problem is not None and (key := key_of(problem)) in own and key not in found:
            found[key] = [text for text in texts_of(traces) if same(text) not in own[key]]
    if not usable:
        raise ValueError(
            f"--second {source} has no row with a problem and a demonstration: it needs a column of "
            f"{', '.join(SECOND[:3])} and one of {', '.join(SECOND[3:])}"
        )
    return found
