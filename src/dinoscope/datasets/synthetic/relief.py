"""How a microscope sees a surface: sharp where in focus, blurred above and below."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from dinoscope.datasets.synthetic.heights import RELIEFS, height_map, to_unit
from dinoscope.datasets.synthetic.image import NUCLEUS, SyntheticImage
from dinoscope.datasets.synthetic.optics import add_noise, blur, draw_optics, light_field, wide_blur
from dinoscope.datasets.synthetic.raster import rasterize
from dinoscope.datasets.synthetic.shapes import draw_bodies, draw_radii, scatter
from dinoscope.datasets.synthetic.textures import (
    Shape,
    fibres,
    fractal_noise,
    scratches,
    specks,
)


def surface(
    rng: np.random.Generator,
    shape: Shape,
    diameter: float,
    *,
    relief: str | None = None,
    focus: float | None = None,
    blur_range_px: float | None = None,
    shading: float | None = None,
    texture_px: float | None = None,
    tilt: float | None = None,
    blur_px: float | None = None,
    noise: float | None = None,
    illumination: float | None = None,
) -> SyntheticImage:
    """A rough surface seen from above, with its height as truth.

    Parameters
    ----------
    diameter : float
        Size of the surface's features, pixels.
    relief : str
        One of `RELIEFS`: ``"fractal"``, ``"domes"``, ``"pits"``, ``"ridges"`` and so on.
    focus : float
        Relative height in focus; by default near the top, so that deeper is more blurred.
    blur_range_px : float
        Blur, in pixels, of what lies a whole height range out of focus.
    shading : float
        Strength of the shading by slope, 0 to 1.
    texture_px : float
        Size of the texture's features.
    tilt : float
        Height of an added slope over that of the relief.
    """
    optics = draw_optics(
        rng, blur_px=blur_px, noise=noise, illumination=illumination, blur_range=(0.3, 1.0)
    )
    chosen = str(rng.choice(RELIEFS)) if relief is None else relief
    added = float(rng.choice([0.0, rng.uniform(0, 1.0)])) if tilt is None else tilt
    depth = height_map(rng, shape, diameter, relief=chosen, tilt=added)
    skin = _reflectance(rng, shape, depth, diameter, shading=shading, texture_px=texture_px)
    in_focus = float(rng.uniform(0.8, 1.0)) if focus is None else focus
    most = (
        float(np.exp(rng.uniform(np.log(2.5), np.log(10))))
        if blur_range_px is None
        else blur_range_px
    )
    image = blur_by_map(skin, np.float32(most) * np.abs(depth - np.float32(in_focus)), most)
    image = blur(image, optics.blur_px)
    if rng.random() < 0.4:  # light falls off with the distance from the focus, or just with depth
        image *= 1 - np.float32(rng.uniform(0.05, 0.4)) * (1 - depth)
    image = _to_camera_range(rng, image) * light_field(rng, shape, optics.illumination / 2)
    image = add_noise(rng, image, optics)
    return SyntheticImage(
        image=image[None],
        axes="CYX",
        instances=np.zeros(shape, np.int32),
        semantic=np.zeros(shape, np.uint8),
        depth=depth,
        pixel_size_um={"Y": 0.5, "X": 0.5},
        kind="surface",
        tasks=("depth",),
    )


def zstack(
    rng: np.random.Generator,
    shape: Shape,
    diameter: float,
    *,
    planes: int | None = None,
    step_um: float | None = None,
    relief: str | None = None,
    coverage: float | None = None,
    blur_range_px: float | None = None,
    blur_px: float | None = None,
    noise: float | None = None,
    illumination: float | None = None,
) -> SyntheticImage:
    """A focus series (Z, Y, X) over a textured surface that carries stained cells.

    The first plane is focused at the bottom, the last one nearest the objective. Cells are bumps on
    the surface; `depth` and `height_um` include them.

    Parameters
    ----------
    diameter : float
        Of the cells, pixels.
    planes : int
        Number of planes, at least 3.
    step_um : float
        Distance between planes.
    relief, coverage, blur_range_px
        As for `surface` and `nuclei`.
    """
    optics = draw_optics(
        rng, blur_px=blur_px, noise=noise, illumination=illumination, blur_range=(0.4, 0.9)
    )
    count = max(int(rng.integers(8, 17)) if planes is None else int(planes), 3)
    step = float(rng.uniform(0.5, 2.0)) if step_um is None else float(step_um)
    chosen = str(rng.choice(("fractal", "domes", "tilted", "steps"))) if relief is None else relief
    base = height_map(rng, shape, 3 * diameter, relief=chosen, tilt=0.5)
    cover = float(rng.uniform(0.1, 0.35)) if coverage is None else coverage
    radii = draw_radii(rng, shape, diameter, coverage=cover, spread=0.15)
    layout = rasterize(
        draw_bodies(rng, *scatter(rng, shape, radii, spacing=float(rng.uniform(0.8, 1.1)))), shape
    )
    bump = np.sqrt(np.maximum(1 - layout.rho**2, 0))
    depth = to_unit(0.8 * base + np.float32(rng.uniform(0.1, 0.25)) * bump)
    texture = 0.35 + 0.12 * fractal_noise(rng, shape, diameter / 2, roughness=0.9)
    level = layout.lookup(rng.uniform(0.8, 1.3, layout.count))
    grain = 1 + 0.25 * fractal_noise(rng, shape, max(diameter / 6, 2), roughness=0.8)
    scene = np.where(layout.ids > 0, level * grain, np.clip(texture, 0.02, None)).astype(np.float32)
    scene *= np.float32(1 / (float(np.quantile(scene, 0.995)) + 1e-6))
    most = float(rng.uniform(4, 10)) if blur_range_px is None else blur_range_px
    light = light_field(rng, shape, optics.illumination / 2)
    # A margin of one plane below and above, so that the sharpest plane is never the last one.
    margin = 1.0 / (count - 1)
    height = margin + depth * (1 - 2 * margin)
    focal = np.linspace(0, 1, count, dtype=np.float32)
    levels = _blur_levels(scene, most)
    stack = np.empty((count, *shape), np.float32)
    for number, z in enumerate(focal):
        plane = _mix_levels(levels, np.float32(most) * np.abs(height - z))
        stack[number] = add_noise(rng, blur(plane, optics.blur_px) * light, optics)
    size_um = float(rng.uniform(8, 12)) / diameter
    return SyntheticImage(
        image=stack,
        axes="ZYX",
        instances=layout.ids,
        semantic=np.where(layout.ids > 0, NUCLEUS, 0).astype(np.uint8),
        depth=depth,
        pixel_size_um={"Z": step, "Y": size_um, "X": size_um},
        kind="zstack",
        tasks=("instance", "semantic", "depth"),
        height_um=(height * np.float32(step * (count - 1))).astype(np.float32),
    )


def _reflectance(
    rng: np.random.Generator,
    shape: Shape,
    depth: np.ndarray,
    diameter: float,
    *,
    shading: float | None,
    texture_px: float | None,
) -> np.ndarray:
    """What an all-in-focus image of the surface would show: texture, shading, dark valleys."""
    grain = float(np.exp(rng.uniform(np.log(1.5), np.log(7)))) if texture_px is None else texture_px
    skin = np.exp(
        np.float32(rng.uniform(0.15, 0.6))
        * fractal_noise(rng, shape, max(grain, 1.5), roughness=float(rng.uniform(0.4, 0.9)))
    )
    if rng.random() < 0.3:
        skin *= 1 + np.float32(rng.uniform(0.1, 0.4)) * fibres(rng, shape, max(grain, 3.0))
    if rng.random() < 0.4:
        spots = blur(specks(rng, shape, int(rng.integers(20, 600))), rng.uniform(0.6, 1.2))
        skin *= np.maximum(1 + np.float32(rng.choice([-3.0, 6.0])) * spots, 0.1)
    if rng.random() < 0.25:
        lines = blur(scratches(rng, shape, int(rng.integers(3, 40))), 0.6)
        skin *= np.maximum(1 + np.float32(rng.choice([-0.9, 1.5])) * lines, 0.1)
    amount = float(rng.uniform(0.2, 1.0)) if shading is None else float(shading)
    if amount > 0:
        slope_y, slope_x = np.gradient(depth * np.float32(rng.uniform(0.3, 1.5) * diameter))
        if rng.random() < 0.6:  # light along the axis: steep places send it past the objective
            steep = slope_y**2 + slope_x**2
            skin *= 1 - np.float32(amount) * (1 - 1 / (1 + np.float32(rng.uniform(0.5, 5)) * steep))
        else:
            angle = rng.uniform(0, 2 * np.pi)
            lit = np.sin(angle) * slope_y + np.cos(angle) * slope_x
            skin *= np.clip(1 + np.float32(0.8 * amount) * np.tanh(lit), 0.05, None)
    if rng.random() < 0.5:  # valleys see less of the light
        hollow = wide_blur(depth, diameter / 2) - depth
        skin *= np.clip(1 - np.float32(rng.uniform(0.3, 2)) * hollow, 0.2, 1.5)
    return np.asarray(skin, dtype=np.float32)


def _to_camera_range(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    low, high = np.quantile(image[::3, ::3], (0.01, 0.995))
    floor = float(rng.uniform(0, 0.3))
    top = floor + float(rng.uniform(0.4, 0.9)) * (1.05 - floor)
    return np.asarray(
        floor + (image - low) * np.float32((top - floor) / max(high - low, 1e-6)), dtype=np.float32
    )


def blur_by_map(image: np.ndarray, sigma: np.ndarray, largest: float) -> np.ndarray:
    """Blur each pixel by its own Gaussian (between a few fixed ones, interpolated).

    Parameters
    ----------
    image, sigma : (Y, X) float32
        `sigma` in pixels, 0 to `largest`; above, `largest` is used.
    """
    return _mix_levels(_blur_levels(image, largest), sigma)


def _blur_levels(image: np.ndarray, largest: float) -> list[tuple[float, np.ndarray]]:
    levels = [(0.0, image)]
    sigma = 0.7
    while levels[-1][0] < largest:
        own = min(sigma, max(largest, 0.2))
        levels.append((own, wide_blur(image, own)))
        sigma *= 1.7
    return levels


def _mix_levels(levels: list[tuple[float, np.ndarray]], sigma: np.ndarray) -> np.ndarray:
    mixed = levels[0][1].copy()
    for (low, near), (high, far) in pairwise(levels):
        weight = np.clip((sigma - np.float32(low)) / np.float32(high - low), 0, 1)
        mixed += weight * (far - near)
    return mixed
