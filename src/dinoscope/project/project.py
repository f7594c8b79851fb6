"""The project folder ``NAME.dinoproject/`` as one object."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any

from dinoscope.errors import OutputError
from dinoscope.project import rounds as history
from dinoscope.project.annotations import PlaneAnnotations
from dinoscope.project.journal import Journal, read_journal
from dinoscope.project.lock import Lock
from dinoscope.project.records import Record
from dinoscope.project.references import ImageRef
from dinoscope.project.rounds import Round
from dinoscope.project.snapshot import (
    Snapshot,
    journal_file,
    make_folder,
    read_snapshot,
    read_values,
    remove_left_over,
    sync_folder,
    write_snapshot,
)
from dinoscope.project.state import (
    ClassEntry,
    Index,
    PlaneState,
    State,
    class_entries,
    class_values,
)

LOCK = "lock"


class Project(PlaneAnnotations):
    """Annotations, classes, images and rounds in a folder that survives a crash at any moment.

    Every change is appended to a journal before the call returns; :meth:`flush` (call it at least
    every two seconds) makes that last through a power cut. :meth:`compact` turns the journal into
    TIFF files and ``project.json``. Use it as a context manager, or call :meth:`close`.

    Made by :meth:`create` and :meth:`open`.

    Attributes
    ----------
    folder : Path
        The project's folder.
    read_only : bool
        Whether changes are refused, because another window has the project or it was asked for.
    read_only_reason : str
        Why, for the user; empty where it is not.
    notes : list of str
        What was found at opening: a lock that a killed program left, a write that was cut off,
        damaged parts that were left out.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from dinoscope.types import ImageInput
    >>> image = ImageInput(np.zeros((8, 8), np.uint8), "YX", name="cells")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Project.create(f"{folder}/a.dinoproject", ["background", "cell"]) as project:
    ...         cells = project.add_source(image)
    ...         _ = project.record(cells, (), "paint", np.array([9, 10]), 2)
    ...         project.strokes(cells, ())[0].tolist()
    [9, 10]
    """

    def __init__(self, folder: Path, snapshot: Snapshot, lock: Lock | None) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self.read_only_reason = ""
        self._snapshot = snapshot
        self._lock = lock
        self._journal: Journal | None = None
        self._changed: set[tuple[str, Index, str]] = set()
        self._guard = RLock()

    # Opening and closing

    @classmethod
    def create(cls, path: str | Path, classes: Sequence[Any] = ("background", "object")) -> Project:
        """Make a project in a new folder.

        Parameters
        ----------
        path : path
            ``NAME.dinoproject``.
        classes : sequence
            Names or ``(name, colour)``, the background first.

        Raises
        ------
        InputError
            Something is there already, or the classes cannot be used.
        OutputError
            It cannot be written.
        """
        folder = Path(path).expanduser().resolve()
        entries = class_entries(classes)
        make_folder(folder)
        created = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        snapshot = Snapshot(0, created, State(classes=entries))
        write_snapshot(folder, snapshot, set())
        return cls.open(folder)

    @classmethod
    def open(cls, path: str | Path, read_only: bool | None = None) -> Project:
        """Open a project; where another window has it, to look at only.

        Parameters
        ----------
        path : path
            The project's folder.
        read_only : bool, optional
            ``True``: do not try to get it for writing. ``False``: raise where it cannot be had.

        Raises
        ------
        InputError
            It does not exist, is no project, is damaged, or was made by a newer version.
        OutputError
            `read_only` is false and another window has it.
        """
        folder = Path(path).expanduser().resolve()
        read_values(folder)
        lock, reason = (None, "It was opened to be looked at.") if read_only else _take(folder)
        if reason and read_only is False:
            raise OutputError(
                f"{folder} cannot be changed: {reason}", hint="Close it there, or open a copy."
            )
        try:
            project = cls._load(folder, lock)
        except BaseException:
            if lock is not None:
                lock.give()
            raise
        project.read_only_reason = reason
        if lock is not None and lock.recovered is not None:
            project.notes.append(f"It was not closed by {lock.recovered}; nothing of it is lost.")
        return project

    @classmethod
    def _load(cls, folder: Path, lock: Lock | None) -> Project:
        for _ in range(4):  # a writer may compact while we read
            snapshot = read_snapshot(folder)
            found = read_journal(journal_file(folder, snapshot.generation))
            if lock is not None or read_values(folder)["generation"] == snapshot.generation:
                break
        project = cls(folder, snapshot, lock)
        project.notes += snapshot.problems
        unread = 0
        for record in found.records:
            try:
                snapshot.state.apply(record)
            except (ValueError, KeyError, TypeError, IndexError):
                unread += 1
            project._note_change(record.header)
        if found.damaged or unread:
            project.notes.append(
                f"{found.damaged + unread} damaged parts of the journal were left out; "
                "all others are there."
            )
        if found.torn and lock is not None:
            project.notes.append("The last change was being written when the program was ended.")
        if lock is not None:
            if found.damaged:  # kept for whoever wants to look; the snapshot takes over
                _keep_damaged(journal_file(folder, snapshot.generation))
            project._journal = Journal(journal_file(folder, snapshot.generation), found.end)
            sync_folder(folder)
            remove_left_over(folder, snapshot)
        return project

    def close(self) -> None:
        """Write what is left and let others have it; may be called again.

        Raises
        ------
        OutputError
            The last changes could not be written.
        """
        with self._guard:
            journal, self._journal = self._journal, None
            try:
                if journal is not None:
                    journal.flush()
                    if journal.size:
                        self._journal = journal
                        self.compact()
                        journal, self._journal = self._journal, None
            finally:
                self._journal = None
                if journal is not None:
                    journal.close()
                if self._lock is not None:
                    self._lock.give()
                self.read_only_reason = self.read_only_reason or "It was closed."

    def __enter__(self) -> Project:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def read_only(self) -> bool:
        """Whether changes are refused."""
        return self._journal is None

    @property
    def name(self) -> str:
        """The folder's name without its ending."""
        return self.folder.stem

    # Writing

    def flush(self) -> None:
        """Return when every change is on the disk itself; cheap where there was none.

        Raises
        ------
        OutputError
            The disk is full or has gone; changes wait in memory.
        """
        with self._guard:
            if self._journal is not None:
                self._journal.flush()
            if self._lock is not None:
                self._lock.beat()

    def compact(self) -> None:
        """Turn the journal into TIFF files and ``project.json``, and begin an empty one.

        Raises
        ------
        OutputError
            The disk is full or has gone; everything is as it was.
        """
        with self._guard:
            journal = self._need_journal()
            journal.flush()
            write_snapshot(self.folder, self._snapshot, self._changed)
            self._journal = Journal(journal_file(self.folder, self._snapshot.generation))
            journal.close()
            self._changed.clear()
            remove_left_over(self.folder, self._snapshot)

    @property
    def journal_bytes(self) -> int:
        """Bytes of the journal since it was last compacted."""
        return 0 if self._journal is None else self._journal.size

    def _change(self, header: Mapping[str, Any], blob: bytes = b"") -> int:
        """Apply a change and append it; returns its bytes."""
        with self._guard:
            journal = self._need_journal()
            record = Record(header, blob)
            self._snapshot.state.apply(record)
            self._note_change(header)
            return journal.append(record)

    def _note_change(self, header: Mapping[str, Any]) -> None:
        if header.get("op") == "paint":
            index = tuple(int(i) for i in header["index"])
            self._changed.add((str(header["source"]), index, str(header["layer"])))

    def _need_writable(self) -> None:
        self._need_journal()

    def _need_journal(self) -> Journal:
        if self._journal is None:
            raise OutputError(
                f"project {self.name!r} cannot be changed: {self.read_only_reason}",
                hint="Close it in the other window, or work on a copy.",
            )
        return self._journal

    # Classes and settings

    @property
    def classes(self) -> list[ClassEntry]:
        """Names and colours; the code of a class in layers is its place + 1."""
        return list(self._snapshot.state.classes)

    def set_classes(self, classes: Sequence[Any]) -> None:
        """Rename, colour or add classes: names, ``(name, colour)`` or entries, in code order.

        Raises
        ------
        InputError
            They cannot be used.
        """
        entries = class_entries(classes)
        if entries != self.classes:
            self._change({"op": "classes", "classes": class_values(entries)})

    @property
    def settings(self) -> dict[str, Any]:
        """What the panel remembers: the model, the brush …"""
        return dict(self._snapshot.state.settings)

    def set_settings(self, **values: Any) -> None:
        """Remember plain values."""
        if any(self.settings.get(name) != value for name, value in values.items()):
            self._change({"op": "settings", "value": values})

    # Images and planes (see ProjectImages, PlaneAnnotations)

    @property
    def sources(self) -> dict[str, ImageRef]:
        """The images by their ids."""
        return dict(self._snapshot.state.sources)

    def _plane(self, source: str, index: Sequence[int]) -> PlaneState:
        self.source(source)
        key = (source, tuple(int(i) for i in index))
        return self._snapshot.state.planes.get(key, PlaneState())

    def planes(self, source: str) -> list[Index]:
        """Planes of an image that anything was annotated on."""
        self.source(source)
        return [index for index, _ in self._snapshot.state.of(source)]

    # Rounds

    @property
    def rounds(self) -> list[Round]:
        """Every round of improvement, the first one first."""
        return history.read_rounds(self.folder)

    @property
    def current_round(self) -> int:
        """The round whose model is in use; 0 = the model that the project began with."""
        return history.current_round(self.folder)

    def use_round(self, number: int) -> None:
        """Return to an earlier round (0 = before the first), or go on to a later one.

        Raises
        ------
        InputError
            There is no such round, or it has no model.
        OutputError
            The project is open to be looked at only, or cannot be written.
        """
        self._need_journal()
        history.use_round(self.folder, number)

    def model(self, number: int | None = None) -> Path | None:
        """The model file of a round (by default of the one in use); ``None`` where it has none."""
        number = self.current_round if number is None else number
        return history.model_file(self.folder, number) if number else None


@contextmanager
def opened(path: str | Path) -> Iterator[Project]:
    """A project to look at, closed at the end."""
    project = Project.open(path, read_only=True)
    try:
        yield project
    finally:
        project.close()


def _take(folder: Path) -> tuple[Lock | None, str]:
    """The lock, or why there is none."""
    lock = Lock(folder / LOCK)
    try:
        if lock.take():
            return lock, ""
    except OutputError as error:
        return None, f"its folder cannot be written to ({error})"
    return None, f"it is open in another window ({lock.holder})"


def _keep_damaged(path: Path) -> None:
    copy = path.with_name(f"damaged-{path.name}")
    if not copy.exists():
        copy.write_bytes(path.read_bytes())
