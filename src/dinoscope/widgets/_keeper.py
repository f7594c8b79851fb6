"""Keeps strokes and objects, and writes them to the project: in a thread, never the window's.

The window hands over a copy of the plane that was painted on and goes on; what changed is found
out, journaled and told here. Nothing in this module knows Qt.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.errors import DinoscopeError, InputError, OutputError
from dinoscope.types import ImageInput
from dinoscope.widgets._strokebook import Change, PlaneKey, StrokeBook, Strokes, difference

#: A stroke is on the disk after this long at the latest, with room to the two seconds promised.
FLUSH_S = 1.0
#: A longer journal is turned into files.
_JOURNAL_BYTES = 16 * 2**20
#: Images without a file are kept in the project up to this size.
_KEPT_BYTES = 512 * 2**20
STROKES, OBJECTS = "strokes", "objects"
Classes = list[tuple[str, str]]


@dataclass(frozen=True)
class KnownImage:
    """An image that is annotated: what it is, and its file where it has one."""

    image: ImageInput
    path: Path | None


class Keeper:
    """Owner of what is annotated, and of the project.

    Parameters
    ----------
    tell : callable
        Called in the keeper's thread with the name of an event and its data: ``changed`` (`key`,
        `index`, `layer`), ``recoded``, ``opened`` (`project`, `new`), ``moved`` (`project`),
        ``linked`` (`key`, `id`), ``saved``, ``failed`` (`error`), or the name given to :meth:`do`
        (`value`).
    """

    def __init__(self, tell: Callable[[str, Mapping[str, Any]], None]) -> None:
        self.book = StrokeBook()
        self.objects = StrokeBook(np.uint32)
        #: The open project. The window reads it (it has a lock of its own), the thread writes it.
        self.project: Any = None
        #: Identifiers of the project's images, by key.
        self.ids: dict[str, str] = {}
        self._tell = tell
        self._images: dict[str, KnownImage] = {}
        self._looks: dict[tuple[str, PlaneKey], np.ndarray] = {}
        self._lock = threading.Lock()
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._unsaved_since: float | None = None
        self._broken = False
        self._thread: threading.Thread | None = None

    # -- from the window -----------------------------------------------------------------------

    def look(
        self, key: str, index: tuple[int, ...], plane: np.ndarray, layer: str = STROKES
    ) -> None:
        """Find out what changed on a (Y, X) plane; it must not change any more."""
        with self._lock:
            waiting = (layer, (key, index)) in self._looks
            self._looks[layer, (key, index)] = plane
        if not waiting:  # else the newest is taken when it is its turn
            self._put(lambda: self._look(key, index, layer))

    def know(self, key: str, image: ImageInput, path: Path | None) -> None:
        """An image is annotated from now on."""
        with self._lock:
            self._images[key] = KnownImage(image, path)
        self._put(lambda: self._link(key))

    def recode(self, table: np.ndarray, classes: Classes) -> None:
        """Classes have other codes: send all strokes through a table."""

        def work() -> None:
            self._set_classes(classes)
            for change in self.book.recode(table):
                self._record(change, STROKES)
            self._recode_objects(table)
            self._tell("recoded", {})

        self._put(work)

    def set_classes(self, classes: Classes) -> None:
        """Classes have other names or colours."""
        self._put(lambda: self._set_classes(classes))

    def create(self, path: Path, classes: Classes) -> None:
        """Begin a project with everything annotated so far; ``opened`` follows."""
        self._put(lambda: self._create(path, classes))

    def open(self, path: Path) -> None:
        """Open a project; its strokes replace those there are. ``opened`` follows."""
        self._put(lambda: self._open(path))

    def move(self, path: Path) -> None:
        """Go on in a copy of the project elsewhere; ``moved`` follows."""
        self._put(lambda: self._move(path))

    def forget(self) -> None:
        """Know nothing of what was annotated; the project keeps it."""
        self._put(self._forget)

    def do(self, name: str, work: Callable[[Any], Any], **also: Any) -> None:
        """Do something with the project (``None`` without one); event `name` has the `value`."""

        def act() -> None:
            value = work(self.project)
            self._touch()
            self._tell(name, {"value": value, **also})

        self._put(act)

    def change(self, key: str, act: Callable[[Any, str], None]) -> None:
        """Change the project: ``act(project, id)``, where the image belongs to it by then."""

        def work() -> None:
            source = self.ids.get(key)
            if source is not None and self.project is not None and not self.project.read_only:
                act(self.project, source)
                self._touch()

        self._put(work)

    def close(self, *, wait_s: float = 5.0) -> None:
        """Write what is unwritten and end."""
        thread = self._thread
        if thread is not None:
            self._tasks.put(None)
            thread.join(wait_s)

    # -- the thread ----------------------------------------------------------------------------

    def _put(self, task: Callable[[], None]) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="dinoscope-keeper", daemon=True)
            self._thread.start()
        self._tasks.put(task)

    def _run(self) -> None:
        while True:
            try:
                task = self._tasks.get(timeout=FLUSH_S / 2)
            except queue.Empty:
                task = _nothing
            if task is None:
                self._close_project()
                return
            try:
                task()
                self._flush_when_due()
            except Exception as error:
                self._fail(error)

    def _look(self, key: str, index: tuple[int, ...], layer: str) -> None:
        with self._lock:
            plane = self._looks.pop((layer, (key, index)), None)
        if plane is None:
            return
        book = self.book if layer == STROKES else self.objects
        change = book.update(key, index, plane)
        if change is not None:
            self._tell("changed", {"key": key, "index": index, "layer": layer})
            self._record(change, layer)

    def _record(self, change: Change, layer: str) -> None:
        source = self.ids.get(change.key)
        if self.project is None or self.project.read_only or source is None:
            return
        self.project.record(source, change.index, "paint", change.flat, change.codes, layer=layer)
        self._touch()

    def _set_classes(self, classes: Classes) -> None:
        if self.project is not None and not self.project.read_only:
            self.project.set_classes(classes)
            self._touch()

    def _recode_objects(self, table: np.ndarray) -> None:
        project = self.project
        if project is None or project.read_only:
            return
        for source in project.sources:
            for index in project.planes(source):
                before = dict(project.objects(source, index).classes)
                after = {number: int(table[code]) for number, code in before.items()}
                if after != before:
                    project.set_object_classes(source, index, after)

    def _touch(self) -> None:
        if self._unsaved_since is None:
            self._unsaved_since = time.monotonic()

    def _flush_when_due(self) -> None:
        since = self._unsaved_since
        if since is not None and time.monotonic() - since >= FLUSH_S / 2:
            self._flush()

    def _flush(self) -> None:
        self._unsaved_since = None
        if self.project is None or self.project.read_only:
            return
        self.project.flush()
        self._broken = False
        if self.project.journal_bytes > _JOURNAL_BYTES:
            self.project.compact()
        self._tell("saved", {})

    def _link(self, key: str) -> None:
        """Make an image part of the project, with what is annotated on it already."""
        known = self._images.get(key)
        if self.project is None or known is None or key in self.ids or self.project.read_only:
            return
        source = self.project.add_source(known.image, known.path)
        if source in self.ids.values():
            return  # the same picture twice: the first layer is the one that is kept
        self.ids[key] = source
        for layer, book in ((STROKES, self.book), (OBJECTS, self.objects)):
            for _, index in book.planes(key):
                now = book.strokes(key, index)
                self._record(Change(key, index, now.flat, now.codes), layer)
        self._touch()
        reference = self.project.source(source)
        if known.path is None and not reference.kept and _bytes(known.image) <= _KEPT_BYTES:
            self._flush()  # the strokes first
            self.project.keep_image(source, known.image)
            self._touch()
        self._tell("linked", {"key": key, "id": source})

    def _create(self, path: Path, classes: Classes) -> None:
        from dinoscope.project import Project

        old, self.project = self.project, Project.create(path, classes)
        self.ids = {}
        self._close(old)
        project = self.project
        self._tell("opened", {"project": project, "new": True})
        for key in list(self._images):
            self._link(key)

    def _open(self, path: Path) -> None:
        from dinoscope.project import Project

        project = Project.open(path)
        old, self.project = self.project, project
        self._close(old)
        self._forget()
        self._tell("opened", {"project": project, "new": False})

    def _forget(self) -> None:
        self.ids = {}
        for book in (self.book, self.objects):
            book.clear()
        with self._lock:
            self._images.clear()
            self._looks.clear()

    def _move(self, path: Path) -> None:
        from dinoscope.project import Project

        old = self.project
        if old is None:
            return
        if path.exists():
            raise InputError(f"{str(path)!r} exists", expected="a new name")
        if not old.read_only:
            old.compact()
        try:
            shutil.copytree(old.folder, path, ignore=shutil.ignore_patterns("lock*"))
        except OSError as error:
            raise OutputError(
                f"the project could not be copied to {str(path)!r} ({error})",
                hint="Choose another folder; the project is where it was.",
            ) from error
        self.project = Project.open(path)
        self._close(old)
        self._tell("moved", {"project": self.project})
        for key in list(self._images):
            self._link(key)
        self._catch_up()

    def _catch_up(self) -> None:
        """Write what was painted while nothing could be written."""
        for key, source in self.ids.items():
            for index in {i for _, i in self.book.planes(key)} | set(self.project.planes(source)):
                was = self.project.strokes(source, index)
                now = self.book.strokes(key, index)
                before = Strokes(was[0], was[1].astype(np.uint8))
                changed = difference(before, now.flat, now.codes)
                self._record(Change(key, index, *changed), STROKES)

    def take(self, key: str, source: str) -> None:
        """Bring what the project knows of an image into the books; for the thread, in `do`."""
        project = self.project
        self.ids[key] = source
        for index in project.planes(source):
            flat, codes = project.strokes(source, index)
            self.book.put(key, index, flat, codes.astype(np.uint8))
            found = project.objects(source, index)
            if len(found.flat):
                self.objects.put(key, index, found.flat, found.ids.astype(np.uint32))

    def _close_project(self) -> None:
        project, self.project = self.project, None
        self._close(project)

    def _close(self, project: Any) -> None:
        self._unsaved_since = None
        if project is not None:
            with contextlib.suppress(DinoscopeError, OSError):
                project.close()

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, DinoscopeError):
            error = OutputError(
                f"the annotations could not be saved ({type(error).__name__}: {error})",
                hint="Save the project in another folder: your strokes are still here.",
            )
        # Said once: a full disk would otherwise say so at each stroke.
        if not self._broken:
            self._tell("failed", {"error": error})
        self._broken = isinstance(error, OutputError)


def _bytes(image: ImageInput) -> int:
    return int(np.prod(image.shape, dtype=np.int64)) * np.dtype(image.data.dtype).itemsize


def _nothing() -> None:
    """What is done while there is nothing to do: time passes, and strokes are due."""
