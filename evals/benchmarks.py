"""A benchmark's questions, with the right count and content, and what each looks like.

Rows come from a local folder, from a file of the user's own or from the hub, in any of these layouts, told apart by
their columns:
    prompt (chat), reward_model.ground_truth     the papers' validation files, each AIME and AMC problem 32 times
    problem, answer                              plain
    the hub's own columns                        see `catalogue`
"""

import re
import string
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b, sha256
from pathlib import Path

from trapo.data.tokens import shorten
from trapo.grading.answers import boxed_answer, gold_text

from .catalogue import BENCHMARKS, GROUPS, Benchmark, Cells, Row, own_cells
from .rows import KINDS, NotAtHand, kind_of, read_file, read_hub, said

__all__ = ["BENCHMARKS", "GROUPS", "Benchmark", "NotAtHand", "Question", "load", "named", "names", "register", "source"]

LETTERS = string.ascii_uppercase[:10]  # MMLU-Pro has up to ten choices
NUMBERS = string.digits[1:]  # in the papers' file 22 questions of ARC have their choices numbered
COMBINED = "valid.all.parquet"  # the papers' file of all six of `GROUPS["math"]`
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        id: of what it says, so the same in every file and order; a later one that says the same ends in -2, -3, ...
        problem: its text, without the choices.
        answer: the gold answer, a letter where there are choices.
        choices: in the order shown, lettered from A; empty for mathematics and the world.
    """

    id: str
    problem: str
    answer: str
    choices: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        r"""What the model is asked: the problem and, where there are choices, these and the request for a letter."""
        if not self.choices:
            return self.problem
        shown = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, self.choices, strict=False))
        return f"{self.problem}\n\n{shown}\n\nGive the letter of the right choice in \\boxed{{}}, such as \\boxed{{A}}."


def parts(spec: str) -> list[str]:
    """ "aime24, math, aime24" as ["aime24", "math"]."""
    return list(dict.fromkeys(part.strip() for part in spec.split(",")))


def names(spec: str) -> list[str]:
    """The benchmarks of "aime24,general,mine=rows.csv" as `named` takes them, in that order and none twice.

    Raises:
        ValueError: a name that is none, or two files under one name.
    """
    found = list(dict.fromkeys(name for part in parts(spec) for name in GROUPS.get(part) or (part,)))
    short = [named(name).name for name in found]
    if twice := [name for name in short if short.count(name) > 1]:
        raise ValueError(f"--bench {spec}: {twice[0]} names two files: give each a name of its own")
    return found


def named(name: str) -> Benchmark:
    """The benchmark of a name, or of "mine=rows.csv", the user's own file; ValueError where there is none."""
    own, given, path = name.partition("=")
    if not given:
        if name not in BENCHMARKS:
            raise ValueError(
                f"{name!r} is no benchmark: there are {', '.join(BENCHMARKS)}; groups {', '.join(GROUPS)}; "
                "or a file of your own, mine=rows.parquet"
            )
        return BENCHMARKS[name]
    if not _NAME.fullmatch(own) or own in BENCHMARKS or own in GROUPS:
        raise ValueError(f"--bench {name}: {own!r} cannot name your file: use letters and digits, and no name of ours")
    return Benchmark(own, kind_of(own, Path(path)), (), 1, own_cells, path=Path(path))


_loaders: dict[str, Callable[[], Iterable[Row]]] = {}


def register(name: str, loader: Callable[[], Iterable[Row]]) -> None:
    """Let `load` take a benchmark's rows from `loader()` where no local file has them: how the world's get here."""
    _loaders[named(name).name] = loader


def load(benchmark: str | Benchmark, data_dir: str | Path | None = None, seed: int = 0, check=True) -> list[Question]:
    """The questions of a benchmark, in the order of their source.

    Args:
        benchmark: or its name, or "mine=rows.csv".
        data_dir: folder with <name>.parquet, .jsonl or .csv, or the papers' files, valid.<name>.parquet and
            valid.all.parquet; what it lacks comes from where the rows are registered, or from the hub.
        seed: of the choices' order.
        check: whether the count, and the hash where one is known, must be right. That of a hub revision nobody has
            verified is only warned about.

    Raises:
        NotAtHand: no local file, and a hub out of reach, or one that wants its terms accepted first.
        ValueError: no such benchmark or folder; no rows, or others than the benchmark's, or of an unknown layout.
    """
    benchmark = named(benchmark) if isinstance(benchmark, str) else benchmark
    name, path = benchmark.name, _find(benchmark, data_dir)
    if path:
        where, rows = str(path), _read_file(benchmark, path)
    elif name in _loaders:
        where, rows = "its registered loader", _loaders[name]()
    else:
        where, rows = f"{benchmark.hub_id} on the hub", read_hub(benchmark)
    questions = _questions(benchmark, rows, where, seed)
    if not questions:
        raise ValueError(f"{name}: {where} has no rows")
    found, n = content_hash(questions), len(questions)
    remedy = "take the benchmark's own rows, or score these all the same with check=False"
    if check and n not in (benchmark.rows or [n]):
        raise ValueError(f"{name}: {where} has {n} questions (hash {found}), not {benchmark.rows[0]}: {remedy}")
    if check and found != (benchmark.content_hash or found):
        message = f"{name}: {where} has the content hash {found}, the papers' is {benchmark.content_hash}"
        if path or benchmark.revision_verified:
            raise ValueError(f"{message}: {remedy}")
        warnings.warn(f"{message}; its revision {benchmark.revision} is unverified", stacklevel=2)
    return questions


