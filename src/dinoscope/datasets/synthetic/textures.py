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
    """Wavy strands about `scale` pixels wide and far longer, as in stroma or on brushed metal.

    Returns
    -------
    (Y, X) float32, zero mean, unit standard deviation
    """
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.ogrid[: shape[0], : shape[1]]
    y, x = y.astype(np.float32), x.astype(np.float32)
    sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
    bend = np.float32(wander * 6 * scale)
    across = cosine * y - sine * x + bend * smooth_noise(rng, shape, 10 * scale)
    along = sine * y + cosine * x
    # Strands are short along one axis of a straight table and long along the other.
    shorten = 8.0
    rows = ((across - across.min()) * np.float32(1.5)).astype(np.intp)
    columns = ((along - along.min()) * np.float32(1.5 / shorten)).astype(np.intp)
    straight = fractal_noise(
        rng, (int(rows.max()) + 1, int(columns.max()) + 1), 1.5 * scale, roughness=0.7
    )
    strands = straight[rows, columns]
    strands -= strands.mean()
    return np.asarray(strands / (strands.std() + 1e-6), dtype=np.float32)


def scratches(rng: np.random.Generator, shape: Shape, count: int) -> np.ndarray:
    """Straight thin lines of random direction and strength.

    Returns
    -------
    (Y, X) float32 in [0, 1], 0 where there is none
    """
    field = np.zeros(shape, np.float32)
    reach = float(np.hypot(*shape))
    t = np.arange(0, reach, 0.7, dtype=np.float32)
    for _ in range(count):
        angle = rng.uniform(0, 2 * np.pi)
        start_y, start_x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        length = reach * rng.uniform(0.1, 1.0)
        y = start_y + np.sin(angle) * t[t < length]
        x = start_x + np.cos(angle) * t[t < length]
        here = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
        rows, columns = y[here].astype(np.intp), x[here].astype(np.intp)
        field[rows, columns] = np.maximum(field[rows, columns], rng.uniform(0.2, 1.0))
    return field
