"""The grader's processes: limits, deaths, stopped workers, many workers, keys that are forgotten."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from trapo.grading.grader import Grader, Verdict, quick_verdict, usable_cpus

ENDLESS = r"\boxed{(10^9)!}"  # to the papers' grading, which computes it


@pytest.fixture(scope="module")
def grader():
    with Grader(workers=2, cpu_seconds=1, memory_mb=512) as grader:
        yield grader


def started(grader):
    """The workers of a grader, once all that it may have are ready."""
    grader.start()
    while not all(worker.pid for worker in grader._pool.workers.values()):
        grader._pool.wait(1)
    return list(grader._pool.workers.values())


@pytest.mark.parametrize(
    ("text", "gold", "status"),
    [
        (r"\boxed{12}", "12", "correct"),
        (r"\boxed{+012}", "12", "correct"),
        (r"\boxed{13}", "12", "wrong"),
        (r"\boxed{x+1}", "x+1", "correct"),
        (r"\boxed{ }", "12", "no_box"),
        ("12", "12", "no_box"),
        (r"\boxed{B}", "A", "wrong"),
        (r"\boxed{%s}" % ("1" * 10_001), "1", "wrong"),
        (r"\boxed{1/2}", "0.5", None),  # needs reading
    ],
)
def test_quick_verdict(text, gold, status):
    verdict = quick_verdict(text, gold)
    assert (verdict and verdict.status) == status


def test_algebra(grader):
    cases = [
        (r"\boxed{\frac{1}{2}}", "0.5", "correct"),
        (r"\boxed{x^2+2x+1}", "(x+1)^2", "correct"),
        (r"\boxed{\sqrt{8}}", r"2\sqrt{2}", "correct"),
        (r"\boxed{\frac{1}{3}}", "0.5", "wrong"),
        (r"\boxed{x^2+2x+2}", "(x+1)^2", "wrong"),
        (r"\boxed{0.50}", 0.5, "correct"),
    ]
    texts, golds, statuses = zip(*cases, strict=True)
    assert [v.status for v in grader.grade(texts, golds)] == list(statuses)


def test_a_gold_that_cannot_be_read_has_a_status_of_its_own(grader):
    gold = r"{}^{235}\mathrm{U}"
    answers = [gold, r"^{235}\mathrm{U}", r"{}^{238}\mathrm{U}", "235"]
    statuses = [v.status for v in grader.grade([f"\\boxed{{{a}}}" for a in answers], [gold] * 4)]
    assert statuses == ["correct", "correct", "gold-unparsed", "gold-unparsed"]  # what looks the same is the same
    assert grader.grade([f"\\boxed{{{gold}}}"], [gold], quick=False)[0].status == "gold-unparsed"
    assert grader.grade([r"\boxed{\text{even}}"], [r"\text{even}"], quick=False)[0].status == "correct"


def test_an_answer_that_never_ends_costs_one_timeout(grader):
    texts = [ENDLESS, r"\boxed{\frac{1}{2}}", r"\boxed{\frac{2}{4}}"]
    verdicts = grader.grade(texts, ["0.5"] * 3, reference=True)
    assert verdicts == [Verdict("timeout"), Verdict("correct"), Verdict("correct")]


def test_memory_is_limited_in_the_worker():
    code = """
from trapo.grading.worker import limit_memory
limit_memory(64)
bytearray(32 * 2**20)
try:
    bytearray(128 * 2**20)
except MemoryError:
    print("limited")
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "limited\n"


