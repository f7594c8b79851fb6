"""Colours of points and what they mean: classes, groups, measured values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dinoscope.widgets._classes import CLASS_COLOURS

RGB = tuple[int, int, int]

#: Points without a class or a value.
GREY: RGB = (140, 140, 140)
#: Points that nothing is known of yet.
PLAIN: RGB = (86, 160, 220)
#: Entries of a legend; further ones are counted.
LEGEND_ROWS = 10
#: So many different whole numbers are told apart by colours; more are a scale.
MOST_GROUPS = 64
_STEPS = 256


@dataclass(frozen=True)
class Legend:
    """What the colours mean: entries, or a scale from `low` to `high`."""

    title: str = ""
    entries: tuple[tuple[str, RGB], ...] = ()
    more: int = 0
    low: float | None = None
    high: float | None = None
    scale: np.ndarray | None = None

    @property
    def empty(self) -> bool:
        return not self.entries and self.scale is None


@dataclass(frozen=True)
class Colouring:
    """A colour for each point, ``(n, 3)`` uint8, and the legend."""

    colours: np.ndarray
    legend: Legend


def plain(count: int) -> Colouring:
    """One colour for all."""
    return Colouring(np.tile(np.array(PLAIN, np.uint8), (count, 1)), Legend())


def by_group(
    values: np.ndarray,
    title: str,
    *,
    names: Mapping[object, str] | None = None,
    own: Mapping[object, RGB] | None = None,
    none: object = None,
) -> Colouring:
    """A colour for each different value.

    Parameters
    ----------
    values : (n,) array
        Numbers or texts.
    names : mapping, optional
        What values are called.
    own : mapping, optional
        Colours that values already have (those of a layer).
    none : object, optional
        The value that means "no group": grey, last in the legend.
    """
    found, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    table = np.zeros((len(found), 3), np.uint8)
    rows: list[tuple[int, str, RGB]] = []
    number = 0
    for i, value in enumerate(found):
        key = value.item() if hasattr(value, "item") else value
        if none is not None and key == none:
            colour, text, rank = GREY, "none", -1
        else:
            colour, text, rank = _colour_of(number), str(key), int(counts[i])
            number += 1
        colour = (own or {}).get(key, colour)
        table[i] = colour
        rows.append((rank, (names or {}).get(key, text), colour))
    # The largest groups are named where there are too many for the legend.
    shown = set(sorted(range(len(rows)), key=lambda i: -rows[i][0])[:LEGEND_ROWS])
    entries = tuple((rows[i][1], rows[i][2]) for i in range(len(rows)) if i in shown)
    legend = Legend(title, entries, more=len(rows) - len(entries))
    return Colouring(table[place.reshape(-1)], legend)


def by_value(values: np.ndarray, title: str, colormap: str = "viridis") -> Colouring:
    """A scale from the 1st to the 99th percentile; what is no number is grey."""
    from napari.utils.colormaps import ensure_colormap

    values = np.asarray(values, float)
    finite = np.isfinite(values)
    low, high = np.percentile(values[finite], [1, 99]) if finite.any() else (0.0, 1.0)
    if high <= low:
        low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 1.0)
    span = float(high - low) or 1.0
    ramp = ensure_colormap(colormap).map(np.linspace(0, 1, _STEPS, dtype=np.float32))
    table = np.rint(255 * np.asarray(ramp)[:, :3]).astype(np.uint8)
    step = np.zeros(len(values), np.intp)
    step[finite] = ((values[finite] - low) / span * (_STEPS - 1)).clip(0, _STEPS - 1)
    colours = table[step]
    colours[~finite] = GREY
    return Colouring(colours, Legend(title, low=float(low), high=float(high), scale=table))


def by_column(values: np.ndarray, title: str) -> Colouring:
    """Groups for texts, truth values and few whole numbers; a scale for anything else."""
    values = np.asarray(values)
    if values.dtype.kind == "O":
        numbers = _numbers(values)
        values = values.astype(str) if numbers is None else numbers
    if values.dtype.kind in "USb":
        return by_group(values, title, none="" if values.dtype.kind in "US" else None)
    if values.dtype.kind in "iu" and len(np.unique(values)) <= MOST_GROUPS:
        return by_group(values, title)
    return by_value(values, title)


def _numbers(values: np.ndarray) -> np.ndarray | None:
    """Values of a column of objects as numbers, where they all are."""
    if any(isinstance(v, (str, bytes)) for v in values):
        return None
    try:
        return values.astype(float)
    except (TypeError, ValueError):
        return None


def _colour_of(number: int) -> RGB:
    """The palette of classes first, then hues a golden angle apart."""
    if number < len(CLASS_COLOURS) - 1:  # the last one is grey
        text = CLASS_COLOURS[number].lstrip("#")
        return int(text[:2], 16), int(text[2:4], 16), int(text[4:], 16)
    hue = (0.13 + number * 0.618034) % 1.0
    value = (0.95, 0.75, 0.6)[number % 3]
    return _hsv(hue, 0.6, value)


def _hsv(hue: float, saturation: float, value: float) -> RGB:
    import colorsys

    r, g, b = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * r), round(255 * g), round(255 * b)
