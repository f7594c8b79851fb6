"""One controller for each viewer: the worker, its jobs as Qt signals, and what panels share."""

from __future__ import annotations

import contextlib
import functools
import math
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QApplication, QWidget

from dinoscope.errors import DinoscopeError, WorkerError
from dinoscope.types import ImageInput
from dinoscope.widgets._results import Results
from dinoscope.worker.client import WorkerClient
from dinoscope.worker.protocol import Event

if TYPE_CHECKING:
    from napari.viewer import Viewer

#: Redecoding and estimates are asked for at most this often.
THROTTLE_MS = 60


class JobHandle(QObject):
    """A job of the worker whose events arrive in the window's thread.

    After `finished` nothing more is emitted. A handle that is dropped goes silent.
    """

    progress = Signal(object)
    plane = Signal(object)
    done = Signal(object)
    failed = Signal(object)
    cancelled = Signal()
    finished = Signal()

    _arrived = Signal(object)

    def __init__(self, kind: str, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.kind = kind
        self._job: Any = None
        self._over = False
        self._silent = False
        # Queued: events come from the client's thread, and an early one must not be missed by a
        # caller that connects after `submit` has returned.
        self._arrived.connect(self._dispatch, Qt.ConnectionType.QueuedConnection)

    @property
    def running(self) -> bool:
        return not self._over

    def cancel(self) -> None:
        """Ask the job to stop; it is over within a second."""
        if self._job is not None and not self._over:
            self._job.cancel()

    def withdraw(self) -> None:
        """Ask the job to stop at its next step: the worker, which knows the session, stays."""
        if self._job is not None and not self._over:
            self._job.withdraw()

    def silence(self) -> None:
        """Emit nothing any more (its panel is closing)."""
        self._silent = True

    def _on_event(self, event: Event) -> None:
        # A late event may find the window, and with it this object, gone.
        with contextlib.suppress(RuntimeError):
            self._arrived.emit(event)

    def _dispatch(self, event: Event) -> None:
        if self._over or event.kind == "state":
            return
        if event.kind in ("done", "error", "cancelled"):
            self._over = True
        if not self._silent:
            if event.kind == "progress":
                self.progress.emit(event.data)
            elif event.kind == "plane":
                self.plane.emit(event.data)
            elif event.kind == "done":
                self.done.emit(event.data)
            elif event.kind == "error":
                self.failed.emit(error_of(event.data))
            elif event.kind == "cancelled":
                self.cancelled.emit()
        if self._over:
            if not self._silent:
                self.finished.emit()
            self._job = None
            self.deleteLater()


def error_of(data: Mapping[str, Any]) -> DinoscopeError:
    """The error in an event's data."""
    error = data.get("error")
    if isinstance(error, DinoscopeError):
        return error
    return WorkerError(str(error or "the worker failed without saying why"))


class LatestWins(QObject):
    """Runs a request at most every `interval_ms`; while one runs, only the newest waits.

    Parameters
    ----------
    send : callable
        Starts a job for the given request and returns its handle, or ``None`` when there is nothing
        to do.
    settle : bool
        Wait the interval before the first request too (for what follows many changes at once).
    """

    def __init__(
        self,
        send: Callable[[Any], JobHandle | None],
        parent: QObject | None = None,
        interval_ms: int = THROTTLE_MS,
        *,
        settle: bool = False,
    ) -> None:
        super().__init__(parent)
        self._send = send
        self._interval_s = interval_ms / 1000
        self._settle = settle
        self._sent_at = -math.inf
        self._waiting: list[Any] = []
        self._running: JobHandle | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._next)

    @property
    def busy(self) -> bool:
        return self._running is not None or bool(self._waiting)

    def request(self, what: Any) -> None:
        """Ask; an older request that has not begun is forgotten."""
        self._waiting = [what]
        self._start_timer()

    def clear(self) -> None:
        """Forget what waits, and what runs."""
        self._waiting = []
        self._timer.stop()
        if self._running is not None:
            self._running.silence()
            self._running.cancel()
            self._running = None

    def _next(self) -> None:
        if self._running is not None or not self._waiting:
            return
        self._sent_at = time.monotonic()
        self._running = self._send(self._waiting.pop())
        if self._running is not None:
            self._running.finished.connect(self._finished)

    def _finished(self) -> None:
        self._running = None
        if self._waiting:
            self._start_timer()

    def _start_timer(self) -> None:
        if self._timer.isActive():
            return
        wait_s = self._interval_s
        if not self._settle:
            wait_s = max(0.0, wait_s - (time.monotonic() - self._sent_at))
        self._timer.start(round(1000 * wait_s))


