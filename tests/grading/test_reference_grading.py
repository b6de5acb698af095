"""The papers' grading beside ours: labels by hand from what their programs do, in both directions where they differ."""

import subprocess
import sys

import pytest

from trapo.choices import GRADERS as CHOICES
from trapo.grading.grader import GRADERS, Grader, Verdict
from trapo.grading.reference import papers_correct

# Text, gold, whether the papers call it right, and our status.
MATH_VERIFY_FINDS_IT = [
    (r"\boxed{5 \text{ cm}}", r"5 \text{ kg}", True, "wrong"),  # it drops units
    ("The answer is 12.", "12", True, "no_box"),
    ("So we get $x = 5$", "5", True, "no_box"),
    (r"Hence the final answer is $\frac{3}{4}$.", "0.75", True, "no_box"),
    (r"It is $2\sqrt{2}$", r"\sqrt{8}", True, "no_box"),
    ("it costs $5 and then 12 in all", "12", True, "no_box"),
    (r"\boxed 7", "7", True, "correct"),
    (r"\boxed{3} is wrong, the final answer is $4$. I hope it is correct.", "4", True, "wrong"),
    (r"<think>\boxed{7}</think> the rest was cut off", "7", True, "no_box"),
    (r"\boxed{\frac{1}{2}}", "0.5", True, "correct"),
    (r"\boxed{x^2+2x+1}", "(x+1)^2", True, "correct"),
    (r"\boxed{(1, \frac{4}{2})}", "(1,2)", True, "correct"),
    (r"\boxed{[0, 1) \cup (2, 3]}", r"[0,1)\cup(2,3]", True, "correct"),
    (r"\boxed{5}", r"\boxed{5}", True, "correct"),
]
ONLY_THE_BOX_DOES = [
    (r"\boxed{1} and \boxed{2}", "2", True, "wrong"),  # to math-verify the set {1, 2}; to us two answers
    (r"\boxed{\text{5 days}}", "5", True, "correct"),  # unit words go
    (r"\boxed{\text{3:30 pm}}", "3:30", True, "correct"),
    (r"\boxed{\text{5 east}}", r"\text{5 west}", True, "wrong"),
    (r"\boxed{(3, 4 \text{ cm})}", "(3,4)", True, "correct"),
    (r"\boxed{(c)}", "(a)", True, "wrong"),  # so do the letters a and c, which leaves () and ()
    (r"\boxed{t^2}", "m^2", True, "wrong"),
    (r"\boxed{\text{Thursday}}", r"\text{Thurs}", True, "wrong"),  # and "day", inside a word too
    (r"\boxed{2 \text{ million}}", "2*10^6", True, "correct"),
    (r"\boxed{12345678901234567891}", "12345678901234567890", True, "wrong"),  # equal as floats
    (r"\boxed{2.0000000001}", "2", True, "wrong"),
    (r"\boxed{1e3}", "1000", True, "correct"),
    (r"\boxed{\frac{2x+1}{2}}", r"2x+\frac{1}{2}", True, "wrong"),  # both are read as 2x+1/2
    (r"\boxed{\sqrt[3]{2}}", r"\sqrt{2}", True, "wrong"),  # the index is not read at all
]
WRONG_STAYS_WRONG = [
    (r"\boxed{13}", "12", False, "wrong"),
    ("The answer is 13.", "12", False, "no_box"),
    (r"12 it is not: \boxed{13}", "12", False, "wrong"),
    (r"\boxed{x^2+2x+2}", "(x+1)^2", False, "wrong"),
    (r"\boxed{(2,1)}", "(1,2)", False, "wrong"),
    (r"\boxed{(1,2,3)}", "(1,2)", False, "wrong"),
    (r"\boxed{[0,1]}", "[0,1)", False, "wrong"),
    (r"\boxed{\frac{1}{3}}", "0.5", False, "wrong"),
    (r"\boxed{0.33}", r"\frac{1}{3}", False, "wrong"),
    (r"\boxed{\text{Bob}}", r"\text{Alice}", False, "wrong"),
    (r"\boxed{c}", "a", False, "wrong"),  # a unit word that is all there is stays
    (r"\boxed{\frac{1}{2} \text{ hour}}", r"30 \text{ minutes}", False, "correct"),
    (r"\boxed{12", "12", False, "correct"),  # math-verify wants a number to stand free
    (r"\fbox{7}", "7", False, "correct"),
    ("Answer: B", "B", False, "no_box"),
    (r"\boxed{}", "12", False, "no_box"),
    ("", "12", False, "no_box"),
    ("I do not know.", "12", False, "no_box"),
]
OURS_IS_THE_KINDER = [
    (r"\boxed{4.5 \cdot 10^{33}}", "4.5e33", False, "correct"),
    (r"\boxed{10\,000}", "10000", False, "correct"),
    (r"\boxed{\frac{1}{i}}", "-i", False, "correct"),
]
PAIRS = [*MATH_VERIFY_FINDS_IT, *ONLY_THE_BOX_DOES, *WRONG_STAYS_WRONG, *OURS_IS_THE_KINDER]


@pytest.fixture(scope="module")
def grader():
    with Grader(workers=2, cpu_seconds=20) as grader:
        yield grader


@pytest.mark.parametrize("quick", [True, False])
def test_the_papers_verdicts_and_ours(quick, grader):
    texts, golds, rights, ours = zip(*PAIRS, strict=True)
    theirs = [verdict.status for verdict in grader.grade(texts, golds, quick, reference=True)]
    expected = [("wrong", "correct")[right] for right in rights]
    assert [x for x in zip(texts, golds, theirs, expected, strict=True) if x[2] != x[3]] == []
    found = [verdict.status for verdict in grader.grade(texts, golds, quick)]
    assert [x for x in zip(texts, golds, found, ours, strict=True) if x[2] != x[3]] == []


