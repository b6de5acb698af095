r"""Where the answer is in a text, what a gold is as text, and that the benchmarks' golds can all be read."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from places import DATA

from trapo.grading.answers import boxed_answer, gold_text, normalise
from trapo.grading.grader import Grader

HERE = Path(__file__).parent
PAIRS = yaml.safe_load((HERE / "grading_pairs.yaml").read_text())


@pytest.fixture(scope="module")
def grader():
    with Grader(workers=2, cpu_seconds=20) as grader:
        yield grader


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{7}", "7"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"<think>\boxed{1}</think> it is \boxed{ 2 }", " 2 "),
        (r"<think>\boxed{1}</think> it is 2", None),
        (r"<think>\boxed{1} and no end", "1"),
        (r"so \boxed{1} </think> ", "1"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\fbox{5}, \boxed {6}, or \boxed 7", "7"),
        (r"$\boxed{x = \boxed{5}}$", "x = {5}"),
        (r"\boxed{1} and \boxed{2}", "1, 2"),
        (r"$\boxed{1}$, $\boxed{2}$", "1, 2"),
        (r"\boxed{3}\boxed{4}", "3 4"),
        (r"\boxed{1}, so that \boxed{2}", "2"),
        (r"\boxed{5}, check: \boxed{}", "5"),
        (r"\boxed{5}\boxed{}", ""),
        (r"\boxed{5} and then \boxed{6", "5"),
        (r"\boxed{5", "5"),
        (r"\boxed{\frac{1}{2", r"\frac{1}{2"),
        (r"\boxed{", ""),
        (r"\boxed{}", ""),
        ("no box", None),
        ("", None),
    ],
)
def test_boxed_answer(text, answer):
    assert boxed_answer(text) == answer


@pytest.mark.parametrize(
    "piece", [r"\boxed{", r"\boxed{}", r"\boxed 1", "{", "}", r"\boxed{1", ". . ", r"\(", r"\\", "</think>"]
)
def test_finding_the_answer_is_linear(piece):
    """The trainer's process does it for every sample. A search that goes back would not come to an end here."""
    text = piece * (2_000_000 // len(piece))
    boxed_answer(text)
    normalise(text[:200_000])


@pytest.mark.parametrize(
    ("answer", "text"), [(" $5$. ", "5"), ("a  b\n", "a b"), ("x,", "x"), ("$$", ""), (r"\frac{1}{2}.", r"\frac{1}{2}")]
)
def test_normalise_by_hand(answer, text):
    assert normalise(answer) == text


@given(st.text(alphabet="0123456789.,eE+-^$\\%{} ()ABx~", max_size=14) | st.text(max_size=10))
def test_normalising_twice_is_normalising_once(answer):
    assert normalise(normalise(answer)) == normalise(answer)


@pytest.mark.parametrize("category", PAIRS)
def test_every_pair_of_the_first_table_is_graded_as_it_was_labelled(category, grader):
    answers, golds, _ = zip(*PAIRS[category], strict=True)
    for quick in (True, False):
        verdicts = grader.grade([f"so \\boxed{{{answer}}}" for answer in answers], golds, quick=quick)
        wrong = [
            pair for pair, v in zip(PAIRS[category], verdicts, strict=True) if v.status != ("wrong", "correct")[pair[2]]
        ]
        assert not wrong


def test_plain_math_verify_errs_on_the_first_table():
    pairs = [pair for category in PAIRS.values() for pair in category]
    assert len(pairs) == 228 and len(PAIRS) >= 10 and min(map(len, PAIRS.values())) >= 10
    assert len({(answer, gold) for answer, gold, _ in pairs}) == len(pairs)
    code = """
import json, sys
from math_verify import parse, verify
box = lambda text: parse(f"\\\\boxed{{{text}}}", parsing_timeout=None)
print(json.dumps([verify(box(g), box(a), timeout_seconds=None) for a, g, _ in json.load(sys.stdin)]))
"""
    done = subprocess.run([sys.executable, "-c", code], input=json.dumps(pairs), capture_output=True, text=True)
    plain = json.loads(done.stdout)
    errs = [pair for pair, verdict in zip(pairs, plain, strict=True) if verdict != pair[2]]
    assert len(errs) >= 30
    assert {label for *_, label in errs} == {True, False}  # in both directions


def test_golds_may_be_numbers_and_lists(grader):
    assert [gold_text(g) for g in (7, 0.5, ["3"], [1, 2], ("a", 2.5))] == ["7", "0.5", "3", "1, 2", "a, 2.5"]
    texts = [r"\boxed{2, 1}", r"\boxed{1}", r"\boxed{\frac{1}{2}}"]
    assert [v.status for v in grader.grade(texts, [[1, 2], [1, 2], 0.5])] == ["correct", "wrong", "correct"]


def _golds(name):
    path = DATA / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not here: set TRAPO_TEST_DATA")
    import pandas

    golds = sorted({gold_text(row["ground_truth"]) for row in pandas.read_parquet(path)["reward_model"]})
    assert len(golds) > 20
    return golds


def _other_ways(gold):
    r"""The gold as models write it too."""
    yield rf"\,{gold}."
    yield f"${gold}$"
    yield rf"\left.{gold}\right." if "\\left" not in gold else gold
    yield gold.replace(r"\frac", r"\dfrac").replace(r"\left", "").replace(r"\right", "")
    yield re.sub(r"(?<=[0-9])(?=[-+=<>])|(?<=[-+=<>])(?=[0-9])", " ", gold)
    if not re.search(r"[=<>,]|\\(text|le|ge|in|to)\b", gold):
        yield f"Q = {gold}"


@pytest.mark.parametrize("name", ["aime24", "math500"])
def test_every_gold_of_the_benchmarks_is_read_and_equals_itself(name, grader):
    golds = _golds(name)
    verdicts = grader.grade([f"\\boxed{{{gold}}}" for gold in golds], golds, quick=False)
    assert [g for g, v in zip(golds, verdicts, strict=True) if v.status != "correct"] == []
    assert all(boxed_answer(f"\\boxed{{{gold}}}") == gold for gold in golds)


@pytest.mark.parametrize("name", ["aime24", "math500"])
def test_golds_of_the_benchmarks_written_in_other_ways(name, grader):
    pairs = [(way, gold) for gold in _golds(name) for way in _other_ways(gold)]
    verdicts = grader.grade([f"\\boxed{{{way}}}" for way, _ in pairs], [gold for _, gold in pairs])
    assert [pair for pair, v in zip(pairs, verdicts, strict=True) if v.status != "correct"] == []


def test_golds_of_a_benchmark_differ_from_one_another(grader):
    """Each gold of MATH-500 is right for itself alone, but for the ones of equal value."""
    golds = _golds("math500")
    pairs = [(a, b) for i, a in enumerate(golds) for b in golds[i + 1 : i + 40]]
    verdicts = grader.grade([f"\\boxed{{{a}}}" for a, _ in pairs], [b for _, b in pairs])
    same = {pair for pair, v in zip(pairs, verdicts, strict=True) if v.status == "correct"}
    assert same == {
        ("-2,1", "1,-2"), (r"2 \sqrt{5}", r"2\sqrt{5}"), (r"\frac14", r"\frac{1}{4}"), (r"10,\!080", "10080"),
        ("40", "40_9"), ("15", r"15\mbox{ cm}^2"), ("30", r"30^\circ"), ("36", r"36^\circ"), ("90", r"90^\circ"),
        ("120", r"120^\circ"),
    }  # fmt: skip