class Controller(QObject):
    """What the panels of one viewer share: the worker, the models, results and settings."""

    #: The list of models has changed.
    models_changed = Signal()
    #: A model was chosen elsewhere (dropped on napari, or just trained): its name or path.
    model_chosen = Signal(str)
    #: Classes as pixels of images, for whoever annotates: names, and (source, index, plane).
    strokes_offered = Signal(object)
    #: The worker's state: ``stopped``, ``starting``, ``ready`` or ``busy``.
    state_changed = Signal(str)

    _state_arrived = Signal(object)

    def __init__(self, viewer: Viewer, client_factory: Callable[[], Any] | None = None) -> None:
        super().__init__()
        self._client_factory = client_factory or _start_client
        self._client: Any = None
        self._unsubscribe: Callable[[], None] | None = None
        self._handles: weakref.WeakSet[JobHandle] = weakref.WeakSet()
        self._panels: dict[int, weakref.ref[Any]] = {}
        self.results = Results(viewer)
        self.models: list[dict[str, Any]] = []
        self.extra_models: list[str] = []
        #: What was dropped or trained last; panels that open later begin with it.
        self.newest_model = ""
        #: Where new models go; the worker says where it looks for the user's own.
        self.models_folder = Path.home()
        self.device: dict[str, Any] = {}
        self.settings: dict[str, dict[str, Any]] = {}
        self._asking_models = False
        self._state_arrived.connect(self._on_state, Qt.ConnectionType.QueuedConnection)
        app = QApplication.instance()
        if app is not None:
            app.aboutToQuit.connect(self.close)

    # -- panels --------------------------------------------------------------------------------

    def attach(self, panel: QWidget) -> None:
        """A panel opened. When it is destroyed with its window, it is detached too."""
        self._panels[id(panel)] = weakref.ref(panel)
        panel.destroyed.connect(functools.partial(_panel_gone, weakref.ref(self), id(panel)))

    def detach(self, panel: QWidget) -> None:
        """A panel closed; with the last one the worker ends and gives its memory back."""
        self._forget(id(panel))

    def panels(self, kind: type) -> list[Any]:
        """The open panels of a class."""
        found = [reference() for reference in self._panels.values()]
        return [panel for panel in found if isinstance(panel, kind)]

    def _forget(self, number: int) -> None:
        self._panels.pop(number, None)
        if not self._panels:
            self.close()

    # -- worker --------------------------------------------------------------------------------

    @property
    def client(self) -> Any:
        if self._client is None:
            self._client = self._client_factory()
            self._unsubscribe = self._client.subscribe(self._on_client_event)
        return self._client

    @property
    def state(self) -> str:
        return self._client.state if self._client is not None else "stopped"

    def warm_up(self) -> None:
        """Start the worker if need be and ask it for models and device; returns at once."""
        self.client.start()
        if not self.models:
            self.ask_models()
        if not self.device:
            handle = self.submit("device", {})
            handle.done.connect(self._on_device)

    def submit(
        self,
        kind: str,
        payload: Mapping[str, Any],
        images: Mapping[str, ImageInput] | None = None,
    ) -> JobHandle:
        """Start a job. A worker that cannot be asked reports through the handle's `failed`."""
        handle = JobHandle(kind, self)
        self._handles.add(handle)
        try:
            handle._job = self.client.submit(
                kind, dict(payload), dict(images or {}), handle._on_event
            )
        except DinoscopeError as error:
            handle._on_event(Event("error", {"error": error}))
        return handle

    def waiting_text(self, besides: JobHandle | None = None) -> str:
        """What to say where a training or prediction has to end first; else nothing."""
        begun = [h.kind for h in self._handles if h.running and h is not besides]
        if besides is None and "train" in begun:
            return "Waits until the training has ended. Cancel takes it back."
        if besides is not None and "predict" in begun:
            return "Waits until the prediction has ended."
        return ""

    def close(self) -> None:
        """End the worker and all jobs. The next `submit` starts a new one."""
        for handle in list(self._handles):
            with contextlib.suppress(RuntimeError):
                handle.silence()
        client, self._client = self._client, None
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        self.device = {}
        if client is not None:
            client.close()

    def _on_client_event(self, event: Event) -> None:
        with contextlib.suppress(RuntimeError):
            self._state_arrived.emit(event)

    def _on_state(self, event: Event) -> None:
        self.state_changed.emit(str(event.data.get("state", self.state)))

    # -- models --------------------------------------------------------------------------------

    def ask_models(self) -> None:
        """Fetch the list of models in the background."""
        if self._asking_models:
            return
        self._asking_models = True
        handle = self.submit("models", {"files": list(self.extra_models)})
        handle.done.connect(self._on_models)
        handle.finished.connect(self._models_answered)

    def choose_model(self, name: str) -> None:
        """Put a model file into the list and select it in the Predict panel."""
        known = {m.get(k) for m in self.models for k in ("name", "where")}
        if name not in known and name not in self.extra_models:
            self.extra_models.append(name)
        self._asking_models = False
        self.ask_models()  # also for a known file: it may have been written again
        self.newest_model = name
        self.model_chosen.emit(name)

    def _models_answered(self) -> None:
        self._asking_models = False

    def _on_models(self, data: Mapping[str, Any]) -> None:
        self.models = [_usable(dict(m)) for m in data.get("models", ())]
        if data.get("folder"):
            self.models_folder = Path(data["folder"])
        self.models_changed.emit()

    def _on_device(self, data: Mapping[str, Any]) -> None:
        self.device = dict(data)
        self.models_changed.emit()


def _usable(entry: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of a bare backbone has no card; that is no reason not to use it."""
    if str(entry["name"]).endswith((".pth", ".safetensors")):
        entry |= {"note": "", "available": True, "kind": "backbone"}
    return entry


def _panel_gone(controller: weakref.ref[Controller], number: int, *_: Any) -> None:
    found = controller()
    if found is not None:
        with contextlib.suppress(RuntimeError):
            found._forget(number)


_controllers: weakref.WeakKeyDictionary[Any, Controller] = weakref.WeakKeyDictionary()


def controller_for(viewer: Viewer) -> Controller:
    """The controller of `viewer`, made at first use."""
    viewer = getattr(viewer, "__wrapped__", viewer)
    controller = _controllers.get(viewer)
    if controller is None:
        controller = _controllers[viewer] = Controller(viewer)
        weakref.finalize(viewer, controller.close)
    return controller


def _start_client() -> WorkerClient:
    return WorkerClient()
