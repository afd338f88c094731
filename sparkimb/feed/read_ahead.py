"""Work that threads do ahead of its consumer, in order and in bounds."""

from __future__ import annotations

import atexit
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError  # a class of its own before Python 3.11
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import TypeAlias, TypeVar

from sparkimb.errors import SparkimbError

T = TypeVar("T")
R = TypeVar("R")

# Seconds to wait for a thread when the iterator, or the process, is left in the middle.
LEAVE_S = 10.0

_Todo: TypeAlias = "SimpleQueue[tuple[T, Future[R]] | None]"


def read_ahead(
    work: Callable[[T], R], tasks: Iterable[T], *, workers: int, timeout: float, describe: Callable[[T], str]
) -> Generator[R, None, None]:
    """Yield the result of each task, in their order; while one is in use, as many threads work on the next ones.

    The consumer iterates over the tasks.  Closing the iterator ends the threads, and so does leaving the process in the
    middle of it; one that is stuck is left behind, as a daemon.

    Parameters
    ----------
    timeout : float
        The longest wait for one result, in seconds.
    describe : callable
        What a task is, for the error's sentence.

    Raises
    ------
    SparkimbError
        Where the wait was too long.
    Exception
        What a task raised, in its place.
    """
    todo: _Todo[T, R] = SimpleQueue()
    ahead: deque[tuple[T, Future[R]]] = deque()
    remaining = iter(tasks)
    threads = [Thread(target=_work_off, args=(todo, work), name="sparkimb-feed", daemon=True) for _ in range(workers)]
    patience = min(timeout, LEAVE_S)

    def begin(n: int) -> None:
        for task in islice(remaining, n):
            ahead.append((task, Future()))
            todo.put(ahead[-1])

    def end(patience: float = LEAVE_S) -> None:
        for _, future in ahead:
            future.cancel()
        for _ in threads:
            todo.put(None)
        for thread in threads:
            thread.join(patience)

    for thread in threads:
        thread.start()
    atexit.register(end)  # a thread that reads when the interpreter goes takes the process down
    try:
        begin(workers)
        while ahead:
            task, future = ahead[0]
            try:
                result = future.result(timeout)
            except FutureTimeoutError:
                if future.done():  # the task's own error
                    raise
                patience = 0
                raise SparkimbError(
                    f"{describe(task)} took longer than {timeout:g} seconds. See whether the file system answers, or "
                    "pass a longer timeout."
                ) from None
            ahead.popleft()
            begin(1)
            del future
            yield result
            del result  # held no longer than the consumer does
    finally:
        atexit.unregister(end)
        end(patience)


def _work_off(todo: _Todo[T, R], work: Callable[[T], R]) -> None:
    while (item := todo.get()) is not None:
        task, future = item
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work(task))
            except BaseException as error:
                future.set_exception(error)
        del item, task, future  # or the result would be held until there is more to do
