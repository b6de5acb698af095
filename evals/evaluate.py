"""`trapo eval`: benchmarks and a model in, a folder of numbers with their errors out.

Benchmarks are lm-eval tasks, and lm-eval drives `Sampler`; what it cannot give is worked out here from the journal.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trapo.runs.folder import environment
from trapo.terminal import Console

from . import benchmarks
from .benchmarks import Question
from .folder import MAY_CHANGE, EvalFolder
from .journal import digest
from .live import Live
from .models import Model, content, end_tokens, locate, resolve, starter
from .score import grade, group_means, score
from .tasks.utils import data_folder
from .verdicts import shared

TASKS = Path(__file__).parent / "tasks"
VERSIONS = ("lm_eval", "vllm")  # besides those of a run


@dataclass(frozen=True)
class Settings:
    """What to evaluate and how; None leaves a thing to the benchmark's own file."""

    bench: str
    model: str
    data_dir: str | None = None
    samples: int | None = None
    limit: int | None = None
    temperature: float = 0.6
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int | None = None
    template: str = "tokenizer"
    seed: int = 0
    engine: str = "auto"
    base_url: str | None = None
    dtype: str = "auto"
    grader: str = "own"

    def check(self) -> None:
        """ValueError, naming the value and the remedy."""
        from trapo.choices import GRADERS, TEMPLATES

        for name, given, known in (
            ("template", self.template, TEMPLATES),
            ("grader", self.grader, GRADERS),
            ("engine", self.engine, ("auto", "torch", "transformers", "vllm", "server")),
            ("dtype", self.dtype, ("auto", "float32", "bfloat16", "float16")),
        ):
            if given not in known:
                raise ValueError(f"--{name} {given}: choose from {', '.join(known)}")
        for name, value, low, high in (
            ("samples", self.samples, 1, 10**6),
            ("limit", self.limit, 1, 10**9),
            ("max-tokens", self.max_tokens, 1, 10**7),
            ("temperature", self.temperature, 0, 100),
            ("top-k", self.top_k, 0, 10**7),
            ("min-p", self.min_p, 0, 1),
        ):
            if value is not None and not low <= value <= high:
                raise ValueError(f"--{name} {value}: give a number from {low} to {high}")
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed}: it must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"--top-p {self.top_p}: give a number above 0 and up to 1")
        if self.temperature == 0 and (self.samples or 1) > 1:
            raise ValueError(f"--temperature 0 gives {self.samples} times the same sample: use --samples 1")
        if (self.engine == "server") != (self.base_url is not None):
            raise ValueError("--engine server and --base-url http://HOST:PORT/v1 belong together: give both or neither")


@dataclass(frozen=True)
class Bench:
    """A benchmark to run: its name, kind, lm-eval task, and the questions that are asked (id, prompt, answer)."""

    name: str
    kind: str
    task: Any
    docs: list[dict[str, Any]]
    total: int  # questions there are

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
    manager = TaskManager(include_path=str(TASKS), include_defaults=False, metadata=metadata)
    how = {name: getattr(settings, name) for name in ("temperature", "top_p", "top_k", "min_p")}
    how |= {"do_sample": settings.temperature > 0}
    how |= {"max_gen_toks": settings.max_tokens} if settings.max_tokens else {}
    found = []
    for name in names:
        ((_, task),) = manager.load([f"trapo_{name}"])["tasks"].items()
        task.set_config("generation_kwargs", how, update=True)
        if settings.samples or settings.temperature == 0:
            task.set_config("repeats", settings.samples or 1)
        docs = list(task.test_docs())
        found.append(Bench(name, benchmarks.BENCHMARKS[name].kind, task, docs[: settings.limit], len(docs)))
    return found


