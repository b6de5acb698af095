"""The grading worker: reads [answer, gold] as JSON lines, writes the status of each. Started by `trapo.grading`."""

import json
import os
import resource
import signal
import sys


def equivalent(answer: str, gold: str) -> bool:
    """Whether math-verify finds the boxed `answer` equal to `gold`."""
    from math_verify import parse, verify

    # Its own time-outs are off: they use SIGALRM, and the caller has a CPU timer.
    # A gold graded against itself is parsed once: that is most of the time.
    parsed = {text: parse(f"\\boxed{{{text}}}", parsing_timeout=None, raise_on_error=True) for text in {gold, answer}}
    return verify(parsed[gold], parsed[answer], timeout_seconds=None, raise_on_error=True)


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
    equivalent("1", "\\frac{1}{2}")  # load and warm everything before the clock runs
    half_used = limit_memory(memory_mb) if sys.platform == "linux" else None
    # The default action kills the process even inside C code, which a Python handler would never interrupt.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    answers.write(b'"ready"\n')
    for line in sys.stdin.buffer:
        answer, gold = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            status = "correct" if equivalent(answer, gold) else "wrong"
        except Exception:  # a parser's failure on a model's text, MemoryError included, is that sample's result
            status = "error"
            if half_used is not None and address_space() > half_used:
                os._exit(1)  # what is lost to this answer would fail the next one: let the parent start afresh
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(status).encode() + b"\n")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
