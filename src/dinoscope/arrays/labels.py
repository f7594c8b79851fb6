"""Label codes, decided once, and what every label array has to pass before it is used.

Two code families meet in the project. *Scribble* layers, as the user paints them: 0 = not
annotated, 1 = background, 2… = classes. *Dense* labels, in results and as truth: 0 = background,
1… = classes, 255 = ignore. They are converted only when annotations are applied or saved. Instance
labels are ids: 0 = background, 1… = objects; nothing is ignored in them.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from dinoscope.errors import InputError

#: Dense semantic truth: pixels that are neither learned nor scored.
IGNORE = 255
#: Dense labels and instance ids: no object.
BACKGROUND = 0
#: Scribble layers.
SCRIBBLE_NONE = 0
SCRIBBLE_BACKGROUND = 1
SCRIBBLE_FIRST_CLASS = 2
#: Ids up to here are counted in a table.
_MOST_IDS = 1 << 24
_BITS = np.uint64((1 << 24) - 1)


def validate_labels(
    labels: np.ndarray, *, shape: tuple[int, ...] | None = None, name: str = "labels"
) -> np.ndarray:
    """Check that an array can be read as labels.

    Parameters
    ----------
    labels : integer or bool array
        Instance ids or class codes. Boolean masks become 0 and 1.
    shape : tuple of int, optional
        The shape it must have, usually the image's.
    name : str
        What to call it in the error.

    Returns
    -------
    integer array
        `labels` itself, or a uint8 copy of a boolean mask.

    Raises
    ------
    InputError
        Another shape, no pixels, a floating-point or complex dtype, or negative values.
    """
    labels = np.asarray(labels)
    if shape is not None and labels.shape != tuple(shape):
        raise InputError(
            f"{name} has shape {labels.shape}",
            expected=f"{tuple(shape)}, the shape of the image",
            hint="Labels must cover the same pixels as their image.",
        )
    if labels.size == 0:
        raise InputError(f"{name} has shape {labels.shape}", expected="at least one pixel")
    if labels.dtype == bool:
        return labels.astype(np.uint8)
    if labels.dtype.kind not in "iu":
        raise InputError(
            f"{name} has dtype {labels.dtype}",
            expected="integers, one number for each object or class",
            hint="Convert the image to 8, 16 or 32 bit integers.",
        )
    if labels.dtype.kind == "i" and int(labels.min()) < 0:
        raise InputError(
            f"{name} holds negative values, down to {int(labels.min())}",
            expected="0 for background and positive numbers",
        )
    return labels


def validate_classes(
    labels: np.ndarray, *, shape: tuple[int, ...] | None = None, name: str = "labels"
) -> np.ndarray:
    """Check dense class labels; returns them as uint8, with 255 = ignore.

    Raises
    ------
    InputError
        What :func:`validate_labels` refuses, or a code above 255.
    """
    labels = validate_labels(labels, shape=shape, name=name)
    highest = int(labels.max())
    if highest > IGNORE:
        raise InputError(
            f"{name} holds class {highest}",
            expected=f"classes 0 to {IGNORE - 1}, {IGNORE} = ignore",
            hint="Is this an image of instance ids?",
        )
    return labels.astype(np.uint8, copy=False)


def scribbles_to_classes(scribbles: np.ndarray) -> np.ndarray:
    """Scribble codes (0 none, 1 background, 2… classes) as dense uint8 codes (255, 0, 1…).

    Examples
    --------
    >>> scribbles_to_classes(np.array([0, 1, 2, 3])).tolist()
    [255, 0, 1, 2]
    """
    scribbles = validate_labels(scribbles, name="scribbles")
    if int(scribbles.max()) > IGNORE:
        raise InputError(
            f"scribbles hold label {int(scribbles.max())}", expected=f"labels 0 to {IGNORE}"
        )
    # 0 - 1 wraps around to 255, which is exactly "ignore".
    return scribbles.astype(np.uint8) - np.uint8(1)


def classes_to_scribbles(classes: np.ndarray) -> np.ndarray:
    """Dense uint8 codes (255 ignore, 0 background, 1… classes) as scribble codes (0, 1, 2…)."""
    return validate_classes(classes, name="classes") + np.uint8(1)


def relabel_sequential(ids: np.ndarray) -> np.ndarray:
    """Renumber ids to 1..n in their own order, 0 stays 0.

    Parameters
    ----------
    ids : integer array of any shape
        Instance ids.

    Returns
    -------
    uint32 array of the same shape

    Examples
    --------
    >>> relabel_sequential(np.array([0, 7, 7, 3])).tolist()
    [0, 2, 2, 1]
    """
    ids = np.asarray(ids)
    if ids.size == 0:
        return ids.astype(np.uint32)
    lowest, highest = int(ids.min()), int(ids.max())
    if lowest >= 0 and highest <= 4 * ids.size + 1024:
        used = np.zeros(highest + 1, bool)
        used[ids.ravel()] = True
        used[0] = False
        table = np.cumsum(used, dtype=np.uint32)
        table[0] = 0
        return np.asarray(table[ids])
    values, inverse = np.unique(ids, return_inverse=True)
    table = np.cumsum(values > 0, dtype=np.uint32) * (values > 0)
    return np.asarray(table[inverse].reshape(ids.shape).astype(np.uint32))


def border_ids(ids: np.ndarray) -> np.ndarray:
    """The ids, without 0, that touch the border of a (Y, X) plane; sorted."""
    edge = np.concatenate([ids[0], ids[-1], ids[:, 0], ids[:, -1]])
    values = np.unique(edge)
    return values[values > 0]


def remove_border_objects(ids: np.ndarray) -> np.ndarray:
    """A copy of a (Y, X) id plane without the objects that touch its border; ids are kept."""
    return np.where(np.isin(ids, border_ids(ids)), 0, ids).astype(ids.dtype)


def pixel_checksums(ids: np.ndarray) -> dict[int, int]:
    """For each object of a (Y, X) id plane a checksum of where its pixels are, 32 bits.

    Examples
    --------
    >>> before = pixel_checksums(np.array([[1, 1, 0, 2]]))
    >>> after = pixel_checksums(np.array([[1, 0, 0, 2]]))
    >>> before[2] == after[2], before[1] == after[1]
    (True, False)
    """
    flat = np.flatnonzero(ids)
    values = ids.reshape(-1)[flat]
    if flat.size == 0:
        return {}
    numbers: np.ndarray | None = None
    if int(values.max()) > _MOST_IDS:
        numbers, values = np.unique(values, return_inverse=True)
    counts = np.bincount(values)
    # Sums do not depend on an order, so nothing is sorted; those of 24 bits are exact in float64.
    scattered = flat.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    low, high = (np.bincount(values, (scattered >> np.uint64(s)) & _BITS) for s in (40, 16))
    present = np.flatnonzero(counts)
    return {
        int(n if numbers is None else numbers[n]): zlib.crc32(
            struct.pack("<qdd", counts[n], low[n], high[n])
        )
        for n in present.tolist()
    }


def typical_diameter(ids: np.ndarray) -> float | None:
    """Median size of objects in pixels: twice their mean width, at most the circle's of their area.

    A disc's diameter, 1.3 times the width of a rod twice as long as wide, 1.8 of one nine times as
    long. What a model must resolve is how wide objects are: of two rods of one area, the longer
    one has to be seen larger.

    Parameters
    ----------
    ids : (Y, X) integer array
        Instance ids of one plane.

    Returns
    -------
    float or None
        ``None`` where there is no object. Objects that touch the border are left out, unless there
        are no others. Ragged outlines count down to half the diameter of the circle of equal area.
    """
    ids = relabel_sequential(np.maximum(ids, 0))
    areas = np.bincount(ids.ravel())[1:]
    if areas.size == 0:
        return None
    whole = np.ones(areas.size, bool)
    whole[border_ids(ids) - 1] = False
    round_ones = 2.0 * np.sqrt(areas / np.pi)
    across = 4.0 * areas / np.maximum(_perimeters(ids, areas.size), 1.0)
    sizes = np.clip(across, 0.5 * round_ones, round_ones)
    return float(np.median(sizes[whole] if whole.any() else sizes))


def _perimeters(ids: np.ndarray, count: int) -> np.ndarray:
    """Length of the outline of ids 1..`count` by Crofton's formula in four directions; the edge of
    the array is no outline."""
    length = np.zeros(count + 1)
    for step, near, far in (
        (1.0, ids[1:], ids[:-1]),
        (1.0, ids[:, 1:], ids[:, :-1]),
        (np.sqrt(0.5), ids[1:, 1:], ids[:-1, :-1]),
        (np.sqrt(0.5), ids[1:, :-1], ids[:-1, 1:]),
    ):
        differs = near != far
        for side in (near, far):
            length += np.pi / 8 * step * np.bincount(side[differs], minlength=count + 1)
    return np.asarray(length[1:])
