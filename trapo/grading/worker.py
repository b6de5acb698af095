"""The grading worker, started by `trapo.grading.grader`: reads JSON lines, writes the status of each.

A line is [answer, gold, "own"], or [text, gold, rule] for another's grading of a whole text (`reference.py`).
"""

import json
import os
import resource
import signal
import sys

from .answers import normalise, split_base, split_unit
from .reference import RULES, papers_correct

PERCENT = "\\%"
CLOSE = 1e-5  # numbers further apart than this share of the larger one are not equal; 0.333333 is a third


def equivalent(answer: str, gold: str) -> bool:
    """Whether the boxed `answer` and `gold` are the same value, by math-verify on both as `answers.py` writes them.

    Where both name a unit it must be the same, and so must the base that numbers are written in. A percentage equals
    its number and the share that it is. `i` is the imaginary unit if only that makes them equal.
    """
    (answer, unit), (gold, gold_unit) = split_unit(normalise(answer)), split_unit(normalise(gold))
    if unit and gold_unit and unit != gold_unit:
        return False
    (answer, base), (gold, gold_base) = split_base(answer), split_base(gold)
    if base and gold_base and base != gold_base:
        return False
    percent, gold_percent = answer.endswith(PERCENT), gold.endswith(PERCENT)
    answer, gold = answer.removesuffix(PERCENT), gold.removesuffix(PERCENT)
    if _verify(answer, gold):
        return True
    if percent != gold_percent:
        share, whole = (answer, gold) if percent else (gold, answer)
        return _verify(f"\\frac{{{share}}}{{100}}", whole)
    return False


def _verify(answer: str, gold: str) -> bool:
    from math_verify import parse, verify

    # Its own time-outs are off: they use SIGALRM, and the caller has a CPU timer.
    # A gold graded against itself is parsed once: that is most of the time.
    parsed = {text: parse(f"\\boxed{{{text}}}", parsing_timeout=None, raise_on_error=True) for text in {gold, answer}}
    arguments = {"timeout_seconds": None, "raise_on_error": True}
    if verify(parsed[gold], parsed[answer], **arguments):
        return _close(parsed[gold], parsed[answer])
    imaginary = {text: [_with_imaginary_unit(x) for x in found] for text, found in parsed.items()}
    return imaginary != parsed and verify(imaginary[gold], imaginary[answer], **arguments)


def _close(golds: list, answers: list) -> bool:
    """Whether two readings that are numbers lie within `CLOSE` of each other; True where there are no two numbers.

    math-verify compares floats to six decimals, so that all numbers as small as 1e-7 are equal to it.
    """
    from sympy import Basic

    numbers = [[x for x in found if isinstance(x, Basic) and x.is_number] for found in (golds, answers)]
    pairs = [(a, b) for a in numbers[0] for b in numbers[1]]
    return not pairs or any(a == b or abs((a - b).evalf()) <= CLOSE * abs(a.evalf()) for a, b in pairs)


def _with_imaginary_unit(expression):
    """A parsed expression whose symbol i, if it has one, is the imaginary unit."""
    from sympy import Basic, I

    if not isinstance(expression, Basic):
        return expression
    found = {symbol: I for symbol in expression.free_symbols if symbol.name == "i"}
    return expression.subs(found).doit() if found else expression


def address_space() -> int:
    """The address space of this process, in bytes (Linux)."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


def limit_memory(megabytes: int) -> int:
    """Let the address space grow by `megabytes` from here, and no further; returns the size at which half is used."""
    used = address_space()
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20,) * 2)
    return used + megabytes * 2**19


def main(cpu_seconds: float, memory_mb: int) -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints must not be read as a status
    correct = {"own": equivalent, "papers": papers_correct} | RULES
    equivalent("1", "\\frac{1}{2}")  # load and warm everything before the clock runs
    papers_correct("\\boxed{x}", "\\sqrt{2}x")
    half_used = limit_memory(memory_mb) if sys.platform == "linux" else None
    # The default action kills the process even inside C code, which a Python handler would never interrupt.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    answers.write(b'"ready"\n')
    for line in sys.stdin.buffer:
        answer, gold, rule = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            status = "correct" if correct[rule](answer, gold) else "wrong"
        except Exception:  # a parser's failure on a model's text, MemoryError included, is that sample's result
            status = "error"
        # What is lost to this answer would fail the next one: let the parent start afresh. Parsers catch MemoryErrors
        # of their own, so that "wrong" may be one too.
        if status != "correct" and half_used is not None and address_space() > half_used:
            os._exit(1)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(status).encode() + b"\n")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
