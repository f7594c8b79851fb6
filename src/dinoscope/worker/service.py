"""The worker's side: one job at a time, quick ones between the steps of a long one.

Jobs run in the main thread; another thread listens to the window, so that a cancel is seen between
two steps of a job and while it waits for pixels. Nothing heavy is imported here; jobs import what
they need.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.errors import Cancelled, WorkerError
from dinoscope.models.device import give_back_memory
from dinoscope.types import ImageInput, Progress
from dinoscope.worker.failures import error_data, explain
from dinoscope.worker.jobs import JobContext, JobKind, Tools
from dinoscope.worker.protocol import Blocks, Event, ImageHeader, Packed, pack, unpack
from dinoscope.worker.protocol import worker_prefix as block_prefix
from dinoscope.worker.remote import remote_image

#: Pixels that have not come after so many seconds are asked for again, then after twice as many.
_ASK_AGAIN_S = 10.0
#: How often a waiting job looks whether it was cancelled.
_POLL_S = 0.02
#: The warm-up leaves the panel's first questions so much time.
_WARM_UP_DELAY_S = 0.3
#: Progress without values is sent at most this often.
_PROGRESS_S = 0.05


@dataclasses.dataclass(frozen=True)
class _Request:
    number: int
    kind: str
    payload: Mapping[str, Any]
    images: Mapping[str, ImageHeader]


class Service:
    """Runs the jobs that arrive through `connection`, until it closes."""

    def __init__(
        self,
        connection: Connection[Any, Any],
        kinds: Mapping[str, JobKind],
        greeting: Mapping[str, Any],
    ) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        folders = [Path(folder) for folder in greeting["blocks"]]
        self._blocks = Blocks(folders, block_prefix(int(greeting["serial"])))
        self._kinds = kinds
        self._tools = Tools(Path(greeting["work"]), int(greeting["threads"]))
        self._waiting: list[_Request] = []
        self._cancelled: set[int] = set()
        self._changed = threading.Condition()
        self._active: set[int] = set()
        self._reads: dict[int, tuple[int, Mapping[str, Any]]] = {}
        self._read_numbers = itertools.count()
        self._warm: threading.Thread | None = None
        if greeting["warm_up"]:
            self._warm = threading.Thread(target=self._warm_up, daemon=True)

    def serve(self) -> None:
        """Work until the process ends; that happens when the window closes the pipe."""
        threading.Thread(target=self._listen, daemon=True).start()
        if self._warm is not None:
            self._warm.start()
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                request = self._waiting.pop(0)
            self._run(request)
            if not self._waiting and not self._is_quick(request):
                give_back_memory()

    # Listening

    def _listen(self) -> None:
        try:
            while True:
                verb, number, wire = self._connection.recv()
                self._take(verb, number, Packed(*wire))
        except (EOFError, OSError):
            os._exit(0)  # the window is gone; whatever runs is of no use to anyone

    def _take(self, verb: str, number: int, body: Packed) -> None:
        if verb == "cancel":
            with self._changed:
                self._cancelled.add(number)
                self._waiting = [r for r in self._waiting if r.number != number]
                self._changed.notify_all()
        elif verb == "pixels":
            if number not in self._active or number in self._cancelled:
                body.discard()
                return
            reply = unpack(body)
            with self._changed:
                self._reads[reply["request"]] = (number, reply)
                self._changed.notify_all()
        elif verb == "job":
            try:
                request = _Request(number, **unpack(body))
            except Exception as error:
                self._send("error", number, error_data(error))
                return
            with self._changed:
                self._waiting.append(request)
                self._changed.notify_all()

    # Running

    def _run(self, request: _Request) -> None:
        """Run one job to its one last event."""
        number = request.number
        kind = self._kinds.get(request.kind)
        self._active.add(number)
        self._send("started", number, {"quick": kind is not None and kind.quick})
        try:
            if kind is None:
                raise WorkerError(
                    f"the worker was asked for {request.kind!r}",
                    expected="one of " + ", ".join(sorted(self._kinds)),
                )
            result = self._steps(request, kind)
            self._send("done", number, result, self._checker(number))
        except (Exception, SystemExit) as error:
            if isinstance(error, Cancelled) or number in self._cancelled:
                self._send("cancelled", number, {})
            else:
                self._send("error", number, error_data(error))
        finally:
            with self._changed:
                self._active.discard(number)
                self._cancelled.discard(number)
                self._reads = {k: v for k, v in self._reads.items() if v[0] != number}

    def _steps(self, request: _Request, kind: JobKind) -> Mapping[str, Any]:
        check = self._checker(request.number)
        check()
        if kind.heavy:
            self._wait_until_warm(request.number, check)
        report = self._reporter(request.number, check)
        images = self._images(request, check)
        context = JobContext(request.number, request.payload, images, self._tools, check, report)
        steps = kind.function(context)
        if not isinstance(steps, Generator):
            return steps
        try:
            while True:
                item = next(steps)
                if isinstance(item, Event):
                    check()
                    self._send(item.kind, request.number, item.data, check)
                else:
                    report(item)
                if not kind.quick:
                    self._run_quick_ones()
        except StopIteration as stop:
            return stop.value or {}
        finally:
            steps.close()

    def _run_quick_ones(self) -> None:
        """Run the quick jobs that came meanwhile: a slider must not wait for a training."""
        while True:
            with self._changed:
                quick = [r for r in self._waiting if self._is_quick(r)]
                if not quick:
                    return
                self._waiting.remove(quick[0])
            self._run(quick[0])

    def _is_quick(self, request: _Request) -> bool:
        return request.kind in self._kinds and self._kinds[request.kind].quick

    def _checker(self, number: int) -> Callable[[], None]:
        def check() -> None:
            if number in self._cancelled:
                raise Cancelled("cancelled by the user")

        return check

    def _reporter(self, number: int, check: Callable[[], None]) -> Callable[[Progress], None]:
        last = 0.0

        def report(progress: Progress) -> None:
            nonlocal last
            check()
            if progress.values or time.monotonic() - last > _PROGRESS_S:
                last = time.monotonic()
                self._send("progress", number, _progress_data(progress))

        return report

    def _wait_until_warm(self, number: int, check: Callable[[], None]) -> None:
        if self._warm is None or not self._warm.is_alive():
            return
        progress = Progress("start", 0, 1, message="loading PyTorch and the model")
        self._send("progress", number, _progress_data(progress))
        while self._warm.is_alive():
            check()
            self._run_quick_ones()
            self._warm.join(_POLL_S)

    def _warm_up(self) -> None:
        time.sleep(_WARM_UP_DELAY_S)
        try:
            report = self._tools.models.warm_up(self._tools.threads)
        except Exception as error:  # the first job that needs torch says it again
            traceback.print_exc()
            report = {"error": explain(error)}
        self._send("warm", 0, report)

    # Images and messages

    def _images(self, request: _Request, check: Callable[[], None]) -> dict[str, ImageInput]:
        def reader(name: str, header: ImageHeader) -> Callable[[Any], np.ndarray]:
            return lambda key: self._read(request.number, name, header, key, check)

        return {n: remote_image(h, reader(n, h)) for n, h in request.images.items()}

    def _read(
        self, number: int, name: str, header: ImageHeader, key: Any, check: Callable[[], None]
    ) -> np.ndarray:
        """Fetch pixels from the window's process; a cancel ends the wait."""
        check()
        ticket = next(self._read_numbers)
        question = {"request": ticket, "image": name, "key": key, "shape": header.shape}
        self._send("read", number, question)
        patience = _ASK_AGAIN_S
        with self._changed:
            while ticket not in self._reads:
                check()  # before each wait: a cancel may have come since the question was sent
                if not self._changed.wait(patience) and ticket not in self._reads:
                    # An answer that went astray must not leave the window waiting for ever.
                    print(f"asking again for pixels of job {number}", file=sys.stderr, flush=True)
                    patience *= 2
                    self._send("read", number, question)
            _, reply = self._reads.pop(ticket)
        if "error" in reply:
            raise reply["error"]
        return np.asarray(reply["pixels"])

    def _send(
        self,
        verb: str,
        number: int,
        body: Mapping[str, Any],
        check: Callable[[], None] | None = None,
    ) -> None:
        if check is not None:
            self._blocks.wait_for_room(check)
        wire = pack(dict(body), self._blocks).to_wire()
        with self._sending:
            self._connection.send((verb, number, wire))


def _progress_data(progress: Progress) -> dict[str, Any]:
    # By the fields of Progress, not of a subclass whose module the window must not import.
    return {field.name: getattr(progress, field.name) for field in dataclasses.fields(Progress)} | {
        "values": {name: float(value) for name, value in progress.values.items()}
    }
