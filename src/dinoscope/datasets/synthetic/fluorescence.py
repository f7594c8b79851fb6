"""Fluorescent scenes: nuclei, touching nuclei and cells, filaments."""

from __future__ import annotations

import numpy as np

from dinoscope.datasets.synthetic.image import FILAMENT, NUCLEUS, SyntheticImage
from dinoscope.datasets.synthetic.optics import Optics, add_noise, blur, draw_optics, light_field
from dinoscope.datasets.synthetic.optics import wide_blur as haze
from dinoscope.datasets.synthetic.raster import Layout, rasterize, seams
from dinoscope.datasets.synthetic.shapes import draw_bodies, draw_radii, scatter
from dinoscope.datasets.synthetic.textures import Shape, fractal_noise, smooth_noise, specks


def nuclei(
    rng: np.random.Generator,
    shape: Shape,
    diameter: float,
    *,
    coverage: float | None = None,
    spacing: float | None = None,
    clusters: int | None = None,
    elongation: float | None = None,
    size_spread: float | None = None,
    polarity: str | None = None,
    blur_px: float | None = None,
    noise: float | None = None,
    illumination: float | None = None,
) -> SyntheticImage:
    """Stained nuclei, mostly apart: chromatin texture, nucleoli, haze, debris, defocused ones.

    Parameters
    ----------
    coverage : float
        Share of the field that nuclei cover, 0 to about 0.6.
    spacing : float
        Least distance of two centres over the sum of their radii; below 1 they touch.
    clusters : int
        Number of groups they gather in; 0 = spread evenly.
    elongation, size_spread : float
        Spread of the log aspect ratio and of the log radius.
    polarity : str
        ``"bright"`` on dark, or ``"dark"`` on bright (inverted).
    blur_px, noise, illumination : float
        Imaging conditions, see :func:`dinoscope.datasets.synthetic.optics.draw_optics`.
    """
    return _stained(
        rng,
        shape,
        diameter,
        kind="nuclei",
        coverage=float(rng.uniform(0.03, 0.35)) if coverage is None else coverage,
        spacing=float(rng.uniform(0.85, 1.25)) if spacing is None else spacing,
        clusters=int(rng.choice([0, 0, 2, 4])) if clusters is None else clusters,
        elongation=float(rng.uniform(0.05, 0.4)) if elongation is None else elongation,
        size_spread=float(rng.uniform(0.05, 0.3)) if size_spread is None else size_spread,
        polarity=polarity,
        optics=_stain_optics(rng, diameter, blur_px, noise, illumination),
    )


def touching(
    rng: np.random.Generator,
    shape: Shape,
    diameter: float,
    *,
    coverage: float | None = None,
    spacing: float | None = None,
    clusters: int | None = None,
    elongation: float | None = None,
    size_spread: float | None = None,
    polarity: str | None = None,
    blur_px: float | None = None,
    noise: float | None = None,
    illumination: float | None = None,
) -> SyntheticImage:
    """Crowded nuclei or stained cells pressed against each other; parameters as for `nuclei`."""
    return _stained(
        rng,
        shape,
        diameter,
        kind="touching",
        coverage=float(rng.uniform(0.2, 0.75)) if coverage is None else coverage,
        spacing=float(rng.uniform(0.68, 0.9)) if spacing is None else spacing,
        clusters=int(rng.choice([0, 1, 2, 3, 5, 8])) if clusters is None else clusters,
        elongation=float(rng.uniform(0.05, 0.45)) if elongation is None else elongation,
        size_spread=float(rng.uniform(0.05, 0.25)) if size_spread is None else size_spread,
        polarity=polarity,
        optics=_stain_optics(rng, diameter, blur_px, noise, illumination),
    )


def _stain_optics(
    rng: np.random.Generator,
    diameter: float,
    blur_px: float | None,
    noise: float | None,
    illumination: float | None,
) -> Optics:
    """Random conditions under which objects of this size can still be told apart."""
    most = float(np.clip(0.08 * diameter, 0.8, 2.4))
    return draw_optics(
        rng, blur_px=blur_px, noise=noise, illumination=illumination, blur_range=(0.4, most)
    )


