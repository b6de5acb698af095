"""Which rows of a data file are fit for training: every row is looked at, every defect has a name and is counted.

A row with a defect of its own is dropped, and counts for the first one found. A trace with a defect is dropped alone:
its row is still good for RL. The run folder's `dropped.jsonl` lists both. Every rank and a resumed run see the same
rows: what the grader said, the only verdict that a time limit could sway, is asked once and then handed on.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset

from ..config import TRAPOConfig
from ..grading.grader import Grader, Verdict, boxed_answer
from .defects import Report
from .markup import CLOSINGS, SpecialTokens, begins_thought, closes_thought, join_trace, opened_by, rendered
from .read import BATCH, Cells, Defect, as_traces, is_text, read_answer, read_prompt, read_trace
from .rendering import Endless
from .tokens import Messages, expert_part, prompt_ids, prompt_text, shorten

GRADED = ("answer unparsable", "expert without box", "expert wrong")  # said by the grader, the others by looking

# Bounds a prompt's length without tokenizing it: a token stands for at least one byte, but for a few special ones.
SPECIAL_TOKENS = 8
TOKENIZE_AT_ONCE = 64

# Answers that need no proof of being readable: whole numbers, decimals, fractions.
_PLAIN_NUMBER = re.compile(r"[+-]?\d{1,18}(\.\d{1,18})?|[+-]?\\[dt]?frac\{\d{1,9}\}\{[1-9]\d{0,8}\}")
_CHAT = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
_NOT_PARSED = {
    "no_box": "it breaks the box around it",
    "gold-unparsed": "the grader has no reading for it",
    "wrong": "the grader does not find it equal to itself",
    "timeout": "grading it does not come to an end",
    "error": "grading it fails",
}


@dataclass
class _Row:
    number: int
    id: str
    prompt: str | Messages
    answer: str
    expert: list[Any]  # as it was read
    traces: dict[int, str] = field(default_factory=dict)  # those of `expert` that are fit, by index
    fit: bool = True
    opened: str = ""  # the thinking tag that the prompt ends in, as the model reads it
    closed: bool = False  # whether it ends in a thought that is over


class Screen:
    """Screens the rows of one source, once.

    Args:
        config: template, lengths, guidance, and whether experts are checked.
        tokenizer: for templates and lengths.
        grader: judges answers and traces.
        context: most tokens of prompt and completion together; None: no limit.
        experts: False for a held-out set, which has no use for them.
        known: the `dropped` of an earlier screening of the same rows: then nothing is graded again.
    """

    def __init__(
        self,
        config: TRAPOConfig,
        tokenizer,
        grader: Grader,
        *,
        context: int | None = None,
        experts: bool = True,
        known: list[dict[str, Any]] | None = None,
    ):
        self.config, self.tokenizer, self.grader = config, tokenizer, grader
        self.context, self.keep_experts = context, experts
        self.check_experts = experts and config.uses_experts
        self.known = None if known is None else {(r["row"], r["trace"]): r for r in known if r["reason"] in GRADED}
        self._verdicts: dict[str, Verdict] = {}  # of answers graded against themselves
        self._first: dict[bytes, tuple[int, str]] = {}  # a prompt's hash -> number and answer of the first row with it
        self._special = SpecialTokens(tokenizer)
        self._chat: bool | None = None  # whether the first fit prompt is chat messages

    def __call__(
        self, rows: Iterable[tuple[int, Cells | str]], source: str, progress: Callable[[int], None] = lambda n: None
    ) -> tuple[Dataset, Report]:
        """The fit rows, as `id`, `prompt`, `answer` and `expert` (a list of texts), and what was found.

        Args, Raises: as for `batches`.
        """
        tables = list(self.batches(rows, source, progress))
        return Dataset(pa.concat_tables(tables)), self.report

    def batches(
        self, rows: Iterable[tuple[int, Cells | str]], source: str, progress: Callable[[int], None] = lambda n: None
    ) -> Iterator[pa.Table]:
        """The fit rows, a batch at a time; what was found is in `report` when all are taken.

        Args:
            rows: as `data.read_rows` yields them.
            source: their name, for messages.
            progress: called now and then with the number of rows screened so far.

        Raises:
            ValueError: if no row is left, or no trace of those that there were; with the counts and the first defect.
        """
        if self.context is not None and self.config.max_completion_length >= self.context:
            raise ValueError(
                f"max_completion_length is {self.config.max_completion_length}, which leaves no room for a prompt in "
                f"the model's context of {self.context} tokens: lower it"
            )
        self.report, traces, rows = Report(source), 0, iter(rows)
        while batch := list(islice(rows, BATCH)):
            fit = self._screen([row for number, cells in batch if (row := self._read(number, cells))])
            if fit:
                yield self._table(fit)
            traces += sum(len(row.traces) for row in fit)
            self.report.rows += len(batch)
            self.report.usable += len(fit)
            progress(self.report.rows)
        self.report.dropped.sort(key=lambda record: record["row"])
        if not self.report.usable:
            raise ValueError(f"{source}: none of its {self.report.rows} rows is usable ({self.report.first('')})")
        if self.check_experts and not traces and any(r["trace"] is not None for r in self.report.dropped):
            raise ValueError(
                f"{source}: no expert's trace is usable ({self.report.first('expert')}): mend them, set check_experts "
                "to false to take wrong ones too, or train plain GRPO (guidance='none', stages=['rl'])"
            )

    def _drop(self, row: int, id: str, reason: str, detail: str, trace: int | None = None) -> None:
        self.report.counts[reason] += 1
        record = {"data": self.report.source, "row": row, "id": id, "reason": reason, "trace": trace, "detail": detail}
        self.report.dropped.append(record)

    def _drop_row(self, row: _Row, reason: str, detail: str) -> None:
        self._drop(row.number, row.id, reason, detail)
        row.fit = False

    def _drop_trace(self, row: _Row, trace: int, reason: str, detail: str) -> None:
        self._drop(row.number, row.id, reason, detail, trace)
        del row.traces[trace]

    # ---------------------------------------------------------------- one row by itself

    def _read(self, number: int, cells: Cells | str) -> _Row | None:
        if isinstance(cells, str):
            return self._drop(number, str(number), "row unreadable", f"it is {cells}")
        id = cells["id"]
        id = str(id) if is_text(id) or type(id) is int else str(number)
        expert = as_traces(cells["expert"]) if self.keep_experts else []
        try:
            return _Row(number, id, read_prompt(cells["prompt"]), read_answer(cells["answer"]), expert)
        except Defect as defect:
            return self._drop(number, id, defect.reason, defect.detail)

    def _table(self, rows: list[_Row]) -> pa.Table:
        columns = {
            "id": pa.array([row.id for row in rows], pa.string()),
            "prompt": pa.array([row.prompt for row in rows], _CHAT if self._chat else pa.string()),
            "answer": pa.array([row.answer for row in rows], pa.string()),
            "expert": pa.array([list(row.traces.values()) for row in rows], pa.list_(pa.string())),
        }
        return pa.table(columns)

    # ---------------------------------------------------------------- a batch of rows

    def _screen(self, rows: list[_Row]) -> list[_Row]:
        """Those of `rows` that are fit."""
        for check in (
            self._check_marks,
            self._check_prompts,
            self._check_answers,
            self._check_repeats,
            self._check_traces,
        ):
            check(rows)
            rows = [row for row in rows if row.fit]
        if self.check_experts:
            self.report.counts["expert missing"] += sum(not row.traces for row in rows)
        return rows

    def _check_prompts(self, rows: list[_Row]) -> None:
        template, arguments = self.config.template, self.config.chat_template_kwargs or {}
        room = None if self.context is None else self.context - self.config.max_completion_length
        for row in rows:
            if isinstance(row.prompt, list) and template == "tokenizer" and self.tokenizer.chat_template is None:
                detail = "the tokenizer has none: set template to 'reference' or 'raw'"
                self._drop_row(row, "prompt refused by its template", detail)
                continue
            try:
                text = prompt_text(row.prompt, self.tokenizer, template, **arguments)
            except Endless:  # whatever the row
                raise
            except Exception as error:
                self._drop_row(row, "prompt refused by its template", shorten(" ".join(str(error).split()), 200))
                continue
            row.opened, row.closed = opened_by(text), closes_thought(text)
            if isinstance(row.prompt, list) and not _asks(text, row.prompt[-1]["content"]):
                role = shorten(row.prompt[-1]["role"], 40)
                self._drop_row(
                    row, "prompt refused by its template", f"it leaves out the last message, of role {role!r}"
                )
                continue
            if room is not None and len(text.encode()) + SPECIAL_TOKENS > room:
                length = len(prompt_ids(row.prompt, self.tokenizer, template, **arguments))
                if length > room:
                    detail = (
                        f"{length} tokens and max_completion_length {self.config.max_completion_length} are more than "
                        f"the model's context of {self.context}"
                    )
                    self._drop_row(row, "prompt too long", detail)

    def _check_marks(self, rows: list[_Row]) -> None:
        """Prompts that a template has been at, and names of special tokens in them."""
        if self.config.special_tokens == "keep":
            return
        for row in rows:
            texts = [row.prompt] if isinstance(row.prompt, str) else [m["content"] for m in row.prompt]
            if mark := next((mark for text in texts if (mark := rendered(text))), None):
                self._drop_row(row, "prompt is a rendered template", f"it begins with {mark}: give the bare text")
            elif found := self._special.found(texts):
                if self.config.special_tokens == "drop":
                    self._drop_row(row, "prompt has special tokens", self._marks(found))
                    continue
                self.report.counts["special tokens escaped"] += 1
                row.prompt = (
                    self._special.escape(row.prompt)
                    if isinstance(row.prompt, str)
                    else [m | {"content": self._special.escape(m["content"])} for m in row.prompt]
                )

    def _check_trace_marks(self, rows: list[_Row]) -> None:
        """How traces go on from their prompts, and names of special tokens in them."""
        for row in rows:
            for i, text in list(row.traces.items()):
                if self.config.special_tokens != "keep":
                    text = row.traces[i] = self._special.without_end(text)
                    if mark := rendered(text):
                        detail = f"it begins with {mark}: give the bare text"
                        self._drop_trace(row, i, "expert is a rendered template", detail)
                        continue
                    if found := self._special.found([text]):
                        if self.config.special_tokens == "drop":
                            self._drop_trace(row, i, "expert has special tokens", self._marks(found))
                            continue
                        self.report.counts["special tokens escaped"] += 1
                        text = row.traces[i] = self._special.escape(text)
                if row.closed and begins_thought(text):
                    detail = "its prompt ends in a thought that is over: see chat_template_kwargs (enable_thinking)"
                    self._drop_trace(row, i, "expert thinks, its prompt not", detail)
                elif row.opened:
                    self.report.counts["expert joined"] += begins_thought(text)
                    self.report.counts["expert never closes <think>"] += not any(tag in text for tag in CLOSINGS)

    @staticmethod
    def _marks(found: list[str]) -> str:
        """What is said of special tokens in a text."""
        return f"{found[0]!r}, {len(found)} in all: set special_tokens to 'escape', or to 'keep' if they are meant"

    def _check_answers(self, rows: list[_Row]) -> None:
        """Whether a right sample could be graded right at all: the grader must be able to read the answer."""
        if self.known is not None:
            for row in rows:
                if record := self.known.get((row.number, None)):
                    self._drop_row(row, record["reason"], record["detail"])
            return
        new = dict.fromkeys(row.answer for row in rows if not _PLAIN_NUMBER.fullmatch(row.answer))
        new = [answer for answer in new if answer not in self._verdicts]
        boxes = [f"\\boxed{{{answer}}}" for answer in new]
        self._verdicts |= zip(new, self._grade(boxes, new, quick=False), strict=True)
        for row in rows:
            verdict = self._verdicts.get(row.answer)
            if verdict and verdict.status != "correct" and not verdict.wall:  # the wall clock speaks of the machine
                detail = f"{shorten(row.answer, 60)!r}: {_NOT_PARSED[verdict.status]}"
                self._drop_row(row, "answer unparsable", detail)

    def _check_repeats(self, rows: list[_Row]) -> None:
        for row in rows:
            chat = isinstance(row.prompt, list)
            self._chat = chat if self._chat is None else self._chat
            if chat != self._chat:
                kinds = ("chat messages", "text") if chat else ("text", "chat messages")
                self._drop_row(row, "prompt of another kind", "it is {}, those before are {}".format(*kinds))
                continue
            key = hashlib.blake2b(json.dumps(row.prompt).encode(), digest_size=16).digest()
            number, answer = self._first.setdefault(key, (row.number, row.answer))
            if number != row.number:
                other = "" if answer == row.answer else f", which has another answer, {shorten(answer, 60)!r}"
                self._drop_row(row, "duplicate", f"it has the prompt of row {number}{other}")

    def _check_traces(self, rows: list[_Row]) -> None:
        for row in rows:
            for i, value in enumerate(row.expert):
                try:
                    row.traces[i] = read_trace(value, self.config.expert_text)
                except Defect as defect:
                    if self.check_experts:
                        self._drop(row.number, row.id, defect.reason, defect.detail, i)
        if not self.check_experts:
            return
        self._check_trace_marks(rows)
        if self.config.check_experts or self.config.expert_too_long == "drop":
            self._check_lengths(rows)
        if self.known is not None:
            for row in rows:
                for i in list(row.traces):
                    if record := self.known.get((row.number, i)):
                        self._drop_trace(row, i, record["reason"], record["detail"])
        elif self.config.check_experts:
            self._check_correct(rows)

    def _check_lengths(self, rows: list[_Row]) -> None:
        limit, which = self.config.max_completion_length, self.config.expert_text
        parts = [
            (row, i, expert_part(join_trace(text, row.opened), which)) for row in rows for i, text in row.traces.items()
        ]
        parts = [part for part in parts if len(part[2].encode()) >= limit]
        for start in range(0, len(parts), TOKENIZE_AT_ONCE):
            some = parts[start : start + TOKENIZE_AT_ONCE]
            all_ids = self.tokenizer([text for _, _, text in some], add_special_tokens=False)["input_ids"]
            for (row, i, _), ids in zip(some, all_ids, strict=True):
                if len(ids) < limit:
                    continue
                if self.config.expert_too_long == "drop":
                    detail = f"{len(ids)} tokens and EOS are more than max_completion_length {limit}"
                    self._drop_trace(row, i, "expert too long", detail)
                else:
                    self.report.counts["expert cut"] += 1

    def _check_correct(self, rows: list[_Row]) -> None:
        traces = [(row, i) for row in rows for i in row.traces]
        verdicts = self._grade([row.traces[i] for row, i in traces], [row.answer for row, _ in traces])
        for (row, i), verdict in zip(traces, verdicts, strict=True):
            if verdict.status == "no_box":
                self._drop_trace(row, i, "expert without box", "no \\boxed{} answer behind its last </think>")
            elif verdict.status == "wrong":
                said, right = (shorten(text.strip(), 60) for text in (boxed_answer(row.traces[i]), row.answer))
                self._drop_trace(row, i, "expert wrong", f"it says {said!r}, the answer is {right!r}")
            elif verdict.status != "correct":
                # Not a verdict on the trace. Nobody is dropped for a limit of ours.
                self.report.counts["expert unverified"] += 1

    def _grade(self, texts: list[str], golds: list[str], quick: bool = True) -> list[Verdict]:
        """The main process's verdicts, on every rank: near a time limit two of them might not agree."""
        main = PartialState().is_main_process
        return broadcast_object_list([self.grader.grade(texts, golds, quick=quick) if main else None])[0]


def _asks(text: str, question: str) -> bool:
    """Whether a rendered prompt has its question in it: some templates leave out roles that they do not know."""
    return all(word in text for word in question.split()[:4])
