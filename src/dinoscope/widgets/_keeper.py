"""Keeps the strokes, and writes them to the project: in a thread of its own, never the window's.

The window hands over a copy of the plane that was painted on and goes on; what changed is found
out, journaled and told here. Nothing in this module knows Qt.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.errors import DinoscopeError, OutputError
from dinoscope.types import ImageInput
from dinoscope.widgets._strokebook import Change, PlaneKey, StrokeBook

#: A stroke is on the disk after this long at the latest, with room to the two seconds promised.
FLUSH_S = 1.0


@dataclass(frozen=True)
class KnownImage:
    """An image that is annotated: what it is, and its file where it has one."""

    image: ImageInput
    path: Path | None


class Keeper:
    """Owner of the stroke book and of the project.

    Parameters
    ----------
    tell : callable
        Called in the keeper's thread with the name of an event and its data: ``changed`` (`key`,
        `index`), ``recoded``, ``opened`` (`project`), ``linked`` (`key`, `id`), ``saved``,
        ``failed`` (`error`), or the name given to :meth:`do` (`value`).
    """

    def __init__(self, tell: Callable[[str, Mapping[str, Any]], None]) -> None:
        self.book = StrokeBook()
        #: The open project; read it elsewhere only for what never changes (path, read_only).
        self.project: Any = None
        #: Identifiers of the project's images, by key.
        self.ids: dict[str, str] = {}
        self._tell = tell
        self._images: dict[str, KnownImage] = {}
        self._looks: dict[PlaneKey, np.ndarray] = {}
        self._lock = threading.Lock()
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._unsaved_since: float | None = None
        self._broken = False
        self._thread: threading.Thread | None = None

    # -- from the window -----------------------------------------------------------------------

    def look(self, key: str, index: tuple[int, ...], plane: np.ndarray) -> None:
        """Find out what changed on a (Y, X) plane; it must not change any more."""
        with self._lock:
            waiting = (key, index) in self._looks
            self._looks[key, index] = plane
        if not waiting:  # else the newest is taken when it is its turn
            self._put(lambda: self._look(key, index))

    def know(self, key: str, image: ImageInput, path: Path | None) -> None:
        """An image is annotated from now on."""
        with self._lock:
            self._images[key] = KnownImage(image, path)
        self._put(lambda: self._link(key))

    def recode(self, table: np.ndarray, classes: list[dict[str, str]]) -> None:
        """Classes have other codes: send all strokes through a table."""

        def work() -> None:
            self._set_classes(classes)
            for change in self.book.recode(table):
                self._record(change)
            self._tell("recoded", {})

        self._put(work)

    def set_classes(self, classes: list[dict[str, str]]) -> None:
        """Classes have other names or colours."""
        self._put(lambda: self._set_classes(classes))

    def create(self, path: Path, classes: list[dict[str, str]]) -> None:
        """Begin a project with everything annotated so far; ``opened`` follows."""
        self._put(lambda: self._create(path, classes))

    def open(self, path: Path) -> None:
        """Open a project; its strokes replace those there are. ``opened`` follows."""
        self._put(lambda: self._open(path))

    def do(self, name: str, work: Callable[[Any], Any], **also: Any) -> None:
        """Do something with the project (``None`` without one); event `name` has the `value`."""
        self._put(lambda: self._tell(name, {"value": work(self.project), **also}))

    def link(self, key: str, identifier: str) -> None:
        """An image of the project is the one the window calls `key`; call it from :meth:`do`."""
        self.ids[key] = identifier

    def close(self, *, wait_s: float = 5.0) -> None:
        """Write what is unwritten and end."""
        thread = self._thread
        if thread is not None:
            self._tasks.put(None)
            thread.join(wait_s)

    def settle(self, timeout_s: float = 10.0) -> None:
        """Wait until all that was asked is done. Not for the window's thread."""
        done = threading.Event()
        self._put(done.set)
        if not done.wait(timeout_s):
            raise TimeoutError(f"the keeper is still busy after {timeout_s} s")

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

    def _look(self, key: str, index: tuple[int, ...]) -> None:
        with self._lock:
            plane = self._looks.pop((key, index))
        change = self.book.update(key, index, plane)
        if change is not None:
            self._tell("changed", {"key": key, "index": index})
            self._record(change)

    def _record(self, change: Change) -> None:
        source = self.ids.get(change.key)
        if self.project is None or self.project.read_only or source is None:
            return
        self.project.record(source, change.index, "strokes", change.flat, change.codes)
        self._touch()

    def _set_classes(self, classes: list[dict[str, str]]) -> None:
        if self.project is not None and not self.project.read_only:
            self.project.set_classes(classes)
            self._touch()

    def _touch(self) -> None:
        if self._unsaved_since is None:
            self._unsaved_since = time.monotonic()

    def _flush_when_due(self) -> None:
        since = self._unsaved_since
        if since is not None and time.monotonic() - since >= FLUSH_S / 2:
            self._flush()

    def _flush(self) -> None:
        if self.project is None or self._unsaved_since is None:
            return
        self._unsaved_since = None
        self.project.flush()
        if self._broken:
            self._broken = False
        self._tell("saved", {})

    def _link(self, key: str) -> None:
        """Make an image part of the project, with the strokes it has already."""
        known = self._images.get(key)
        if self.project is None or known is None or key in self.ids:
            return
        if self.project.read_only:
            return
        identifier = self.project.add_source(known.image, known.path)
        identifier = getattr(identifier, "id", identifier)
        self.ids[key] = identifier
        for _, index in self.book.planes(key):
            now = self.book.strokes(key, index)
            self._record(Change(key, index, now.flat, now.codes))
        self._touch()
        self._tell("linked", {"key": key, "id": identifier})

    def _create(self, path: Path, classes: list[dict[str, str]]) -> None:
        from dinoscope.project import Project

        self._close_project()
        self.project = Project.create(path, classes)
        self.ids = {}
        self._tell("opened", {"project": self.project, "new": True})
        for key in list(self._images):
            self._link(key)

    def _open(self, path: Path) -> None:
        from dinoscope.project import Project

        project = Project.open(path)
        self._close_project()
        self.project, self.ids = project, {}
        for key, _ in self.book.planes():
            self.book.forget(key)
        with self._lock:
            self._images.clear()
            self._looks.clear()
        self._tell("opened", {"project": project, "new": False})

    def _close_project(self) -> None:
        project, self.project = self.project, None
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


def _nothing() -> None:
    """What is done while there is nothing to do: time passes, and strokes are due."""
