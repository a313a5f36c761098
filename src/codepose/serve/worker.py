"""One thread that does the work of many requests, several at a time where they are of one kind."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class Worker(Generic[Task, Result]):
    """Does tasks in the order in which they came; those of one kind that wait together are done together.

    Nothing waits for company: what is there when the thread is free is taken.

    Args:
        work: Does tasks of one kind; gives their results, in order, as they are done.
        kind: A task's.
        most: How many tasks are done together.
    """

    def __init__(
        self, work: Callable[[Sequence[Task]], Iterable[Result]], kind: Callable[[Task], Hashable], most: int
    ) -> None:
        self._work = work
        self._kind = kind
        self._most = most
        self._waiting: deque[tuple[Task, Future[Result]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="codepose-worker", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many tasks wait."""
        return len(self._waiting)

    def submit(self, task: Task) -> Future[Result]:
        """Puts a task in line; its future's ``cancel`` takes it out again while it waits.

        Raises:
            RuntimeError: The worker is closed.
        """
        future: Future[Result] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the worker is closed")
            self._waiting.append((task, future))
            self._changed.notify()
        future.add_done_callback(self._forget)
        return future

    def close(self) -> None:
        """Ends when what waits is done."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _forget(self, future: Future[Result]) -> None:
        """Lets go of a cancelled task's picture at once."""
        if future.cancelled():
            with self._changed:
                self._waiting = deque(pair for pair in self._waiting if pair[1] is not future)

    def _run(self) -> None:
        while batch := self._next():
            self._do(batch)
            del batch  # its pictures are not kept until the next one comes

    def _next(self) -> list[tuple[Task, Future[Result]]]:
        """The first task in line and others of its kind; none = the worker is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            kinds = [self._kind(task) for task, _ in self._waiting]
            taken = [pair for pair, kind in zip(self._waiting, kinds, strict=True) if kind == kinds[0]][: self._most]
            self._waiting = deque(pair for pair in self._waiting if pair not in taken)
            return taken

    def _do(self, batch: list[tuple[Task, Future[Result]]]) -> None:
        """Answers what was not cancelled; where a batch fails, each task is done alone, so that one fails alone."""
        batch = [(task, future) for task, future in batch if future.set_running_or_notify_cancel()]
        if not batch:
            return
        left = deque(batch)
        try:
            for result in self._work([task for task, _ in batch]):
                left.popleft()[1].set_result(result)
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for task, future in left:
                self._alone(task, future)

    def _alone(self, task: Task, future: Future[Result]) -> None:
        try:
            (result,) = self._work([task])
            future.set_result(result)
        except Exception as error:
            future.set_exception(error)
