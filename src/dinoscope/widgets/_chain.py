"""Several jobs of the worker as one run: a generator that asks, and is answered."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from dinoscope.errors import DinoscopeError
from dinoscope.types import ImageInput
from dinoscope.widgets._client import Controller, JobHandle
from dinoscope.widgets._run import Outcome, progress_of

if TYPE_CHECKING:
    from napari.layers import Layer


@dataclass(frozen=True)
class Ask:
    """One job: what is asked, and who takes its planes as they arrive."""

    kind: str
    payload: Mapping[str, Any]
    images: Mapping[str, ImageInput] = field(default_factory=dict)
    on_plane: Callable[[Mapping[str, Any]], None] | None = None


#: Asks for jobs, is sent the data of their ``done`` events (or has their error thrown into it), and
#: returns one line for the user.
Steps = Generator[Ask, Mapping[str, Any], str]


class Chain(QObject):
    """Runs `steps` to their end, without ever blocking the window.

    Parameters
    ----------
    steps : Steps
        Closed when the run is cancelled: what must be taken back belongs into a ``finally``.
    layers : sequence of Layer
        Without them the run makes no sense; removing one cancels it.
    """

    progress = Signal(object)
    ended = Signal(object)

    def __init__(self, controller: Controller, steps: Steps, layers: Sequence[Layer] = ()) -> None:
        super().__init__(controller)
        self._controller = controller
        self._steps = steps
        self._layers = list(layers)
        self._job: JobHandle | None = None
        self._over = False
        self._why = ""
        self._failure: DinoscopeError | None = None

    @property
    def running(self) -> bool:
        return not self._over

    def start(self) -> None:
        """Begin; everything else happens in events."""
        self._controller.results.viewer.layers.events.removed.connect(self._on_removed)
        self._advance(lambda: next(self._steps))

    def cancel(self, why: str = "") -> None:
        """Stop within a second; `ended` follows."""
        self._why = self._why or why
        if self._job is not None and not self._over:
            self._job.cancel()

    def close(self) -> None:
        """The panel goes away: stop, and say nothing."""
        if self._over:
            return
        self._over = True
        if self._job is not None:
            self._job.silence()
            self._job.cancel()
        self._steps.close()
        self._disconnect()

    def _advance(self, step: Callable[[], Ask]) -> None:
        try:
            ask = step()
        except StopIteration as end:
            self._finish("done", str(end.value or "Done."))
            return
        except DinoscopeError as error:
            self._finish("error", str(error))
            return
        job = self._controller.submit(ask.kind, ask.payload, ask.images)
        self._job, self._on_plane = job, ask.on_plane
        job.progress.connect(self._on_progress)
        job.plane.connect(self._take_plane)
        job.done.connect(self._on_done)
        job.failed.connect(self._on_failed)
        job.cancelled.connect(self._on_cancelled)

    def _on_progress(self, data: Any) -> None:
        self.progress.emit(progress_of(data))

    def _take_plane(self, data: Mapping[str, Any]) -> None:
        if self._over or self._failure is not None or self._on_plane is None:
            return
        try:
            self._on_plane(data)
        except DinoscopeError as error:  # the disk is full
            self._failure = error
            self.cancel()

    def _on_done(self, data: Mapping[str, Any]) -> None:
        if not self._over:
            self._advance(lambda: self._steps.send(data))

    def _on_failed(self, error: DinoscopeError) -> None:
        if not self._over:
            self._advance(lambda: self._steps.throw(error))

    def _on_cancelled(self) -> None:
        self._steps.close()
        if self._failure is not None:
            self._finish("error", str(self._failure))
        else:
            self._finish("cancelled", self._why or "Cancelled.")

    def _on_removed(self, event: Any) -> None:
        if event.value in self._layers:
            self.cancel(f"{event.value.name!r} was removed: the run was stopped.")

    def _finish(self, kind: str, text: str) -> None:
        if self._over:
            return
        self._over = True
        self._disconnect()
        self.ended.emit(Outcome(kind, text))

    def _disconnect(self) -> None:
        with contextlib.suppress(RuntimeError):
            viewer = self._controller.results.viewer
            viewer.layers.events.removed.disconnect(self._on_removed)
