"""Dyes and the light that passes them: what stained tissue, smears and blood share."""

from __future__ import annotations

import numpy as np

from dinoscope.datasets.synthetic.image import SyntheticImage
from dinoscope.datasets.synthetic.optics import Optics, add_noise, blur, light_field
from dinoscope.datasets.synthetic.raster import Layout, seams
from dinoscope.datasets.synthetic.textures import fractal_noise

#: Optical density of the dyes in red, green and blue (Ruifrok and Johnston 2001), before jitter.
HEMATOXYLIN = np.array([0.65, 0.70, 0.29], np.float32)
EOSIN = np.array([0.07, 0.99, 0.11], np.float32)
GIEMSA_RED = np.array([0.10, 0.75, 0.55], np.float32)


def nuclear_dye(rng: np.random.Generator, layout: Layout, diameter: float) -> np.ndarray:
    """(Y, X) float32 dye in nuclei: solid and dark, or pale with a rim and clumps of chromatin."""
    shape = (layout.ids.shape[0], layout.ids.shape[1])
    mostly_pale = rng.random()
    paleness = layout.lookup(np.clip(rng.normal(mostly_pale, 0.25, layout.count), 0, 1))
    level = layout.lookup(np.exp(rng.normal(0, 0.2, layout.count)))
    clumps = fractal_noise(rng, shape, max(diameter / 4, 2.5), roughness=0.8)
    rim = np.clip((layout.rho - 0.7) * 4, 0, 1)
    pale = 0.45 + 0.2 * clumps + 0.35 * rim
    solid = 0.95 + 0.1 * clumps
    dye = level * (paleness * pale + (1 - paleness) * solid) * (layout.ids > 0)
    dye *= 1 - np.float32(rng.uniform(0, 0.5)) * seams(layout.ids)
    return np.asarray(np.clip(dye, 0, 2), dtype=np.float32)


def jitter(rng: np.random.Generator, dye: np.ndarray) -> np.ndarray:
    """A dye a little different from batch to batch, of unit optical density."""
    varied = np.maximum(dye * np.exp(rng.normal(0, 0.15, 3)) + rng.normal(0, 0.03, 3), 0.01)
    return np.asarray(varied / np.linalg.norm(varied), dtype=np.float32)


def transmit(
    rng: np.random.Generator, dyes: list[tuple[np.ndarray, np.ndarray]], optics: Optics
) -> np.ndarray:
    """(3, Y, X) light left after passing the dyes (Beer–Lambert), blurred, uneven, noisy."""
    dyes = [(colour, blur(amount.astype(np.float32), optics.blur_px)) for colour, amount in dyes]
    lamp = np.float32(rng.uniform(0.75, 1.0)) * rng.uniform(0.92, 1.0, 3)
    light = light_field(rng, (dyes[0][1].shape[0], dyes[0][1].shape[1]), optics.illumination / 3)
    image = np.empty((3, *light.shape), np.float32)
    for channel in range(3):
        density = sum(np.float32(1.6 * colour[channel]) * amount for colour, amount in dyes)
        image[channel] = np.float32(lamp[channel]) * np.exp(-density) * light
    return add_noise(rng, image, optics.quieter(0.4))


def finish(
    rng: np.random.Generator,
    image: np.ndarray,
    layout: Layout,
    semantic: np.ndarray,
    kind: str,
    colour: bool | None,
    diameter: float,
    object_um: tuple[float, float],
) -> SyntheticImage:
    """Expose the scene through the optics and pack it with its truth."""
    wants_grey = rng.random() < 0.25 if colour is None else not colour
    if wants_grey and len(image) == 3:
        image = image.mean(0, keepdims=True)
    elif colour and len(image) == 1:
        image = np.repeat(image, 3, axis=0)
    size_um = float(rng.uniform(*object_um)) / diameter
    return SyntheticImage(
        image=image,
        axes="CYX",
        instances=layout.ids,
        semantic=semantic,
        depth=None,
        pixel_size_um={"Y": size_um, "X": size_um},
        kind=kind,
    )
