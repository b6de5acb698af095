"""Grading answers: 1 and 2 worker processes beside plain math-verify in this process.

    python benchmarks/grading.py [--answers 400] [--repetitions 5]

Half of the answers are plain integers, as most are in competition problems, which need no algebra; the others are
fractions, roots, intervals and polynomials in other forms than the gold, right and wrong.
"""

import random

from math_verify import parse, verify
from sidebyside import compare, parser, timed, write

from trapo.grading.grader import Grader


def pairs(n: int) -> list[tuple[str, str]]:
    """Texts and golds."""
    rng, found = random.Random(0), []
    for i in range(n):
        a, b, wrong = rng.randrange(2, 99), rng.randrange(2, 99), rng.random() < 0.5
        c = a + wrong
        answer, gold = [
            (f"{c}", f"{a}"),
            (f"\\frac{{{2 * c}}}{{{2 * b}}}", f"\\frac{{{a}}}{{{b}}}"),
            (f"{c}", f"{a}"),
            (f"{b}\\sqrt{{{4 * c}}}", f"{2 * b}\\sqrt{{{a}}}"),
            (f"{c}", f"{a}"),
            (f"[{b}, {b + 2 * c})", f"[{b}, {b + a + c})" if wrong else f"[{b}, {b + 2 * a})"),
            (f"{c}", f"{a}"),
            (f"x^2 + {b + c} x + {b * c}", f"(x + {a})(x + {b})"),
        ][i % 8]
        found.append((f"Step by step ... so \\boxed{{{answer}}}", gold))
    return found


def main() -> None:
    """Measure, print, write."""
    arguments = parser(__doc__, "grading", 5)
    arguments.add_argument("--answers", type=int, default=400)
    options = arguments.parse_args()
    texts, golds = zip(*pairs(options.answers), strict=True)
    verdicts = {}

    def plain(repetition):
        def work():
            verdicts["plain"] = [verify(parse(f"\\boxed{{{g}}}"), parse(t)) for t, g in zip(texts, golds, strict=True)]

        figures = timed(work)
        return figures | {"answers/s": len(texts) / figures["wall s"]}

    def ours(grader, name):
        def run(repetition):
            figures = timed(lambda: verdicts.update({name: [v.reward == 1 for v in grader.grade(texts, golds)]}))
            return figures | {"answers/s": len(texts) / figures["wall s"]}

        return run

    with Grader(workers=1) as one, Grader(workers=2) as two:
        candidates = {"plain math-verify": plain, "1 worker": ours(one, "one"), "2 workers": ours(two, "two")}
        part = compare(f"{options.answers} answers", candidates, options.repetitions, ratios=("wall s",))
    part["verdicts that differ from plain math-verify's"] = sum(
        a != b for a, b in zip(verdicts["plain"], verdicts["two"], strict=True)
    )
    print("verdicts that differ:", part["verdicts that differ from plain math-verify's"])
    write(options.out, [part])


if __name__ == "__main__":
    main()