def evaluate(
    settings: Settings,
    out: Path | None = None,
    console: Console | None = None,
    *,
    slots: int = 64,
    dry_run: bool = False,
) -> EvalFolder | None:
    """Draw what is missing, grade, and write the folder; the same command again goes on where it was killed.

    Args:
        settings: what and how.
        out: the folder; by default `evaluations/MODEL-BENCH-HASH`, the hash that of the settings.
        console: to print to.
        slots: most samples drawn at once.
        dry_run: print what would run, and stop: None.

    Raises:
        ValueError: bad settings, data or model, before any sampling.
    """
    console = console or Console()
    settings.check()
    if slots < 1:
        raise ValueError(f"--slots {slots}: give a number of at least 1")
    with console.status("loading benchmarks"):
        benches = load_benches(settings)
    model = locate(settings.model, weights=settings.engine != "server")
    job = Job(settings, model, benches, slots)
    folder = EvalFolder(out or _default_folder(settings, model))
    job.show(folder, console)
    if dry_run:
        return None
    record = job.record()
    with folder.begin(record):
        folder.write_lines("questions.jsonl", job.questions())
        total = sum(len(bench.docs) * bench.samples for bench in benches)
        with job, Live(total, job.gold, shared(settings.grader), console) as live:
            lm_eval_results = job.draw(folder, live)
        finish(folder, record | {"lm_eval": lm_eval_results}, console)
    return folder


def regrade(folder: EvalFolder, console: Console, grader: str | None = None) -> None:
    """Grade a finished or unfinished evaluation's samples again, with the grader of today; draws nothing.

    Args:
        folder: the evaluation's.
        console: to print to.
        grader: by another of `GRADERS` than before.

    Raises:
        ValueError: it is not there, or samples are missing.
    """
    record = folder.record()
    if grader is not None:
        from trapo.choices import GRADERS

        if grader not in GRADERS:
            raise ValueError(f"--grader {grader}: choose from {', '.join(GRADERS)}")
        record["settings"]["grader"] = grader
    with folder.begin(record):
        finish(folder, record | {"graded again": _environment()}, console)


def finish(folder: EvalFolder, record: dict[str, Any], console: Console) -> None:
    """Grade the journal, and write numbers and figures."""
    from . import figures, report

    journal, questions = folder.journal.records.values(), folder.questions()
    drawn = {(r["task"], r["question"], r["index"]): r for r in journal}
    results, lines = {}, []
    for name, data in record["data"].items():
        rows = []
        for question in (q for q in questions if q["task"] == name):
            wanted = [(name, question["id"], i) for i in range(data["samples"])]
            if missing := [key for key in wanted if key not in drawn]:
                raise ValueError(f"{folder.path} lacks samples, such as {missing[0]}: run its command again")
            rows.append((question["id"], question["answer"], [drawn[key] for key in wanted]))
        graded = grade(
            benchmarks.BENCHMARKS[name].kind, rows, shared(), shared(record["settings"].get("grader", "own"))
        )
        results[name] = score(graded, record["settings"]["seed"])
        lines += [line for question in graded for line in question.lines(name)]
    folder.write_lines("graded.jsonl", lines)
    record |= {"results": results, "groups": group_means(results)}
    folder.write(record)
    figures.draw(folder)
    report.print_results(folder, console)