@pytest.mark.parametrize("caught", [True, False], ids=["caught by the parser", "not caught"])
@pytest.mark.parametrize("reference", [False, True])
def test_a_worker_whose_memory_an_answer_ate_ends(caught, reference):
    code = f"""
import socket
from trapo.grading import worker
eaten = []
def hungry(answer, gold, *look):
    try:
        while answer == "hungry":
            eaten.append(bytearray(2**20))
    except MemoryError:
        if {caught}:
            return False
        raise
    return answer == gold if {reference} else "correct"
worker.{"papers_correct" if reference else "judge"} = hungry
worker.serve(socket.socket(fileno=0), 60, 64)
"""
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs, subprocess.Popen([sys.executable, "-c", code], stdin=theirs) as worker:
        for answer in ("1", "hungry", "1"):
            ours.sendall(json.dumps([answer, "1", "papers" if reference else "own", True]).encode() + b"\n")
        theirs.close()
        said = ours.makefile("rb").read().splitlines()
    assert said[1:] == [b'"correct"'] and worker.returncode == 1


def test_a_text_larger_than_the_memory_costs_one_error():
    with Grader(workers=1, memory_mb=16) as grader:
        texts = ["x" * 2**26, r"\boxed{\frac{1}{2}}"]
        statuses = [v.status for v in grader.grade(texts, ["0.5", "0.5"], reference=True)]
    assert statuses == ["error", "correct"]


def test_workers_that_die_cost_one_error_each_and_are_replaced(grader):
    for worker in started(grader):
        os.kill(worker.pid, signal.SIGKILL)
    statuses = [v.status for v in grader.grade([r"\boxed{\frac{1}{2}}"] * 8, ["0.5"] * 8)]
    assert sorted(statuses)[:6] == ["correct"] * 6 and set(statuses) <= {"correct", "error"}


def test_a_worker_that_was_stopped_holds_up_nobody():
    """SIGSTOP: it neither answers nor dies; also with a task that is more than the socket holds."""
    with Grader(workers=2, wall_seconds=8) as grader:
        stopped = started(grader)[0]
        os.kill(stopped.pid, signal.SIGSTOP)
        texts = [" " * 2**19 + r"\boxed{\frac{1}{2}}"] * 2 + [r"\boxed{\frac{1}{2}}"] * 20
        verdicts = grader.grade(texts, ["0.5"] * 22, reference=True)
        assert verdicts.count(Verdict("timeout", wall=True)) == 1 and verdicts.count(Verdict("correct")) >= 20
        with pytest.raises(ProcessLookupError):
            while True:  # until the nursery has reaped it
                os.kill(stopped.pid, 0)
                time.sleep(0.01)


def test_a_nursery_that_dies_is_replaced():
    with Grader(workers=2) as grader:
        workers = started(grader)
        grader._pool._nursery.process.kill()
        assert [v.status for v in grader.grade([r"\boxed{\frac{1}{2}}"] * 4, ["0.5"] * 4)] == ["correct"] * 4
        for worker in workers:
            os.kill(worker.pid, signal.SIGKILL)
        statuses = [v.status for v in grader.grade([r"\boxed{\frac{1}{2}}"] * 8, ["0.5"] * 8)]
        assert statuses.count("correct") >= 6


def test_workers_that_cannot_start_say_so(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with (
        Grader(workers=2) as grader,
        pytest.raises(RuntimeError, match="the grading workers did not start: /bin/false"),
    ):
        grader.grade([r"\boxed{\frac{1}{2}}"], ["0.5"])


def test_a_restart_holds_up_nobody():
    """While one worker is at an endless answer and dies of it, the other grades all the rest."""
    with Grader(workers=2, cpu_seconds=1) as grader:
        started(grader)
        grader.submit("endless", ENDLESS, "0.5", reference=True)
        verdicts, order = {}, []
        for i in range(50):
            grader.submit(i, r"\boxed{\frac{1}{2}}", "0.5")
        while len(verdicts) < 51:
            found = grader.collect(wait=True)
            order += found
            verdicts |= found
    assert order[-1] == "endless" and verdicts.pop("endless") == Verdict("timeout")
    assert set(verdicts.values()) == {Verdict("correct")}


def test_many_workers_with_descriptors_beyond_what_select_knows():
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard), hard))
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(1030)]
    try:
        with Grader(workers=64) as grader:
            assert len({worker.pid for worker in started(grader)}) == 64
            assert min(worker.tasks.fileno() for worker in grader._pool.workers.values()) > 1023
            texts = [rf"\boxed{{\frac{{{i}}}{{2}}}}" for i in range(200)]
            assert {v.status for v in grader.grade(texts, [i / 2 for i in range(200)])} == {"correct"}
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_workers_start_in_the_background():
    with Grader(workers=3) as grader:
        grader.start()
        assert [worker.pid for worker in grader._pool.workers.values()] == [None] * 3  # nobody has waited
        assert len(started(grader)) == 3


