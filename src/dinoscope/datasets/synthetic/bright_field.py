"""Cells in bright field: smears, blood, unstained cells."""

from __future__ import annotations

import numpy as np

from dinoscope.datasets.synthetic.image import CELL, NUCLEUS, SyntheticImage
from dinoscope.datasets.synthetic.optics import (
    Optics,
    add_noise,
    blur,
    draw_optics,
    light_field,
    wide_blur,
)
from dinoscope.datasets.synthetic.raster import Layout, rasterize
from dinoscope.datasets.synthetic.shapes import draw_bodies, draw_radii, scatter
from dinoscope.datasets.synthetic.staining import (
    EOSIN,
    GIEMSA_RED,
    HEMATOXYLIN,
    finish,
    jitter,
    nuclear_dye,
    transmit,
)
from dinoscope.datasets.synthetic.textures import Shape, fractal_noise, smooth_noise, specks

BRIGHTFIELD_STYLES = ("smear", "blood", "unstained")


def brightfield(
    rng: np.random.Generator,
    shape: Shape,
    diameter: float,
    *,
    style: str | None = None,
    coverage: float | None = None,
    colour: bool | None = None,
    blur_px: float | None = None,
    noise: float | None = None,
    illumination: float | None = None,
) -> SyntheticImage:
    """Cells in bright field.

    Parameters
    ----------
    diameter : float
        Of the labelled objects, pixels.
    style : str
        ``"smear"``: stained cell bodies with dark nuclei, the nuclei are the objects;
        ``"blood"``: red cells and some white ones, whole cells are the objects;
        ``"unstained"``: refracting cells a little out of focus, whole cells are the objects.
    coverage : float
        Share of the field that the objects cover.
    colour : bool
        True three channels, False one grey channel.
    """
    optics = draw_optics(
        rng, blur_px=blur_px, noise=noise, illumination=illumination, blur_range=(0.4, 1.4)
    )
    chosen = str(rng.choice(BRIGHTFIELD_STYLES)) if style is None else style
    if chosen == "smear":
        image, layout, semantic = _smear(rng, shape, diameter, coverage, optics)
        size_um = (5.0, 9.0)
    elif chosen == "blood":
        image, layout, semantic = _blood(rng, shape, diameter, coverage, optics)
        size_um = (7.0, 8.0)
    else:
        image, layout, semantic = _unstained(rng, shape, diameter, coverage, optics)
        size_um = (8.0, 20.0)
    return finish(rng, image, layout, semantic, "brightfield", colour, diameter, size_um)


def _smear(
    rng: np.random.Generator,
    shape: Shape,
    diameter: float,
    coverage: float | None,
    optics: Optics,
) -> tuple[np.ndarray, Layout, np.ndarray]:
    """Flat, angular, translucent cell bodies that overlap; their nuclei are the objects."""
    ratio = float(rng.uniform(2.0, 4.5))
    cover = float(rng.uniform(0.02, 0.14)) if coverage is None else coverage
    radii = draw_radii(rng, shape, diameter, coverage=cover, spread=0.2)
    y, x, radius = scatter(
        rng,
        shape,
        radii,
        spacing=float(rng.uniform(1.2, 0.75 * ratio)),
        clusters=int(rng.choice([0, 3])),
    )
    nuclei = draw_bodies(rng, y, x, radius, elongation=0.3, irregularity=0.06)
    layout = rasterize(nuclei, shape)
    shift = rng.normal(0, 0.25 * ratio * diameter / 2, (2, len(y)))
    wide = draw_bodies(
        rng, y + shift[0], x + shift[1], ratio * radius, elongation=0.3, irregularity=0.12
    )
    body = np.zeros(shape, np.float32)
    mask = layout.ids > 0
    for half in (slice(None, None, 2), slice(1, None, 2)):  # two layers, so that bodies overlap
        layer = rasterize(wide.take(np.arange(len(wide))[half]), shape, smallest=0.1)
        flat = layer.lookup(rng.uniform(0.15, 0.5, layer.count))
        edge = np.clip((layer.rho - 0.9) * 10, 0, 1) * (layer.ids > 0)
        body += flat * (1 + np.float32(rng.uniform(-0.3, 0.6)) * edge)
        mask = mask | (layer.ids > 0)
    wrinkles = 1 + np.float32(0.2) * fractal_noise(rng, shape, 1.5 * diameter, roughness=0.8)
    grains = blur(specks(rng, shape, int(mask.sum() / 400)), 0.8)
    body = np.clip(body * wrinkles + np.float32(rng.uniform(0, 1.5)) * grains * mask, 0, 2)
    dust = blur(specks(rng, shape, int(rng.integers(0, 25))), 1.2)
    dye = nuclear_dye(rng, layout, diameter) * np.float32(rng.uniform(0.8, 2.0))
    blue, pink = jitter(rng, HEMATOXYLIN), jitter(rng, (EOSIN + HEMATOXYLIN) / 2)
    image = transmit(rng, [(blue, dye + 2 * dust), (pink, body)], optics)
    semantic = np.where(layout.ids > 0, NUCLEUS, np.where(mask, CELL, 0)).astype(np.uint8)
    return image, layout, semantic


