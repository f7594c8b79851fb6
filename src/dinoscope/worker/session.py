"""The folders of one client and its worker: blocks in memory, the log and kept maps on disk.

Both belong to the window's process, so that nothing stays behind when the worker is killed; what a
killed *napari* leaves is removed by the next one, which finds the folders' lock free.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

_PREFIX = "dinoscope-"
_LOCK = "lock"
_MEMORY_DISK = Path("/dev/shm")


class Session:
    """Makes the folders; :meth:`remove` takes them away.

    Attributes
    ----------
    blocks : tuple of Path
        Where hand-over files go, in the order of preference.
    work : Path
        On disk: kept maps, the pipe's address, and `log`.
    log : Path
        What the worker prints.
    """

    def __init__(self) -> None:
        disk = Path(tempfile.gettempdir())
        memory = _MEMORY_DISK if sys.platform == "linux" else disk
        for parent in {disk, memory}:
            remove_left_over(parent)
        self._locks: list[IO[bytes]] = []
        self.work = self._make(disk)
        self.log = self.work / "worker.log"
        self.log.touch()
        try:
            self.blocks = (self._make(memory), self.work) if memory != disk else (self.work,)
        except OSError:  # no memory disk here, or not for us
            self.blocks = (self.work,)

    def _make(self, parent: Path) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = (folder / _LOCK).open("wb")
        _try_lock(lock)
        self._locks.append(lock)
        return folder

    def log_tail(self, start: int = 0, lines: int = 12) -> str:
        """The last lines that the worker printed after byte `start` of the log."""
        try:
            with self.log.open("rb") as file:
                file.seek(start)
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.strip().splitlines()[-lines:])

    def remove(self) -> None:
        """Remove all folders; may be called again."""
        for lock in self._locks:
            lock.close()
        for folder in {self.work, *self.blocks}:
            shutil.rmtree(folder, ignore_errors=True)


def remove_left_over(parent: Path) -> None:
    """Remove the folders in `parent` whose owner died without removing them."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            with (folder / _LOCK).open("r+b") as lock:
                abandoned = _try_lock(lock)
        except OSError:  # another user's, or just being made or removed
            continue
        if abandoned:
            shutil.rmtree(folder, ignore_errors=True)


def _try_lock(file: IO[bytes]) -> bool:
    """Lock `file` until it is closed or the process ends; ``False`` where another holds it."""
    try:
        if os.name == "nt":
            msvcrt: Any = importlib.import_module("msvcrt")
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl: Any = importlib.import_module("fcntl")
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
