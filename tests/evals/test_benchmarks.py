"""The benchmarks' rows, whatever layout they come in."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from bench_rows import HUB, STAND_IN, arc_rows, gpqa_rows, mmlu_pro_rows, papers, read, real, refusal, write
from places import DATA

import trapo_evals.benchmarks as benchmarks
from trapo_evals.benchmarks import BENCHMARKS, content_hash, load, names, register, shuffled

# The real files


@pytest.mark.parametrize(
    ("name", "rows", "n", "found"),
    [("aime24", 960, 30, "bad2768cab7db517"), ("math500", 500, 500, "7156baeddb14a114")],
)
def test_the_papers_files(name, rows, n, found, tmp_path):
    path = real(name)
    questions = load(name, path.parent)
    assert len(read(path)) == rows and len(questions) == n == len({q.id for q in questions})
    assert content_hash(questions) == found == BENCHMARKS[name].content_hash
    assert not any(q.choices for q in questions)

    rows = read(path)
    changed, dropped = [json.loads(json.dumps(row)) for row in rows], tmp_path / "dropped"
    for row in changed:
        if row["prompt"] == rows[0]["prompt"]:
            row["reward_model"]["ground_truth"] = "123456"
    other = write(tmp_path / "changed" / f"valid.{name}.parquet", changed)
    said = refusal(name, other)
    assert f"valid.{name}.parquet has the content hash" in said and f"the papers' is {found}" in said
    assert "take the benchmark's own rows" in said and "check=False" in said
    passed = load(name, other, check=False)
    assert passed[0].answer == "123456" and [q.id for q in passed[1:]] == [q.id for q in questions[1:]]

    write(dropped / f"{name}.jsonl", [row for row in rows if row["prompt"] != rows[0]["prompt"]])
    said = refusal(name, dropped)
    assert f"{name}.jsonl has {n - 1} questions (hash " in said and f"not {n}: take" in said and "check=False" in said
    assert len(load(name, dropped, check=False)) == n - 1


def test_a_real_question_word_for_word():
    real("aime24")
    first = load("aime24", DATA)[0]
    assert first.problem.startswith("Every morning Aya goes for a $9$-kilometer-long walk") and first.answer == "204"
    assert first.prompt == first.problem  # without the papers' system prompt


# Layouts


def test_every_layout_and_file_gives_the_same_questions(tmp_path):
    chats = [papers(row) for row in STAND_IN]
    found = []
    for i, (file, rows) in enumerate(
        [
            ("aime24.jsonl", STAND_IN),
            ("aime24.parquet", STAND_IN),
            ("valid.aime24.parquet", chats),
            ("valid.aime24.jsonl", chats * 32),
            ("aime24.jsonl", [row | {"answer": float(row["answer"])} for row in STAND_IN]),  # as AMC's on the hub
        ]
    ):
        found.append(load("aime24", write(tmp_path / str(i) / file, rows), check=False))
    assert all(questions == found[0] for questions in found)
    assert [q.problem for q in found[0]] == [row["problem"] for row in STAND_IN]
    assert [q.answer for q in found[0]] == [row["answer"] for row in STAND_IN]
    assert len({q.id for q in found[0]}) == 30


def test_jsonl_as_others_write_it(tmp_path):
    """A byte order mark, Windows line ends, empty lines, and a line separator within a problem."""
    text = '\ufeff{"problem": "a\u2028b", "answer": 1}\r\n\r\n{"problem": "c", "answer": [1, "2"]}\r\n'
    (tmp_path / "aime24.jsonl").write_bytes(text.encode())
    found = load("aime24", tmp_path, check=False)
    assert [(q.problem, q.answer) for q in found] == [("a\u2028b", "1"), ("c", "1, 2")]


def test_ids_are_of_what_is_said_and_questions_asked_twice_are_kept_where_the_count_is_right(tmp_path):
    rows = [*STAND_IN[:29], STAND_IN[3] | {"problem": "What is  3 +\n1?"}]
    questions = load("aime24", write(tmp_path / "aime24.jsonl", rows), check=False)
    assert questions[29].id == questions[3].id + "-2" and len({q.id for q in questions}) == 30
    back = load("aime24", write(tmp_path / "b" / "aime24.jsonl", STAND_IN[::-1]), check=False)
    assert {q.problem: q.id for q in back if q in questions} == {q.problem: q.id for q in questions[:29]}


def test_the_hash_by_hand():
    from hashlib import sha256

    one = benchmarks.Question("", "b  e\u0301", "2")
    two = benchmarks.Question("", "a", "T", ())
    three = replace(two, problem="c", answer="B", choices=("y", "x"))
    lines = "\n".join(["a\tT", "b \u00e9\t2", "c x y\tx"])
    assert content_hash([three, one, two, one]) == sha256(lines.encode()).hexdigest()[:16]


def test_the_papers_file_of_all_six_is_told_apart_by_content(tmp_path, monkeypatch):
    parts = {
        name: [{"problem": f"{name} {i}", "answer": i} for i in range(BENCHMARKS[name].rows[0])]
        for name in ("aime25", "minerva")
    }
    for name, rows in parts.items():
        alone = load(name, write(tmp_path / name / f"{name}.jsonl", rows), check=False)
        monkeypatch.setitem(BENCHMARKS, name, replace(BENCHMARKS[name], content_hash=content_hash(alone)))
    mixed = [("two", row) for row in parts["minerva"]] + [("one", row) for row in parts["aime25"]] * 32
    mixed = [papers(row | {"answer": str(row["answer"])}, source) for source, row in mixed[::-1]]
    folder = write(tmp_path / "all" / "valid.all.parquet", mixed)
    assert {q.problem for q in load("aime25", folder)} == {f"aime25 {i}" for i in range(30)}
    assert [q.answer for q in load("minerva", folder)] == [str(i) for i in range(272)][::-1]
    said = refusal("aime24", folder)
    assert "no data source in" in said and "(one, two) has the content hash bad2768cab7db517" in said
    assert "put aime24.parquet or aime24.jsonl beside it" in said


# Choices


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", HUB)
def test_the_right_letter_is_at_the_right_text(name, kind, tmp_path):
    rows = HUB[name](400)
    folder = write(tmp_path / f"{name}.{kind}", rows)
    questions = load(name, folder, check=False)
    assert [q.problem for q in questions] == [f"Q{i}?" for i in range(400)]
    for i, (q, row) in enumerate(zip(questions, rows, strict=True)):
        assert q.choices["ABCDEFGHIJ".index(q.answer)] == f"true {i}"
        assert f"\n{q.answer}. true {i}\n" in q.prompt and q.prompt.startswith(f"Q{i}?\n\nA. {q.choices[0]}\nB. ")
        assert q.prompt.endswith(r"Give the letter of the right choice in \boxed{}, such as \boxed{A}.")
        n = {"gpqa": 4, "mmlu_pro": 3 + i % 8, "arc_c": 3 + i % 3}[name]
        assert sorted(q.choices) == sorted([f"true {i}", *(f"false {k}" for k in _wrong(name, row))])
        assert len(q.choices) == n
    # Uniform: of the 400 / k questions with k choices at its letter, within four standard deviations.
    for n in {len(q.choices) for q in questions}:
        letters = Counter(q.answer for q in questions if len(q.choices) == n)
        expected = sum(letters.values()) / n
        assert all(abs(letters[letter] - expected) < 4 * expected**0.5 for letter in "ABCDEFGHIJ"[:n])


def _wrong(name, row):
    if name == "gpqa":
        return (1, 2, 3)
    texts = row["options"] if name == "mmlu_pro" else row["choices"]["text"]
    return [text.removeprefix("false ") for text in texts if text.startswith("false")]


@pytest.mark.parametrize("name", HUB)
def test_the_order_depends_on_seed_and_question_alone(name, tmp_path):
    rows = HUB[name](100)
    ahead = {q.problem: q for q in load(name, write(tmp_path / f"{name}.jsonl", rows), check=False)}
    back = load(name, write(tmp_path / "b" / f"{name}.parquet", rows[::-1]), check=False)
    assert {q.problem: q for q in back} == ahead
    other = load(name, write(tmp_path / f"{name}.jsonl", rows), seed=1, check=False)
    assert {q.problem: q.id for q in other} == {p: q.id for p, q in ahead.items()}
    assert content_hash(other) == content_hash(ahead.values())
    # Two random orders of k >= 3 texts agree with probability 1/6 at most.
    assert sum(q.choices != ahead[q.problem].choices for q in other) > 60


def test_orders_that_no_process_may_change():
    choices = ["iron", "neon", "wood", "salt"]
    assert shuffled(choices, 0, "Which is a metal?") == ["neon", "iron", "wood", "salt"]
    assert shuffled(reversed(choices), 0, " Which is  a metal?\n") == ["neon", "iron", "wood", "salt"]
    assert shuffled(choices, 1, "Which is a metal?") == ["iron", "salt", "wood", "neon"]
    assert shuffled(choices, 0, "Which is a gas?") == ["salt", "wood", "iron", "neon"]


def test_fillers_and_repeated_choices_are_shown_once(tmp_path):
    rows = [
        {"question": "a", "options": ["N/A", "x", " x", "y", "N/A"], "answer_index": 1},
        {"question": "b", "options": ["N/A", "x", "y", "N/A"], "answer_index": 0},  # not a filler: it is right
    ]
    first, second = load("mmlu_pro", write(tmp_path / "mmlu_pro.jsonl", rows), check=False)
    assert sorted(first.choices) == ["x", "y"] and sorted(second.choices) == ["N/A", "x", "y"]
    assert second.choices["ABC".index(second.answer)] == "N/A"


def test_choices_within_the_problem_need_a_letter(tmp_path):
    row = {"problem": "Which? (A) iron (B) neon", "answer": "B"}
    (question,) = load("arc_c", write(tmp_path / "arc_c.jsonl", [row]), check=False)
    assert (question.prompt, question.answer, question.choices) == (row["problem"], "B", ())
    for bad in ("neon", "AB", "0"):
        said = refusal("arc_c", write(tmp_path / "arc_c.jsonl", [row | {"answer": bad}]), check=False)
        assert "row 1 has no choices" in said and repr(bad) in said


# Bad input


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no rows"),
        ("\n \n", "has no rows"),
        ('{"problem": "a", "answer": "1"}\n\n{"problem": "b", "ans', "aime24.jsonl, line 3 cannot be read: Unterm"),
        ('{"question": "a", "answer": "1"}\n', "row 1 has question, answer, but KeyError('problem'): give problem and"),
        ("[1, 2]\n", "row 1 has list, but AttributeError"),
        (
            '{"problem": "a", "answer": "1"}\n{"problem": "b", "answer": NaN}\n',
            "row 2 has the problem 'b' and the answ",
        ),
        ('{"problem": "b", "answer": null}\n', "and the answer None: give both"),
        ('{"problem": "b", "answer": ""}\n', "and the answer '': give both"),
        ('{"problem": "b", "answer": []}\n', "and the answer []: give both"),
        ('{"problem": " ", "answer": "1"}\n', "has the problem ' ' and"),
        ('{"problem": null, "answer": "1"}\n', "has the problem None and"),
        ('{"problem": 3, "answer": "1"}\n', "has the problem 3 and"),
        ('{"prompt": "a", "reward_model": {"ground_truth": "1"}}\n', "has prompt, reward_model, but TypeError"),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_bad_rows(text, said, check, tmp_path):
    (tmp_path / "aime24.jsonl").write_text(text)
    found = refusal("aime24", tmp_path, check=check)
    assert found.startswith(f"aime24: {tmp_path / 'aime24.jsonl'}") and said in found


def test_bad_choices(tmp_path):
    def said(name, row):
        return refusal(name, write(tmp_path / f"{name}.jsonl", [row]), check=False)

    (gpqa,), (arc,), (mmlu,) = gpqa_rows(1), arc_rows(1), mmlu_pro_rows(1)
    assert "row 1 has Question, Correct Answer" in said("gpqa", gpqa | {"Correct Answer": None})
    assert "ValueError(\"'Z' is not in list\")" in said("arc_c", arc | {"answerKey": "Z"})
    assert "IndexError('list index out of range')" in said("mmlu_pro", mmlu | {"answer_index": 12})
    assert "has 1 choices: give 2 to 10" in said("mmlu_pro", mmlu | {"options": ["x", "x"], "answer_index": 0})
    many = list(map(str, range(11)))
    assert "has 11 choices: give 2 to 10" in said("mmlu_pro", mmlu | {"options": many, "answer_index": 0})


def test_bad_names_files_and_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "_loaders", {})  # whatever another test has registered
    assert refusal("aime23").startswith("'aime23' is no benchmark: there are aime24, aime25,")
    assert refusal("math", tmp_path).startswith("'math' is no benchmark")  # a group: see `names`
    assert f"the data folder {tmp_path / 'no'} is none: give the one" in refusal("aime24", tmp_path / "no")
    (tmp_path / "aime24.parquet").write_bytes(b"PAR1 torn")
    assert refusal("aime24", tmp_path).startswith(f"aime24: {tmp_path / 'aime24.parquet'} cannot be read: ")
    (tmp_path / "aime25.jsonl").write_bytes(b'{"problem": "\xff"}')
    assert "can't decode byte 0xff" in refusal("aime25", tmp_path)
    with pytest.raises(ValueError, match="'nothing' is no benchmark"):
        register("nothing", list)
    assert "its rows come from `trapo eval`; elsewhere, put world_test.parquet" in refusal("world_test")


def test_where_rows_come_from(tmp_path):
    path = write(tmp_path / "valid.aime24.jsonl", STAND_IN[:6]) / "valid.aime24.jsonl"
    assert benchmarks.source("aime24", tmp_path) == str(path)
    hub = "math-ai/minervamath, test, revision main (unverified)"
    assert benchmarks.source("minerva", tmp_path) == benchmarks.source("minerva") == hub
    assert benchmarks.source("gpqa").startswith("Idavidrein/gpqa, gpqa_diamond, train, revision 633f5ee8")
    assert benchmarks.source("world_test") is None


def test_names():
    assert names("math500, general,aime24,math500") == ["math500", "gpqa", "mmlu_pro", "arc_c", "aime24"]
    assert names("all") == list(BENCHMARKS)
    for bad in ("", "math,", "aime24;aime25"):
        with pytest.raises(ValueError, match=r"is no benchmark: .*; groups math, contests, general, world, all; or"):
            names(bad)