def _blood(
    rng: np.random.Generator,
    shape: Shape,
    diameter: float,
    coverage: float | None,
    optics: Optics,
) -> tuple[np.ndarray, Layout, np.ndarray]:
    """Red cells, pale in the middle, some touching; a few white cells with lobed nuclei."""
    cover = float(rng.uniform(0.1, 0.65)) if coverage is None else coverage
    radii = draw_radii(
        rng, shape, diameter, coverage=cover, spread=float(rng.uniform(0.04, 0.18)), at_most=250
    )
    white = np.zeros(len(radii), bool)
    white[: int(rng.integers(0, 3))] = True  # the largest are placed first
    radii = np.where(white, diameter / 2 * rng.uniform(1.3, 1.9), radii)
    y, x, radius = scatter(rng, shape, radii, spacing=float(rng.uniform(0.8, 1.1)))
    cells = draw_bodies(
        rng, y, x, radius, elongation=float(rng.uniform(0.03, 0.3)), irregularity=0.025, bend=0.05
    )
    layout = rasterize(cells, shape)
    is_white = cells.radius[layout.index] > 0.62 * diameter * 1.0
    is_white &= layout.index < int(white.sum())
    pallor = np.clip(rng.normal(rng.uniform(0.1, 0.8), 0.2, layout.count), 0, 1)
    pale = layout.lookup(np.where(is_white, 0.0, pallor))
    wide = np.float32(rng.uniform(0.2, 0.5))
    disc = 1 - pale * np.exp(-((layout.rho / wide) ** 2))
    level = layout.lookup(np.where(is_white, 0.35, np.exp(rng.normal(0, 0.12, layout.count))))
    red = level * disc * (layout.ids > 0)
    red *= 1 + np.float32(rng.uniform(0, 0.5)) * np.clip((layout.rho - 0.8) * 5, 0, 1)
    inside_white = layout.lookup(is_white.astype(np.float32)) > 0
    lobes = smooth_noise(rng, shape, 0.6 * diameter) + 1.5 * (0.9 - 2.0 * layout.rho)
    nucleus = inside_white & (lobes > 0) & (layout.rho < 0.85)
    blue = nucleus * (1 + 0.2 * fractal_noise(rng, shape, max(diameter / 5, 2)))
    platelets = blur(specks(rng, shape, int(rng.integers(0, 12))), max(diameter / 12, 0.8))
    strength = np.float32(rng.uniform(0.15, 0.5))
    image = transmit(
        rng,
        [
            (jitter(rng, GIEMSA_RED), strength * red),
            (
                jitter(rng, HEMATOXYLIN),
                np.float32(rng.uniform(0.5, 1.1)) * blue + 5 * (layout.ids == 0) * platelets,
            ),
        ],
        optics,
    )
    semantic = np.where(layout.ids > 0, CELL, 0).astype(np.uint8)
    semantic[nucleus] = NUCLEUS
    return image, layout, semantic


def _unstained(
    rng: np.random.Generator,
    shape: Shape,
    diameter: float,
    coverage: float | None,
    optics: Optics,
) -> tuple[np.ndarray, Layout, np.ndarray]:
    """Transparent cells that act as small lenses: dark and bright rims, granules."""
    cover = float(rng.uniform(0.05, 0.6)) if coverage is None else coverage
    radii = draw_radii(rng, shape, diameter, coverage=cover, spread=0.15, at_most=250)
    placed = scatter(
        rng,
        shape,
        radii,
        spacing=float(rng.uniform(0.8, 1.1)),
        clusters=int(rng.choice([0, 0, 2, 5])),
    )
    cells = draw_bodies(rng, *placed, elongation=float(rng.uniform(0.02, 0.3)), irregularity=0.03)
    layout = rasterize(cells, shape)
    thick = np.sqrt(np.maximum(1 - layout.rho**2, 0)) * layout.lookup(
        rng.uniform(0.7, 1.2, layout.count)
    )
    grains = smooth_noise(rng, shape, max(diameter / 8, 1.6))
    thick *= 1 + np.float32(rng.uniform(0.01, 0.1)) * grains
    fine = blur(thick.astype(np.float32), max(optics.blur_px, 0.03 * diameter))
    # Out of focus, contrast follows the curvature of the optical path (transport of intensity).
    ring = fine - wide_blur(fine, max(0.08 * diameter, 1.0))
    broad = fine - wide_blur(fine, max(0.25 * diameter, 2.0))
    sign = 1 if rng.random() < 0.5 else -1
    signal = sign * (ring + np.float32(rng.uniform(-0.3, 0.6)) * broad)
    signal *= np.float32(rng.uniform(0.12, 0.4)) / (float(np.abs(signal).max()) + 1e-6)
    image = np.float32(rng.uniform(0.4, 0.7)) + signal - np.float32(rng.uniform(0, 0.1)) * fine
    image += np.float32(rng.uniform(0, 0.01)) * fractal_noise(rng, shape, 2 * diameter)
    image *= light_field(rng, shape, optics.illumination / 2)
    image = add_noise(rng, image, optics.quieter(0.35))
    return image[None], layout, np.where(layout.ids > 0, CELL, 0).astype(np.uint8)
