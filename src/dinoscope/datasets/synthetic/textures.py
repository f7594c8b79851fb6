"""Cheap random fields: everything that is not an object is made of these."""

from __future__ import annotations

import numpy as np

Shape = tuple[int, int]


def smooth_noise(rng: np.random.Generator, shape: Shape, scale: float) -> np.ndarray:
    """Smooth random field with features of about `scale` pixels.

    Random values on a coarse grid, interpolated by cubic B-splines as two small matrix products,
    which is far quicker than blurring white noise.

    Returns
    -------
    (Y, X) float32
        Zero mean, unit standard deviation.
    """
    if scale < 1.5:
        return rng.standard_normal(shape, dtype=np.float32)
    rows = _spline_matrix(rng, shape[0], scale)
    columns = _spline_matrix(rng, shape[1], scale)
    coarse = rng.standard_normal((rows.shape[1], columns.shape[1]), dtype=np.float32)
    fine = rows @ coarse @ columns.T
    fine -= fine.mean()
    return np.asarray(fine / (fine.std() + 1e-6), dtype=np.float32)


def _spline_matrix(rng: np.random.Generator, length: int, scale: float) -> np.ndarray:
    position = np.arange(length) / scale + rng.random()
    knot = position.astype(np.intp)
    t = (position - knot)[:, None]
    weights = np.concatenate(
        [
            (1 - t) ** 3,
            3 * t**3 - 6 * t**2 + 4,
            -3 * t**3 + 3 * t**2 + 3 * t + 1,
            t**3,
        ],
        axis=1,
    )
    matrix = np.zeros((length, int(knot[-1]) + 4), np.float32)
    np.put_along_axis(matrix, knot[:, None] + np.arange(4), weights.astype(np.float32) / 6, axis=1)
    return matrix


def fractal_noise(
    rng: np.random.Generator, shape: Shape, scale: float, *, roughness: float = 0.5
) -> np.ndarray:
    """Sum of octaves from `scale` pixels down; each finer one is `roughness` times as strong.

    Returns
    -------
    (Y, X) float32, zero mean, unit standard deviation
    """
    total = np.zeros(shape, np.float32)
    strength = 1.0
    while scale >= 1.5 and strength > 0.03:
        total += np.float32(strength) * smooth_noise(rng, shape, scale)
        scale /= 2
        strength *= roughness
    total -= total.mean()
    return np.asarray(total / (total.std() + 1e-6), dtype=np.float32)


def specks(
    rng: np.random.Generator, shape: Shape, count: int, *, spread: float = 0.6
) -> np.ndarray:
    """Single bright pixels of log-normal strength; blur them to make dust, granules or vesicles.

    Returns
    -------
    (Y, X) float32, 0 where there is none
    """
    field = np.zeros(shape, np.float32)
    if count > 0:
        y = rng.integers(0, shape[0], count)
        x = rng.integers(0, shape[1], count)
        field[y, x] = rng.lognormal(0.0, spread, count)
    return field


def fibres(
    rng: np.random.Generator, shape: Shape, scale: float, *, wander: float = 0.35
) -> np.ndarray:
    """Wavy parallel strands about `scale` pixels apart, such as stroma or brushed metal.

    Returns
    -------
    (Y, X) float32, zero mean, unit standard deviation
    """
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    across = np.cos(angle) * y - np.sin(angle) * x
    across += wander * 6 * scale * smooth_noise(rng, shape, 8 * scale)
    phase = across * (2 * np.pi / scale) + 1.5 * smooth_noise(rng, shape, 3 * scale)
    strands = np.sin(phase) + 0.5 * np.sin(2.3 * phase + 1)
    strands *= 1 + 0.5 * smooth_noise(rng, shape, 5 * scale)
    strands -= strands.mean()
    return np.asarray(strands / (strands.std() + 1e-6), dtype=np.float32)
