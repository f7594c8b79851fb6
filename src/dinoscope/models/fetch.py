"""Fetch one file over HTTP, with progress, resume and patience; standard library and certifi."""

from __future__ import annotations

import contextlib
import errno
import http.client
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from dinoscope import __version__
from dinoscope.errors import OutputError
from dinoscope.types import Progress

CHUNK_BYTES = 256 * 1024
TIMEOUT_S = 30.0
#: Attempts in a row that bring nothing before it is given up, and the pause between them.
ATTEMPTS = 4
PAUSE_S = 1.0


def fetch(
    url: str,
    part: Path,
    size: int,
    *,
    label: str,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Complete the file `part` up to `size` bytes; bytes that are there are not fetched again.

    Raises
    ------
    ConnectionError
        The server cannot be reached, refuses, or keeps breaking off; `part` is kept.
    OutputError
        The folder cannot be written or has too little room; `part` is kept.
    """
    have = _prepare(part, size)
    report = _Reporter(label, have, size, progress)
    idle = 0
    while have < size:
        reason = "the server sent nothing"
        try:
            _append(url, part, have, size, report)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in (
                errno.ENOSPC,
                errno.EACCES,
                errno.EROFS,
            ):
                raise _unwritable(part, error) from error
            reason = str(error) or type(error).__name__
            if isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 404):
                raise ConnectionError(reason) from error
        now = part.stat().st_size
        idle = 0 if now > have else idle + 1
        have = now
        if idle >= ATTEMPTS:
            raise ConnectionError(reason)
        if have < size:
            time.sleep(PAUSE_S)


def _prepare(part: Path, size: int) -> int:
    """Bytes that are there already, after making sure that the rest has room."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        have = part.stat().st_size
        if have > size:
            part.write_bytes(b"")
            have = 0
        free = shutil.disk_usage(part.parent).free
    except OSError as error:
        raise _unwritable(part, error) from error
    if free < size - have:
        raise OutputError(
            f"{part.parent} has {free / 2**20:.0f} MB free",
            expected=f"at least {(size - have) / 2**20:.0f} MB for the download",
            hint="Free some room, or set DINOSCOPE_CACHE to a folder on another disk.",
        )
    return have


def _unwritable(part: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{part.parent} cannot be written ({error})",
        hint="Set DINOSCOPE_CACHE to a folder that can.",
    )


def _append(url: str, part: Path, start: int, size: int, report: _Reporter) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": f"dinoscope/{__version__}"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=_tls()) as answer:
        resumed = start > 0 and answer.status == 206
        with part.open("ab" if resumed else "wb") as file:
            report.done = start if resumed else 0
            _copy(answer, file, size, report)


def _copy(answer: http.client.HTTPResponse, file: BinaryIO, size: int, report: _Reporter) -> None:
    while report.done < size:
        block = answer.read1(min(CHUNK_BYTES, size - report.done))
        if not block:
            return
        file.write(block)
        report.add(len(block))


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    # Python from python.org on macOS brings no certificates; certifi comes with huggingface_hub.
    with contextlib.suppress(ImportError):
        import certifi

        context.load_verify_locations(certifi.where())
    return context


class _Reporter:
    """Turns bytes into `Progress`, at most ten times a second."""

    def __init__(
        self, label: str, done: int, total: int, progress: Callable[[Progress], None] | None
    ) -> None:
        self.label, self.done, self.total, self.progress = label, done, total, progress
        self.started, self.first = time.monotonic(), done
        self.last = 0.0

    def add(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if self.progress is None or (self.done < self.total and now - self.last < 0.1):
            return
        self.last = now
        rate = (self.done - self.first) / max(now - self.started, 1e-6)
        left = (self.total - self.done) / rate if rate > 0 else None
        megabytes = f"{self.done / 1e6:.0f} of {self.total / 1e6:.0f} MB"
        self.progress(
            Progress("download", self.done, self.total, left, f"{self.label}: {megabytes}")
        )
