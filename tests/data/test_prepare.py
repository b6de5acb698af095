"""`trapo data prepare`: checks, join, decontamination, and that the same input gives the same bytes."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from places import DATA as SHARED
from typer.testing import CliRunner

from trapo.data.decontaminate import Index, words
from trapo.data.prepare import Settings, prepare
from trapo.data.read import read_rows
from trapo.data.second_traces import key_of
from trapo_cli.cli import app

QUESTION = (
    "Every morning Aya goes for a $9$-kilometer-long walk and stops at a coffee shop afterwards. When she walks at a "
    "constant speed of $s$ kilometers per hour, the walk takes her 4 hours. Find the number of minutes."
)


def row(problem, answer="4", trace=r"So it is \boxed{4}.", **more):
    return {"prompt": problem, "answer": answer, "expert": [trace]} | more


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def prepared(tmp_path, rows, questions=None, **fields):
    source = write(tmp_path / "source.jsonl", rows)
    fields = {"check_experts": False, "overwrite": True} | fields
    settings = Settings(source, tmp_path / fields.pop("out", "out.jsonl"), **fields)
    return prepare(settings, questions or {}, {}), settings.out


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


# ------------------------------------------------------------------ decontamination


def test_words_by_hand():
    assert words(r"Find  $\dfrac{1}{2}\,x^2$ ,  Then STOP.") == ["find", "frac", "1", "2", "x", "2", "then", "stop"]
    assert words(r"\left( a \right)~ \quad b") == ["a", "b"]
    assert words("９ Kilomètres") == ["9", "kilomètres"]  # full width digits


VARIANTS = {
    "itself": QUESTION,
    "case": QUESTION.upper(),
    "white space": QUESTION.replace(" ", " \n "),
    "latex spacing": QUESTION.replace("$9$", r"$\,9\;$").replace("$s$", r"\(s\)"),
    "with an introduction": "Solve the following problem carefully. " + QUESTION + " Put the answer in a box.",
    "one sentence changed": QUESTION.replace("Find the number of minutes.", "How long does she sit there, in minutes?"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_repeated_question_is_found(name):
    (match,) = Index({"aime24": [("q7", QUESTION)]}).matches(VARIANTS[name])
    assert (match.benchmark, match.question) == ("aime24", "q7") and match.share >= 0.5


MISSED = {  # what n-grams cannot see, as the documentation says
    "in other words": "Aya hikes nine kilometres daily before she has coffee; at speed s the hike lasts four hours.",
    "in another language": "Jeden Morgen geht Aya neun Kilometer spazieren und kehrt danach in einem Café ein.",
    "with other numbers in every clause": QUESTION.replace("morning Aya", "evening Bob").replace("9", "11")
    .replace("coffee shop", "book store").replace("constant speed", "steady pace").replace("takes her 4", "lasts 5"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISSED)
def test_what_is_not_found(name):
    assert Index({"aime24": [("q7", QUESTION)]}).matches(MISSED[name]) == []


def test_shares_by_hand():
    index = Index({"b": [("ten", "a b c d e f g h i j"), ("short", "what is two plus two")]})  # 3 runs of 8; 5 words
    assert [m.share for m in index.matches("x a b c d e f g h i y")] == [round(2 / 3, 4)]
    assert index.matches("x a b c d e f g h y") == []  # 1 of 3
    assert [m.question for m in index.matches("What is two plus two?")] == ["short"]
    assert index.matches("Well, what is two plus two?") == []


def test_planted_questions_of_a_real_benchmark_are_found(tmp_path):
    if not (SHARED / "math500.parquet").exists():
        pytest.skip(f"no benchmark file in {SHARED}")
    from trapo_evals import benchmarks

    questions = [(q.id, q.problem) for q in benchmarks.load("math500", SHARED)]
    planted = [text.replace(" ", "  ").upper() for _, text in questions[:40]]
    own = [f"Compute the product of {a} and {a + 3}, then add {b}." for a in range(20) for b in range(10)]
    summary, out = prepared(tmp_path, [row(text) for text in planted + own], {"math500": questions})
    matches = lines(f"{out}.contaminated.jsonl")
    assert {m["id"] for m in matches} == {str(i) for i in range(1, 41)}
    assert summary.contaminated == {"math500": 40} and summary.kept == 240


def test_how_much_of_a_real_question_must_be_there(tmp_path):
    """What docs/data.md says of MATH-500, planted whole, with words around it, and in part."""
    if not (SHARED / "math500.parquet").exists():
        pytest.skip(f"no benchmark file in {SHARED}")
    from trapo_evals import benchmarks

    questions = [(q.id, q.problem) for q in benchmarks.load("math500", SHARED)]
    index = Index({"math500": questions})

    def found(share, around="{}", edit=str):
        texts = [" ".join(text.split()[: round(share * len(text.split()))]) for _, text in questions]
        matches = [index.matches(edit(around.format(text))) for text in texts]
        return sum(name in [m.question for m in found] for (name, _), found in zip(questions, matches, strict=True))

    assert found(1.0) == 500
    assert found(1.0, edit=str.upper) == 500
    assert (
        found(1.0, edit=lambda text: text.replace(" ", "\n  ").replace("$", " $ ").replace("\\frac", "\\,\\dfrac "))
        == 500
    )
    assert found(1.0, "Solve: {} Show all of your work.") == 488  # the other 12 have fewer than eight words
    assert [found(share) for share in (0.8, 0.6, 0.4)] == [440, 200, 7]


def test_a_file_of_nothing_but_repeated_questions_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="every usable row of it repeats a benchmark's question"):
        prepared(tmp_path, [row(QUESTION)], {"aime24": [("q7", QUESTION)]}, drop_contaminated=True)
    assert [path.name for path in tmp_path.iterdir()] == ["source.jsonl"]


def test_contaminated_rows_are_listed_and_dropped_on_request(tmp_path):
    rows = [row("What is 1 + 3 in all, tell me now please?"), row(QUESTION)]
    kept, _ = prepared(tmp_path, rows, {"aime24": [("q7", QUESTION)]})
    dropped, out = prepared(tmp_path, rows, {"aime24": [("q7", QUESTION)]}, drop_contaminated=True)
    assert (kept.kept, dropped.kept) == (2, 1) and [r["prompt"] for r in lines(out)] == [rows[0]["prompt"]]
    assert lines(f"{out}.contaminated.jsonl") == [{"id": "2", "benchmark": "aime24", "question": "q7", "share": 1.0}]


# ------------------------------------------------------------------ rows


def test_every_defect_is_named_and_the_rest_is_kept(tmp_path):
    rows = [row("a?", id="good"), {"prompt": "b?"}, row(""), row("a?"), row("c?", trace="")]
    rows += [row("d?", trace=r"\boxed{5}"), row("e?", answer={"x": 1})]
    summary, out = prepared(tmp_path, rows, check_experts=True)
    assert [r["id"] for r in lines(out)] == ["good", "5", "6"]
    assert [r["expert"] for r in lines(out)] == [[r"So it is \boxed{4}."], [], []]
    reasons = [(r["row"], r["reason"]) for r in lines(f"{out}.dropped.jsonl")]
    assert reasons == [(2, "answer missing"), (3, "prompt empty"), (4, "duplicate"), (5, "expert empty"),
                       (6, "expert wrong"), (7, "answer unparsable")]  # fmt: skip
    assert (summary.rows, summary.kept, summary.traces) == (7, 3, 1)


def test_a_second_demonstration_is_joined_by_the_problem(tmp_path):
    second = [
        {"problem": "What is  2 + 2?", "generations": ["mine \\boxed{4}", "other \\boxed{4}"]},
        {"problem": "unknown", "generations": ["x"]},
        {"problem": "what is 3 + 1", "solution": "three and one \\boxed{4}"},
        {"problem": None, "generations": None},
    ]
    rows = [row("What is $2 + 2$?", trace="mine \\boxed{4}"), row("What is 3 + 1?"), row("And 5 - 1?")]
    summary, out = prepared(tmp_path, rows, second=write(tmp_path / "second.jsonl", second))
    assert [r["expert"][1:] for r in lines(out)] == [["other \\boxed{4}"], ["three and one \\boxed{4}"], []]
    assert summary.joined == 2
    assert key_of([{"role": "user", "content": "What is 2 + 2?"}]) == key_of("what is $2+2$")


def test_a_wrong_second_demonstration_is_not_joined_where_traces_are_checked(tmp_path):
    texts = [r"mine \boxed{4}", r"\boxed{5}", "no box", r"\boxed{4}, at last", r"\boxed{4}, too"]
    second = [{"problem": "What is 2 + 2?", "generations": texts}, {"problem": "And 5 - 1?", "generations": ["no box"]}]
    rows = [row("What is 2 + 2?", trace=texts[0]), row("And 5 - 1?")]
    source = write(tmp_path / "second.jsonl", second)
    summary, out = prepared(tmp_path, rows, second=source, check_experts=True)
    assert [r["expert"][1:] for r in lines(out)] == [[r"\boxed{4}, at last"], []]
    assert (summary.joined, summary.refused, summary.traces) == (1, 3, 3)
    assert "  second demonstration wrong           3" in summary.lines()
    summary, out = prepared(tmp_path, rows, second=source)
    assert [r["expert"][1:] for r in lines(out)] == [[texts[1]], ["no box"]] and summary.refused == 0


def test_what_is_no_text_is_no_second_demonstration(tmp_path):
    second = [{"problem": "a?", "generations": [None, 3, " ", "\ud800", {"role": "assistant", "content": "told"}]}]
    _, out = prepared(tmp_path, [row("a?")], second=write(tmp_path / "second.jsonl", second))
    assert lines(out)[0]["expert"][1:] == ["told"]


def test_the_same_input_gives_the_same_bytes_and_training_reads_them(tmp_path):
    chat = [{"prompt": [{"role": "user", "content": f"p{i}?"}], "reward_model": {"ground_truth": str(i)},
             "target": [{"role": "assistant", "content": f"\\boxed{{{i}}}"}]} for i in range(30)]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(chat), tmp_path / "hub.parquet")
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        prepare(Settings(str(tmp_path / "hub.parquet"), tmp_path / name / "rows.parquet"), {}, {})
        files.append({path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir())})
    settings = [json.loads(f.pop("rows.parquet.summary.json")) for f in files]
    assert files[0] == files[1] and {**settings[0], "settings": 0} == {**settings[1], "settings": 0}
    rows = list(read_rows(str(tmp_path / "one" / "rows.parquet")))
    assert [(r["answer"], r["expert"]) for _, r in rows] == [(str(i), [f"\\boxed{{{i}}}"]) for i in range(30)]


def test_a_folder_of_files_is_one_source(tmp_path):
    (tmp_path / "parts").mkdir()
    write(tmp_path / "parts" / "b.jsonl", [row("b1"), row("b2")])
    write(tmp_path / "parts" / "a.jsonl", [row("a1")])
    prepare(Settings(str(tmp_path / "parts"), tmp_path / "out.jsonl", check_experts=False), {}, {})
    assert [(r["id"], r["prompt"]) for r in lines(tmp_path / "out.jsonl")] == [("1", "a1"), ("2", "b1"), ("3", "b2")]


def test_lengths_scripts_and_the_share_that_would_be_cut(tmp_path):
    from trapo_toy.world import BASE

    traces = [" think ;" * n for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)] + ["数学" * 50]
    rows = [row(f"p{i}", trace=trace) for i, trace in enumerate(traces)]
    summary, _ = prepared(tmp_path, rows[:10], tokenizer=str(BASE), max_tokens=17)
    assert (summary.characters[0], summary.characters[10], summary.tokens[0], summary.tokens[10]) == (8, 80, 2, 20)
    assert summary.counted == 10 and summary.cut == 0.2  # 2 n tokens and EOS: 19 and 21 are more than 17
    mixed, _ = prepared(tmp_path, rows)
    assert mixed.scripts == {"CJK": pytest.approx(1 / 11), "Cyrillic": 0.0, "Arabic": 0.0}
    assert mixed.cut is None and mixed.tokens == []


# ------------------------------------------------------------------ the command


def test_the_command_says_what_it_did_and_what_it_could_not_check(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    source = write(tmp_path / "s.jsonl", [row("What is 2 + 2?"), row("")])
    result = CliRunner().invoke(
        app, ["data", "prepare", source, "--out", str(tmp_path / "o.parquet"), "--bench", "aime24"]
    )
    assert result.exit_code == 0, result.output
    assert "2 rows read, 1 written, 1 expert traces" in result.output
    assert "not checked against aime24: " in result.output
    assert re.search(r"^\d+ s, \d+ rows per second; traces graded$", result.output, re.MULTILINE)
    beside = ("png", "pdf", "json", "dropped.jsonl", "contaminated.jsonl", "summary.json")
    assert {p.name for p in tmp_path.iterdir()} == {"s.jsonl", "o.parquet", *(f"o.parquet.{name}" for name in beside)}


@pytest.mark.parametrize("given", ["flag", "variable"])
def test_local_questions_are_checked_wherever_the_folder_is_named(given, tmp_path, monkeypatch):
    from trapo_evals import benchmarks

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    aime = benchmarks.BENCHMARKS["aime24"]
    monkeypatch.setitem(benchmarks.BENCHMARKS, "aime24", replace(aime, rows=(1,), content_hash=None))
    write(tmp_path / "aime24.jsonl", [{"problem": QUESTION, "answer": "1"}])
    if given == "variable":
        monkeypatch.setenv("TRAPO_DATA_DIR", str(tmp_path))
    folder = ["--data-dir", str(tmp_path)] if given == "flag" else []
    source = write(tmp_path / "s.jsonl", [row(QUESTION), row("What is 2 + 2?")])
    command = ["data", "prepare", source, "--out", str(tmp_path / "o.jsonl"), "--bench", "aime24,aime25", *folder]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "o.jsonl.summary.json").read_text())
    assert summary["contaminated"] == {"aime24": 1} and list(summary["unchecked"]) == ["aime25"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere.jsonl", "--out", "o.jsonl"], "data file nowhere.jsonl is not there"),
        (["s.jsonl", "--out", "o.csv"], "--out o.csv: it must end in .parquet or .jsonl"),
        (["s.jsonl", "--out", "no/where.jsonl"], "is not there: make it first"),
        (["odd.jsonl", "--out", "o.jsonl"], "odd.jsonl has the columns x, which is no known layout"),
        (["s.jsonl", "--out", "o.jsonl", "--bench", "aime99"], "aime99"),
        (["s.jsonl", "--out", "o.jsonl", "--second", "odd.jsonl"], "--second odd.jsonl has no row with a problem"),
        (["empty.jsonl", "--out", "o.jsonl"], "none of its 1 rows is usable"),
        (["s.jsonl", "--out", "o.jsonl", "--max-tokens", "0"], "--max-tokens 0: give a number of at least 1"),
        (["s.jsonl", "--out", "o.jsonl", "--max-tokens", "9"], "--max-tokens 9 needs --tokenizer"),
        (["s.jsonl", "--out", "o.jsonl", "--bench", "aime24", "--data-dir", "typo"], "the data folder typo is none"),
        (["s.jsonl", "--out", "o.jsonl", "--bench", "aime24", "--data-dir", "other"], "has 1 questions"),
        (["s.jsonl", "--out", "o.jsonl", "--bench", "amc23", "--data-dir", "other"], "has the content hash"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "s.jsonl", [row("a?")])
    write(tmp_path / "odd.jsonl", [{"x": 1}])
    write(tmp_path / "empty.jsonl", [row("")])
    (tmp_path / "other").mkdir()
    write(tmp_path / "other" / "aime24.jsonl", [{"problem": "a?", "answer": "1"}])
    write(tmp_path / "other" / "amc23.jsonl", [{"problem": f"{i}?", "answer": "1"} for i in range(83)])
    before = {path.name for path in tmp_path.iterdir()}
    bench = [] if "--bench" in arguments else ["--bench", ""]
    result = CliRunner().invoke(app, ["data", "prepare", *arguments, *bench])
    assert result.exit_code == 2
    error = result.stderr.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("error: ") and message in error[0]
    assert {path.name for path in tmp_path.iterdir()} == before


def test_nothing_that_is_there_is_replaced_unasked(tmp_path):
    source = tmp_path / "rows.jsonl"
    source.write_text(json.dumps({"prompt": "1+1=", "answer": "2"}) + "\n")
    folder = tmp_path / "parts"
    folder.mkdir()
    (tmp_path / "link.jsonl").symlink_to(source)
    for out, overwrite, message in (
        (source, True, "would become part of what is read"),
        (tmp_path / "link.jsonl", True, "would become part of what is read"),
        (source, False, "would become part of what is read"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(Settings(str(source), out, check_experts=False, overwrite=overwrite), {}, {})
    with pytest.raises(ValueError, match="would become part of what is read"):
        prepare(Settings(str(folder), folder / "all.jsonl", check_experts=False), {}, {})
    for name in ("out.jsonl", "out.jsonl.summary.json", "out.jsonl.png"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(ValueError, match=f"{name} is there already: choose another name, or .*--overwrite"):
            prepare(Settings(str(source), tmp_path / "out.jsonl", check_experts=False), {}, {})
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    settings = Settings(str(source), tmp_path / "out.jsonl", check_experts=False)
    prepare(settings, {}, {})
    first = (tmp_path / "out.jsonl.summary.json").read_bytes()
    settings.overwrite = True
    prepare(settings, {}, {})
    assert (tmp_path / "out.jsonl.summary.json").read_bytes() == first
    assert source.read_text() == json.dumps({"prompt": "1+1=", "answer": "2"}) + "\n"
