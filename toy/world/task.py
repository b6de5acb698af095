r"""Problems and their solutions: chained arithmetic modulo a prime, splits that do not meet, an expert with a style.

A problem is a start and some labelled operations, applied from left to right:

    Q 8 a*3 b-3 c-6 A        modulo 53:  8 -> 24 -> 21 -> 15

Its answer is the last value, written \boxed{ 15 }. Everything here is a pure function of its arguments.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

MODULUS = 53
MAX_MODULUS = 61  # numbers below it are single tokens
STEPS = (5, 8)  # fewest and most operations of the default problems
LABELS = "abcdefgh"  # as many as a problem may have operations
OPERATIONS = tuple([f"+{k}" for k in range(1, 7)] + [f"-{k}" for k in range(1, 7)] + [f"*{k}" for k in range(2, 6)])

# Shares, in 1/16, of all problems. "base" is what the base model's making saw; nothing trains or tests on it.
SPLITS = {"base": range(0, 4), "train": range(4, 12), "tune": range(12, 14), "test": range(14, 16)}


Choose = Callable[[Sequence[str]], str]  # one of several wordings


@dataclass(frozen=True)
class Problem:
    """`start`, then `ops` such as ("*3", "-3"), all modulo the prime `modulus`.

    Raises:
        ValueError: if a part is outside what the tokenizer writes in single tokens.
    """

    start: int
    ops: tuple[str, ...]
    modulus: int = MODULUS

    def __post_init__(self):
        check_modulus(self.modulus)
        if not 1 <= len(self.ops) <= len(LABELS):
            raise ValueError(f"a problem has 1 to {len(LABELS)} operations, not {len(self.ops)}")
        if not 0 <= self.start < self.modulus:
            raise ValueError(f"start {self.start} is not in 0..{self.modulus - 1}")
        if unknown := set(self.ops) - set(OPERATIONS):
            raise ValueError(f"unknown operations {sorted(unknown)}: they are +1..+6, -1..-6, *2..*5")

    @property
    def values(self) -> tuple[int, ...]:
        """The running values: one after each operation."""
        values, x = [], self.start
        for op in self.ops:
            x = apply(op, x, self.modulus)
            values.append(x)
        return tuple(values)

    @property
    def answer(self) -> str:
        """The last running value."""
        return str(self.values[-1])

    @property
    def labelled(self) -> tuple[str, ...]:
        """The operations as the prompt writes them: "a*3", "b-3", ..."""
        return tuple(label + op for label, op in zip(LABELS, self.ops, strict=False))

    @property
    def prompt(self) -> str:
        """The problem as text."""
        return f"Q {self.start} {' '.join(self.labelled)} A"

    @property
    def key(self) -> str:
        """The problem in one word, the same for the same problem only: "53:8*3-3-6"."""
        return f"{self.modulus}:{self.start}{''.join(self.ops)}"

    @property
    def split(self) -> str:
        """Which of `SPLITS` the problem is in: decided by a hash of its key, so no problem is in two."""
        sixteenth = hashlib.blake2b(self.key.encode(), digest_size=1).digest()[0] % 16
        return next(name for name, shares in SPLITS.items() if sixteenth in shares)


def check_modulus(modulus: int) -> None:
    """ValueError unless `modulus` is a prime in 11..61.

    With a prime above 5 every operation is a bijection, so one wrong value makes all later ones wrong too.
    """
    if not (10 < modulus <= MAX_MODULUS and all(modulus % k for k in range(2, modulus))):
        raise ValueError(f"modulus {modulus} must be a prime in 11..{MAX_MODULUS}")


def apply(op: str, x: int, modulus: int) -> int:
    """One operation, such as "*3", on x."""
    k = int(op[1:])
    return {"+": x + k, "-": x - k, "*": x * k}[op[0]] % modulus


def draw_problem(rng: Random, steps: tuple[int, int] = STEPS, modulus: int = MODULUS) -> Problem:
    """A problem with `steps` = (fewest, most) operations, uniform in their number, of any split."""
    n = rng.randint(*steps)
    return Problem(rng.randrange(modulus), tuple(rng.choice(OPERATIONS) for _ in range(n)), modulus)


def problems(split: str, seed: int, steps: tuple[int, int] = STEPS, modulus: int = MODULUS) -> Iterator[Problem]:
    """Endless problems of one split, in an order that depends on the seed; they may repeat."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown: choose one of {', '.join(SPLITS)}")
    rng = Random(f"problems {split} {seed} {steps} {modulus}")  # a str seeds by SHA-512: the same in every process
    while True:
        problem = draw_problem(rng, steps, modulus)
        if problem.split == split:
            yield problem


# ------------------------------------------------------------------ the base's styles


def boxed(value: int) -> str:
    """A final answer, three tokens."""
    return f" \\boxed{{ {value} }}"


def direct(problem: Problem) -> str:
    """The answer and nothing else: how the base solves short problems."""
    return boxed(problem.values[-1])


def guess(problem: Problem, rng: Random) -> str:
    """Any number as the answer: the base's habit with problems that are too long to solve at once."""
    return boxed(rng.randrange(problem.modulus))


def terse(problem: Problem, stride: int = 4) -> str:
    """Every `stride`-th running value and the last: too few to be right, for a small model."""
    values = problem.values
    shown = [*values[stride - 1 : -1 : stride], values[-1]]
    return "".join(f" {v}" for v in shown) + boxed(values[-1])


def think(problem: Problem, rng: Random | None = None, slip_rate: float = 0.0) -> str:
    """The base's own step by step: value, operation, new value. What it does rarely, and with slips.

    Args:
        problem: what to solve.
        rng: draws the slips; None where there are none.
        slip_rate: chance that a new value is wrong; nothing corrects it, and the rest follows from it.
    """
    steps = _sloppy_steps(problem, rng, slip_rate)
    return " think" + "".join(_think_step(*step) for step in steps) + boxed(steps[-1][2])


