import json
import os
import signal
import subprocess
import sys

import pytest

from trapo.grading.grader import Grader, Verdict, boxed_answer, quick_verdict


@pytest.fixture(scope="module")
def grader():
    with Grader(workers=2, cpu_seconds=2, memory_mb=512) as grader:
        yield grader


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{7}", "7"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"<think>\boxed{1}</think> it is \boxed{ 2 }", " 2 "),
        (r"<think>\boxed{1}</think> it is 2", None),
        (r"<think>\boxed{1} and no end", "1"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{1", None),
        ("no box", None),
        ("", None),
    ],
)
def test_boxed_answer(text, answer):
    assert boxed_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "gold", "status"),
    [
        (r"\boxed{12}", "12", "correct"),
        (r"\boxed{+012}", "12", "correct"),
        (r"\boxed{13}", "12", "wrong"),
        (r"\boxed{x+1}", "x+1", "correct"),
        (r"\boxed{ }", "12", "no_box"),
        ("12", "12", "no_box"),
        (r"\boxed{1/2}", "0.5", None),  # needs algebra
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


def test_an_answer_that_never_ends_costs_one_timeout(grader):
    texts = [r"\boxed{(10^9)!}", r"\boxed{\frac{1}{2}}", r"\boxed{9^{9^{9^{9}}}}", r"\boxed{\frac{2}{4}}"]
    verdicts = grader.grade(texts, ["0.5"] * 4)
    assert verdicts == [Verdict("timeout"), Verdict("correct"), Verdict("timeout"), Verdict("correct")]


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
from trapo.grading import worker as grading_worker
eaten = []
def hungry(answer, gold):
    try:
        while answer == "hungry":
            eaten.append(bytearray(2**20))
    except MemoryError:
        if {caught}:
            return False
        raise
    return answer == gold
grading_worker.{"papers_correct" if reference else "equivalent"} = hungry
grading_worker.main(60, 64)
"""
    rule = "papers" if reference else "own"
    lines = "".join(json.dumps([answer, "1", rule]) + "\n" for answer in ("1", "hungry", "1"))
    worker = subprocess.run([sys.executable, "-c", code], input=lines, capture_output=True, text=True)
    assert worker.stdout.splitlines() == ['"ready"', '"correct"'] and worker.returncode == 1


def test_a_text_larger_than_the_memory_costs_one_error():
    with Grader(workers=1, memory_mb=16) as grader:
        texts = ["x" * 2**26, r"\boxed{\frac{1}{2}}"]
        statuses = [v.status for v in grader.grade(texts, ["0.5", "0.5"], reference=True)]
    assert statuses == ["error", "correct"]


def test_a_worker_that_dies_costs_one_error_and_is_replaced(grader):
    grader.grade([r"\boxed{\frac{1}{2}}"], ["0.5"])
    for worker in grader._pool:
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
    statuses = [v.status for v in grader.grade([r"\boxed{\frac{1}{2}}"] * 8, ["0.5"] * 8)]
    assert sorted(statuses)[:6] == ["correct"] * 6 and set(statuses) <= {"correct", "error"}


def test_the_wall_clock_is_a_flagged_back_stop():
    with Grader(workers=1, cpu_seconds=60, wall_seconds=3) as grader:
        verdicts = grader.grade([r"\boxed{(10^9)!}", r"\boxed{\frac{1}{2}}"], ["0.5", "0.5"])
    assert verdicts[0] == Verdict("timeout", wall=True) and verdicts[1].status == "correct"


def test_no_process_is_left_behind():
    grader = Grader(workers=2)
    grader.grade([r"\boxed{\frac{1}{2}}"] * 2, ["0.5"] * 2)
    pids = [worker.process.pid for worker in grader._pool]
    assert len(pids) == 2
    grader.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_plain_answers_start_no_worker():
    grader = Grader()
    assert [v.reward for v in grader.grade([r"\boxed{3}", r"\boxed{4}", "3"], [3, 3, 3])] == [1.0, 0.0, 0.0]
    assert grader._pool == []


def test_as_trl_reward_function():
    chat = [[{"role": "assistant", "content": r"\boxed{3}"}], [{"role": "assistant", "content": "3"}]]
    assert Grader()(completions=chat, answer=["3", "3"], prompts=["", ""]) == [1.0, 0.0]


def test_bad_limits_are_named():
    with pytest.raises(ValueError, match="cpu_seconds=0"):
        Grader(cpu_seconds=0)
