"""Scenes in transmitted light: phase contrast."""

from __future__ import annotations

import numpy as np

from dinoscope.datasets.synthetic.image import CELL, SyntheticImage
from dinoscope.datasets.synthetic.optics import (
    add_noise,
    blur,
    draw_optics,
    light_field,
    wide_blur,
)
from dinoscope.datasets.synthetic.raster import Layout, rasterize
from dinoscope.datasets.synthetic.shapes import (
    Bodies,
    draw_bodies,
    draw_outlines,
    draw_radii,
    scatter,
    star_outlines,
)
from dinoscope.datasets.synthetic.textures import Shape, fractal_noise, smooth_noise, specks

CELL_FORMS = ("spread", "spindle", "round", "mixed")


def phase(
    rng: np.random.Generator,
    shape: Shape,
    diameter: float,
    *,
    coverage: float | None = None,
    form: str | None = None,
    halo: float | None = None,
    contrast: float | None = None,
    polarity: str | None = None,
    blur_px: float | None = None,
    noise: float | None = None,
    illumination: float | None = None,
) -> SyntheticImage:
    """Adherent cells in phase contrast: bright halos, granules, faint nuclei, rounded-up cells.

    The optical path length is built first; the phase plate then passes its fine structure and
    suppresses its coarse one, which is what makes halo and shade-off.

    Parameters
    ----------
    coverage : float
        Confluence, 0 to about 0.9.
    form : str
        ``"spread"`` (with protrusions), ``"spindle"``, ``"round"`` or ``"mixed"``.
    halo : float
        Strength of the halo, 0 to 1.
    contrast : float
        Change of intensity by a cell, 0.05 to 0.5.
    polarity : str
        ``"dark"`` cells with bright halos (positive phase contrast) or ``"bright"`` ones.
    """
    optics = draw_optics(
        rng, blur_px=blur_px, noise=noise, illumination=illumination, blur_range=(0.5, 1.5)
    )
    chosen = str(rng.choice(CELL_FORMS)) if form is None else form
    cover = float(rng.uniform(0.05, 0.8)) if coverage is None else coverage
    bodies = _adherent(rng, shape, diameter, coverage=cover, form=chosen)
    layout = rasterize(bodies, shape, smallest=0.3)
    radius = bodies.radius[layout.index]
    rounded = rng.random(layout.count) < (0.6 if chosen == "round" else rng.uniform(0, 0.15))
    path = blur(_optical_path(rng, layout, diameter, rounded), optics.blur_px)
    typical = float(np.mean(radius)) if len(radius) else diameter / 2
    reach = float(np.clip(rng.uniform(0.1, 0.35) * typical, 2, 14))
    strength = float(rng.uniform(0.6, 1.15)) if halo is None else halo
    share = np.float32(rng.uniform(0.3, 0.9))
    around = share * wide_blur(path, reach) + (1 - share) * wide_blur(path, 3 * reach)
    scale = float(rng.uniform(0.08, 0.3)) if contrast is None else contrast
    # Beyond half a wave the contrast turns over: thick, rounded cells have bright middles.
    signal = np.sin(path - np.float32(strength) * around)
    sign = 1 if polarity == "bright" or (polarity is None and rng.random() < 0.2) else -1
    image = np.float32(rng.uniform(0.35, 0.6)) + np.float32(sign * scale) * signal
    uneven = np.float32(scale * rng.uniform(0.01, 0.12))
    image += uneven * fractal_noise(rng, shape, 60.0, roughness=0.6)
    image *= light_field(rng, shape, optics.illumination / 3)
    image = add_noise(rng, image, optics if noise is not None else optics.quieter(1.2 * scale))
    size_um = float(rng.uniform(15, 40)) / diameter
    return SyntheticImage(
        image=image[None],
        axes="CYX",
        instances=layout.ids,
        semantic=np.where(layout.ids > 0, CELL, 0).astype(np.uint8),
        depth=None,
        pixel_size_um={"Y": size_um, "X": size_um},
        kind="phase",
    )


