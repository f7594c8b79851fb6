"""Placing bodies and turning them into exact, overlap-free label images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dinoscope.datasets.synthetic.textures import Shape

#: Directions at which an outline is sampled.
ANGLES = 64


@dataclass(frozen=True)
class Bodies:
    """N bodies, all arrays of length N.

    `radius` is that of the circle of equal area; `outline` (N, ANGLES) multiplies it by direction;
    `aspect` stretches along `angle`; `bend` curves the long axis (0 straight, 0.3 kidney-shaped).
    """

    y: np.ndarray
    x: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    aspect: np.ndarray
    bend: np.ndarray
    outline: np.ndarray

    def __len__(self) -> int:
        return len(self.y)

    def take(self, which: np.ndarray) -> Bodies:
        """The bodies at these positions, or where a mask is true."""
        return Bodies(
            *(getattr(self, name)[which] for name in self.__dataclass_fields__)  # same order
        )

    def scaled(self, factor: float) -> Bodies:
        """The same bodies at the same places, larger or smaller."""
        return replace(self, radius=self.radius * factor)


@dataclass(frozen=True)
class Layout:
    """Label image with, for each pixel, how far out it lies in its body.

    `ids` (Y, X) int32, 1..n, each 4-connected; `rho` (Y, X) float32 is 0 at a body's centre, 1 at
    its outline, and 1 outside; `index` (n,) tells which body (or rod) became which id.
    """

    ids: np.ndarray
    rho: np.ndarray
    index: np.ndarray

    @property
    def count(self) -> int:
        return len(self.index)

    def lookup(self, per_object: np.ndarray, outside: float = 0.0) -> np.ndarray:
        """(Y, X) float32 with the value of each pixel's object; `per_object` has length n."""
        table = np.concatenate([[outside], per_object]).astype(np.float32)
        values: np.ndarray = table[self.ids]
        return values


def join(groups: list[Bodies]) -> Bodies:
    """All bodies of several groups, in order; earlier ones have no advantage over later ones."""
    names = tuple(Bodies.__dataclass_fields__)
    return Bodies(*(np.concatenate([getattr(group, name) for group in groups]) for name in names))


def draw_outlines(
    rng: np.random.Generator, count: int, irregularity: float, *, lobes: int = 7
) -> np.ndarray:
    """Random smooth outlines around 1; `irregularity` 0 is a circle, 0.15 clearly lumpy."""
    theta = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False, dtype=np.float32)
    outline = np.ones((count, ANGLES), np.float32)
    for k in range(2, lobes + 1):
        amplitude = rng.normal(0, irregularity * 2 / k**1.2, (count, 1))
        phase = rng.uniform(0, 2 * np.pi, (count, 1))
        outline += (amplitude * np.cos(k * theta + phase)).astype(np.float32)
    return normalize_outlines(np.clip(outline, 0.35, 2.5))


def star_outlines(rng: np.random.Generator, count: int, arms: float) -> np.ndarray:
    """Outlines with pointed protrusions, as adherent cells have; `arms` is their mean number."""
    theta = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False, dtype=np.float32)
    outline = np.full((count, ANGLES), 1.0, np.float32)
    number = np.clip(rng.poisson(arms, count), 0, 7)
    for arm in range(7):
        direction = rng.uniform(0, 2 * np.pi, (count, 1))
        length = rng.gamma(3.0, 0.45, (count, 1)) * (arm < number)[:, None]
        width = rng.uniform(0.15, 0.4, (count, 1))
        away = np.abs((theta - direction + np.pi) % (2 * np.pi) - np.pi)
        outline += (length * np.exp(-((away / width) ** 1.5))).astype(np.float32)
    return normalize_outlines(outline * draw_outlines(rng, count, 0.07))


def normalize_outlines(outline: np.ndarray) -> np.ndarray:
    """Scale each outline so that its area is that of the unit circle."""
    return np.asarray(outline / np.sqrt((outline**2).mean(1, keepdims=True)), dtype=np.float32)


def draw_bodies(
    rng: np.random.Generator,
    y: np.ndarray,
    x: np.ndarray,
    radius: np.ndarray,
    *,
    elongation: float = 0.25,
    irregularity: float = 0.05,
    bend: float = 0.1,
    alignment: float = 0.0,
) -> Bodies:
    """Give placed circles random shapes.

    `elongation` is the spread of the log aspect ratio; `alignment` in [0, 1] turns the long axes
    towards one common direction.
    """
    count = len(y)
    angle = rng.uniform(0, np.pi, count)
    common = rng.uniform(0, np.pi)
    angle = np.where(rng.random(count) < alignment, common + rng.normal(0, 0.25, count), angle)
    return Bodies(
        y=y,
        x=x,
        radius=radius,
        angle=angle,
        aspect=np.exp(np.minimum(np.abs(rng.normal(0, elongation, count)), 1.4)),
        bend=rng.normal(0, bend, count),
        outline=draw_outlines(rng, count, irregularity),
    )


