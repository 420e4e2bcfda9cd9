"""A deterministic executor: the seed decides everything about threads, queues and clocks.

Each thread is a greenlet, and only one runs at a time, until it waits, sleeps or pauses. Then the
seed selects the next one. Time passes only while all wait, so a simulated minute costs nothing.
"""

from __future__ import annotations

import heapq
import itertools
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta, tzinfo
from random import Random
from types import ModuleType
from typing import Any
from unittest import mock

from greenlet import GreenletExit, getcurrent, greenlet

BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)
"""The first time of all clocks."""


class Process:
    """A process of a machine: it can be killed at any moment, and uses the machine's clock."""

    numbers = itertools.count(1000)
    """The numbers of the next processes; each world begins with the same."""

    def __init__(self, name: str, host: Host) -> None:
        self.name, self.host = name, host
        self.pid = next(self.numbers)
        self.is_alive = True
        self.tasks: list[Task] = []
        self.output: Callable[[bytes], object] | None = None
        """The function that receives its output."""
        self.at_end: list[Callable[[], object]] = []
        """Functions that the system calls when the process has ended, for any reason."""

    def __repr__(self) -> str:
        return f"{self.name} ({self.pid})"


class Host:
    """A machine with its own clock."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.clock_is_ahead_by = timedelta()
        self.is_frozen = False


class Task(greenlet):  # type: ignore[misc]
    """A thread of a process."""

    def __init__(self, function: Callable[[], object], process: Process) -> None:
        super().__init__(function)
        self.process = process
        self.number_of_wait = 0
        self.was_woken = False


class DeadlockError(AssertionError):
    """All threads wait for each other."""


class Executor:
    """Runs threads one at a time, in an order from the seed."""

    def __init__(self, random: Random, between: Callable[[], object]) -> None:
        """Prepare to run.

        Args:
            random: selects the next thread.
            between: called after a thread has stopped and before the next continues.
        """
        self.random = random
        self.now = 0.0
        """Seconds since the start."""
        self.step = 0
        """The number of switches from one thread to another."""
        self._between = between
        self._ready: list[Task] = []
        self._alarms: list[tuple[float, int, Task, int]] = []
        self._ticket = itertools.count()
        self._hub: greenlet | None = None

    def run(self, function: Callable[[], object], process: Process) -> None:
        """Run a thread, and those that it starts, until it ends.

        Raises:
            DeadlockError: no thread can continue.
        """
        self._hub = getcurrent()
        main = self.start(function, process)
        while not main.dead:
            self.step += 1
            self._between()
            self._next_task().switch()

    def start(self, function: Callable[[], object], process: Process) -> Task:
        """Start a thread of a process."""
        task = Task(function, process)
        task.parent = self._hub
        process.tasks.append(task)
        self._ready.append(task)
        return task

    def run_process(self, function: Callable[[], int], process: Process) -> Task:
        """Start a process; it ends with the exit code that its first thread returns."""

        def main() -> int:
            code = function()
            self.end(process)
            return code

        return self.start(main, process)

    def end(self, process: Process) -> None:
        """End a process at once, like SIGKILL: its threads do nothing more."""
        if not process.is_alive:
            return
        process.is_alive = False
        me = getcurrent()
        for task in process.tasks:
            if task is not me and not task.dead:
                task.parent = me
                with suppress(BaseException):  # errors of a dead process do not matter
                    task.throw(GreenletExit)
        for notify in process.at_end:
            notify()

    def _next_task(self) -> Task:
        while True:
            self._ready = [task for task in self._ready if task.process.is_alive]
            able = [task for task in self._ready if not task.process.host.is_frozen]
            if able:
                task = able[self.random.randrange(len(able))]
                self._ready.remove(task)
                return task
            if not self._alarms:
                raise DeadlockError("No thread can continue.")
            moment, _, task, wait = heapq.heappop(self._alarms)
            if task.process.is_alive and task.number_of_wait == wait:
                self.now = max(self.now, moment)
                self._ready.append(task)

    @property
    def current(self) -> Task:
        """The thread that runs."""
        task = getcurrent()
        assert isinstance(task, Task)
        return task

    @property
    def process(self) -> Process:
        """The process of the thread that runs."""
        return self.current.process

    def moment(self, host: Host) -> datetime:
        """Return the time by a machine's clock."""
        return BEGIN + timedelta(seconds=self.now) + host.clock_is_ahead_by

    # Called by threads

    def pause(self) -> None:
        """Let other threads continue."""
        if not self.process.is_alive:
            raise GreenletExit
        self._ready.append(self.current)
        self._switch_to_hub()

    def sleep(self, seconds: float) -> None:
        """Wait for some seconds."""
        self.wait([], seconds)

    def wait(self, among: list[Task], seconds: float | None = None) -> bool:
        """Wait with other tasks to be woken; return whether that happened in time."""
        task = self.current
        if not task.process.is_alive:
            raise GreenletExit
        task.number_of_wait += 1
        task.was_woken = False
        among.append(task)
        if seconds is not None:
            alarm = (self.now + max(0.0, seconds), next(self._ticket), task, task.number_of_wait)
            heapq.heappush(self._alarms, alarm)
        self._switch_to_hub()
        task.number_of_wait += 1  # the alarm is off
        if not task.was_woken:
            among.remove(task)
        return task.was_woken

    def wake(self, among: list[Task], number: int | None = None) -> None:
        """Wake waiting tasks."""
        for task in among[:number]:
            among.remove(task)
            if not task.was_woken:
                task.was_woken = True
                task.number_of_wait += 1
                self._ready.append(task)

    def _switch_to_hub(self) -> None:
        assert self._hub is not None
        self._hub.switch()

    # Replacements for modules

    @contextmanager
    def in_place_of_the_real(self, *packages: str) -> Iterator[None]:
        """Replace threads, queues and clocks in the modules of packages."""
        stand_ins = {
            id(threading): Threading(self),
            id(queue): Queues(self),
            id(time): Time(self),
            id(datetime): WallClock(self),
        }
        with mock.patch.object(sys, "stdout", Stdout(self)):
            patches = [
                mock.patch.object(module, name, stand_ins[id(value)])
                for module in _modules(packages)
                for name, value in vars(module).items()
                if id(value) in stand_ins
            ]
            for patch in patches:
                patch.start()
            try:
                yield
            finally:
                for patch in reversed(patches):
                    patch.stop()


