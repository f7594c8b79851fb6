"""Rod-shaped bacteria: free, in growing colonies, and packed side by side without gaps."""

from __future__ import annotations

import numpy as np

from dinoscope.datasets.synthetic.image import ROD, SyntheticImage
from dinoscope.datasets.synthetic.optics import (
    Optics,
    add_noise,
    blur,
    draw_optics,
    light_field,
    wide_blur,
)
from dinoscope.datasets.synthetic.raster import Layout, seams
from dinoscope.datasets.synthetic.rod_packing import RodShapes, grow_colonies, pack_rows
from dinoscope.datasets.synthetic.textures import Shape, fractal_noise, smooth_noise, specks

ARRANGEMENTS = ("colony", "packed", "scattered")
LOOKS = ("fluorescence", "membrane", "phase", "brightfield")


def rods(
    rng: np.random.Generator,
    shape: Shape,
    diameter: float,
    *,
    arrangement: str | None = None,
    look: str | None = None,
    width: float | None = None,
    aspect: float | None = None,
    length_spread: float | None = None,
    bend: float | None = None,
    coverage: float | None = None,
    gap: float | None = None,
    disorder: float | None = None,
    polarity: str | None = None,
    blur_px: float | None = None,
    noise: float | None = None,
    illumination: float | None = None,
) -> SyntheticImage:
    """Capsules, slightly bent, many of them touching along their sides.

    Parameters
    ----------
    diameter : float
        Of the circle with the area of a typical rod; `width` (pixels) wins where given.
    arrangement : str
        ``"colony"``, ``"packed"`` or ``"scattered"``.
    look : str
        ``"fluorescence"``, ``"membrane"`` (stained envelope), ``"phase"`` or ``"brightfield"``.
    aspect : float
        Mean length over width.
    length_spread, bend, disorder : float
        Spread of the log length; turn from end to end and of neighbours, radians.
    coverage : float
        Share of the field that rods cover.
    gap : float
        Distance of neighbours' axes over the width; 1 touches, below 1 is squeezed.
    polarity : str
        ``"bright"`` rods or ``"dark"`` ones.
    """
    optics = draw_optics(
        rng, blur_px=blur_px, noise=noise, illumination=illumination, blur_range=(0.5, 1.6)
    )
    ratio = float(rng.uniform(1.8, 6.5)) if aspect is None else max(float(aspect), 1.05)
    across = diameter / np.sqrt(4 / np.pi * (ratio - 1 + np.pi / 4)) if width is None else width
    across = max(float(across), 3.0)
    rod_shapes = RodShapes(
        width=across,
        length=across * ratio,
        length_spread=float(rng.uniform(0.08, 0.35)) if length_spread is None else length_spread,
        bend=float(rng.uniform(0, 0.4)) if bend is None else bend,
    )
    choice = (
        str(rng.choice(ARRANGEMENTS, p=[0.45, 0.35, 0.2])) if arrangement is None else arrangement
    )
    cover = float(rng.uniform(0.1, 0.8)) if coverage is None else coverage
    near = float(rng.uniform(0.92, 1.1)) if gap is None else gap
    mess = float(rng.uniform(0.02, 0.35)) if disorder is None else disorder
    if choice == "packed":
        layout = pack_rows(rng, shape, rod_shapes, coverage=cover, gap=near, disorder=mess)
    else:
        layout = grow_colonies(
            rng,
            shape,
            rod_shapes,
            coverage=min(cover, 0.35) if choice == "scattered" else cover,
            gap=near,
            disorder=mess,
            scattered=choice == "scattered",
        )
    drawn_look = str(rng.choice(LOOKS, p=[0.4, 0.15, 0.3, 0.15])) if look is None else look
    image = _LOOKS[drawn_look](rng, layout, across, optics)
    if polarity is not None or rng.random() < 0.1:
        image = _turn(image, layout.ids, polarity)
    size_um = float(rng.uniform(0.6, 1.2)) / across
    return SyntheticImage(
        image=image[None],
        axes="CYX",
        instances=layout.ids,
        semantic=np.where(layout.ids > 0, ROD, 0).astype(np.uint8),
        depth=None,
        pixel_size_um={"Y": size_um, "X": size_um},
        kind="rods",
    )


def _turn(image: np.ndarray, ids: np.ndarray, polarity: str | None) -> np.ndarray:
    """Invert where the wanted polarity is not what the image has (always, where none is wanted)."""
    inside = ids > 0
    if polarity is None:
        return np.asarray(1 - image, dtype=np.float32)
    if not inside.any() or inside.all():
        return image
    bright = image[inside].mean() > image[~inside].mean()
    return image if bright == (polarity == "bright") else np.asarray(1 - image, dtype=np.float32)


