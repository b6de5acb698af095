import json
import random
import shutil
from pathlib import Path

import conftest
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from trapo import TRAPOConfig
from trapo.data.defects import REASONS
from trapo.data.read import read_rows, to_layout
from trapo.data.tokens import prompt_text
from trapo.data.validate import Screen
from trapo.grading.grader import Grader, Verdict
from trapo_cli.cli import app

CONTEXT, COMPLETION = 64, 40  # which leaves 24 tokens (bytes) for a prompt
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "{{ m['content'] }}{% endfor %}>"
)


@pytest.fixture(scope="module")
def grader():
    with Grader(cpu_seconds=2.0) as grader:
        yield grader


@pytest.fixture(scope="module")
def chat_tokenizer():
    tokenizer = conftest.new_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def config(**fields):
    return TRAPOConfig(use_cpu=True, **({"max_completion_length": COMPLETION} | fields))


def screen(path, tokenizer, grader, context=CONTEXT, experts=True, known=None, **fields):
    screen = Screen(config(**fields), tokenizer, grader, context=context, experts=experts, known=known)
    return screen(read_rows(str(path)), Path(path).name)


def write_jsonl(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def box(answer):
    return f"so \\boxed{{{answer}}}"


# ------------------------------------------------------------------ one row of every defect, in each layout


def chat(text):
    return [{"role": "system", "content": ""}, {"role": "user", "content": text}]


def ours(prompt, answer, expert):
    return {"prompt": prompt, "answer": answer, "expert": expert}


def openr1(prompt, answer, expert):
    target = expert and [{"role": "assistant", "content": text} for text in expert]
    prompt = prompt if isinstance(prompt, list) else chat(prompt)
    return {"prompt": prompt, "target": target, "reward_model": {"style": "rule", "ground_truth": answer}}


def reference(prompt, answer, expert):
    row = openr1(prompt, answer, None)
    return row | {"extra_info": {"index": 3, "answer_list": expert}}


LONG = "wait " * 8
# Rows that every layout and format can hold; the number of each reason was counted by hand, from the comments.
COMMON = [
    ("1+1=", "2", [box(2), box("2.0")]),  # fit
    ("2+2=", "4", None),  # fit; expert missing
    ("3+3=", "6", [LONG + box(6)]),  # fit; expert cut: 5 * 8 + 11 + EOS = 52 tokens are more than 40
    ("4+4=", "8", ["it is 8", box(9), None, " ", box(8)]),  # fit; without box, wrong, empty, empty
    ("5+5=", "10", ["<think>x</think> " + box(11)]),  # fit; wrong, so missing
    (None, "1", [box(1)]),  # prompt empty
    (" \n", "1", [box(1)]),  # prompt empty
    ("9" * 30 + "=", "1", [box(1)]),  # prompt too long
    ("6+6=", None, [box(12)]),  # answer missing
    ("7+7=", " ", [box(14)]),  # answer missing
    ("8+8=", "}{", [box(16)]),  # answer unparsable
    ("1+1=", "2", [box(2)]),  # duplicate
    ("1+1=", "3", [box(3)]),  # duplicate, with another answer
]
COUNTS = {
    "expert missing": 2,
    "expert cut": 1,
    "expert without box": 1,
    "expert wrong": 2,
    "expert empty": 2,
    "prompt empty": 2,
    "prompt too long": 1,
    "answer missing": 2,
    "answer unparsable": 1,
    "duplicate": 2,
}
FIT = ["1+1=", "2+2=", "3+3=", "4+4=", "5+5="]
# What JSON can hold besides.
JSON_ONLY = [
    (7, "1", [box(1)]),  # prompt not text (in chat layouts: the user's content)
    ("\ud800", "1", [box(1)]),  # prompt not text: half a character
    ([{"role": "tool", "content": "x"}], "1", [box(1)]),  # refused by the template
    ("9+9=", [18], [box(18)]),  # answer unparsable: a list
    ("9+8=", True, [box(17)]),  # answer unparsable: a truth value
    ("9+7=", float("nan"), [box(16)]),  # answer missing
    ("9+6=", float("-inf"), [box(15)]),  # answer unparsable
    ("9+5=", 14, [["x"], box(14)]),  # fit: the answer is a number; expert not text
]
LINES = ['{"prompt": "1+', "[1, 2]", "", "[" * 100_000, "\xff\xfe"]  # row unreadable, but for the empty line
JSON_COUNTS = COUNTS | {
    "prompt not text": 2,
    "prompt refused by its template": 1,
    "answer unparsable": 4,
    "answer missing": 3,
    "expert not text": 1,
    "row unreadable": 4,
}


@pytest.mark.parametrize("layout", [ours, openr1, reference])
def test_jsonl_with_every_defect(layout, tmp_path, chat_tokenizer, grader):
    rows = [layout(*row) for row in COMMON + JSON_ONLY]
    rows, counts = [*rows[:2], *LINES, *rows[2:]], dict(JSON_COUNTS)
    if layout is ours:
        rows.append(ours(chat("9+4="), "13", [box(13)]))
        counts["prompt of another kind"] = 1
    data, report = screen(write_jsonl(tmp_path / "d.jsonl", rows), chat_tokenizer, grader)
    assert {reason: n for reason, n in report.counts.items() if n} == counts
    prompts = [*FIT, "9+5="]
    assert data["prompt"][:] == (prompts if layout is ours else [chat(p) for p in prompts])
    assert data["answer"][:] == ["2", "4", "6", "8", "10", "14"]
    assert data["expert"][:] == [[box(2), box("2.0")], [], [LONG + box(6)], [box(8)], [], [box(14)]]
    assert data["id"][:] == ["1", "2", "8", "9", "10", str(5 + len(COMMON + JSON_ONLY))]  # the line's number
    assert report.rows == len(rows) - 1 and report.usable == 6


@pytest.mark.parametrize("layout", [ours, openr1, reference])
def test_parquet_with_every_defect(layout, tmp_path, chat_tokenizer, grader):
    pq.write_table(pa.Table.from_pylist([layout(*row) for row in COMMON]), tmp_path / "d.parquet")
    data, report = screen(tmp_path / "d.parquet", chat_tokenizer, grader)
    assert {reason: n for reason, n in report.counts.items() if n} == COUNTS
    assert data["prompt"][:] == (FIT if layout is ours else [chat(p) for p in FIT])
    assert data["expert"][:] == [[box(2), box("2.0")], [], [LONG + box(6)], [box(8)], []]
    assert data["id"][:] == ["1", "2", "3", "4", "5"]


def test_a_parquet_cell_of_broken_utf8_costs_its_row_only(tmp_path, tokenizer, grader):
    prompts = pa.array([b"1+1=", b"2+\xff=", b"3+3="], pa.binary()).view(pa.string())
    table = pa.table({"prompt": prompts, "answer": [2, 4, 6], "id": ["a", "b", "c"], "other": [{"x": 1}] * 3})
    pq.write_table(table, tmp_path / "d.parquet")
    data, report = screen(tmp_path / "d.parquet", tokenizer, grader)
    assert data[:] == {"id": ["a", "c"], "prompt": ["1+1=", "3+3="], "answer": ["2", "6"], "expert": [[], []]}
    assert report.dropped[0]["row"] == 2 and report.dropped[0]["reason"] == "row unreadable"


def test_openr1_and_reference_layouts_by_hand():
    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "1+1?"}]
    target = [{"role": "assistant", "content": "<think>\nhm\n</think>\n\\boxed{2}"}]
    row = {"data_source": "x", "prompt": prompt, "target": target, "reward_model": {"ground_truth": "2"}}
    assert to_layout(row) == {"id": None, "prompt": prompt, "answer": "2", "expert": target}
    row["extra_info"] = {"split": "train", "answer_list": ["a", "b"]}
    assert to_layout(row)["expert"] == ["a", "b"]
    assert to_layout({"prompt": "1+1?", "reward_model": "broken"})["answer"] is None


