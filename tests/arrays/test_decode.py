from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoscope.arrays.decode import basins, decode_instances, fill_holes
from dinoscope.arrays.metrics import average_precision
from dinoscope.arrays.targets import instance_targets
from dinoscope.config import InstanceOptions
from dinoscope.errors import InputError


def maps_of(ids: np.ndarray, blur: float = 0, noise: float = 0) -> np.ndarray:
    """What a network would answer: the targets, blurred, with noise in and around the objects."""
    from scipy.ndimage import gaussian_filter

    maps = instance_targets(ids)
    if blur:
        maps = np.stack([gaussian_filter(one, blur) for one in maps])
    if noise:
        grain = np.random.default_rng(0).normal(size=maps.shape)
        grain = np.stack([gaussian_filter(one, max(1.5, 0.75 * blur)) for one in grain])
        maps = maps + noise * grain / grain.std() * (maps[0] > 0.05)
    return np.asarray(np.round(np.clip(maps, 0, 1) * 255), np.uint8)


def scatter(
    inside: Callable[..., np.ndarray], count: int, overlap: float, side: int = 256
) -> np.ndarray:
    """Objects dropped one by one; each may lose up to `overlap` of its area to earlier ones."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    ids = np.zeros((side, side), np.int32)
    for _ in range(20 * count):
        mask = inside(rng, y - rng.uniform(0, side), x - rng.uniform(0, side))
        if np.mean(ids[mask] > 0) < overlap:
            ids[mask & (ids == 0)] = ids.max() + 1
        if ids.max() == count:
            break
    return ids


def ellipse(rng: np.random.Generator, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    angle, a = rng.uniform(0, np.pi), rng.uniform(7, 12)
    b = a * rng.uniform(0.6, 1)
    u, v = dy * np.sin(angle) + dx * np.cos(angle), dx * np.sin(angle) - dy * np.cos(angle)
    return np.asarray((u / a) ** 2 + (v / b) ** 2 <= 1)


def rod(rng: np.random.Generator, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    angle, half, radius = 0.6 + rng.normal() * 0.08, rng.uniform(9, 20), rng.uniform(3.5, 5)
    u, v = dy * np.sin(angle) + dx * np.cos(angle), dx * np.sin(angle) - dy * np.cos(angle)
    along = np.clip(u, radius - half, half - radius)
    return np.asarray((u - along) ** 2 + v**2 <= radius**2)


SHAPES = {"ellipses": (ellipse, 90, 0.12), "packed rods": (rod, 130, 0.08)}


@pytest.fixture(scope="module", params=SHAPES)
def truth(request: pytest.FixtureRequest) -> np.ndarray:
    return scatter(*SHAPES[request.param])


@pytest.mark.parametrize(("blur", "noise", "bar"), [(0, 0, 0.98), (1, 0, 0.98), (1.5, 0.05, 0.95)])
def test_touching_objects_come_back_from_their_own_maps(
    truth: np.ndarray, blur: float, noise: float, bar: float
) -> None:
    found = decode_instances(maps_of(truth, blur, noise))
    assert average_precision(truth, found, [0.5])[0] >= bar


def test_wide_objects_are_not_notched_by_noise() -> None:
    y, x = np.mgrid[:300, :300]
    ids = ((y - 80) ** 2 + (x - 90) ** 2 < 60**2).astype(int)
    ids[((y - 200) / 60) ** 2 + ((x - 200) / 90) ** 2 < 1] = 2
    found = decode_instances(maps_of(ids, 4, 0.08))
    assert average_precision(ids, found, [0.5])[0] == 1


def test_ids_are_contiguous_uint32_in_reading_order(truth: np.ndarray) -> None:
    found = decode_instances(maps_of(truth))
    assert found.dtype == np.uint32
    values, first = np.unique(found, return_index=True)
    assert values.tolist() == list(range(found.max() + 1))
    assert (np.diff(first[1:]) > 0).all()


def test_kept_basins_give_the_same_objects_at_every_threshold(truth: np.ndarray) -> None:
    maps = maps_of(truth, 1.5, 0.05)
    kept = basins(maps)
    for threshold in (0.02, 0.4, 0.9):
        options = InstanceOptions(threshold=threshold)
        again = decode_instances(maps, options, kept)
        assert np.array_equal(again, decode_instances(maps, options))


def test_higher_threshold_only_takes_pixels_away(truth: np.ndarray) -> None:
    maps = maps_of(truth, 1.5)
    low = decode_instances(maps, InstanceOptions(threshold=0.3, fill_holes=False, min_size_px=0))
    high = decode_instances(maps, InstanceOptions(threshold=0.7, fill_holes=False, min_size_px=0))
    assert ((high > 0) <= (low > 0)).all()
    assert (high > 0).sum() < (low > 0).sum()


def test_objects_below_the_smallest_size_are_dropped() -> None:
    ids = np.zeros((40, 40), int)
    ids[2:5, 2:6], ids[20:30, 20:30] = 1, 2  # 12 and 100 pixels
    maps = maps_of(ids)
    assert decode_instances(maps, InstanceOptions(min_size_share=0, min_size_px=12)).max() == 2
    assert decode_instances(maps, InstanceOptions(min_size_share=0, min_size_px=13)).max() == 1
    assert decode_instances(maps, InstanceOptions(min_size_share=0, min_size_px=101)).max() == 0


def test_specks_are_dropped_by_their_share_of_the_typical_area() -> None:
    ids = np.zeros((60, 60), int)
    ids[2:6, 2:7], ids[20:30, 20:30], ids[35:45, 20:30] = 1, 2, 3  # 20, 100 and 100 pixels
    maps = maps_of(ids)
    assert decode_instances(maps, InstanceOptions(min_size_share=0.19)).max() == 3
    assert decode_instances(maps, InstanceOptions(min_size_share=0.25)).max() == 2
    alone = np.where(ids == 1, 1, 0)  # nothing larger around: it is the typical object
    assert decode_instances(maps_of(alone), InstanceOptions(min_size_share=0.9)).max() == 1


def test_border_objects_are_dropped_only_when_asked() -> None:
    ids = np.zeros((40, 40), int)
    ids[:10, 5:15], ids[20:30, 20:30] = 1, 2
    maps = maps_of(ids)
    assert decode_instances(maps).max() == 2
    kept = decode_instances(maps, InstanceOptions(remove_border=True))
    assert kept.max() == 1
    assert kept[25, 25] == 1


def test_holes_in_the_foreground_are_filled_only_when_asked() -> None:
    ids = np.zeros((40, 40), int)
    ids[5:30, 5:30] = 1
    maps = maps_of(ids)
    maps[0, 16:18, 16:18] = 50
    assert decode_instances(maps)[17, 17] == 1
    assert decode_instances(maps, InstanceOptions(fill_holes=False))[17, 17] == 0


def test_gap_between_several_objects_is_not_filled() -> None:
    ids = np.zeros((9, 9), np.uint32)
    ids[1:8, 1:5], ids[1:8, 5:8] = 1, 2
    ids[4, 4:6] = 0
    assert np.array_equal(fill_holes(ids), ids)
    ids[:, 5:] = 0
    ids[1:8, 5:7] = 1
    ids[4, 4:6] = 0
    assert fill_holes(ids)[4, 4:6].tolist() == [1, 1]


def test_bay_open_to_the_border_is_not_a_hole() -> None:
    ids = np.ones((7, 7), np.int32)
    ids[0:4, 3] = 0
    assert np.array_equal(fill_holes(ids), ids)


def test_each_object_is_one_connected_region() -> None:
    from scipy.ndimage import label

    ids = np.zeros((30, 50), int)
    ids[5:25, 5:45] = 1
    maps = maps_of(ids)
    maps[0, :, 30:32] = 60  # a cut through the foreground, not through the landscape
    found = decode_instances(maps)
    assert found.max() == 1
    assert label(found, np.ones((3, 3)))[1] == 1
    assert found[10, 10] == 1
    assert found[10, 40] == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (2, 3)])
@pytest.mark.parametrize("value", [0, 128, 210, 255])
def test_constant_maps_of_any_shape_give_at_most_one_object(
    shape: tuple[int, int], value: int
) -> None:
    found = decode_instances(np.full((3, *shape), value, np.uint8), InstanceOptions(min_size_px=0))
    assert found.shape == shape
    # 128 of 255 is above the threshold, but nothing there is surer: haze, and no object.
    assert found.max() == (value > 200)


def test_what_is_nowhere_sure_is_no_object_until_it_is_asked_for() -> None:
    truth = np.zeros((60, 120), np.int32)
    truth[10:50, 10:50], truth[10:50, 70:110] = 1, 2
    maps = (instance_targets(truth) * 255).astype(np.uint8)
    maps[0] = np.where(truth == 2, 150, maps[0])
    assert np.unique(decode_instances(maps)).size == 2
    assert np.unique(decode_instances(maps, InstanceOptions(threshold=0.3))).size == 3


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**31))
def test_any_maps_decode_to_contiguous_ids_inside_the_foreground(
    height: int, width: int, seed: int
) -> None:
    maps = np.random.default_rng(seed).integers(0, 256, (3, height, width), np.uint8)
    found = decode_instances(maps, InstanceOptions(min_size_px=0, fill_holes=False))
    assert np.array_equal(np.unique(found[found > 0]), np.arange(1, found.max() + 1))
    assert (maps[0][found > 0] >= 128).all()


@pytest.mark.parametrize(
    "maps", [np.zeros((3, 4, 4)), np.zeros((2, 4, 4), np.uint8), np.zeros((4, 4), np.uint8)]
)
def test_other_arrays_are_refused_with_shape_and_dtype(maps: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"shape \(.*expected \(3, Y, X\) and uint8"):
        decode_instances(maps)
    with pytest.raises(InputError, match="expected"):
        basins(maps)


def test_basins_of_another_plane_are_refused() -> None:
    with pytest.raises(InputError, match=r"basins have shape \(5, 5\)"):
        decode_instances(np.zeros((3, 4, 4), np.uint8), basins=np.zeros((5, 5), np.int32))


def test_slider_moves_stay_live_at_a_thousand_squared() -> None:
    maps = np.tile(maps_of(scatter(ellipse, 32, 0.12), 1.5, 0.05), (1, 4, 4))  # 512 objects
    kept = basins(maps)
    seconds = []
    for threshold in (0.3, 0.5, 0.7):
        start = time.process_time()
        found = decode_instances(maps, InstanceOptions(threshold=threshold), kept)
        seconds.append(time.process_time() - start)
        assert found.max() > 450
    assert min(seconds) < 0.15  # CPU time; some 35 ms
