"""A bank of classical filters at full resolution: what tokens, one for 14 × 14 pixels, cannot see.

Gaussian-derivative filters (Lindeberg, *Scale-Space Theory in Computer Vision*, 1994) at scales an
octave apart: smoothed intensity, gradient magnitude, Laplacian, and the eigenvalues of Hessian and
structure tensor (Bigün & Granlund 1987), each multiplied by the power of its scale that makes it
comparable over scales. Scales from 4 px on are computed on a pyramid: a Gaussian of 2 px halved in
size has next to nothing beyond the new Nyquist limit (0.7 %).

A filter is a product with a banded matrix, so that the BLAS does the work: a block of columns and
its surroundings times a narrow matrix. Work goes in bands of rows, whose temporaries stay in the
processor's cache and whose memory does not grow with the plane.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dinoscope.errors import InputError

#: What is computed at each scale, in this order.
KINDS = ("gaussian", "gradient", "laplacian", "hessian", "structure")
#: Standard deviations in pixels.
SCALES = (1.0, 2.0, 4.0, 8.0, 16.0)
#: Kernels end after so many standard deviations.
TRUNCATE = 3.0
#: The structure tensor is averaged over this many times the scale of its gradients.
INTEGRATION = 2.0
#: Rows of a band; with its surroundings it stays within a core's cache.
_BAND = 64
#: Columns that are computed by one product.
_BLOCK = 64


@dataclass(frozen=True)
class FilterBank:
    """Which filters are computed.

    Parameters
    ----------
    scales : sequence of float
        Standard deviations in pixels, an octave apart, the smallest at least 0.5.
    kinds : sequence of str
        Some of :data:`KINDS`, computed on the mean of the channels.
    channels : bool
        Where an image has several channels: the smoothed intensity of each of them as well.

    Raises
    ------
    InputError
        No scale, scales that are not an octave apart, or an unknown kind.

    Examples
    --------
    >>> bank = FilterBank((1.0, 2.0), ("gaussian", "hessian"))
    >>> bank.names(1)[:3]
    ('gaussian 1', 'hessian high 1', 'hessian low 1')
    >>> bank.compute(np.zeros((1, 32, 32), np.float32)).shape
    (6, 32, 32)
    """

    scales: tuple[float, ...] = SCALES
    kinds: tuple[str, ...] = KINDS
    channels: bool = True

    def __post_init__(self) -> None:
        if not self.scales or not self.scales[0] >= 0.5:
            raise InputError(f"scales are {self.scales!r}", expected="0.5 px or more")
        steps = [b / a for a, b in zip(self.scales, self.scales[1:], strict=False)]
        if any(abs(step - 2.0) > 1e-6 for step in steps):
            raise InputError(f"scales are {self.scales!r}", expected="each twice the one before")
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise InputError(f"filters are {self.kinds!r}", expected="some of " + ", ".join(KINDS))

    def names(self, channels: int) -> tuple[str, ...]:
        """What each map is, for an image of so many channels."""
        parts = {"hessian": ("hessian high", "hessian low")}
        parts["structure"] = ("structure high", "structure low")
        found = []
        for scale in self.scales:
            for kind in KINDS:
                if kind in self.kinds:
                    found += [f"{part} {scale:g}" for part in parts.get(kind, (kind,))]
            if self._each(channels):
                found += [f"channel {c} {scale:g}" for c in range(channels)]
        return tuple(found)

    def count(self, channels: int) -> int:
        """How many maps an image of so many channels gets."""
        return len(self.names(channels))

    def _each(self, channels: int) -> bool:
        return self.channels and channels > 1

    def compute(self, image: np.ndarray, *, stride: int = 1, threads: int = 1) -> np.ndarray:
        """All maps of a plane.

        Parameters
        ----------
        image : (C, Y, X) float array
            About 0 to 1, finite; borders are mirrored.
        stride : int
            1, or 2 for every second row and column.
        threads : int
            Bands that are worked on at once.

        Returns
        -------
        (K, Y, X) float16
            In the order of :meth:`names`; sides are halved, rounded up, with a stride of 2.

        Raises
        ------
        InputError
            Another number of dimensions, no pixels, or values that are not finite.
        """
        height, width = np.shape(image)[-2:]
        shape = (self.count(len(image)), -(-height // stride), -(-width // stride))
        found = np.empty(shape, np.float16)

        def keep(rows: slice, maps: np.ndarray) -> None:
            found[:, rows] = maps

        self.each_band(image, keep, stride=stride, threads=threads)
        return found

    def each_band(
        self,
        image: np.ndarray,
        work: Callable[[slice, np.ndarray], None],
        *,
        stride: int = 1,
        threads: int = 1,
    ) -> None:
        """Call `work` with the maps of each band: its rows and their ``(K, rows, x)`` float32.

        Bands come in any order and from several threads; for the rest see :meth:`compute`.
        """
        if stride not in (1, 2):
            raise InputError(f"stride is {stride!r}", expected="1 or 2")
        image = _checked(image)
        each = self._each(len(image))
        grey = image.mean(0, dtype=np.float32)[None]
        base = np.concatenate([grey, image]) if each else grey
        # The first two scales at full size, band by band; the others on a pyramid, at once.
        here, beyond = self.scales[:2], self.scales[2:]
        height, width = image.shape[1:]
        reach = _radius(here[-1]) + _radius(here[-1] * INTEGRATION)

        def band(top: int) -> None:
            bottom = min(height, top + _BAND)
            window = _mirrored(base, top - reach, bottom + reach)
            parts = [self._at(window, scale, scale, reach, each, stride) for scale in here]
            if coarse is not None and stride == 2:
                parts.append(coarse[:, top // 2 : (bottom + 1) // 2])
            elif coarse is not None:
                parts.append(_enlarged(coarse, top, bottom, width))
            rows = slice(top // stride, -(-bottom // stride))
            work(rows, np.concatenate(parts))

        with blas().limit(limits=1), ThreadPoolExecutor(threads) as pool:
            coarse = self._coarse(base, pool) if beyond else None
            list(pool.map(band, range(0, height, _BAND)))

    def _coarse(self, base: np.ndarray, pool: ThreadPoolExecutor) -> np.ndarray:
        """Maps of the scales beyond the second, ``(K, Y / 2, X / 2)``."""
        sigma = self.scales[1]
        level = _halved(_smoothed(base, sigma, pool))
        blur = sigma / 2
        each = len(base) > 1
        stacks: list[np.ndarray] = []
        for scale in self.scales[2:]:
            size = scale / 2 ** (len(stacks) + 1)
            own = float(np.sqrt(size**2 - blur**2))
            reach = _radius(own) + _radius(size * INTEGRATION)
            stacks.append(self._on_level(level, own, size, reach, each, pool))
            if scale != self.scales[-1]:
                level = _halved(_smoothed(level, own, pool))
        grown = stacks[-1]
        for stack in reversed(stacks[:-1]):
            grown = np.concatenate([stack, _enlarged(grown, 0, stack.shape[1], stack.shape[2])])
        return grown

    def _on_level(
        self,
        level: np.ndarray,
        sigma: float,
        scale: float,
        reach: int,
        each: bool,
        pool: ThreadPoolExecutor,
    ) -> np.ndarray:
        """Maps at one scale of a whole level of the pyramid; see `_at`."""
        height = level.shape[1]

        def band(top: int) -> np.ndarray:
            window = _mirrored(level, top - reach, min(height, top + _BAND) + reach)
            return self._at(window, sigma, scale, reach, each, 1)

        return np.concatenate(list(pool.map(band, range(0, height, _BAND))), axis=1)

    def _at(
        self, window: np.ndarray, sigma: float, scale: float, reach: int, each: bool, stride: int
    ) -> np.ndarray:
        """Maps at one scale of the rows within `reach` of a window's borders, ``(K, rows, x)``.

        `sigma` is what the window still has to be smoothed by, `scale` its scale then, both in
        its own pixels.
        """
        kinds = self.kinds
        radius = _radius(sigma)
        tight = slice(reach - radius, window.shape[1] - (reach - radius))
        around = _pad_columns(window[0], radius)
        smooth = _along_rows(around, sigma, 0)
        slope = _along_rows(around, sigma, 1)
        found: list[np.ndarray] = []
        if "gaussian" in kinds:
            found.append(_down_columns(smooth[tight, ::stride], sigma, 0, stride))
        if "gradient" in kinds or "structure" in kinds:
            # Of more rows than are wanted: the structure tensor looks around.
            dx, dy = _down_columns(slope, sigma, 0), _down_columns(smooth, sigma, 1)
        if "gradient" in kinds:
            inner = slice(reach - radius, len(dx) - (reach - radius), stride)
            length = _length(dx[inner, ::stride], dy[inner, ::stride])
            found.append(length * np.float32(scale))
        if "laplacian" in kinds or "hessian" in kinds:
            square = np.float32(scale**2)
            bent = _along_rows(around[tight], sigma, 2, stride)
            dxx = _down_columns(bent, sigma, 0, stride) * square
            dyy = _down_columns(smooth[tight, ::stride], sigma, 2, stride) * square
            dxy = _down_columns(slope[tight, ::stride], sigma, 1, stride) * square
            if "laplacian" in kinds:
                found.append(dxx + dyy)
            if "hessian" in kinds:
                found += _eigenvalues(dxx, dyy, dxy)
        if "structure" in kinds:
            wide = scale * INTEGRATION
            extra = reach - radius - _radius(wide)
            kept = slice(extra, len(dx) - extra)
            products = (dx[kept] * dx[kept], dy[kept] * dy[kept], dx[kept] * dy[kept])
            means = [
                _down_columns(
                    _along_rows(_pad_columns(p, _radius(wide)), wide, 0, stride), wide, 0, stride
                )
                for p in products
            ]
            roots = [np.sqrt(np.maximum(v, 0)) for v in _eigenvalues(*means)]
            found += [root * np.float32(scale) for root in roots]
        if each:
            for channel in window[1:, tight]:
                rows = _along_rows(_pad_columns(channel, radius), sigma, 0, stride)
                found.append(_down_columns(rows, sigma, 0, stride))
        return np.stack(found)


@lru_cache(maxsize=1)
def blas() -> Any:
    """The libraries that NumPy and SciPy multiply with, as a ``threadpoolctl`` controller: looking
    for them takes a while. ``blas().limit(limits=1)`` is for many small products, as in
    eigenvectors: threads of a library that wait for each other beside those of another, or on a
    busy machine, take many times as long as one."""
    import scipy.linalg  # noqa: F401  (only libraries that are loaded are found)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def _checked(image: np.ndarray) -> np.ndarray:
    if np.ndim(image) != 3 or 0 in np.shape(image):
        raise InputError(
            f"the plane has shape {np.shape(image)}", expected="(C, Y, X) with some pixels"
        )
    image = np.asarray(image, np.float32)
    if not np.isfinite(image.sum(dtype=np.float64)):
        raise InputError("the plane holds values that are not finite", expected="finite numbers")
    return image


def _radius(sigma: float) -> int:
    return int(TRUNCATE * sigma + 0.5)


@lru_cache(maxsize=64)
def _kernel(sigma: float, order: int) -> np.ndarray:
    """Gaussian or its first or second derivative, sampled, float64."""
    x = np.arange(-_radius(sigma), _radius(sigma) + 1, dtype=np.float64)
    bell = np.exp(-0.5 * (x / sigma) ** 2)
    bell /= bell.sum()
    if order == 0:
        return bell
    if order == 1:
        return np.asarray(-x / sigma**2 * bell)
    # Cut off and sampled, the second derivative would answer to a constant: take that out.
    second = (x**2 / sigma**4 - 1 / sigma**2) * bell
    return np.asarray(second - second.sum() * bell)


@lru_cache(maxsize=128)
def _band_matrix(sigma: float, order: int, block: int, stride: int) -> np.ndarray:
    """``((block - 1) stride + 2 r + 1, block)`` float32: times a block's input, its output."""
    kernel = _kernel(sigma, order)[::-1]
    matrix = np.zeros(((block - 1) * stride + len(kernel), block), np.float32)
    for column in range(block):
        matrix[column * stride : column * stride + len(kernel), column] = kernel
    return matrix