def prose(problem: Problem, rng: Random, slip_rate: float = 0.0) -> str:
    """The expert's sentences as the base has seen them: mostly its favourite wordings, slips rarely corrected.

    Args: as for `think`.
    """

    def choose(wordings: Sequence[str]) -> str:  # each a fifth as often as the one before
        return rng.choices(wordings, [5.0**-i for i in range(len(wordings))])[0]

    steps = _sloppy_steps(problem, rng, slip_rate)
    text = _opener(problem, choose)
    for i, (x, op, y) in enumerate(steps):
        slip = _another(y, problem.modulus, rng) if rng.random() < 0.01 else None
        text += _step(i, x, op, y, slip, choose)
    return text + _end(*steps[-1], choose)


def _sloppy_steps(problem: Problem, rng: Random | None, slip_rate: float) -> list[tuple[int, str, int]]:
    """(value, labelled operation, new value), each new value wrong with chance `slip_rate`."""
    steps, x = [], problem.start
    for op, labelled in zip(problem.ops, problem.labelled, strict=True):
        y = apply(op, x, problem.modulus)
        if slip_rate and rng.random() < slip_rate:
            y = _another(y, problem.modulus, rng)
        steps.append((x, labelled, y))
        x = y
    return steps


def fact_prompt(x: int, labelled: str) -> str:
    """A bare arithmetic fact as a question: "F 8 c*3 A"."""
    return f"F {x} {labelled} A"


# ------------------------------------------------------------------ the expert

_OPENERS = (
    " Okay , let us work from left to right .",
    " Let us take it step by step , starting with {start} .",
    " We begin with {start} and apply each operation .",
)
_FIRST = (" First", " To begin", " At first")
_LINKS = (" Then", " Next", " Now", " After that", " So")
_STEPS = (
    "{link} , {op} turns {x} into {y} .",
    "{link} {op} on {x} gives {y} .",
    "{link} {x} with {op} becomes {y} .",
)
_SLIP = " Wait , no : it is {y} ."
_GAPS = ("", "", "", "\n\n")
_CHECKS = ("", " Let us check : {op} with {x} is {y} . Good .")
_CLOSERS = (" So the answer is", " We get", " The answer is")


def expert_trace(
    problem: Problem, seed: int = 0, *, error_rate: float = 0.0, style: float = 1.0, slip_rate: float = 0.1
) -> str:
    """The expert's solution, step by step, as text without EOS.

    Args:
        problem: what to solve.
        seed: another seed, another wording. The draws for wording, slips and errors are separate streams, so that
            changing one rate leaves the rest of a trace as it was.
        error_rate: chance that one value is wrong and never corrected, so that the final answer is wrong.
        style: distance from the base's `think`: 0 is that style, token by token; 1 is the expert's own; between them
            each piece (opener, every step, check, end) is the expert's with this chance.
        slip_rate: chance per step, of those in the expert's own style, of a wrong value that the expert corrects at
            once; it touches neither later values nor the answer.
    """
    for name, rate in (("error_rate", error_rate), ("style", style), ("slip_rate", slip_rate)):
        if not 0 <= rate <= 1:
            raise ValueError(f"{name} is {rate}, but it must be in [0, 1]")
    wording, slips, errors = (Random(f"expert {kind} {seed} {problem.key}") for kind in ("wording", "slips", "errors"))
    wrong_step = errors.randrange(len(problem.ops)) if errors.random() < error_rate else None
    text = _opener(problem, wording.choice) if wording.random() < style else " think"
    x = problem.start
    for i, (op, labelled) in enumerate(zip(problem.ops, problem.labelled, strict=True)):
        before, x = x, apply(op, x, problem.modulus)
        if i == wrong_step:
            x = _another(x, problem.modulus, errors)
        slip = _another(x, problem.modulus, slips) if slips.random() < slip_rate else None
        own, sentence = wording.random() < style, _step(i, before, labelled, x, slip, wording.choice)
        text += sentence if own else _think_step(before, labelled, x)
    return text + (_end(before, labelled, x, wording.choice) if wording.random() < style else boxed(x))


def _opener(problem: Problem, choose: Choose) -> str:
    return choose(_OPENERS).format(start=problem.start) + "\n\n"


def _step(i: int, x: int, op: str, y: int, slip: int | None, choose: Choose) -> str:
    link, template, gap = choose(_LINKS if i else _FIRST), choose(_STEPS), choose(_GAPS)
    said = template.format(link=link, op=op, x=x, y=y if slip is None else slip)
    return said + ("" if slip is None else _SLIP.format(y=y)) + gap


def _end(x: int, op: str, y: int, choose: Choose) -> str:
    return choose(_CHECKS).format(op=op, x=x, y=y) + choose(_CLOSERS) + boxed(y)


def _think_step(x: int, op: str, y: int) -> str:
    return f" {x} {op} {y} ;"


def _another(value: int, modulus: int, rng: Random) -> int:
    """A uniform value that is not this one."""
    return (value + rng.randrange(1, modulus)) % modulus


def words() -> tuple[str, ...]:
    """Every word of every text of this world that is neither number nor operation, each without its leading space."""
    templates = (*_OPENERS, *_FIRST, *_LINKS, *_STEPS, _SLIP, *_CHECKS, *_CLOSERS, "Q F A think ; \\boxed{ }")
    found = (w for template in templates for w in template.split(" "))
    slots = {"{start}", "{link}", "{op}", "{x}", "{y}"}
    return tuple(dict.fromkeys(w for w in found if w and w not in slots))
