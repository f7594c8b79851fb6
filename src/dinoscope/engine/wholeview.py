"""Heads that are shown all of a plane at once.

Heights are relative: which place is the lowest, and how much blur is how much height, only the
whole of a surface tells. So a depth head may ask for a plane that fits into one of its tiles, as
estimators of depth from one photograph do (Ranftl et al. 2020, arXiv:1907.01341); its map is as
fine as that view. Other heads see objects at their training size, a tile at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from dinoscope.arrays.axes import Region
from dinoscope.arrays.resample import needed_window, resample, scaled_shape
from dinoscope.arrays.tiling import LEAST_PATCHES
from dinoscope.engine.dense import Runner
from dinoscope.engine.scale import Prepared
from dinoscope.models.card import ModelCard

#: Image pixels that are read and normalised at once.
BAND_PIXELS = 4_000_000


def split_tasks(card: ModelCard, tasks: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of `tasks`, the dense heads at the scale of objects, and those that see all of a plane."""
    dense = [t for t in tasks if t in card.heads and not card.heads[t].pooled]
    near = tuple(t for t in dense if card.heads[t].view == "scale")
    return near, tuple(t for t in dense if card.heads[t].view == "whole")


def view_shape(runner: Runner, shape: tuple[int, int]) -> tuple[int, int]:
    """``(Y, X)`` in model pixels of the view of a plane of `shape`: the long side is that of the
    smallest tile, which is as large as a crop in training. With tiles of 224 px or more, 1024 × 512
    pixels are seen as 224 × 112; a plane that is narrower still takes several tiles.
    """
    side, _ = runner.limits.tile_range(*runner.model.card.tile)
    least = LEAST_PATCHES * runner.model.backbone.patch
    return scaled_shape(shape, max(side / max(shape), least / min(shape)))


def whole_view_maps(
    prepared: Prepared,
    runner: Runner,
    index: tuple[int, ...],
    tasks: Sequence[str],
    region: Region,
) -> dict[str, np.ndarray]:
    """Maps of heads that see all of a plane.

    Parameters
    ----------
    prepared : Prepared
        The image, and how it becomes model pixels.
    index : tuple of int
        The plane.
    tasks : sequence of str
        Heads; nothing is read where there is none.
    region : Region
        What is wanted of the plane, ``(y0, x0, y1, x1)`` in image pixels; all of it is looked at.

    Returns
    -------
    dict of (K, y1 - y0, x1 - x0) float32 arrays

    Raises
    ------
    DeviceError
        The card is gone, or memory does not suffice for the smallest tile.
    """
    if not tasks:
        return {}
    seen = view_shape(runner, prepared.shape)
    maps = runner.dense_maps(_view(prepared, index, seen), tasks)
    y0, x0, y1, x1 = needed_window(seen, prepared.shape, region)
    return {
        name: resample(
            found[:, y0:y1, x0:x1],
            prepared.shape,
            shape=seen,
            origin=(y0, x0),
            window=region,
        )
        for name, found in maps.items()
    }


def _view(prepared: Prepared, index: tuple[int, ...], seen: tuple[int, int]) -> np.ndarray:
    """``(3, *seen)`` model pixels, read in bands so that a large plane never lies in memory."""
    count = 1 if prepared.filtered else -(-prepared.shape[0] * prepared.shape[1] // BAND_PIXELS)
    edges = np.linspace(0, seen[0], min(count, seen[0]) + 1).astype(int)
    bands = [
        prepared.seen_as(index, seen, (int(y0), 0, int(y1), seen[1])) for y0, y1 in pairwise(edges)
    ]
    return np.concatenate(bands, axis=1)
