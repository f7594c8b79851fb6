"""What a run will cost on this machine, from one timed tile."""

from __future__ import annotations

import math
from collections.abc import Mapping

from dinoscope.arrays.axes import clip_region, plane_count
from dinoscope.arrays.resample import needed_window, scaled_shape
from dinoscope.config import PredictOptions
from dinoscope.engine.lent import lender_of
from dinoscope.engine.opening import open_runner
from dinoscope.engine.scale import known_zoom, looking_tiles, zoom_of_diameter
from dinoscope.engine.wholeview import split_tasks, view_shape
from dinoscope.models.model import Model
from dinoscope.types import ImageInput

#: What a run takes before its first tile.
START_S = 0.3


def estimate_cost(
    image: ImageInput,
    model: Model,
    options: PredictOptions,
    diameter_px: float | None = None,
) -> Mapping[str, float]:
    """Seconds and megabytes that a run will take here, from one timed tile of this model.

    Parameters
    ----------
    diameter_px : float, optional
        What an earlier run found in this image, in pixels; used where the run will look for the
        diameter itself.

    Returns
    -------
    Mapping
        ``seconds``, ``memory_mb`` (of the worker, beyond what it holds now), ``tiles``, ``planes``;
        ``at_least`` is 1 where the diameter is not known yet: small objects take more.
    """
    model = lender_of(model, options) or model
    runner, _ = open_runner(model, options)
    shape = (image.size("Y"), image.size("X"))
    region = clip_region(image, options.region) if options.region else (0, 0, *shape)
    card = model.card
    known = known_zoom(card, image, options)
    zoom = zoom_of_diameter(card, diameter_px) if known is None else known[0]
    looks = looking_tiles(runner, shape) if known is None else 0
    scaled = scaled_shape(shape, zoom)
    window = needed_window(scaled, shape, region) if options.region else (0, 0, *scaled)
    grid = runner.grid(scaled)
    near, whole = split_tasks(card, options.tasks)
    through = bool(near or {"pca", "classification"} & set(options.tasks))
    tiles = len(grid.covering(window)) if through else 0
    views = len(runner.grid(view_shape(runner, shape)).tiles) if whole else 0
    planes = 1 if options.plane is not None else plane_count(image)
    dense = near + whole
    per_tile = runner.seconds_per_tile(grid.tile_shape, near or whole)
    maps = sum(card.heads[t].channels if card.heads[t].kind == "dense" else 1 for t in dense)
    model_px = (window[2] - window[0]) * (window[3] - window[1])
    native_px = (region[2] - region[0]) * (region[3] - region[1])
    dim = model.token_dim if "classification" in options.tasks else model.backbone.embed_dim
    megabytes = (
        model_px * (3 + maps) * 4 + native_px * (4 * maps + 24) + model_px / 196 * dim * 6 + 60e6
    ) / 1e6
    # Reading, resampling and decoding objects: measured at about 0.35 µs per pixel on one core.
    seconds = (
        planes * ((tiles + views) * per_tile + 0.35e-6 * native_px) + looks * per_tile + START_S
    )
    return {
        "seconds": seconds,
        "memory_mb": math.ceil(megabytes),
        "tiles": float(tiles + views),
        "planes": float(planes),
        "at_least": float(known is None and diameter_px is None),
    }
