"""Files as others name and write them: the papers' folders, CSV, a file of the user's own, a file with known faults."""

import csv
from dataclasses import replace
from hashlib import sha256

import pytest
from bench_rows import HUB, STAND_IN, papers, refusal, write

from trapo_evals import benchmarks
from trapo_evals.benchmarks import BENCHMARKS, GROUPS, load, named, names
from trapo_evals.tasks.utils import REQUEST, rows
from trapo_evals.verdicts import letter_status


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("aime24", "valid.aime.parquet"),
        ("amc23", "valid.amc.parquet"),
        ("math500", "valid.math.parquet"),
        ("olympiad", "valid.olympiad_bench.parquet"),
        ("minerva", "valid.minerva.parquet"),
        ("minerva", "valid.minerva_math.jsonl"),
        ("hmmt_feb25", "hmmt_feb_2025.jsonl"),
        ("aime26", "aime26.csv"),
    ],
)
def test_files_are_found_by_the_names_they_have(name, file, tmp_path):
    if file.endswith(".csv"):
        write_csv(tmp_path / file, STAND_IN)
    else:
        write(tmp_path / file, [papers(row) for row in STAND_IN])
    assert [q.answer for q in load(name, tmp_path, check=False)] == [row["answer"] for row in STAND_IN]
    assert benchmarks.source(name, tmp_path) == str(tmp_path / file)


def write_csv(path, found):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    return path


def test_numbered_choices_of_the_papers_arc(tmp_path):
    letters = [papers({"problem": f"Which? (A) a{i} (B) b", "answer": "B"}) for i in range(3)]
    numbers = [papers({"problem": f"Which? (1) a{i} (2) b", "answer": str(1 + i % 4)}) for i in range(22)]
    found = load("arc_c", write(tmp_path / "valid.arc_c.parquet", letters + numbers), check=False)
    assert [q.answer for q in found][:5] == ["B", "B", "B", "1", "2"] and len(found) == 25
    assert letter_status(r"so \boxed{2}", "2") == "correct" and letter_status(r"\boxed{(2)}", "2") == "correct"
    assert letter_status(r"\boxed{3}", "2") == "wrong" and letter_status(r"\boxed{B}", "2") == "wrong"
    assert letter_status(r"\boxed{2}", "B") == "wrong"


def test_a_prompt_that_asks_for_a_box_is_not_told_twice(tmp_path):
    asks = "Which? (A) iron (B) neon\nPlease put your choice letter without any other text with \\boxed{} in the end."
    plain = "Which? (A) iron (B) gold"
    write(tmp_path / "gpqa.jsonl", [{"problem": asks, "answer": "B"}, {"problem": plain, "answer": "A"}])
    shown = rows("gpqa", str(tmp_path), check=False)["test"]["prompt"]
    assert shown == [asks, f"{plain}\n\n{REQUEST}"]
    amo = "Find it.\n\n### The final answer is: $\\boxed{<your answer>}$"
    blank = "Fill in the \\boxed{?} of 1 + 1 = \\boxed{?}"
    write(tmp_path / "amo.jsonl", [{"prompt": amo, "answer": "\\boxed{7}"}, {"prompt": blank, "answer": 2}])
    found = rows("amo", str(tmp_path), check=False)["test"]
    assert found["prompt"] == [amo, f"{blank}\n\n{REQUEST}"] and found["answer"] == ["7", "2"]


# CSV


def test_csv_as_spreadsheets_write_it(tmp_path):
    text = '\ufeffproblem,answer,notes\r\n"a, ""b""\nc",1,\r\nd,"[""1"", ""2""]",x\r\n'
    (tmp_path / "aime24.csv").write_bytes(text.encode())
    found = load("aime24", tmp_path, check=False)
    assert [(q.problem, q.answer) for q in found] == [('a, "b"\nc', "1"), ("d", "1, 2")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("problem,answer\na,1\nb\n", "row 2 (line 3) cannot be read: it has 1 cells, the header 2: a quote or a comma"),
        ('problem,answer\na,1\n"b,2\n', "cannot be read: unexpected end of data"),
        ("", "has no rows"),
        ("problem,answer\n", "has no rows"),
        ("question,answer\na,1\n", "row 1 has question, answer, but KeyError('problem')"),
    ],
)
def test_bad_csv(text, said, tmp_path):
    (tmp_path / "aime24.csv").write_text(text)
    assert said in refusal("aime24", tmp_path, check=False)


# The user's own


