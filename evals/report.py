"""What `trapo eval` prints: the plan before, one table after, and what a reader must be warned of."""

from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from trapo.data.tokens import shorten
from trapo.terminal import Console

from .flags import FLAGS
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
        most = job.settings.max_samples if job.settings.auto else bench.samples
        lengths, samples = job.lengths[name], len(bench.docs) * most
        of = f" of {bench.total}" if len(bench.docs) < bench.total else ""
        count = "auto" if job.settings.auto else bench.samples
        cells = (f"{len(bench.docs)}{of}", count, f"{min(lengths)} to {max(lengths)}", bench.max_tokens)
        table.add_row(name, *map(str, cells), f"{samples * bench.max_tokens:,}")
    console.print(table)
    s = job.settings
    how = f"T {s.temperature:g}, top-p {s.top_p:g}, top-k {s.top_k}, min-p {s.min_p:g}, seed {s.seed}"
    say(console, f"model {job.model.label} ({job.model.path}), {_alpha(job.model.alpha)}; {how}")
    template = "the server's" if s.server_api == "chat" else f"{s.template}, end tokens {job.eos}"
    say(console, f"engine {job.engine}, {job.dtype}, {job.device}; template {template}")
    if s.auto:
        say(console, f"samples: as many as make each benchmark's interval ± {s.half_width:g}, at most {s.max_samples}")
    for name, bench in job.benches.items():
        about = [f"released {bench.benchmark.released}"] if bench.benchmark.released else []
        about += [part for part in (bench.benchmark.licence, bench.benchmark.note) if part]
        if about:
            say(console, f"{name}: {'; '.join(about)}")
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
    for line in (*flag_lines(results), *stopping_lines(results)):
        say(console, line)
    for line in age_lines(record):
        say(console, f"contamination: {line}")
    for line in warnings(results):
        say(console, f"[warning] {line}")
    say(console, f"Folder: {folder.path}  (eval.json, graded.jsonl, samples.jsonl, figures)")


def flag_lines(results: dict[str, dict[str, Any]]) -> list[str]:
    """How many samples have which flag, and one of them."""
    lines = []
    for name, result in results.items():
        for flag, found in result.get("flags", {}).items():
            first = found["examples"][0]
            gold, end = shorten(first["gold"], 40), shorten(" ".join(first["end"].split()), 80)
            which = f"question {first['question']}, sample {first['index']}: gold {gold}, ends {end!r}"
            total = result["questions"] * result["samples"]
            lines.append(f"{name}: {found['count']} of {total} samples: {FLAGS[flag]} ({which})")
    return lines


def stopping_lines(results: dict[str, dict[str, Any]]) -> list[str]:
    """How many samples it took until the interval was narrow enough."""
    lines = []
    for name, found in ((name, result["stopping"]) for name, result in results.items() if "stopping" in result):
        outcome = "after" if found["reached"] else f"not ± {found['wanted']:g} even after"
        lines.append(
            f"{name}: {found['value']:.3f} ± {found['half_width']:.3f} on these questions {outcome} {found['samples']} "
            "samples of each (95%, valid whenever one stops)"
        )
    return lines


def warnings(results: dict[str, dict[str, Any]]) -> list[str]:
    """What makes a number mean less than it seems to."""
    lines = []
    for name, result in results.items():
        statuses = result["statuses"]
        if result["all samples equal"]:
            lines.append(
                f"{name}: all samples of every question are equal: the server ignores seeds, or the model is certain; "
                "n counts as 1"
            )
        if result["truncated"] >= OFTEN:
            lines.append(f"{name}: {result['truncated']:.1%} of the samples were cut off: raise --max-tokens")
        failed = statuses["timeout"] + statuses["error"]
        if failed >= OFTEN:
            lines.append(f"{name}: {failed:.1%} of the answers could not be graded, and count as wrong")
        if unread := statuses.get("gold-unparsed"):
            lines.append(f"{name}: the right answer of {unread:.1%} of the samples could not be read: compared as text")
        if refused := statuses.get("refused"):
            lines.append(f"{name}: the server refused {refused:.1%} of the samples, which count as wrong")
        if lost := statuses.get("server-error"):
            remedy = "the same command asks for them again"
            lines.append(f"{name}: the server failed to give {lost:.1%} of the samples, which count as wrong: {remedy}")
        if late := result["ended by the wall clock"]:
            lines.append(f"{name}: the wall clock ended the grading of {late} samples: --regrade on a quiet machine")
    return lines


def age_lines(record: dict[str, Any]) -> list[str]:
    """Which questions came out before the model, which may then have been trained on them."""
    ages = {name: data.get("released") for name, data in record["data"].items()}
    ages = {name: age for name, age in ages.items() if age}
    model = record["model"].get("released")
    if not ages:
        return []
    if model is None:
        shown = ", ".join(f"{name} {age}" for name, age in ages.items())
        return [f"the questions came out in {shown}; when the model did is not known here: --model-date YYYY-MM"]
    older = ", ".join(f"{name} ({age})" for name, age in ages.items() if age <= model[:7])
    return [f"questions as old as the model ({model}) or older may have been trained on: {older}"] if older else []


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
