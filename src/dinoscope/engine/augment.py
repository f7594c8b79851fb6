"""Crops from training images, and what microscopes do to images.

Geometry: flips, any rotation, scale, mild stretch, in one resampling; coarser pixels. Intensity:
gamma, contrast, inversion, illumination gradient, stain and colour jitter, defocus blur,
Poisson-Gaussian noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from dinoscope.engine.dataset import TrainingImage
from dinoscope.tasks.base import IGNORE, SPARSE, task


@dataclass(frozen=True)
class Augmentation:
    """How strongly crops are varied; `intensity` and `geometry` are probabilities and strengths at
    once."""

    geometry: bool = True
    scale_jitter: float = 0.8  # octaves either way, drawn from a triangular distribution
    far_scale: float = 0.0  # share of crops whose scale is up to 1.7 octaves off, uniformly
    coarse: float = (
        0.0  # share of crops as a camera with 1.25 to 2.5 times the pixel size sees them
    )
    intensity: float = 0.5
    invert: float = 0.1
    keep_absolute: bool = False  # classes that live on absolute intensity and size


def make_crop(
    image: TrainingImage,
    rng: np.random.Generator,
    crop_px: int,
    zoom: float,
    augmentation: Augmentation,
    target_diameter: float | None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """One training crop.

    Parameters
    ----------
    image : TrainingImage
        Where it is cut from.
    zoom : float
        Model pixels per image pixel, before jitter.
    target_diameter : float, optional
        Training diameter in model pixels, to tell the instance head how large objects are.

    Returns
    -------
    tuple
        Pixels ``(3, crop_px, crop_px)`` float32 and each task's target.
    """
    scale = zoom * 2 ** _octaves(rng, augmentation)
    places = _places(image, rng, crop_px, scale, augmentation)
    window, grid = _windowed(places, image.pixels.shape[-2:])
    pixels = _sample(image.pixels[:, *window].astype(np.float32), grid, "bilinear")
    if augmentation.coarse and rng.random() < augmentation.coarse:
        pixels = _coarsened(pixels, scale * float(rng.uniform(1.25, 2.5)))
    log_size = None
    if image.diameter_px and target_diameter:
        log_size = float(np.log2(image.diameter_px * scale / target_diameter))
    targets: dict[str, np.ndarray] = {}
    for name, truth in image.targets.items():
        if isinstance(truth, np.ndarray):
            sampled = _sample(truth[None, *window].astype(np.float32), grid, "nearest")[0]
            kind = np.int32 if name == "instance" else truth.dtype
            targets[name] = task(name).targets(sampled.astype(kind), log_size)
        else:
            targets[name] = task(name).targets(np.asarray(truth), log_size)
    return vary_intensity(pixels, rng, augmentation), targets


def _octaves(rng: np.random.Generator, augmentation: Augmentation) -> float:
    if not augmentation.geometry or augmentation.scale_jitter <= 0:
        return 0.0
    if rng.random() < augmentation.far_scale:
        return float(rng.uniform(-1.7, 1.7))
    return float(rng.triangular(-augmentation.scale_jitter, 0, augmentation.scale_jitter))


def _places(
    image: TrainingImage,
    rng: np.random.Generator,
    crop_px: int,
    scale: float,
    augmentation: Augmentation,
) -> np.ndarray:
    """Where in the image each crop pixel comes from: ``(2, crop, crop)`` rows and columns, in which
    the first pixel reaches from 0 to 1."""
    height, width = image.pixels.shape[-2:]
    matrix = np.eye(2)
    if augmentation.geometry:
        angle = (
            float(rng.uniform(0, 2 * np.pi)) if rng.random() < 0.5 else np.pi / 2 * rng.integers(4)
        )
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        stretch = (
            np.diag(2 ** rng.uniform(-0.12, 0.12, 2))
            if not augmentation.keep_absolute
            else np.eye(2)
        )
        matrix = turn @ stretch @ np.diag(rng.choice([-1.0, 1.0], 2))
    matrix /= scale
    reach = np.abs(matrix).sum(1) * crop_px / 2
    centre = [
        float(rng.uniform(reach[i], n - reach[i])) if 2 * reach[i] < n else n / 2
        for i, n in enumerate((height, width))
    ]
    if not augmentation.keep_absolute and 2 * reach.max() < min(height, width):
        centre = _prefer_objects(image, rng, centre, reach)
    offsets = np.arange(crop_px) + 0.5 - crop_px / 2
    yy, xx = np.meshgrid(offsets, offsets, indexing="ij")
    rows = matrix[0, 0] * yy + matrix[0, 1] * xx + centre[0]
    columns = matrix[1, 0] * yy + matrix[1, 1] * xx + centre[1]
    return np.stack([rows, columns])


def _windowed(
    places: np.ndarray, shape: tuple[int, int]
) -> tuple[tuple[slice, slice], torch.Tensor]:
    """The part of an image that a crop comes from, and the places in it for `grid_sample`.

    All of the image where the crop reaches beyond it: what lies there is reflected.
    """
    low = [int(v) - 2 for v in places.min((1, 2))]
    high = [int(v) + 3 for v in places.max((1, 2))]
    if min(low) < 0 or high[0] > shape[0] or high[1] > shape[1]:
        low, high = [0, 0], list(shape)
    rows, columns = (
        (at - first) / (end - first) * 2 - 1
        for at, first, end in zip(places, low, high, strict=True)
    )
    grid = torch.from_numpy(np.stack([columns, rows], -1).astype(np.float32))[None]
    return (slice(low[0], high[0]), slice(low[1], high[1])), grid


def _prefer_objects(
    image: TrainingImage, rng: np.random.Generator, centre: list[float], reach: np.ndarray
) -> list[float]:
    """Three times in four, a crop whose middle lies on something annotated."""
    dense = [
        t for t in image.targets.values() if isinstance(t, np.ndarray) and t.dtype.kind in "iu"
    ]
    if not dense or rng.random() < 0.25:
        return centre
    truth = dense[0]
    shape = truth.shape
    known = sparse_pixels(truth)
    if known is not None:
        y, x = np.divmod(int(rng.choice(known)), shape[1])
        low, high = reach, np.array(shape) - reach
        return [float(v) for v in np.clip([y + 0.5, x + 0.5], low, high)]
    for _ in range(8):
        y = float(rng.uniform(reach[0], shape[0] - reach[0]))
        x = float(rng.uniform(reach[1], shape[1] - reach[1]))
        if 0 < truth[int(y), int(x)] < (IGNORE if truth.dtype == np.uint8 else 2**31):
            return [y, x]
    return centre


def sparse_pixels(truth: np.ndarray) -> np.ndarray | None:
    """Flat indices of what is annotated, where that is little; else ``None``.

    Of strokes, a crop at a random place may show none at all.
    """
    if truth.dtype != np.uint8:
        return None
    known = np.flatnonzero(truth != IGNORE)
    return known if 0 < len(known) < SPARSE * truth.size else None


def _sample(maps: np.ndarray, grid: torch.Tensor, mode: str) -> np.ndarray:
    tensor = torch.from_numpy(np.ascontiguousarray(maps))[None]
    return F.grid_sample(tensor, grid, mode=mode, padding_mode="reflection", align_corners=False)[
        0
    ].numpy()


def _coarsened(pixels: np.ndarray, pixel_px: float) -> np.ndarray:
    """Pixels ``(3, Y, X)`` as if a camera's pixel were `pixel_px` of them wide.

    Small objects in a large pixel look unlike large ones in small pixels; a model that saw only the
    resolution its images came with takes blur for size.
    """
    height, width = pixels.shape[-2:]
    coarse = tuple(max(16, round(n / pixel_px)) for n in (height, width))
    if coarse[0] >= height or coarse[1] >= width:
        return pixels
    x = torch.from_numpy(np.ascontiguousarray(pixels))[None]
    x = F.interpolate(x, size=coarse, mode="area")
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)[0].numpy()


def vary_intensity(
    pixels: np.ndarray, rng: np.random.Generator, augmentation: Augmentation
) -> np.ndarray:
    """Pixels ``(3, Y, X)`` in about [0, 1], varied as illumination, stain, optics and noise do."""
    p = augmentation.intensity
    if p <= 0:
        return pixels
    out = pixels
    colour = float(np.abs(out[0] - out[1]).mean() + np.abs(out[1] - out[2]).mean()) > 0.01
    strong = 0.35 if augmentation.keep_absolute else 1.0
    if rng.random() < p:
        out = np.clip(out, 0, 1) ** float(2 ** (strong * rng.uniform(-0.9, 0.9)))
    if rng.random() < p:
        gain = 1 + strong * rng.uniform(-0.35, 0.25)
        out = (out - 0.5) * gain + 0.5 + strong * rng.uniform(-0.15, 0.15)
    if colour and rng.random() < p:
        out = out * (1 + strong * rng.uniform(-0.2, 0.2, (3, 1, 1)))
        if not augmentation.keep_absolute and rng.random() < 0.25:
            out = np.broadcast_to(out.mean(0, keepdims=True), out.shape)
        elif not augmentation.keep_absolute and rng.random() < 0.15:
            out = out[rng.permutation(3)]
    if not augmentation.keep_absolute and rng.random() < augmentation.invert:
        out = 1 - out
    if rng.random() < p * 0.5:
        out = out * _illumination(out.shape[-2:], rng, 0.3 * strong)
    if rng.random() < p * 0.5:
        out = _blur(out, float(rng.uniform(0.4, 1.6 * strong)))
    if rng.random() < p * 0.6:
        out = _noise(out, rng, strong)
    return np.ascontiguousarray(np.clip(out, -0.5, 1.5), dtype=np.float32)


def _illumination(shape: tuple[int, int], rng: np.random.Generator, strength: float) -> np.ndarray:
    y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij")
    angle = rng.uniform(0, 2 * np.pi)
    tilt = np.cos(angle) * y + np.sin(angle) * x
    return np.asarray(1 + strength * rng.uniform(-1, 1) * tilt, np.float32)


def _blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    radius = max(1, int(2.5 * sigma + 0.5))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    x = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))[:, None]
    x = F.conv2d(F.pad(x, (0, 0, radius, radius), mode="replicate"), kernel.view(1, 1, -1, 1))
    x = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))
    return x[:, 0].numpy()


def _noise(pixels: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Shot noise whose variance grows with the signal, and read-out noise."""
    shot, read = strength * rng.uniform(0, 0.08), strength * rng.uniform(0, 0.04)
    spread = np.sqrt(np.clip(pixels, 0, 1) * shot**2 + read**2)
    noisy = pixels + spread * rng.standard_normal(pixels.shape, dtype=np.float32)
    return np.asarray(noisy, np.float32)
