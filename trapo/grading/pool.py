"""Grading workers as a grader sees them: started in the background, told of tasks, replaced when they end.

One nursery process loads everything and forks a worker for every request (`trapo.grading.worker`). `multiprocessing`,
and pebble's pool on it (https://pebble.readthedocs.io), would import the caller's `__main__` in every worker, and with
it torch; their limits count the wall clock, so that a verdict would depend on the machine's load.
"""

import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Hashable
from itertools import count
from typing import NamedTuple

# What parent and nursery send each other: kind, a worker's number, its wait status.
FRAME = struct.Struct("=cQi")
START, KILL, READY, ENDED = b"S", b"K", b"R", b"E"
FORGOTTEN = object()  # the key of a task whose verdict nobody wants
_START_SECONDS = 120.0  # a nursery that has not loaded by then never will


class Task(NamedTuple):
    """An answer to grade.

    Attributes:
        key: the caller's.
        answer: what is in the box; the whole text for any rule but our own.
        gold: the right answer.
        rule: "own", or whose grading (`trapo.grading.worker.status_of`).
        look: answers that look the same are the same, whether they can be read or not.
    """

    key: Hashable
    answer: str
    gold: str
    rule: str
    look: bool


class Ended(NamedTuple):
    """A task and its status; `late` if the wall clock ended it."""

    task: Task
    status: str
    late: bool


class Pool:
    """Workers, each at one task at most.

    Args:
        size: most workers.
        cpu_seconds, memory_mb, wall_seconds: limits of one task, as for `trapo.Grader`.
    """

    def __init__(self, size: int, cpu_seconds: float, memory_mb: int, wall_seconds: float):
        self.size, self.limits, self.wall_seconds = size, (cpu_seconds, memory_mb), wall_seconds
        self.workers: dict[int, Worker] = {}
        self._numbers = count()
        self._nursery: _Nursery | None = None
        self._selector: selectors.BaseSelector | None = None

    @property
    def busy(self) -> bool:
        """Whether any worker has a task."""
        return any(worker.task is not None for worker in self.workers.values())

    def grow(self, wanted: int) -> None:
        """Have at least this many workers, as far as there may be; they get ready in the background."""
        if self._nursery is not None and self._nursery.lost:
            self._nursery.stop(self._selector)
            self._nursery = None
        if self._selector is None:
            self._selector = selectors.DefaultSelector()
        while len(self.workers) < min(wanted, self.size):
            if self._nursery is None:
                self._nursery = _Nursery(self.limits)
                self._selector.register(self._nursery.control, selectors.EVENT_READ, self._nursery)
            worker = self._nursery.fork(next(self._numbers))
            self.workers[worker.number] = worker
            self._selector.register(worker.tasks, selectors.EVENT_READ, worker)

    def idle(self) -> "Worker | None":
        """A worker without a task, a ready one if any; None if all have one."""
        free = [worker for worker in self.workers.values() if worker.task is None and not worker.closed]
        return next((worker for worker in free if worker.pid is not None), free[0] if free else None)

    def give(self, worker: "Worker", task: Task) -> None:
        """Set a worker to a task."""
        worker.task = task
        line = json.dumps([task.answer, task.gold, task.rule, task.look]).encode() + b"\n"
        worker.outgoing = memoryview(line)
        worker.deadline = time.monotonic() + self.wall_seconds if worker.pid is not None else None
        self._push(worker)

    def wait(self, seconds: float | None) -> list[Ended]:
        """What has ended within `seconds` (0: by now, None: whenever), or before a deadline.

        Raises:
            RuntimeError: workers cannot be started.
        """
        if self._selector is None:
            return []
        now = time.monotonic()
        limits = [worker.deadline - now for worker in self.workers.values() if worker.deadline is not None]
        if self._nursery is not None and not self._nursery.ready:
            limits.append(self._nursery.started + _START_SECONDS - now)
        limits += [] if seconds is None else [seconds]
        ended: list[Ended] = []
        for key, events in self._selector.select(max(0.0, min(limits)) if limits else None):
            if key.data is self._nursery:
                ended += self._nursery_says()
            elif isinstance(key.data, Worker) and key.data.number in self.workers:
                if events & selectors.EVENT_WRITE:
                    self._push(key.data)
                if events & selectors.EVENT_READ:
                    ended += self._worker_says(key.data)
        return [one for one in ended + self._late() if one.task.key is not FORGOTTEN]

    def forget(self, keys: set[Hashable]) -> None:
        """Drop the tasks with these keys: what their workers say of them is not told."""
        for worker in self.workers.values():
            if worker.task is not None and worker.task.key in keys:
                worker.task = worker.task._replace(key=FORGOTTEN)

    def stop(self) -> None:
        """End all workers and the nursery, whatever they are at."""
        for worker in list(self.workers.values()):
            self._drop(worker)
        if self._nursery is not None:
            self._nursery.stop(self._selector)
            self._nursery = None
        if self._selector is not None:
            self._selector.close()
            self._selector = None

    def _push(self, worker: "Worker") -> None:
        """Send what the socket takes of a task; the rest follows from `wait`: a stopped worker holds up nobody."""
        try:
            while worker.outgoing:
                worker.outgoing = worker.outgoing[worker.tasks.send(worker.outgoing) :]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):  # it died between two tasks: its end is on the way
            worker.outgoing = memoryview(b"")
        more = selectors.EVENT_WRITE if worker.outgoing else 0
        if not worker.closed:
            self._selector.modify(worker.tasks, selectors.EVENT_READ | more, worker)

    def _worker_says(self, worker: "Worker") -> list[Ended]:
        """Its process id, a status, or nothing more: then the nursery knows why."""
        try:
            data = worker.tasks.recv(65536)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            data = b""
        if not data:
            worker.closed = True
            self._selector.unregister(worker.tasks)
            return self._end(worker, "error") if worker.nursery.lost else []
        ended = []
        *lines, worker.incoming = (worker.incoming + data).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if worker.pid is None:
                worker.pid = said
                worker.deadline = time.monotonic() + self.wall_seconds if worker.task is not None else None
            elif worker.task is not None:
                ended.append(Ended(worker.task, said, False))
                worker.task = worker.deadline = None
        return ended

    def _nursery_says(self) -> list[Ended]:
        """That it is ready, or how workers ended."""
        nursery, ended = self._nursery, []
        for kind, number, code in nursery.frames():
            nursery.ready = True
            worker = self.workers.get(number) if kind == ENDED else None
            if worker is not None and worker.nursery is nursery:
                ended += self._worker_says(worker) if not worker.closed else []
                killed = os.WIFSIGNALED(code) and os.WTERMSIG(code) == signal.SIGPROF
                ended += self._end(worker, "timeout" if killed else "error")
        if not nursery.lost:
            return ended
        if not nursery.ready:
            code, command = nursery.process.wait(), " ".join(nursery.process.args)
            self.stop()
            raise RuntimeError(f"the grading workers did not start: {command} exited with {code}")
        self._selector.unregister(nursery.control)
        for worker in [w for w in self.workers.values() if w.closed]:
            ended += self._end(worker, "error")
        return ended

    def _end(self, worker: "Worker", status: str, late: bool = False) -> list[Ended]:
        task = worker.task
        self._drop(worker)
        return [] if task is None else [Ended(task, status, late)]

    def _late(self) -> list[Ended]:
        """Kill what is past its deadline, stopped processes too."""
        now, ended = time.monotonic(), []
        for worker in [w for w in self.workers.values() if w.deadline is not None and w.deadline <= now]:
            worker.nursery.kill(worker)
            ended += self._end(worker, "timeout", late=True)
        nursery = self._nursery
        if nursery is not None and not nursery.ready and nursery.started + _START_SECONDS <= now:
            self.stop()
            raise RuntimeError(f"the grading workers did not start within {_START_SECONDS:g} s")
        return ended

    def _drop(self, worker: "Worker") -> None:
        if not worker.closed and self._selector is not None:
            self._selector.unregister(worker.tasks)
        worker.closed = True
        worker.tasks.close()
        self.workers.pop(worker.number, None)


