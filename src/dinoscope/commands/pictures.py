"""Results as 8-bit RGB pictures for the overview, without a plotting library."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

#: Classes after the background, also for colour-blind readers (Okabe & Ito 2008).
PALETTE = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (213, 94, 0),
    (86, 180, 233),
    (240, 228, 66),
)
#: Anchors of a dark-to-light map whose lightness rises evenly (after viridis).
_HEIGHT_COLOURS = (
    (68, 1, 84),
    (71, 44, 122),
    (59, 81, 139),
    (44, 113, 142),
    (33, 144, 141),
    (39, 173, 129),
    (92, 200, 99),
    (170, 220, 50),
    (253, 231, 37),
)


def grey_or_rgb(plane: np.ndarray) -> np.ndarray:
    """A plane ``(C, Y, X)`` of any dtype as ``(Y, X, 3)`` uint8, stretched between its percentiles.

    Three channels are shown as RGB with one common range, any other number as the grey mean.
    """
    import numpy as np

    values = np.moveaxis(plane.astype(np.float32), 0, -1)
    if values.shape[-1] != 3:
        values = np.repeat(values.mean(axis=-1, keepdims=True), 3, axis=-1)
    if plane.dtype == np.uint8 and plane.shape[0] == 3:
        return np.ascontiguousarray(values.astype(np.uint8))
    return _stretch(values, 0.5, 99.7)


def _stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    import numpy as np

    finite = values[np.isfinite(values)]
    bottom, top = np.percentile(finite, [low, high]) if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(values, nan=float(bottom)) - bottom) / max(float(top - bottom), 1e-12)
    return np.asarray((np.clip(scaled, 0, 1) * 255).round(), np.uint8)


def instances_on(base: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Objects tinted and outlined on the dimmed grey of `base` ``(Y, X, 3)`` uint8."""
    import numpy as np
    from skimage.segmentation import find_boundaries

    hues = np.array(_hues(24), dtype=np.float32)
    colours = hues[(ids.astype(np.int64) * 7) % len(hues)]
    picture = _dimmed(base)
    inside = ids > 0
    picture[inside] = 0.5 * picture[inside] + 0.5 * colours[inside]
    edge = find_boundaries(ids, mode="inner")
    picture[edge] = colours[edge]
    return picture.round().astype(np.uint8)


def classes_on(base: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Classes from 1 on tinted with `PALETTE` on the dimmed grey of `base`."""
    import numpy as np

    palette = np.array(PALETTE, dtype=np.float32)
    picture = _dimmed(base)
    inside = (classes > 0) & (classes < 255)
    colours = palette[(classes[inside].astype(np.int64) - 1) % len(palette)]
    picture[inside] = 0.35 * picture[inside] + 0.65 * colours
    return picture.round().astype(np.uint8)


def heights(values: np.ndarray) -> np.ndarray:
    """A float map, larger = lighter; pixels that are not numbers are grey."""
    import numpy as np

    anchors = np.array(_HEIGHT_COLOURS, dtype=np.float32)
    positions = np.linspace(0, 255, len(anchors))
    level = _stretch(values, 1, 99)
    table = np.stack(
        [np.interp(np.arange(256), positions, anchors[:, c]) for c in range(3)], axis=1
    )
    picture: np.ndarray = table[level].round().astype(np.uint8)
    picture[~np.isfinite(values)] = 128
    return picture


def features(values: np.ndarray) -> np.ndarray:
    """PCA colours ``(Y, X, 3)`` in [0, 1] as uint8."""
    import numpy as np

    return np.asarray((np.clip(np.nan_to_num(values), 0, 1) * 255).round(), np.uint8)


def _dimmed(base: np.ndarray) -> np.ndarray:
    import numpy as np

    grey = base.astype(np.float32).mean(axis=-1, keepdims=True)
    return np.asarray(np.repeat(grey, 3, axis=-1))


def _hues(count: int) -> list[tuple[float, float, float]]:
    import colorsys

    colours = []
    for number in range(count):
        red, green, blue = colorsys.hsv_to_rgb(number / count, 0.85 if number % 2 else 0.6, 1.0)
        colours.append((255 * red, 255 * green, 255 * blue))
    return colours
