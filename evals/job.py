"""An evaluation before it runs: the model, prompts that fit its context, an engine, and what eval.json says of them."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trapo.runs.folder import environment
from trapo.terminal import Console

from . import benchmarks
from .folder import EvalFolder
from .journal import Journal, digest
from .live import Live
from .lm_tasks import Bench
from .models import Model, content, end_tokens, resolve, starter
from .settings import Settings
from .tasks.utils import data_folder

if TYPE_CHECKING:
    from .sampler import ChatPrompts, Prompts

VERSIONS = ("lm_eval", "vllm")  # besides those of a run


class Job:
    """An evaluation whose settings have been found possible."""

    def __init__(self, settings: Settings, model: Model, benches: Sequence[Bench], slots: int):
        self.settings, self.model, self.benches = settings, model, {bench.name: bench for bench in benches}
        self.eos: list[int] = []
        self.context: int | None = None
        self.prompts = self._prompts()
        self.lengths = {
            bench.name: [len(self.prompts.ids(doc["prompt"], bench.kind != "world")) for doc in bench.docs]
            for bench in benches
        }
        self._golds = {(b.name, doc["id"]): (b.kind, doc["answer"]) for b in benches for doc in b.docs}
        self.server = None
        if settings.engine == "server":
            self._ask_server(slots)
        else:
            self._choose_engine(slots)
        self.content = content(model, self.eos, self.dtype, self.server and self.server.model)
        self._check_context()

    def _prompts(self) -> "Prompts | ChatPrompts":
        from trapo.models import context_of, load_tokenizer

        from .sampler import ChatPrompts, Prompts

        if self.settings.server_api == "chat":
            return ChatPrompts()
        tokenizer, self._config = load_tokenizer(str(self.model.path))
        tokenizer.model_max_length = 10**9  # it would warn of long prompts, which `_check_context` refuses
        self.eos = end_tokens(self.model.path, tokenizer, self._config, self.settings.template)
        self.context = context_of(self._config)
        return Prompts(tokenizer, self.settings.template)

    def _ask_server(self, slots: int) -> None:
        from trapo.rollout.engines.server import ServerEngine

        settings = self.settings
        limits = {"timeout_s": settings.server_timeout, "retries": settings.server_retries, "concurrency": slots}
        how = {"api": settings.server_api, "eos_ids": self.eos, "record_faults": True}
        self.server = ServerEngine(settings.base_url, settings.model, **how, **limits)
        self.engine, self.dtype, self.device = "server", "the server's", self.server.shown
        if settings.server_api == "chat":
            self.context = None  # its tokens are not known here: the server refuses what is too long
        else:
            self.context = self.server.context or self.context
        self.start = self.server.using

    def _choose_engine(self, slots: int) -> None:
        settings = self.settings
        self.engine, self.dtype, self.device = resolve(settings.engine, settings.dtype, self._config)
        if self.engine == "torch":
            from trapo.rollout.engines.torch import check_full_attention

            check_full_attention(self._config)
        most = settings.max_samples if settings.auto else 0
        slots = min(slots, sum(len(b.docs) * max(b.samples, most) for b in self.benches.values()))
        longest = max(max(self.lengths[name]) + bench.max_tokens for name, bench in self.benches.items())
        arguments = {"engine": self.engine, "dtype": self.dtype, "device": self.device, "slots": slots}
        self.start = starter(self.model, self.prompts.tokenizer, self.eos, longest=longest, **arguments)

    def total(self) -> int:
        """Samples to have, as far as is known."""
        return sum(len(bench.docs) * bench.samples for bench in self.benches.values())

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
        return self.prompts.rendered(self.prompts.ids(bench.docs[0]["prompt"], bench.kind != "world"))

    def record(self) -> dict[str, Any]:
        """What eval.json says before there are results."""
        settings = asdict(self.settings) | {"engine": self.engine, "dtype": self.dtype}
        if self.server is not None:
            settings |= {"base_url": self.server.shown}
        if self.settings.server_api == "chat":
            settings |= {"template": "the server's"}
        folder = data_folder(self.settings.data_dir)
        return {
            "settings": settings,
            "model": {
                "label": self.model.label,
                "path": str(self.model.path),
                "content": self.content,
                "served as": self.server and self.server.model,
                "server": self.server and self.server.version,
                "released": self.settings.model_date or self.model.released,
                "alpha": self.model.alpha,
                "run": self.model.run,
                "end tokens": self.eos,
            },
            "device": self.device,
            "data": {name: self._data(bench, folder) for name, bench in self.benches.items()},
            "environment": environment_now(),
        }

    def _data(self, bench: Bench, folder: str | None) -> dict[str, Any]:
        known = bench.benchmark
        return {
            "kind": bench.kind,
            "questions": len(bench.docs),
            "of": bench.total,
            "samples": bench.samples,
            "max_tokens": bench.max_tokens,
            "hash": benchmarks.content_hash(bench.questions()),
            "papers' hash": known.content_hash,
            "source": benchmarks.source(known, folder),
            "released": known.released,
            "licence": known.licence,
            "note": known.note,
            "prompts": digest(sorted(self.prompts.ids(doc["prompt"], bench.kind != "world") for doc in bench.docs)),
            "first prompt": self.rendered(bench),
        }

    def show(self, folder: EvalFolder, console: Console) -> None:
        """The plan: what is asked of what, and the first prompt."""
        from . import report

        report.print_plan(self, folder, console)

    def draw(self, journal: Journal, live: Live, names: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """Let lm-eval draw through `Sampler` and grade the benchmarks of `names`, or all; its results by task."""
        import lm_eval

        from .sampler import Sampler

        sampler = Sampler(
            self.prompts,
            lambda name: self.benches[name].kind != "world",
            journal,
            model=self.content,
            start=self.start,
            seed=self.settings.seed,
            watch=live.found,
        )
        tasks = {f"trapo_{name}": bench.task for name, bench in self.benches.items() if name in (names or self.benches)}
        arguments = {"limit": self.settings.limit, "bootstrap_iters": 0, "log_samples": False}
        results = lm_eval.evaluate(lm=sampler, task_dict={"tasks": tasks, "groups": {}, "group_map": {}}, **arguments)
        return results["results"]


def environment_now() -> dict[str, Any]:
    """Versions, machine and command, lm-eval's among them."""
    from importlib import metadata

    found = environment()
    for package in VERSIONS:
        try:
            found["versions"][package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found["versions"][package] = None
    return found
