"""Coloured scenes in transmitted light: stained tissue, smears, blood, and unstained cells."""

from __future__ import annotations

import numpy as np

from dinoscope.datasets.synthetic.image import CELL, NUCLEUS, SyntheticImage
from dinoscope.datasets.synthetic.optics import (
    Optics,
    add_noise,
    blur,
    draw_optics,
    light_field,
    wide_blur,
)
from dinoscope.datasets.synthetic.shapes import (
    Bodies,
    Layout,
    draw_bodies,
    draw_outlines,
    draw_radii,
    join,
    rasterize,
    scatter,
    seams,
)
from dinoscope.datasets.synthetic.textures import (
    Shape,
    fibres,
    fractal_noise,
    smooth_noise,
    specks,
)

#: Optical density of the dyes in red, green and blue (Ruifrok and Johnston 2001), before jitter.
_HEMATOXYLIN = np.array([0.65, 0.70, 0.29], np.float32)
_EOSIN = np.array([0.07, 0.99, 0.11], np.float32)
_GIEMSA_RED = np.array([0.10, 0.75, 0.55], np.float32)

BRIGHTFIELD_STYLES = ("smear", "blood", "unstained")


def tissue(
    rng: np.random.Generator,
    shape: Shape,
    diameter: float,
    *,
    coverage: float | None = None,
    stain: str | None = None,
    colour: bool | None = None,
    fibrous: float | None = None,
    blur_px: float | None = None,
    noise: float | None = None,
    illumination: float | None = None,
) -> SyntheticImage:
    """Stained tissue: crowded nuclei of several populations in fibrous stroma, with lumens.

    Parameters
    ----------
    diameter : float
        Of the nuclei (the labelled objects), pixels.
    coverage : float
        Share of the field that nuclei cover, 0 to about 0.6.
    stain : str
        ``"he"`` (purple nuclei, pink rest), ``"purple"`` (hematoxylin only) or ``"pale"``.
    colour : bool
        False gives one grey channel.
    fibrous : float
        Strength of the stroma's fibres, 0 to 1.
    """
    optics = draw_optics(
        rng,
        blur_px=blur_px,
        noise=noise,
        illumination=illumination,
        blur_range=(0.4, float(np.clip(0.08 * diameter, 0.9, 2.2))),
    )
    cover = float(rng.uniform(0.08, 0.5)) if coverage is None else coverage
    bodies = _populations(rng, shape, diameter, cover)
    layout = rasterize(bodies, shape)
    chosen = (
        str(rng.choice(("he", "purple", "pale"), p=[0.5, 0.3, 0.2])) if stain is None else stain
    )
    strands = float(rng.uniform(0, 0.5)) if fibrous is None else fibrous
    semantic = np.where(layout.ids > 0, NUCLEUS, 0).astype(np.uint8)

    ground = np.float32(rng.uniform(0.15, 0.45)) * (
        1 + np.float32(0.35) * fractal_noise(rng, shape, 3 * diameter, roughness=0.7)
    )
    ground += np.float32(0.3 * strands) * fibres(rng, shape, max(diameter / 3, 3))
    if rng.random() < 0.4:  # cell bodies around the nuclei
        cells = rasterize(bodies.scaled(float(rng.uniform(1.4, 1.9))), shape, smallest=0.1)
        body = cells.ids > 0
        ground += np.float32(rng.uniform(0.05, 0.35)) * body
        ground -= np.float32(rng.uniform(0, 0.2)) * seams(cells.ids)
        semantic[body & (layout.ids == 0)] = CELL
    if rng.random() < 0.6:  # lumens, fat and gaps are white
        gaps = smooth_noise(rng, shape, rng.uniform(2, 6) * diameter) - rng.uniform(0.3, 1.8)
        ground *= 1 - np.clip(gaps * np.float32(rng.uniform(2, 8)), 0, 1)
        semantic[(gaps > 0.3) & (semantic == CELL)] = 0
    ground = np.maximum(ground, 0)
    if chosen == "pale":
        ground *= np.float32(0.3)

    dye = _nuclear_dye(rng, layout, diameter)
    blue = _jitter(rng, _HEMATOXYLIN)
    pink = blue * np.float32(0.9) if chosen == "purple" else _jitter(rng, _EOSIN)
    strength = np.float32(rng.uniform(0.6, 1.7))
    background_dye = np.float32(rng.uniform(0.02, 0.15)) + ground * np.float32(
        0.45 if chosen == "purple" else 0.1
    )
    inside = np.minimum(dye * 2, 1)
    hematoxylin = dye * strength + background_dye * (1 - inside)
    eosin = ground * (1 - np.float32(0.6) * inside) * np.float32(rng.uniform(0.5, 1.3))
    image = _transmit(rng, [(blue, hematoxylin), (pink, eosin)], optics)
    return _finish(rng, image, layout, semantic, "tissue", colour, diameter, (5.0, 9.0))


