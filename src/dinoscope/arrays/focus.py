"""Height from focus: where in a z-stack is each pixel sharpest?

Shape from focus after Nayar and Nakagawa (IEEE Transactions on Pattern Analysis and Machine
Intelligence 16:824, 1994): the sum-modified-Laplacian as focus measure, and a Gaussian through the
sharpest slice and its two neighbours for heights between slices. Planes are smoothed lightly first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dinoscope.arrays.axes import read_plane
from dinoscope.errors import InputError
from dinoscope.types import ArrayLike, ImageInput

#: A height counts as measured if its confidence reaches this. Noise alone passes it at 2 pixels in
#: 100, and stains on the camera, equally sharp in all slices, do not.
CONFIDENT = 0.35
#: Smoothing before the Laplacian, in pixels. Without it the noise of single pixels, sharp in every
#: slice, outweighs the structures that come into focus.
_SMOOTHING_PX = 1.2
#: Peaks are fitted above the pixel's own background, of which this share is taken away.
_BACKGROUND_SHARE = 0.9


class FocusStack:
    """The slices of one z-stack as a lazy ``(Z, Y, X)`` array; channels are averaged.

    Parameters
    ----------
    image : ImageInput
        Has a ``Z`` axis.
    index : mapping
        Position along the other plane axes, by letter.
    channels : tuple of int
        Channels to average; none for all.
    told : callable
        Told the number of each slice that was read; may raise to stop.
    """

    def __init__(
        self,
        image: ImageInput,
        index: Mapping[str, int],
        channels: Sequence[int] | None,
        told: Callable[[int], None],
    ) -> None:
        self._told = told
        self._image = image
        self._index = index
        self._channels = channels or None
        self.shape = (image.size("Z"), image.size("Y"), image.size("X"))
        self.ndim = 3
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, z: int) -> np.ndarray:
        """Slice `z` as ``(Y, X)`` float32."""
        position = {**self._index, "Z": range(len(self))[z]}
        index = tuple(position[axis] for axis in self._image.plane_axes)
        plane = read_plane(self._image, index, channels=self._channels)
        self._told(position["Z"])
        return np.asarray(plane.mean(axis=0, dtype=np.float32))


@dataclass(frozen=True)
class HeightMap:
    """A height for each pixel, and how far to trust it.

    Parameters
    ----------
    height : (Y, X) float32
        In `unit`, larger = later slice = nearer the objective; NaN where `mask` is False.
    confidence : (Y, X) float32 in [0, 1]
        How far the sharpest slice stands out of the others: 0 = not at all.
    mask : (Y, X) bool
        Where the height counts as measured: confident, and sharpest neither in the first nor in the
        last slice, where the true focus may lie outside the stack.
    all_in_focus : (Y, X) float32
        Each pixel from its sharpest slice, masked or not, in the stack's own intensities.
    unit : str
        ``"µm"``, or ``"slices"`` where the step is unknown.
    """

    height: np.ndarray
    confidence: np.ndarray
    mask: np.ndarray
    all_in_focus: np.ndarray
    unit: str


def height_map(stack: ArrayLike, step_um: float | None = None, window: int = 9) -> HeightMap:
    """Measure a height map from a z-stack.

    Slices are read one after another and only a few planes are held, whatever the stack's length.

    Parameters
    ----------
    stack : (Z, Y, X) array
        Any real dtype; later slices are nearer the objective. May be lazy.
    step_um : float, optional
        Distance between slices in µm; heights are in slices when not given.
    window : int
        Width, in pixels, over which sharpness is averaged (a Gaussian as wide as a square of that
        side). Larger is surer but coarser; it should span a few grains of the texture.

    Returns
    -------
    HeightMap

    Raises
    ------
    InputError
        Not three dimensions, fewer than 3 slices, no pixels, or a step or window that is not
        positive.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> sharp = rng.normal(size=(32, 32))
    >>> stack = np.stack([sharp * contrast for contrast in (0.1, 0.5, 1.0, 0.5, 0.1)])
    >>> found = height_map(stack, step_um=2.0)
    >>> float(np.nanmedian(found.height).round(3)), found.unit
    (4.0, 'µm')
    """
    _check(stack, step_um, window)
    peak = _Peak(tuple(stack.shape[1:]))
    for plane in _slices(stack):
        peak.add(plane, sharpness(plane, window))
    height, confidence, inside = peak.result()
    mask = inside & (confidence >= CONFIDENT)
    height = np.where(mask, height * (1.0 if step_um is None else step_um), np.nan)
    return HeightMap(
        height=height.astype(np.float32),
        confidence=confidence.astype(np.float32),
        mask=mask,
        all_in_focus=peak.image,
        unit="slices" if step_um is None else "µm",
    )


class _Peak:
    """The sharpest slice of each pixel so far, and the sharpness around it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count = 0
        self.position = np.zeros(shape, np.int32)
        self.best = np.full(shape, -1, np.float32)
        self.before = np.zeros(shape, np.float32)
        self.after = np.zeros(shape, np.float32)
        self.total = np.zeros(shape, np.float64)
        self.image = np.zeros(shape, np.float32)
        self._previous = np.zeros(shape, np.float32)

    def add(self, plane: np.ndarray, sharpness: np.ndarray) -> None:
        if self.count:
            just = self.position == self.count - 1
            self.after[just] = sharpness[just]
        better = sharpness > self.best
        self.position[better] = self.count
        self.best[better] = sharpness[better]
        self.before[better] = self._previous[better]
        self.after[better] = 0
        self.image[better] = plane[better]
        self.total += sharpness
        self._previous = sharpness
        self.count += 1

    def result(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Height in slices, confidence, and whether the peak lies inside the stack."""
        inside = (self.position > 0) & (self.position < self.count - 1)
        # The background is the mean of the slices that are not part of the peak.
        others = self.count - 1 - (self.position > 0) - (self.position < self.count - 1)
        rest = np.maximum(self.total - self.best - self.before - self.after, 0)
        lowest = np.minimum(self.before, self.after)
        background = np.where(others > 0, rest / np.maximum(others, 1), lowest)
        with np.errstate(invalid="ignore", divide="ignore"):
            confidence = np.where(self.best > 0, 1 - background / self.best, 0).clip(0, 1)
        floor = _BACKGROUND_SHARE * np.minimum(background, lowest)
        shift = np.where(inside, self._shift(floor), 0)
        return self.position + shift, confidence, inside

    def _shift(self, floor: np.ndarray) -> np.ndarray:
        """Top of a Gaussian through three slices, in slices from the middle one."""
        tiny = np.finfo(np.float32).tiny
        before, best, after = (
            np.log(np.maximum(values - floor, tiny))
            for values in (self.before, self.best, self.after)
        )
        bend = before - 2 * best + after
        with np.errstate(invalid="ignore", divide="ignore"):
            shift = np.where(bend < 0, 0.5 * (before - after) / bend, 0)
        return np.asarray(shift.clip(-0.5, 0.5))


def _check(stack: ArrayLike, step_um: float | None, window: int) -> None:
    shape = tuple(stack.shape)
    if len(shape) != 3:
        raise InputError(f"the stack has shape {shape}", expected="three dimensions, (Z, Y, X)")
    if shape[0] < 3:
        raise InputError(
            f"the stack has {shape[0]} slices",
            expected="at least 3",
            hint="Height from focus compares slices; is the first axis really z?",
        )
    if 0 in shape:
        raise InputError(f"the stack has shape {shape}", expected="at least one pixel")
    if step_um is not None and not (np.isfinite(step_um) and step_um > 0):
        raise InputError(f"step_um is {step_um!r}", expected="a positive number of µm")
    if window < 1:
        raise InputError(f"window is {window!r}", expected="at least 1 pixel")


def _slices(stack: ArrayLike) -> Iterator[np.ndarray]:
    """Each slice as (Y, X) float32; pixels that are not finite take the mean of their slice."""
    for number in range(stack.shape[0]):
        plane = np.array(stack[number], np.float32)
        finite = np.isfinite(plane)
        if not finite.all():
            plane[~finite] = plane[finite].mean() if finite.any() else 0
        yield plane


def sharpness(plane: np.ndarray, window: int = 9) -> np.ndarray:
    """How sharp each pixel's surroundings are: the focus measure of this module.

    Parameters
    ----------
    plane : (Y, X) float array
        Finite everywhere.
    window : int
        Width of the average, in pixels.

    Returns
    -------
    (Y, X) float32
        Modified Laplacian, averaged with Gaussian weights over the window; 0 or more.
    """
    from scipy.ndimage import correlate1d, gaussian_filter

    smooth = gaussian_filter(plane, _SMOOTHING_PX, mode="nearest", truncate=3)
    second = np.array([-1, 2, -1], np.float32)
    rough = np.abs(correlate1d(smooth, second, axis=0, mode="nearest"))
    rough += np.abs(correlate1d(smooth, second, axis=1, mode="nearest"))
    width = window / np.sqrt(12)  # as wide as a square of that side, without its corners
    return np.asarray(gaussian_filter(rough, width, mode="nearest", truncate=3), np.float32)
