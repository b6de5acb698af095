"""The benchmarks: where each one's rows come from, how many there must be, and what a question of it looks like.

Rows come from a local folder or from the hub, in any of these layouts, told apart by their columns:
    prompt (chat), reward_model.ground_truth     the papers' validation files, each AIME and AMC problem 32 times
    problem, answer                              plain
    the hub's own columns                        see `BENCHMARKS`
"""

import json
import logging
import string
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

from trapo.data.tokens import shorten
from trapo.grading.answers import gold_text

LETTERS = string.ascii_uppercase[:10]  # MMLU-Pro has up to ten choices
COMBINED = "valid.all.parquet"  # the papers' file of all six of `GROUPS["math"]`

Row = Mapping[str, Any]
Cells = tuple[str, Any, Sequence[str]]  # problem, right answer, all choices (none for mathematics)


def _columns(problem: str, answer: str) -> Callable[[Row], Cells]:
    return lambda row: (row[problem], row[answer], ())


def _gpqa(row: Row) -> Cells:
    choices = [row[column] for column in ("Correct Answer", *(f"Incorrect Answer {i}" for i in (1, 2, 3)))]
    return row["Question"], choices[0], choices


def _mmlu_pro(row: Row) -> Cells:
    right = row["options"][row["answer_index"]]
    # Its authors' own script drops these fillers too.
    return row["question"], right, [text for text in row["options"] if text == right or text.strip() != "N/A"]


def _arc(row: Row) -> Cells:
    labels, texts = row["choices"]["label"], row["choices"]["text"]  # A to E, or 1 to 5
    return row["question"], texts[labels.index(row["answerKey"])], texts


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: as users give it; its lm-eval task is `trapo_<name>`.
        kind: "math", graded by algebra; "choice", by the boxed letter; "world", the built-in world's rows.
        rows: how many questions it may have; empty where the caller decides.
        samples: of each question, by default: 32 where the papers give avg@32, else 1.
        read: a row in the hub's layout -> problem, right answer, choices.
        hub_id, config, split, revision: of the hub's dataset; hub_id is None for the world.
        revision_verified: whether anyone here has downloaded that revision and found `content_hash`.
        content_hash: of the papers' questions, see `content_hash`; None where nobody here has seen them.
    """

    name: str
    kind: str
    rows: tuple[int, ...]
    samples: int
    read: Callable[[Row], Cells]
    hub_id: str | None = None
    config: str | None = None
    split: str = "test"
    revision: str = "main"
    revision_verified: bool = False
    content_hash: str | None = None


_PROBLEM, _PROMPT = _columns("problem", "answer"), _columns("prompt", "answer")

# Revisions are those that public code pins; none could be downloaded here, hence none is verified, and where no pin was
# found it is "main". Hashes are those of the papers' files, whose answers the hub may spell otherwise.
BENCHMARKS = {
    b.name: b
    for b in (
        Benchmark("aime24", "math", (30,), 32, _PROBLEM, "HuggingFaceH4/aime_2024", split="train",
            revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a", content_hash="bad2768cab7db517"),
        Benchmark("aime25", "math", (30,), 32, _PROBLEM, "math-ai/aime25",
            revision="563bb8404243c5f09de6ec262f2db674fe5bce9b", content_hash="20163a6125362aa4"),
        # Not math-ai/amc23, which has 40 of them.
        Benchmark("amc23", "math", (83,), 32, _PROBLEM, "AI-MO/aimo-validation-amc", split="train",
            revision="69d78a4a2c840e82d69af6bc742bda09005f6316", content_hash="2d7da75a8d807674"),
        Benchmark("math500", "math", (500,), 1, _PROBLEM, "HuggingFaceH4/MATH-500",
            revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", content_hash="7156baeddb14a114"),
        Benchmark("minerva", "math", (272,), 1, _columns("question", "answer"), "math-ai/minervamath",
            content_hash="4c52b2dc11600b08"),
        Benchmark("olympiad", "math", (674, 675), 1, _columns("question", "final_answer"), "math-ai/olympiadbench",
            content_hash="bd192db9b71829fe"),  # the hub's 674; the papers' file has 675
        Benchmark("gpqa", "choice", (198,), 1, _gpqa, "Idavidrein/gpqa", "gpqa_diamond", "train",
            revision="633f5ee89ab8ad4522a9f850766b73f62147ffdd"),
        Benchmark("mmlu_pro", "choice", (12_032,), 1, _mmlu_pro, "TIGER-Lab/MMLU-Pro",
            revision="b189ec765aa7ed75c8acfea42df31fdae71f97be"),
        Benchmark("arc_c", "choice", (1_172,), 1, _arc, "allenai/ai2_arc", "ARC-Challenge",
            revision="210d026faf9955653af8916fad021475a3f00453"),
        # Held-out problems, and two probes of what training lets the model forget.
        *(Benchmark(f"world_{part}", "world", (), 1, _PROMPT) for part in ("test", "direct", "facts")),
    )
}  # fmt: skip
GROUPS = {
    "math": ("aime24", "aime25", "amc23", "math500", "minerva", "olympiad"),
    "general": ("gpqa", "mmlu_pro", "arc_c"),
    "world": ("world_test", "world_direct", "world_facts"),
    "all": tuple(BENCHMARKS),
}


class NotAtHand(ValueError):
    """A benchmark's rows are in no local file, nor can the hub be asked for them."""


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


