"""`trapo data prepare`: rows of any known layout, checked, joined, decontaminated, as one file of our layout.

    OUT                     the rows: id, prompt, answer, expert
    OUT.dropped.jsonl       every row and trace that was left out, and why (`screen.py`)
    OUT.contaminated.jsonl  every row that repeats a benchmark's question
    OUT.summary.json        counts, shares, lengths, settings
    OUT.png, OUT.pdf        a histogram, where matplotlib is installed

Rows go through in batches, so that memory holds a batch and the second demonstrations, not the file. The same input
gives the same bytes.
"""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..config import TRAPOConfig
from ..files import check_output, write_whole
from ..grading.grader import Grader, usable_cpus
from ..models import load_tokenizer
from ..redact import redacted_values
from ..terminal import Console
from .decontaminate import Index
from .read import read_rows
from .second_traces import key_of, same, second_traces, texts_of
from .validate import TOKENIZE_AT_ONCE, Report, Screen

COUNTED = 1000  # traces that are tokenized for the lengths; of more, an evenly spread sample
SCRIPTS = {
    "CJK": re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"),
    "Cyrillic": re.compile(r"[\u0400-\u04ff]"),
    "Arabic": re.compile(r"[\u0600-\u06ff]"),
}
MIXED = 0.01  # share of a trace's characters in another script from which it counts as mixed
COMPANIONS = (".dropped.jsonl", ".contaminated.jsonl", ".summary.json", ".png", ".pdf")


@dataclass
class Settings:
    """What to prepare, and how.

    Attributes:
        source: a file, a folder of files, or a hub id.
        out: a .parquet or .jsonl file.
        second: where to take a second demonstration of the same problem from; None for none.
        tokenizer: for lengths in tokens; None counts characters.
        max_tokens: what training will cut traces to; for the share that would be.
        check_experts: whether traces are graded, second ones included, and wrong ones dropped.
        drop_contaminated: whether rows that repeat a benchmark's question are left out.
        split: of hub datasets.
        overwrite: whether the output of an earlier preparation may be replaced.
    """

    source: str
    out: Path
    second: str | None = None
    tokenizer: str | None = None
    max_tokens: int | None = None
    check_experts: bool = True
    drop_contaminated: bool = False
    split: str = "train"
    overwrite: bool = False


@dataclass
class Summary:
    """What was found.

    Attributes:
        rows, kept: read, and written.
        dropped: defects, by name.
        contaminated: rows that repeat a question, by benchmark; `unchecked` says which benchmarks were not at hand.
        joined: rows that were given a second demonstration; `refused`: second demonstrations that were wrong.
        scripts: share of kept traces with more than `MIXED` of their characters in a script.
        characters, tokens: deciles of the traces' lengths; tokens are of `counted` traces.
        cut: share of those that are longer than max_tokens, EOS included; None without a tokenizer or a maximum.
    """

    settings: dict[str, Any]
    rows: int = 0
    kept: int = 0
    traces: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    contaminated: dict[str, int] = field(default_factory=dict)
    unchecked: dict[str, str] = field(default_factory=dict)
    joined: int = 0
    refused: int = 0
    scripts: dict[str, float] = field(default_factory=dict)
    characters: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    counted: int = 0
    cut: float | None = None

    def lines(self) -> list[str]:
        """For the screen."""
        found = [f"{self.rows} rows read, {self.kept} written, {self.traces} expert traces"]
        found += [f"  {reason:31}{n:7}" for reason, n in self.dropped.items()]
        found += [f"  repeats a question of {name:9}{n:7}" for name, n in self.contaminated.items()]
        found += [f"  not checked against {name}: {why}" for name, why in self.unchecked.items()]
        if self.joined:
            found.append(f"  second demonstration joined    {self.joined:7}")
        if self.refused:
            found.append(f"  second demonstration wrong     {self.refused:7}")
        for what, deciles in (("characters", self.characters), ("tokens", self.tokens)):
            if deciles:
                found.append(f"  {what} of a trace: median {deciles[5]}, 10% to 90% {deciles[1]} to {deciles[9]}, "
                             f"longest {deciles[10]}")  # fmt: skip
        if self.cut is not None:
            found.append(f"  longer than {self.settings['max_tokens']} tokens: {self.cut:.1%} (of {self.counted})")
        found += [f"  traces with {name} letters: {share:.2%}" for name, share in self.scripts.items() if share]
        return found