def _populations(rng: np.random.Generator, shape: Shape, diameter: float, cover: float) -> Bodies:
    """Round nuclei in groups, thin stromal ones, small dark round ones, palisades along arcs."""
    share = rng.dirichlet((1.5, 1.0, 0.7, 0.8))
    groups = []
    plans = (
        (1.0, 0.2, 0.15, 0.0, int(rng.choice([0, 2, 4]))),
        (0.75, 0.15, 0.75, 0.7, 0),
        (0.65, 0.1, 0.05, 0.0, int(rng.choice([0, 2]))),
    )
    for part, (size, spread, elongation, alignment, clusters) in zip(share, plans, strict=False):
        if part * cover < 0.01:
            continue
        radii = draw_radii(
            rng, shape, size * diameter, coverage=float(part * cover), spread=spread, at_most=250
        )
        placed = scatter(
            rng, shape, radii, spacing=float(rng.uniform(0.75, 1.05)), clusters=clusters
        )
        groups.append(
            draw_bodies(
                rng,
                *placed,
                elongation=elongation,
                irregularity=0.04,
                bend=0.15,
                alignment=alignment,
            )
        )
    if share[3] > 0.25:
        groups.append(_palisade(rng, shape, diameter))
    return join(groups)


def _palisade(rng: np.random.Generator, shape: Shape, diameter: float) -> Bodies:
    """Tall nuclei side by side along an arc, standing upright on it."""
    bow = rng.uniform(2, 12) * diameter
    centre_y, centre_x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
    pitch = rng.uniform(0.65, 0.95) * diameter
    count = int(np.clip(2 * np.pi * bow / pitch, 3, 80))
    theta = np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.normal(
        0, 0.1 * pitch / bow, count
    )
    away = bow * (1 + 0.15 * np.sin(2 * theta + rng.uniform(0, 6))) + rng.normal(
        0, 0.15 * diameter, count
    )
    y, x = centre_y + away * np.sin(theta), centre_x + away * np.cos(theta)
    return Bodies(
        y=y,
        x=x,
        radius=diameter / 2 * np.exp(rng.normal(0, 0.12, count)),
        angle=theta + rng.normal(0, 0.15, count),
        aspect=np.exp(np.abs(rng.normal(rng.uniform(0.2, 0.7), 0.15, count))),
        bend=rng.normal(0, 0.05, count),
        outline=draw_outlines(rng, count, 0.04),
    )


def _nuclear_dye(rng: np.random.Generator, layout: Layout, diameter: float) -> np.ndarray:
    """(Y, X) float32 dye in nuclei: solid and dark, or pale with a rim and clumps of chromatin."""
    shape = (layout.ids.shape[0], layout.ids.shape[1])
    mostly_pale = rng.random()
    paleness = layout.lookup(np.clip(rng.normal(mostly_pale, 0.25, layout.count), 0, 1))
    level = layout.lookup(np.exp(rng.normal(0, 0.2, layout.count)))
    clumps = fractal_noise(rng, shape, max(diameter / 4, 2.5), roughness=0.8)
    rim = np.clip((layout.rho - 0.7) * 4, 0, 1)
    pale = 0.45 + 0.2 * clumps + 0.35 * rim
    solid = 0.95 + 0.1 * clumps
    dye = level * (paleness * pale + (1 - paleness) * solid) * (layout.ids > 0)
    dye *= 1 - np.float32(rng.uniform(0, 0.5)) * seams(layout.ids)
    return np.asarray(np.clip(dye, 0, 2), dtype=np.float32)


