"""Where results live: in memory while they are small, in a chunked file when they are not."""

from __future__ import annotations

import shutil
import tempfile
import weakref
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.errors import OutputError

#: Results of more bytes than this go to a chunked file.
MEMORY_LIMIT = 256 * 2**20
#: Side of a chunk: one tile of a plane is read when one tile of it is shown.
CHUNK_PX = 1024


class ResultStore:
    """An array that is filled plane by plane, and that knows whether somebody else changed it.

    Parameters
    ----------
    shape : tuple of int
        Shape of the result in its layer's order, samples of an RGB result last.
    dtype : dtype
        Element type.
    planar : int
        How many trailing axes make up one plane (2, or 3 with RGB samples).
    limit : int
        Bytes above which a zarr array in a temporary directory is used instead of memory. The
        directory lives as long as the array does.

    Raises
    ------
    OutputError
        The file cannot be made or written (disk full).
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: Any, *, planar: int = 2, limit: int | None = None
    ) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        self.written: dict[tuple[Any, ...], int] = {}
        size = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        self.on_disk = size > (MEMORY_LIMIT if limit is None else limit)
        if self.on_disk:
            self.array = _chunked(self.shape, self.dtype, planar)
        else:
            self.array = np.zeros(self.shape, self.dtype)

    def write(self, key: tuple[Any, ...], plane: np.ndarray) -> None:
        """Put one plane in its place and remember its fingerprint."""
        try:
            self.array[key] = plane
        except OSError as error:
            raise OutputError(
                f"the result could not be written to {tempfile.gettempdir()!r} ({error})",
                hint="Free some disk space, or set TMPDIR to a larger disk, and run again.",
            ) from error
        self.written[_hashable(key)] = _fingerprint(np.asarray(plane, self.dtype))

    def is_as_written(self, *, at_most: int | None = None) -> bool:
        """Whether the array still holds what was written (the first `at_most` planes of it).

        A file past the memory limit is looked at in a few planes only: edits of it through napari
        raise events, and reading all of it would freeze the window.
        """
        keys = list(self.written)
        if self.on_disk and at_most is None:
            at_most = 4
        if at_most is not None and len(keys) > at_most:
            keys = [keys[i] for i in np.linspace(0, len(keys) - 1, at_most).astype(int)]
        return all(_fingerprint(np.asarray(self.array[_key(k)])) == self.written[k] for k in keys)


def _chunked(shape: tuple[int, ...], dtype: np.dtype, planar: int) -> Any:
    import zarr

    try:
        folder = Path(tempfile.mkdtemp(prefix="dinoscope_results-"))
        sides = (CHUNK_PX, CHUNK_PX) if planar == 2 else (CHUNK_PX, CHUNK_PX, shape[-1])
        planes = len(shape) - planar
        chunks = (1,) * planes + tuple(
            max(1, min(a, b)) for a, b in zip(shape[planes:], sides, strict=True)
        )
        array = zarr.create_array(
            store=str(folder), shape=shape, chunks=chunks, dtype=dtype, fill_value=0
        )
    except OSError as error:
        raise OutputError(
            f"no file for the results could be made in {tempfile.gettempdir()!r} ({error})",
            hint="Set TMPDIR to a folder that can be written.",
        ) from error
    # The layer holds the array; when the last of them goes, so does the file.
    weakref.finalize(array, shutil.rmtree, folder, ignore_errors=True)
    return array


def _fingerprint(plane: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(plane).view(np.uint8).data)


def _hashable(key: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(-1 if isinstance(k, slice) else int(k) for k in key)


def _key(hashable: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(slice(None) if k == -1 else k for k in hashable)