class Worker:
    """One worker process: its socket and the task it is on.

    Attributes:
        pid: its process id once it is ready.
        deadline: by which its task must be done, on the monotonic clock.
        closed: it has closed its end.
    """

    def __init__(self, number: int, tasks: socket.socket, nursery: "_Nursery"):
        self.number, self.tasks, self.nursery = number, tasks, nursery
        self.pid: int | None = None
        self.task: Task | None = None
        self.deadline: float | None = None
        self.closed = False
        self.outgoing, self.incoming = memoryview(b""), b""


class _Nursery:
    """The process that forks workers."""

    def __init__(self, limits: tuple[float, int]):
        self.control, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "trapo.grading.worker", *map(str, limits), str(theirs.fileno())]
        # -P: or a folder of the user's could stand for a package.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # whatever a library prints
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self.control.setblocking(True)
        self.started, self.ready, self.lost, self._incoming = time.monotonic(), False, False, b""

    def fork(self, number: int) -> Worker:
        """A new worker; it gets ready in the background, and may be sent tasks at once."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                socket.send_fds(self.control, [FRAME.pack(START, number, 0)], [theirs.fileno()])
            except (BrokenPipeError, ConnectionResetError):
                self.lost = True
        return Worker(number, ours, self)

    def kill(self, worker: Worker) -> None:
        """End a worker, whatever it is at."""
        try:
            if not self.lost:
                self.control.sendall(FRAME.pack(KILL, worker.number, 0))
            elif worker.pid is not None:
                os.kill(worker.pid, signal.SIGKILL)
        except (BrokenPipeError, ConnectionResetError, ProcessLookupError):
            self.lost = True

    def frames(self) -> list[tuple[bytes, int, int]]:
        """What it has said; `lost` is set where it has closed its end."""
        try:
            data = self.control.recv(65536)
        except ConnectionResetError:
            data = b""
        self.lost = self.lost or not data
        data = self._incoming + data
        whole = len(data) - len(data) % FRAME.size
        self._incoming = data[whole:]
        return list(FRAME.iter_unpack(data[:whole]))

    def stop(self, selector: selectors.BaseSelector) -> None:
        """End it; it ends its workers first."""
        if self.control in selector.get_map():
            selector.unregister(self.control)
        self.control.close()
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
