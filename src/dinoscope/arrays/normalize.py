"""Bring images of any type and any channels to what the models see: ``(3, Y, X)`` about 0 to 1.

The limits are taken once per image, from at most 16 evenly spaced planes, so that one plane, a
region and the whole stack get the same values. ImageNet's mean and deviation are the backbone's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.arrays.axes import chosen_channels, require_pixels, require_real
from dinoscope.arrays.percentiles import percentile_limits
from dinoscope.errors import InputError
from dinoscope.types import ImageInput

if TYPE_CHECKING:
    from dinoscope.arrays.calibrate import Calibration

MODES = ("percentile", "fixed")
FUSIONS = ("auto", "rgb", "mean")

#: Values this far beyond the limits are clipped: a little head room keeps bright spots apart.
CLIP = (-0.5, 1.5)
#: Limits closer than this are equal: 1 / FLAT is still a float32.
FLAT = 1e-37
#: Side of a CLAHE tile; fixed in pixels so that it does not depend on the size of the region.
CONTRAST_TILE = 64


@dataclass(frozen=True)
class Normalization:
    """How an image becomes the input of a model; part of the model's card.

    Parameters
    ----------
    mode : str
        ``"percentile"``: limits are percentiles of the image. ``"fixed"``: limits are `ranges`, for
        classes that live on absolute intensity.
    low, high : float
        The percentiles, in [0, 100].
    ranges : tuple of (float, float), optional
        ``(low, high)`` for each channel, or one pair for all; needed by ``"fixed"``.
    denoise : bool
        3 x 3 median filter.
    local_contrast : bool
        CLAHE: equalise the contrast locally.
    fuse : str
        How channels become three. ``"auto"``: 1 repeated; 2 and their mean; 3 as they are; more:
        their mean, repeated. ``"rgb"``: the first three as they are. ``"mean"``: always the mean.

    Raises
    ------
    InputError
        A value that cannot be used.
    """

    mode: str = "percentile"
    low: float = 1.0
    high: float = 99.8
    ranges: tuple[tuple[float, float], ...] | None = None
    denoise: bool = False
    local_contrast: bool = False
    fuse: str = "auto"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"mode is {self.mode!r}", expected="one of " + ", ".join(MODES))
        if self.fuse not in FUSIONS:
            raise InputError(f"fuse is {self.fuse!r}", expected="one of " + ", ".join(FUSIONS))
        if not 0 <= self.low < self.high <= 100:
            raise InputError(
                f"percentiles are {self.low!r} and {self.high!r}", expected="0 <= low < high <= 100"
            )
        if self.mode == "fixed" and not self.ranges:
            raise InputError("ranges are missing", expected="(low, high) for each channel")
        for pair in self.ranges or ():
            if len(pair) != 2 or not np.all(np.isfinite(pair)) or not pair[0] < pair[1]:
                raise InputError(f"range is {pair!r}", expected="(low, high) with low < high")

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON values, for the model's card."""
        values = dataclasses.asdict(self)
        values["ranges"] = None if self.ranges is None else [list(pair) for pair in self.ranges]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Normalization:
        """The reverse of `to_json`; keys that are not known here are left out.

        Raises
        ------
        InputError
            A value that cannot be used.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        kept = {key: value for key, value in values.items() if key in known}
        try:
            if kept.get("ranges") is not None:
                kept["ranges"] = tuple((float(a), float(b)) for a, b in kept["ranges"])
            return cls(**kept)
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"normalisation {dict(values)!r} is not understood") from error


def limits(
    image: ImageInput,
    normalization: Normalization,
    *,
    channels: Sequence[int] | None = None,
    calibration: Calibration | None = None,
) -> np.ndarray:
    """The values that become 0 and 1, once for the whole image.

    Percentiles are those of a strided sample of at most 16 evenly spaced planes, without NaN and
    infinities. RGB samples share their limits, which keeps the colours.

    Parameters
    ----------
    image : ImageInput
        The whole image, also where only one plane or a region of it is wanted.
    normalization : Normalization
        Percentiles or fixed ranges.
    channels : Sequence[int], optional
        Channels in use, as in :func:`dinoscope.arrays.axes.read_plane`.
    calibration : Calibration, optional
        Applied before the percentiles are taken.

    Returns
    -------
    np.ndarray
        ``(C, 2)`` float64, low and high for each channel; equal where the channel is constant.

    Raises
    ------
    InputError
        The image has no pixels or no real numbers, or the number of fixed ranges does not fit.
    """
    require_pixels(image)
    require_real(np.dtype(image.data.dtype), image.name)
    chosen = chosen_channels(image, channels)
    if normalization.mode == "fixed":
        return _fixed_limits(normalization, chosen, image.name)
    wanted = (normalization.low, normalization.high)
    return percentile_limits(image, wanted, channels=channels, calibration=calibration)


def to_model_input(
    plane: np.ndarray,
    limits: np.ndarray,
    normalization: Normalization,
    *,
    weights: Sequence[float] | None = None,
) -> np.ndarray:
    """Normalise a plane and fuse its channels into three.

    Parameters
    ----------
    plane : np.ndarray
        ``(C, Y, X)`` of any real dtype, bool included. NaN and infinities become the low limit.
    limits : np.ndarray
        ``(C, 2)``, from :func:`limits`. A channel whose limits are equal becomes 0.
    normalization : Normalization
        Filters and fusion.
    weights : Sequence[float], optional
        One weight for each channel, not negative: the result is their weighted mean, repeated.

    Returns
    -------
    np.ndarray
        ``(3, Y, X)`` float32, clipped to [-0.5, 1.5].

    Raises
    ------
    InputError
        Wrong dimensions, limits or weights that do not fit the channels.

    Examples
    --------
    >>> plane = np.array([[[10, 20, 30]]], np.uint8)
    >>> to_model_input(plane, np.array([[10, 30]]), Normalization())[0]
    array([[0. , 0.5, 1. ]], dtype=float32)
    """
    if plane.ndim != 3 or plane.size == 0:
        raise InputError(f"plane has shape {plane.shape}", expected="(C, Y, X) with some pixels")
    require_real(plane.dtype, "plane")
    pairs = np.asarray(limits, dtype=np.float64)
    if pairs.shape != (len(plane), 2):
        raise InputError(
            f"limits have shape {pairs.shape} for {len(plane)} channels",
            expected=f"({len(plane)}, 2)",
        )
    shares = _mean_shares(len(plane), normalization.fuse, weights)
    if shares is not None:
        mixed = np.zeros((1, *plane.shape[1:]), np.float32)
        for channel, (low, high), share in zip(plane, pairs, shares, strict=True):
            if share:
                scaled = _scaled(channel, low, high)
                scaled *= np.float32(share)
                mixed[0] += scaled
        return _filtered(mixed, normalization).repeat(3, axis=0)
    result = np.empty((3, *plane.shape[1:]), np.float32)
    count = min(len(plane), 3)
    for c in range(count):
        _scaled(plane[c], pairs[c, 0], pairs[c, 1], out=result[c])
    result[:count] = _filtered(result[:count], normalization)
    if count == 1:
        result[1:] = result[0]
    elif count == 2:
        np.add(result[0], result[1], out=result[2])
        result[2] *= 0.5
    return result


def _scaled(
    channel: np.ndarray, low: float, high: float, out: np.ndarray | None = None
) -> np.ndarray:
    """Scale one ``(Y, X)`` channel so that `low` becomes 0 and `high` 1; clip; replace NaN, inf."""
    out = np.empty(channel.shape, np.float32) if out is None else out
    if not high - low > FLAT:
        out.fill(0.0)
        return out
    # float32 cannot tell neighbours apart in large integers; those take a slower way.
    wide = channel.dtype.itemsize > (4 if channel.dtype.kind == "f" else 2)
    with np.errstate(invalid="ignore", over="ignore"):
        if wide:
            shifted = np.subtract(channel, low, dtype=np.float64)
            shifted *= 1.0 / (high - low)
            out[...] = shifted
        else:
            np.subtract(channel, np.float32(low), out=out, dtype=np.float32)
            out *= np.float32(1.0 / (high - low))
        if channel.dtype.kind == "f" and not np.isfinite(out.sum(dtype=np.float32)):
            out[~np.isfinite(channel)] = 0.0
    np.clip(out, *CLIP, out=out)
    return out


def _mean_shares(count: int, fuse: str, weights: Sequence[float] | None) -> np.ndarray | None:
    """Shares of the channels in a weighted mean, or ``None`` where channels stay apart."""
    if weights is not None:
        shares = np.asarray(weights, dtype=np.float64)
        if shares.shape != (count,):
            raise InputError(
                f"{shares.size} channel weights for {count} channels",
                expected="one weight for each channel in use",
            )
        if not np.all(np.isfinite(shares)) or np.any(shares < 0) or not shares.sum() > 0:
            raise InputError(
                f"channel weights are {list(weights)}",
                expected="numbers >= 0, at least one above 0",
            )
        fractions: np.ndarray = shares / shares.sum()
        return fractions
    if fuse == "mean" or (fuse == "auto" and count > 3):
        return np.full(count, 1.0 / count)
    return None


def _filtered(stack: np.ndarray, normalization: Normalization) -> np.ndarray:
    """Apply the optional filters to ``(C, Y, X)`` float32, channel by channel."""
    if normalization.denoise:
        from scipy import ndimage

        stack = np.stack([ndimage.median_filter(c, size=3, mode="nearest") for c in stack])
    if normalization.local_contrast:
        from skimage import exposure

        kernel = [min(CONTRAST_TILE, n) for n in stack.shape[1:]]
        stack = np.stack(
            [
                # CLAHE stretches what it is given, and a constant has nothing to stretch.
                exposure.equalize_adapthist(np.clip(c, 0, 1), kernel_size=kernel)
                if c.min() < c.max()
                else c
                for c in stack
            ]
        ).astype(np.float32)
    return stack


def _fixed_limits(normalization: Normalization, chosen: tuple[int, ...], name: str) -> np.ndarray:
    ranges = normalization.ranges or ()
    if len(ranges) == len(chosen):
        picked = ranges
    elif len(ranges) == 1:
        picked = ranges * len(chosen)
    elif max(chosen) < len(ranges):
        picked = tuple(ranges[c] for c in chosen)
    else:
        raise InputError(
            f"{name!r} has {len(chosen)} channels in use but the model has fixed ranges for "
            f"{len(ranges)}",
            expected=f"{len(ranges)} channels",
            hint="Choose the channels, in the order in which the model was trained.",
        )
    return np.array(picked, dtype=np.float64)
