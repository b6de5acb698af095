r"""What the tasks' YAML files call: their rows, and verdicts on all samples of a question."""

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trapo.grading.grader import STATUSES
from trapo_evals.benchmarks import load, named
from trapo_evals.verdicts import shared

if TYPE_CHECKING:
    from datasets import Dataset

# The wording of TRAPO's template, for those who run a task without it.
REQUEST = "Please reason step by step, and put your final answer within \\boxed{}."
_ASKS = re.compile(r"(?:\b(?:in|into|within|inside|with|using|is|as):?)\s*[$`]*\\boxed", re.IGNORECASE)


def rows(
    benchmark: str,
    data_dir: str | None = None,
    request: bool = True,
    choice_seed: int = 0,
    check: bool = True,
    **_: object,
) -> dict[str, "Dataset"]:
    """A task's `custom_dataset`: its questions as rows under the split "test".

    Columns are `id`, `prompt`, `answer`, and what the first and the last were made of, `problem` and `choices`.

    lm-eval passes a task's `dataset_kwargs` and all metadata: the arguments but the first are for
    `lm_eval --metadata '{"data_dir": "..."}'` or `TaskManager(metadata=...)`, and what else is there is not for us.

    Args:
        benchmark: its name, or "mine=rows.csv".
        data_dir: local files, see `load`; by default the environment variable TRAPO_DATA_DIR.
        request: whether a problem, the world's excepted, that does not itself ask for a box is followed by `REQUEST`;
            False where a template already asks for it.
        choice_seed: of the choices' order.
        check: see `load`.
    """
    from datasets import Dataset

    found = named(benchmark)
    questions = load(found, data_folder(data_dir), seed=choice_seed, check=check)
    end = f"\n\n{REQUEST}" if request and found.kind != "world" else ""
    # What asks for a box by itself, as all with choices do, is not told a second time, in other words.
    docs = [
        {"id": q.id, "prompt": q.prompt if _ASKS.search(q.prompt) else q.prompt + end, "answer": q.answer}
        | {"problem": q.problem, "choices": list(q.choices)}
        for q in questions
    ]
    return {"test": Dataset.from_list(docs)}


def data_folder(data_dir: str | None) -> str | None:
    """Where local files are looked for: `data_dir`, else the environment variable TRAPO_DATA_DIR, else nowhere."""
    return data_dir or os.environ.get("TRAPO_DATA_DIR") or None


def algebra(doc: dict, results: list[list[str]]) -> dict[str, float]:
    """`process_results` of mathematics and the world: see `shares`."""
    return shares(_statuses("math", doc, results))


def letter(doc: dict, results: list[list[str]]) -> dict[str, float]:
    """`process_results` where there are choices: see `shares`."""
    return shares(_statuses("choice", doc, results))


def shares(statuses: Sequence[str]) -> dict[str, float]:
    """Share of each of `STATUSES` among a question's n samples; that of "correct" is called avg@n."""
    return {"avg@n" if s == "correct" else s: statuses.count(s) / len(statuses) for s in STATUSES}


def _statuses(kind: str, doc: dict, results: list[list[str]]) -> list[str]:
    (samples,) = results  # one request; all its samples, since no filter drops any
    for text in samples:
        shared().ask(kind, text, doc["answer"])
    return [shared().status(kind, text, doc["answer"]) for text in samples]