def brightfield(
    rng: np.random.Generator,
    shape: Shape,
    diameter: float,
    *,
    style: str | None = None,
    coverage: float | None = None,
    colour: bool | None = None,
    blur_px: float | None = None,
    noise: float | None = None,
    illumination: float | None = None,
) -> SyntheticImage:
    """Cells in bright field.

    Parameters
    ----------
    diameter : float
        Of the labelled objects, pixels.
    style : str
        ``"smear"``: stained cell bodies with dark nuclei, the nuclei are the objects;
        ``"blood"``: red cells and some white ones, whole cells are the objects;
        ``"unstained"``: refracting cells a little out of focus, whole cells are the objects.
    coverage : float
        Share of the field that the objects cover.
    colour : bool
        True three channels, False one grey channel.
    """
    optics = draw_optics(
        rng, blur_px=blur_px, noise=noise, illumination=illumination, blur_range=(0.4, 1.4)
    )
    chosen = str(rng.choice(BRIGHTFIELD_STYLES)) if style is None else style
    if chosen == "smear":
        image, layout, semantic = _smear(rng, shape, diameter, coverage, optics)
        size_um = (5.0, 9.0)
    elif chosen == "blood":
        image, layout, semantic = _blood(rng, shape, diameter, coverage, optics)
        size_um = (7.0, 8.0)
    else:
        image, layout, semantic = _unstained(rng, shape, diameter, coverage, optics)
        size_um = (8.0, 20.0)
    return _finish(rng, image, layout, semantic, "brightfield", colour, diameter, size_um)


def _smear(
    rng: np.random.Generator,
    shape: Shape,
    diameter: float,
    coverage: float | None,
    optics: Optics,
) -> tuple[np.ndarray, Layout, np.ndarray]:
    """Flat, angular, translucent cell bodies that overlap; their nuclei are the objects."""
    ratio = float(rng.uniform(2.0, 4.5))
    cover = float(rng.uniform(0.02, 0.14)) if coverage is None else coverage
    radii = draw_radii(rng, shape, diameter, coverage=cover, spread=0.2)
    y, x, radius = scatter(
        rng,
        shape,
        radii,
        spacing=float(rng.uniform(1.2, 0.75 * ratio)),
        clusters=int(rng.choice([0, 3])),
    )
    nuclei = draw_bodies(rng, y, x, radius, elongation=0.3, irregularity=0.06)
    layout = rasterize(nuclei, shape)
    shift = rng.normal(0, 0.25 * ratio * diameter / 2, (2, len(y)))
    wide = draw_bodies(
        rng, y + shift[0], x + shift[1], ratio * radius, elongation=0.3, irregularity=0.12
    )
    body = np.zeros(shape, np.float32)
    mask = layout.ids > 0
    for half in (slice(None, None, 2), slice(1, None, 2)):  # two layers, so that bodies overlap
        layer = rasterize(wide.take(np.arange(len(wide))[half]), shape, smallest=0.1)
        flat = layer.lookup(rng.uniform(0.15, 0.5, layer.count))
        edge = np.clip((layer.rho - 0.9) * 10, 0, 1) * (layer.ids > 0)
        body += flat * (1 + np.float32(rng.uniform(-0.3, 0.6)) * edge)
        mask = mask | (layer.ids > 0)
    wrinkles = 1 + np.float32(0.2) * fractal_noise(rng, shape, 1.5 * diameter, roughness=0.8)
    grains = blur(specks(rng, shape, int(mask.sum() / 400)), 0.8)
    body = np.clip(body * wrinkles + np.float32(rng.uniform(0, 1.5)) * grains * mask, 0, 2)
    dust = blur(specks(rng, shape, int(rng.integers(0, 25))), 1.2)
    dye = _nuclear_dye(rng, layout, diameter) * np.float32(rng.uniform(0.8, 2.0))
    blue, pink = _jitter(rng, _HEMATOXYLIN), _jitter(rng, (_EOSIN + _HEMATOXYLIN) / 2)
    image = _transmit(rng, [(blue, dye + 2 * dust), (pink, body)], optics)
    semantic = np.where(layout.ids > 0, NUCLEUS, np.where(mask, CELL, 0)).astype(np.uint8)
    return image, layout, semantic


