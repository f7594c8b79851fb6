"""Any exception of a job as an error that the user can read and the window can receive."""

from __future__ import annotations

import sys
import traceback
from typing import Any

from dinoscope.errors import DinoscopeError, OutputError, WorkerError


def error_data(error: BaseException) -> dict[str, Any]:
    """The data of an ``error`` event; the traceback also goes to the log."""
    text = "".join(traceback.format_exception(error))
    print(text, file=sys.stderr)
    return {"error": explain(error), "traceback": text}


def explain(error: BaseException) -> DinoscopeError:
    """What went wrong as one of our own errors."""
    name, text = type(error).__name__, str(error)
    if isinstance(error, DinoscopeError):
        if type(error).__module__ == DinoscopeError.__module__:
            return error
        return WorkerError(error.what, expected=error.expected, hint=error.hint)
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return WorkerError(
            f"there was not enough memory ({text or name})",
            hint="Choose a smaller region, a smaller model, or the CPU as device.",
        )
    if isinstance(error, ImportError):
        return WorkerError(
            f"a library is missing or broken ({text})",
            hint="Install napari-dinoscope again in the environment that runs napari.",
        )
    if isinstance(error, OSError):
        place = f" {error.filename!r}" if error.filename else ""
        return OutputError(
            f"a file could not be read or written:{place} {error.strerror or text}".strip(),
            hint="Check that the disk has room and that the folder may be written to.",
        )
    return WorkerError(
        f"the worker failed ({name}: {text})", hint="The details are in the worker's log."
    )