def _stained(
    rng: np.random.Generator,
    shape: Shape,
    diameter: float,
    *,
    kind: str,
    coverage: float,
    spacing: float,
    clusters: int,
    elongation: float,
    size_spread: float,
    polarity: str | None,
    optics: Optics,
) -> SyntheticImage:
    radii = draw_radii(rng, shape, diameter, coverage=coverage, spread=size_spread)
    y, x, radius = scatter(
        rng,
        shape,
        radii,
        spacing=spacing,
        clusters=clusters,
        tightness=float(rng.uniform(0.9, 1.6)),
    )
    bodies = draw_bodies(
        rng,
        y,
        x,
        radius,
        elongation=elongation,
        irregularity=float(rng.uniform(0.01, 0.07)),
        bend=float(rng.uniform(0, 0.15)),
        alignment=float(rng.choice([0.0, 0.0, 0.7])),
    )
    layout = rasterize(bodies, shape)
    scene = render_stained(rng, layout, diameter)
    scene = _soften_some(rng, scene, layout, diameter, optics.blur_px)
    scene += _surroundings(rng, layout, diameter)
    image = _camera(rng, scene, optics)
    if polarity == "dark" or (polarity is None and rng.random() < 0.12):
        image = 1 - image
    size_um = float(rng.uniform(6, 14)) / diameter
    return SyntheticImage(
        image=image[None],
        axes="CYX",
        instances=layout.ids,
        semantic=np.where(layout.ids > 0, NUCLEUS, 0).astype(np.uint8),
        depth=None,
        pixel_size_um={"Y": size_um, "X": size_um},
        kind=kind,
    )


def render_stained(rng: np.random.Generator, layout: Layout, diameter: float) -> np.ndarray:
    """Stain of the objects alone: (Y, X) float32, about 1 inside, 0 outside, sharp."""
    shape = (layout.ids.shape[0], layout.ids.shape[1])
    level = np.exp(rng.normal(0, rng.uniform(0.05, 0.6), layout.count))
    if rng.random() < 0.3:  # dividing or dying ones are far brighter
        level = level * np.where(rng.random(layout.count) < 0.06, rng.uniform(2, 5), 1)
    # From a flat disc to a ball's projection, to a rim brighter than the middle.
    fullness = rng.uniform(-0.35, 1.0)
    body = 1 - np.float32(fullness) * layout.rho**2 * np.float32(0.7)
    grain = rng.uniform(0.02, 0.35)
    body *= 1 + np.float32(grain) * fractal_noise(
        rng, shape, max(diameter / rng.uniform(3, 8), 2), roughness=float(rng.uniform(0.5, 1.0))
    )
    if rng.random() < 0.5:  # nucleoli: few dark holes; or bright chromocentres
        spots = smooth_noise(rng, shape, max(diameter / rng.uniform(4, 7), 2))
        depth = rng.uniform(0.2, 0.6) * (-1 if rng.random() < 0.7 else 1.5)
        body *= 1 + np.float32(depth) * np.clip((spots - 1.3) * 2, 0, 1)
    if rng.random() < 0.6:
        body *= 1 - np.float32(rng.uniform(0.1, 0.7)) * seams(layout.ids)
    return np.asarray(layout.lookup(level) * np.maximum(body, 0.05), dtype=np.float32)


def _soften_some(
    rng: np.random.Generator,
    scene: np.ndarray,
    layout: Layout,
    diameter: float,
    blur_px: float,
) -> np.ndarray:
    """Blur by the optics; sometimes part of the objects lies a little out of focus."""
    sharp = blur(scene, blur_px)
    if layout.count < 2 or rng.random() < 0.65:
        return sharp
    soft = haze(scene, float(np.clip(0.1 * diameter, 1.2, 6.0)))
    weight = layout.lookup((rng.random(layout.count) < 0.4).astype(np.float32))
    weight = blur(weight, min(1.5, diameter / 8))
    return np.asarray(sharp + weight * (soft - sharp), dtype=np.float32)


def _surroundings(rng: np.random.Generator, layout: Layout, diameter: float) -> np.ndarray:
    """Background: offset, haze, autofluorescence, objects far out of focus, debris."""
    shape = (layout.ids.shape[0], layout.ids.shape[1])
    field = np.full(shape, rng.uniform(0, 0.12), np.float32)
    if rng.random() < 0.6:
        glow = haze((layout.ids > 0).astype(np.float32), rng.uniform(0.4, 1.5) * diameter)
        field += np.float32(rng.uniform(0.02, 0.35)) * glow
    if rng.random() < 0.4:
        texture = fractal_noise(rng, shape, diameter * rng.uniform(0.5, 3))
        field += np.float32(rng.uniform(0.01, 0.07)) * np.clip(texture, -1, 3)
    if rng.random() < 0.35:
        field += _far_objects(rng, shape, diameter)
    if rng.random() < 0.4:
        dust = specks(rng, shape, int(rng.integers(3, 60)))
        size = rng.uniform(0.6, 1.6)
        field += np.float32(rng.uniform(0.3, 2.0) * size) * blur(dust, size)
    return np.maximum(field, 0)