def names(spec: str) -> list[str]:
    """The benchmarks of "aime24,general", in that order and none twice; raises ValueError for a name that is none."""
    parts = (part.strip() for part in spec.split(","))
    return list(dict.fromkeys(name for part in parts for name in GROUPS.get(part) or (_named(part).name,)))


_loaders: dict[str, Callable[[], Iterable[Row]]] = {}


def register(name: str, loader: Callable[[], Iterable[Row]]) -> None:
    """Let `load` take a benchmark's rows from `loader()` where no local file has them: how the world's get here."""
    _loaders[_named(name).name] = loader


def load(benchmark: str | Benchmark, data_dir: str | Path | None = None, seed: int = 0, check=True) -> list[Question]:
    """The questions of a benchmark, in the order of their source.

    Args:
        benchmark: or its name.
        data_dir: folder with <name>.parquet or <name>.jsonl, or the papers' valid.<name>.parquet or valid.all.parquet;
            what it lacks comes from where the rows are registered, or from the hub.
        seed: of the choices' order.
        check: whether the count, and the hash where one is known, must be right. That of a hub revision nobody has
            verified is only warned about.

    Raises:
        NotAtHand: no local file, and a hub out of reach, or one that wants its terms accepted first.
        ValueError: no such benchmark or folder; no rows, or others than the benchmark's, or of an unknown layout.
    """
    benchmark = _named(benchmark) if isinstance(benchmark, str) else benchmark
    name, path = benchmark.name, _find(benchmark.name, data_dir)
    if path:
        source, rows = str(path), _read_file(benchmark, path)
    elif name in _loaders:
        source, rows = "its registered loader", _loaders[name]()
    else:
        source, rows = f"{benchmark.hub_id} on the hub", _read_hub(benchmark)
    questions = _questions(benchmark, rows, source, seed)
    if not questions:
        raise ValueError(f"{name}: {source} has no rows")
    found, n = content_hash(questions), len(questions)
    remedy = "take the benchmark's own rows, or score these all the same with check=False"
    if check and n not in (benchmark.rows or [n]):
        raise ValueError(f"{name}: {source} has {n} questions (hash {found}), not {benchmark.rows[0]}: {remedy}")
    if check and found != (benchmark.content_hash or found):
        message = f"{name}: {source} has the content hash {found}, the papers' is {benchmark.content_hash}"
        if path or benchmark.revision_verified:
            raise ValueError(f"{message}: {remedy}")
        warnings.warn(f"{message}; its revision {benchmark.revision} is unverified", stacklevel=2)
    return questions


def source(name: str, data_dir: str | Path | None = None) -> str | None:
    """Where `load` takes a benchmark's rows from: a local file, or the hub's dataset; None for registered rows."""
    benchmark = _named(name)
    if path := _find(name, data_dir):
        return str(path)
    if name in _loaders or benchmark.hub_id is None:
        return None
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


def _named(name: str) -> Benchmark:
    if name not in BENCHMARKS:
        raise ValueError(f"{name!r} is no benchmark: there are {', '.join(BENCHMARKS)}; groups {', '.join(GROUPS)}")
    return BENCHMARKS[name]


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _line(question: Question) -> str:
    answer = question.choices[LETTERS.index(question.answer)] if question.choices else question.answer
    return f"{_folded(' '.join((question.problem, *sorted(question.choices))))}\t{_folded(answer)}"


def _find(name: str, data_dir: str | Path | None) -> Path | None:
    if data_dir is None:
        return None
    if not Path(data_dir).is_dir():
        raise ValueError(f"the data folder {data_dir} is none: give the one that holds {name}.parquet or {name}.jsonl")
    files = [f"{stem}.{kind}" for stem in (name, f"valid.{name}") for kind in ("parquet", "jsonl")]
    files += [COMBINED] * (name in GROUPS["math"])
    return next((path for path in (Path(data_dir, file) for file in files) if path.is_file()), None)


