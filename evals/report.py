"""What `trapo eval` prints: the plan before, one table after, and what a reader must be warned of."""

from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from trapo.data.tokens import shorten
from trapo.terminal import Console

from .folder import EvalFolder

if TYPE_CHECKING:
    from .evaluate import Job

NARROW = {
    "box": box.SIMPLE,
    "padding": (0, 1),
    "collapse_padding": True,
    "show_edge": False,
    "pad_edge": False,
}  # fits 80 columns
OFTEN = 0.05  # a share of samples from which on a reader is warned


def print_plan(job: "Job", folder: EvalFolder, console: Console) -> None:
    """What would run: questions, samples, most tokens; on what; and the first question as the model reads it."""
    table = Table("benchmark", "questions", "samples", "prompt tokens", "answer", "tokens, at most", **NARROW)
    for name, bench in job.benches.items():
        lengths, samples = job.lengths[name], len(bench.docs) * bench.samples
        of = f" of {bench.total}" if len(bench.docs) < bench.total else ""
        cells = (f"{len(bench.docs)}{of}", bench.samples, f"{min(lengths)} to {max(lengths)}", bench.max_tokens)
        table.add_row(name, *map(str, cells), f"{samples * bench.max_tokens:,}")
    console.print(table)
    s = job.settings
    how = f"T {s.temperature:g}, top-p {s.top_p:g}, top-k {s.top_k}, min-p {s.min_p:g}, seed {s.seed}"
    say(console, f"model {job.model.label} ({job.model.path}), {_alpha(job.model.alpha)}; {how}")
    say(console, f"engine {job.engine}, {job.dtype}, {job.device}; template {s.template}, end tokens {job.eos}")
    first = next(iter(job.benches.values()))
    say(console, f"The first prompt of {first.name}, as the model reads it:\n{shorten(job.rendered(first))}")
    there = len(folder.journal.records) if (folder.path / "samples.jsonl").exists() else 0
    say(console, f"Folder: {folder.path}" + (f" ({there} samples are there)" if there else ""))


def print_results(folder: EvalFolder, console: Console) -> None:
    """The numbers of a finished evaluation, a row per benchmark."""
    record = folder.finished()
    results = record["results"]
    columns = ("benchmark\nquestions x n", "avg@n\n95%", "± questions\n± sampling", "papers'\ngrading", "pass@n\nmaj@n")
    table = Table(*columns, "cut off\nno box, failed", "tokens\nmean", title=title(record), **NARROW)
    for name, result in results.items():
        average, statuses = result["avg@n"], result["statuses"]
        failed = statuses["timeout"] + statuses["error"]
        table.add_row(
            f"{name}\n{result['questions']} x {result['samples']}",
            f"{average['value']:.3f}\n{average['low']:.3f}-{average['high']:.3f}",
            f"{number(average['se_questions'])}\n{number(average['se_resampling'])}",
            number(result["reference avg@n"]["value"]) if "reference avg@n" in result else "-",
            f"{number(result['pass@k']['value'][-1])}\n{number(result['maj@n']['value'])}"
            if "pass@k" in result
            else "-",
            f"{result['truncated']:.1%}\n{statuses['no_box']:.1%}, {failed:.1%}",
            f"{result['tokens']['mean']:.0f}",
        )
    for name, mean in record["groups"].items():
        table.add_row(f"mean of {name}", number(mean["value"]), number(mean["se_questions"]))
    console.print(table)
    for line in warnings(results):
        say(console, f"[warning] {line}")
    say(console, f"Folder: {folder.path}  (eval.json, graded.jsonl, samples.jsonl, figures)")


def warnings(results: dict[str, dict[str, Any]]) -> list[str]:
    """What makes a number mean less than it seems to."""
    lines = []
    for name, result in results.items():
        if result["all samples equal"]:
            lines.append(
                f"{name}: all samples of every question are equal: the server ignores seeds, or the model is certain; "
                "n counts as 1"
            )
        if result["truncated"] >= OFTEN:
            lines.append(f"{name}: {result['truncated']:.1%} of the samples were cut off: raise --max-tokens")
        failed = result["statuses"]["timeout"] + result["statuses"]["error"]
        if failed >= OFTEN:
            lines.append(f"{name}: {failed:.1%} of the answers could not be graded, and count as wrong")
        if late := result["ended by the wall clock"]:
            lines.append(f"{name}: the wall clock ended the grading of {late} samples: --regrade on a quiet machine")
    return lines


def title(record: dict[str, Any]) -> str:
    """The model, its alpha, and how it was sampled."""
    s, model = record["settings"], record["model"]
    rule = s.get("grader", "own")
    graded = "" if rule == "own" else f"; grader {rule}"
    how = f"T {s['temperature']:g}, top-p {s['top_p']:g}, {s['template']}{graded}"
    return f"{model['label']}, {_alpha(model['alpha'])}; {how}"


def number(value: float | None) -> str:
    """Three digits; "-" where the data cannot give the number."""
    return "-" if value is None else f"{value:.3f}"


def say(console: Console, text: str) -> None:
    """Print text as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _alpha(alpha: float | None) -> str:
    return "no alpha" if alpha is None else f"alpha {alpha:g}"
