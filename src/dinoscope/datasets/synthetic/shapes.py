"""Bodies with random outlines, and where they lie."""

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