def _far_objects(rng: np.random.Generator, shape: Shape, diameter: float) -> np.ndarray:
    """Nuclei so far out of focus that nobody would outline them: not in the truth."""
    radii = draw_radii(rng, shape, diameter, coverage=0.12, spread=0.2, at_most=40)
    y, x, radius = scatter(rng, shape, radii, spacing=0.8)
    far = rasterize(draw_bodies(rng, y, x, radius), shape)
    blurred = haze(far.lookup(rng.uniform(0.3, 1, far.count)), rng.uniform(0.35, 0.8) * diameter)
    return np.asarray(np.float32(rng.uniform(0.08, 0.3)) * blurred, dtype=np.float32)


def _camera(rng: np.random.Generator, scene: np.ndarray, optics: Optics) -> np.ndarray:
    """Exposure (dim to slightly saturated), uneven light, noise."""
    bright = float(np.quantile(scene[::4, ::4], 0.995)) + 1e-6
    gain = np.exp(rng.uniform(np.log(0.15), np.log(1.3))) / bright
    image = scene * np.float32(gain)
    if optics.illumination > 0:
        image = image * light_field(rng, (scene.shape[0], scene.shape[1]), optics.illumination)
    # The camera's gain follows the exposure: a dim image is not a noisier one by itself.
    scale = np.float32(min(gain * bright, 1.0))
    return np.asarray(add_noise(rng, image / scale, optics) * scale, dtype=np.float32)


def filaments(
    rng: np.random.Generator,
    shape: Shape,
    diameter: float,
    *,
    count: int | None = None,
    stiffness: float | None = None,
    polarity: str | None = None,
    blur_px: float | None = None,
    noise: float | None = None,
    illumination: float | None = None,
) -> SyntheticImage:
    """A network of curved filaments (cytoskeleton, hyphae, collagen); no instance truth.

    Parameters
    ----------
    diameter : float
        Ten times the width of a filament, pixels.
    count : int
        Number of filaments.
    stiffness : float
        Length, in pixels, over which a filament keeps its direction.
    polarity : str
        ``"bright"`` or ``"dark"``.
    """
    from scipy import ndimage

    optics = draw_optics(rng, blur_px=blur_px, noise=noise, illumination=illumination)
    width = max(diameter / 10, 1.2)
    number = int(rng.integers(4, 45)) if count is None else count
    keep = float(rng.uniform(30, 250)) if stiffness is None else stiffness
    steps = int(1.2 * max(shape) / 0.7)
    turn = rng.normal(0, 0.7 / np.sqrt(keep), (number, steps)).cumsum(1)
    turn = turn * 0.6 + rng.uniform(0, 2 * np.pi, (number, 1))
    if rng.random() < 0.3:
        turn += rng.normal(0, 0.4) - turn[:, :1] * 0.9  # nearly parallel bundles
    y = rng.uniform(0, shape[0], (number, 1)) + 0.7 * np.sin(turn).cumsum(1)
    x = rng.uniform(0, shape[1], (number, 1)) + 0.7 * np.cos(turn).cumsum(1)
    length = rng.uniform(0.2, 1.0, (number, 1)) * steps
    strength = np.exp(rng.normal(0, 0.4, (number, 1))) * np.ones_like(y)
    here = (np.arange(steps) < length) & (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
    flat = y[here].astype(np.intp) * shape[1] + x[here].astype(np.intp)
    drawn = np.bincount(flat, strength[here], minlength=shape[0] * shape[1])
    line = drawn.reshape(shape).astype(np.float32)
    away = ndimage.distance_transform_edt(line == 0)
    mask = away <= width / 2
    core = blur(line, max(width / 2.5, 0.6))
    core /= float(np.quantile(core[mask], 0.9)) + 1e-6 if mask.any() else 1.0
    scene = np.minimum(core, 2.5) + np.float32(rng.uniform(0, 0.5)) * haze(core, 4 * width + 4)
    scene += np.float32(rng.uniform(0, 0.15)) * (1 + 0.3 * fractal_noise(rng, shape, 60.0))
    scene = blur(np.maximum(scene, 0), optics.blur_px)
    image = _camera(rng, scene, optics)
    if polarity == "dark" or (polarity is None and rng.random() < 0.25):
        image = 1 - image
    return SyntheticImage(
        image=image[None],
        axes="CYX",
        instances=np.zeros(shape, np.int32),
        semantic=np.where(mask, FILAMENT, 0).astype(np.uint8),
        depth=None,
        pixel_size_um={"Y": 0.1, "X": 0.1},
        kind="filaments",
        tasks=("semantic",),
    )
