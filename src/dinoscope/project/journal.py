"""The append-only file of a project: a change is on disk before the call returns."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

from dinoscope.arrays.output import output_error
from dinoscope.errors import InputError, OutputError
from dinoscope.project.records import Found, Record, encode, scan


class Journal:
    """Appends records; a process that is killed loses none of them.

    Each record is handed to the system at once (so a crash of this program loses nothing);
    :meth:`flush` waits until the disk has it (so that a power cut does not either). A disk that is
    full leaves no half record behind: what could not be written waits in memory and goes first next
    time.

    Parameters
    ----------
    path : Path
        The file; made where there is none.
    end : int
        Where its last whole record ends: what follows it (a write that was cut off) is cut away.
    """

    def __init__(self, path: Path, end: int = 0) -> None:
        self.path = path
        self._waiting: deque[bytes] = deque()
        self._end = end
        self._dirty = False
        try:
            self._file = path.open("ab", buffering=0)
            if os.fstat(self._file.fileno()).st_size != end:
                os.ftruncate(self._file.fileno(), end)
        except OSError as error:
            raise output_error(path, error) from error

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._end

    @property
    def waiting(self) -> int:
        """Records that the disk has not taken yet."""
        return len(self._waiting)

    def append(self, record: Record) -> int:
        """Write a record; returns its bytes.

        Raises
        ------
        OutputError
            The disk is full or has gone. The record is kept in memory and written with the next
            one, or by :meth:`flush`.
        """
        data = encode(record)
        self._waiting.append(data)
        self._write()
        return len(data)

    def _write(self) -> None:
        while self._waiting:
            data = self._waiting[0]
            try:
                done = 0
                while done < len(data):
                    done += os.write(self._file.fileno(), memoryview(data)[done:])
            except OSError as error:
                self._cut()
                told = output_error(self.path, error)
                raise OutputError(
                    told.what,
                    hint=f"{told.hint} What you painted is kept in memory and is written as soon "
                    "as there is room: do not close the window before.".strip(),
                ) from error
            self._waiting.popleft()
            self._end += len(data)
            self._dirty = True

    def _cut(self) -> None:
        """Take away the part of a record that was written before the disk was full."""
        try:
            os.ftruncate(self._file.fileno(), self._end)
        except OSError:  # the reader skips a record that is cut off
            return

    def flush(self) -> None:
        """Return when everything is on the disk itself.

        Raises
        ------
        OutputError
            The disk is full or has gone.
        """
        self._write()
        if not self._dirty:
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise output_error(self.path, error) from error
        self._dirty = False

    def close(self) -> None:
        """Flush and close; may be called again."""
        if self._file.closed:
            return
        try:
            self.flush()
        finally:
            self._file.close()


def read_journal(path: Path) -> Found:
    """What is whole in a journal; nothing where there is none.

    Raises
    ------
    InputError
        It cannot be read.
    """
    try:
        return scan(path.read_bytes())
    except FileNotFoundError:
        return Found()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or error})",
            hint="Are its folder and disk there?",
        ) from error