def test_the_processors_this_process_may_use_are_counted(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 6}, raising=False)
    assert usable_cpus() == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(400)), raising=False)
    assert usable_cpus() == 64


def test_what_is_forgotten_never_turns_up():
    """Waiting, at work or done: and its key may be used again."""
    with Grader(workers=1, cpu_seconds=1) as grader:
        grader.submit("done", r"\boxed{1}", "1")
        for key in ("at work", "waiting"):
            grader.submit(key, ENDLESS, "0.5", reference=True)
        grader.forget(["done", "at work", "waiting"])
        grader.submit("waiting", r"\boxed{\frac{1}{2}}", "0.5")
        assert grader.collect(wait=True) == {"waiting": Verdict("correct")}
        assert not grader.collect(wait=True)


def test_grading_a_batch_leaves_others_verdicts_alone(grader):
    grader.submit("other", r"\boxed{\frac{1}{2}}", "0.5")
    assert grader.grade([r"\boxed{2/4}"], ["0.5"]) == [Verdict("correct")]
    assert grader.collect(wait=True) == {"other": Verdict("correct")}


def test_the_wall_clock_is_a_flagged_back_stop():
    with Grader(workers=1, cpu_seconds=60, wall_seconds=3) as grader:
        verdicts = grader.grade([ENDLESS, r"\boxed{\frac{1}{2}}"], ["0.5", "0.5"], reference=True)
    assert verdicts[0] == Verdict("timeout", wall=True) and verdicts[1].status == "correct"


def test_no_process_is_left_behind():
    grader = Grader(workers=2)
    pids = [worker.pid for worker in started(grader)] + [grader._pool._nursery.process.pid]
    grader.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert [v.status for v in grader.grade([r"\boxed{\frac{1}{2}}"], ["0.5"])] == ["correct"]  # and starts again
    grader.close()


def test_workers_end_with_their_parent():
    code = """
import os
from trapo.grading.grader import Grader
grader = Grader(workers=2)
grader.start()
while not all(worker.pid for worker in grader._pool.workers.values()):
    grader._pool.wait(1)
print(*(worker.pid for worker in grader._pool.workers.values()), grader._pool._nursery.process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    pids = [int(pid) for pid in said.split()]
    assert len(pids) == 3
    deadline = time.monotonic() + 30
    while any(map(_runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in pids if _runs(pid)] == []


def _runs(pid):
    """Whether a process runs: one that nobody reaps may still be listed."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_plain_answers_start_no_worker():
    grader = Grader()
    assert [v.reward for v in grader.grade([r"\boxed{3}", r"\boxed{4}", "3"], [3, 3, 3])] == [1.0, 0.0, 0.0]
    assert not grader._pool.workers


def test_as_trl_reward_function():
    chat = [[{"role": "assistant", "content": r"\boxed{3}"}], [{"role": "assistant", "content": "3"}]]
    assert Grader()(completions=chat, answer=["3", "3"], prompts=["", ""]) == [1.0, 0.0]


def test_bad_limits_are_named():
    with pytest.raises(ValueError, match="cpu_seconds=0"):
        Grader(cpu_seconds=0)


def test_importing_the_grader_loads_no_algebra():
    code = "import sys, trapo.grading.grader; sys.exit(any(m in sys.modules for m in ('sympy', 'pint', 'math_verify')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
