"""The processes that grade: a nursery that has loaded everything, and its children, one answer at a time each.

Started by `trapo.grading.pool` as `python -m trapo.grading.worker CPU_SECONDS MEMORY_MB CONTROL_FD`. The nursery
imports what grading needs once and forks a worker for every request, which takes milliseconds: a child that a time
limit has killed is replaced at once, and nobody waits for imports.

On the control socket, in frames of `FRAME`: START with a worker's number and its socket's descriptor, KILL with its
number; back come READY once, and ENDED with a worker's number and its wait status. On a worker's socket, JSON lines:
its process id first, then for every task `[answer, gold, rule, look]` a status.
"""

import array
import gc
import json
import os
import resource
import selectors
import signal
import socket
import sys
from collections.abc import Callable

from .judge import judge
from .pool import ENDED, FRAME, KILL, READY
from .reference import RULES, papers_correct

_WARM = (
    (r"x^2 + \frac{1}{2} + \sqrt{2}", r"\frac{1}{2} + x^2 + 2^{1/2}"),
    (r"[1, 2)", r"1 \le x < 2"),
    ("3 cm", "30 mm"),
)


def address_space() -> int:
    """The address space of this process, in bytes (Linux)."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


def limit_memory(megabytes: int) -> int:
    """Let the address space grow by `megabytes` from here, and no further; returns the size at which half is used."""
    used = address_space()
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20,) * 2)
    return used + megabytes * 2**19


def status_of(answer: str, gold: str, rule: str, look: bool) -> str:
    """The verdict on one task, whatever happens: a parser's failure on a model's text is that sample's result.

    Args:
        answer: what is in the box; for any rule but our own the whole text.
        gold: the right answer.
        rule: "own", "papers" (the papers' evaluations), or one of `reference.RULES` (their training).
        look: see `judge`.
    """
    try:
        if rule == "own":
            return judge(answer, gold, look)
        return "correct" if (papers_correct if rule == "papers" else RULES[rule])(answer, gold) else "wrong"
    except Exception:  # MemoryError included
        return "error"


def serve(tasks: socket.socket, cpu_seconds: float, memory_mb: int) -> None:
    """Grade what comes on the socket until it ends.

    The kernel's CPU timer is armed for each answer. Its default action kills the process even inside C code, which a
    Python handler would never interrupt.
    """
    half_used = limit_memory(memory_mb) if sys.platform == "linux" else None
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    tasks.sendall(json.dumps(os.getpid()).encode() + b"\n")
    for line in tasks.makefile("rb"):
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            status = status_of(*json.loads(line))
        except MemoryError:
            status = "error"
        # What is lost to this answer would fail the next one: let the parent start afresh. Parsers catch MemoryErrors
        # of their own, so that "wrong" may be one too.
        if status != "correct" and half_used is not None and address_space() > half_used:
            os._exit(1)
        signal.setitimer(signal.ITIMER_PROF, 0)
        tasks.sendall(json.dumps(status).encode() + b"\n")


class Nursery:
    """Forks workers on request and tells how they ended.

    Args:
        control: the socket to the parent.
        work: what a child does with its socket.
    """

    def __init__(self, control: socket.socket, work: Callable[[socket.socket], None]):
        self.control, self.work = control, work
        self.children: dict[int, int] = {}  # process id -> worker

    def run(self) -> None:
        """Until the parent closes the control socket or ends: then all children end too."""
        wake, woken = socket.socketpair()
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.control.sendall(FRAME.pack(READY, 0, 0))
        with selectors.DefaultSelector() as selector:
            selector.register(self.control, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if woken in ready:
                    woken.recv(4096)
                    self._reap()
                if self.control in ready and not self._obey((wake, woken)):
                    break
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
        while self.children:
            self.children.pop(os.wait()[0], None)

    def _obey(self, wakers: tuple[socket.socket, socket.socket]) -> bool:
        """Do what one frame says; False at the end."""
        try:
            frame, passed = _receive(self.control)
        except ConnectionError:
            return False
        if frame is None:
            return False
        kind, worker, _ = FRAME.unpack(frame)
        if kind == KILL:
            for pid in [pid for pid, other in self.children.items() if other == worker]:
                os.kill(pid, signal.SIGKILL)
            return True
        pid = os.fork()
        if pid:
            self.children[pid] = worker
            for descriptor in passed:
                os.close(descriptor)
            return True
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for other in (self.control, *wakers):
                other.close()
            with socket.socket(fileno=passed[0]) as tasks:
                self.work(tasks)
        except (BrokenPipeError, ConnectionResetError):
            pass  # nobody is left to tell
        finally:
            os._exit(0)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker = self.children.pop(pid, None)
            if worker is not None:
                try:
                    self.control.sendall(FRAME.pack(ENDED, worker, status))
                except ConnectionError:
                    return


def _receive(control: socket.socket) -> tuple[bytes | None, list[int]]:
    """One frame and the descriptors that came with it; None at the end."""
    frame, passed = b"", array.array("i")
    while len(frame) < FRAME.size:
        part, ancillary, _, _ = control.recvmsg(FRAME.size - len(frame), socket.CMSG_SPACE(4))
        if not part:
            return None, []
        frame += part
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                passed.frombytes(data[: len(data) - len(data) % passed.itemsize])
    return frame, list(passed)


def main(cpu_seconds: float, memory_mb: int, control: int) -> None:
    """Load and warm everything, then fork workers until the parent is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    for answer, gold in _WARM:
        judge(answer, gold)
    papers_correct("\\boxed{x}", "\\sqrt{2}x")
    gc.collect()
    gc.freeze()  # children share these pages
    with socket.socket(fileno=control) as parent:
        Nursery(parent, lambda tasks: serve(tasks, cpu_seconds, memory_mb)).run()


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
