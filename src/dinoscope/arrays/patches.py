"""Where the patches of a grid of tokens lie in their image, both ways and exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dinoscope.errors import InputError


@dataclass(frozen=True)
class PatchGrid:
    """The patches of one plane, or of a region of it.

    Coordinates are rows and columns of the whole image with pixel centres at whole numbers, as
    everywhere; a patch covers the half-open square of `step` pixels around its centre.

    Parameters
    ----------
    shape : tuple of int
        ``(Y, X)``: the pixels that the patches stand for.
    grid : tuple of int
        ``(h, w)``: rows and columns of patches.
    step : tuple of float
        Image pixels from one patch to the next along rows and columns.
    first : tuple of float
        Centre of patch ``(0, 0)``.
    origin : tuple of int
        First row and column of those pixels in the image; not 0 for a region.

    Raises
    ------
    InputError
        No patches, no pixels or a step that is not above 0.

    Examples
    --------
    >>> grid = PatchGrid((28, 42), (2, 3), (14.0, 14.0), (6.5, 6.5))
    >>> grid.centres([1], [2]).tolist(), grid.patch_at(13.4, 14)
    ([[20.5, 34.5]], (0, 1))
    """

    shape: tuple[int, int]
    grid: tuple[int, int]
    step: tuple[float, float]
    first: tuple[float, float]
    origin: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if min(*self.shape, *self.grid) < 1 or not min(self.step) > 0:
            raise InputError(
                f"patch grid {self.grid} of step {self.step} on {self.shape} pixels",
                expected="at least one patch and one pixel, and a step above 0",
            )

    @property
    def count(self) -> int:
        """Number of patches."""
        return self.grid[0] * self.grid[1]

    def centres(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """``(n, 2)`` float64 image coordinates (y, x) of the centres of n patches."""
        y = self.first[0] + np.asarray(rows, np.float64) * self.step[0]
        x = self.first[1] + np.asarray(columns, np.float64) * self.step[1]
        return np.stack([y, x], axis=-1)

    def patches_at(self, ys: np.ndarray, xs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the patches that hold these image coordinates; the nearest outside
        of the grid."""
        rows = np.floor((np.asarray(ys, np.float64) - self.first[0]) / self.step[0] + 0.5)
        columns = np.floor((np.asarray(xs, np.float64) - self.first[1]) / self.step[1] + 0.5)
        return (
            rows.clip(0, self.grid[0] - 1).astype(np.int64),
            columns.clip(0, self.grid[1] - 1).astype(np.int64),
        )

    def patch_at(self, y: float, x: float) -> tuple[int, int] | None:
        """Row and column of the patch that holds a pixel; ``None`` beside the pixels."""
        top, left = self.origin
        inside_y = top - 0.5 <= y < top + self.shape[0] - 0.5
        if not (inside_y and left - 0.5 <= x < left + self.shape[1] - 0.5):
            return None
        rows, columns = self.patches_at(np.array([y]), np.array([x]))
        return int(rows[0]), int(columns[0])

    def pixel_patches(self) -> tuple[np.ndarray, np.ndarray]:
        """The row of patches of every row of pixels ``(Y,)``, and likewise for columns ``(X,)``."""
        return self.patches_at(
            np.arange(self.shape[0]) + self.origin[0], np.arange(self.shape[1]) + self.origin[1]
        )

    def pixel_positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Where every row and column of pixels lies on the grid, in patches (float64)."""
        y = (np.arange(self.shape[0]) + self.origin[0] - self.first[0]) / self.step[0]
        x = (np.arange(self.shape[1]) + self.origin[1] - self.first[1]) / self.step[1]
        return y, x

    def paint(self, values: np.ndarray) -> np.ndarray:
        """Give every pixel the value of its patch: ``(h, w, ...)`` to ``(Y, X, ...)``.

        Raises
        ------
        InputError
            `values` have another grid.
        """
        values = np.asarray(values)
        if values.shape[:2] != self.grid:
            raise InputError(f"values have shape {values.shape}", expected=f"{self.grid} patches")
        rows, columns = self.pixel_patches()
        return np.asarray(values[rows][:, columns])

    def shares(self, mask: np.ndarray) -> np.ndarray:
        """The share of every patch's pixels that a ``(Y, X)`` bool mask covers, ``(h, w)`` float64.

        Raises
        ------
        InputError
            The mask has another shape.
        """
        patch = self._flat_patches(mask, "the mask")
        hit = np.bincount(patch, np.asarray(mask, bool).ravel(), minlength=self.count)
        pixels = np.maximum(np.bincount(patch, minlength=self.count), 1)
        return np.asarray((hit / pixels).reshape(self.grid))

    def majority(self, labels: np.ndarray) -> np.ndarray:
        """The most frequent label of every patch, ``(h, w)`` int64; the smaller one where two tie.

        Parameters
        ----------
        labels : (Y, X) integer array
            0 counts as a label.

        Raises
        ------
        InputError
            `labels` have another shape.
        """
        patch = self._flat_patches(labels, "labels")
        return majority(patch, np.asarray(labels).ravel(), self.count).reshape(self.grid)

    def _flat_patches(self, pixels: np.ndarray, name: str) -> np.ndarray:
        """The number of the patch of every pixel, in the order of ``pixels.ravel()``."""
        if np.shape(pixels) != tuple(self.shape):
            raise InputError(
                f"{name} have shape {np.shape(pixels)}",
                expected=f"{tuple(self.shape)}, the pixels that were encoded",
                hint="Labels must cover the same pixels as their image.",
            )
        rows, columns = self.pixel_patches()
        return np.asarray((rows[:, None] * self.grid[1] + columns).ravel())


def majority(groups: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """The most frequent label of each group ``(count,)`` int64; 0 for an empty one, the smaller
    label where two tie.

    Parameters
    ----------
    groups, labels : (n,) integer arrays
        The group, 0 to ``count - 1``, and the label of each of n pixels.
    count : int
        Number of groups.

    Examples
    --------
    >>> majority(np.array([0, 0, 0, 2]), np.array([5, 7, 7, 1]), 3).tolist()
    [7, 0, 1]
    """
    found = np.zeros(count, np.int64)
    if groups.size == 0:
        return found
    values, place = np.unique(labels, return_inverse=True)
    pairs, number = np.unique(groups * len(values) + place, return_counts=True)
    group, label = np.divmod(pairs, len(values))
    order = np.lexsort((-label, number))  # the winner of each group comes last and stays
    found[group[order]] = values[label[order]]
    return found
