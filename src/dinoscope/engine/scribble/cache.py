"""Tokens that outlive the session: a folder of bounded size, named by what was encoded.

A file's name is a hash of the pixels as the model sees them, the model and the geometry, so that an
image that was moved or renamed is recognised and one that was changed is not.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np

from dinoscope.engine.explore.store import EncodedPlane, TokenStore

_SUFFIX = ".tokens"


class CachedTokens(TokenStore):
    """A token store whose planes are on disk as well, until others need the room.

    Parameters
    ----------
    folder : Path
        For what this session holds and memory has no room for.
    cache : Path
        The folder that outlives it; made when the first plane comes.
    memory_mb, cache_mb : float
        Limits of memory and of that folder; 0 keeps nothing there.
    """

    def __init__(self, folder: Path, cache: Path, *, memory_mb: float, cache_mb: float) -> None:
        super().__init__(folder, memory_mb)
        self._cache = cache
        self._cache_bytes = int(cache_mb * 1e6)

    def __contains__(self, key: str) -> bool:
        return super().__contains__(key) or self._file(key).exists()

    def put(self, key: str, plane: EncodedPlane) -> None:
        """Keep a plane, on disk too where there is room. A cache that fails is only slow."""
        super().put(key, plane)
        if plane.nbytes <= self._cache_bytes:
            with contextlib.suppress(OSError):
                self._write_file(key, plane)

    def get(self, key: str) -> EncodedPlane:
        """The plane of `key`.

        Raises
        ------
        KeyError
            It is not kept, or its file is damaged (and is removed).
        """
        with contextlib.suppress(KeyError):
            return super().get(key)
        plane = self._read_file(key)
        super().put(key, plane)
        return plane

    def _file(self, key: str) -> Path:
        return self._cache / f"{key}{_SUFFIX}"

    def _read_file(self, key: str) -> EncodedPlane:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = self._file(key)
        try:
            found = load_file(path)
            plane = EncodedPlane(found["tokens"], found["cls_token"], found["guide"])
        except FileNotFoundError:
            raise KeyError(key) from None
        except (OSError, SafetensorError, KeyError):
            with contextlib.suppress(OSError):
                path.unlink()
            raise KeyError(key) from None
        with contextlib.suppress(OSError):
            os.utime(path)  # used now: the last to go
        return plane

    def _write_file(self, key: str, plane: EncodedPlane) -> None:
        from safetensors.numpy import save_file

        path = self._file(key)
        if path.exists():
            return
        self._cache.mkdir(parents=True, exist_ok=True)
        # Under another name first: nobody, and no crash, leaves half a file under this one.
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            names = ("tokens", "cls_token", "guide")
            save_file({n: np.ascontiguousarray(getattr(plane, n)) for n in names}, part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        self._shrink(path)

    def _shrink(self, newest: Path) -> None:
        """Remove the files that were used longest ago, until the rest fits."""
        files = []
        for path in self._cache.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                files.append((stat.st_mtime, stat.st_size, path))
        used = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if used <= self._cache_bytes:
                return
            if path != newest:
                with contextlib.suppress(OSError):
                    path.unlink()
                    used -= size
