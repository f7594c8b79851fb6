"""Threads that are used again."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from dinoscope.worker.mailbox import Helpers

WAIT_S = 10


@pytest.fixture
def helpers() -> Iterator[Helpers]:
    found = Helpers("test-helper")
    yield found
    found.close()


def names(helpers: Helpers, count: int) -> list[str]:
    """The threads that ran calls, one call after the other."""
    found = []
    for _ in range(count):
        done = threading.Event()

        def call(done: threading.Event = done) -> None:
            found.append(threading.current_thread().name)
            done.set()

        helpers.run(call)
        assert done.wait(WAIT_S)
        while helpers._free < helpers._count:  # it is free a moment after its call
            threading.Event().wait(0.001)
    return found


def test_calls_that_follow_each_other_share_a_thread(helpers: Helpers) -> None:
    assert len(set(names(helpers, 5))) == 1


def test_a_call_that_blocks_holds_up_no_other(helpers: Helpers) -> None:
    blocked, released = threading.Event(), threading.Event()

    def slow() -> None:
        blocked.set()
        released.wait(WAIT_S)

    helpers.run(slow)
    assert blocked.wait(WAIT_S)
    done = threading.Event()
    helpers.run(done.set)
    assert done.wait(WAIT_S)
    released.set()


def test_a_call_that_fails_leaves_its_thread_to_the_next(helpers: Helpers) -> None:
    def fails() -> None:
        raise OSError("a disk")

    first = names(helpers, 1)
    helpers.run(fails)
    while helpers._free < helpers._count:
        threading.Event().wait(0.001)
    assert names(helpers, 1) == first
