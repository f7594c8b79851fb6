"""What a command tells: progress and errors on stderr, results or one JSON document on stdout."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any, TextIO

from dinoscope import __version__
from dinoscope.errors import DinoscopeError

#: Seconds between two lines of progress where stderr is a file or a pipe.
SPARSE_S = 10.0
#: Seconds between two refreshes of the line on a terminal.
REFRESH_S = 0.1


class Report:
    """The voice of one command.

    Parameters
    ----------
    command : str
        Name of the command, kept in the document.
    as_json : bool
        Print one JSON document at the end instead of lines of text.
    debug : bool
        Print tracebacks of errors.
    """

    def __init__(
        self,
        command: str = "",
        *,
        as_json: bool = False,
        debug: bool = False,
        out: TextIO | None = None,
        err: TextIO | None = None,
    ) -> None:
        self.as_json = as_json
        self.debug = debug
        self.document: dict[str, Any] = {"command": command, "version": __version__}
        self.errors: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self._out = out if out is not None else sys.stdout
        self._err = err if err is not None else sys.stderr
        self._live = self._err.isatty()
        self._line_open = False
        self._last = time.monotonic()
        self._last_step = ""

    def mute(self) -> None:
        """Say nothing from now on: another process of the same command speaks."""
        self._out = self._err = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - to the end
        self._live = False

    def progress(
        self, step: str, done: int, total: int, seconds_left: float | None = None, text: str = ""
    ) -> None:
        """Show how far a step has come: one line that is rewritten, or a line now and then."""
        now = time.monotonic()
        finished = total > 0 and done >= total
        wait = REFRESH_S if self._live else SPARSE_S
        new_step = self._live and step != self._last_step
        if now - self._last < wait and not (self._live and finished) and not new_step:
            return
        self._last, self._last_step = now, step
        line = f"{step} {done}/{total}" if total else step
        if seconds_left is not None and not finished:
            line += f", {duration(seconds_left)} left"
        if text:
            line += f", {text}"
        if not self._live:
            print(line, file=self._err, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1
        self._err.write(f"\r\x1b[2K{line[:width]}")
        self._err.flush()
        self._line_open = True

    def _clear(self) -> None:
        if self._line_open:
            self._err.write("\r\x1b[2K")
            self._line_open = False

    def say(self, line: str) -> None:
        """A line on stderr."""
        self._clear()
        print(line, file=self._err, flush=True)

    def note(self, text: str) -> None:
        """Something the user should know; once each, in the document too."""
        if text not in self.notes:
            self.notes.append(text)
            self.say(f"note: {text}")

    def result(self, line: str) -> None:
        """A line on stdout; left out where a JSON document is printed."""
        self._clear()
        if not self.as_json:
            self._write(f"{line}\n")

    def _write(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()
        except BrokenPipeError:
            # The reader (head, less) has had enough; the work goes on, and Python must not
            # complain once more when it closes the pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())

    def error(self, error: BaseException, source: str = "") -> dict[str, Any]:
        """One readable line on stderr (and the traceback with ``--debug``); returns its record."""
        message = error_text(error)
        if source and source not in message:
            message = f"{source}: {message}"
        self.say(f"dinoscope: error: {message}")
        if self.debug:
            traceback.print_exception(error, file=self._err)
        elif not isinstance(error, DinoscopeError | OSError | MemoryError | KeyboardInterrupt):
            self.say("dinoscope: run again with --debug for the traceback.")
        record: dict[str, Any] = {"type": type(error).__name__, "message": message}
        if source:
            record["image"] = source
        self.errors.append(record)
        return record

    def finish(self, status: int) -> None:
        """Print the JSON document, once."""
        self._clear()
        if not self.as_json:
            return
        self.document["exit_status"] = status
        self.document["notes"] = self.notes
        self.document["errors"] = self.errors
        self._write(json.dumps(plain(self.document), indent=2, allow_nan=False) + "\n")


def error_text(error: BaseException) -> str:
    """The text of any error as one line."""
    if isinstance(error, DinoscopeError):
        text = str(error)
    elif isinstance(error, KeyboardInterrupt):
        text = "stopped by the user; files already written are whole."
    elif isinstance(error, MemoryError):
        text = "not enough memory. Close other programs, or give fewer --channel."
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename or 'file'}: {error.strerror}."
    else:
        text = f"unexpected {type(error).__name__}: {error}"
    return " ".join(text.split())


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    whole = max(0, math.ceil(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def plain(value: Any) -> Any:
    """The same value in types that JSON knows; numbers that are not finite become ``null``."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)
