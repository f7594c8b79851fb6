"""The worker's view of an image that stays in the window's process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dinoscope.worker.protocol import ImageHeader
from dinoscope.worker.remote import RemoteArray, remote_image

DATA = np.arange(2 * 3 * 4 * 5, dtype=np.uint16).reshape(2, 3, 4, 5)
HEADER = ImageHeader(DATA.shape, "<u2", "TCYX", {"Y": 0.5, "X": 0.5}, "cells")


@pytest.mark.parametrize(
    "key",
    [
        0,
        (1, 2),
        (slice(None), 1, slice(1, 3), slice(0, 5, 2)),
        (np.int64(1), ..., np.int32(2)),
        ...,
        (0, [0, 2]),
        (0, np.array([2, 0])),
        slice(np.int64(0), np.int64(1)),
    ],
)
def test_any_basic_key_travels_as_plain_values(key: Any) -> None:
    seen: list[Any] = []

    def read(plain: Any) -> np.ndarray:
        seen.append(plain)
        return DATA[plain]

    np.testing.assert_array_equal(RemoteArray(HEADER, read)[key], DATA[key])
    assert "numpy" not in repr(seen)
    assert "np." not in repr(seen)


def test_numpy_can_take_all_of_it() -> None:
    array = RemoteArray(HEADER, lambda key: DATA[key])
    np.testing.assert_array_equal(np.asarray(array), DATA)
    assert np.asarray(array, dtype=np.float32).dtype == np.float32
    assert (len(array), array.ndim, array.dtype) == (2, 4, np.dtype(np.uint16))


def test_the_image_keeps_axes_pixel_size_and_name() -> None:
    image = remote_image(HEADER, lambda key: DATA[key])
    assert (image.axes, image.name, image.pixel_size_um) == ("TCYX", "cells", {"Y": 0.5, "X": 0.5})
    assert image.plane_shape == (2,)
