"""``python -m dinoscope.worker``: started by :class:`dinoscope.worker.client.WorkerClient`."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import signal
import sys
import threading
from io import FileIO
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from dinoscope.worker.jobs import load_kinds
from dinoscope.worker.service import Service


def main() -> int:
    """Read the greeting from stdin, say where to connect on stdout, and serve."""
    window = _take_stdin()
    greeting = json.loads(window.readline())
    _tie_to(window, int(greeting["parent"]))
    _step_back(int(greeting["nice"]))
    faulthandler.enable()
    kinds = load_kinds(greeting["job_modules"])
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints goes to the log, not into the answer
    address = str(Path(greeting["work"]) / f"pipe{greeting['serial']}")
    # A socket's path may have about 100 characters; Windows has named pipes of its own.
    own = os.name != "nt" and len(address) < 100
    with Listener(address if own else None, authkey=bytes.fromhex(greeting["authkey"])) as listener:
        answer.write(json.dumps({"address": listener.address, "pid": os.getpid()}) + "\n")
        answer.close()
        connection = listener.accept()
    _tie_children(connection)
    Service(connection, kinds, greeting).serve()
    return 0


def _take_stdin() -> FileIO:
    """The pipe from the window's process, as a file without a lock.

    ``sys.stdin`` has one, and a process forked while a thread of ours holds it would wait for ever
    when it closes its copy.
    """
    pipe = FileIO(os.dup(0), "rb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return pipe


def _tie_to(window: FileIO, parent: int) -> None:
    """End with the window's process, however that ends and whatever we are doing then."""

    def wait_for_end() -> None:
        with contextlib.suppress(OSError):
            while window.read(1):
                pass
        os._exit(0)

    threading.Thread(target=wait_for_end, daemon=True).start()
    # Ctrl+C in napari's terminal is meant for napari, which decides about us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Also in a loop that never lets the thread above run.
    _die_with(parent)


def _tie_children(connection: Connection[Any, Any]) -> None:
    """Let processes that prepare training crops end with us, and not hold the pipe open."""

    worker = os.getpid()

    def in_child() -> None:
        connection.close()
        _die_with(worker)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=in_child)


def _die_with(parent: int) -> None:
    """Let the system end this process when `parent` ends."""
    if sys.platform == "linux":
        ctypes: Any = importlib.import_module("ctypes")
        pr_set_pdeathsig = 1
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGKILL))
        if os.getppid() != parent:  # it ended before that
            os._exit(0)


def _step_back(nice: int) -> None:
    """Give way to the window: lower priority, and first to go when memory runs out."""
    if hasattr(os, "nice"):
        with contextlib.suppress(OSError):
            os.nice(nice)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


if __name__ == "__main__":
    sys.exit(main())
