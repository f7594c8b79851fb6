"""Unfolding images of any axes into planes (C, Y, X)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoscope.arrays.axes import (
    channel_count,
    clip_region,
    iter_planes,
    plane_count,
    read_plane,
    sample_indices,
)
from dinoscope.errors import InputError
from dinoscope.types import ImageInput

SIZES = {"T": 2, "Z": 3, "C": 4, "Y": 5, "X": 6, "S": 3, "Q": 2}


class Recorder:
    """An array that remembers what it was asked for."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype
        self.keys: list[tuple[Any, ...]] = []

    def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
        self.keys.append(key)
        return self.array[key]


def numbered(axes: str) -> np.ndarray:
    shape = tuple(SIZES[a] for a in axes)
    return np.arange(int(np.prod(shape))).reshape(shape)


@st.composite
def some_axes(draw: st.DrawFn) -> str:
    letters = ["Y", "X", *draw(st.sets(st.sampled_from("TZQ")))]
    letters += draw(st.sampled_from([[], ["C"], ["S"]]))
    return "".join(draw(st.permutations(letters)))


@settings(deadline=None)
@given(some_axes())
def test_every_pixel_comes_out_once_whatever_the_order_of_axes(axes: str) -> None:
    array = numbered(axes)
    image = ImageInput(array, axes)
    planes = list(iter_planes(image))
    assert [p.index for p in planes] == list(np.ndindex(image.plane_shape))
    assert len(planes) == plane_count(image)
    assert {p.image.shape for p in planes} == {(channel_count(image), 5, 6)}
    assert sorted(v for p in planes for v in p.image.ravel()) == sorted(array.ravel())


@settings(deadline=None)
@given(some_axes())
def test_a_pixel_is_found_at_its_own_coordinates(axes: str) -> None:
    array = numbered(axes)
    image = ImageInput(array, axes)
    plane = read_plane(image, tuple(n - 1 for n in image.plane_shape))
    where = {"Y": 2, "X": 4, "C": 1, "S": 1} | {a: SIZES[a] - 1 for a in "TZQ"}
    expected = array[tuple(where[a] for a in axes)]
    assert plane[min(1, len(plane) - 1), 2, 4] == expected


@pytest.mark.parametrize("axes", ["CYX", "YXC", "ZCYX", "YXS"])
@pytest.mark.parametrize("channels", [(0,), (2, 0), (1, 2)])
def test_channels_are_chosen_in_the_order_asked_for(axes: str, channels: tuple[int, ...]) -> None:
    image = ImageInput(numbered(axes), axes)
    index = (0,) * len(image.plane_shape)
    whole = read_plane(image, index)
    assert np.array_equal(read_plane(image, index, channels=channels), whole[list(channels)])


def test_a_region_is_the_same_part_of_the_plane() -> None:
    image = ImageInput(numbered("ZCYX"), "ZCYX")
    part = read_plane(image, (1,), region=(1, 2, 4, 6))
    assert np.array_equal(part, read_plane(image, (1,))[:, 1:4, 2:6])


@pytest.mark.parametrize(("samples", "expected"), [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5)])
def test_an_alpha_sample_is_dropped(samples: int, expected: int) -> None:
    array = np.broadcast_to(np.arange(samples), (4, 5, samples))
    plane = read_plane(ImageInput(array, "YXS"), ())
    assert plane[:, 0, 0].tolist() == list(range(expected))


def test_lazy_arrays_are_asked_for_one_plane_at_a_time_with_integers_and_slices() -> None:
    data = Recorder(numbered("TZCYX"))
    image = ImageInput(data, "TZCYX")
    list(iter_planes(image, channels=(0, 3), region=(0, 0, 2, 2)))
    read = [data.array[key].size for key in data.keys]
    assert max(read) == 1 * 2 * 2
    assert all(isinstance(k, (int, slice)) for k in itertools.chain(*data.keys))


def test_one_plane_can_be_chosen() -> None:
    image = ImageInput(numbered("TZYX"), "TZYX")
    planes = list(iter_planes(image, plane=(1, 2)))
    assert [p.index for p in planes] == [(1, 2)]
    assert np.array_equal(planes[0].image[0], image.data[1, 2])


def test_foreign_byte_order_becomes_native() -> None:
    image = ImageInput(np.arange(12, dtype=">u2").reshape(3, 4), "YX")
    plane = read_plane(image, ())
    assert plane.dtype.isnative
    assert np.array_equal(plane[0], image.data[:])


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 20))
def test_sampled_planes_are_distinct_evenly_spaced_and_span_the_stack(
    length: int, at_most: int
) -> None:
    image = ImageInput(np.zeros((length, 1, 1)), "TYX")
    numbers = [i[0] for i in sample_indices(image, at_most)]
    assert len(numbers) == min(length, at_most) == len(set(numbers))
    assert numbers[0] == 0
    if len(numbers) > 1:
        assert numbers[-1] == length - 1
        steps = np.diff(numbers)
        assert steps.max() - steps.min() <= 1


def test_a_single_plane_is_sampled_once() -> None:
    assert sample_indices(ImageInput(np.zeros((2, 2)), "YX")) == [()]


@pytest.mark.parametrize("shape", [(0, 5, 5), (3, 0, 5), (3, 5, 0)])
def test_an_image_without_pixels_is_refused(shape: tuple[int, ...]) -> None:
    image = ImageInput(np.zeros(shape), "ZYX", name="nothing")
    with pytest.raises(InputError, match="'nothing' has no pixels"):
        list(iter_planes(image))


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"index": (3,)}, "plane"),
        ({"index": ()}, "plane"),
        ({"index": (-1,)}, "plane"),
        ({"index": (0,), "channels": (4,)}, r"channels \[4\] of 'image', which has 4"),
        ({"index": (0,), "channels": ()}, "channels"),
        ({"index": (0,), "region": (0, 0, 6, 6)}, "5 x 6 pixels"),
        ({"index": (0,), "region": (2, 2, 2, 4)}, "region"),
        ({"index": (0,), "region": (-1, 0, 2, 4)}, "region"),
    ],
)
def test_what_lies_outside_the_image_is_refused(asked: dict[str, Any], match: str) -> None:
    image = ImageInput(numbered("ZCYX"), "ZCYX")
    with pytest.raises(InputError, match=match):
        read_plane(image, **asked)


def test_a_view_is_clipped_to_the_image() -> None:
    image = ImageInput(np.zeros((50, 60)), "YX")
    assert clip_region(image, (-10, 20, 30, 99)) == (0, 20, 30, 60)
    with pytest.raises(InputError, match="region"):
        clip_region(image, (60, 0, 80, 10))


def test_a_lazy_array_that_fails_names_the_image() -> None:
    class Broken(Recorder):
        def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
            raise KeyError("chunk 3")

    image = ImageInput(Broken(np.zeros((4, 4))), "YX", name="from the cloud")
    with pytest.raises(InputError, match=r"'from the cloud' could not be read \('chunk 3'\)"):
        read_plane(image, ())
