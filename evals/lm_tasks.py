"""The benchmarks of an evaluation as lm-eval tasks."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from . import benchmarks
from .benchmarks import Question
from .settings import Settings

TASKS = Path(__file__).parent / "tasks"


@dataclass(frozen=True)
class Bench:
    """A benchmark to run: its lm-eval task, the questions asked (id, prompt, answer), and how many there are."""

    benchmark: benchmarks.Benchmark
    task: Any
    docs: list[dict[str, Any]]
    total: int

    @property
    def name(self) -> str:
        """Its name in tables and files."""
        return self.benchmark.name

    @property
    def kind(self) -> str:
        """How it is graded: "math", "choice" or "world"."""
        return self.benchmark.kind

    def questions(self) -> list[Question]:
        """All there are, asked or not."""
        return [
            Question(doc["id"], doc["problem"], doc["answer"], tuple(doc["choices"])) for doc in self.task.test_docs()
        ]

    @property
    def samples(self) -> int:
        """Of each question."""
        return self.task.config.repeats

    @property
    def max_tokens(self) -> int:
        """Of each sample."""
        return self.task.config.generation_kwargs["max_gen_toks"]


def load_benches(settings: Settings) -> list[Bench]:
    """The benchmarks' lm-eval tasks with `settings` over what their files say; ValueError where rows are missing."""
    names = benchmarks.names(settings.bench)
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise ValueError("trapo eval needs lm-eval, which is not installed: pip install 'trapo[evals]'") from None

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    metadata = {
        "data_dir": settings.data_dir,
        "request": not settings.template.startswith("reference"),  # which ask for the box themselves
        "choice_seed": settings.seed,
    }
    how = {name: getattr(settings, name) for name in ("temperature", "top_p", "top_k", "min_p")}
    how |= {"do_sample": settings.temperature > 0}
    how |= {"max_gen_toks": settings.max_tokens} if settings.max_tokens else {}
    found = []
    with _own_tasks(names) as own:
        manager = TaskManager(include_path=[str(TASKS), own], include_defaults=False, metadata=metadata)
        for benchmark in map(benchmarks.named, names):
            ((_, task),) = manager.load([f"trapo_{benchmark.name}"])["tasks"].items()
            task.set_config("generation_kwargs", how, update=True)
            if samples := settings.first_samples:
                task.set_config("repeats", samples)
            docs = list(task.test_docs())
            found.append(Bench(benchmark, task, docs[: settings.limit], len(docs)))
    return found


@contextmanager
def _own_tasks(names: list[str]) -> Iterator[str]:
    """A folder with a task's file for each of the user's own files among the benchmarks."""
    with tempfile.TemporaryDirectory() as folder:
        for name in (name for name in names if "=" in name):
            own = benchmarks.named(name)
            kind = {"math": "_math.yaml", "choice": "_choice.yaml"}[own.kind]
            task = {"task": f"trapo_{own.name}", "include": str(TASKS / kind), "repeats": own.samples}
            task |= {"dataset_kwargs": {"benchmark": f"{own.name}={own.path.absolute()}"}}
            Path(folder, f"trapo_{own.name}.yaml").write_text(yaml.safe_dump(task))
        yield folder
