"""Layers to images and back to their place."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from dinoscope.errors import AxesError, InputError
from dinoscope.widgets._layers import (
    ChannelStack,
    current_plane,
    guess_axes,
    make_source,
    parse_axes,
    pixel_sizes_um,
    place,
    spatial_kwargs,
)


def corners(layer: Any) -> np.ndarray:
    """World positions of all corners of a layer's pixels."""
    shape = np.array(layer.data.shape[: layer.ndim])
    grid = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in shape], indexing="ij"), axis=-1)
    return np.array([layer.data_to_world(p) for p in grid.reshape(-1, layer.ndim)])


@pytest.mark.parametrize(
    ("shape", "labels", "expected"),
    [
        ((8, 9), None, "YX"),
        ((5, 40, 50), None, "ZYX"),
        ((4, 5, 40, 50), None, "TZYX"),
        ((2, 4, 5, 40, 50), None, "QTZYX"),
        ((5, 40, 50), ("t", "y", "x"), "TYX"),
        ((5, 40, 50), ("Channel", "Y", "X"), "CYX"),
        ((40, 50, 5), ("row", "column", "depth"), "YXZ"),
        ((3, 4, 5, 40, 50), ("time", "z", "c", "y", "x"), "TZCYX"),
        ((40, 50, 3), None, "YXC"),
    ],
)
def test_axes_come_from_labels_else_from_napari_s_order(
    shape: tuple[int, ...], labels: Any, expected: str
) -> None:
    layer = Image(np.zeros(shape, np.uint8), axis_labels=labels, rgb=False)
    assert guess_axes(layer) == expected


def test_one_meaning_for_two_axes_is_refused() -> None:
    layer = Image(np.zeros((4, 5, 6)), axis_labels=("z", "depth", "x"))
    with pytest.raises(AxesError, match="axis labels"):
        guess_axes(layer)


def test_typed_axes_must_fit_the_layer() -> None:
    layer = Image(np.zeros((4, 5, 6)))
    assert parse_axes("tyx", layer) == "TYX"
    with pytest.raises(AxesError, match="'YX'"):
        parse_axes("YX", layer)


def test_rgb_samples_are_channels_and_no_dimension() -> None:
    layer = Image(np.zeros((4, 20, 30, 3), np.uint8), rgb=True)
    source = make_source([layer])
    assert source.image.axes == "ZYXS"
    assert source.layer_axes == "ZYX"
    assert place(source).shape == (4, 20, 30)


def test_multiscale_is_read_at_full_size() -> None:
    levels = [np.zeros((64, 48)), np.zeros((32, 24))]
    source = make_source([Image(levels, multiscale=True)])
    assert source.image.shape == (64, 48)


def test_dask_planes_are_computed_only_when_asked_for() -> None:
    computed: list[int] = []

    def plane(block_info: Any = None) -> np.ndarray:
        computed.append(block_info[None]["chunk-location"][0])
        return np.full((1, 16, 18), block_info[None]["chunk-location"][0], np.uint16)

    stack = da.map_blocks(plane, chunks=((1,) * 6, (16,), (18,)), dtype=np.uint16)
    layer = Image(stack, contrast_limits=(0, 6), rgb=False)
    computed.clear()
    source = make_source([layer])
    place(source)
    pixel_sizes_um(layer, "ZYX")
    assert computed == []
    assert np.asarray(source.image.data[3]).max() == 3
    assert computed == [3]


@pytest.mark.parametrize(
    ("unit", "scale", "expected"),
    [("um", 0.5, 0.5), ("nm", 500, 0.5), ("mm", 0.0005, 0.5), ("micrometer", -0.5, 0.5)],
)
def test_pixel_size_in_micrometres_whatever_the_unit(
    unit: str, scale: float, expected: float
) -> None:
    layer = Image(np.zeros((8, 9)), scale=(scale, scale), units=(unit, unit))
    assert pixel_sizes_um(layer, "YX") == pytest.approx({"Y": expected, "X": expected})


