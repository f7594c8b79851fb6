"""Stained tissue sections."""

from __future__ import annotations

import numpy as np

from dinoscope.datasets.synthetic.image import CELL, NUCLEUS, SyntheticImage
from dinoscope.datasets.synthetic.optics import draw_optics
from dinoscope.datasets.synthetic.raster import rasterize, seams
from dinoscope.datasets.synthetic.shapes import (
    Bodies,
    draw_bodies,
    draw_outlines,
    draw_radii,
    join,
    scatter,
)
from dinoscope.datasets.synthetic.staining import (
    EOSIN,
    HEMATOXYLIN,
    finish,
    jitter,
    nuclear_dye,
    transmit,
)
from dinoscope.datasets.synthetic.textures import Shape, fibres, fractal_noise, smooth_noise

STAINS = ("he", "purple", "pale")


def tissue(
    rng: np.random.Generator,
    shape: Shape,
    diameter: float,
    *,
    coverage: float | None = None,
    stain: str | None = None,
    colour: bool | None = None,
    fibrous: float | None = None,
    blur_px: float | None = None,
    noise: float | None = None,
    illumination: float | None = None,
) -> SyntheticImage:
    """Stained tissue: crowded nuclei of several populations in fibrous stroma, with lumens.

    Parameters
    ----------
    diameter : float
        Of the nuclei (the labelled objects), pixels.
    coverage : float
        Share of the field that nuclei cover, 0 to about 0.6.
    stain : str
        ``"he"`` (purple nuclei, pink rest), ``"purple"`` (hematoxylin only) or ``"pale"``.
    colour : bool
        False gives one grey channel.
    fibrous : float
        Strength of the stroma's fibres, 0 to 1.
    """
    optics = draw_optics(
        rng,
        blur_px=blur_px,
        noise=noise,
        illumination=illumination,
        blur_range=(0.4, float(np.clip(0.08 * diameter, 0.9, 2.2))),
    )
    cover = float(rng.uniform(0.08, 0.5)) if coverage is None else coverage
    bodies = _populations(rng, shape, diameter, cover)
    layout = rasterize(bodies, shape)
    chosen = str(rng.choice(STAINS, p=[0.5, 0.3, 0.2])) if stain is None else stain
    strands = float(rng.uniform(0, 0.5)) if fibrous is None else fibrous
    semantic = np.where(layout.ids > 0, NUCLEUS, 0).astype(np.uint8)

    ground = np.float32(rng.uniform(0.15, 0.45)) * (
        1 + np.float32(0.35) * fractal_noise(rng, shape, 3 * diameter, roughness=0.7)
    )
    ground += np.float32(0.3 * strands) * fibres(rng, shape, max(diameter / 3, 3))
    if rng.random() < 0.4:  # cell bodies around the nuclei
        cells = rasterize(bodies.scaled(float(rng.uniform(1.4, 1.9))), shape, smallest=0.1)
        body = cells.ids > 0
        ground += np.float32(rng.uniform(0.05, 0.35)) * body
        ground -= np.float32(rng.uniform(0, 0.2)) * seams(cells.ids)
        semantic[body & (layout.ids == 0)] = CELL
    if rng.random() < 0.6:  # lumens, fat and gaps are white
        gaps = smooth_noise(rng, shape, rng.uniform(2, 6) * diameter) - rng.uniform(0.3, 1.8)
        ground *= 1 - np.clip(gaps * np.float32(rng.uniform(2, 8)), 0, 1)
        semantic[(gaps > 0.3) & (semantic == CELL)] = 0
    ground = np.maximum(ground, 0)
    if chosen == "pale":
        ground *= np.float32(0.3)

    dye = nuclear_dye(rng, layout, diameter)
    blue = jitter(rng, HEMATOXYLIN)
    pink = blue * np.float32(0.9) if chosen == "purple" else jitter(rng, EOSIN)
    strength = np.float32(rng.uniform(0.6, 1.7))
    background_dye = np.float32(rng.uniform(0.02, 0.15)) + ground * np.float32(
        0.45 if chosen == "purple" else 0.1
    )
    inside = np.minimum(dye * 2, 1)
    hematoxylin = dye * strength + background_dye * (1 - inside)
    eosin = ground * (1 - np.float32(0.6) * inside) * np.float32(rng.uniform(0.5, 1.3))
    image = transmit(rng, [(blue, hematoxylin), (pink, eosin)], optics)
    return finish(rng, image, layout, semantic, "tissue", colour, diameter, (5.0, 9.0))


def _populations(rng: np.random.Generator, shape: Shape, diameter: float, cover: float) -> Bodies:
    """Round nuclei in groups, thin stromal ones, small dark round ones, palisades along arcs."""
    share = rng.dirichlet((1.5, 1.0, 0.7, 0.8))
    groups: list[Bodies] = []
    plans = (
        (1.2, 0.2, 0.15, 0.0, int(rng.choice([0, 2, 4]))),
        (0.95, 0.15, 0.75, 0.7, 0),
        (0.8, 0.1, 0.05, 0.0, int(rng.choice([0, 2]))),
    )
    for part, (size, spread, elongation, alignment, clusters) in zip(share, plans, strict=False):
        if groups and part * cover < 0.01:
            continue
        radii = draw_radii(
            rng, shape, size * diameter, coverage=float(part * cover), spread=spread, at_most=250
        )
        placed = scatter(
            rng, shape, radii, spacing=float(rng.uniform(0.75, 1.05)), clusters=clusters
        )
        groups.append(
            draw_bodies(
                rng,
                *placed,
                elongation=elongation,
                irregularity=0.04,
                bend=0.15,
                alignment=alignment,
            )
        )
    if share[3] > 0.25:
        groups.append(_palisade(rng, shape, diameter))
    return join(groups)


def _palisade(rng: np.random.Generator, shape: Shape, diameter: float) -> Bodies:
    """Tall nuclei side by side along an arc, standing upright on it."""
    bow = rng.uniform(2, 12) * diameter
    centre_y, centre_x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
    pitch = rng.uniform(0.65, 0.95) * diameter
    count = int(np.clip(2 * np.pi * bow / pitch, 3, 80))
    theta = np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.normal(
        0, 0.1 * pitch / bow, count
    )
    away = bow * (1 + 0.15 * np.sin(2 * theta + rng.uniform(0, 6))) + rng.normal(
        0, 0.15 * diameter, count
    )
    y, x = centre_y + away * np.sin(theta), centre_x + away * np.cos(theta)
    return Bodies(
        y=y,
        x=x,
        radius=diameter / 2 * np.exp(rng.normal(0, 0.12, count)),
        angle=theta + rng.normal(0, 0.15, count),
        aspect=np.exp(np.abs(rng.normal(rng.uniform(0.2, 0.7), 0.15, count))),
        bend=rng.normal(0, 0.05, count),
        outline=draw_outlines(rng, count, 0.04),
    )