def test_every_drop_is_listed_with_row_id_reason_and_detail(tmp_path, tokenizer, grader):
    rows = [
        {"id": "a", "prompt": "1+1=", "answer": "2", "expert": [box(3), box(2)]},
        {"id": 17, "prompt": "1+1=", "answer": "\\frac{4}{2}", "expert": ["", box(2)]},  # one record: the row's
        "{",
        {"prompt": ["x"], "answer": "2"},
        {"prompt": "2+2=", "answer": "}{"},
    ]
    path = write_jsonl(tmp_path / "d.jsonl", rows)
    _, report = screen(path, tokenizer, grader)
    assert [tuple(record.values()) for record in report.dropped] == [
        ("d.jsonl", 1, "a", "expert wrong", 0, "it says '3', the answer is '2'"),
        ("d.jsonl", 2, "17", "duplicate", None, "it has the prompt of row 1, which has another answer, '2'"),
        ("d.jsonl", 3, "3", "row unreadable", None, "it is " + report.dropped[2]["detail"].removeprefix("it is ")),
        ("d.jsonl", 4, "4", "prompt not text", None, "a message is text"),
        ("d.jsonl", 5, "5", "answer unparsable", None, report.dropped[4]["detail"]),
    ]
    assert "not JSON" in report.dropped[2]["detail"] and report.dropped[4]["detail"].startswith("'}{': ")
    assert report.lines()[0] == "d.jsonl: 5 rows read, 1 usable" and len(report.lines()) == 6