def test_pixels_as_unit_mean_an_unknown_size() -> None:
    assert pixel_sizes_um(Image(np.zeros((8, 9)), scale=(0.5, 0.5)), "YX") == {}


def test_rotation_does_not_change_the_pixel_size_but_an_affine_does() -> None:
    layer = Image(np.zeros((8, 9)), scale=(0.5, 0.5), units=("um", "um"), rotate=30)
    assert pixel_sizes_um(layer, "YX") == pytest.approx({"Y": 0.5, "X": 0.5})
    layer.affine = np.diag([2.0, 2.0, 1.0])
    assert pixel_sizes_um(layer, "YX") == pytest.approx({"Y": 1.0, "X": 1.0})


def test_time_is_no_length() -> None:
    layer = Image(
        np.zeros((3, 8, 9)),
        scale=(5, 0.5, 0.5),
        units=("s", "um", "um"),
        axis_labels=("t", "y", "x"),
    )
    assert pixel_sizes_um(layer, "TYX") == pytest.approx({"Y": 0.5, "X": 0.5})


def test_layers_of_one_geometry_become_channels_read_one_by_one() -> None:
    layers = [Image(np.full((4, 8, 9), i, np.uint8), name=str(i)) for i in range(3)]
    source = make_source(layers)
    assert source.image.axes == "CZYX"
    assert source.image.shape == (3, 4, 8, 9)
    assert source.layer_axes == "ZYX"
    stack = source.image.data
    assert stack[1, 2].tolist() == np.ones((8, 9)).tolist()
    assert stack[:, 2, :4, :5].shape == (3, 4, 5)
    assert stack[..., 0].shape == (3, 4, 8)
    assert stack[[0, 2], 1].max() == 2
    assert stack[1:, 0, 0, 0].tolist() == [1, 2]


def test_channel_stack_takes_the_wider_type() -> None:
    stack = ChannelStack([np.zeros((3, 3), np.uint8), np.full((3, 3), 300, np.uint16)])
    assert stack.dtype == np.uint16
    assert stack[1, 0, 0] == 300


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"data": np.zeros((8, 10))}, "shape"),
        ({"scale": (2, 1)}, "scale"),
        ({"translate": (0, 5)}, "translate"),
        ({"rotate": 10}, "rotate"),
        ({"shear": (0.1,)}, "shear"),
        ({"units": ("um", "um")}, "unit"),
        ({"affine": np.diag([2.0, 1, 1])}, "affine"),
    ],
)
def test_channels_of_another_geometry_are_refused(changes: dict[str, Any], what: str) -> None:
    first = Image(np.zeros((8, 9)), name="a")
    other = Image(**({"data": np.zeros((8, 9)), "name": "b"} | changes))
    with pytest.raises(InputError, match=what):
        make_source([first, other])


def test_nothing_chosen_says_what_to_do() -> None:
    with pytest.raises(InputError, match="no image layer"):
        make_source([])


# -- where results belong ------------------------------------------------------------------------

GEOMETRY: dict[str, Any] = {
    "scale": (2.0, 0.5, 0.25),
    "translate": (10.0, -5.0, 3.0),
    "rotate": (10, 20, 30),
    "shear": (0.1, 0.2, 0.05),
    "affine": np.array([[1, 0.1, 0, 4], [0, 1, 0, 5], [0, 0.2, 1, 6], [0, 0, 0, 1.0]]),
    "units": ("um", "um", "um"),
    "axis_labels": ("z", "y", "x"),
}


def test_a_result_of_the_whole_has_exactly_the_source_s_geometry() -> None:
    source = make_source([Image(np.zeros((4, 8, 9)), **GEOMETRY)])
    placement = place(source)
    result = Image(np.zeros(placement.shape), **placement.kwargs)
    layer = source.layer
    for name in ("scale", "translate", "rotate", "shear"):
        np.testing.assert_array_equal(getattr(result, name), getattr(layer, name))
    np.testing.assert_array_equal(result.affine.affine_matrix, layer.affine.affine_matrix)
    assert result.units == layer.units
    assert result.axis_labels == layer.axis_labels
    np.testing.assert_allclose(corners(result), corners(layer))