def _adherent(
    rng: np.random.Generator, shape: Shape, diameter: float, *, coverage: float, form: str
) -> Bodies:
    radii = draw_radii(
        rng, shape, diameter, coverage=coverage, spread=float(rng.uniform(0.1, 0.35)), at_most=250
    )
    clusters = 0 if rng.random() < 0.6 else int(rng.integers(1, 5))
    y, x, radius = scatter(
        rng, shape, radii, spacing=float(rng.uniform(0.7, 0.95)), clusters=clusters
    )
    elongation = {"spindle": 0.9, "spread": 0.4, "round": 0.1, "mixed": 0.5}[form]
    bodies = draw_bodies(
        rng,
        y,
        x,
        radius,
        elongation=elongation,
        irregularity=0.02 if form == "round" else 0.08,
        bend=0.0 if form == "round" else 0.15,
        alignment=0.8 if form == "spindle" and rng.random() < 0.6 else 0.0,
    )
    if form in ("spread", "mixed"):
        outline = star_outlines(rng, len(y), 3.0 if form == "spread" else 1.5)
        if form == "mixed":
            plain = rng.random(len(y)) < 0.5
            outline[plain] = draw_outlines(rng, int(plain.sum()), 0.05)
        bodies = Bodies(
            bodies.y, bodies.x, bodies.radius, bodies.angle, bodies.aspect, bodies.bend, outline
        )
    return bodies


def _optical_path(
    rng: np.random.Generator, layout: Layout, diameter: float, rounded: np.ndarray
) -> np.ndarray:
    """(Y, X) float32: phase delay in radians; several waves where a cell has rounded up."""
    shape = (layout.ids.shape[0], layout.ids.shape[1])
    inside = layout.ids > 0
    lamella = np.where(rounded, 0.5, rng.uniform(0.2, 0.7) * rng.uniform(0.7, 1.3, layout.count))
    middle = np.where(
        rounded, rng.uniform(1.5, 7), rng.uniform(0.1, 1.0) * rng.uniform(0.5, 1.5, layout.count)
    )
    steep = layout.lookup(np.where(rounded, 0.5, rng.uniform(0.5, 1.5)))
    path = layout.lookup(lamella)
    path += layout.lookup(middle) * np.maximum(1 - layout.rho**2, 1e-6) ** steep
    rough = np.float32(rng.uniform(0.04, 0.25)) * fractal_noise(
        rng, shape, max(diameter / 8, 3), roughness=float(rng.uniform(0.7, 1.2))
    )
    path += rough * inside
    # Granules crowd around the nucleus, which is smooth but for its nucleoli.
    near = np.exp(-(((layout.rho - 0.4) / 0.3) ** 2)) * inside
    number = int(inside.sum() / max(diameter, 15) * rng.uniform(0, 2))
    for sign in (1.0, -1.0):
        size = rng.uniform(0.7, 1.5)
        granules = blur(specks(rng, shape, number), size)
        path += np.float32(sign * rng.uniform(1, 5) * size) * granules * near
    if rng.random() < 0.7:
        nucleus = np.clip((0.32 - layout.rho) * 12, 0, 1)
        spots = np.clip((smooth_noise(rng, shape, max(diameter / 12, 2)) - 1.2) * 2, 0, 1)
        path += nucleus * (np.float32(rng.uniform(-0.4, 0.2)) + np.float32(0.8) * spots)
    edge = np.clip((layout.rho - 0.85) * 7, 0, 1) * inside
    path += np.float32(rng.uniform(0, 0.7)) * edge
    dust = specks(rng, shape, int(rng.integers(5, 120)) if rng.random() < 0.5 else 0)
    size = rng.uniform(0.6, 1.4)
    path += np.float32(rng.uniform(1, 4) * size) * blur(dust, size) * ~inside
    return np.asarray(path, dtype=np.float32)