@lru_cache(maxsize=128)
def _transposed(sigma: float, order: int, block: int, stride: int) -> np.ndarray:
    return np.ascontiguousarray(_band_matrix(sigma, order, block, stride).T)


def _along_rows(padded: np.ndarray, sigma: float, order: int, stride: int = 1) -> np.ndarray:
    """Filter ``(y, x + 2 r)`` along its rows: ``(y, x / stride)``."""
    width = -(-(padded.shape[1] - 2 * _radius(sigma)) // stride)
    out = np.empty((len(padded), width), np.float32)
    for left in range(0, width, _BLOCK):
        block = min(_BLOCK, width - left)
        matrix = _band_matrix(sigma, order, block, stride)
        begin = left * stride
        np.matmul(padded[:, begin : begin + len(matrix)], matrix, out=out[:, left : left + block])
    return out


def _down_columns(rows: np.ndarray, sigma: float, order: int, stride: int = 1) -> np.ndarray:
    """Filter ``(y + 2 r, x)`` along its columns: ``(y / stride, x)``."""
    height = -(-(len(rows) - 2 * _radius(sigma)) // stride)
    rows = np.ascontiguousarray(rows)
    out = np.empty((height, rows.shape[1]), np.float32)
    for top in range(0, height, _BLOCK):
        matrix = _transposed(sigma, order, min(_BLOCK, height - top), stride)
        begin = top * stride
        np.matmul(matrix, rows[begin : begin + matrix.shape[1]], out=out[top : top + _BLOCK])
    return out


def _pad_columns(rows: np.ndarray, radius: int) -> np.ndarray:
    return np.take(rows, _mirror(-radius, rows.shape[1] + radius, rows.shape[1]), axis=1)


def _mirrored(stack: np.ndarray, top: int, bottom: int) -> np.ndarray:
    """Rows `top` to `bottom` of ``(C, Y, X)``; beyond the border it is mirrored."""
    if top >= 0 and bottom <= stack.shape[1]:
        return stack[:, top:bottom]
    return np.take(stack, _mirror(top, bottom, stack.shape[1]), axis=1)


def _mirror(start: int, stop: int, size: int) -> np.ndarray:
    """Indices ``start`` to ``stop`` folded into ``0 … size - 1``, edge values repeated."""
    index = np.arange(start, stop) % (2 * size)
    return np.minimum(index, 2 * size - 1 - index)


def _smoothed(stack: np.ndarray, sigma: float, pool: ThreadPoolExecutor) -> np.ndarray:
    """``(C, Y, X)`` smoothed; band by band, so that no padded copy is made."""
    radius = _radius(sigma)
    out = np.empty(stack.shape, np.float32)

    def band(top: int) -> None:
        bottom = min(stack.shape[1], top + _BAND)
        for place, rows in enumerate(_mirrored(stack, top - radius, bottom + radius)):
            across = _along_rows(_pad_columns(rows, radius), sigma, 0)
            out[place, top:bottom] = _down_columns(across, sigma, 0)

    list(pool.map(band, range(0, stack.shape[1], _BAND)))
    return out


def _halved(stack: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(stack[:, ::2, ::2])


def _enlarged(stack: np.ndarray, top: int, bottom: int, width: int) -> np.ndarray:
    """Rows `top` to `bottom` of ``(K, y, x)`` at twice its size, bilinear."""
    last = stack.shape[1] - 1
    places = np.arange(top, bottom)
    low = places // 2
    high = np.minimum(low + 1, last)
    odd = (places % 2).astype(bool)
    rows = stack[:, low]
    rows[:, odd] += stack[:, high[odd]]
    rows[:, odd] *= np.float32(0.5)
    out = np.empty((*rows.shape[:2], width), np.float32)
    out[..., ::2] = rows
    between = out[..., 1::2]
    count = min(between.shape[2], rows.shape[2] - 1)
    np.add(rows[..., :count], rows[..., 1 : count + 1], out=between[..., :count])
    between[..., :count] *= np.float32(0.5)
    between[..., count:] = rows[..., -1:]
    return out


def _eigenvalues(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> list[np.ndarray]:
    """The larger and the smaller eigenvalue of ``[[a, c], [c, b]]`` at every pixel."""
    half = (a + b) * np.float32(0.5)
    root = _length((a - b) * np.float32(0.5), c)
    return [half + root, half - root]


def _length(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # np.hypot guards against overflow, which takes five times as long.
    return np.asarray(np.sqrt(x * x + y * y))