def scatter(
    rng: np.random.Generator,
    shape: Shape,
    radius: np.ndarray,
    *,
    spacing: float = 1.0,
    clusters: int = 0,
    tightness: float = 1.2,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place circles by dart throwing.

    Parameters
    ----------
    radius : (N,) float
        Wanted radii, pixels; those that find no place are left out.
    spacing : float
        Two centres are at least `spacing` times the sum of their radii apart: above 1
        free-standing, below 1 pressed against each other.
    clusters : int
        0 spreads the circles evenly; otherwise they gather around so many centres.
    tightness : float
        Spread of a cluster relative to what its members need when packed.

    Returns
    -------
    y, x, radius : (M,) float64, M <= N
    """
    count = len(radius)
    height, width = shape
    kept_y = np.empty(count)
    kept_x = np.empty(count)
    kept_r = np.empty(count)
    margin = 0.4 * float(radius.mean()) if count else 0.0
    if clusters:
        middle_y = rng.uniform(0, height, clusters)
        middle_x = rng.uniform(0, width, clusters)
        need = np.sqrt(count / clusters) * float(radius.mean() if count else 1.0) * tightness
    placed = 0
    tries = 6
    for r in radius:
        if clusters:
            home = rng.integers(0, clusters, tries)
            y = middle_y[home] + rng.normal(0, 0.6 * need, tries)
            x = middle_x[home] + rng.normal(0, 0.6 * need, tries)
        else:
            y = rng.uniform(-margin, height + margin, tries)
            x = rng.uniform(-margin, width + margin, tries)
        if placed:
            gap = (y[:, None] - kept_y[:placed]) ** 2 + (x[:, None] - kept_x[:placed]) ** 2
            free = (gap > (spacing * (r + kept_r[:placed])) ** 2).all(1)
        else:
            free = np.ones(tries, bool)
        inside = (y > -margin) & (y < height + margin) & (x > -margin) & (x < width + margin)
        good = np.flatnonzero(free & inside)
        if len(good):
            kept_y[placed], kept_x[placed], kept_r[placed] = y[good[0]], x[good[0]], r
            placed += 1
    return kept_y[:placed], kept_x[:placed], kept_r[:placed]


def rasterize(bodies: Bodies, shape: Shape, *, smallest: float = 0.35) -> Layout:
    """Draw bodies into a label image; where they meet, a pixel belongs to the one it is deeper in.

    Bodies that keep less than `smallest` of their own area (in view) to themselves are left out.
    """
    ids = np.zeros(shape, np.int32)
    rho = np.ones(shape, np.float32)
    wanted = np.zeros(len(bodies) + 1)
    reach = bodies.radius * np.sqrt(bodies.aspect) * bodies.outline.max(1)
    reach = np.ceil(reach * (1 + 0.5 * np.abs(bodies.bend))).astype(int) + 1
    # Batches of like size: few NumPy calls and little wasted area.
    batch_of = np.ceil(2 * np.log2(np.maximum(reach, 2))).astype(int)
    for batch in np.unique(batch_of):
        members = np.flatnonzero(batch_of == batch)
        half = int(reach[members].max())
        top = np.floor(bodies.y[members]).astype(int) - half
        left = np.floor(bodies.x[members]).astype(int) - half
        fields = _body_fields(bodies.take(members), top, left, 2 * half + 1)
        for field, member, y0, x0 in zip(fields, members, top, left, strict=True):
            wanted[member + 1] = paint(ids, rho, field, int(member) + 1, int(y0), int(x0))
    return clean_layout(ids, rho, wanted, smallest=smallest)


def _body_fields(bodies: Bodies, top: np.ndarray, left: np.ndarray, side: int) -> np.ndarray:
    """(N, side, side) float32: relative distance from each body's centre, 1 on its outline."""
    steps = np.arange(side, dtype=np.float32)
    dy = steps[None, :, None] + (top - bodies.y)[:, None, None].astype(np.float32)
    dx = steps[None, None, :] + (left - bodies.x)[:, None, None].astype(np.float32)
    stretch = np.sqrt(bodies.aspect)
    along_y, along_x = np.sin(bodies.angle), np.cos(bodies.angle)
    long_axis = (1 / (bodies.radius * stretch))[:, None, None]
    short_axis = (stretch / bodies.radius)[:, None, None]
    columns = [a[:, None, None] for a in (along_y, along_x)]
    u = dy * (columns[0] * long_axis).astype(np.float32) + dx * (columns[1] * long_axis).astype(
        np.float32
    )
    v = dy * (columns[1] * short_axis).astype(np.float32) - dx * (columns[0] * short_axis).astype(
        np.float32
    )
    bend = bodies.bend[:, None, None].astype(np.float32)
    v += bend * bodies.aspect[:, None, None].astype(np.float32) * (u * u - np.float32(0.3))
    turn = np.arctan2(v, u) * np.float32(ANGLES / (2 * np.pi))
    turn += ANGLES
    low = turn.astype(np.int32)
    turn -= low
    low %= ANGLES
    # A wrapped copy of the first sample makes the interpolation one gather from a flat table.
    table = np.concatenate([bodies.outline, bodies.outline[:, :1]], axis=1)
    low += (np.arange(len(bodies), dtype=np.int32) * (ANGLES + 1))[:, None, None]
    flat = table.ravel()
    radius = flat[low]
    radius += (flat[low + 1] - radius) * turn
    return np.asarray(np.sqrt(u * u + v * v) / radius, dtype=np.float32)


def paint(ids: np.ndarray, rho: np.ndarray, field: np.ndarray, label: int, y0: int, x0: int) -> int:
    """Put one body's field into the label image where it is deeper than what is there.

    Returns the number of pixels the body would have alone.
    """
    height, width = ids.shape
    side_y, side_x = field.shape
    rows = slice(max(y0, 0), min(y0 + side_y, height))
    columns = slice(max(x0, 0), min(x0 + side_x, width))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return 0
    own = field[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0]
    there = rho[rows, columns]
    deeper = own < there
    np.copyto(there, own, where=deeper)
    ids[rows, columns][deeper] = label
    return int(np.count_nonzero(own < 1))


def clean_layout(
    ids: np.ndarray, rho: np.ndarray, wanted: np.ndarray, *, smallest: float, floor_px: int = 6
) -> Layout:
    """Keep the largest 4-connected part of each id, drop what is mostly covered, renumber.

    Parameters
    ----------
    wanted : (n + 1,) float
        Pixels that each id would have alone; ids with less than `smallest` of it are dropped.
    """
    from skimage.measure import label

    if not ids.any():
        return Layout(ids, np.ones_like(rho), np.zeros(0, np.intp))
    parts = label(ids, connectivity=1, background=0)
    sizes = np.bincount(parts.ravel())
    first = np.zeros(len(sizes), np.intp)
    first[parts.ravel()] = ids.ravel()
    owner = first.copy()
    sizes[0] = 0
    largest = np.zeros(len(wanted), np.intp)
    # Written in order of size, so that each id is left with its largest part.
    order = np.argsort(sizes, kind="stable")
    largest[owner[order]] = order
    enough = (sizes[largest] >= np.maximum(smallest * wanted, floor_px)) & (largest > 0)
    enough[0] = False
    index = np.flatnonzero(enough)
    renumber = np.zeros(len(sizes), np.int32)
    renumber[largest[index]] = np.arange(1, len(index) + 1)
    clean = renumber[parts]
    return Layout(clean, np.where(clean > 0, rho, np.float32(1)), index - 1)


def seams(ids: np.ndarray) -> np.ndarray:
    """(Y, X) bool: pixels of an object that touch another object."""
    touching = np.zeros(ids.shape, bool)
    for first, second in (
        ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
    ):
        meet = (ids[first] != ids[second]) & (ids[first] > 0) & (ids[second] > 0)
        touching[first] |= meet
        touching[second] |= meet
    return touching


def draw_radii(
    rng: np.random.Generator,
    shape: Shape,
    diameter: float,
    *,
    coverage: float,
    spread: float,
    at_most: int = 400,
) -> np.ndarray:
    """Log-normal radii, half `diameter` in the middle, enough to cover `coverage` of the field."""
    area = np.pi * (diameter / 2) ** 2 * np.exp(2 * spread**2)
    count = int(np.clip(round(coverage * shape[0] * shape[1] / area), 1, at_most))
    radius = diameter / 2 * np.exp(rng.normal(0, spread, count))
    # Large ones first: they find room, small ones fill the gaps.
    return np.asarray(np.sort(np.clip(radius, diameter / 5, diameter * 1.4))[::-1])
