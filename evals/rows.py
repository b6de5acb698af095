"""A benchmark's rows from a file or from the hub, as dictionaries, whatever is in them."""

import csv
import io
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from trapo.data.tokens import shorten

from .catalogue import Benchmark, Row

KINDS = ("parquet", "jsonl", "csv")


class NotAtHand(ValueError):
    """A benchmark's rows are in no local file, nor can the hub be asked for them."""


def read_file(benchmark: Benchmark, path: Path) -> list[Row]:
    """The rows of a .parquet, .jsonl or .csv file; ValueError, with the line, where it cannot be read."""
    import pyarrow.parquet as pq  # here, so that `--help` need not wait for it

    where: list[str] = []  # how far it came
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path).to_pylist()
        if path.suffix == ".csv":
            return list(_csv(_repaired(benchmark, path.read_bytes()), where))
        return list(_jsonl(path.read_text(encoding="utf-8-sig"), where))
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are of these kinds
        raise ValueError(f"{benchmark.name}: {path}{''.join(where)} cannot be read: {said(error)}") from error


def _jsonl(text: str, where: list[str]) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: problems may hold U+2028
        if line.strip():
            where[:] = [f", line {number}"]
            yield json.loads(line)


def _csv(content: bytes, where: list[str]) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    header = next(reader, [])
    for number, cells in enumerate(reader, 1):
        where[:] = [f", row {number} (line {reader.line_num})"]
        if len(cells) != len(header):
            raise ValueError(
                f"it has {len(cells)} cells, the header {len(header)}: a quote or a comma is missing there"
            )
        # Lists and objects are written as JSON in a cell.
        yield {name: json.loads(cell) if cell[:1] in ("[", "{") and _is_json(cell) else cell
               for name, cell in zip(header, cells, strict=True)}  # fmt: skip


def _is_json(cell: str) -> bool:
    try:
        return isinstance(json.loads(cell), list | dict)
    except ValueError:
        return False


def _repaired(benchmark: Benchmark, content: bytes) -> bytes:
    """The file whose faults are known, without them; any other as it is."""
    if sha256(content).hexdigest() == benchmark.sha256:
        for wrong, right in benchmark.repairs:
            content = content.replace(wrong, right) if content.count(wrong) == 1 else content
    return content


def kind_of(name: str, path: Path) -> str:
    """ "choice" for a user's file whose rows have choices, "math" for others; ValueError where it cannot be read."""
    if path.suffix not in [f".{kind}" for kind in KINDS]:
        raise ValueError(f"--bench {name}={path}: give a .parquet, .jsonl or .csv file")
    rows = read_file(Benchmark(name, "math", (), 1, lambda row: ("", "", ())), path)
    first = rows[0] if rows and isinstance(rows[0], dict) else {}
    choices = "Correct Answer" in first or first.get("options") is not None or first.get("choices") is not None
    return "choice" if choices else "math"


def read_hub(benchmark: Benchmark) -> Iterable[Row]:
    """The rows of the hub's dataset; NotAtHand where there is none, or no way to it."""
    name, files = (
        benchmark.name,
        f"put {benchmark.name}.parquet, .jsonl or .csv into a folder and give it as --data-dir",
    )
    if benchmark.url is not None:
        raise NotAtHand(f"{name}: its rows are not on the hub: take {benchmark.url} and {files}")
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
    return f"cannot be loaded from the hub: {said(error)}"


def said(error: Exception | str) -> str:
    """An error's words on one short line."""
    return shorten(" ".join(str(error).split()), 200)
