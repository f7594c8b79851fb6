"""Runs callbacks one after the other in a thread of its own."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Mailbox:
    """Keeps callbacks in the order of :meth:`post`, and their exceptions away from each other."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def post(self, call: Callable[[], None]) -> None:
        """Queue `call` and return; the thread starts with the first one."""
        self._calls.put(call)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Wait until everything queued has run, at most `timeout_s`; a callback may call it."""
        self._calls.put(None)
        with self._lock:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception:  # the next callback has a right to run
                _log.exception("a callback of the worker's client failed")


class Helpers:
    """Daemon threads for calls that may block: as many as are busy at once, each used again.

    Unlike those of `concurrent.futures`, they do not keep the program from ending.
    What a thread freed serves its next call. The C library gives threads memory of their own, which
    they keep: a new one for each plane that is read would in the end hold a dozen planes.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._count = self._free = 0
        self._lock = threading.Lock()

    def run(self, call: Callable[[], None]) -> None:
        """Run `call` in a thread that is free, else in a new one, and return."""
        with self._lock:
            if self._free:
                self._free -= 1
            else:
                self._count += 1
                name = f"{self._name}-{self._count}"
                threading.Thread(target=self._run, name=name, daemon=True).start()
        self._calls.put(call)

    def close(self) -> None:
        """Let each thread end, at once or when its call has."""
        with self._lock:
            count, self._count = self._count, 0
        for _ in range(count):
            self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception:  # the next call has a right to run
                _log.exception("a call of %s failed", self._name)
            with self._lock:
                self._free += 1