def _modules(packages: tuple[str, ...]) -> list[ModuleType]:
    return [
        module
        for name, module in sorted(sys.modules.items())
        if name.startswith(packages) and isinstance(module, ModuleType)
    ]


class Stdout:
    """Standard output of the process that writes."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._real = sys.stdout
        self.buffer = self

    def write(self, data: Any) -> int:
        """Pass on the data."""
        task = getcurrent()
        if not isinstance(task, Task) or task.process.output is None:
            return self._real.write(data)
        if not task.process.is_alive:
            raise GreenletExit
        task.process.output(bytes(data) if not isinstance(data, str) else data.encode())
        return len(data)

    def writelines(self, lines: Iterable[Any]) -> None:
        """Pass on the lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Do nothing."""

    def fileno(self) -> int:
        """Return an unused descriptor: after a broken pipe, the writer replaces it."""
        return os.open(os.devnull, os.O_WRONLY)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class Time:
    """The module `time`."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.monotonic = self.perf_counter = lambda: executor.now
        self.sleep = executor.sleep

    def time(self) -> float:
        """Return what the machine's clock shows."""
        return self._executor.moment(self._executor.process.host).timestamp()

    def time_ns(self) -> int:
        """Return the same in nanoseconds."""
        return int(self.time() * 1_000_000_000)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class WallClock:
    """The class `datetime`."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def now(self, tz: tzinfo | None = None) -> datetime:
        """Return what the machine's clock shows."""
        return self._executor.moment(self._executor.process.host).astimezone(tz)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, datetime)

    def __getattr__(self, name: str) -> Any:
        return getattr(datetime, name)


class Threading:
    """The module `threading`."""

    def __init__(self, executor: Executor) -> None:
        def bound(kind: type) -> Callable[..., Any]:
            return lambda *arguments, **named: kind(executor, *arguments, **named)

        self.Lock = self.RLock = bound(Lock)
        self.Condition = bound(Condition)
        self.Event = bound(Event)
        self.Thread = bound(Thread)
        self.Timer = bound(Timer)

    def __getattr__(self, name: str) -> Any:
        return getattr(threading, name)


