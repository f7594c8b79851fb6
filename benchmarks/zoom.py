"""Does the estimated diameter hold? The same images at half, full and double size."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile

from benchmarks import sets
from benchmarks.rows import Row
from benchmarks.settings import Kept, Settings, model_key, say

ZOOMS = (0.5, 1.0, 2.0)


def rows(settings: Settings) -> Iterator[Row]:
    """AP@0.5 lost at half and double size, against the image as it is."""
    kept = Kept(settings, "zoom")
    found = sets.index(settings, "dsb2018", "dev-val")
    say(f"{len(found)} images at {', '.join(map(str, ZOOMS))} of their size")
    label = f"{model_key(settings.model)}, {len(found)} images"
    value = {
        z: kept.get(f"{label}, zoom {z}", lambda z=z: score(settings, found, z)) for z in ZOOMS
    }
    losses = []
    for zoom in ZOOMS:
        mean = sets.mean_over(value[zoom], found)
        assert mean is not None
        yield Row(
            f"dsb2018 at {zoom}× of its size, diameter automatic, AP@0.5 (more)",
            mean.value,
            low=mean.low,
            high=mean.high,
        )
        losses.append(mean.value)
    worst = losses[1] - min(losses[0], losses[2])
    yield Row("AP@0.5 lost at 0.5× or 2×, the worse (less)", worst, must=0.05, aim=0.02)


def score(settings: Settings, found: list[dict[str, str]], zoom: float) -> dict[str, object]:
    """Per-image scores at one zoom."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in ("images", "labels"):
            (folder / kind).mkdir()
        for row in found:
            write(settings, row, folder, zoom)
        scores = sets.predicted_scores(settings, folder, settings.model)
    return {"per_image": [{k: r[k] for k in ("image", "ap50")} for r in scores["per_image"]]}


def write(settings: Settings, row: dict[str, str], folder: Path, zoom: float) -> None:
    """One image and its labels resampled: pixels linearly, ids by the nearest pixel."""
    from dinoscope.arrays.axes import read_plane
    from dinoscope.arrays.files import read_image
    from dinoscope.arrays.resample import resample, scaled_shape

    pixels = read_plane(read_image(sets.image_file(settings, "dsb2018", row["id"])), ())
    ids = read_plane(read_image(sets.image_file(settings, "dsb2018", row["id"], "labels")), ())[0]
    shape = scaled_shape(ids.shape, zoom)
    small = np.rint(resample(pixels, shape)).clip(0, 255).astype(np.uint8)
    y = ((np.arange(shape[0]) + 0.5) * ids.shape[0] / shape[0]).astype(int)
    x = ((np.arange(shape[1]) + 0.5) * ids.shape[1] / shape[1]).astype(int)
    colour = len(small) == 3
    tifffile.imwrite(
        folder / "images" / f"{row['id']}.tif",
        small.transpose(1, 2, 0) if colour else small[0],
        photometric="rgb" if colour else "minisblack",
    )
    tifffile.imwrite(folder / "labels" / f"{row['id']}.tif", ids[y[:, None], x].astype(np.uint16))
