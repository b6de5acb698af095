r"""Pairs drawn from a LaTeX grammar: an answer equals itself, equality has no direction, nothing fails or takes long.

`TRAPO_FUZZ=10000` sets how many pairs are drawn; `make test` draws fewer.
"""

import os
import re
import signal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trapo.config import TRAPOConfig
from trapo.grading.answers import boxed_answer
from trapo.grading.judge import judge

PAIRS = int(os.environ.get("TRAPO_FUZZ", 300))
CPU_SECONDS = TRAPOConfig.__dataclass_fields__["grader_cpu_seconds"].default

NUMBERS = str.split(
    "0 1 2 3 5 7 10 12 60 100 0.5 .25 1.50 3.14 1e3 2.5e-7 1,234 12{,}345 007 0.333333 1e999999999 9999999999999999"
)
LETTERS = str.split(
    r"x y z n t m g h L e i a b C A B R \pi \alpha \theta \hbar \Delta x_1 a_{n+1} v_{\text{rms}} \vec{a} \hat{i} f "
    r"\infty"
)
WORDS = [
    *str.split(r"DNE cm kg ABC \% ^\circ \$ = \le < \ne \to \pmod7 \ldots , ; : \pm \cup ! ' \emptyset | \text{Yes}"),
    *(rf"\text{{{word}}}" for word in ("even", "no solution", " cm", " hours", " or ", " and ", " is wrong", "k")),
]
TEMPLATES = [
    "L+R", "L-R", "L R", r"L \cdot R", "L/R", r"\frac{L}{R}", "L^{R}", r"\binom{L}{R}", r"\log_{L} R", "L = R", "L, R",
    "(L, R)", r"\{L, R\}", "[L, R)", r"L \le R", r"\begin{pmatrix} L \\ R \end{pmatrix}", r"\sum_{k=1}^{L} R", "-L",
    r"\begin{cases} L & x>0 \\ R & x \le 0 \end{cases}", r"\int_0^{L} R \,dx", r"L \text{ or } R", "(L)", "L!", "L^2",
    r"\left(L\right)", r"\sqrt{L}", r"\sqrt[3]{L}", "|L|", r"\lfloor L \rfloor", r"\sin L", r"\ln(L)", "f(L)", "L : R",
    r"\pm L", r"L \pmod{7}", r"\text{L}", r"\overline{L}", r"\lim_{x \to L} R", "f(x) = L", r"\{x \mid L < x\}",
]  # fmt: skip
# Other ways to write L, most of them equal to it, and near misses.
NEAR = [
    "x = L", r"L \text{ cm}", r"L\%", r"\{L\}", "(L)", r"\frac{2L}{2}", "L + 0", "1 \\cdot L", "--L", "L, L",
    r"\text{the answer is } L", "$L$", "L.", r"\frac{L}{1}", "L = L", "0 = L", "L^1", r"L^\circ", r"x \in L", "L + 1",
]  # fmt: skip


def _filled(parts):
    template, left, right = parts
    return re.sub(r"\bL\b|\bR\b", lambda found: left if found[0] == "L" else right, template)


LATEX = st.recursive(
    st.sampled_from([*NUMBERS, *LETTERS, *WORDS]),
    lambda inner: (
        st.tuples(st.sampled_from(TEMPLATES), inner, inner).map(_filled)
        | st.tuples(inner, st.sampled_from(WORDS)).map("".join)
    ),
    max_leaves=6,
)
CUT = LATEX.flatmap(lambda text: st.integers(0, len(text)).map(lambda at: text[at:] + text[:at]))
JUNK = st.text(alphabet=r"\{}()[]^_$%&|!',.:;=<>+-*/~ 0123456789abxyeinABCdt√π½²≤°", max_size=30)
ANSWERS = LATEX | LATEX | CUT | JUNK


@st.composite
def pairs(draw):
    """Two answers that have nothing to do with each other, or one and another way to write it."""
    left = draw(ANSWERS)
    return left, draw(ANSWERS | st.sampled_from(NEAR).map(lambda template: template.replace("L", left)))


class _Late(Exception):
    """More CPU time than an answer may take."""


@pytest.fixture(autouse=True)
def limit():
    """The CPU time of an answer, as a worker has it, but raised: hypothesis then shows the pair."""

    def late(*_):
        raise _Late

    before = signal.signal(signal.SIGVTALRM, late)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


def _judged(answer, gold):
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    status = judge(answer, gold)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return status


FUZZ = settings(
    max_examples=PAIRS, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)


@FUZZ
@given(pairs())
def test_equality_has_no_direction_and_an_answer_equals_itself(pair):
    left, right = pair
    assert (_judged(left, right) == "correct") == (_judged(right, left) == "correct")
    for text in (left, right):
        if text.strip():
            assert _judged(text, text) == "correct"
            assert _judged(text, f" {text} ") == "correct"


@FUZZ
@given(LATEX, st.sampled_from(["\\,", "\\ ", " ", "~"]))
def test_space_around_an_answer_does_not_count(answer, space):
    if answer.strip():
        assert _judged(f"{space}{answer}{space}", answer) == "correct"


MORE = str.split(r"7x q! ^2 ' +y \cdot7 /3 -w \text{maybe} \text{~or~}6 ,5 =8 \le8 \to6 \infty )( & \dagger")


@FUZZ
@given(st.sampled_from([n for n in NUMBERS if n not in ("0", "1", "1,234")]), st.sampled_from(MORE))
def test_a_number_with_one_token_more_is_another_answer(number, more):
    """Nothing behind a number is cut off: not read means not equal."""
    assert _judged(number + more, number) != "correct"


@FUZZ
@given(st.lists(ANSWERS | st.sampled_from([r"\boxed{", "}", r"\boxed 5", "</think>", " and ", ", "]), max_size=8))
def test_finding_the_box_never_fails(pieces):
    found = boxed_answer("".join(pieces))
    assert found is None or isinstance(found, str)