def source(benchmark: str | Benchmark, data_dir: str | Path | None = None) -> str | None:
    """Where `load` takes a benchmark's rows from: a local file, or the hub's dataset; None for registered rows."""
    benchmark = named(benchmark) if isinstance(benchmark, str) else benchmark
    if path := _find(benchmark, data_dir):
        return str(path)
    if benchmark.name in _loaders or benchmark.hub_id is None:
        return benchmark.url
    parts = (benchmark.hub_id, benchmark.config, benchmark.split, f"revision {benchmark.revision}")
    verified = "" if benchmark.revision_verified else " (unverified)"
    return ", ".join(part for part in parts if part) + verified


def content_hash(questions: Iterable[Question]) -> str:
    """First 16 hex digits of the SHA-256 of what is asked: the sorted distinct lines `problem TAB answer`.

    Each part is NFC-normalised with white space folded. With choices the problem is followed by all of them, sorted,
    and the answer is the right one's text: neither seed nor order of a file changes the hash.
    """
    return sha256("\n".join(sorted({_line(q) for q in questions})).encode()).hexdigest()[:16]


def shuffled(choices: Iterable[str], seed: int, question: str) -> list[str]:
    """Choices in an order that is a pure function of seed, question and choices, whatever order they come in."""
    salt = f"{seed}\0{_folded(question)}\0"
    return sorted(choices, key=lambda choice: blake2b((salt + choice).encode()).digest())


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _line(question: Question) -> str:
    answer = question.choices[LETTERS.index(question.answer)] if question.choices else question.answer
    return f"{_folded(' '.join((question.problem, *sorted(question.choices))))}\t{_folded(answer)}"


def _find(benchmark: Benchmark, data_dir: str | Path | None) -> Path | None:
    name = benchmark.name
    if benchmark.path or data_dir is None:
        return benchmark.path
    if not Path(data_dir).is_dir():
        raise ValueError(f"the data folder {data_dir} is none: give the one that holds {name}.parquet, .jsonl or .csv")
    stems = dict.fromkeys((name, f"valid.{name}", *benchmark.files))
    files = [f"{stem}.{kind}" for stem in stems for kind in KINDS]
    files += [COMBINED] * (name in GROUPS["math"])
    return next((path for path in (Path(data_dir, file) for file in files) if path.is_file()), None)


def _read_file(benchmark: Benchmark, path: Path) -> list[Row]:
    rows = read_file(benchmark, path)
    if path.name != COMBINED:
        return rows
    sources = sorted({str(row.get("data_source")) for row in rows})
    for one in sources:  # what they are called is not known for sure, what is in them is
        part = [row for row in rows if str(row.get("data_source")) == one]
        if content_hash(_questions(benchmark, part, str(path), 0)) == benchmark.content_hash:
            return part
    found = f"no data source in {path} ({', '.join(sources)}) has the content hash {benchmark.content_hash}"
    raise ValueError(f"{benchmark.name}: {found}: put {benchmark.name}.parquet or {benchmark.name}.jsonl beside it")


def _questions(benchmark: Benchmark, rows: Iterable[Row], source: str, seed: int) -> list[Question]:
    questions = [_question(benchmark, row, f"{source}, row {i}", seed) for i, row in enumerate(rows, 1)]
    if benchmark.rows and len(questions) not in benchmark.rows:
        # Not always: a set of the right size that asks something twice is what the papers averaged over.
        questions = list({_line(q): q for q in questions}.values())
    times, numbered = Counter(), []
    for q in questions:
        id = blake2b(_line(q).encode(), digest_size=8).hexdigest()
        times[id] += 1
        numbered.append(replace(q, id=id if times[id] == 1 else f"{id}-{times[id]}"))
    return numbered


def _question(benchmark: Benchmark, row: Row, where: str, seed: int) -> Question:  # its id is still to come
    try:
        problem, right, choices = _cells(benchmark, row)
        choices = {text.strip() for text in choices}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        columns = shorten(", ".join(map(str, row)), 200) if isinstance(row, Mapping) else type(row).__name__
        known = "give problem and answer, the papers' prompt and reward_model, or the hub's columns"
        raise ValueError(f"{benchmark.name}: {where} has {columns}, but {said(repr(error))}: {known}") from error
    nothing = right is None or right != right or not gold_text(right)
    if not isinstance(problem, str) or not problem.strip() or nothing:
        raise ValueError(f"{benchmark.name}: {where} has the problem {problem!r} and the answer {right!r}: give both")
    if not choices:
        whole = isinstance(right, float) and right.is_integer()  # the hub has AMC's answers as 27.0
        gold = gold_text(int(right) if whole else right)
        if gold.startswith("\\boxed"):
            gold = boxed_answer(gold) or gold
        if benchmark.kind == "choice" and gold not in (*LETTERS, *NUMBERS):
            message = f"{where} has no choices and the answer {gold!r}: give a letter, A to J, or a number, 1 to 9"
            raise ValueError(f"{benchmark.name}: {message}")
        return Question("", problem, gold)
    if not 2 <= len(choices) <= len(LETTERS):
        raise ValueError(f"{benchmark.name}: {where} has {len(choices)} choices: give 2 to {len(LETTERS)}")
    shown = shuffled(choices, seed, problem)
    return Question("", problem.strip(), LETTERS[shown.index(right.strip())], tuple(shown))


def _cells(benchmark: Benchmark, row: Row) -> Cells:
    if row.get("reward_model") is not None:
        return row["prompt"][-1]["content"], row["reward_model"]["ground_truth"], ()
    return own_cells(row) if {"problem", "answer"} <= row.keys() else benchmark.read(row)
