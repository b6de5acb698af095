"""The answers' table: labels by hand, ours, plain math-verify; and how answers are rewritten."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from places import DATA

from trapo.grading.answers import boxed_answer, gold_text, normalise, split_unit
from trapo.grading.grader import Grader

HERE = Path(__file__).parent
PAIRS = yaml.safe_load((HERE / "grading_pairs.yaml").read_text())


@pytest.fixture(scope="module")
def grader():
    with Grader(workers=2, cpu_seconds=20) as grader:
        yield grader


@pytest.mark.parametrize("category", PAIRS)
def test_every_pair_is_graded_as_it_was_labelled(category, grader):
    answers, golds, _ = zip(*PAIRS[category], strict=True)
    for quick in (True, False):
        verdicts = grader.grade([f"so \\boxed{{{answer}}}" for answer in answers], golds, quick=quick)
        wrong = [
            pair for pair, v in zip(PAIRS[category], verdicts, strict=True) if v.status != ("wrong", "correct")[pair[2]]
        ]
        assert not wrong


def test_the_table_is_as_large_as_it_says():
    """Ten categories of ten pairs and more, a third negatives; plain math-verify errs on thirty or more."""
    pairs = [pair for category in PAIRS.values() for pair in category]
    assert len(pairs) >= 150 and len(PAIRS) >= 10 and min(map(len, PAIRS.values())) >= 10
    assert len({(answer, gold) for answer, gold, _ in pairs}) == len(pairs)
    assert sum(not label for *_, label in pairs) >= len(pairs) / 3
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


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("4.5e33", r"4.5 \cdot 10^{33}"),
        ("2E+05", r"2 \cdot 10^{5}"),
        (r"10\,000", "10000"),
        (r"1\,234~567", "1234567"),
        ("1 2", "1 2"),
        ("10 00", "10 00"),
        (r"90^{\circ}", "90"),
        (r"\sin 30^\circ", r"\sin (30 \cdot \pi / 180)"),
        (r" $\frac{1}{2}$. ", r"\frac{1}{2}"),
        (r"\$12.50", "12.50"),
        (r"\text{(B)}.", "B"),
        ("x2e3", "x2e3"),
        ("e3", "e3"),
    ],
)
def test_normalise_by_hand(answer, text):
    assert normalise(answer) == text


@given(st.text(alphabet="0123456789.,eE+-^$\\%{} ()ABx~", max_size=14) | st.text(max_size=10))
def test_normalising_twice_is_normalising_once(answer):
    assert normalise(normalise(answer)) == normalise(answer)


@pytest.mark.parametrize(
    ("answer", "value", "unit"),
    [
        (r"5 \text{ cm}", "5", "cm"),
        (r"5 \text{ cm}^2", "5", "cm2"),
        (r"5 \text{ square centimeters}", "5", "cm2"),
        (r"12 \text{ square units}", "12", None),
        (r"\frac{3}{2} \text{ hours}", r"\frac{3}{2}", "h"),
        (r"3600\,\mathrm{s}", "3600", "s"),
        ("5 feet", "5", "ft"),
        (r"\text{Evelyn}", r"\text{Evelyn}", None),
        ("5", "5", None),
    ],
)
def test_units_by_hand(answer, value, unit):
    assert split_unit(answer) == (value, unit)


def test_golds_may_be_numbers_and_lists(grader):
    assert [gold_text(g) for g in (7, 0.5, ["3"], [1, 2], ("a", 2.5))] == ["7", "0.5", "3", "1, 2", "a, 2.5"]
    texts = [r"\boxed{2, 1}", r"\boxed{1}", r"\boxed{\frac{1}{2}}"]
    assert [v.status for v in grader.grade(texts, [[1, 2], [1, 2], 0.5])] == ["correct", "wrong", "correct"]


@pytest.mark.parametrize("name", ["aime24", "math500"])
def test_every_gold_of_the_benchmarks_equals_itself(name, grader):
    path = DATA / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not here: set TRAPO_TEST_DATA")
    import pandas

    golds = sorted({gold_text(row["ground_truth"]) for row in pandas.read_parquet(path)["reward_model"]})
    verdicts = grader.grade([f"\\boxed{{{gold}}}" for gold in golds], golds, quick=False)
    assert [g for g, v in zip(golds, verdicts, strict=True) if v.status != "correct"] == []
    assert len(golds) > 20 and all(boxed_answer(f"\\boxed{{{gold}}}") == gold for gold in golds)
