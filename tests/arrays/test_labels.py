from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoscope.arrays.labels import (
    IGNORE,
    border_ids,
    classes_to_scribbles,
    pixel_checksums,
    relabel_sequential,
    remove_border_objects,
    scribbles_to_classes,
    typical_diameter,
    validate_classes,
    validate_labels,
)
from dinoscope.errors import InputError


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint64, np.int64])
def test_integer_labels_pass_unchanged(dtype: type) -> None:
    labels: np.ndarray = np.array([[0, 3]], dtype)
    assert validate_labels(labels) is labels


def test_boolean_mask_becomes_zero_and_one() -> None:
    assert validate_labels(np.array([True, False])).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (np.zeros((2, 2), np.float32), r"mine has dtype float32; expected integers.*Convert"),
        (np.array([0, -3]), "mine holds negative values, down to -3"),
        (np.zeros((0, 4), int), r"mine has shape \(0, 4\); expected at least one pixel"),
        (np.zeros(3, complex), "mine has dtype complex128"),
    ],
)
def test_arrays_that_are_no_labels_are_refused_with_what_they_hold(
    labels: np.ndarray, match: str
) -> None:
    with pytest.raises(InputError, match=match):
        validate_labels(labels, name="mine")


def test_labels_of_another_shape_are_refused_with_both_shapes() -> None:
    with pytest.raises(InputError, match=r"labels has shape \(2, 3\); expected \(3, 2\)"):
        validate_labels(np.zeros((2, 3), int), shape=(3, 2))


def test_class_codes_beyond_eight_bits_are_refused_as_probable_ids() -> None:
    assert validate_classes(np.array([0, 255], np.int64)).dtype == np.uint8
    with pytest.raises(InputError, match="holds class 300; expected classes 0 to 254"):
        validate_classes(np.array([300]))


def test_scribble_and_dense_codes_are_each_other_s_inverse() -> None:
    codes = np.arange(256)
    dense = scribbles_to_classes(codes)
    assert dense.dtype == np.uint8
    assert dense[:3].tolist() == [IGNORE, 0, 1]
    assert classes_to_scribbles(dense).tolist() == codes.tolist()
    with pytest.raises(InputError, match="label 256"):
        scribbles_to_classes(np.array([256]))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 2**40), min_size=0, max_size=30))
def test_sequential_ids_keep_order_and_partition(values: list[int]) -> None:
    ids = np.array(values, np.int64)
    found = relabel_sequential(ids)
    assert found.dtype == np.uint32
    known = sorted(set(values) - {0})
    assert found.tolist() == [known.index(v) + 1 if v else 0 for v in values]


def test_border_objects_are_removed_and_other_ids_kept() -> None:
    ids = np.zeros((6, 7), np.uint16)
    ids[0, 3], ids[2:4, 2:4], ids[4:6, 6] = 9, 5, 2
    assert border_ids(ids).tolist() == [2, 9]
    assert np.unique(remove_border_objects(ids)).tolist() == [0, 5]
    assert remove_border_objects(ids).dtype == np.uint16


def test_typical_diameter_is_the_median_of_whole_objects() -> None:
    ids = np.zeros((60, 120), np.int32)
    for label, (x, side) in {3: (10, 10), 4: (30, 12), 8: (60, 20), 9: (100, 20)}.items():
        ids[20 : 20 + side, x : x + side] = label  # the last one touches the border
    assert typical_diameter(ids) == typical_diameter(np.where(ids == 4, 1, 0))
    assert typical_diameter(np.where(ids == 3, 1, 0)) < typical_diameter(ids)  # type: ignore[operator]


@pytest.mark.parametrize("diameter", [8, 28, 60])
def test_the_typical_diameter_of_discs_is_theirs(diameter: int) -> None:
    y, x = np.indices((80, 80)) - 40
    assert typical_diameter(y**2 + x**2 < diameter**2 / 4) == pytest.approx(diameter, rel=0.06)


@pytest.mark.parametrize("angle", [0.0, 0.5, 0.8])
def test_long_objects_count_by_their_width(angle: float) -> None:
    y, x = np.indices((160, 160)) - 80
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    for length, times in ((20, 4 / 3), (90, 1.8)):  # 2·w·L / (w + L)
        rod = (np.abs(along) < length / 2) & (np.abs(across) < 5)
        assert typical_diameter(rod) == pytest.approx(times * 10, rel=0.1)
    comb = (np.abs(y) < 60) & (np.abs(x) < 60) & ((x % 6 < 2) | (np.abs(y) < 3))
    assert typical_diameter(comb) == pytest.approx(np.sqrt(comb.sum() / np.pi))


def test_typical_diameter_of_nothing_is_unknown_and_cut_objects_count_when_alone() -> None:
    assert typical_diameter(np.zeros((5, 5), int)) is None
    assert typical_diameter(np.ones((5, 5), int)) == pytest.approx(2 * np.sqrt(25 / np.pi))


def test_checksums_of_objects_tell_pixels_and_not_ids() -> None:
    rng = np.random.default_rng(0)
    ids = np.kron(rng.permutation(64).reshape(8, 8) + 1, np.ones((6, 5), int)).astype(np.uint32)
    before = pixel_checksums(ids)
    assert sorted(before) == list(range(1, 65))
    assert len(set(before.values())) == 64
    shifted = np.where(ids > 0, ids + 40_000_000, 0).astype(np.uint32)  # beyond any table
    assert {n + 40_000_000: c for n, c in before.items()} == pixel_checksums(shifted)
    one = ids.copy()
    one[0, 0], other = 0, ids[0, 0]
    after = pixel_checksums(one)
    assert {n for n in before if after[n] != before[n]} == {int(other)}
    moved = np.roll(ids, 1, 1)
    assert not set(pixel_checksums(moved).values()) & set(before.values())
    assert pixel_checksums(np.zeros((3, 3), np.uint16)) == {}
