from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoscope.arrays.objects import object_table
from dinoscope.errors import InputError


def plane() -> np.ndarray:
    ids = np.zeros((6, 8), np.uint32)
    ids[1:3, 1:5], ids[4:6, 6] = 40, 7
    return ids


def test_rows_are_ordered_by_id_with_area_and_centroid_in_pixels() -> None:
    table = object_table(plane())
    assert table["label"].tolist() == [7, 40]
    assert table["area_px"].tolist() == [2, 8]
    assert table["centroid_y"].tolist() == [4.5, 1.5]
    assert table["centroid_x"].tolist() == [6, 2.5]
    assert table["diameter_px"][1] == pytest.approx(2 * np.sqrt(8 / np.pi))


def test_micrometres_come_from_both_pixel_sizes() -> None:
    table = object_table(plane(), pixel_size_um={"Y": 0.5, "X": 0.25, "Z": 3})
    assert table["area_um2"].tolist() == [0.25, 1.0]
    assert table["diameter_um"][1] == pytest.approx(2 * np.sqrt(1 / np.pi))


@pytest.mark.parametrize("size", [None, {}, {"Y": 0.5}, {"Z": 1.0}])
def test_unknown_pixel_size_gives_nan_not_pixels(size: dict[str, float] | None) -> None:
    table = object_table(plane(), pixel_size_um=size)
    assert np.isnan(table["area_um2"]).all()
    assert np.isnan(table["diameter_um"]).all()


def test_each_plane_axis_is_a_column_after_the_label() -> None:
    table = object_table(plane(), index=(4, 0), plane_axes="TZ")
    assert list(table)[:4] == ["label", "t", "z", "area_px"]
    assert table["t"].tolist() == [4, 4]
    assert table["z"].tolist() == [0, 0]


def test_centroids_of_a_region_count_from_the_origin_of_its_plane() -> None:
    here, there = object_table(plane()), object_table(plane(), origin=(10, 200))
    np.testing.assert_allclose(there["centroid_y"] - here["centroid_y"], 10)
    np.testing.assert_allclose(there["centroid_x"] - here["centroid_x"], 200)


def test_mean_intensity_of_each_channel_is_in_the_image_s_own_units() -> None:
    image = np.zeros((2, 6, 8), np.int16)
    image[0, 1:3, 1:5], image[1, 4:6, 6] = -30, [1000, 2001]
    table = object_table(plane(), image)
    assert table["mean_intensity_0"].tolist() == [0, -30]
    assert table["mean_intensity_1"].tolist() == [1500.5, 0]


def test_confidence_is_the_mean_foreground_of_each_object() -> None:
    foreground = np.full((6, 8), 51, np.uint8)
    foreground[1:3, 1:5], foreground[4, 6] = 255, 153
    table = object_table(plane(), foreground=foreground)
    np.testing.assert_allclose(table["confidence"], [0.4, 1.0])


def test_pixels_that_are_not_finite_are_left_out_of_the_mean() -> None:
    image = np.ones((1, 6, 8), np.float32)
    image[0, 1, 1:3] = np.nan, np.inf
    image[0, 4:6, 6] = np.nan
    means = object_table(plane(), image)["mean_intensity_0"]
    assert np.isnan(means[0])
    assert means[1] == 1


def test_plane_without_objects_has_all_columns_and_no_rows() -> None:
    table = object_table(np.zeros((3, 4), int), np.ones((1, 3, 4)), {"Y": 1, "X": 1}, (2,), "Z")
    assert {len(column) for column in table.values()} == {0}
    assert "mean_intensity_0" in table


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_table_agrees_with_measuring_each_object_by_its_mask(
    height: int, width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 5, (height, width)) * 1_000_003
    image = rng.normal(size=(1, height, width))
    table = object_table(ids, image)
    assert table["label"].tolist() == [i for i in np.unique(ids) if i]
    for row, label in enumerate(table["label"]):
        mask = ids == label
        assert table["area_px"][row] == mask.sum()
        assert table["centroid_y"][row] == pytest.approx(np.nonzero(mask)[0].mean())
        assert table["mean_intensity_0"][row] == pytest.approx(image[0][mask].mean())


def test_wrong_arguments_are_named_with_what_was_received() -> None:
    with pytest.raises(InputError, match=r"ids have shape \(2, 3, 3\)"):
        object_table(np.zeros((2, 3, 3), int))
    with pytest.raises(InputError, match=r"image has shape \(6, 8\).*\(C, 6, 8\)"):
        object_table(plane(), np.zeros((6, 8)))
    with pytest.raises(InputError, match=r"index \(1,\) does not fit plane axes 'TZ'"):
        object_table(plane(), index=(1,), plane_axes="TZ")
    with pytest.raises(InputError, match="dtype float64"):
        object_table(np.zeros((3, 3)))
