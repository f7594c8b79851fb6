"""One worker process as the client holds it: start, pipe, kill, and what it said last."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import site
import subprocess
import sys
import sysconfig
import threading
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

import dinoscope
from dinoscope.errors import WorkerError
from dinoscope.worker.protocol import Blocks, Packed, client_prefix, pack, remove_blocks
from dinoscope.worker.session import Session

#: glibc keeps freed planes in its heap and grows it plane after plane; large arrays of their own
#: mapping go back at once (24 planes of 1024²: 750 to 900 MB without, 872 to 872 MB with).
_ALLOCATOR = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": str(8 * 2**20)}
#: Set in the worker's environment so that every numeric library leaves the window a core.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker is told when it starts.

    `threads` are CPU threads, `nice` lowers its priority by so many steps, `warm_up` makes it
    import torch and load the embedded model while it is idle, `job_modules` are names or paths of
    Python modules whose ``JOBS`` extend the built-in kinds of jobs.
    """

    threads: int
    nice: int = 5
    warm_up: bool = True
    job_modules: tuple[str, ...] = ()
    python: str = sys.executable


class WorkerProcess:
    """Starts ``python -m dinoscope.worker`` and carries messages to and from it.

    :meth:`launch` and :meth:`receive` block and belong to one thread, which must live as long as
    the process: Linux kills the worker when the thread that started it ends.
    """

    def __init__(self, settings: WorkerSettings, serial: int) -> None:
        self.serial = serial
        self.pid: int | None = None
        #: Jobs that the worker has begun and not ended, and whether each is a quick one; kept
        #: current by the client.
        self.running: dict[int, bool] = {}
        self.connected = False
        self._settings = settings
        self._session: Session | None = None
        self._blocks = Blocks((), "")
        self._log_start = 0
        self._popen: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._writer: threading.Thread | None = None
        self._lock = threading.Lock()
        self._killed = False
        self._reaped = False
        self._outbox: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()

    def launch(self, session: Session) -> None:
        """Start the process and connect to it.

        Raises
        ------
        WorkerError
            It could not be started; the text says why.
        """
        authkey = secrets.token_bytes(32)
        try:
            self._session = session
            self._blocks = Blocks(session.blocks, client_prefix(self.serial))
            self._log_start = session.log.stat().st_size
            popen = self._spawn(session.log)
            address = self._shake_hands(popen, session, authkey)
            self._connection = Client(address, authkey=authkey)
        except WorkerError:
            raise
        except Exception as error:
            raise self._start_error(f"{error}") from error
        self._writer = threading.Thread(target=self._write, name="dinoscope-writer", daemon=True)
        self._writer.start()

    def _spawn(self, log_path: Path) -> subprocess.Popen[bytes]:
        # -P: a file called torch.py in the user's folder must not replace the library.
        command = [self._settings.python, "-P", "-m", "dinoscope.worker"]
        flags = 0
        if sys.platform == "win32":
            flags = subprocess.CREATE_NO_WINDOW | subprocess.BELOW_NORMAL_PRIORITY_CLASS
        with self._lock, log_path.open("ab") as log:
            if self._killed:
                raise WorkerError("the worker process was stopped while it started")
            popen = subprocess.Popen(
                command,
                bufsize=0,  # what a dead process did not take must not fail again at close()
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment(),
                creationflags=flags,
            )
            self._popen = popen
            return popen

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        environment.update(dict.fromkeys(_THREAD_VARIABLES, str(self._settings.threads)))
        environment["PYTHONUNBUFFERED"] = "1"
        for name, value in _ALLOCATOR.items():
            environment.setdefault(name, value)
        # The package may stand on sys.path only (a test run from a checkout, a bundled napari).
        root = str(Path(dinoscope.__file__).resolve().parents[1])
        installed = {sysconfig.get_path("purelib"), site.getusersitepackages()}
        if root not in installed:
            parts = [root, environment.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, parts))
        return environment

    def _shake_hands(self, popen: subprocess.Popen[bytes], session: Session, authkey: bytes) -> str:
        """Tell the worker its settings through stdin and read where it listens from stdout."""
        if popen.stdin is None or popen.stdout is None:
            raise WorkerError("the worker process has no pipes")
        greeting = {
            "authkey": authkey.hex(),
            "parent": os.getpid(),
            "serial": self.serial,
            "blocks": [str(folder) for folder in session.blocks],
            "work": str(session.work),
            "threads": self._settings.threads,
            "nice": self._settings.nice,
            "warm_up": self._settings.warm_up,
            "job_modules": list(self._settings.job_modules),
        }
        try:
            popen.stdin.write(json.dumps(greeting).encode() + b"\n")
            popen.stdin.flush()  # stdin stays open: its end tells the worker that we are gone
        except OSError:
            pass  # it died already; the empty answer below says so
        answer = popen.stdout.readline()
        if not answer:
            raise self._start_error(self._exit_reason())
        reply = json.loads(answer)
        self.pid = int(reply["pid"])
        return str(reply["address"])

    def receive(self) -> tuple[str, int, Packed]:
        """Wait for the next message.

        Raises
        ------
        EOFError, OSError
            The process is gone.
        """
        if self._connection is None:
            raise EOFError
        verb, job, wire = self._connection.recv()
        return verb, job, Packed(*wire)

    def send(self, verb: str, job: int, body: Any = None) -> None:
        """Pack `body` now and send it soon; never blocks on the worker.

        Raises
        ------
        OutputError
            There is no room to hand over the arrays in `body`.
        """
        packed = pack(body, self._blocks)
        with self._lock:
            if not self._reaped:
                self._outbox.put((verb, job, packed.to_wire()))
                return
        packed.discard()  # written after remove_blocks() looked

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None and self._connection is not None:
            try:
                self._connection.send(message)
            except (OSError, ValueError):
                return  # the process is gone; reap() removes the blocks

    def kill(self) -> None:
        """End the process now; safe at any time and from any thread."""
        with self._lock:
            self._killed = True
            if self._popen is not None:
                self._popen.kill()

    def wait(self, timeout_s: float) -> None:
        """Wait for the end of a killed process, at most `timeout_s`."""
        if self._popen is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout_s)

    def reap(self) -> str:
        """Wait for the end of a process whose pipe has closed, clean up, say how it ended."""
        self.connected = False
        reason = self._exit_reason()
        with self._lock:
            self._reaped = True
            self._outbox.put(None)
        if self._writer is not None:
            self._writer.join(timeout=1)  # before its file is closed under it
        if self._connection is not None:
            self._connection.close()
        if self._popen is not None:
            for pipe in (self._popen.stdin, self._popen.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        return reason

    def remove_blocks(self) -> None:
        """Remove the blocks that nobody will read any more; only after :meth:`reap`."""
        if self._session is not None:
            remove_blocks(self._session.blocks, self.serial)

    def _exit_reason(self) -> str:
        if self._popen is None:
            return "it never ran"
        try:
            code = self._popen.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            code = self._popen.wait()
        if code == -9:
            return "it was killed; often because the memory ran out"
        return f"signal {-code}" if code < 0 else f"exit status {code}"

    def _start_error(self, reason: str) -> WorkerError:
        lines = self.last_words().splitlines()
        last = f": {lines[-1].strip()}" if lines else ""
        return WorkerError(
            f"the worker process could not be started ({reason}{last})",
            hint="Check the installation of napari-dinoscope in the environment that runs napari.",
        )

    def last_words(self) -> str:
        """The last lines this process printed, for a bug report."""
        return self._session.log_tail(self._log_start) if self._session is not None else ""
