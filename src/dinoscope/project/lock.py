"""Who writes to a project: one window at a time, others may look.

The system's own file lock ends with the process that holds it, so one that was killed leaves none
behind. The file beside it says who it is, for the message in the second window, and is looked at
where a network disk has no locks: there, a holder that has not been heard of for `STALE_S` is taken
for dead.
"""

from __future__ import annotations

import contextlib
import getpass
import importlib
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from dinoscope.arrays.output import output_error
from dinoscope.errors import OutputError

#: A holder on another machine that has been silent for so long is taken for dead.
STALE_S = 600.0


@dataclass(frozen=True)
class Holder:
    """Who holds a lock."""

    pid: int
    host: str
    user: str
    since: float

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.since))
        return f"process {self.pid} of {self.user} on {self.host}, since {when}"


class Lock:
    """An exclusive lock on a folder, by a file in it.

    Attributes
    ----------
    holder : Holder or None
        Who has it, where that is not us.
    recovered : Holder or None
        Who had it before and died without giving it back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.holder: Holder | None = None
        self.recovered: Holder | None = None
        self._file: IO[bytes] | None = None

    @property
    def held(self) -> bool:
        """Whether it is ours."""
        return self._file is not None

    def take(self) -> bool:
        """Try to get it; ``False`` where somebody else has it (`holder` says who).

        Raises
        ------
        OutputError
            The file cannot be written at all.
        """
        try:
            file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise output_error(self.path, error) from error
        before, age = self._read(file)
        free = _lock(file)
        if free is False or (free is None and _lives(before, age)):
            self.holder = before or Holder(0, "an unknown machine", "somebody", time.time())
            file.close()
            return False
        if before is not None and before != _me(before.since):
            self.recovered = before
        self._file = file
        self._write()
        return True

    def beat(self) -> None:
        """Show that we are alive, for holders that cannot see our process."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def give(self) -> None:
        """Give it back; may be called again."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            self._file.truncate(0)
        self._file.close()
        self._file = None

    def _write(self) -> None:
        if self._file is None:
            return
        try:
            self._file.truncate(0)
            self._file.write(json.dumps(asdict(_me(time.time()))).encode())
        except OSError as error:
            self._file.close()
            self._file = None
            raise output_error(self.path, error) from error

    def _read(self, file: IO[bytes]) -> tuple[Holder | None, float]:
        """Who is named in the file, and how long ago it was touched."""
        try:
            file.seek(0)
            holder = Holder(**json.loads(file.read()))
            return holder, time.time() - os.fstat(file.fileno()).st_mtime
        except (OSError, ValueError, TypeError):
            return None, 0.0


def _me(since: float) -> Holder:
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without a user table
        user = "somebody"
    return Holder(os.getpid(), socket.gethostname(), user, since)


def _lives(holder: Holder | None, age_s: float) -> bool:
    """Whether the process that a file names is still there, where the system has no locks."""
    if holder is None:
        return False
    if holder.host != socket.gethostname():
        return age_s < STALE_S
    if os.name == "nt":  # os.kill would end the process there
        return age_s < STALE_S
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return holder.pid != os.getpid()


def _lock(file: IO[bytes]) -> bool | None:
    """``True`` it is ours, ``False`` somebody has it, ``None`` this disk has no locks."""
    try:
        if os.name == "nt":
            msvcrt: Any = importlib.import_module("msvcrt")
            # Far behind the text, which others must be able to read.
            file.seek(2**20)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl: Any = importlib.import_module("fcntl")
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def need_lock(path: Path, what: str) -> Lock:
    """A lock that must be had.

    Raises
    ------
    OutputError
        Somebody has it; the text says who.
    """
    lock = Lock(path)
    if not lock.take():
        raise OutputError(f"{what} by {lock.holder}", hint="Wait until it is done, or end it.")
    return lock
