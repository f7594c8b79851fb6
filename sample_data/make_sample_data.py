"""Make the sample images that ship with dinoscope: ``python sample_data/make_sample_data.py``.

Everything in them is drawn by :mod:`dinoscope.datasets.synthetic` from fixed seeds, so the truth is
exact and the files may be used for anything (CC0).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dinoscope.arrays.files import write_image
from dinoscope.datasets import synthetic
from dinoscope.datasets.samples import FOLDER
from dinoscope.datasets.synthetic.optics import Optics, blur, expose
from dinoscope.datasets.synthetic.raster import rasterize
from dinoscope.datasets.synthetic.shapes import Bodies, draw_bodies, scatter
from dinoscope.datasets.synthetic.textures import fractal_noise

FRAMES = 8
SHAPE = (192, 192)
NUCLEUS_PX = 20.0
PIXEL_UM = 0.5


class Sample(NamedTuple):
    """One file: pixels, their axes and their size."""

    pixels: np.ndarray
    axes: str
    pixel_size_um: Mapping[str, float]


def make_all() -> dict[str, Sample]:
    """Every sample by file name."""
    return {**make_zstack(), **make_timelapse()}


def make_zstack() -> dict[str, Sample]:
    """A focus series of stained cells on a sloping, rough surface."""
    made = synthetic.make(
        "zstack",
        SHAPE,
        seed=11,
        diameter=24,
        planes=15,
        step_um=1.0,
        relief="fractal",
        coverage=0.25,
        blur_range_px=9.0,
        blur_px=0.6,
        noise=0.02,
        illumination=0.1,
    )
    sizes = {"Z": 1.0, "Y": PIXEL_UM, "X": PIXEL_UM}
    flat = {"Y": PIXEL_UM, "X": PIXEL_UM}
    if made.height_um is None:
        raise RuntimeError("the generator made a stack without a height map")
    return {
        "zstack.tif": Sample(_to_uint8(made.image), "ZYX", sizes),
        "zstack_masks.tif": Sample(made.instances.astype(np.uint16), "YX", flat),
        "zstack_height.tif": Sample(made.height_um.astype(np.float32), "YX", flat),
    }


def make_timelapse() -> dict[str, Sample]:
    """Crawling cells in two channels, cell bodies and nuclei; one of them divides half-way."""
    rng = np.random.default_rng(23)
    y, x, radius = scatter(rng, SHAPE, np.full(26, NUCLEUS_PX / 2), spacing=1.5)
    cells = draw_bodies(rng, y, x, radius, elongation=0.25, irregularity=0.03)
    heading = rng.uniform(0, 2 * np.pi, len(cells) + 1)
    speed = rng.uniform(0.5, 2.5, len(cells) + 1)
    level = rng.uniform(0.5, 1.0, len(cells) + 1)
    divides = int(np.hypot(y - SHAPE[0] / 2, x - SHAPE[1] / 2).argmin())
    optics = Optics(blur_px=1.0, photons=900.0, read_noise=0.01, illumination=0.15)
    frames = np.empty((FRAMES, 2, *SHAPE), np.uint8)
    masks = np.zeros((FRAMES, *SHAPE), np.uint16)
    for frame in range(FRAMES):
        if frame == FRAMES // 2:
            cells = _divide(cells, divides)
        count = len(cells)
        nuclei = rasterize(cells, SHAPE)
        # The layout numbers what is in view; the position in `cells` stays the same over time.
        masks[frame] = np.concatenate([[0], nuclei.index + 1])[nuclei.ids]
        texture = 1 + 0.15 * fractal_noise(rng, SHAPE, 6.0, roughness=0.8)
        stain = nuclei.lookup(level[:count][nuclei.index]) * (1 - 0.3 * nuclei.rho**2) * texture
        bodies = rasterize(cells.scaled(2.1), SHAPE, smallest=0.05)
        edge = np.exp(-(((bodies.rho - 0.93) / 0.08) ** 2)) * (bodies.ids > 0)
        body = bodies.lookup(0.25 + 0.3 * level[:count][bodies.index]) * (0.7 + 0.3 * texture)
        body = body * (1 - 0.4 * (nuclei.ids > 0)) + 0.35 * edge
        for channel, scene in enumerate((body, stain)):
            scene = (0.05 + 0.8 * scene).astype(np.float32)
            frames[frame, channel] = _to_uint8(expose(rng, blur(scene, 0.5), optics))
        heading += rng.normal(0, 0.5, len(heading))
        cells = replace(
            cells,
            y=cells.y + speed[:count] * np.sin(heading[:count]),
            x=cells.x + speed[:count] * np.cos(heading[:count]),
            angle=cells.angle + rng.normal(0, 0.08, count),
        )
    sizes = {"Y": PIXEL_UM, "X": PIXEL_UM}
    return {
        "timelapse.tif": Sample(frames, "TCYX", sizes),
        "timelapse_masks.tif": Sample(masks, "TYX", sizes),
    }


def _divide(cells: Bodies, which: int) -> Bodies:
    """Replace one body by two smaller ones; the second gets the next free number."""
    order = np.append(np.arange(len(cells)), which)
    both = cells.take(order)
    pair = np.array([which, len(cells)])
    apart = np.array([-1.0, 1.0]) * 0.55 * NUCLEUS_PX
    y, x, radius = both.y.copy(), both.x.copy(), both.radius.copy()
    y[pair] += apart * np.sin(cells.angle[which])
    x[pair] += apart * np.cos(cells.angle[which])
    radius[pair] *= 0.8
    return replace(both, y=y, x=x, radius=radius)


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return np.asarray(np.rint(np.clip(image, 0, 1) * 255), dtype=np.uint8)


def main() -> None:
    """Write the files into the package (or another folder)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=FOLDER)
    folder = parser.parse_args().output
    for name, sample in make_all().items():
        path = folder / name
        write_image(path, sample.pixels, sample.axes, sample.pixel_size_um)
        print(f"{path}: {sample.axes} {sample.pixels.shape} {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