def test_the_affine_is_a_copy() -> None:
    layer = Image(np.zeros((8, 9)), affine=np.diag([2.0, 2, 1]))
    other = Image(np.zeros((8, 9)), **spatial_kwargs(layer))
    other.affine.scale = [5, 5]
    assert layer.affine.scale.tolist() == [2, 2]


def test_a_plane_and_a_region_lie_where_they_were_cut() -> None:
    source = make_source([Image(np.zeros((4, 8, 9)), **GEOMETRY)])
    placement = place(source, plane=(2,), region=(1, 3, 5, 9))
    assert placement.shape == (1, 4, 6)
    result = Image(np.zeros(placement.shape), **placement.kwargs)
    np.testing.assert_allclose(
        result.data_to_world((0, 0, 0)), source.layer.data_to_world((2, 1, 3))
    )
    np.testing.assert_allclose(
        result.data_to_world((0, 3, 5)), source.layer.data_to_world((2, 4, 8))
    )
    assert placement.key({"Z": 2}) == (0, slice(None), slice(None))


def test_leading_channels_are_dropped() -> None:
    layer = Image(np.zeros((3, 4, 8, 9)), scale=(1, 2, 0.5, 0.25), axis_labels=("c", "z", "y", "x"))
    placement = place(make_source([layer]))
    assert placement.axes == "ZYX"
    assert placement.shape == (4, 8, 9)
    assert np.asarray(placement.kwargs["scale"]).tolist() == [2, 0.5, 0.25]


def test_channels_between_planes_are_covered_by_one_element() -> None:
    layer = Image(
        np.zeros((4, 3, 8, 9)),
        scale=(2, 1, 0.5, 0.25),
        translate=(1, 2, 3, 4),
        axis_labels=("z", "c", "y", "x"),
    )
    placement = place(make_source([layer]))
    assert placement.shape == (4, 1, 8, 9)
    result = Image(np.zeros(placement.shape), **placement.kwargs)
    np.testing.assert_allclose(corners(result), corners(layer))
    for channel in range(3):
        world = layer.data_to_world((1, channel, 0, 0))
        assert np.round(result.world_to_data(world)).tolist() == [1, 0, 0, 0]
    assert placement.key({"Z": 3}) == (3, 0, slice(None), slice(None))


def test_a_height_map_covers_its_stack() -> None:
    layer = Image(np.zeros((2, 6, 8, 9)), scale=(1, 2, 0.5, 0.5))
    placement = place(make_source([layer]), collapse="Z")
    assert placement.shape == (2, 1, 8, 9)
    result = Image(np.zeros(placement.shape), **placement.kwargs)
    np.testing.assert_allclose(corners(result), corners(layer))


def test_rows_and_columns_in_another_order_are_turned() -> None:
    layer = Image(np.zeros((9, 8, 4)), axis_labels=("x", "y", "z"))
    placement = place(make_source([layer]))
    assert placement.axes == "XYZ"
    plane = np.arange(72).reshape(8, 9)
    array = np.zeros(placement.shape)
    array[placement.key({"Z": 1})] = placement.oriented(plane)
    assert array[3, 2, 1] == plane[2, 3]


def test_current_plane_follows_the_sliders_in_any_unit() -> None:
    viewer = ViewerModel()
    viewer.add_image(np.zeros((40, 20, 20)), scale=(0.5, 1, 1), units=("um", "um", "um"))
    layer = viewer.add_image(
        np.zeros((10, 20, 20)), scale=(0.002, 0.001, 0.001), units=("mm", "mm", "mm")
    )
    source = make_source([layer])
    viewer.dims.set_point(0, 6.0)
    assert current_plane(viewer, source) == (3,)
    viewer.dims.set_point(0, 1e9)
    assert current_plane(viewer, source) == (9,)
