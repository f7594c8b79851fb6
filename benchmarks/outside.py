"""Made images: rods as in training; from outside of it, packed rods and height maps.

Training draws the generator's parameters from its own ranges with seeds below 2³¹. Here the seeds
lie above, and parameters named below lie beyond the range that the generator draws from.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from benchmarks import sets
from benchmarks.rows import Row
from benchmarks.settings import Settings, model_key, say

SHAPE = (384, 384)
COUNT = 24
FIRST_SEED = 2**31
#: Drawn in training: aspect 1.8–6.5, bend 0–0.4, coverage 0.1–0.8, disorder 0.02–0.35; fields of
#: 256². The diameter is not outside: much thinner rods could not be told apart by eye.
RODS = {
    "diameter": (24.0, 40.0),
    "aspect": (6.8, 9.0),
    "bend": (0.42, 0.55),
    "coverage": (0.82, 0.95),
    "disorder": (0.37, 0.45),
}
#: Drawn in training: diameter 16–80, blur_range_px 2.5–10, texture_px 1.5–7, shading 0.2–1.
SURFACES = {
    "diameter": (85.0, 120.0),
    "blur_range_px": (10.5, 14.0),
    "texture_px": (7.2, 9.0),
    "shading": (0.0, 0.15),
}


def parameters(ranges: dict[str, tuple[float, float]], seed: int) -> dict[str, Any]:
    """One value of each, uniform in its range."""
    rng = np.random.default_rng(seed)
    return {name: float(rng.uniform(*span)) for name, span in ranges.items()}


def rods(number: int) -> Any:
    """A packed field of rods, the looks in turn."""
    from dinoscope.datasets.synthetic import make
    from dinoscope.datasets.synthetic.rods import LOOKS

    seed = FIRST_SEED + number
    look = LOOKS[number % len(LOOKS)]
    return make("rods", SHAPE, seed, arrangement="packed", look=look, **parameters(RODS, seed))


def trained_rods(arrangement: str, number: int) -> Any:
    """Rods by parameters as in training, the looks in turn."""
    from dinoscope.datasets.synthetic import make
    from dinoscope.datasets.synthetic.rods import LOOKS

    look = LOOKS[number % len(LOOKS)]
    return make("rods", (256, 256), FIRST_SEED + number, arrangement=arrangement, look=look)


def surface(number: int) -> Any:
    """A rough surface, the reliefs in turn."""
    from dinoscope.datasets.synthetic import make
    from dinoscope.datasets.synthetic.heights import RELIEFS

    seed = FIRST_SEED + number
    relief = RELIEFS[number % len(RELIEFS)]
    return make("surface", SHAPE, seed, relief=relief, **parameters(SURFACES, seed))


def rows(settings: Settings) -> Iterator[Row]:
    """AP@0.5 on packed rods; depth errors over those of the mean."""
    count = min(COUNT, settings.images or COUNT)
    say(f"{count} fields of rods and {count} surfaces through {model_key(settings.model)}")
    with tempfile.TemporaryDirectory() as name:
        scores = _scores(settings, Path(name) / "rods", "instance", [rods(i) for i in range(count)])
        names = [{"id": f"{i:03d}"} for i in range(count)]
        mean = sets.mean_over(scores, names)
        assert mean is not None
        yield Row(
            "packed rods outside the trained parameters, AP@0.5 (more)",
            mean.value,
            must=0.80,
            aim=0.92,
            low=mean.low,
            high=mean.high,
        )
        from dinoscope.datasets.synthetic.rods import ARRANGEMENTS

        for arrangement in ARRANGEMENTS:
            made = [trained_rods(arrangement, i) for i in range(count)]
            scores = _scores(settings, Path(name) / arrangement, "instance", made)
            mean = sets.mean_over(scores, names)
            assert mean is not None
            bar = f"rods as in training, {arrangement}, AP@0.5 (more)"
            yield Row(bar, mean.value, low=mean.low, high=mean.high)
        made = [surface(i) for i in range(count)]
        scores = _scores(settings, Path(name) / "surfaces", "depth", made)
        for metric, how in (
            ("rmse_over_mean", "as it is"),
            ("rmse_fit_over_mean", "scale and offset fitted"),
        ):
            mean = sets.mean_over(scores, names, metric)
            assert mean is not None
            yield Row(
                f"height maps outside the trained parameters, {how}, RMSE over the mean's (less)",
                mean.value,
                must=0.40,
                aim=0.20,
                low=mean.low,
                high=mean.high,
            )


def _scores(settings: Settings, folder: Path, task: str, made: list[Any]) -> dict[str, Any]:
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number, image in enumerate(made):
        camera = (np.clip(image.image[0], 0, 1.5) * 40_000).astype(np.uint16)
        truth = image.depth if task == "depth" else image.instances.astype(np.uint16)
        tifffile.imwrite(folder / "images" / f"{number:03d}.tif", camera)
        tifffile.imwrite(folder / "labels" / f"{number:03d}.tif", truth)
    return sets.predicted_scores(settings, folder, settings.model, task)