class Job:
    """An evaluation whose settings have been found possible."""

    def __init__(self, settings: Settings, model: Model, benches: Sequence[Bench], slots: int):
        from trapo.models import load_tokenizer

        from .sampler import Prompts

        self.settings, self.model, self.benches = settings, model, {bench.name: bench for bench in benches}
        self.tokenizer, self.config = load_tokenizer(str(model.path))
        self.tokenizer.model_max_length = 10**9  # it would warn of long prompts, which `_check_context` refuses
        self.prompts = Prompts(self.tokenizer, settings.template)
        self.eos = end_tokens(model.path, self.tokenizer, self.config, settings.template)
        self.lengths = {
            bench.name: [len(self.prompts.ids(doc["prompt"], bench.kind != "world")) for doc in bench.docs]
            for bench in benches
        }
        self._golds = {(b.name, doc["id"]): (b.kind, doc["answer"]) for b in benches for doc in b.docs}
        longest = max(max(self.lengths[bench.name]) + bench.max_tokens for bench in benches)
        self.context = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        self.server = None
        if settings.engine == "server":
            from trapo.rollout.engines.server import ServerEngine

            self.server = ServerEngine(settings.base_url, settings.model, eos_ids=self.eos, concurrency=slots)
            self.engine, self.dtype, self.device = "server", "the server's", settings.base_url
            self.context = self.server.context or self.context
            self.start = self.server.using
        else:
            self.engine, self.dtype, self.device = resolve(settings.engine, settings.dtype, self.config)
            if self.engine == "torch":
                from trapo.rollout.engines.torch import check_full_attention

                check_full_attention(self.config)
            slots = min(slots, sum(len(bench.docs) * bench.samples for bench in benches))
            arguments = {"engine": self.engine, "dtype": self.dtype, "device": self.device, "slots": slots}
            self.start = starter(model, self.tokenizer, self.eos, longest=longest, **arguments)
        self.content = content(model, self.eos, self.dtype, self.server and self.server.model)
        self._check_context()

    def _check_context(self) -> None:
        for name, lengths in self.lengths.items():
            room, most = (self.context or 10**9) - max(lengths), self.benches[name].max_tokens
            if room < most:
                remedy = f"set --max-tokens to at most {room}" if room > 0 else "leave this benchmark out"
                raise ValueError(
                    f"{name}: the longest prompt has {max(lengths)} tokens, and {most} more for an answer exceed the "
                    f"model's context of {self.context}: {remedy}"
                )

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *exc: object) -> None:
        if self.server is not None:
            self.server.close()

    def gold(self, task: str, question: str) -> tuple[str, str]:
        """Kind and right answer of a question."""
        return self._golds[task, question]

    def questions(self) -> list[dict[str, Any]]:
        """The lines of questions.jsonl."""
        return [
            {"task": bench.name, "id": doc["id"], "prompt": doc["prompt"], "answer": doc["answer"]}
            for bench in self.benches.values()
            for doc in bench.docs
        ]

    def rendered(self, bench: Bench) -> str:
        """The first question as the model reads it."""
        ids = self.prompts.ids(bench.docs[0]["prompt"], bench.kind != "world")
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def record(self) -> dict[str, Any]:
        """What eval.json says before there are results."""
        settings = asdict(self.settings) | {"engine": self.engine, "dtype": self.dtype}
        data = {}
        for name, bench in self.benches.items():
            data[name] = {
                "questions": len(bench.docs),
                "of": bench.total,
                "samples": bench.samples,
                "max_tokens": bench.max_tokens,
                "hash": benchmarks.content_hash(bench.questions()),
                "papers' hash": benchmarks.BENCHMARKS[name].content_hash,
                "source": benchmarks.source(name, data_folder(self.settings.data_dir)),
                "prompts": digest(sorted(self.prompts.ids(doc["prompt"], bench.kind != "world") for doc in bench.docs)),
                "first prompt": self.rendered(bench),
            }
        return {
            "settings": settings,
            "model": {
                "label": self.model.label,
                "path": str(self.model.path),
                "content": self.content,
                "served as": self.server and self.server.model,
                "alpha": self.model.alpha,
                "run": self.model.run,
                "end tokens": self.eos,
            },
            "device": self.device,
            "data": data,
            "environment": _environment(),
        }

    def show(self, folder: EvalFolder, console: Console) -> None:
        """The plan: what is asked of what, and the first prompt."""
        from . import report

        report.print_plan(self, folder, console)

    def draw(self, folder: EvalFolder, live: Live) -> dict[str, dict[str, Any]]:
        """Let lm-eval draw through `Sampler` and grade; its own results by task."""
        import lm_eval

        from .sampler import Sampler

        sampler = Sampler(
            self.prompts,
            lambda name: self.benches[name].kind != "world",
            folder.journal,
            model=self.content,
            start=self.start,
            seed=self.settings.seed,
            watch=live.found,
        )
        tasks = {f"trapo_{name}": bench.task for name, bench in self.benches.items()}
        arguments = {"limit": self.settings.limit, "bootstrap_iters": 0, "log_samples": False}
        results = lm_eval.evaluate(lm=sampler, task_dict={"tasks": tasks, "groups": {}, "group_map": {}}, **arguments)
        return results["results"]


def _default_folder(settings: Settings, model: Model) -> Path:
    fixed = {k: v for k, v in asdict(settings).items() if k not in MAY_CHANGE}
    name = f"{model.label}-{settings.bench.replace(',', '+')}-{digest(fixed, size=3)}"
    return Path("evaluations") / name


def _environment() -> dict[str, Any]:
    from importlib import metadata

    found = environment()
    for package in VERSIONS:
        try:
            found["versions"][package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found["versions"][package] = None
    return found