@pytest.mark.parametrize("layout", [("problem", "answer"), ("question", "final_answer"), ("Problem", "Short Answer")])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_file_of_ones_own(kind, layout, tmp_path):
    mine = [dict(zip(layout, row.values(), strict=True)) for row in STAND_IN[:4]]
    path = tmp_path / f"rows.{kind}"
    write_csv(path, mine) if kind == "csv" else write(path, mine)
    benchmark = named(f"mine={path}")
    assert (benchmark.name, benchmark.kind, benchmark.samples) == ("mine", "math", 1)
    assert [q.answer for q in load(benchmark)] == ["1", "2", "3", "4"]
    assert benchmarks.source(f"mine={path}", "elsewhere") == str(path)


@pytest.mark.parametrize("name", HUB)
def test_a_file_of_ones_own_with_choices(name, tmp_path):
    write(tmp_path / "rows.jsonl", HUB[name](5))
    assert named(f"mine={tmp_path / 'rows.jsonl'}").kind == "choice"
    for i, q in enumerate(load(f"mine={tmp_path / 'rows.jsonl'}")):
        assert q.choices["ABCDEFGHIJ".index(q.answer)] == f"true {i}"


def test_names_once_and_what_cannot_be_one(tmp_path):
    a, b = (write_csv(tmp_path / f"{name}.csv", STAND_IN[:2]) for name in "ab")
    assert names("aime24,aime24") == ["aime24"] and names("aime24, math")[:2] == ["aime24", "aime25"]
    assert names(f"mine={a},aime24,mine={a}") == [f"mine={a}", "aime24"]
    for spec, said in (
        (f"mine={a},mine={b}", "mine names two files: give each a name of its own"),
        (f"aime24={a}", "'aime24' cannot name your file"),
        (f"math={a}", "'math' cannot name your file"),
        (f"a b={a}", "'a b' cannot name your file"),
        (f"mine={tmp_path / 'none.csv'}", "none.csv cannot be read"),
        (f"mine={tmp_path / 'rows.txt'}", "give a .parquet, .jsonl or .csv file"),
    ):
        with pytest.raises(ValueError) as error:
            names(spec)
        assert said in str(error.value) and "\n" not in str(error.value)


# The contests


def test_what_is_known_of_the_contests():
    counts = {"aime26": 30, "hmmt_feb25": 30, "hmmt_feb26": 33, "brumo25": 30, "cmimc25": 40, "imo_answer": 400,
              "amo": 50, "beyond_aime": 100}  # fmt: skip
    assert {name: BENCHMARKS[name].rows for name in GROUPS["contests"]} == {n: (c,) for n, c in counts.items()}
    for name in (*GROUPS["math"], *GROUPS["contests"], *GROUPS["general"]):
        b = BENCHMARKS[name]
        assert b.released[:2] == "20" and len(b.released) == 7 and not b.revision_verified
        assert (b.hub_id is None) == (b.url is not None)
        assert b.revision == "main" or len(b.revision) == 40


def test_a_wrong_number_of_rows_is_named(tmp_path):
    said = refusal("hmmt_feb26", write(tmp_path / "hmmt_feb26.jsonl", STAND_IN[:30]))
    assert "hmmt_feb26.jsonl has 30 questions" in said and "not 33: take the benchmark's own rows" in said


def test_what_is_not_on_the_hub_says_where_it_is():
    said = refusal("imo_answer")
    assert "its rows are not on the hub: take https://github.com/google-deepmind/superhuman/blob/80b2527" in said
    assert said.endswith("put imo_answer.parquet, .jsonl or .csv into a folder and give it as --data-dir")


def test_the_known_faults_of_that_very_file_are_mended(tmp_path, monkeypatch):
    """The file itself is not here: one with its two faults stands in, under its own hash."""
    good = 'Problem ID,Problem,Short Answer,Category\n36,"Find Y.\n","$Y(x)=A+B$",Algebra\n4,Which?,"4, 5",Geometry\n'
    bad = good.replace('\n","$Y(x)=A+', '\n,"$Y(x)=A+').replace(',"4, 5",', ",45752,")
    assert bad != good
    (tmp_path / "answerbench_v2.csv").write_text(bad)
    before = refusal("imo_answer", tmp_path, check=False)
    assert "cannot be read" in before
    pinned = replace(BENCHMARKS["imo_answer"], sha256=sha256(bad.encode()).hexdigest())
    monkeypatch.setitem(BENCHMARKS, "imo_answer", pinned)
    found = load("imo_answer", tmp_path, check=False)
    assert [(q.problem.strip(), q.answer) for q in found] == [("Find Y.", "$Y(x)=A+B$"), ("Which?", "4, 5")]


def test_json_in_a_cell_that_is_none_stays_text(tmp_path):
    write_csv(tmp_path / "aime24.csv", [{"problem": "[a, b) or {c}?", "answer": "{1,2}"}])
    (found,) = load("aime24", tmp_path, check=False)
    assert (found.problem, found.answer) == ("[a, b) or {c}?", "{1,2}")
