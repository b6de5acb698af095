"""Every labelled pair is graded as it was labelled: whoever labelled it had not asked a grader."""

from collections import Counter

import pytest
from labelled_pairs import given, own

from trapo.grading.grader import Grader
from trapo_evals.verdicts import letter_status

PAIRS = {"own": own(), "given": given()}
CATEGORIES = [
    (source, category) for source, pairs in PAIRS.items() for category in dict.fromkeys(p.category for p in pairs)
]
# Debatable pairs that docs/grading.md decides the other way.
DECIDED_OTHERWISE = {
    ("3.14", "3,14"), ("0.5", "0,5"),  # a comma stands between members or thousands, never before decimals
    ("3.14159", r"\pi"),  # a rounded value is another number
    ("B", r"B^1 \cdot \frac{A}{A}"),  # a letter may be a variable
    ("5", "答案是5"), ("5", "五"), (r"\text{yes}", "是"),  # words are English
    ("f(x)=cx", "f(x)=kx"),  # only constants of integration have no name of their own
    (r"1+2+\cdots+n", r"\frac{n(n+1)}{2}"),  # dots are filled in between numbers only
    ("ABCD", "BCDA"),  # letters in an order are a name
}  # fmt: skip


@pytest.fixture(scope="module")
def grader():
    with Grader(workers=2, cpu_seconds=20) as grader:
        yield grader


@pytest.fixture(scope="module")
def statuses(grader):
    """The status of every pair, asked once."""
    pairs = [pair for found in PAIRS.values() for pair in found]
    asked = [pair for pair in pairs if pair.kind != "choice"]
    texts = [pair.answer if pair.kind == "raw" else f"\\boxed{{{pair.answer}}}" for pair in asked]
    found = dict(zip(asked, [v.status for v in grader.grade(texts, [pair.gold for pair in asked])], strict=True))
    return found | {p: letter_status(f"\\boxed{{{p.answer}}}", p.gold) for p in pairs if p.kind == "choice"}


@pytest.mark.parametrize(("source", "category"), CATEGORIES)
def test_every_pair_is_graded_as_it_was_labelled(source, category, statuses):
    pairs = [pair for pair in PAIRS[source] if pair.category == category]
    expected = {
        pair: pair.expected != (pair.debatable and (pair.gold, pair.answer) in DECIDED_OTHERWISE) for pair in pairs
    }
    misjudged = [(*pair[2:5], statuses[pair]) for pair in pairs if (statuses[pair] == "correct") != expected[pair]]
    assert misjudged == []


def test_no_pair_costs_a_limit_or_fails(statuses):
    assert set(statuses.values()) <= {"correct", "wrong", "no_box", "gold-unparsed"}


def test_the_decisions_are_of_debatable_pairs():
    debatable = {(pair.gold, pair.answer) for pair in PAIRS["given"] if pair.debatable}
    assert debatable >= DECIDED_OTHERWISE


def test_the_sets_are_as_large_as_the_docs_say():
    assert len(PAIRS["given"]) == 1353 and len(PAIRS["own"]) >= 3000
    categories = Counter(pair.category for pair in PAIRS["own"])
    assert set(categories) >= {pair.category for pair in PAIRS["given"]} and min(categories.values()) >= 9
    assert sum(pair.expected for pair in PAIRS["own"]) >= 1300
