"""From a semantic preview to objects, and from a few clicked objects to the class of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dinoscope.arrays.decode import basins, fill_holes
from dinoscope.arrays.labels import SCRIBBLE_FIRST_CLASS, relabel_sequential
from dinoscope.arrays.objects import object_table
from dinoscope.arrays.patches import PatchGrid
from dinoscope.arrays.watershed import Valleys, hills
from dinoscope.errors import InputError
from dinoscope.types import Table

METHODS = ("instance", "watershed")
#: Valleys of the distance map, in pixels, that part two objects.
_VALLEYS = Valleys(ratio=0.8, depth=0.75)
#: Smoothing of the distance map, in pixels.
_SMOOTHING_PX = 1.0


def split_objects(
    labels: np.ndarray, maps: np.ndarray | None = None, *, min_size_px: int = 12
) -> tuple[np.ndarray, dict[int, int]]:
    """Objects of a preview, touching ones parted.

    Parameters
    ----------
    labels : (Y, X) uint8
        Scribble codes; 2 and above are objects' classes.
    maps : (3, Y, X) uint8, optional
        The model's instance maps, by whose basins objects are parted; else by a watershed on the
        distance to the border.
    min_size_px : int
        Smaller ones are dropped.

    Returns
    -------
    tuple
        ``(Y, X)`` uint32 ids 1..n in reading order, each one connected region of one class; and the
        code of each.

    Raises
    ------
    InputError
        Maps of another shape.
    """
    from skimage.measure import label

    if maps is not None and maps.shape[1:] != labels.shape:
        raise InputError(f"instance maps have shape {maps.shape}", expected=f"(3, *{labels.shape})")
    inside = labels >= SCRIBBLE_FIRST_CLASS
    if maps is not None:
        parts = basins(np.where(inside, np.maximum(maps, 5), 0).astype(np.uint8))
    else:
        parts = _hills_of_distance(labels, inside)
    # One id is one connected region of one basin and one class.
    keyed = np.where(inside, parts.astype(np.int64) * 256 + labels, 0)
    ids = label(keyed, connectivity=1, background=0)
    area = np.bincount(ids.ravel())
    ids = np.where(area[ids] >= max(1, min_size_px), ids, 0)
    ids = relabel_sequential(fill_holes(ids))
    return ids, class_of_objects(ids, labels)


def _hills_of_distance(labels: np.ndarray, inside: np.ndarray) -> np.ndarray:
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    found = np.zeros(labels.shape, np.int64)
    shift = 0
    for code in np.unique(labels[inside]):
        mask = labels == code  # classes that touch are parted by their border
        distance = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].astype(np.float32)
        height = gaussian_filter(distance, _SMOOTHING_PX, truncate=3)
        parts = hills(height, mask, _VALLEYS)
        found[mask] = parts[mask] + shift
        shift += int(parts.max()) + 1
    return found


def class_of_objects(ids: np.ndarray, labels: np.ndarray) -> dict[int, int]:
    """The most frequent code of 2 and above inside of each object."""
    inside = (ids > 0) & (labels >= SCRIBBLE_FIRST_CLASS)
    key = ids[inside].astype(np.int64) * 256 + labels[inside]
    pairs, count = np.unique(key, return_counts=True)
    found: dict[int, int] = {}
    for place in np.argsort(count, kind="stable"):  # the most frequent comes last and stays
        found[int(pairs[place]) // 256] = int(pairs[place]) % 256
    return dict(sorted(found.items()))


def measured(
    ids: np.ndarray,
    image: np.ndarray | None,
    pixel_size_um: Mapping[str, float],
    index: tuple[int, ...],
    plane_axes: str,
    classes: Mapping[int, int],
) -> Table:
    """The objects table of a plane with a column ``class`` of scribble codes (0 = none)."""
    table = object_table(ids, image, pixel_size_um, index, plane_axes)
    codes = [classes.get(int(i), 0) for i in table["label"]]
    table["class"] = np.array(codes, np.int64)
    return table


def object_vectors(
    ids: np.ndarray, tokens: np.ndarray, grid: PatchGrid, image: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What an object's class is told by: its mean token, its shape, its intensities.

    Parameters
    ----------
    ids : (Y, X) integer array
        Objects of a plane.
    tokens : (h·w, D) array
        Tokens of `grid`.
    image : (C, Y, X) array
        The plane, about 0 to 1.

    Returns
    -------
    numbers : (n,) int64
        The objects' ids.
    vectors : (n, D + 8 + 2 C) float32
    """
    from scipy.sparse import csr_matrix
    from skimage.measure import regionprops_table

    numbers = np.unique(ids)
    numbers = numbers[numbers > 0].astype(np.int64)
    if not len(numbers):
        return numbers, np.zeros((0, tokens.shape[1] + 8 + 2 * len(image)), np.float32)
    rows, columns = grid.pixel_patches()
    y, x = np.nonzero(ids)
    patch = rows[y] * grid.grid[1] + columns[x]
    place = np.searchsorted(numbers, ids[y, x])
    share = csr_matrix(
        (np.ones(len(y), np.float32), (place, patch)), shape=(len(numbers), grid.count)
    )
    area = np.asarray(share.sum(1)).reshape(-1, 1)
    pooled = (share @ np.asarray(tokens, np.float32)) / area
    props = regionprops_table(
        np.asarray(ids, np.int64),
        properties=(
            "area",
            "perimeter",
            "eccentricity",
            "solidity",
            "axis_major_length",
            "axis_minor_length",
            "extent",
        ),
    )
    size, around = np.maximum(props["area"], 1), np.maximum(props["perimeter"], 1)
    shape = np.stack(
        [
            np.log(size),
            np.log(around),
            np.minimum(4 * np.pi * size / around**2, 2),
            props["eccentricity"],
            props["solidity"],
            props["extent"],
            np.log1p(props["axis_major_length"]),
            np.log1p(props["axis_minor_length"]),
        ],
        axis=1,
    )
    values = np.asarray(image, np.float64)[:, y, x]
    mean = np.stack([np.bincount(place, v, minlength=len(numbers)) for v in values], 1) / area
    square = np.stack([np.bincount(place, v * v, minlength=len(numbers)) for v in values], 1) / area
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    return numbers, np.hstack([pooled, shape, mean, spread]).astype(np.float32)