def _fluorescence(
    rng: np.random.Generator, layout: Layout, width: float, optics: Optics
) -> np.ndarray:
    shape = (layout.ids.shape[0], layout.ids.shape[1])
    level = np.exp(rng.normal(0, rng.uniform(0.05, 0.45), layout.count))
    body = np.sqrt(np.maximum(1 - layout.rho**2 * np.float32(rng.uniform(0.2, 1)), 0.02))
    body *= 1 + np.float32(rng.uniform(0, 0.3)) * fractal_noise(rng, shape, max(width, 3.0))
    if rng.random() < 0.3:  # stained nucleoids: one or two blobs in each rod
        blobs = np.clip(0.5 + smooth_noise(rng, shape, max(0.9 * width, 2.0)), 0.15, 1.6)
        body *= blobs * (layout.rho < 0.75) + np.float32(0.25) * (layout.rho >= 0.75)
    body *= 1 - np.float32(rng.uniform(0, 0.5)) * seams(layout.ids)
    scene = layout.lookup(level) * body
    return _dark_field(rng, scene, width, optics)


def _membrane(rng: np.random.Generator, layout: Layout, width: float, optics: Optics) -> np.ndarray:
    level = np.exp(rng.normal(0, rng.uniform(0.05, 0.3), layout.count))
    thick = max(2.2 / width, rng.uniform(0.2, 0.4))
    ring = np.exp(-(((layout.rho - (1 - thick / 2)) / (thick / 2)) ** 2))
    ring = np.maximum(ring, seams(layout.ids))
    scene = layout.lookup(level) * (np.float32(rng.uniform(0.03, 0.3)) + ring)
    return _dark_field(rng, scene, width, optics)


def _dark_field(
    rng: np.random.Generator, scene: np.ndarray, width: float, optics: Optics
) -> np.ndarray:
    """Fluorescence camera: haze, offset, exposure, uneven light, noise."""
    shape = (scene.shape[0], scene.shape[1])
    image = blur(scene.astype(np.float32), min(optics.blur_px, 0.22 * width))
    image = image + np.float32(rng.uniform(0, 0.4)) * wide_blur(image, 1.2 * width)
    image += np.float32(rng.uniform(0, 0.15))
    if rng.random() < 0.3:
        image += np.float32(0.4) * blur(specks(rng, shape, int(rng.integers(3, 40))), 0.8)
    bright = float(np.quantile(image[::4, ::4], 0.995)) + 1e-6
    image *= light_field(rng, shape, optics.illumination)
    gain = np.float32(np.exp(rng.uniform(np.log(0.2), np.log(1.2))))
    scale = np.minimum(gain, np.float32(1))
    return np.asarray(
        add_noise(rng, image * (gain / bright / scale), optics) * scale, dtype=np.float32
    )


def _phase(rng: np.random.Generator, layout: Layout, width: float, optics: Optics) -> np.ndarray:
    shape = (layout.ids.shape[0], layout.ids.shape[1])
    optical = np.sqrt(np.maximum(1 - layout.rho**2, 0)) * layout.lookup(
        rng.uniform(0.8, 1.2, layout.count)
    )
    optical *= 1 + np.float32(rng.uniform(0, 0.2)) * fractal_noise(rng, shape, max(width / 2, 2.0))
    optical = blur(optical.astype(np.float32), min(optics.blur_px, 0.22 * width))
    halo = wide_blur(optical, rng.uniform(0.6, 1.5) * width)
    contrast = np.float32(rng.uniform(0.15, 0.5))
    image = np.float32(rng.uniform(0.45, 0.65)) - contrast * (optical - np.float32(0.8) * halo)
    image += np.float32(rng.uniform(0, 0.03)) * fractal_noise(rng, shape, 4 * width)
    image *= light_field(rng, shape, optics.illumination / 2)
    return add_noise(rng, image, optics.quieter(1.5 * float(contrast)))


def _brightfield(
    rng: np.random.Generator, layout: Layout, width: float, optics: Optics
) -> np.ndarray:
    shape = (layout.ids.shape[0], layout.ids.shape[1])
    thickness = np.sqrt(np.maximum(1 - layout.rho**2, 0)).astype(np.float32)
    near = blur(thickness, min(max(optics.blur_px, 0.6), 0.2 * width))
    edge = near - wide_blur(near, 0.35 * width)
    sign = 1 if rng.random() < 0.5 else -1  # which side of the focus
    image = np.float32(rng.uniform(0.5, 0.75)) + np.float32(sign * rng.uniform(0.3, 0.9)) * edge
    image -= np.float32(rng.uniform(0, 0.2)) * near
    image += np.float32(rng.uniform(0, 0.02)) * fractal_noise(rng, shape, 3 * width)
    image *= light_field(rng, shape, optics.illumination / 2)
    return add_noise(rng, image, optics.quieter(0.3))


_LOOKS = {
    "fluorescence": _fluorescence,
    "membrane": _membrane,
    "phase": _phase,
    "brightfield": _brightfield,
}
