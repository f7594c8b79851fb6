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