def test_the_table_covers_both_steps():
    from math_verify import parse, verify

    def first_step(text, gold):
        return verify(parse(f"${gold}$", parsing_timeout=None), parse(text, parsing_timeout=None), timeout_seconds=None)

    assert len(PAIRS) >= 30
    assert [text for text, gold, *_ in MATH_VERIFY_FINDS_IT if not first_step(text, gold)] == []
    assert [text for text, gold, *_ in ONLY_THE_BOX_DOES if first_step(text, gold)] == []


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        (r"\tfrac12", r"\frac{1}{2}", True),
        (r"\sqrt3", r"\sqrt{3}", True),
        (r"x = \sqrt3", r"\sqrt{3}", True),
        (r"abc = \sqrt3", r"\sqrt{3}", False),  # three letters are no variable's name
        (r".5\%", "0.5", True),
        ("1/2", "0.5", True),
        ("01/2", "0.5", False),
        (r"90^{\circ}", "90", True),
        (r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}", r"\begin{pmatrix} 1\\2\end{pmatrix}", True),
        (r"\sqrt", r"\sqrt", True),
        ("cm", "", False),
    ],
)
def test_strings_that_are_equal_to_the_grading_of_math(answer, gold, right):
    from trapo.grading.reference import _mathd

    assert (_mathd(answer) == _mathd(gold)) == right


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("x+x", "2x", True),
        ("(x+x, 3)", "(2x, 3)", True),
        ("(x+x, 3]", "(2x, 3)", False),
        (r"2\frac{1}{3}", "7/3", True),  # 2+1/3 is no bare fraction
        ("6/4", "3/2", False),  # but these are, and one is not reduced
        ("4/2", "2", False),  # an integer must be written as one
        ("1,000", "1000", True),
        ("(1,000, 2)", "(1000, 2)", True),
        ("x*y*z", "z*y*x", False),  # more than two letters
        ("2^{10}", "2^10", True),
        ("2^12", "4^11*2", False),  # powers are not tried
        ("2x)*(1", "2x", True),  # a text is pasted in as it is
        ("i+im(2)", "i", True),
        ('i+im("2")', "i", False),  # sympy would run the string
    ],
)
def test_answers_that_are_equal_to_the_grading_of_prm800k(answer, gold, right):
    from trapo.grading.reference import _sympy_equal

    assert _sympy_equal(answer, gold) == right


def test_an_answer_that_never_ends_costs_one_timeout():
    with Grader(workers=2, cpu_seconds=2, memory_mb=512) as grader:
        texts = [r"\boxed{(10^9)!}", "it is 1/2", r"\boxed{9^{9^{9^{9}}}}", r"\boxed{\frac{2}{4}}"]
        verdicts = grader.grade(texts, ["0.5"] * 4, reference=True)
    assert verdicts == [Verdict("timeout"), Verdict("correct"), Verdict("timeout"), Verdict("correct")]


def test_a_text_longer_than_the_pipe(grader):
    text = "We take the number 3 and go on with it. " * 20_000
    assert [v.status for v in grader.grade([text + "So it is 12.", text], [12, 12], reference=True)] == [
        "correct",
        "wrong",
    ]


def test_both_gradings_share_one_grader(grader):
    grader.submit("ours", "it is 12", 12)
    grader.submit("theirs", "it is 12", 12, reference=True)
    verdicts = {}
    while len(verdicts) < 2:
        verdicts |= grader.collect(wait=True)
    assert verdicts == {"ours": Verdict("no_box"), "theirs": Verdict("correct")}


# Text, gold, what TRAPO's training gives it, what LUFFY's does, and our status.
REWARDED = [
    (r"<think>\boxed{7}</think> so \boxed{12}", "7", False, False, "wrong"),
    (r"<think>\boxed{7}</think> so \boxed{12}", "12", True, True, "correct"),
    (r"so \boxed{12}", "12", True, False, "correct"),  # without </think> LUFFY's gives nothing
    ("hm </think> it is 12", "12", True, True, "no_box"),
    ("hm </think> it is 12 </think> or 13", "12", False, True, "no_box"),  # and it stops at a second one
    (r"\boxed{1} and \boxed{2}", "2", False, False, "wrong"),  # two answers
    (r"</think> \boxed{\text{5 days}}", "6", False, False, "wrong"),
]


@pytest.mark.parametrize("rule, column", [("reference", 2), ("luffy", 3), ("own", 4)])
def test_a_grader_may_reward_as_a_papers_training_does(rule, column):
    with Grader(workers=1, cpu_seconds=20, rule=rule) as grader:
        found = [v.status for v in grader.grade([row[0] for row in REWARDED], [row[1] for row in REWARDED])]
    wanted = [{True: "correct", False: "wrong"}.get(row[column], row[column]) for row in REWARDED]
    assert found == wanted


def test_an_unknown_rule_is_named():
    assert CHOICES == GRADERS  # the configuration's, which stands below the grader
    with pytest.raises(ValueError, match="grader 'lufy' is unknown: choose one of own, reference, luffy"):
        Grader(rule="lufy")


def test_a_gold_in_a_box_that_is_not_closed_is_never_met():
    assert not papers_correct(r"\boxed{\text{5 days}}", r"\boxed{\text{5 days}")


def test_importing_it_is_cheap():
    code = "import sys, trapo.grading.reference; sys.exit('sympy' in sys.modules or 'math_verify' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
