"""What the window's process and the worker say to each other, and how arrays travel.

A message is ``(verb, job, body)``. Verbs of the client: ``job``, ``cancel``, ``pixels``; of the
worker: ``started``, ``read``, ``warm`` and the kinds of :class:`Event`. Bodies are plain values and
the dataclasses of :mod:`dinoscope.types` and :mod:`dinoscope.config`; their arrays never go through
the pipe but through a *block*: one file for one message in a folder that lives in memory
(``/dev/shm``) where the system has one. The receiver removes a block when it has read it.

Plain reads and writes are used instead of :mod:`multiprocessing.shared_memory` because a full
memory disk (64 MB in a container) then is an :class:`OSError` rather than a bus error that takes
napari along, and because a folder can be emptied after a crash on every system without a tracker
process. They are as fast: one copy in, one copy out.
"""

from __future__ import annotations

import io
import itertools
import os
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.errors import OutputError, WorkerError

#: Bodies whose arrays are smaller than this travel inside the message.
INLINE_BYTES = 32 * 1024
#: So many unread blocks of one sender make it wait: a slow reader must not fill the memory disk.
BLOCKS_IN_FLIGHT = 4

#: The events that end a job; every job ends in exactly one of them.
TERMINAL = ("done", "error", "cancelled")

#: Modules whose names may occur in a message. Anything else would import code (in the end torch)
#: into the window's process just by being received.
_KNOWN_MODULES = (
    "dinoscope.types",
    "dinoscope.config",
    "dinoscope.errors",
    "dinoscope.worker.protocol",
    "collections",
    "numpy",
    "pathlib",
)
_KNOWN_BUILTINS = {"Ellipsis", "bytearray", "complex", "frozenset", "range", "set", "slice"}


def travels(module: str) -> bool:
    """Whether values of a module's classes may occur in a message."""
    return any(module == known or module.startswith(known + ".") for known in _KNOWN_MODULES)


@dataclass(frozen=True)
class Event:
    """Something that happened to a job, or to the worker itself.

    Parameters
    ----------
    kind : str
        ``progress``, ``plane``, ``done``, ``error`` or ``cancelled`` for a job; ``state`` for the
        worker.
    data : dict
        Plain values and arrays that belong to the receiver.
    """

    kind: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageHeader:
    """What the worker knows of an image before it asks for pixels."""

    shape: tuple[int, ...]
    dtype: str
    axes: str
    pixel_size_um: dict[str, float]
    name: str


@dataclass(frozen=True)
class Packed:
    """A body on its way: a small pickle and the memory of its arrays."""

    head: bytes
    sizes: tuple[int, ...] = ()
    inline: tuple[bytes, ...] = ()
    path: str = ""

    def to_wire(self) -> tuple[Any, ...]:
        """The parts as builtins, in the order of the constructor."""
        return (self.head, self.sizes, self.inline, self.path)

    def discard(self) -> None:
        """Remove the block of a body that nobody will read."""
        if self.path:
            Path(self.path).unlink(missing_ok=True)


class Blocks:
    """Writes the hand-over files of one sender.

    Parameters
    ----------
    folders : sequence of Path
        Where to write; the next one is used where the one before has no room left.
    prefix : str
        Begins the file names of this sender; unique among the senders of a session.
    """

    def __init__(self, folders: Sequence[Path], prefix: str) -> None:
        self._folders = tuple(folders)
        self._prefix = prefix
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._written: list[Path] = []

    def write(self, buffers: Sequence[memoryview]) -> Path:
        """Write `buffers` one after the other into a new file.

        Raises
        ------
        OutputError
            No folder has room for them.
        """
        name = f"{self._prefix}{next(self._numbers)}"
        problem = OSError("no folder was given")
        for folder in self._folders:
            path = folder / name
            try:
                with path.open("wb", buffering=0) as file:
                    for buffer in buffers:
                        _write_whole(file, buffer)
            except OSError as error:
                problem = error
                path.unlink(missing_ok=True)
            else:
                self.unread()
                with self._lock:
                    self._written.append(path)
                return path
        size_mb = sum(buffer.nbytes for buffer in buffers) / 1e6
        raise OutputError(
            f"{size_mb:.0f} MB could not be handed over between napari and the worker ({problem})",
            hint="Free some memory or disk space, or work on a smaller region.",
        ) from problem

    def unread(self) -> int:
        """How many blocks the receiver has not taken yet."""
        with self._lock:
            self._written = [path for path in self._written if path.exists()]
            return len(self._written)

    def wait_for_room(self, check: Callable[[], None]) -> None:
        """Return when few enough blocks are unread; `check` is called meanwhile and may raise."""
        while self.unread() >= BLOCKS_IN_FLIGHT:
            check()
            time.sleep(0.005)