def _blood(
    rng: np.random.Generator,
    shape: Shape,
    diameter: float,
    coverage: float | None,
    optics: Optics,
) -> tuple[np.ndarray, Layout, np.ndarray]:
    """Red cells, pale in the middle, some touching; a few white cells with lobed nuclei."""
    cover = float(rng.uniform(0.1, 0.65)) if coverage is None else coverage
    radii = draw_radii(
        rng, shape, diameter, coverage=cover, spread=float(rng.uniform(0.04, 0.18)), at_most=250
    )
    white = np.zeros(len(radii), bool)
    white[: int(rng.integers(0, 3))] = True  # the largest are placed first
    radii = np.where(white, diameter / 2 * rng.uniform(1.3, 1.9), radii)
    y, x, radius = scatter(rng, shape, radii, spacing=float(rng.uniform(0.8, 1.1)))
    cells = draw_bodies(
        rng, y, x, radius, elongation=float(rng.uniform(0.03, 0.3)), irregularity=0.025, bend=0.05
    )
    layout = rasterize(cells, shape)
    is_white = cells.radius[layout.index] > 0.62 * diameter * 1.0
    is_white &= layout.index < int(white.sum())
    pallor = np.clip(rng.normal(rng.uniform(0.1, 0.8), 0.2, layout.count), 0, 1)
    pale = layout.lookup(np.where(is_white, 0.0, pallor))
    wide = np.float32(rng.uniform(0.2, 0.5))
    disc = 1 - pale * np.exp(-((layout.rho / wide) ** 2))
    level = layout.lookup(np.where(is_white, 0.35, np.exp(rng.normal(0, 0.12, layout.count))))
    red = level * disc * (layout.ids > 0)
    red *= 1 + np.float32(rng.uniform(0, 0.5)) * np.clip((layout.rho - 0.8) * 5, 0, 1)
    inside_white = layout.lookup(is_white.astype(np.float32)) > 0
    lobes = smooth_noise(rng, shape, 0.6 * diameter) + 1.5 * (0.9 - 2.0 * layout.rho)
    nucleus = inside_white & (lobes > 0) & (layout.rho < 0.85)
    blue = nucleus * (1 + 0.2 * fractal_noise(rng, shape, max(diameter / 5, 2)))
    platelets = blur(specks(rng, shape, int(rng.integers(0, 12))), max(diameter / 12, 0.8))
    strength = np.float32(rng.uniform(0.15, 0.5))
    image = _transmit(
        rng,
        [
            (_jitter(rng, _GIEMSA_RED), strength * red),
            (
                _jitter(rng, _HEMATOXYLIN),
                np.float32(rng.uniform(0.5, 1.1)) * blue + 5 * (layout.ids == 0) * platelets,
            ),
        ],
        optics,
    )
    semantic = np.where(layout.ids > 0, CELL, 0).astype(np.uint8)
    semantic[nucleus] = NUCLEUS
    return image, layout, semantic


