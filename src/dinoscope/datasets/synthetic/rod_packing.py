"""Where rods lie: grown in colonies, free, or packed in rows without gaps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dinoscope.datasets.synthetic.raster import Layout, clean_layout, paint
from dinoscope.datasets.synthetic.textures import Shape, smooth_noise

#: Discs along a rod's spine with which collisions are found.
_DISCS = 7
_SPINE = np.linspace(-0.5, 0.5, _DISCS)
_ARC = _SPINE**2 - 1 / 12


@dataclass(frozen=True)
class RodShapes:
    """Sizes of the rods of one image, pixels; `bend` is the turn from end to end, radians."""

    width: float
    length: float
    length_spread: float
    bend: float


def grow_colonies(
    rng: np.random.Generator,
    shape: Shape,
    sizes: RodShapes,
    *,
    coverage: float,
    gap: float,
    disorder: float,
    scattered: bool,
) -> Layout:
    """Colonies grown rod by rod, each new one beside or behind an older one; or free rods."""
    area = sizes.width * (sizes.length - 0.21 * sizes.width)
    wanted = int(np.clip(round(coverage * shape[0] * shape[1] / area), 1, 220))
    table = np.zeros((wanted, 5))  # y, x, angle, length, bend
    spines = np.zeros((wanted, _DISCS, 2))
    count = 0
    close = 0.9 * min(gap, 1.0) * sizes.width
    failures = 0
    newcomer = 1.0 if scattered else float(rng.uniform(0.0, 0.06))
    while count < wanted and failures < 3 * wanted + 40:
        length = sizes.length * np.exp(rng.normal(0, sizes.length_spread))
        length = max(length, 1.15 * sizes.width)
        bend = rng.normal(0, sizes.bend / 2)
        if count == 0 or rng.random() < newcomer:
            y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
            angle = rng.uniform(0, 2 * np.pi)
        else:
            # Younger rods lie at the rim and have room; older ones are tried now and then.
            parent = table[int(count * rng.random() ** 0.7)]
            angle = parent[2] + rng.normal(0, disorder)
            sine, cosine = math.sin(parent[2]), math.cos(parent[2])
            direction = 1.0 if rng.random() < 0.5 else -1.0
            if rng.random() < 0.7:  # beside it
                across = direction * gap * sizes.width * (1 + 0.5 * disorder * rng.random())
                along = (rng.random() - 0.5) * sizes.length
            else:  # behind it, as after a division
                along = direction * (parent[3] + length) / 2 * (1 + 0.03 * rng.random())
                across = rng.normal(0, 0.1) * sizes.width
            y = parent[0] + along * sine + across * cosine
            x = parent[1] + along * cosine - across * sine
        reach = length / 2
        if not (-reach < y < shape[0] + reach and -reach < x < shape[1] + reach):
            failures += 1
            continue
        spine = _spine(y, x, angle, length - sizes.width, bend)
        if count:
            near = np.flatnonzero(
                np.hypot(table[:count, 0] - y, table[:count, 1] - x)
                < (table[:count, 3] + length) / 2
            )
            if len(near):
                apart = spines[near].reshape(-1, 1, 2) - spine[None]
                if (apart[..., 0] ** 2 + apart[..., 1] ** 2).min() < close**2:
                    failures += 1
                    continue
        table[count] = y, x, angle, length, bend
        spines[count] = spine
        count += 1
    return _draw_capsules(shape, table[:count], sizes.width, rng)


def _spine(y: float, x: float, angle: float, length: float, bend: float) -> np.ndarray:
    """(_DISCS, 2) points along a bent axis."""
    along = _SPINE * max(length, 0.0)
    across = (bend * max(length, 0.0) / 2) * _ARC
    sine, cosine = math.sin(angle), math.cos(angle)
    points = np.empty((_DISCS, 2))
    points[:, 0] = y + along * sine + across * cosine
    points[:, 1] = x + along * cosine - across * sine
    return points


def _draw_capsules(
    shape: Shape, table: np.ndarray, width: float, rng: np.random.Generator
) -> Layout:
    ids = np.zeros(shape, np.int32)
    rho = np.ones(shape, np.float32)
    wanted = np.zeros(len(table) + 1)
    widths = width * np.exp(rng.normal(0, 0.05, len(table)))
    for number, (row, own_width) in enumerate(zip(table, widths, strict=True), start=1):
        y, x, angle, length, bend = row
        sine, cosine = np.sin(angle), np.cos(angle)
        half = max(length - own_width, 0.0) / 2
        reach_y = half * abs(sine) + own_width * 0.75 + abs(bend) * half
        reach_x = half * abs(cosine) + own_width * 0.75 + abs(bend) * half
        y0, x0 = int(np.floor(y - reach_y)), int(np.floor(x - reach_x))
        dy = (np.arange(y0, int(y + reach_y) + 2, dtype=np.float32) - np.float32(y))[:, None]
        dx = (np.arange(x0, int(x + reach_x) + 2, dtype=np.float32) - np.float32(x))[None]
        along = dy * np.float32(sine) + dx * np.float32(cosine)
        across = dy * np.float32(cosine) - dx * np.float32(sine)
        if half > 0:
            across -= np.float32(bend / (4 * half)) * (along * along - np.float32(half**2 / 3))
        beyond = np.maximum(np.abs(along) - np.float32(half), 0)
        field = np.sqrt(beyond * beyond + across * across) * np.float32(2 / own_width)
        wanted[number] = paint(ids, rho, field, number, y0, x0)
    return clean_layout(ids, rho, wanted, smallest=0.55)


def pack_rows(
    rng: np.random.Generator,
    shape: Shape,
    sizes: RodShapes,
    *,
    coverage: float,
    gap: float,
    disorder: float,
) -> Layout:
    """Rows of rods in a gently warped frame: neighbours follow one another around bends.

    Two domains of different direction may meet in one image.
    """
    domains = 1 if rng.random() < 0.5 else 2
    chosen = (
        smooth_noise(rng, shape, max(shape) / 1.5) > 0 if domains == 2 else np.zeros(shape, bool)
    )
    ids = np.zeros(shape, np.int32)
    rho = np.full(shape, np.inf, np.float32)
    offset = 0
    for domain in range(domains):
        own, own_rho, own_count = _rows_of_rods(rng, shape, sizes, gap=gap, disorder=disorder)
        here = chosen == bool(domain)
        ids = np.where(here, own + offset, ids)
        rho = np.where(here, own_rho, rho)
        offset += own_count
    full = np.bincount(ids.ravel(), minlength=offset + 1)
    area = sizes.width * sizes.length
    # A patchy colony: rods are kept or left out as wholes, by a smooth field read at each of them.
    field = smooth_noise(rng, shape, max(2.5 * sizes.length, max(shape) / 3))
    score = np.bincount(ids.ravel(), field.ravel(), minlength=offset + 1) / np.maximum(full, 1)
    score += 0.3 * rng.standard_normal(offset + 1)
    score[full == 0] = -np.inf
    rank = np.argsort(-score)
    kept = np.cumsum(full[rank]) <= min(coverage * 1.15, 1.0) * ids.size + area
    keep = np.zeros(offset + 1, bool)
    keep[rank[kept]] = True
    keep[0] = False
    inside = keep[ids] & (rho < 1)
    at_border = np.zeros(offset + 1, bool)
    for line in (ids[0], ids[-1], ids[:, 0], ids[:, -1]):
        at_border[line] = True
    expected = np.where(at_border, 12.0, 0.4 * area)
    return clean_layout(
        np.where(inside, ids, 0),
        np.where(inside, rho, 1).astype(np.float32),
        expected,
        smallest=1.0,
    )


def _rows_of_rods(
    rng: np.random.Generator, shape: Shape, sizes: RodShapes, *, gap: float, disorder: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Each pixel's rod and its relative distance from that rod's axis, over the whole field."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.ogrid[: shape[0], : shape[1]]
    y = y.astype(np.float32)
    x = x.astype(np.float32)
    along = y * np.float32(np.sin(angle)) + x * np.float32(np.cos(angle))
    across = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
    reach = rng.uniform(1.5, 3) * sizes.length
    # The frame must turn gently: its strain is about twice `strength` over `reach`.
    strength = np.float32(reach * min(0.04 + 0.2 * disorder + 0.15 * sizes.bend, 0.14))
    across = across + strength * smooth_noise(rng, shape, reach)
    along = along + strength * smooth_noise(rng, shape, reach)
    first = float(across.min()) - 2 * sizes.width
    rows = int((float(across.max()) - first) / (0.8 * sizes.width * gap)) + 4
    pitch = sizes.width * gap * np.exp(rng.normal(0, 0.06, rows))
    edges = first + np.cumsum(pitch)
    row = np.clip(np.searchsorted(edges, across), 1, rows - 1)
    start = float(along.min()) - 2 * sizes.length
    per_row = int((float(along.max()) - start) / (0.6 * sizes.length)) + 4
    lengths = sizes.length * np.exp(rng.normal(0, sizes.length_spread, (rows, per_row)))
    lengths = np.maximum(lengths, 1.3 * sizes.width)
    ends = start - rng.uniform(0, 1, (rows, 1)) * sizes.length + np.cumsum(lengths, 1)
    # One search over all rows at once: rows are set apart by more than any position.
    far = float(ends.max() - ends.min()) + 1e3
    flat = (ends - start + np.arange(rows)[:, None] * far).ravel()
    place = np.searchsorted(flat, (along - start) + row * far)
    place = np.clip(place, 1, rows * per_row - 1)
    length = lengths.ravel()[place]
    middle = ends.ravel()[place] - length / 2
    beyond = np.maximum(np.abs(along - middle) - (length - pitch[row]) / 2, 0)
    off_axis = across - (edges[row] - pitch[row] / 2)
    body = np.minimum(pitch[row], sizes.width) * (0.96 if gap >= 1 else 1.0)
    rho = np.sqrt(beyond**2 + off_axis**2) * 2 / body
    return place.astype(np.int32) + 1, rho.astype(np.float32), rows * per_row + 1