def prepare(
    settings: Settings,
    questions: Mapping[str, Sequence[tuple[str, str]]],
    unchecked: Mapping[str, str],
    progress: Callable[[int], None] = lambda n: None,
) -> Summary:
    """Write the file and its companions; all of them, or none.

    Args:
        settings: what and how.
        questions: benchmark -> (id, text) of its questions, for decontamination.
        unchecked: benchmarks whose questions are not at hand -> why.
        progress: called now and then with the number of rows read.

    Raises:
        ValueError: in one line, before any work where that can be known.
    """
    if settings.out.suffix not in (".parquet", ".jsonl"):
        raise ValueError(f"--out {settings.out}: it must end in .parquet or .jsonl")
    if not settings.out.absolute().parent.is_dir():
        raise ValueError(
            f"--out {settings.out}: the folder {settings.out.absolute().parent} is not there: make it first"
        )
    if settings.max_tokens is not None and settings.max_tokens < 1:
        raise ValueError(f"--max-tokens {settings.max_tokens}: give a number of at least 1")
    if settings.max_tokens and settings.tokenizer is None:
        raise ValueError(f"--max-tokens {settings.max_tokens} needs --tokenizer, the model whose tokens these are")
    check_output(settings.out, filter(None, (settings.source, settings.second)), COMPANIONS, settings.overwrite)
    tokenizer = load_tokenizer(settings.tokenizer)[0] if settings.tokenizer else None
    said = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items() if k != "overwrite"}
    summary = Summary(said)
    summary.unchecked, index = dict(unchecked), Index(questions)
    second = _second(settings)
    config = TRAPOConfig(output_dir="unused", use_cpu=True, template="raw", check_experts=settings.check_experts)
    with Grader(usable_cpus()) as grader, _Writer(settings.out) as writer:
        screen = Screen(_Lengthless(config), None, grader)
        measures, matches = _Measures(), []
        for table in screen.batches(read_rows(settings.source, settings.split), settings.source, progress):
            rows = []
            for row in table.to_pylist():
                found = index.matches(row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][-1]["content"])
                matches += [{"id": row["id"]} | asdict(match) for match in found]
                if not (found and settings.drop_contaminated):
                    rows.append(row)
            joined, refused = _join(rows, second, grader if settings.check_experts else None)
            summary.joined, summary.refused = summary.joined + joined, summary.refused + refused
            summary.kept += len(rows)
            for row in rows:
                measures.add(row["expert"])
            if rows:
                writer.write(pa.Table.from_pylist(rows, schema=table.schema))
        if not summary.kept:
            raise ValueError(f"{settings.source}: every usable row of it repeats a benchmark's question")
        report = screen.report
        _fill(summary, report, matches, measures, tokenizer, settings)
        writer.companion(".dropped.jsonl", _lines(report.dropped))
        writer.companion(".contaminated.jsonl", _lines(matches))
        writer.companion(".summary.json", json.dumps(redacted_values(asdict(summary)), indent=1) + "\n")
    _draw(settings, measures, summary)
    return summary


def report(
    settings: Settings, questions: Mapping[str, Sequence[tuple[str, str]]], unchecked: Mapping[str, str]
) -> list[str]:
    """Prepare with a line of progress on standard error; what there is to say of it, in lines."""
    started = time.perf_counter()
    with Console(stderr=True).status(f"reading {settings.source}") as status:
        summary = prepare(settings, questions, unchecked, lambda n: status.update(f"{settings.source}: {n} rows"))
    seconds, graded = time.perf_counter() - started, "" if settings.check_experts else " not"
    return [
        *summary.lines(),
        f"{seconds:.0f} s, {summary.rows / seconds:.0f} rows per second; traces{graded} graded",
        f"Rows: {settings.out}  (beside it .dropped.jsonl, .contaminated.jsonl, .summary.json)",
    ]


def _second(settings: Settings) -> dict[bytes, list[str]]:
    if settings.second is None:
        return {}
    own: dict[bytes, set[bytes]] = {}
    for _, cells in read_rows(settings.source, settings.split):
        if isinstance(cells, dict):
            own.setdefault(key_of(cells["prompt"]), set()).update(map(same, texts_of(cells["expert"])))
    return second_traces(settings.second, own, settings.split)


def _join(
    rows: Sequence[dict[str, Any]], second: Mapping[bytes, Sequence[str]], grader: Grader | None
) -> tuple[int, int]:
    """Give every row the first of its problem's other demonstrations that is not wrong, or simply the first without a
    grader; how many rows were given one, and how many demonstrations were wrong."""
    joined = refused = 0
    waiting = [(row, iter(second.get(key_of(row["prompt"]), ()))) for row in rows] if second else []
    while offered := [(row, rest, text) for row, rest in waiting if (text := next(rest, None)) is not None]:
        wrong = [False] * len(offered)
        if grader is not None:
            verdicts = grader.grade([text for _, _, text in offered], [row["answer"] for row, _, _ in offered])
            wrong = [verdict.status in ("wrong", "no_box") for verdict in verdicts]  # as `Screen` has it
        for (row, _, text), refuse in zip(offered, wrong, strict=True):
            if not refuse:
                row["expert"].append(text)
        waiting = [(row, rest) for (row, rest, _), refuse in zip(offered, wrong, strict=True) if refuse]
        joined, refused = joined + len(offered) - len(waiting), refused + len(waiting)
    return joined, refused