class Lock:
    """A reentrant lock."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._holder: Task | None = None
        self._depth = 0
        self._waiting: list[Task] = []

    def acquire(self) -> bool:
        """Acquire the lock."""
        task = self._executor.current
        while self._holder not in (None, task):
            self._executor.wait(self._waiting)
        self._holder = task
        self._depth += 1
        return True

    def release(self) -> None:
        """Release the lock."""
        self._depth -= 1
        if not self._depth:
            self._holder = None
            self._executor.wake(self._waiting, 1)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Condition(Lock):
    """A condition with its own lock."""

    def __init__(self, executor: Executor) -> None:
        super().__init__(executor)
        self._notified: list[Task] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a notification."""
        self.release()
        try:
            return self._executor.wait(self._notified, timeout)
        finally:
            self.acquire()

    def notify(self, n: int = 1) -> None:
        """Wake some waiting tasks."""
        self._executor.wake(self._notified, n)

    def notify_all(self) -> None:
        """Wake all waiting tasks."""
        self._executor.wake(self._notified)


class Event:
    """An event that happens once."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._is_set = False
        self._waiting: list[Task] = []

    def is_set(self) -> bool:
        """Return whether it has happened."""
        return self._is_set

    def set(self) -> None:
        """Make it happen."""
        self._is_set = True
        self._executor.wake(self._waiting)

    def clear(self) -> None:
        """Reset it."""
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it happens."""
        if not self._is_set:
            self._executor.wait(self._waiting, timeout)
        return self._is_set


class Thread:
    """A thread of the process that starts it."""

    def __init__(
        self,
        executor: Executor,
        target: Callable[..., object],
        args: tuple[Any, ...] = (),
        name: str | None = None,
        daemon: bool | None = None,
    ) -> None:
        self._executor = executor
        self._target = lambda: target(*args)
        self.name, self.daemon = name, daemon
        self._task: Task | None = None

    def start(self) -> None:
        """Start the thread."""
        self._task = self._executor.start(self._target, self._executor.process)

    def is_alive(self) -> bool:
        """Return whether it has not ended."""
        return self._task is not None and not self._task.dead

    def join(self, timeout: float | None = None) -> None:
        """Wait until it ends."""
        end = self._executor.now + (timeout or 0)
        while self.is_alive() and (timeout is None or self._executor.now < end):
            self._executor.sleep(0.01)


class Timer:
    """Calls a function after some seconds, unless the process has ended."""

    def __init__(self, executor: Executor, seconds: float, function: Callable[[], object]) -> None:
        def wait() -> None:
            executor.sleep(seconds)
            function()

        self._thread = Thread(executor, wait)
        self.daemon = False

    def start(self) -> None:
        """Start the timer."""
        self._thread.start()

    def cancel(self) -> None:
        """Do nothing: its effect is not needed any more."""


class Queues:
    """The module `queue`."""

    Empty, Full = queue.Empty, queue.Full

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def Queue(self, maxsize: int = 0) -> Queue:  # noqa: N802 - the module's name for it
        """Return a queue."""
        return Queue(self._executor, maxsize)


class Queue:
    """A queue between threads."""

    def __init__(self, executor: Executor, maxsize: int = 0) -> None:
        self._executor, self._maxsize = executor, maxsize
        self._items: deque[Any] = deque()
        self._getting: list[Task] = []
        self._putting: list[Task] = []

    def put(self, item: Any, timeout: float | None = None) -> None:
        """Put an item in as soon as there is room."""
        self._executor.pause()
        while self._maxsize and len(self._items) >= self._maxsize:
            if not self._executor.wait(self._putting, timeout):
                raise queue.Full
        self._items.append(item)
        self._executor.wake(self._getting, 1)

    def get(self, timeout: float | None = None) -> Any:
        """Take an item out as soon as there is one."""
        while not self._items:
            if not self._executor.wait(self._getting, timeout):
                raise queue.Empty
        self._executor.wake(self._putting, 1)
        return self._items.popleft()
