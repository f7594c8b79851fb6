"""The worker's side of annotating, as the panel sees it: asks for previews, newest wish first.

Strokes live in the window and in the project, never in the worker alone: a worker that was killed
is opened again and told everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qtpy.QtCore import QObject, QTimer, Signal

from dinoscope.errors import DinoscopeError, WorkerError
from dinoscope.types import ImageInput
from dinoscope.widgets._client import Controller, JobHandle
from dinoscope.widgets._regions import Region
from dinoscope.widgets._strokebook import PlaneKey, StrokeBook, thinned

#: A worker that dies on the same wish so often is not asked again.
_TRIES = 2
#: Milliseconds without a new stroke until held-out strokes are asked how good the classifier is.
REST_MS = 400


@dataclass(frozen=True)
class Wish:
    """A preview that is wanted: regions of a plane, the first ones first.

    With `overview` all of it comes first of all, coarsely. A `draft`, for while a stroke is being
    painted, is by a small forest, and soon there; unless a newer wish comes, the whole forest's
    labels follow. `generation` counts changes of the classes: answers in other codes are dropped.
    """

    key: str
    index: tuple[int, ...]
    image: ImageInput
    regions: tuple[Region | None, ...]
    want: tuple[str, ...] = ("labels",)
    overview: bool = False
    draft: bool = False
    generation: int = 0
    state: Any = None
    made_at: float = field(default=0.0, compare=False)


class AnnotSession(QObject):
    """One classifier for all images that are annotated with the same classes.

    Parameters
    ----------
    controller : Controller
        Has the worker.
    book : StrokeBook
        All strokes.
    """

    #: A part of a preview: the wish, and the data of its ``plane`` event.
    arrived = Signal(object, object)
    #: How good the classifier is on held-out strokes: the wish, and the ``annotate_numbers`` data.
    fitted = Signal(object, object)
    completed = Signal(object)
    opened = Signal(object)
    failed = Signal(object)
    #: Text about what goes on, empty when nothing does.
    busy = Signal(str)

    def __init__(
        self, controller: Controller, book: StrokeBook, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._controller = controller
        self._book = book
        self.model = ""
        self.download = False
        self.classifier = ""
        self.options: Any = None
        self.session = ""
        self.info: dict[str, Any] = {}
        #: Names of the classes by their codes, from 1 on.
        self.names: Callable[[], tuple[str, ...]] = tuple
        self._opened_for: tuple[str, ...] = ()
        self._sent: dict[PlaneKey, int] = {}
        self._sending: dict[PlaneKey, int] = {}
        self._wish: Wish | None = None
        self._now: Wish | None = None
        #: Whether the job has sent labels that are not its first, rough ones.
        self._shown = False
        self._job: JobHandle | None = None
        self._prepare: JobHandle | None = None
        self._prepared: set[PlaneKey] = set()
        self._tries = 0
        self._preparing: PlaneKey = ("", ())
        #: What to do as soon as there is a session.
        self._waiting: list[Callable[[], None]] = []
        self._prepare_next: dict[PlaneKey, ImageInput] = {}
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(REST_MS)
        self._rest.timeout.connect(self._ask_numbers)
        controller.state_changed.connect(self._on_state)

    # -- wishes --------------------------------------------------------------------------------

    def use_model(
        self, model: str, *, download: bool = False, classifier: str = "", options: Any = None
    ) -> None:
        """Work with another model; the strokes stay."""
        wanted = (model, download, classifier, options)
        if wanted == (self.model, self.download, self.classifier, self.options):
            return
        self.model, self.download, self.classifier, self.options = wanted
        old, was = self.session, self._now or self._wish
        self._forget()
        if old:
            self._controller.submit("annotate_close", {"session": old})
        if was is not None:
            self.ask(was)

    def ask(self, wish: Wish) -> None:
        """Want a preview; an older wish that has not begun is forgotten."""
        self._rest.stop()
        if self.info.get("own_classes") and self.names() != self._opened_for:
            # The model's semantic head, which has its say, knows the classes by their old order.
            self.restart()
        self._wish = wish
        self._drop_rest()
        self._pump()

    def drop(self) -> None:
        """Want nothing any more, not even what is under way."""
        self._wish = self._now = None

    @property
    def idle(self) -> bool:
        """Whether nothing is asked for or under way."""
        return self._job is None and self._wish is None

    def when_open(self, act: Callable[[], None]) -> None:
        """Do something that needs the session, now or as soon as there is one."""
        self._waiting.append(act)
        self._pump()

    def prepare(self, key: str, index: tuple[int, ...], image: ImageInput) -> None:
        """Let the worker look at a plane before the first stroke."""
        if (key, index) not in self._prepared:
            self._prepare_next[key, index] = image
            self._pump()

    def close(self) -> None:
        """The panel goes away."""
        self._rest.stop()
        old = self.session
        self._wish, self._waiting = None, []
        for job in (self._job, self._prepare):
            if job is not None:
                job.silence()
        self._job = self._prepare = None
        self._controller.state_changed.disconnect(self._on_state)
        if old and self._controller.state in ("ready", "busy"):
            self._controller.submit("annotate_close", {"session": old})
        self.session = ""

    def restart(self) -> None:
        """Begin anew: the strokes are others than the worker knows (another project)."""
        old = self.session
        self._wish = self._now = None
        self._forget()
        self._prepare_next.clear()
        if old and self._controller.state in ("ready", "busy"):
            self._controller.submit("annotate_close", {"session": old})

    def stroke_values(self) -> list[dict[str, Any]]:
        """The planes that the worker does not know in their newest state."""
        values = []
        self._sending = {}
        for key, index in self._book.planes():
            strokes = self._book.strokes(key, index)
            if self._sent.get((key, index)) != strokes.version:
                flat, codes = thinned(strokes)
                values.append({"source": key, "index": index, "pixels": flat, "codes": codes})
                self._sending[key, index] = strokes.version
        return values

    def forget_source(self, key: str) -> None:
        """An image is gone: its strokes count no more."""
        for plane in [p for p in self._sent if p[0] == key]:
            del self._sent[plane]
        self._prepared = {p for p in self._prepared if p[0] != key}
        self._prepare_next = {p: i for p, i in self._prepare_next.items() if p[0] != key}
        for wish in (self._wish, self._now):
            if wish is not None and wish.key == key:
                self.drop()

    # -- course --------------------------------------------------------------------------------

    def _pump(self) -> None:
        if self._job is not None:
            return
        needed = self._wish or self._waiting or self._prepare_next
        if not self.session:
            if needed:
                self._open()
            return
        waiting, self._waiting = self._waiting, []
        for act in waiting:
            act()
        if self._wish is not None:
            self._now, self._wish = self._wish, None
            self._send(self._now)
        elif self._prepare_next and self._prepare is None:
            self._send_prepare()

    def _open(self) -> None:
        payload: dict[str, Any] = {"model": self.model, "allow_download": self.download}
        counts = self._book.counts()
        payload["codes"] = tuple(int(c) for c in range(1, 256) if counts[c])
        payload["classes"] = self._opened_for = self.names()
        if self.options is not None:
            payload["options"] = self.options
        if self.classifier:
            payload["classifier"] = self.classifier
        self.busy.emit("Starting the classifier …")
        job = self._job = self._controller.submit("annotate_open", payload)
        job.done.connect(self._on_opened)
        job.failed.connect(self._on_failed)
        job.finished.connect(self._on_finished)

    def _on_opened(self, data: Mapping[str, Any]) -> None:
        self.session = str(data["session"])
        self.info = dict(data)
        self._sent.clear()
        self._prepared.clear()
        self.opened.emit(data)

    def _send(self, wish: Wish) -> None:
        self._shown = False
        payload = {
            "session": self.session,
            "source": wish.key,
            "index": wish.index,
            "regions": wish.regions,
            "overview": wish.overview,
            "draft": wish.draft,
            "want": wish.want,
            "strokes": self.stroke_values(),
        }
        if not self._prepared.intersection({(wish.key, wish.index)}):
            self.busy.emit("Looking at the image …")
        job = self._job = self._controller.submit(
            "annotate_preview", payload, {"image": wish.image}
        )
        job.plane.connect(self._on_plane)
        job.done.connect(self._on_done)
        job.failed.connect(self._on_failed)
        job.finished.connect(self._on_finished)

    def _on_plane(self, data: Mapping[str, Any]) -> None:
        if not data.get("rough") and self._now is not None:
            # All of image and strokes is known to the worker now: nothing is lost by a cancel.
            self._shown = True
            self._prepared.add((self._now.key, self._now.index))
            self._sent.update(self._sending)
            self._sending = {}
        if self._now is not None:
            self.arrived.emit(self._now, data)
        self._drop_rest()

    def _drop_rest(self) -> None:
        """The rest of a preview is out of date where a newer one is wanted; so is a draft of a
        prepared plane, whatever it has sent, when the stroke is painted to its end."""
        wish, now = self._wish, self._now
        if wish is None or now is None or self._job is None:
            return
        prepared = (now.key, now.index) in self._prepared
        if self._shown or (now.draft and not wish.draft and prepared):
            self._shown = False
            self._job.withdraw()

    def _on_done(self, data: Mapping[str, Any]) -> None:
        self._tries = 0
        wish = self._now
        if wish is not None and wish.draft:
            self._wish = self._wish or replace(wish, draft=False)
        elif wish is not None:
            self.completed.emit(wish)
            self._rest.start()
        self.busy.emit("")

    def _ask_numbers(self) -> None:
        """Nobody paints: now there is time to hold strokes out."""
        wish = self._now
        if self._job is not None or not self.session or wish is None:
            return
        job = self._controller.submit("annotate_numbers", {"session": self.session})
        job.done.connect(lambda data: self.fitted.emit(wish, data))

    def _on_failed(self, error: DinoscopeError) -> None:
        """A worker that knows nothing of us was started anew: tell it all, once."""
        self._sending = {}
        stale = isinstance(error, WorkerError) or "session" in str(error)
        wish = self._wish or self._now
        if stale:
            self._forget()
            self._tries += 1
            if wish is not None and self._tries < _TRIES:
                self._wish = wish
                return
        self._wish = self._now = None
        self._prepare_next.clear()
        self._waiting = []
        self._tries = 0
        self.busy.emit("")
        self.failed.emit(error)

    def _on_finished(self) -> None:
        self._job = None
        self._pump()

    def _send_prepare(self) -> None:
        # The newest first: it is what the user looks at.
        (key, index), image = self._prepare_next.popitem()
        self._preparing = (key, index)
        payload = {"session": self.session, "source": key, "index": index}
        job = self._prepare = self._controller.submit("annotate_prepare", payload, {"image": image})
        self.busy.emit("Looking at the image …")
        job.done.connect(self._on_prepared)
        job.finished.connect(self._on_prepare_over)

    def _on_prepared(self, data: Any) -> None:
        self._prepared.add(self._preparing)
        if self._book.strokes(*self._preparing).count and self._now is not None:
            self._wish = self._wish or self._now  # the classifier can learn from this plane now

    def _on_prepare_over(self) -> None:
        self._prepare = None
        if self._job is None:
            self.busy.emit("")
        self._pump()

    def _on_state(self, state: str) -> None:
        if state == "stopped" and self.session and self._job is None:
            self._forget()
            if self._now is not None and self._book.planes():
                self._wish = self._now
                self._pump()

    def _forget(self) -> None:
        """The worker knows nothing of this session."""
        self.session = ""
        self.info = {}
        self._sent.clear()
        self._prepared.clear()
        self._shown = False
