"""Encoded planes that are kept between questions: in memory up to a limit, then on disk."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dinoscope.errors import OutputError

#: Encoded planes in memory, in MB; 1000 planes of 518² with tokens of 384 channels.
MEMORY_MB = 1500


@dataclass(frozen=True)
class EncodedPlane:
    """What is kept of a plane.

    `tokens` (h·w, D) float16, row by row of the patch grid; `cls_token` (E,) float32; `guide`
    (Y, X) uint8, the grey image that overlays are sharpened along. Arrays may be memory maps.
    """

    tokens: np.ndarray
    cls_token: np.ndarray
    guide: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.tokens.nbytes + self.cls_token.nbytes + self.guide.nbytes


class TokenStore:
    """Planes by key. What is held stays until it is released; the rest goes when room is needed.

    Parameters
    ----------
    folder : Path, optional
        Where planes go that memory has no room for; a temporary one when not given.
    memory_mb : float
        Memory that planes may take.
    """

    def __init__(self, folder: Path | None = None, memory_mb: float = MEMORY_MB) -> None:
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="dinoscope-tokens-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._folder = folder
        self._limit = int(memory_mb * 1e6)
        self._planes: OrderedDict[str, EncodedPlane] = OrderedDict()
        self._on_disk: set[str] = set()
        self._held: Counter[str] = Counter()
        self._lock = threading.RLock()
        #: The zoom of images whose objects were measured for it.
        self.zooms: dict[Hashable, float] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._planes or key in self._on_disk

    @property
    def memory_bytes(self) -> int:
        """What planes take in memory now."""
        return sum(plane.nbytes for plane in self._planes.values())

    def put(self, key: str, plane: EncodedPlane) -> None:
        """Keep a plane; others make room for it.

        Raises
        ------
        OutputError
            The disk is full.
        """
        with self._lock:
            self._planes[key] = plane
            self._planes.move_to_end(key)
            self._make_room(key)

    def get(self, key: str) -> EncodedPlane:
        """The plane of `key`.

        Raises
        ------
        KeyError
            It was never kept, or not held and made room for others.
        """
        with self._lock:
            if key in self._planes:
                self._planes.move_to_end(key)
                return self._planes[key]
            if key in self._on_disk:
                names = ("tokens", "cls_token", "guide")
                return EncodedPlane(*(np.load(self._path(key, n), mmap_mode="r") for n in names))
        raise KeyError(key)

    def hold(self, keys: Iterable[str]) -> None:
        """Keep these planes until as many releases."""
        with self._lock:
            self._held.update(keys)

    def release(self, keys: Iterable[str]) -> None:
        """These planes may go when room is needed; those on disk go at once."""
        with self._lock:
            for key in keys:
                self._held[key] -= 1
                if self._held[key] <= 0:
                    del self._held[key]
                    if key not in self._planes:
                        self._forget_file(key)

    def _make_room(self, newest: str) -> None:
        used = self.memory_bytes
        for key in list(self._planes):
            if used <= self._limit:
                return
            plane = self._planes[key]
            if key == newest and len(self._planes) == 1 and not self._held[key]:
                return  # asked for at this moment, however large
            if self._held[key] or key == newest:
                self._write(key, plane)
            used -= plane.nbytes
            del self._planes[key]

    def _write(self, key: str, plane: EncodedPlane) -> None:
        if key in self._on_disk:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for name in ("tokens", "cls_token", "guide"):
                np.save(self._path(key, name), getattr(plane, name), allow_pickle=False)
        except OSError as error:
            self._on_disk.add(key)
            self._forget_file(key)
            raise OutputError(
                f"{plane.nbytes / 1e6:.0f} MB of tokens could not be kept on disk "
                f"({error.strerror or error})",
                hint="Free some disk space, or encode fewer planes or a smaller region.",
            ) from error
        self._on_disk.add(key)

    def _forget_file(self, key: str) -> None:
        if key in self._on_disk:
            self._on_disk.discard(key)
            for name in ("tokens", "cls_token", "guide"):
                # Windows keeps a mapped file: the session's end removes it with its folder.
                with contextlib.suppress(OSError):
                    self._path(key, name).unlink(missing_ok=True)

    def _path(self, key: str, name: str) -> Path:
        return self._folder / f"{key}.{name}.npy"