def test_a_second_screening_takes_the_graders_word_from_the_first(tmp_path, chat_tokenizer, grader):
    path = write_jsonl(tmp_path / "d.jsonl", [ours(*row) for row in COMMON])
    data, report = screen(path, chat_tokenizer, grader)
    again, second = screen(path, chat_tokenizer, None, known=report.dropped)  # without a grader to ask
    assert again[:] == data[:] and second.dropped == report.dropped and second.counts == report.counts


def test_unchecked_experts_are_kept_and_a_grader_that_gives_up_drops_nobody(tmp_path, tokenizer):
    rows = [ours("1+1=", "2", [box(3), "no box"]), ours("2+2=", "4", [box("hard")])]
    path = write_jsonl(tmp_path / "d.jsonl", rows)

    class GivesUp(Grader):
        def grade(self, texts, golds, **how):
            verdicts = super().grade(texts, golds, **how)
            return [Verdict("timeout") if "hard" in t else v for t, v in zip(texts, verdicts, strict=True)]

    with GivesUp(workers=1) as grader:
        data, report = screen(path, tokenizer, grader, check_experts=False)
        assert data["expert"][:] == [row["expert"] for row in rows] and not report.dropped
        data, report = screen(path, tokenizer, grader)
    assert data["expert"][:] == [[], [box("hard")]]
    assert report.counts["expert unverified"] == 1


@pytest.mark.parametrize("fields", [{"guidance": "none"}, {"held_out": True}])
def test_experts_are_not_judged_where_nobody_is_shown_them(fields, tmp_path, tokenizer, grader):
    held_out = fields.pop("held_out", False)
    path = write_jsonl(tmp_path / "d.jsonl", [ours("1+1=", "2", [box(3), 7])])
    data, report = screen(path, tokenizer, grader, experts=not held_out, **fields)
    assert data["expert"][:] == [[] if held_out else [box(3)]] and not report.dropped


def test_an_sft_stage_has_its_experts_judged_without_any_guidance(tmp_path, tokenizer, grader):
    path = write_jsonl(tmp_path / "d.jsonl", [ours("1+1=", "2", [box(3), box(2)])])
    data, report = screen(path, tokenizer, grader, guidance="none", stages=["sft"])
    assert data["expert"][:] == [[box(2)]] and report.counts["expert wrong"] == 1


FILE_ERRORS = [
    ([ours(" ", "2", [])], {}, r"none of its 1 rows is usable \(prompt empty 1; the first, row 1: prompt empty,"),
    ([ours("1+1=", "2", [box(3)])], {}, "no expert's trace is usable .*expert wrong 1, .* set check_experts to false"),
    ([ours(chat("x"), "2", None)], {}, "the tokenizer has none: set template to 'reference' or 'raw'"),
    ([ours("1+1=", "2", None)], {"max_completion_length": 64}, "no room for a prompt in the model's context of 64"),
    ([{"question": "x"}], {}, "has the columns question, which is no known layout"),
    ([{}], {}, r"has the columns \(none\), which is no known layout"),
    (["{", "["], {}, "cannot be read: row 1 is not JSON"),
    ([], {}, "cannot be read: it is empty"),
    (["[{]"], {}, "cannot be read as json"),
]


@pytest.mark.parametrize(("rows", "fields", "message"), FILE_ERRORS)
def test_nothing_usable_is_one_line_that_says_why(rows, fields, message, tmp_path, tokenizer, grader):
    with pytest.raises(ValueError, match=message) as raised:
        screen(write_jsonl(tmp_path / "d.jsonl", rows), tokenizer, grader, **fields)
    assert "\n" not in str(raised.value)