class _Lengthless:
    """A configuration for screening without a tokenizer: nothing asks for lengths in tokens."""

    def __init__(self, config: TRAPOConfig):
        self._config = config
        self.max_completion_length = 1 << 60

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


class _Measures:
    """Lengths and scripts of the traces that are kept, and an evenly spread sample of their texts."""

    def __init__(self):
        self.characters: list[int] = []
        self.scripts: Counter = Counter()
        self.sample: list[str] = []
        self._every = 1

    def add(self, traces: list[str]) -> None:
        """Take up a row's traces."""
        for text in traces:
            if len(self.characters) % self._every == 0:
                self.sample.append(text)
                if len(self.sample) > COUNTED:  # keep every other one, and take half as many from now on
                    self.sample, self._every = self.sample[::2], 2 * self._every
            self.characters.append(len(text))
            if not text.isascii():
                for name, letters in SCRIPTS.items():
                    self.scripts[name] += len(letters.findall(text)) > MIXED * len(text)


def _fill(
    summary: Summary, report: Report, matches: list[dict], measures: _Measures, tokenizer, settings: Settings
) -> None:
    summary.rows, summary.traces = report.rows, len(measures.characters)
    summary.dropped = dict(sorted(report.counts.items()))
    per_row = {(match["id"], match["benchmark"]) for match in matches}
    summary.contaminated = dict(sorted(Counter(benchmark for _, benchmark in per_row).items()))
    n = max(len(measures.characters), 1)
    summary.scripts = {name: measures.scripts[name] / n for name in SCRIPTS}
    summary.characters = _deciles(measures.characters)
    if tokenizer is not None and measures.sample:
        lengths = []
        # Not all at once: until it is counted, a token costs a hundred bytes and more.
        for i in range(0, len(measures.sample), TOKENIZE_AT_ONCE):
            some = measures.sample[i : i + TOKENIZE_AT_ONCE]
            lengths += [len(ids) for ids in tokenizer(some, add_special_tokens=False)["input_ids"]]
        summary.tokens, summary.counted = _deciles(lengths), len(lengths)
        if settings.max_tokens:
            summary.cut = sum(length + 1 > settings.max_tokens for length in lengths) / len(lengths)


def _deciles(values: list[int]) -> list[int]:
    """Smallest, nine deciles, largest."""
    ordered = sorted(values)
    return [ordered[round(i / 10 * (len(ordered) - 1))] for i in range(11)] if ordered else []


def _lines(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


class _Writer:
    """Writes rows to a temporary file; when the block ends well, it and its companions take their places."""

    def __init__(self, out: Path):
        self.out, self.part = out, out.with_name(f".{out.name}.part")
        self._parquet: pq.ParquetWriter | None = None
        self._text = None
        self._companions: dict[str, str] = {}

    def __enter__(self):
        try:
            if self.out.suffix == ".jsonl":
                self._text = open(self.part, "w", encoding="utf-8")
            else:
                self.part.touch()
        except OSError as error:
            raise ValueError(f"--out {self.out} cannot be written: {error.strerror}") from None
        return self

    def write(self, table: pa.Table) -> None:
        """Append rows."""
        if self._text is not None:
            self._text.write(_lines(table.to_pylist()))
            return
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(self.part, table.schema, compression="zstd")
        self._parquet.write_table(table)

    def companion(self, suffix: str, text: str) -> None:
        """A file beside the rows."""
        self._companions[suffix] = text

    def __exit__(self, kind, *rest: object) -> None:
        for file in (self._parquet, self._text):
            if file is not None:
                file.close()
        if kind is not None or not self._companions:
            self.part.unlink(missing_ok=True)
            return
        for suffix, text in self._companions.items():
            write_whole(self.out.with_name(self.out.name + suffix), text)
        os.replace(self.part, self.out)


def _draw(settings: Settings, measures: _Measures, summary: Summary) -> None:
    """Histograms of the traces' lengths; none where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return
    import numpy as np

    from ..plotting import new_figure, save_figure, style

    if not measures.characters:
        return
    with style():
        figure, ax = new_figure(columns=1, height=2.0)
        top = np.quantile(measures.characters, 0.995)
        ax.hist(np.clip(measures.characters, 0, top), bins=60, color="#0072B2")
        ax.set(xlabel="characters of an expert's trace", ylabel="traces")
        said = {"alpha": None, "source": Path(settings.source).name, "rows": summary.kept, "traces": summary.traces,
                "beyond the right end": "the longest 0.5%"}  # fmt: skip
        command = f"trapo data prepare {Path(settings.source).name} --out {settings.out.name}"
        save_figure(figure, settings.out.with_name(settings.out.name + ".png"), said, command)


def first_row(source: str, split: str = "train") -> Iterator[str]:
    """Lines for `--dry-run`: the layout that was found and the first row that can be read."""
    for number, cells in read_rows(source, split):
        if isinstance(cells, dict):
            yield f"{source}: row {number} as it will be read:"
            yield from (f"  {name}: {str(value)[:200]}" for name, value in cells.items())
            return