def _unstained(
    rng: np.random.Generator,
    shape: Shape,
    diameter: float,
    coverage: float | None,
    optics: Optics,
) -> tuple[np.ndarray, Layout, np.ndarray]:
    """Transparent cells that act as small lenses: dark and bright rims, granules."""
    cover = float(rng.uniform(0.05, 0.6)) if coverage is None else coverage
    radii = draw_radii(rng, shape, diameter, coverage=cover, spread=0.15, at_most=250)
    placed = scatter(
        rng,
        shape,
        radii,
        spacing=float(rng.uniform(0.8, 1.1)),
        clusters=int(rng.choice([0, 0, 2, 5])),
    )
    cells = draw_bodies(rng, *placed, elongation=float(rng.uniform(0.02, 0.3)), irregularity=0.03)
    layout = rasterize(cells, shape)
    thick = np.sqrt(np.maximum(1 - layout.rho**2, 0)) * layout.lookup(
        rng.uniform(0.7, 1.2, layout.count)
    )
    grains = smooth_noise(rng, shape, max(diameter / 8, 1.6))
    thick *= 1 + np.float32(rng.uniform(0.01, 0.1)) * grains
    fine = blur(thick.astype(np.float32), max(optics.blur_px, 0.03 * diameter))
    # Out of focus, contrast follows the curvature of the optical path (transport of intensity).
    ring = fine - wide_blur(fine, max(0.08 * diameter, 1.0))
    broad = fine - wide_blur(fine, max(0.25 * diameter, 2.0))
    sign = 1 if rng.random() < 0.5 else -1
    signal = sign * (ring + np.float32(rng.uniform(-0.3, 0.6)) * broad)
    signal *= np.float32(rng.uniform(0.12, 0.4)) / (float(np.abs(signal).max()) + 1e-6)
    image = np.float32(rng.uniform(0.4, 0.7)) + signal - np.float32(rng.uniform(0, 0.1)) * fine
    image += np.float32(rng.uniform(0, 0.01)) * fractal_noise(rng, shape, 2 * diameter)
    image *= light_field(rng, shape, optics.illumination / 2)
    image = add_noise(rng, image, optics.quieter(0.35))
    return image[None], layout, np.where(layout.ids > 0, CELL, 0).astype(np.uint8)


# ----------------------------------------------------------------------------- light and colour


def _jitter(rng: np.random.Generator, dye: np.ndarray) -> np.ndarray:
    """A dye a little different from batch to batch, of unit optical density."""
    varied = np.maximum(dye * np.exp(rng.normal(0, 0.15, 3)) + rng.normal(0, 0.03, 3), 0.01)
    return np.asarray(varied / np.linalg.norm(varied), dtype=np.float32)


def _transmit(
    rng: np.random.Generator, dyes: list[tuple[np.ndarray, np.ndarray]], optics: Optics
) -> np.ndarray:
    """(3, Y, X) light left after passing the dyes (Beer–Lambert), blurred, uneven, noisy."""
    dyes = [(colour, blur(amount.astype(np.float32), optics.blur_px)) for colour, amount in dyes]
    lamp = np.float32(rng.uniform(0.75, 1.0)) * rng.uniform(0.92, 1.0, 3)
    light = light_field(rng, (dyes[0][1].shape[0], dyes[0][1].shape[1]), optics.illumination / 3)
    image = np.empty((3, *light.shape), np.float32)
    for channel in range(3):
        density = sum(np.float32(1.6 * colour[channel]) * amount for colour, amount in dyes)
        image[channel] = np.float32(lamp[channel]) * np.exp(-density) * light
    return add_noise(rng, image, optics.quieter(0.4))


def _finish(
    rng: np.random.Generator,
    image: np.ndarray,
    layout: Layout,
    semantic: np.ndarray,
    kind: str,
    colour: bool | None,
    diameter: float,
    object_um: tuple[float, float],
) -> SyntheticImage:
    wants_grey = rng.random() < 0.25 if colour is None else not colour
    if wants_grey and len(image) == 3:
        image = image.mean(0, keepdims=True)
    elif colour and len(image) == 1:
        image = np.repeat(image, 3, axis=0)
    size_um = float(rng.uniform(*object_um)) / diameter
    return SyntheticImage(
        image=image,
        axes="CYX",
        instances=layout.ids,
        semantic=semantic,
        depth=None,
        pixel_size_um={"Y": size_um, "X": size_um},
        kind=kind,
    )