def test_a_json_array_and_a_broken_parquet(tmp_path, tokenizer, grader):
    (tmp_path / "d.json").write_text(json.dumps([ours("1+1=", 2, box(2)), 3], indent=1))
    data, report = screen(tmp_path / "d.json", tokenizer, grader)
    assert data["expert"][:] == [[box(2)]] and report.counts["row unreadable"] == 1
    (tmp_path / "d.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        screen(tmp_path / "d.parquet", tokenizer, grader)


def test_a_dataset_of_the_hub_is_read_like_a_file(monkeypatch, tokenizer, grader):
    rows = Dataset.from_list([{"n": i, **reference(f"{i}+{i}=", str(2 * i), [box(2 * i)])} for i in range(1200)])
    asked = []
    monkeypatch.setattr("trapo.data.read.load_dataset", lambda name, split: asked.append((name, split)) or rows)
    data, report = screen("org/name", tokenizer, grader, template="raw")
    assert asked == [("org/name", "train")] and report.lines() == ["name: 1200 rows read, 1200 usable"]
    assert data[1199] == {"id": "1200", "prompt": chat("1199+1199="), "answer": "2398", "expert": [box(2398)]}


# ------------------------------------------------------------------ 10,000 fuzzed rows

TEXTS = st.one_of(
    st.text(max_size=12),
    st.text(st.characters(categories=["Cs", "Cc", "Lu"]), max_size=4),
    st.sampled_from(["1+1=", "2", box(2), "\\frac{1}{2}", "<think>", "</think>", "}{", "\\boxed{", "x" * 99, "NaN"]),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.just(10**400), TEXTS)
KEYS = st.sampled_from(["role", "content", "ground_truth", "answer_list", "x"])
CELLS = st.recursive(
    SCALARS, lambda c: st.one_of(st.lists(c, max_size=3), st.dictionaries(KEYS, c, max_size=3)), max_leaves=6
)
COLUMNS = ["id", "prompt", "answer", "expert", "target", "reward_model", "extra_info", "x"]
FUZZ = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def check_fuzzed(path, tokenizer, grader):
    """Either rows that a trainer can read, and counts that add up, or an error of one line."""
    try:
        data, report = screen(path, tokenizer, grader)
    except ValueError as error:
        assert "\n" not in str(error)
        str(error).encode()
        return
    assert report.rows == report.usable + sum(n for r, n in report.counts.items() if REASONS[r] == "row dropped")
    assert len(data) == report.usable == len({json.dumps(prompt) for prompt in data["prompt"]})
    for row in data:
        assert 0 < len(tokenizer(prompt_text(row["prompt"], tokenizer))["input_ids"]) <= CONTEXT - COMPLETION
        assert row["answer"].strip() and all(text.strip() for text in row["expert"])
    json.dumps(report.dropped).encode()
    "\n".join(report.lines()).encode()


@settings(FUZZ, max_examples=32)
@given(cells=st.lists(CELLS, min_size=8, max_size=40), junk=st.binary(max_size=20), seed=st.integers(0, 10**6))
def test_eight_thousand_fuzzed_json_rows(cells, junk, seed, tmp_path_factory, chat_tokenizer, grader):
    rng, lines = random.Random(seed), [junk]
    layouts = rng.sample([ours, openr1, reference], 3)
    while len(lines) < 250:
        layout = rng.choices(layouts, (20, 2, 1))[0]
        n = rng.randrange(1000)
        row = layout(f"{n}+{n}=", 2 * n, [box(2 * n)])
        columns = COLUMNS if rng.random() < 0.3 else [rng.choice(COLUMNS)]
        row |= {name: rng.choice(cells) for name in columns if rng.random() < 0.7}
        lines.append(json.dumps(row).encode())
    path = tmp_path_factory.mktemp("fuzz") / "d.jsonl"
    path.write_bytes(b"\n".join(lines))
    check_fuzzed(path, chat_tokenizer, grader)


MESSAGES = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
INT64 = st.integers(-(2**63), 2**63 - 1)
REWARD = pa.struct({"ground_truth": pa.string(), "answer_list": pa.list_(pa.string())})
ARROW = [
    (pa.string(), TEXTS),
    (pa.large_string(), TEXTS),
    (pa.binary(), st.binary(max_size=9)),
    (pa.bool_(), st.booleans()),
    (pa.float64(), st.floats()),
    (pa.int64(), INT64),
    (pa.timestamp("us"), INT64),  # most of them beyond Python's dates
    (pa.decimal128(20, 2), st.decimals(-999, 999, places=2)),
    (pa.list_(pa.string()), st.lists(TEXTS, max_size=3)),
    (pa.list_(pa.list_(pa.string())), st.lists(st.lists(TEXTS, max_size=2), max_size=2)),
    (MESSAGES, st.lists(st.fixed_dictionaries({}, optional={"role": TEXTS, "content": TEXTS}), max_size=2)),
    (REWARD, st.fixed_dictionaries({}, optional={"ground_truth": TEXTS})),
    (pa.map_(pa.string(), pa.int64()), st.lists(st.tuples(st.text(max_size=3), st.integers(0, 9)), max_size=2)),
    (pa.null(), st.none()),
]


@st.composite
def arrow_columns(draw):
    columns = {}
    for name in draw(st.lists(st.sampled_from(COLUMNS), min_size=3, max_size=6, unique=True)):
        kind, values = draw(st.sampled_from(ARROW))
        columns[name] = (kind, draw(st.lists(st.none() | values, min_size=3, max_size=9)))
    return columns


def writable(value):
    """Arrow's own text is UTF-8: what JSON may hold besides is left to JSON."""
    return json.loads(json.dumps(value).replace("\\ud", "?")) if isinstance(value, (str, list, dict)) else value


@settings(FUZZ, max_examples=40)
@given(columns=arrow_columns(), seed=st.integers(0, 10**6))
def test_two_thousand_fuzzed_parquet_rows(columns, seed, tmp_path_factory, chat_tokenizer, grader):
    rng, arrays = random.Random(seed), {}
    for name, (kind, values) in (
        {"prompt": (pa.string(), ["1+1=", "2+2="]), "answer": (pa.int64(), [1])} | columns
    ).items():
        values = values if pa.types.is_map(kind) else [writable(value) for value in values]
        arrays[name] = pa.array(rng.choices(values, k=50), kind)
    path = tmp_path_factory.mktemp("fuzz") / "d.parquet"
    pq.write_table(pa.table(arrays), path)
    check_fuzzed(path, chat_tokenizer, grader)


# ------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    conftest.new_model().save_pretrained(folder / "model")
    conftest.new_tokenizer().save_pretrained(folder / "model")
    rows = [*conftest.ROWS, ours(" ", "1", [box(1)]), ours("1+2=", "3", [box(4)])]
    write_jsonl(folder / "rows.jsonl", rows)
    return folder


def invoke(folder, *arguments):
    flags = ["--model", folder / "model", "--data", folder / "rows.jsonl", "--max_completion_length", 30]
    flags += ["--per_device_train_batch_size", 16, *arguments]
    return CliRunner().invoke(app, ["train", *map(str, flags)], prog_name="trapo")


def test_a_dry_run_shows_the_counts_and_one_rendered_row(folder):
    done = invoke(folder, "--dry-run", "--template", "raw", "--expert_text", "think")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout[done.stdout.index(str(folder / "rows.jsonl") + ": ") :].splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        f"{folder / 'rows.jsonl'}: 18 rows read, 17 usable",
        "prompt empty 1 row dropped",
        "expert wrong 1 trace dropped",
        "expert missing 1 row kept, without guidance",
        "The first row's prompt (template raw):",
        "0+0=",
        "Its first trace (expert_text think, 22 tokens with EOS):",
        "so",
        "",
        "it is \\boxed{0}<eos>",
        "Its answer: 0",
    ]


