"""Which zoom brings an image to the scale its model was trained at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dinoscope.arrays.axes import Region, read_plane, sample_indices
from dinoscope.arrays.calibrate import Calibration
from dinoscope.arrays.normalize import Normalization, to_model_input
from dinoscope.arrays.resample import needed_window, resample, scaled_shape
from dinoscope.config import PredictOptions
from dinoscope.engine.dense import MARGIN_PX, Runner
from dinoscope.engine.limits import TileTooLarge
from dinoscope.models.card import ModelCard
from dinoscope.types import ImageInput

#: Zooms beyond these do not help any more.
ZOOM_RANGE = (1 / 16, 8.0)
#: An image of unknown object size is looked at so many octaves either way at most…
MOST_OCTAVES = 2
#: …and so many times once objects were seen.
MOST_LOOKS = 4
#: A size this close to the training size (in octaves) needs no further look.
CLOSE_OCTAVES = 0.15
#: What a first look says is taken so many times, since it grows less than it should…
BEYOND = 1.25
#: …and no next look is further away than this.
LONGEST_STEP = 1.2
#: How much of a change of scale (in octaves) a look sees of it; what two looks say is kept to that.
SLOPES = (0.4, 1.0)
#: Two looks closer than this are the same.
SAME_OCTAVES = 0.02
#: An estimate is used as if it were this much smaller: objects seen a little too large are still
#: found, objects seen too small merge or vanish. Less (0.85) takes more tiles and finds no more
#: (DSB2018 dev-val at half, own and double size).
CAUTION = 0.9
#: A look takes one tile after another, up to so many along a side…
SEEN_TILES = 2
#: …until it has seen as much foreground as so many objects of the training size have.
ENOUGH_OBJECTS = 40
#: Tiles that this usually takes.
USUAL_TILES = 2
#: Fewer foreground pixels than this share of what was looked at tell nothing about size.
LEAST_FOREGROUND = 0.002


@dataclass(frozen=True)
class Prepared:
    """How the planes of one image become model pixels, decided once for the whole image."""

    image: ImageInput
    limits: np.ndarray
    normalization: Normalization
    options: PredictOptions
    calibration: Calibration | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """``(Y, X)`` of a plane in image pixels."""
        return self.image.size("Y"), self.image.size("X")

    @property
    def filtered(self) -> bool:
        """Whether pixels depend on those around them, so that a plane must be read as a whole."""
        return bool(self.normalization.denoise or self.normalization.local_contrast)

    def pixels(
        self, index: tuple[int, ...], zoom: float, window: Region | None = None
    ) -> np.ndarray:
        """Normalised model pixels ``(3, y, x)`` of `window`, which counts in model pixels."""
        return self.seen_as(index, scaled_shape(self.shape, zoom), window)

    def seen_as(
        self, index: tuple[int, ...], new_shape: tuple[int, int], window: Region | None = None
    ) -> np.ndarray:
        """`pixels` of a plane that is brought to `new_shape` (Y, X)."""
        target = window or (0, 0, *new_shape)
        needed = target if new_shape == self.shape else needed_window(self.shape, new_shape, target)
        whole = needed == (0, 0, *self.shape)
        plane = read_plane(
            self.image,
            index,
            channels=self.options.channels,
            region=None if whole else needed,
        )
        if self.calibration is not None:
            plane = self.calibration.apply(plane, region=None if whole else needed)
        native = to_model_input(
            plane, self.limits, self.normalization, weights=self.options.channel_weights
        )
        return resample(
            native, new_shape, shape=self.shape, origin=(needed[0], needed[1]), window=target
        )


def known_zoom(
    card: ModelCard, image: ImageInput, options: PredictOptions
) -> tuple[float, float | None] | None:
    """What :func:`zoom_for` returns where it need not look at the image; ``None`` where it must."""
    if options.diameter_px is not None and card.diameter_px:
        return _clipped(card.diameter_px / options.diameter_px), options.diameter_px
    pixel_size = options.pixel_size_um or image.pixel_size_um.get("Y")
    if card.pixel_size_um and pixel_size:
        zoom = _clipped(card.zoom * pixel_size / card.pixel_size_um)
        return zoom, card.diameter_px / zoom if card.diameter_px else None
    # A surface has no objects to be measured by; heights were learned at the card's own zoom.
    bare = set(options.tasks) == {"depth"}
    if bare or not card.diameter_px or "instance" not in card.heads:
        return _clipped(card.zoom), None
    return None


def zoom_of_diameter(card: ModelCard, diameter_px: float | None) -> float:
    """The zoom for an estimated diameter; the card's own where none was seen."""
    if diameter_px is None or not card.diameter_px:
        return _clipped(card.zoom)
    return _clipped(card.diameter_px / (CAUTION * diameter_px))


def zoom_for(prepared: Prepared, runner: Runner) -> tuple[float, float | None]:
    """Model pixels per image pixel, and the object diameter in image pixels where one was used.

    In this order: the diameter the user gives; the pixel size, where the card and the image have
    one; the card's fixed zoom, for models without a training diameter and for depth alone; an
    estimate from the image itself.
    """
    card = runner.model.card
    known = known_zoom(card, prepared.image, prepared.options)
    if known is not None:
        return known
    diameter = estimate_diameter(prepared, runner)
    return zoom_of_diameter(card, diameter), diameter


