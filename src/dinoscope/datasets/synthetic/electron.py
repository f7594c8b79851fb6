"""Scenes as in an electron microscope: cell sections parted by dark membranes."""

from __future__ import annotations

import numpy as np

from dinoscope.datasets.synthetic.image import CELL, MEMBRANE, SyntheticImage
from dinoscope.datasets.synthetic.optics import add_noise, blur, draw_optics, light_field
from dinoscope.datasets.synthetic.raster import clean_layout, rasterize
from dinoscope.datasets.synthetic.shapes import draw_bodies, draw_radii, scatter
from dinoscope.datasets.synthetic.textures import Shape, fractal_noise, smooth_noise, specks


def membranes(
    rng: np.random.Generator,
    shape: Shape,
    diameter: float,
    *,
    thickness: float | None = None,
    waviness: float | None = None,
    organelles: float | None = None,
    polarity: str | None = None,
    blur_px: float | None = None,
    noise: float | None = None,
    illumination: float | None = None,
) -> SyntheticImage:
    """A field filled with irregular cell sections, dark membranes, mitochondria and vesicles.

    Instances are the sections without their membranes.

    Parameters
    ----------
    diameter : float
        Of the sections, pixels.
    thickness : float
        Of the membrane between two sections, pixels.
    waviness : float
        How far walls stray from straight, 0 to 1.
    organelles : float
        Share of sections with mitochondria, 0 to 1.
    polarity : str
        ``"dark"`` membranes (electron micrographs) or ``"bright"`` ones (a fluorescent stain).
    """
    from scipy import ndimage

    optics = draw_optics(
        rng, blur_px=blur_px, noise=noise, illumination=illumination, blur_range=(0.5, 1.4)
    )
    walls = max(float(rng.uniform(0.04, 0.14) * diameter), 2.0) if thickness is None else thickness
    stray = float(rng.uniform(0.1, 0.8)) if waviness is None else waviness
    sections = _sections(rng, shape, diameter, stray)
    border = sections == 0
    for axis in (0, 1):
        meet = np.diff(sections, axis=axis) != 0
        lower = [slice(None), slice(None)]
        upper = [slice(None), slice(None)]
        lower[axis], upper[axis] = slice(None, -1), slice(1, None)
        border[tuple(lower)] |= meet
        border[tuple(upper)] |= meet
    away = ndimage.distance_transform_edt(~border).astype(np.float32)
    half = walls / 2 * (1 + 0.25 * smooth_noise(rng, shape, diameter))
    away += 0.5
    wall = away <= np.maximum(half, 1.0)
    inside = np.where(wall, 0, sections)
    layout = clean_layout(
        inside, np.zeros(shape, np.float32), np.zeros(int(sections.max()) + 1), smallest=0.0
    )

    level = layout.lookup(rng.normal(0.68, rng.uniform(0.01, 0.07), layout.count), outside=0.65)
    grain = np.float32(rng.uniform(0.03, 0.14))
    scene = level * (1 + grain * fractal_noise(rng, shape, 10.0, roughness=1.1))
    share = float(rng.uniform(0, 0.5)) if organelles is None else organelles
    scene = _add_organelles(rng, scene, away - half, shape, diameter, share)
    soft = np.float32(max(0.35 * walls, 0.7))
    dark = 1 / (1 + np.exp(np.clip((away - half) / (0.5 * soft), -30, 30)))
    if rng.random() < 0.4:  # membranes cut at a slant look grey and wide
        slanted = np.clip(smooth_noise(rng, shape, 2 * diameter) - 0.8, 0, 1)
        dark = np.maximum(dark, slanted * np.exp(-away / np.float32(1.5 * walls + 2)))
    scene -= np.float32(rng.uniform(0.25, 0.55)) * dark
    image = blur(scene.astype(np.float32), min(optics.blur_px, 0.5 * walls))
    image *= light_field(rng, shape, optics.illumination / 2)
    image = add_noise(rng, np.clip(image, 0.02, 1), optics)
    if polarity == "bright" or (polarity is None and rng.random() < 0.2):
        image = 1 - image
    size_um = float(rng.uniform(0.3, 1.0)) / diameter
    return SyntheticImage(
        image=image[None],
        axes="CYX",
        instances=layout.ids,
        semantic=np.where(layout.ids > 0, CELL, MEMBRANE).astype(np.uint8),
        depth=None,
        pixel_size_um={"Y": size_um, "X": size_um},
        kind="membranes",
    )


def _sections(rng: np.random.Generator, shape: Shape, diameter: float, stray: float) -> np.ndarray:
    """(Y, X) int32: bodies of very different size swollen until they press on each other.

    0 is what little is left between them, which is as dark as a wall.
    """
    radii = draw_radii(
        rng, shape, diameter, coverage=1.1, spread=float(rng.uniform(0.15, 0.6)), at_most=500
    )
    y, x, radius = scatter(rng, shape, radii, spacing=float(rng.uniform(0.65, 0.85)))
    bodies = draw_bodies(
        rng, y, x, radius, elongation=0.35, irregularity=0.05 + 0.08 * stray, bend=0.2
    )
    swollen = rasterize(bodies.scaled(float(rng.uniform(1.45, 1.8))), shape, smallest=0.02).ids
    shift = stray * 0.12 * diameter
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    rows += shift * smooth_noise(rng, shape, max(diameter / 2, 4))
    columns += shift * smooth_noise(rng, shape, max(diameter / 2, 4))
    taken = swollen[
        np.clip(rows.astype(np.intp), 0, shape[0] - 1),
        np.clip(columns.astype(np.intp), 0, shape[1] - 1),
    ]
    return np.asarray(taken, dtype=np.int32)


def _add_organelles(
    rng: np.random.Generator,
    scene: np.ndarray,
    clearance: np.ndarray,
    shape: Shape,
    diameter: float,
    share: float,
) -> np.ndarray:
    """Dark striped mitochondria and small ring-shaped vesicles, away from the walls."""
    size = rng.uniform(0.3, 0.65) * diameter
    if share > 0.02 and size >= 5:
        radii = draw_radii(rng, shape, size, coverage=0.25 * share, spread=0.2, at_most=120)
        placed = scatter(rng, shape, radii, spacing=1.3)
        bodies = draw_bodies(rng, *placed, elongation=0.5, irregularity=0.05)
        inside = (bodies.y >= 0) & (bodies.y < shape[0]) & (bodies.x >= 0) & (bodies.x < shape[1])
        bodies = bodies.take(inside)
        room = clearance[bodies.y.astype(int), bodies.x.astype(int)]
        bodies = bodies.take(room > 0.8 * bodies.radius)
        if len(bodies):
            organ = rasterize(bodies, shape)
            stripes = np.sin(
                2.5 * smooth_noise(rng, shape, size / 1.5) + organ.rho * np.float32(size * 0.9)
            )
            rim = np.clip((organ.rho - 0.75) * 6, 0, 1)
            dark = 0.18 + 0.06 * stripes + 0.12 * rim
            scene = scene - np.where((organ.ids > 0) & (clearance > 0), dark, 0)
    vesicles = specks(rng, shape, int(rng.uniform(0, 2.5) * scene.size / diameter**2), spread=0.3)
    width = float(np.clip(diameter / 25, 0.7, 1.6))
    rings = blur(vesicles, width) * width**2 - blur(vesicles, 1.8 * width) * width**2 * 2.2
    return np.asarray(scene + np.float32(1.2) * rings * (clearance > 2 * width), dtype=np.float32)
