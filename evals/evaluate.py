"""`trapo eval`: benchmarks and a model in, a folder of numbers with their errors out.

Benchmarks are lm-eval tasks, and lm-eval drives `Sampler`; what it cannot give is worked out here from the journal.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from trapo.terminal import Console

from . import benchmarks, sequential
from .flags import counted
from .folder import LATER, MAY_CHANGE, EvalFolder
from .job import Job, environment_now
from .journal import Journal, digest
from .live import Live
from .lm_tasks import load_benches
from .models import Model, locate
from .score import Graded, grade, group_means, score
from .settings import AUTO, Settings
from .verdicts import shared


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
    model = locate(settings.model, weights=settings.engine != "server", chat=settings.server_api == "chat")
    job = Job(settings, model, benches, slots)
    folder = EvalFolder(out or _default_folder(settings, model))
    job.show(folder, console)
    if dry_run:
        return None
    with folder.begin(job.record()):
        folder.write_lines("questions.jsonl", job.questions())
        journal = folder.journal
        with job, Live(job.total(), job.gold, shared(settings.grader), console) as live:
            lm_eval_results = job.draw(journal, live)
            while more := _more(job, journal):
                for bench, samples in more.items():
                    job.benches[bench].task.set_config("repeats", samples)
                live.expect(job.total())
                lm_eval_results |= job.draw(journal, live, list(more))
        finish(folder, job.record() | {"lm_eval": lm_eval_results}, console)
    return folder


def _more(job: Job, journal: Journal) -> dict[str, int]:
    """Benchmarks that need more samples of each question, and how many; none where their number is given."""
    settings, found = job.settings, {}
    for name, bench in job.benches.items() if settings.auto else ():
        rows = _rows(journal, name, [(doc["id"], doc["answer"]) for doc in bench.docs], bench.samples)
        graded = grade(bench.kind, rows, shared(), shared(settings.grader))
        looked = sequential.look([question.correct for question in graded], settings.half_width)
        if (samples := sequential.next_samples(looked, settings.half_width, settings.max_samples)) > bench.samples:
            found[name] = samples
    return found


def _rows(journal: Journal, name: str, asked: list[tuple[str, str]], samples: int) -> list[tuple[str, str, list]]:
    """Id, gold and records of the first samples of each question that was asked; ValueError where one is missing."""
    drawn = {(r["question"], r["index"]): r for r in journal.records.values() if r["task"] == name}
    rows = []
    for question, answer in asked:
        wanted = [(question, i) for i in range(samples)]
        if missing := [key for key in wanted if key not in drawn]:
            raise ValueError(
                f"{journal.path.parent} lacks samples of {name}, such as {missing[0]}: run its command again"
            )
        rows.append((question, answer, [drawn[key] for key in wanted]))
    return rows


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
        finish(folder, record | {"graded again": environment_now()}, console)


def finish(folder: EvalFolder, record: dict[str, Any], console: Console) -> None:
    """Grade the journal, and write numbers and figures."""
    from . import figures, report

    journal, questions, settings = folder.journal, folder.questions(), record["settings"]
    results, lines = {}, []
    for name, data in record["data"].items():
        asked = [(question["id"], question["answer"]) for question in questions if question["task"] == name]
        if not asked:
            raise ValueError(f"{folder.path / 'questions.jsonl'} has no question of {name}: run its command again")
        if (kind := data.get("kind")) is None:  # folders of before lack it
            kind = benchmarks.named(name).kind
        rows = _rows(journal, name, asked, data["samples"])
        graded = grade(kind, rows, shared(), shared(settings.get("grader", "own")))
        results[name] = score(graded, settings["seed"])
        if settings.get("samples") == AUTO:
            results[name]["stopping"] = _stopping(graded, settings)
        mine = [line for question in graded for line in question.lines(name)]
        texts = {record["key"]: record["text"] for question in graded for record in question.records}
        results[name]["flags"] = counted(mine, texts)
        lines += mine
    folder.write_lines("graded.jsonl", lines)
    record |= {"results": results, "groups": group_means(results)}
    folder.write(record)
    figures.draw(folder)
    report.print_results(folder, console)


def _stopping(graded: list[Graded], settings: dict[str, Any]) -> dict[str, Any]:
    """How it ended that samples were drawn until the interval was narrow enough."""
    found = sequential.look([question.correct for question in graded], settings.get("half_width", 0.02))
    wanted = {
        "wanted": settings.get("half_width", 0.02),
        "reached": found.half_width <= settings.get("half_width", 0.02),
    }
    return asdict(found) | wanted | {"rule": "empirical-Bernstein confidence sequence (Howard et al. 2021), 95%"}


def _default_folder(settings: Settings, model: Model) -> Path:
    fixed = {k: v for k, v in asdict(settings).items() if k not in MAY_CHANGE and LATER.get(k) != v}
    bench = ",".join(part.partition("=")[0] for part in benchmarks.parts(settings.bench))
    fixed["bench"] = ",".join(benchmarks.parts(settings.bench))
    name = f"{model.label}-{bench.replace(',', '+')}-{digest(fixed, size=3)}"
    return Path("evaluations") / name
