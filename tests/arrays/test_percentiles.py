"""Percentiles from a sample of the whole image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dinoscope.arrays import percentiles
from dinoscope.arrays.percentiles import percentile_limits
from dinoscope.types import ImageInput


def test_a_strided_sample_is_close_to_all_pixels() -> None:
    array = np.random.default_rng(0).gamma(2, 50, (1500, 1400)).astype(np.float32)
    found = percentile_limits(ImageInput(array, "YX"), (1, 99.8))[0]
    assert found == pytest.approx(np.percentile(array, (1, 99.8)), rel=0.05)


def test_at_most_16_planes_are_read() -> None:
    class Counter:
        shape = (100, 8, 8)
        dtype = np.dtype("u1")
        read: set[int] = set()  # noqa: RUF012

        def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
            self.read.add(key[0])
            return np.full((8, 8), key[0], "u1")

    found = percentile_limits(ImageInput(Counter(), "ZYX"), (0, 100))
    assert len(Counter.read) == 16
    assert found.tolist() == [[0, 99]]


def test_a_few_bright_pixels_on_an_even_ground_are_still_an_image() -> None:
    array = np.zeros((4, 600, 600), np.uint16)
    array[1, 301, 333] = 500
    assert percentile_limits(ImageInput(array, "ZYX"), (1, 99.8)).tolist() == [[0, 500]]


def test_channels_without_a_number_get_zeros_and_leave_the_others_alone() -> None:
    array = np.stack([np.full((8, 8), np.nan), np.arange(64).reshape(8, 8)])
    found = percentile_limits(ImageInput(array, "CYX"), (0, 100))
    assert found.tolist() == [[0, 0], [0, 63]]


def test_a_huge_plane_is_sampled_from_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    class Huge:
        shape = (200_000, 100_000)
        dtype = np.dtype("u2")

        def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
            rows, columns = (np.arange(n)[k] for n, k in zip(self.shape, key, strict=True))
            assert rows.size * columns.size <= percentiles.WINDOW_SIDE**2
            return (rows[:, np.newaxis] // 4 + columns // 10_000).astype("u2")

    found = percentile_limits(ImageInput(Huge(), "YX"), (1, 99))[0]
    assert found == pytest.approx([10, 50_000], abs=500)


def test_a_thin_huge_plane_is_sampled_too() -> None:
    array = np.broadcast_to(np.arange(2**25, dtype=np.float32), (1, 2**25))
    low, high = percentile_limits(ImageInput(array, "YX"), (0, 100))[0]
    assert low == 0
    assert high > 2**25 - 2 * percentiles.WINDOW_SIDE
