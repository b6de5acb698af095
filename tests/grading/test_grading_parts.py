"""The parts of the grader by hand: tokens, units, exact numbers, regions, points that decide."""

from fractions import Fraction

import pytest
import sympy

from trapo.grading import units
from trapo.grading.equality import equal, proportional, repeats
from trapo.grading.expressions import expression
from trapo.grading.latex import Unreadable, canonical, tokens
from trapo.grading.reading import readings
from trapo.grading.regions import region
from trapo.grading.values import Based, Formula, Interval, List, Quantity, Ratio, Relation, Set, Tuple, Unread, Words

x, y = sympy.symbols("x y")


def parsed(text):
    return expression(tokens(text))


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        (r"\left( \dfrac{1}{2} \right)", "( frac { 1 } { 2 } )"),
        (r"\textcolor{red}{x}^{2}", "{ x } ^ { 2 }"),
        ("x²≤½", "x ^ { 2 } le frac { 1 } { 2 }"),
        (r"12\,345", "12345"),
        ("1 0", "1 0"),
        ("x^10", "x ^ ?10"),
        ("10^{-3}", "10 ^ { - 3 }"),
        ("10^-3", "10 ^ { - 3 }"),
        (r"\text{H}_2\text{O}", "H _ { 2 } O"),
    ],
)
def test_tokens_by_hand(text, marks):
    assert canonical(tokens(text)) == marks


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4.5e33", sympy.Integer(45) * 10**32),
        (r"0.1\overline{6}", sympy.Rational(1, 6)),
        (r"0.\dot{1}4285\dot{7}", sympy.Rational(1, 7)),
        (r"2\frac{3}{4}", sympy.Rational(11, 4)),
        (r"\cos 2x y", sympy.cos(2 * x * y)),
        (r"\sin^2 x/2", sympy.sin(x) ** 2 / 2),
        (r"\sum_{k=1}^{100} k", 5050),
        (r"\int_0^3 x^2\,dx", 9),
        (r"\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix}", -2),
        ("-x^2", -(x**2)),
        ("x/2y", x * y / 2),
    ],
)
def test_expressions_by_hand(text, value):
    assert parsed(text) == value


@pytest.mark.parametrize(
    "text", ["2 3", "x +", "(x", r"\frac{1}", "5 apples", r"\frac{0}{0}", "x^", "5''", r"3\text{ or }4"]
)
def test_what_is_not_used_up_is_not_read(text):
    with pytest.raises(Unreadable):
        parsed(text)


def test_too_large_to_compute_is_itself_alone():
    tower, more = parsed("3^{10^{10}}"), parsed("3^{10^{10}}+1")
    assert equal(tower, parsed("3^{10^{10}}")) and not equal(tower, more) and not equal(tower, sympy.Integer(5))


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (r"\sqrt{5+2\sqrt{6}}", r"\sqrt{2}+\sqrt{3}", True),
        ("|x|", "x", False),
        (r"\ln x^2", r"2\ln x", True),
        (r"\sqrt{x^2}", "x", False),
        (r"\frac{x^2-1}{x-1}", "x+1", True),
        (r"e^{\pi\sqrt{163}}", "640320^3+744", False),  # they differ by 7e-13
        (r"\frac{1}{i}", "-i", True),
        (r"\log 1000", "3", True),
        (r"\log e", "1", True),
        (r"\log 1000 + \log e", "4", False),  # one base at a time
    ],
)
def test_equality_by_hand(left, right, same):
    assert equal(parsed(left), parsed(right)) == equal(parsed(right), parsed(left)) == same


def test_proportional_equations_are_the_same_and_signs_count_for_inequalities():
    assert proportional(2 * x - 4, 4 - 2 * x) and not proportional(2 * x - 4, 4 - 2 * x, positive=True)
    assert not proportional(x - 2, x**2 - 4) and not proportional(x - y, x + y)


@pytest.mark.parametrize(
    ("decimal", "fraction", "stands"),
    [
        ("0.333333", (1, 3), True),
        ("0.33333", (1, 3), False),
        ("0.142857", (1, 7), True),
        ("0.1428571", (1, 7), False),  # cut inside a period
        ("0.666667", (2, 3), False),  # rounded
        ("3.142857", (22, 7), False),
    ],
)
def test_periods_written_out(decimal, fraction, stands):
    assert repeats(sympy.Rational(decimal), sympy.Rational(*fraction)) == stands


@pytest.mark.parametrize(
    ("factors", "dimension", "worth"),
    [
        ([("mph", 1)], (("meter", 1), ("second", -1)), Fraction(44704, 100000)),
        ([("km", 1), ("h", -1)], (("meter", 1), ("second", -1)), Fraction(5, 18)),
        ([("inches", 3)], (("meter", 3),), Fraction(254, 10000) ** 3),
        ([("cents", 1)], (("dollar", 1),), Fraction(1, 100)),
        ([("units", 2)], (), Fraction(1)),
    ],
)
def test_units_by_hand(factors, dimension, worth):
    unit = units.product(factors)
    assert (unit.dimension, unit.factor) == (dimension, worth)


@pytest.mark.parametrize(
    "word", ["factorial", "k", "i", "e", "x", "thousand", "as", "or", "halves", "percent", "wrong"]
)
def test_words_that_are_no_unit(word):
    assert not units.is_unit(word) and units.counted([word]) is None


def test_every_unit_has_a_worth():
    assert [word for word in units._names() if units._pint(units._pint_name(word))[0] is None] == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1,234", Formula), ("3 cm", Quantity), ("1011_2", Based), ("3:4", Ratio), ("(1,2)", Tuple),
        ("[1,2)", Interval), (r"\{1,2\}", Set), ("1,2", List), ("x=5", Relation),
        (r"\text{even}", Words), (r"{}^{14}C", Unread),
    ],
)  # fmt: skip
def test_kinds(text, kind):
    assert isinstance(readings(text)[0], kind)


def test_commas_between_digits_are_read_both_ways():
    number, members = readings("1,234")
    assert number == Formula(sympy.Integer(1234)) and [m.value for m in members.members] == [1, 234]


def test_a_union_is_merged_and_keeps_its_letter():
    (value,) = readings(r"x \in [1,2] \cup [2,3)")
    found = region(value)
    assert found.letter == "x" and len(found.pieces) == 1
    assert (found.pieces[0].low, found.pieces[0].high, found.pieces[0].high_in) == (1, 3, False)
