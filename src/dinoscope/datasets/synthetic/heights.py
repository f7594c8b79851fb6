"""Height maps of rough surfaces."""

from __future__ import annotations

import numpy as np

from dinoscope.datasets.synthetic.optics import blur
from dinoscope.datasets.synthetic.raster import rasterize
from dinoscope.datasets.synthetic.shapes import draw_bodies, draw_radii, scatter
from dinoscope.datasets.synthetic.textures import Shape, fractal_noise, smooth_noise

RELIEFS = ("fractal", "domes", "pits", "ridges", "rings", "steps", "tilted")


def height_map(
    rng: np.random.Generator, shape: Shape, diameter: float, *, relief: str, tilt: float = 0.0
) -> np.ndarray:
    """(Y, X) float32 relative height, exactly 0 at the lowest and 1 at the highest pixel."""
    height = to_unit(_RELIEFS[relief](rng, shape, diameter))
    if rng.random() < 0.5:
        rough = fractal_noise(rng, shape, diameter / 2, roughness=0.6)
        height += np.float32(rng.uniform(0.005, 0.06)) * rough
    if tilt:
        height = height + np.float32(tilt) * _ramp(rng, shape)
    return to_unit(height)


def to_unit(field: np.ndarray) -> np.ndarray:
    """`field` stretched to [0, 1], float32; a constant one becomes zeros."""
    low, high = float(field.min()), float(field.max())
    return np.asarray((field - low) / max(high - low, 1e-6), dtype=np.float32)


def _ramp(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.ogrid[: shape[0], : shape[1]]
    return to_unit((np.sin(angle) * y + np.cos(angle) * x).astype(np.float32))


def _fractal(rng: np.random.Generator, shape: Shape, diameter: float) -> np.ndarray:
    return fractal_noise(rng, shape, 2.5 * diameter, roughness=float(rng.uniform(0.3, 0.55)))


def _domes(rng: np.random.Generator, shape: Shape, diameter: float) -> np.ndarray:
    radii = draw_radii(
        rng, shape, 1.3 * diameter, coverage=float(rng.uniform(0.3, 1.0)), spread=0.25
    )
    placed = scatter(rng, shape, radii, spacing=float(rng.uniform(0.6, 1.0)))
    layout = rasterize(draw_bodies(rng, *placed, irregularity=0.03), shape, smallest=0.2)
    tall = layout.lookup(rng.uniform(0.5, 1.0, layout.count))
    dome = tall * np.maximum(1 - layout.rho**2, 0) ** np.float32(rng.uniform(0.5, 1.5))
    ground = np.float32(rng.uniform(0, 0.3)) * smooth_noise(rng, shape, 3 * diameter)
    return np.asarray(blur(dome, 1.0) + ground, dtype=np.float32)


def _pits(rng: np.random.Generator, shape: Shape, diameter: float) -> np.ndarray:
    radii = draw_radii(rng, shape, diameter, coverage=float(rng.uniform(0.08, 0.4)), spread=0.3)
    placed = scatter(rng, shape, radii, spacing=1.1)
    layout = rasterize(draw_bodies(rng, *placed, elongation=0.6, irregularity=0.08), shape)
    deep = layout.lookup(rng.uniform(0.5, 1.0, layout.count))
    pit = deep * np.minimum((1 - layout.rho) * np.float32(rng.uniform(1, 5)), 1)
    ground = np.float32(rng.uniform(0, 0.15)) * smooth_noise(rng, shape, 2 * diameter)
    return np.asarray(ground - blur(pit, max(diameter / 15, 0.7)), dtype=np.float32)


def _ridges(rng: np.random.Generator, shape: Shape, diameter: float) -> np.ndarray:
    length = np.float32(np.hypot(shape[0], shape[1]))
    waves = np.float32(rng.uniform(0, 0.6) * diameter) * smooth_noise(rng, shape, 4 * diameter)
    across = _ramp(rng, shape) * length + waves
    return _profile(rng, across / np.float32(1.2 * diameter)) * (
        1 + np.float32(0.15) * smooth_noise(rng, shape, 3 * diameter)
    )


def _rings(rng: np.random.Generator, shape: Shape, diameter: float) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    height = np.full(shape, np.inf, np.float32)
    for _ in range(int(rng.integers(1, 4))):
        centre = rng.uniform(-0.5, 1.5, 2) * shape
        away = np.hypot(y - centre[0], x - centre[1]).astype(np.float32)
        height = np.minimum(height, _profile(rng, away / np.float32(diameter)) + 0.004 * away)
    return np.asarray(height, dtype=np.float32)


def _profile(rng: np.random.Generator, cycles: np.ndarray) -> np.ndarray:
    """A periodic cross-section with jittered strength: round, sharp-edged or saw-toothed."""
    number = np.floor(cycles).astype(np.intp)
    number -= number.min()
    t = (cycles - np.floor(cycles)).astype(np.float32)
    form = rng.integers(0, 3)
    if form == 0:
        wave = np.sin(np.pi * t) ** 2
    elif form == 1:
        wave = np.clip(np.sin(np.pi * t) * np.float32(rng.uniform(2, 5)) - 0.5, 0, 1)
    else:
        bend = np.float32(rng.uniform(0.15, 0.85))
        wave = np.minimum(t / bend, (1 - t) / (1 - bend))
    strength = rng.uniform(0.5, 1.0, int(number.max()) + 1).astype(np.float32)
    return np.asarray(wave * strength[number], dtype=np.float32)


def _steps(rng: np.random.Generator, shape: Shape, diameter: float) -> np.ndarray:
    field = fractal_noise(rng, shape, 3 * diameter, roughness=0.3)
    field = field + np.float32(rng.uniform(0, 2)) * _ramp(rng, shape)
    terraces = np.floor(field * np.float32(rng.uniform(0.7, 2.5)))
    return blur(np.asarray(terraces, dtype=np.float32), float(rng.uniform(0.6, 2.5)))


def _tilted(rng: np.random.Generator, shape: Shape, diameter: float) -> np.ndarray:
    bumps = np.float32(rng.uniform(0, 0.05)) * smooth_noise(rng, shape, diameter)
    return _ramp(rng, shape) + bumps


_RELIEFS = {
    "fractal": _fractal,
    "domes": _domes,
    "pits": _pits,
    "ridges": _ridges,
    "rings": _rings,
    "steps": _steps,
    "tilted": _tilted,
}
