"""What can be measured of a cell without knowing its class: form, brightness, texture.

Forms that no turn changes are measured once per cell (:func:`form_of`); what light, focus and scale
change is measured on the varied picture (:func:`measure`), a batch at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage
from skimage.filters import gaussian, threshold_otsu
from skimage.measure import label, regionprops

from dinoscope.models.device import import_torch

torch = import_torch()
F = torch.nn.functional

#: Directions in which a cell's radius is measured, and harmonics of it that are kept.
DIRECTIONS, HARMONICS = 32, 11
#: Rings between rim (0) and core (1) whose brightness is measured.
RINGS = (0.02, 0.2, 0.4, 0.6, 0.8, 1.01)
#: Gaussians, in pixels, between which textures are measured.
SCALES_PX = (1.4, 2.8, 5.6)
#: Maps of :func:`patch_maps`.
PATCH_MAPS = 7
#: A mask of fewer pixels is no cell.
LEAST_PX = 20
#: A border of this many pixels shows what is not the cell.
BORDER_PX = 4


@dataclass(frozen=True)
class Form:
    """A cell's mask as `depth`, ``(Y, X)``: 0 outside, rising from the rim to 1 in the core; and
    `numbers` that say its form, the last one its size (root of its share of the picture)."""

    depth: np.ndarray
    numbers: np.ndarray


def mask_of(plane: np.ndarray) -> np.ndarray | None:
    """The object nearest to the middle of ``(Y, X)``, by Otsu's threshold on the difference to the
    border (Otsu 1979); None where there is none."""
    smooth = gaussian(plane, 1)
    inner = smooth[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX]
    border = np.ones(smooth.shape, bool)
    border[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = False
    if not inner.size:
        return None
    difference = np.abs(smooth - np.median(smooth[border]))
    found = ndimage.binary_opening(difference > threshold_otsu(difference))
    parts = label(ndimage.binary_fill_holes(found))
    if not parts.any():
        return None
    _, nearest = ndimage.distance_transform_edt(parts == 0, return_indices=True)
    row, column = (side // 2 for side in parts.shape)
    mask = parts == parts[tuple(nearest[:, row, column])]
    return mask if mask.sum() >= LEAST_PX else None


def form_of(mask: np.ndarray) -> Form:
    """Forms of a mask ``(Y, X)`` that neither a turn nor a mirror changes, nor, but for the last
    number, a scale: region properties and Fourier descriptors of the radius (Zahn and Roskies
    1972)."""
    [region] = regionprops(mask.astype(np.uint8))
    side = np.sqrt(region.area)
    rows, columns = np.nonzero(mask)
    y, x = rows - region.centroid[0], columns - region.centroid[1]
    sector = ((np.arctan2(y, x) + np.pi) / (2 * np.pi) * DIRECTIONS).astype(int) % DIRECTIONS
    radius = np.zeros(DIRECTIONS)
    np.maximum.at(radius, sector, np.hypot(y, x))
    waves = np.abs(np.fft.rfft(radius / max(radius.mean(), 1e-6))) / DIRECTIONS
    depth = ndimage.distance_transform_edt(mask)
    numbers = [
        region.perimeter / side,
        region.eccentricity,
        region.solidity,
        region.axis_minor_length / side,
        region.axis_major_length / side,
        *waves[1 : 1 + HARMONICS],
        depth.max() / side,
        np.sqrt(mask.mean()),
    ]
    return Form((depth / depth.max()).astype(np.float32), np.array(numbers, np.float32))


def measure(pixels: torch.Tensor, depth: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """``(B, K)`` descriptors of cells.

    Parameters
    ----------
    pixels : Tensor
        ``(B, 3, Y, X)``.
    depth, numbers : Tensor
        ``(B, Y, X)`` and ``(B, N)``, a `Form` each.
    """
    inside = (depth > RINGS[0]).float()
    size = numbers[:, -1:]
    level = _mean(pixels, inside)
    around = _mean(pixels, 1 - inside)
    spread = torch.sqrt(_mean((pixels - level[..., None, None]) ** 2, inside) + 1e-6)
    total = pixels.mean((2, 3))
    found = [numbers, size.log(), level, around, level - around, spread]
    found += [total, total.clamp_min(0.01).log()]
    for low, high in pairwise(RINGS):
        found.append(_mean(pixels, ((depth >= low) & (depth < high)).float()) - level)
    contrast = (level - around).abs().clamp_min(0.03)
    finer = pixels
    for scale in SCALES_PX:
        coarser = blurred(pixels, scale)
        energy = torch.sqrt(_mean((finer - coarser) ** 2, inside) + 1e-7)
        found += [energy, (energy / contrast).log()]
        finer = coarser
    found.append(_lopsided((pixels - around[..., None, None]) * inside[:, None], inside) / size)
    return torch.cat(found, 1)


def patch_maps(pixels: torch.Tensor, depth: torch.Tensor, patch: int) -> torch.Tensor:
    """``(B, PATCH_MAPS, Y / patch, X / patch)``: for each patch how much of it is cell, how deep it
    lies, its way to the cell's middle and its brightness beside all of the picture."""
    inside = (depth > RINGS[0]).float()
    ways = [inside * (axis - centre) for axis, centre in _centres(inside)]
    differences = pixels - pixels.mean((2, 3), keepdim=True)
    maps = torch.stack([inside, depth, *ways], 1)
    return F.avg_pool2d(torch.cat([2 * maps, 4 * differences], 1), patch)


def blurred(pixels: torch.Tensor, sigma: float) -> torch.Tensor:
    """A Gaussian of `sigma` pixels over ``(B, C, Y, X)``, one axis after the other: torchvision's
    takes a square, 1,225 instead of 70 products a pixel at the widest, at each step."""
    reach = int(3 * sigma) + 1
    places = torch.arange(-reach, reach + 1, dtype=torch.float32)
    weights = torch.exp(-(places**2) / (2 * sigma**2))
    weights = (weights / weights.sum()).expand(pixels.shape[1], 1, 1, -1)
    groups = pixels.shape[1]
    rows = F.conv2d(F.pad(pixels, (reach, reach, 0, 0), mode="reflect"), weights, groups=groups)
    padded = F.pad(rows, (0, 0, reach, reach), mode="reflect")
    return F.conv2d(padded, weights.transpose(2, 3), groups=groups)


def _mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """``(B, C)`` means of ``(B, C, Y, X)`` under ``(B, Y, X)``."""
    total = weights.sum((1, 2)).clamp_min(1e-3)[:, None]
    return (values * weights[:, None]).sum((2, 3)) / total


def _centres(inside: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Coordinates in [-1, 1] down and across, each with its mean over a mask."""
    high, wide = inside.shape[-2:]
    down, across = torch.linspace(-1, 1, high)[:, None], torch.linspace(-1, 1, wide)[None]
    area = inside.sum((1, 2)).clamp_min(1)
    return [(axis, ((inside * axis).sum((1, 2)) / area)[:, None, None]) for axis in (down, across)]


def _lopsided(light: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """``(B, C)`` distances from a mask's centre to that of the light in it."""
    total = light.sum((2, 3))
    total = torch.where(total.abs() < 1, torch.ones_like(total), total)
    ways = [
        (light * axis).sum((2, 3)) / total - centre[:, :, 0] for axis, centre in _centres(inside)
    ]
    return torch.hypot(*ways).clamp_max(1)