def _read_file(benchmark: Benchmark, path: Path) -> list[Row]:
    import pyarrow.parquet as pq  # here, so that `--help` need not wait for it

    where = ""
    try:
        if path.suffix == ".parquet":
            rows = pq.read_table(path).to_pylist()
        else:
            rows, text = [], path.read_text(encoding="utf-8-sig")
            for number, line in enumerate(text.split("\n"), 1):  # not splitlines: problems may hold U+2028
                if line.strip():
                    where = f", line {number}"
                    rows.append(json.loads(line))
    except (OSError, ValueError) as error:  # pyarrow's errors are of these kinds
        raise ValueError(f"{benchmark.name}: {path}{where} cannot be read: {_said(error)}") from error
    if path.name != COMBINED:
        return rows
    sources = sorted({str(row.get("data_source")) for row in rows})
    for source in sources:  # what they are called is not known for sure, what is in them is
        part = [row for row in rows if str(row.get("data_source")) == source]
        if content_hash(_questions(benchmark, part, str(path), 0)) == benchmark.content_hash:
            return part
    found = f"no data source in {path} ({', '.join(sources)}) has the content hash {benchmark.content_hash}"
    raise ValueError(f"{benchmark.name}: {found}: put {benchmark.name}.parquet or {benchmark.name}.jsonl beside it")


def _read_hub(benchmark: Benchmark) -> Iterable[Row]:
    name, files = benchmark.name, f"put {benchmark.name}.parquet or .jsonl into a folder and give it as --data-dir"
    if benchmark.hub_id is None:
        raise NotAtHand(f"{name}: its rows come from `trapo eval`; elsewhere, {files}")
    from datasets import load_dataset

    try:
        with _one_attempt():
            return load_dataset(benchmark.hub_id, benchmark.config, split=benchmark.split, revision=benchmark.revision)
    except Exception as error:  # datasets raises many kinds
        reason = _reason(error, benchmark.hub_id)
        raise NotAtHand(f"{name}: {benchmark.hub_id} (revision {benchmark.revision}) {reason}; or {files}") from error


@contextmanager
def _one_attempt() -> Iterator[None]:
    """Offline where the hub does not answer, and no log lines: our one error says it all.

    The libraries would try each request six times, for 20 seconds, and warn each time. Offline they look in their
    cache at once.
    """
    import datasets.config
    from httpx import TransportError
    from huggingface_hub import constants, get_session

    loggers = [logging.getLogger(library) for library in ("huggingface_hub", "datasets")]
    before = [logger.level for logger in loggers], datasets.config.HF_HUB_OFFLINE
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            get_session().head(constants.ENDPOINT, timeout=10)  # whatever it answers, it is there
        except (ConnectionError, TransportError):  # the former where HF_HUB_OFFLINE forbids to ask
            datasets.config.HF_HUB_OFFLINE = True
        yield
    finally:
        for logger, level in zip(loggers, before[0], strict=True):
            logger.setLevel(level)
        datasets.config.HF_HUB_OFFLINE = before[1]


def _reason(error: BaseException, hub_id: str) -> str:
    """Why the hub gave no rows, and what to do."""
    from httpx import TransportError
    from huggingface_hub.errors import GatedRepoError

    chain: list[BaseException | None] = [error]
    while (last := chain[-1]) is not None:
        chain.append(last.__cause__ or last.__context__)
    # Of a gated set datasets 5.2 leaves only the words: it raises its error `from None`, out of another's handler.
    if any(isinstance(e, GatedRepoError) for e in chain) or "is a gated dataset" in str(error):
        return f"is gated: accept its terms at https://huggingface.co/datasets/{hub_id} and set HF_TOKEN"
    if any(isinstance(e, ConnectionError | TransportError) for e in chain):
        return "is not cached, and the hub is out of reach: try again with a connection and without HF_HUB_OFFLINE"
    return f"cannot be loaded from the hub: {_said(error)}"


def _said(error: Exception | str) -> str:
    return shorten(" ".join(str(error).split()), 200)


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
        raise ValueError(f"{benchmark.name}: {where} has {columns}, but {_said(repr(error))}: {known}") from error
    nothing = right is None or right != right or not gold_text(right)
    if not isinstance(problem, str) or not problem.strip() or nothing:
        raise ValueError(f"{benchmark.name}: {where} has the problem {problem!r} and the answer {right!r}: give both")
    if not choices:
        whole = isinstance(right, float) and right.is_integer()  # the hub has AMC's answers as 27.0
        gold = gold_text(int(right) if whole else right)
        if benchmark.kind == "choice" and gold not in tuple(LETTERS):
            raise ValueError(f"{benchmark.name}: {where} has no choices and the answer {gold!r}: give a letter, A to J")
        return Question("", problem, gold)
    if not 2 <= len(choices) <= len(LETTERS):
        raise ValueError(f"{benchmark.name}: {where} has {len(choices)} choices: give 2 to {len(LETTERS)}")
    shown = shuffled(choices, seed, problem)
    return Question("", problem.strip(), LETTERS[shown.index(right.strip())], tuple(shown))


def _cells(benchmark: Benchmark, row: Row) -> Cells:
    if row.get("reward_model") is not None:
        return row["prompt"][-1]["content"], row["reward_model"]["ground_truth"], ()
    return _PROBLEM(row) if {"problem", "answer"} <= row.keys() else benchmark.read(row)
