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
from dinoscope.datasets.synthetic.shapes import (
    Bodies,
    Layout,
    draw_bodies,
    draw_outlines,
    draw_radii,
    rasterize,
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
    path = _optical_path(rng, layout, diameter, rounded)
    path = blur(path, optics.blur_px)
    reach = float(
        np.clip(rng.uniform(0.08, 0.3) * float(np.mean(radius) if len(radius) else 10), 2, 14)
    )
    around = wide_blur(path, reach)
    strength = float(rng.uniform(0.6, 1.0)) if halo is None else halo
    scale = float(rng.uniform(0.06, 0.3)) if contrast is None else contrast
    signal = (
        path
        - np.float32(strength) * around
        - np.float32(0.25 * strength) * wide_blur(path, 4 * reach)
    )
    spread = float(np.abs(signal).std()) + 0.05
    sign = 1 if polarity == "bright" or (polarity is None and rng.random() < 0.25) else -1
    image = np.float32(rng.uniform(0.35, 0.6)) + np.float32(sign * scale / (3 * spread)) * signal
    image += np.float32(rng.uniform(0.002, 0.02)) * fractal_noise(rng, shape, 40.0, roughness=0.7)
    image *= light_field(rng, shape, optics.illumination / 2)
    image = add_noise(rng, image, optics)
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
    """(Y, X) float32: thickness times index difference; high where a cell has rounded up."""
    shape = (layout.ids.shape[0], layout.ids.shape[1])
    inside = layout.ids > 0
    thickness = np.where(rounded, rng.uniform(2, 5), rng.uniform(0.5, 1.2, layout.count))
    steep = layout.lookup(np.where(rounded, 0.5, rng.uniform(0.3, 1.2)))
    path = layout.lookup(thickness) * np.maximum(1 - layout.rho**2, 1e-6) ** steep
    path += np.float32(rng.uniform(0, 0.4)) * inside  # a lamella ends abruptly
    grain = rng.uniform(0.05, 0.5)
    path *= 1 + np.float32(grain) * fractal_noise(
        rng, shape, max(diameter / 6, 3), roughness=float(rng.uniform(0.6, 1.1))
    )
    # Granules crowd around the nucleus, the nucleus itself is smooth with dark nucleoli.
    near = np.exp(-(((layout.rho - 0.45) / 0.3) ** 2)) * inside
    number = int(inside.sum() / max(diameter, 20) * rng.uniform(0, 2.5))
    granules = blur(specks(rng, shape, number), rng.uniform(0.7, 1.4))
    path += np.float32(rng.uniform(1, 6)) * granules * near * (1 if rng.random() < 0.7 else -1)
    if rng.random() < 0.6:
        nucleus = layout.rho < 0.3
        spots = np.clip((smooth_noise(rng, shape, max(diameter / 10, 2)) - 1.2) * 2, 0, 1)
        path += np.float32(rng.uniform(-0.4, 0.2)) * nucleus + np.float32(0.5) * spots * nucleus
    dust = specks(rng, shape, int(rng.integers(0, 70)))
    path += np.float32(rng.uniform(2, 9)) * blur(dust, rng.uniform(0.6, 1.6)) * ~inside
    return np.asarray(path, dtype=np.float32)
