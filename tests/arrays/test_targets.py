from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoscope.arrays.targets import boundary_distance, instance_targets


def rod(length: int = 41, width: int = 7) -> np.ndarray:
    ids = np.zeros((width + 10, length + 10), np.int32)
    ids[5 : 5 + width, 5 : 5 + length] = 3
    return ids


def test_foreground_keeps_the_pixels_where_two_objects_touch() -> None:
    ids = np.zeros((10, 12), int)
    ids[2:8, 2:6], ids[2:8, 6:10] = 1, 2
    assert np.array_equal(instance_targets(ids)[0] == 1, ids > 0)


def test_boundary_map_has_its_minimum_on_contact_lines_as_on_the_rim() -> None:
    ids = np.zeros((20, 24), int)
    ids[2:18, 2:12], ids[2:18, 12:22] = 1, 2
    boundary = instance_targets(ids)[2]
    assert boundary[10, 11] == boundary[10, 12] == boundary[10, 2] == pytest.approx(0.2)
    assert boundary[10, 6] == 1


def test_centredness_of_a_rod_is_one_at_its_middle_and_zero_at_its_farthest_corner() -> None:
    maps = instance_targets(rod())
    assert np.unravel_index(maps[1].argmax(), maps[1].shape) == (8, 25)
    assert maps[1].max() == 1
    assert maps[1][rod() > 0].min() == pytest.approx(0, abs=1e-6)


def test_centre_of_a_bent_object_lies_inside_it_away_from_the_rim() -> None:
    y, x = np.mgrid[:60, :60]
    radius = np.hypot(y - 50, x - 30)
    ids = ((radius > 18) & (radius < 30) & (y < 50)).astype(int)  # a horseshoe
    maps = instance_targets(ids)
    centre = np.unravel_index(maps[1].argmax(), ids.shape)
    assert ids[centre] == 1
    assert maps[2][centre] >= 0.75


def test_edge_of_the_crop_is_not_a_boundary() -> None:
    ids = np.zeros((20, 20), int)
    ids[:10] = 1
    boundary = instance_targets(ids)[2]
    assert boundary[0, 5] == 1
    assert boundary[9, 5] == pytest.approx(0.1)


def test_object_that_fills_the_crop_has_constant_boundary_and_no_nan() -> None:
    maps = instance_targets(np.ones((8, 9), int))
    assert np.isfinite(maps).all()
    assert (maps[2] == 1).all()


def test_background_and_unknown_pixels_are_zero_in_all_maps() -> None:
    assert not instance_targets(np.zeros((5, 6), int)).any()
    assert not instance_targets(np.full((5, 6), -1)).any()


def test_one_pixel_object_is_its_own_centre() -> None:
    ids = np.zeros((5, 5), np.uint16)
    ids[2, 2] = 65535
    assert instance_targets(ids)[:, 2, 2].tolist() == [1, 1, 1]


def test_stack_is_refused_with_its_shape() -> None:
    with pytest.raises(ValueError, match=r"\(2, 5, 5\)"):
        instance_targets(np.zeros((2, 5, 5), int))


def test_distance_is_close_to_the_exact_transform_of_each_object() -> None:
    from scipy.ndimage import distance_transform_edt

    y, x = np.mgrid[:50, :50]
    ids = ((y - 25) ** 2 + (x - 24) ** 2 < 18**2).astype(int)
    error = np.abs(boundary_distance(ids) - distance_transform_edt(ids))
    assert error.max() < 0.6


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 2**31), st.integers(1, 9))
def test_every_object_has_a_centre_and_values_stay_in_range(
    height: int, width: int, seed: int, count: int
) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, count + 1, (height, width)) * 1000
    maps = instance_targets(ids)
    assert maps.shape == (3, height, width)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    assert maps.max() <= 1
    for label in np.unique(ids[ids > 0]):
        assert maps[1][ids == label].max() == 1
        assert maps[2][ids == label].max() == 1


def test_crop_with_sixty_objects_takes_milliseconds() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:224, :224]
    ids = np.zeros((224, 224), np.int32)
    for label in range(1, 61):
        cy, cx, r = *rng.uniform(5, 219, 2), rng.uniform(6, 14)
        ids[((y - cy) ** 2 + (x - cx) ** 2 < r * r) & (ids == 0)] = label
    best = min(_seconds(ids) for _ in range(5))
    assert best < 0.04  # CPU time; some 6 ms


def _seconds(ids: np.ndarray) -> float:
    start = time.process_time()
    instance_targets(ids)
    return time.process_time() - start