def _write_whole(file: io.FileIO, buffer: memoryview) -> None:
    """Write all of `buffer`: the system takes at most 2 GiB at a time."""
    done = 0
    while done < buffer.nbytes:
        done += file.write(buffer[done : done + (1 << 30)]) or 0


class _Pickler(pickle.Pickler):
    """Leaves every array's memory outside, also that of strided and read-only ones."""

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, np.ndarray) or obj.dtype.hasobject:
            return NotImplemented
        contiguous = obj.flags.c_contiguous or obj.flags.f_contiguous
        if contiguous and obj.flags.writeable and type(obj) is np.ndarray:
            return NotImplemented
        # A view or a memory map would be pickled by value; a read-only one would arrive read-only.
        return np.array(obj, subok=False).__reduce_ex__(5)


class _Unpickler(pickle.Unpickler):
    """Refuses names that would import anything but plain values."""

    def find_class(self, module: str, name: str) -> Any:
        if travels(module) or (module == "builtins" and name in _KNOWN_BUILTINS):
            return super().find_class(module, name)
        raise WorkerError(
            f"a message between napari and the worker contains {module}.{name}",
            expected="plain values, arrays and dinoscope's own types",
        )


def pack(body: Any, blocks: Blocks) -> Packed:
    """Take `body` apart into a small head and the memory of its arrays.

    Raises
    ------
    OutputError
        There is no room for the arrays.
    """
    stream = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(body)
    views = [buffer.raw() for buffer in buffers]
    sizes = tuple(view.nbytes for view in views)
    if sum(sizes) <= INLINE_BYTES:
        return Packed(stream.getvalue(), sizes, tuple(bytes(view) for view in views))
    return Packed(stream.getvalue(), sizes, (), str(blocks.write(views)))


def unpack(packed: Packed) -> Any:
    """Put a body together again; its arrays own their memory and its block is removed.

    Raises
    ------
    WorkerError
        The block is gone (its sender was killed) or the head names foreign types.
    """
    buffers: list[Any] = [bytearray(part) for part in packed.inline]
    if packed.path:
        try:
            with open(packed.path, "rb", buffering=0) as file:
                buffers = [_read_whole(file, size) for size in packed.sizes]
        except OSError as error:
            raise WorkerError(f"data of the worker could not be read ({error})") from error
        finally:
            packed.discard()
    return _Unpickler(io.BytesIO(packed.head), buffers=buffers).load()


def _read_whole(file: io.FileIO, size: int) -> np.ndarray:
    buffer = np.empty(size, np.uint8)
    view, done = buffer.data, 0
    while done < size:
        count = file.readinto(view[done : done + (1 << 30)])
        if not count:
            raise OSError(f"{file.name!r} ends after {done} of {size} bytes")
        done += count
    return buffer


def remove_blocks(folders: Sequence[Path], serial: int) -> None:
    """Remove the blocks to and from worker number `serial`, which is dead."""
    for folder in folders:
        for name in os.listdir(folder) if folder.is_dir() else ():
            if name.startswith((client_prefix(serial), worker_prefix(serial))):
                (folder / name).unlink(missing_ok=True)


def client_prefix(serial: int) -> str:
    """Begins the names of blocks for worker number `serial`."""
    return f"to{serial}-"


def worker_prefix(serial: int) -> str:
    """Begins the names of blocks from worker number `serial`."""
    return f"from{serial}-"
