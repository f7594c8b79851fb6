"""A job as the window holds it, and how its images are read for the worker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dinoscope.errors import DinoscopeError, InputError, WorkerError
from dinoscope.types import ImageInput
from dinoscope.worker.process import WorkerProcess
from dinoscope.worker.protocol import TERMINAL, Event, ImageHeader

Callback = Callable[[Event], None]


class Job:
    """One request and its course. Made by :meth:`WorkerClient.submit`.

    Attributes
    ----------
    id : int
        Unique within the client.
    kind : str
        What was asked for, for example ``"predict"``.
    finished : bool
        Whether its last event is decided (it may not have been delivered yet).
    """

    def __init__(
        self,
        number: int,
        kind: str,
        payload: Mapping[str, Any],
        images: Mapping[str, ImageInput],
        on_event: Callback | None,
        cancel: Callable[[Job, bool], None],
    ) -> None:
        self.id = number
        self.kind = kind
        self._payload = payload
        self._images = images
        self._on_event = on_event
        self._cancel = cancel
        # The client alone sets these, under its lock.
        self.sent_to: WorkerProcess | None = None
        self.tries = 0
        self.cancel_asked = False
        self.finished = False
        self._delivered = threading.Event()
        self._outcome: Event | None = None

    @property
    def outcome(self) -> Event | None:
        """The last event (``done``, ``error`` or ``cancelled``) once it has been delivered."""
        return self._outcome

    def cancel(self) -> None:
        """Ask it to stop; within a second it has, or its process is killed. Returns at once."""
        self._cancel(self, True)

    def withdraw(self) -> None:
        """Ask it to stop at its next step, however long that takes: its process has what later
        jobs need. Returns at once."""
        self._cancel(self, False)

    def wait(self, timeout_s: float | None = None) -> Event:
        """Wait for the last event. Not for the window's thread.

        Raises
        ------
        TimeoutError
            It has not ended after `timeout_s`.
        """
        if not self._delivered.wait(timeout_s) or self._outcome is None:
            raise TimeoutError(f"job {self.kind!r} has not ended after {timeout_s} s")
        return self._outcome

    def request(self) -> dict[str, Any]:
        """What the worker is told: the images as headers only, it reads them later."""
        images = {name: _header(image) for name, image in self._images.items()}
        return {"kind": self.kind, "payload": self._payload, "images": images}

    def deliver(self, event: Event) -> None:
        """Call back with `event`."""
        try:
            if self._on_event is not None:
                self._on_event(event)
        finally:
            if event.kind in TERMINAL:
                self._outcome = event
                self._delivered.set()

    def answer(self, process: WorkerProcess, request: Mapping[str, Any]) -> None:
        """Read what the worker asked for and send it; a failure becomes the job's error."""
        number = request["request"]
        try:
            pixels = _read(self._images[request["image"]], request)
            process.send("pixels", self.id, {"request": number, "pixels": pixels})
        except Exception as error:  # whatever it was: the worker waits for an answer
            process.send("pixels", self.id, {"request": number, "error": as_worker_error(error)})


def _header(image: ImageInput) -> ImageHeader:
    return ImageHeader(
        image.shape,
        np.dtype(image.data.dtype).str,
        image.axes,
        {axis: float(size) for axis, size in image.pixel_size_um.items()},
        image.name,
    )


def _read(image: ImageInput, request: Mapping[str, Any]) -> np.ndarray:
    if image.shape != tuple(request["shape"]):
        raise InputError(
            f"image {image.name!r} now has shape {image.shape}",
            expected=f"{tuple(request['shape'])} as at the start of this run",
            hint="It was changed meanwhile; run again.",
        )
    try:
        return np.asarray(image.data[request["key"]])
    except DinoscopeError:
        raise
    except Exception as error:
        raise InputError(
            f"image {image.name!r} could not be read ({type(error).__name__}: {error})",
            hint="If its layer or file was removed or changed meanwhile, choose it again and run.",
        ) from error


def as_worker_error(error: Exception) -> DinoscopeError:
    """`error` itself where a user can understand it, else one that says what it was."""
    if isinstance(error, DinoscopeError):
        return error
    return WorkerError(f"a message to or from the worker failed ({type(error).__name__}: {error})")
