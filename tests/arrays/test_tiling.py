"""Tiles cover the image, and stitching undoes cutting."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoscope.arrays.tiling import Stitcher, TileGrid, cut, tile_grid
from dinoscope.errors import InputError


def stitched(image: np.ndarray, grid: TileGrid) -> np.ndarray:
    stitcher = Stitcher(len(image), grid.shape, grid)
    for tile in grid.tiles:
        stitcher.add(tile, cut(image, grid, tile))
    return stitcher.result()


sides = st.integers(1, 1500)
options = st.sampled_from(
    [
        {},
        {"tile_min": 224, "tile_max": 224},
        {"tile_min": 112, "tile_max": 300, "margin": 30},
        {"tile_min": 64, "tile_max": 128, "patch": 16, "margin": 0},
        {"tile_min": 336, "tile_max": 560, "margin": 28, "knee": 2304},
        {"tile_min": 28, "tile_max": 560, "margin": 0, "knee": 1},
    ]
)


@settings(deadline=None)
@given(sides, sides, options)
def test_tiles_cover_the_image_in_whole_patches_with_the_margin(
    height: int, width: int, kwargs: dict[str, int]
) -> None:
    grid = tile_grid((height, width), **kwargs)
    patch, margin = kwargs.get("patch", 14), kwargs.get("margin", 14)
    for axis, length in enumerate((height, width)):
        side = grid.tile_shape[axis]
        starts = sorted({(t.y0, t.x0)[axis] for t in grid.tiles})
        assert side % patch == 0
        assert side >= 8 * patch or len(starts) > 1
        assert starts[0] == 0
        assert all(s % patch == 0 for s in starts)
        assert all(a + side - b >= margin for a, b in itertools.pairwise(starts))
        assert starts[-1] + side == grid.padded_shape[axis] >= length
        assert len(starts) == 1 or length > starts[-1]
    assert len(set(grid.tiles)) == len(grid.tiles)


@settings(deadline=None)
@given(sides)
def test_no_other_tile_size_needs_fewer_tokens(length: int) -> None:
    grid = tile_grid((length, 1))
    cost = len(grid.tiles) * grid.tile_shape[0]
    if length <= 560:
        assert cost == max(112, math.ceil(length / 14) * 14)
        return
    for side in range(448, 561, 14):
        count = 1 + math.ceil((math.ceil(length / 14) * 14 - side) / (side - 14))
        assert cost <= count * side


def cost(grid: TileGrid, knee: float) -> float:
    tokens = grid.tile_shape[0] * grid.tile_shape[1] / 14**2
    return len(grid.tiles) * tokens * (1 + tokens / knee)


@settings(deadline=None)
@given(sides, sides)
def test_no_other_tile_size_costs_less_than_a_twentieth_less(height: int, width: int) -> None:
    grid = tile_grid((height, width), tile_min=336, margin=28, knee=2304)
    for tall, wide in itertools.product(range(336, 561, 14), repeat=2):
        alone = {"patch": 14, "margin": 28}
        rows = tile_grid((height, 1), tile_min=tall, tile_max=max(tall, 112), **alone)
        columns = tile_grid((width, 1), tile_min=wide, tile_max=max(wide, 112), **alone)
        other = TileGrid(
            grid.shape,
            (rows.tile_shape[0], columns.tile_shape[0]),
            grid.shape,
            rows.tiles * len(columns.tiles),
        )
        if height > 560 or width > 560:
            assert cost(grid, 2304) <= cost(other, 2304) / 0.95 + 1e-6


@pytest.mark.parametrize(
    ("side", "tile", "count"), [(512, 518, 1), (1024, 364, 9), (2048, 434, 25), (4096, 350, 169)]
)
def test_attention_makes_smaller_tiles_cheaper_on_large_planes(
    side: int, tile: int, count: int
) -> None:
    grid = tile_grid((side, side), tile_min=336, margin=28, knee=2304)
    plain = tile_grid((side, side), margin=28)
    assert (grid.tile_shape, len(grid.tiles)) == ((tile, tile), count)
    assert cost(grid, 2304) <= (1 if side == 512 else 0.85) * cost(plain, 2304)


@given(sides, sides)
def test_a_narrow_range_gives_the_grid_of_fewest_tokens(height: int, width: int) -> None:
    options = {"tile_min": 224, "tile_max": 252, "margin": 28}  # of the embedded model
    assert tile_grid((height, width), **options, knee=1152) == tile_grid((height, width), **options)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 3))
def test_stitching_undoes_cutting(height: int, width: int, channels: int) -> None:
    image = np.random.default_rng(0).random((channels, height, width), dtype=np.float32)
    grid = tile_grid((height, width), tile_min=112, tile_max=140)
    assert np.abs(stitched(image, grid) - image).max() < 1e-6


@pytest.mark.parametrize("shape", [(1, 1), (1, 10_000), (10_000, 1), (561, 700), (1024, 1024)])
def test_extreme_and_common_shapes_come_back_whole(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).random((1, *shape), dtype=np.float32)
    assert np.abs(stitched(image, tile_grid(shape)) - image).max() < 1e-6


def test_weights_fall_off_linearly_in_the_overlap_and_are_one_elsewhere() -> None:
    grid = tile_grid((1024, 448))
    side = grid.tile_shape[0]
    second = grid.tiles[1].y0
    stitcher = Stitcher(1, (1024, 448), grid)
    stitcher.add(grid.tiles[0], np.ones((1, *grid.tile_shape), np.float32))
    column = stitcher.result()[0, :, 0]
    assert np.all(column[:second] == 1)
    assert np.all(column[side:] == 0)
    falls = np.diff(column[second:side])
    assert falls == pytest.approx(-1 / (side - second), abs=1e-6)


def test_padding_reflects_and_repeats_the_edge_where_the_image_is_too_small() -> None:
    image = np.arange(120, dtype=np.float32).reshape(1, 120, 1)
    grid = tile_grid((120, 1))
    tile = cut(image, grid, grid.tiles[0])
    assert tile.shape == (1, 126, 112)
    assert tile[0, 118:124, 0].tolist() == [118, 119, 118, 117, 116, 115]
    assert np.all(tile[0, 50] == 50)


def test_a_region_predicted_with_the_tiles_that_cover_it_equals_the_plane() -> None:
    image = np.random.default_rng(2).random((2, 1300, 1250), dtype=np.float32)
    grid = tile_grid((1300, 1250))
    region = (700, 100, 900, 800)
    tiles = grid.covering(region)
    assert 0 < len(tiles) < len(grid.tiles)
    y0, x0, y1, x1 = grid.bounds(tiles)
    part = image[:, y0:y1, x0:x1]
    stitcher = Stitcher(2, (200, 700), grid, region=region)
    for tile in tiles:
        stitcher.add(tile, cut(part, grid, tile, origin=(y0, x0)))
    assert np.array_equal(stitcher.result(), stitched(image, grid)[:, 700:900, 100:800])


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_an_empty_image_has_no_grid(shape: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="at least one pixel"):
        tile_grid(shape)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"tile_min": 600},
        {"tile_min": 14, "tile_max": 14},
        {"patch": 0},
        {"margin": -1},
        {"knee": 0},
    ],
)
def test_contradictory_options_are_refused(kwargs: dict[str, int]) -> None:
    with pytest.raises(InputError, match="expected"):
        tile_grid((100, 100), **kwargs)


def test_maps_of_another_size_are_refused() -> None:
    grid = tile_grid((100, 100))
    with pytest.raises(InputError, match=r"expected \(2, 112, 112\)"):
        Stitcher(2, (100, 100), grid).add(grid.tiles[0], np.zeros((2, 100, 100)))
    with pytest.raises(InputError, match="result has shape"):
        Stitcher(2, (100, 99), grid)