#: Of logistic regression: the more tokens and the fewer examples, the stronger it must be bound.
_STRENGTH = 0.1
#: Principal components of the pooled tokens of all objects.
_COMPONENTS = 24


def classify_objects(
    vectors: np.ndarray, tokens: int, examples: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Give every object a class from a few examples.

    Parameters
    ----------
    vectors : (n, D) float32
        See :func:`object_vectors`; of all objects, so that what varies among them is known.
    tokens : int
        How many of the first columns are tokens.
    examples : sequence of (row, code)
        Objects whose class was clicked.

    Returns
    -------
    codes : (C,) int64
        The classes that occur among the examples.
    probabilities : (n, C) float32

    Raises
    ------
    InputError
        No example.
    """
    if not len(examples):
        raise InputError(
            "no object has a class",
            expected="at least one example of each class",
            hint="Click one.",
        )
    rows = np.array([row for row, _ in examples])
    codes, known = np.unique([code for _, code in examples], return_inverse=True)
    if len(codes) == 1:
        return codes, np.ones((len(vectors), 1), np.float32)
    from sklearn.linear_model import LogisticRegression

    scaled = _scaled(vectors[:, :tokens])
    _, values, axes = np.linalg.svd(scaled.T @ scaled / len(scaled))
    kept = min(_COMPONENTS, int((values > 1e-6).sum()))
    parts = scaled @ axes[:kept].T / np.sqrt(np.maximum(values[:kept].mean(), 1e-9))
    inputs = np.hstack([parts, _scaled(vectors[:, tokens:])])
    model = LogisticRegression(C=_STRENGTH, class_weight="balanced", max_iter=500)
    model.fit(inputs[rows], known)
    return codes, np.asarray(model.predict_proba(inputs), np.float32)


def _scaled(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.mean(0)) / (values.std(0) + 1e-6))
