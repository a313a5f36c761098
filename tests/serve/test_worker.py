"""The service's one thread: order, company, failures, and what nobody waits for any more."""

from __future__ import annotations

import threading

import pytest

from codepose.serve.worker import Worker

WAIT = 30.0


class Held:
    """Work that waits for ``open``, and remembers what it was given together."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun = threading.Event()
        self.batches: list[list[str]] = []

    def __call__(self, tasks):
        self.batches.append(list(tasks))
        self.begun.set()
        assert self.open.wait(WAIT)
        if "bad" in tasks:
            raise ValueError("bad")
        return [task.upper() for task in tasks]


def test_what_waits_is_done_together_by_kind_and_in_order() -> None:
    work = Held()
    worker = Worker(work, lambda task: task[0], most=3)
    first = worker.submit("a0")
    assert work.begun.wait(WAIT)
    later = [worker.submit(name) for name in ("a1", "b1", "a2", "a3", "a4", "b2")]
    assert worker.waiting == 6
    work.open.set()
    worker.close()
    assert work.batches == [["a0"], ["a1", "a2", "a3"], ["b1", "b2"], ["a4"]]
    assert [f.result() for f in (first, *later)] == ["A0", "A1", "B1", "A2", "A3", "A4", "B2"]
    with pytest.raises(RuntimeError):
        worker.submit("late")


def test_one_that_fails_fails_alone() -> None:
    work = Held()
    worker = Worker(work, lambda task: 0, most=8)
    worker.submit("first")
    assert work.begun.wait(WAIT)
    good, bad, other = (worker.submit(name) for name in ("good", "bad", "other"))
    work.open.set()
    worker.close()
    assert (good.result(), other.result()) == ("GOOD", "OTHER")
    assert isinstance(bad.exception(), ValueError)


def test_a_cancelled_task_leaves_the_line_and_is_not_done() -> None:
    work = Held()
    worker = Worker(work, lambda task: 0, most=8)
    worker.submit("first")
    assert work.begun.wait(WAIT)
    gone, stays = worker.submit("gone"), worker.submit("stays")
    assert gone.cancel()
    assert worker.waiting == 1
    work.open.set()
    worker.close()
    assert work.batches == [["first"], ["stays"]]
    assert stays.result() == "STAYS"


def test_each_result_comes_when_it_is_done_and_what_fails_later_takes_no_other_along() -> None:
    first, go, given = threading.Event(), threading.Event(), []

    def work(tasks):
        given.append(list(tasks))
        if tasks == ["first"]:
            first.set()
            assert go.wait(WAIT)
        for task in tasks:
            if task == "bad":
                assert good.result(WAIT) == "GOOD"  # it is told before this one is done
                raise ValueError("bad")
            yield task.upper()

    worker = Worker(work, lambda task: 0, most=8)
    worker.submit("first")
    assert first.wait(WAIT)
    good, bad, other = (worker.submit(name) for name in ("good", "bad", "other"))
    go.set()
    assert isinstance(bad.exception(WAIT), ValueError)
    assert other.result(WAIT) == "OTHER"
    worker.close()
    assert given == [["first"], ["good", "bad", "other"], ["bad"], ["other"]]
