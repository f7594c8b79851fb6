"""The window's side of the worker: start, submit, cancel, kill. Knows neither Qt nor torch.

Everything here returns at once. Callbacks run one after the other in a thread of the client's own,
never in the caller's; a window forwards them as Qt signals.
"""

from __future__ import annotations

import atexit
import itertools
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dinoscope.config import available_cores
from dinoscope.errors import WorkerError
from dinoscope.types import ImageInput
from dinoscope.worker.job import Callback, Job, as_worker_error
from dinoscope.worker.mailbox import Helpers, Mailbox
from dinoscope.worker.process import WorkerProcess, WorkerSettings
from dinoscope.worker.protocol import TERMINAL, Event, Packed, unpack
from dinoscope.worker.session import Session

#: A cancelled job that has not ended after so many seconds is ended with its process. The rest of
#: the second that a cancel may take is for a machine that is busy with other things.
CANCEL_GRACE_S = 0.75

__all__ = ["CANCEL_GRACE_S", "Event", "Job", "WorkerClient"]


class WorkerClient:
    """Owns one worker process and the jobs given to it.

    Parameters
    ----------
    threads : int, optional
        CPU threads of the worker; all cores but one when not given.
    warm_up : bool
        Import torch and load the embedded model while the worker is idle.
    job_modules : sequence of str
        Names or ``.py`` paths of modules whose ``JOBS`` add kinds of jobs (see
        :mod:`dinoscope.worker.jobs`).
    python : str, optional
        Another interpreter than the current one.

    Examples
    --------
    >>> client = WorkerClient(warm_up=False)
    >>> client.submit("models", {}).wait(60).kind
    'done'
    >>> client.close()
    """

    def __init__(
        self,
        threads: int | None = None,
        *,
        warm_up: bool = True,
        job_modules: Sequence[str | Path] = (),
        python: str | None = None,
    ) -> None:
        self._settings = WorkerSettings(
            threads=threads or max(1, available_cores() - 1),
            warm_up=warm_up,
            job_modules=tuple(str(module) for module in job_modules),
            python=python or sys.executable,
        )
        self._lock = threading.RLock()
        self._session: Session | None = None
        self._process: WorkerProcess | None = None
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count(1)
        self._serials = itertools.count(1)
        self._subscribers: list[Callback] = []
        self._last_state: dict[str, Any] = {}
        self._warm: dict[str, Any] = {}
        self._closed = False
        self._mailbox = Mailbox("dinoscope-events")
        self._readers = Helpers("dinoscope-reader")
        # napari may end without closing its window; the process and the folders must not stay.
        atexit.register(self._at_exit)

    # What it is doing

    @property
    def state(self) -> str:
        """``stopped``, ``starting``, ``ready`` or ``busy``."""
        with self._lock:
            if self._process is None:
                return "stopped"
            if not self._process.connected:
                return "starting"
            return "busy" if self._process.running else "ready"

    @property
    def alive(self) -> bool:
        """Whether a worker process is connected."""
        return self.state in ("ready", "busy")

    @property
    def pid(self) -> int | None:
        """The worker's process id while it is connected."""
        with self._lock:
            return self._process.pid if self._process is not None else None

    @property
    def warm(self) -> Mapping[str, Any]:
        """What the worker found when it warmed up (device and versions); empty until then."""
        return self._warm

    @property
    def log_path(self) -> Path | None:
        """The file with everything the worker printed; ``None`` before the first start."""
        return self._session.log if self._session is not None else None

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Call `callback` with every ``state`` event; the returned function ends that.

        The data are ``state``, ``pid``, ``warm`` (a dict, see :attr:`warm`) and, when the worker
        could not start or died, ``error`` (a :class:`~dinoscope.errors.WorkerError`).
        """
        with self._lock:
            self._subscribers.append(callback)

        def unsubscribe() -> None:
            with self._lock:
                if callback in self._subscribers:
                    self._subscribers.remove(callback)

        return unsubscribe

    # What it is asked to do

    def start(self) -> None:
        """Start the worker in the background unless one runs. Returns at once."""
        with self._lock:
            if self._closed or self._process is not None:
                return
            process = self._process = WorkerProcess(self._settings, next(self._serials))
            self._warm = {}
            threading.Thread(
                target=self._supervise, args=(process,), name="dinoscope-worker", daemon=True
            ).start()
            self._announce()

    def submit(
        self,
        kind: str,
        payload: Mapping[str, Any] | None = None,
        images: Mapping[str, ImageInput] | None = None,
        on_event: Callback | None = None,
    ) -> Job:
        """Queue a job, start the worker if need be, and return at once.

        Parameters
        ----------
        kind : str
            One of the worker's kinds (see :mod:`dinoscope.worker.jobs`).
        payload : mapping, optional
            Plain values, NumPy arrays and config objects. It must not change until the job ends.
        images : mapping of str to ImageInput, optional
            Images that the worker reads plane by plane while it works.
        on_event : callable, optional
            Called with each :class:`Event`, the last of which is ``done``, ``error`` or
            ``cancelled``; not in the caller's thread.

        Raises
        ------
        WorkerError
            The client is closed.
        """
        with self._lock:
            if self._closed:
                raise WorkerError("the worker was closed", hint="Open the panel again.")
            number = next(self._numbers)
            job = Job(number, kind, dict(payload or {}), dict(images or {}), on_event, self._cancel)
            self._jobs[number] = job
            self.start()
            if self._process is not None and self._process.connected:
                self._send(self._process, job)
            return job

    def close(self) -> None:
        """Cancel all jobs, end the process, remove every temporary file. Safe to call again."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            process, self._process = self._process, None
            for job in list(self._jobs.values()):
                self._end(job, "cancelled", {})
            if process is not None:
                process.kill()
            self._announce()
        atexit.unregister(self._at_exit)
        self._mailbox.close(timeout_s=1)
        self._readers.close()
        self._remove(process)

    def _at_exit(self) -> None:
        """As :meth:`close`, without callbacks into an interpreter that is going away."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()
        self._remove(process)

    def _remove(self, process: WorkerProcess | None) -> None:
        if process is not None:
            process.wait(timeout_s=1)  # a process that still writes would keep its folder
        if self._session is not None:
            self._session.remove()

    # The thread that starts a worker and listens to it

    def _supervise(self, process: WorkerProcess) -> None:
        problem: WorkerError | None = None
        try:
            process.launch(self._open_session())
            self._connected(process)
            while True:
                self._receive(process, *process.receive())
        except WorkerError as error:
            problem = error
        except (EOFError, OSError):
            pass  # the usual end: the pipe closed
        except Exception as error:  # a job must end even so
            problem = WorkerError(f"the worker said something odd ({error!r})")
            process.kill()
        finally:
            reason = process.reap()
            # After the events that are still to be delivered: their blocks are needed.
            self._mailbox.post(process.remove_blocks)
            self._stopped(process, reason, problem)

    def _open_session(self) -> Session:
        with self._lock:
            if self._closed:
                raise WorkerError("the worker was closed")
            if self._session is None:
                self._session = Session()
            return self._session

    def _connected(self, process: WorkerProcess) -> None:
        with self._lock:
            process.connected = True
            if process is self._process:
                for job in list(self._jobs.values()):
                    self._send(process, job)
                self._announce()

    def _receive(self, process: WorkerProcess, verb: str, number: int, body: Packed) -> None:
        with self._lock:
            job = self._jobs.get(number)
            if process is not self._process:
                body.discard()
            elif verb == "started":
                process.running[number] = bool(unpack(body)["quick"])
                if job is None:  # cancelled while the message was on its way
                    self._watch(process, number)
            elif verb == "read":
                request = unpack(body)
                if job is not None:
                    self._readers.run(partial(job.answer, process, request))
                else:  # nobody will answer, so it must not wait
                    process.send("cancel", number)
            elif verb == "warm":
                self._warm = unpack(body)
            else:
                if verb in TERMINAL:
                    process.running.pop(number, None)
                if job is None:
                    body.discard()
                elif verb in TERMINAL:
                    self._end(job, verb, body)
                else:
                    self._mailbox.post(lambda: self._deliver(job, verb, body))
            self._announce()

    def _stopped(self, process: WorkerProcess, reason: str, problem: WorkerError | None) -> None:
        with self._lock:
            if process is not self._process:
                return
            self._process = None
            never_ran = problem is not None
            if problem is None:
                problem = WorkerError(
                    f"the worker process stopped ({reason})",
                    hint="Run again: a fresh one starts by itself.",
                )
            failure = {"error": problem, "traceback": process.last_words()}
            jobs = list(self._jobs.values())
            # A worker that died on a job fails that job; the others go to the next worker. Where
            # it died by itself, once more is enough to know that it would do so again.
            failed = [job for job in jobs if job.id in process.running]
            if not failed:
                failed = [job for job in jobs if never_ran or job.tries >= 2]
            for job in failed:
                if job.cancel_asked:
                    self._end(job, "cancelled", {})
                else:
                    self._end(job, "error", dict(failure))
            self._announce(problem)
            if self._jobs:
                self.start()

    # Jobs

    def _send(self, process: WorkerProcess, job: Job) -> None:
        try:
            process.send("job", job.id, job.request())
        except Exception as error:
            self._end(job, "error", {"error": as_worker_error(error), "traceback": ""})
        else:
            job.sent_to = process
            job.tries += 1

    def _cancel(self, job: Job, by_force: bool) -> None:
        with self._lock:
            if job.finished or (job.cancel_asked and not by_force):
                return
            job.cancel_asked = True
            process = job.sent_to
            if process is not None and process is self._process:
                process.send("cancel", job.id)
                if job.id in process.running:
                    if by_force:
                        self._watch(process, job.id)
                    return
            self._end(job, "cancelled", {})

    def _watch(self, process: WorkerProcess, number: int) -> None:
        timer = threading.Timer(CANCEL_GRACE_S, self._overdue, (process, number))
        timer.daemon = True
        timer.start()

    def _overdue(self, process: WorkerProcess, number: int) -> None:
        """End a job that did not obey, with its process unless another job needs that."""
        with self._lock:
            if process is not self._process or number not in process.running:
                return
            if number in self._jobs:
                self._end(self._jobs[number], "cancelled", {})
            others = [
                self._jobs[n]
                for n in process.running
                if n in self._jobs and not self._jobs[n].cancel_asked
            ]
            if process.running[number] and others:
                return  # a quick job waits for a step of a long one: no reason to lose that
            process.kill()
            self._process = None
            for job in list(self._jobs.values()):
                if job.cancel_asked:
                    self._end(job, "cancelled", {})
            self.start()  # warm again by the time of the next run

    def _end(self, job: Job, kind: str, body: Packed | dict[str, Any]) -> None:
        """Decide the last event of `job`; called once for each job, with the lock held."""
        job.finished = True
        del self._jobs[job.id]
        self._mailbox.post(lambda: self._deliver(job, kind, body))

    # The thread that calls back

    def _deliver(self, job: Job, kind: str, body: Packed | dict[str, Any]) -> None:
        try:
            event = Event(kind, unpack(body) if isinstance(body, Packed) else body)
        except Exception as error:
            event = Event("error", {"error": as_worker_error(error), "traceback": ""})
        if event.kind in TERMINAL and kind not in TERMINAL:
            self._break_off(job, event)
        else:
            job.deliver(event)

    def _break_off(self, job: Job, event: Event) -> None:
        """End a job one of whose results cannot be read."""
        with self._lock:
            if not job.finished:
                if job.sent_to is not None:
                    job.sent_to.send("cancel", job.id)
                self._end(job, "error", event.data)

    def _announce(self, problem: WorkerError | None = None) -> None:
        """Tell the subscribers when something changed; called with the lock held."""
        state: dict[str, Any] = {"state": self.state, "pid": self.pid, "warm": dict(self._warm)}
        if problem is not None:
            state["error"] = problem
        if state != self._last_state:
            self._last_state = state
            for callback in self._subscribers:
                self._mailbox.post(partial(callback, Event("state", dict(state))))