def scale_text(diameter_px: float | None, zoom: float) -> str:
    """What is told about the scale before the first tile."""
    if diameter_px is None:
        return f"zoom {zoom:.2g}"
    return f"typical object {diameter_px:.0f} px, zoom {zoom:.2g}"


def looking_tiles(runner: Runner, shape: tuple[int, int]) -> int:
    """Tiles that :func:`estimate_diameter` usually encodes on a plane of `shape` (Y, X).

    One look at the image's own scale, and one nearer to the right one.
    """
    tiles = 0
    for octaves in (0.0, 0.5):
        scaled = scaled_shape(shape, 2**octaves)
        tiles += min(USUAL_TILES, len(runner.grid(_seen_shape(scaled, runner)).tiles))
    return tiles


def _clipped(zoom: float) -> float:
    return float(np.clip(zoom, *ZOOM_RANGE))


def estimate_diameter(prepared: Prepared, runner: Runner) -> float | None:
    """Typical object diameter in image pixels, or None where no object is seen.

    The instance head's size map is read off in the middle of the middle plane, first at the image's
    own scale, then where the looks so far point to, until one says "as in training". What a look
    says grows with the scale, but less than it should on images unlike those of the training; so
    the scale where it would be nothing is sought as a root is by secants, rather than by trusting
    one answer.
    """
    target = runner.model.card.diameter_px
    if not target:
        return None
    sampled = sample_indices(prepared.image, 3)
    index = sampled[len(sampled) // 2]

    def look(octaves: float) -> float | None:
        return _seen_size(prepared, runner, index, _clipped(2**octaves))

    looks = _looks(look)
    if not looks:
        return None
    return float(target / _clipped(2 ** _right_scale(looks)))


def _looks(look: Callable[[float], float | None]) -> dict[float, float]:
    """What was seen at the scales that were looked at, the last of them nearly the right one.

    Scales are log2 of the zoom; nothing where no scale shows an object.
    """
    for place in sorted(range(-MOST_OCTAVES, MOST_OCTAVES + 1), key=lambda o: (abs(o), -o)):
        seen = look(place)
        if seen is not None:
            break
    else:
        return {}
    looks = {float(place): seen}
    while abs(seen) > CLOSE_OCTAVES and len(looks) < MOST_LOOKS:
        best = _closest(looks)
        step = -BEYOND * seen if len(looks) == 1 else _right_scale(looks) - best
        step = float(np.clip(step, -LONGEST_STEP, LONGEST_STEP))
        further = float(np.clip(best + step, -MOST_OCTAVES, MOST_OCTAVES))
        if min(abs(further - known) for known in looks) < SAME_OCTAVES:
            break
        answer = look(further)
        if answer is None:
            break
        seen = looks[further] = answer
    return looks


def _closest(looks: Mapping[float, float]) -> float:
    """The scale whose objects looked most like training objects; of equal ones the last."""
    return min(reversed(list(looks)), key=lambda place: abs(looks[place]))


def _right_scale(looks: Mapping[float, float]) -> float:
    """Where between `looks` (log2 of the zoom to octaves seen) objects look like training objects.

    Where the objects go from too small to too large; without that, where the closest looks point.
    """
    places = sorted(looks)
    for low, high in pairwise(places):
        if looks[low] <= 0 < looks[high]:
            return low - looks[low] * (high - low) / (looks[high] - looks[low])
    best = _closest(looks)
    if len(looks) == 1:
        return best - looks[best]
    other = _closest({place: seen for place, seen in looks.items() if place != best})
    slope = float(np.clip((looks[other] - looks[best]) / (other - best), *SLOPES))
    return best - looks[best] / slope


def _seen_size(
    prepared: Prepared, runner: Runner, index: tuple[int, ...], zoom: float
) -> float | None:
    """Median of the size map over foreground, in octaves from the training diameter."""
    whole = scaled_shape(prepared.shape, zoom)
    height, width = _seen_shape(whole, runner)
    y0, x0 = (whole[0] - height) // 2, (whole[1] - width) // 2
    pixels = prepared.pixels(index, zoom, (y0, x0, y0 + height, x0 + width))
    while True:
        try:
            return _median_size(pixels, runner)
        except TileTooLarge:
            runner.shrink()


def _median_size(pixels: np.ndarray, runner: Runner) -> float | None:
    """That of ``(3, Y, X)`` model pixels, from as few tiles as show enough objects."""
    height, width = pixels.shape[1:]
    grid = runner.grid((height, width))
    enough = ENOUGH_OBJECTS * np.pi / 4 * (runner.model.card.diameter_px or 0) ** 2
    found: list[np.ndarray] = []
    looked = seen = 0
    for tile in grid.tiles[::3] + grid.tiles[1::3] + grid.tiles[2::3]:  # of four, across first
        for batch in runner.tiles(pixels, grid, (tile,)):
            maps = runner.decode(batch, ["instance"])["instance"][0]
            inside = maps[:, : height - tile.y0, : width - tile.x0]
            found.append(inside[3][inside[0] > 0.5])
            looked += inside[0].size
            seen += found[-1].size
        if seen >= enough:
            break
    return float(np.median(np.concatenate(found))) if seen >= LEAST_FOREGROUND * looked else None


def _seen_shape(scaled: tuple[int, int], runner: Runner) -> tuple[int, int]:
    """How much of a plane of model pixels a look may see."""
    side = SEEN_TILES * runner.model.card.tile[1] - (SEEN_TILES - 1) * MARGIN_PX
    return min(scaled[0], side), min(scaled[1], side)
