r"""The papers' own grading, to set beside ours: of their training (`RULES`) and their evaluations (`papers_correct`).

In training, TRAPO's script rewards a text if math-verify, left to find the answer anywhere in it, says so
(github.com/Su-my/TRAPO, math_verify_reward.py, reward_impl_version 4); LUFFY's asks the same of what stands behind the
first `</think>`, and gives nothing where there is none (github.com/ElliottYan/LUFFY, the same file, version 3).

In evaluations, TRAPO (arXiv:2512.17636) and LUFFY (arXiv:2504.14945) call a text right if math-verify does, or else if
the boxed comparison of understand-r1-zero (arXiv:2503.20783, `boxed_reward_fn`, fast=False) does: by the normalisation
of MATH (arXiv:2103.03874) with a list of unit words, by that of PRM800K (arXiv:2305.20050) and sympy, or by math-verify
on the two answers alone.

Written anew from what those programs do, their leniency included: units, percent signs and words like "a" vanish,
`\frac{x+1}{2}` is read as x+1/2, integers are compared as floats, and the sum `(a)-(b)` is left to sympy's `simplify`.

Where it differs from them:

* math-verify 0.9.0 and today's pylatexenc, of which they pin no version.
* Their time-outs (SIGALRM, 5 s in math-verify and 1 s in the last step) call an answer wrong or leave it to the next
  step; here there is none, and `trapo.Grader` ends what takes too long: "timeout", which earns no more than "wrong".
* The last step also refuses answers of over 128 characters that repeat themselves, which only saves time. Not here.
* The unit words go in one sweep, done twice, where they go one by one; entries of several words, some of them garbled,
  count only as the single words in them.
* `papers_correct` grades a text whole. Where the prompt ended in <think>, their scripts grade what follows </think>:
  cut it first.
* What has quotes in it does not go to sympy, which would run it as Python.
* A gold is one string; of a list their box accepts any member.
"""

import contextlib
import re
from collections.abc import Callable

_UNIT_WORDS = (
    "a ab acre am apple are bc by c cc cm coin cube cubic d day decrease deg degree dm east excess feet ft g gain "
    "gal gallon gm h hectare hour hr inch inches increase kg km kmh kmph l lb less liter litre loss lt m man mark "
    "men meter metre min minute minw mm monkey month more mp mph mt mtr noon number o ohm per percent pie pm prime "
    "profit pure ratio rd rise rounds rs rupee s sec second soldier sq square st Surface t th tile toy unit way "
    "west woman women yard year yr"
)
# Among the originals are `a .` to `h .` and `q .`, used as patterns: their dot is any character.
_UNITS = [re.compile(rf"(?<!\w)(?:{words})s?(?!\w)") for words in ("[a-hq] .", "|".join(_UNIT_WORDS.split()))]
_UNIT_PARTS = re.compile(  # wherever they stand, inside words too
    r"(?:degree|cm|centimeter|meter|mile|second|minute|hour|day|week|month|year|foot|feet|inch|yard)"
    r"(?:es)?s? *(?:\^[0-9]+)?"
)
_MATHD_BEFORE = (
    ("\n", ""), (r"\!", ""), ("\\\\", "\\"), ("bmatrix", "pmatrix"), ("tfrac", "frac"), ("dfrac", "frac"),
    (r"\neq", r"\ne"), (r"\leq", r"\le"), (r"\geq", r"\ge"), (r"\left", ""), (r"\right", ""),
)  # fmt: skip
_MATHD_AFTER = (r"^{\circ}", ""), (r"^\circ", ""), (r"\$", ""), (r"\%", ""), (" .", " 0."), ("{.", "{0.")
_WORDS = (
    (r"\%", ""), (r"\$", ""), ("$", ""), ("%", ""), (" or ", " , "), (" and ", " , "),
    ("million", "*10^6"), ("billion", "*10^9"), ("trillion", "*10^12"),
)  # fmt: skip
_SYMBOLS = ("√", "sqrt"), ("π", "pi"), ("∞", "inf"), ("∪", "U"), ("·", "*"), ("×", "*")
_FRACTION = re.compile(r"-?[0-9]+.?/0*[1-9][0-9]*.?")
_UNTRIED = re.compile(r"""\^[{(]|\^[0-9]+\^|\^[0-9][0-9]|['"]""")  # the powers sympy is not trusted with, and quotes


def trapo_correct(text: str, gold: str) -> bool:
    """Whether TRAPO's training rewards the generated `text`, by math-verify on all of it, box or no box.

    May run for ever and take any amount of memory, as all of these: `trapo.Grader` calls them within limits.
    """
    from math_verify import parse, verify

    found, wanted = parse(text, parsing_timeout=None), parse(f"${gold}$", parsing_timeout=None)
    return verify(wanted, found, timeout_seconds=None)


def luffy_correct(text: str, gold: str) -> bool:
    """Whether LUFFY's training rewards the generated `text`: what is between its first </think> and a second one."""
    _, *behind = text.split("</think>")
    return bool(behind) and trapo_correct(behind[0], gold)


RULES: dict[str, Callable[[str, str], bool]] = {"reference": trapo_correct, "luffy": luffy_correct}


def papers_correct(text: str, gold: str) -> bool:
    """Whether the papers' evaluations count the generated `text` as right, box or no box."""
    if trapo_correct(text, gold):
        return True
    answer, gold = _last_box(text), _last_box(gold) if "\\boxed" in gold else gold
    if answer is None or gold is None:
        return False
    return _mathd(answer) == _mathd(gold) or _sympy_equal(answer, gold) or _math_verify_equal(answer, gold)


