"""An image of the window's process as the worker sees it: read plane by plane, when needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dinoscope.types import ImageInput
from dinoscope.worker.protocol import ImageHeader


class RemoteArray:
    """Offers ``shape``, ``dtype`` and indexing; the pixels stay in the window's process.

    Parameters
    ----------
    header : ImageHeader
        Shape and dtype.
    read : callable
        Fetches the pixels of a key made of whole numbers, slices and lists.
    """

    def __init__(self, header: ImageHeader, read: Callable[[Any], np.ndarray]) -> None:
        self.shape = header.shape
        self.dtype = np.dtype(header.dtype)
        #: Seconds spent waiting for pixels.
        self.waited_s = 0.0
        self._read = read

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        parts = key if isinstance(key, tuple) else (key,)
        began = time.perf_counter()
        try:
            return self._read(tuple(_plain(part) for part in parts))
        finally:
            self.waited_s += time.perf_counter() - began

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype=dtype)


def _plain(part: Any) -> Any:
    """One part of a key as a value that can travel."""
    if part is Ellipsis or part is None:
        return part
    if isinstance(part, slice):
        return slice(*(None if n is None else int(n) for n in (part.start, part.stop, part.step)))
    if isinstance(part, (list, np.ndarray)):
        return np.asarray(part).tolist()
    return int(part)


def remote_image(header: ImageHeader, read: Callable[[Any], np.ndarray]) -> ImageInput:
    """The image that `header` describes, with its pixels left where they are."""
    return ImageInput(
        RemoteArray(header, read), header.axes, dict(header.pixel_size_um), header.name
    )
