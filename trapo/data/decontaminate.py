"""Does a training problem repeat a benchmark's question? By shared runs of words, as the field does it.

A question counts as found in a problem if at least `SHARE` of its n-grams of `N` words are there. Runs of eight are
what open-r1 (github.com/huggingface/open-r1, scripts/decontaminate.py) and Llama 3 (arXiv 2407.21783) count; a single
shared one, which is enough for open-r1, would also drop problems that share no more than "how many positive integers
less than or equal to". A question of fewer than `N` words must be the same as a whole.

Words are runs of letters or digits, folded (NFKC, lower case), so that white space, punctuation, dollar signs and
LaTeX's spacing do not matter. What this cannot find: a question in other words, in another language, or with other
numbers; a diagram; a question that appears in an expert's trace only.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

N = 8
SHARE = 0.5
_SPACING = re.compile(r"\\(?:[,;:!> ]|quad|qquad|left|right|displaystyle|text|mathrm)(?![a-z])|[~$]")
_WORD = re.compile(r"[^\W\d_]+|\d+")


def words(text: str) -> list[str]:
    """The folded words of a text; LaTeX's spacing and display commands are none, and all its fractions are one."""
    folded = unicodedata.normalize("NFKC", text).lower().replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return _WORD.findall(_SPACING.sub(" ", folded))


@dataclass(frozen=True)
class Match:
    """A benchmark's question that a problem repeats: its benchmark, its id, and the share of its n-grams found."""

    benchmark: str
    question: str
    share: float


class Index:
    """The n-grams of benchmarks' questions.

    Args:
        questions: benchmark -> its questions, as (id, text).
        n, share: see above.
    """

    def __init__(self, questions: Mapping[str, Iterable[tuple[str, str]]], n: int = N, share: float = SHARE):
        self.n, self.share = n, share
        self._names: list[tuple[str, str]] = []
        self._sizes: list[int] = []
        self._grams: dict[tuple[str, ...], list[int]] = {}
        self._short: dict[tuple[str, ...], list[int]] = {}
        for benchmark, items in questions.items():
            for name, text in items:
                self._add(benchmark, name, tuple(words(text)))

    def _add(self, benchmark: str, name: str, found: tuple[str, ...]) -> None:
        number = len(self._names)
        grams = self._of(found)
        self._names.append((benchmark, name))
        self._sizes.append(len(grams))
        if not grams:
            self._short.setdefault(found, []).append(number)
        for gram in grams:
            self._grams.setdefault(gram, []).append(number)

    def _of(self, found: tuple[str, ...]) -> set[tuple[str, ...]]:
        return {found[i : i + self.n] for i in range(len(found) - self.n + 1)}

    def matches(self, problem: str) -> list[Match]:
        """The questions that the problem repeats, the fullest first."""
        found = tuple(words(problem))
        counts = Counter(number for gram in self._of(found) for number in self._grams.get(gram, ()))
        shares = {number: count / self._sizes[number] for number, count in counts.items()}
        shares |= dict.fromkeys(self._short.get(found, ()), 1.0) if found else {}
        kept = sorted(((share, -number) for number, share in shares.items() if share >= self.share), reverse=True)
        return [Match(*self._names[-number], round(share, 4)) for share, number in kept]