def _last_box(text: str) -> str | None:
    r"""What is in the last \boxed, braces counted; None if it is not closed or no brace follows at once."""
    _, box, rest = text.rpartition("\\boxed")
    depth = 0
    for i, character in enumerate(rest if box and rest.startswith("{") else ""):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[1:i]
    return None


def _replaced(text: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        text = text.replace(old, new)
    return text


def _mathd(answer: str) -> str:
    """The answer as the grading of MATH writes it; equal strings are equal answers."""
    answer = answer.strip()
    if whole := re.fullmatch(r"\\text\{(.+)\}", answer):
        answer = whole[1].strip()
    text = _replaced(answer, _MATHD_BEFORE)
    text = re.sub(r"\\begin\{array\}\{.*?\}", r"\\begin{pmatrix}", text).replace(r"\end{array}", r"\end{pmatrix}")
    text = re.sub(r"\\text\{.*\}$", "", text).strip() or text
    for units in _UNITS * 2:
        text = units.sub("", text) or text
    if text.count(r"\text{ ") > 1 or text.endswith((r"\sqrt", r"\frac")):
        return answer  # where the original fails, and then leaves the answer as it was
    text = _replaced(text.split(r"\text{ ")[0], _MATHD_AFTER)
    if text.startswith("."):
        text = "0" + text
    left, equals, right = text.partition("=")
    if equals and len(left) <= 2 and "=" not in right:  # "x = 5" is 5
        text = right
    text = re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text).replace(" ", "")
    text = re.sub(r"\\frac([^{])([^{])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac([^{])\{", r"\\frac{\1}{", text)
    if text == "0.5":
        return r"\frac{1}{2}"
    return re.sub(r"^(0|-?[1-9]\d*)/(0|-?[1-9]\d*)$", r"\\frac{\1}{\2}", text)


def _without_thousands(text: str) -> str:
    return re.sub(r"(?<=\d),(?=\d\d\d(?!\d))", "", text)


def _integer(text: str) -> int | None:
    """The integer that the text is, to within 1e-7; None if it is none."""
    try:
        value = float(text)
        return round(value) if abs(value - round(value)) <= 1e-7 else None
    except (ValueError, OverflowError):
        return None


def _plain(answer: str) -> str:
    """The answer as PRM800K's grading writes it: what sympy can read, lower case, without spaces, braces or units."""
    from pylatexenc.latex2text import LatexNodes2Text

    if whole := re.match(r"\\text\{(.+?)\}$", answer):
        answer = whole[1]
    text = _UNIT_PARTS.sub("", _replaced(answer, _WORDS))
    text = re.sub(r"\^ *\\circ", "", text)
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    text = re.sub(r",\\! *", "", text)
    if (number := _integer(text)) is not None:
        text = str(number)
    if "\\" in text:
        fractions = re.sub(r"\\[td]?frac", r" \\frac", text)  # the space keeps a mixed number's parts apart
        with contextlib.suppress(Exception):  # as in the original: what pylatexenc cannot read stays as it is
            text = _replaced(LatexNodes2Text().latex_to_text(fractions), _SYMBOLS).strip()
    text = re.sub(r"([0-9]) +([0-9])", r"\1+\2", re.sub("- *", "-", text))
    text = re.sub("[ {}]", "", text).lower()
    number = _integer(_without_thousands(text))
    return text if number is None else str(number)


def _members(text: str) -> list[str]:
    """The members of a tuple or an interval; of anything else the text itself."""
    text = _without_thousands(text)
    if re.fullmatch(r"[()\[\]][^()\[\]]+[()\[\]]", text):
        return [member.strip() for member in text[1:-1].split(",")]
    return [text] if text else []


def _sympy_equal(answer: str, gold: str) -> bool:
    """Equal as PRM800K writes them, or member for member by sympy, which may neither reduce nor reach an integer."""
    answer, gold = _plain(answer), _plain(gold)
    if answer == gold or not answer:
        return answer == gold
    answers, golds = _members(answer), _members(gold)
    if len(answers) != len(golds) or (len(golds) > 1 and (answer[0], answer[-1]) != (gold[0], gold[-1])):
        return False
    return all(_member_equal(*pair) for pair in zip(answers, golds, strict=True))


def _member_equal(answer: str, gold: str) -> bool:
    if _FRACTION.fullmatch(answer) and _FRACTION.fullmatch(gold):
        return answer == gold  # a fraction must be reduced as the gold is
    if (_integer(_without_thousands(answer)) is None) != (_integer(_without_thousands(gold)) is None):
        return False
    difference = f"({gold})-({answer})"
    letters = {c for c in difference.replace("sqrt", "").replace("frac", "") if c.isalpha()}
    if len(letters) > 2 or _UNTRIED.search(difference):
        return False
    from sympy import simplify
    from sympy.parsing import sympy_parser

    # parse_expr evaluates Python. Two letters spell no harmful name, but re("...") would evaluate the string in turn.
    rules = (*sympy_parser.standard_transformations, sympy_parser.implicit_multiplication_application)
    try:
        return bool(simplify(sympy_parser.parse_expr(difference.replace("^", "**"), transformations=rules)) == 0)
    except Exception:  # as in the original: what sympy cannot read is not equal
        return False


def _math_verify_equal(answer: str, gold: str) -> bool:
    """Equal to math-verify, each taken as LaTeX and no raw text compared.

    The original asks for `extraction_mode=["first_match"]`: a list, which math-verify takes as its default, any match.
    """
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    gold, answer = (
        parse(
            side if "$" in side else f"${side}$",
            extraction_config=(LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()),
            fallback_mode="no_fallback",
            parsing_timeout=None,
        )
        for side in (gold, answer)
    )
    return verify(gold, answer, timeout_seconds=None)