def test_training_lists_what_was_dropped_and_resumes_on_the_same_rows(folder):
    flags = ["--output_dir", folder / "run", "--save_steps", "1", "--max_steps"]
    done = invoke(folder, *flags, 2)
    assert done.exit_code == 0, (done.stderr, done.exception)
    assert "18 rows read, 17 usable" in done.stdout and "Its first trace" in done.stdout
    dropped = [json.loads(line) for line in (folder / "run/dropped.jsonl").read_text().splitlines()]
    source = str(folder / "rows.jsonl")
    assert [tuple(record.values()) for record in dropped] == [
        (source, 17, "17", "prompt empty", None, "nothing but white space"),
        (source, 18, "18", "expert wrong", 0, "it says '4', the answer is '3'"),
    ]
    assert json.loads((folder / "run/run.json").read_text())["rows"] == 17
    before = (folder / "run/rollouts.jsonl").read_bytes()
    dropped[1]["detail"] = "noted before"  # the grader is not asked again: this stays as it is
    write_jsonl(folder / "run/dropped.jsonl", dropped)
    shutil.rmtree(folder / "run/final")
    shutil.rmtree(folder / "run/checkpoints/checkpoint-2")
    done = invoke(folder, *flags, 2, "--resume")
    assert done.exit_code == 0, (done.stderr, done.exception)
    assert (folder / "run/rollouts.jsonl").read_bytes() == before
    again = [json.loads(line) for line in (folder / "run/dropped.jsonl").read_text().splitlines()]
    assert again == dropped
