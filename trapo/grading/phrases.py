"""The words around an answer: which of them say nothing, which name a number, which are the same in other words."""

from collections.abc import Sequence

from .latex import Token
from .units import COUNTED, singular

_FILLERS = frozenset(
    str.split("so thus hence therefore then we get have it there exactly only just must be to a an the of")
)
_SO = frozenset(["so", "thus", "hence", "therefore", "then"])
_VERBS = frozenset(["is", "are", "equals", "equal"])
_TAILS = [["in", "total"], ["in", "all"], *([word] for word in ("total", "altogether", "exactly", "only", "each"))]
_TAILS += [["respectively"], ["chance"]]
_REMARKS = ("since", "because")
_QUANTIFIED = frozenset(str.split("real integer integers number numbers reals natural positive all x y z n k t r s m"))
CONNECTORS = ("and", "or")
CHANGES = frozenset(
    str.split("increase decrease profit loss gain discount reduction rise drop growth decline off markup")
)
NUMBERS = {
    word: i
    for i, word in enumerate(
        str.split(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
            "seventeen eighteen nineteen twenty"
        )
    )
} | {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
MULTIPLIERS = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SAME = {
    ("dne",): ("does", "not", "exist"), ("doesn't", "exist"): ("does", "not", "exist"),
    ("no", "solutions"): ("no", "solution"), ("no", "roots"): ("no", "root"), ("undef",): ("undefined",),
    ("no", "real", "solutions"): ("no", "real", "solution"), ("none", "of", "these"): ("none", "of", "the", "above"),
    ("not", "defined"): ("undefined",), ("limit", "does", "not", "exist"): ("does", "not", "exist"),
    ("there", "is", "no", "solution"): ("no", "solution"), ("solution", "does", "not", "exist"): ("no", "solution"),
    ("no", "such", "solution"): ("no", "solution"), ("empty", "set"): ("no", "solution"),
    ("the", "empty", "set"): ("no", "solution"), ("no", "solution", "exists"): ("no", "solution"),
    ("no", "solutions", "exist"): ("no", "solution"),
    ("it", "does", "not", "exist"): ("does", "not", "exist"), ("infinite",): ("infinitely", "many"),
    ("infinitely", "many", "solutions"): ("infinitely", "many"),
}  # fmt: skip
_ARTICLES = frozenset(("a", "an", "the"))
_ELEMENTS = frozenset(
    str.split(
        "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr "
        "Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W "
        "Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm"
    )
)


def is_word(token: Token) -> bool:
    """Whether the token is letters that may be a word."""
    return token.kind in ("word", "run")


def unwrapped(found: list[Token]) -> list[Token]:
    """The tokens without the words that only lead to an answer, and without remarks behind it."""
    found = _without_lead(found)
    for phrase in _TAILS:
        if (
            len(found) > len(phrase)
            and _spell(found[-len(phrase) :]) == phrase
            and not is_word(found[-len(phrase) - 1])
        ):
            found = found[: -len(phrase)]
    return _without_quantifier(_without_remark(found))


def _spell(found: Sequence[Token]) -> list[str]:
    return [t.text.lower() if is_word(t) else "" for t in found]


def _without_lead(found: list[Token]) -> list[Token]:
    """Without "So the total area is", "Answer:", "There are"."""
    at = 0
    while at < len(found) and is_word(found[at]) and _leads(found[at].text.lower()):
        at += 1
    verb = at > 0 and found[at - 1].text.lower() in _VERBS
    if at < len(found) and (found[at].is_mark(":") or (found[at].is_mark(",") and found[at - 1].text.lower() in _SO)):
        verb, at = at > 0, at + 1
    rest = found[at:]
    return rest if rest and at and (verb or not is_word(rest[0])) and not rest[0].is_mark("=") else found


def _leads(word: str) -> bool:
    return word in _FILLERS or word in _VERBS or word in _LABELS or singular(word) in COUNTED


_LABELS = frozenset(
    str.split(
        "in for final correct total answer result value values number numbers sum product difference area perimeter "
        "volume length width height distance time speed rate cost price profit age mass weight angle radius diameter "
        "probability ratio average mean median mode maximum minimum count amount solution solutions root roots "
        "remainder quotient year and digits option choice set domain range interval limit point function expression "
        "equation day month date name"
    )
)
_ENGLISH = frozenset(
    str.split(
        "if is of or and not the when then else for all any with than more less per mod maybe about some none only "
        "what where while such that this but nor each both either over under least most from into its was were has"
    )
)
_DENIALS = frozenset(
    str.split(
        "not no never neither nor except but less more greater smaller fewer least most about approximately "
        "around near nearly roughly almost wrong incorrect false or if unless maybe perhaps possibly other any "
        "between below above over under"
    )
)


def is_english(letters: str) -> bool:
    """Whether letters side by side, outside any text, are a word and no product."""
    word = letters.lower()
    return len(word) > 4 or word in _ENGLISH or word in MULTIPLIERS or word in NUMBERS or word in CHANGES


def denies(words: Sequence[str]) -> bool:
    """Whether the words may say that what follows is not the answer, or not all of it."""
    return any(word.lower() in _DENIALS for word in words)


def _without_remark(found: list[Token]) -> list[Token]:
    """Without a bracket behind the answer that says why, or says a number again in words."""
    if not found or not found[-1].is_mark(")"):
        return found
    depth = 0
    for i in range(len(found) - 1, 0, -1):
        depth += found[i].is_mark(")") - found[i].is_mark("(")
        if depth == 0:
            break
    else:
        return found
    words = _spell(found[i + 1 : -1])
    if words and words[0] in _REMARKS and not {"or", "not", "if", "but"} & set(words):
        return found[:i]
    before = found[i - 1]
    if i == 1 and len(words) == 1 and words[0] in NUMBERS and before.text == str(NUMBERS[words[0]]):
        return found[:i]
    return found


def _without_quantifier(found: list[Token]) -> list[Token]:
    """Without "for all x", "for every real x", "for all x in R"."""
    spelled = _spell(found)
    for i in range(1, len(found) - 1):
        if spelled[i] == "for" and spelled[i + 1] in ("all", "any", "every"):
            rest = found[i + 2 :]
            plain = all(
                (is_word(t) and t.text.lower() in _QUANTIFIED) or (t.kind == "letter") or t.is_command("in")
                for t in rest
            )
            return found[:i] if plain else found
    return found


def same_words(left: Sequence[str], right: Sequence[str]) -> bool:
    """Whether two texts say the same: case does not count, nor articles; of chemical formulas case does."""
    left, right = _plain(left), _plain(right)
    lower = [tuple(w.lower() for w in words) for words in (left, right)]
    lower = [_SAME.get(words, words) for words in lower]
    if lower[0] != lower[1]:
        return False
    return not any(
        a != b and ((_is_formula(a) and _is_formula(b)) or _has_inner_capitals(a) or _has_inner_capitals(b))
        for a, b in zip(left, right, strict=False)
    )


def _has_inner_capitals(word: str) -> bool:
    """NaCl, pH: then case counts. YES has capitals only."""
    return not word.isupper() and word[1:] != word[1:].lower()


def _plain(words: Sequence[str]) -> list[str]:
    kept = [w for w in words if w.lower() not in _ARTICLES]
    return kept or list(words)


def _is_formula(word: str) -> bool:
    """Whether the word is made of the elements' symbols: `Co` and `CO` are, `Yes` is not, nor is `No` meant to be."""
    if word.lower() in ("no", "yes", "os", "in", "as", "at", "he", "is", "so", "us", "i"):
        return False
    at = 0
    while at < len(word):
        size = 2 if word[at : at + 2] in _ELEMENTS else 1 if word[at] in _ELEMENTS else 0
        if not size:
            return False
        at += size
    return True
