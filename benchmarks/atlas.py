"""Training crops cut and varied on the graphics card, thousands a second.

All images lie in one flat store (an atlas) in the card's memory, each in three resolutions, so that
a batch of crops of any scale and angle is a few gathers. What each crop must be predicted as was
computed once for the whole image (:func:`dinoscope.arrays.targets.instance_targets`) and is cut by
the same grid: objects that a crop's edge cuts keep the centre that they have in the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dinoscope.arrays.targets import instance_targets
from dinoscope.engine.dataset import TrainingImage
from dinoscope.models.device import import_torch

torch = import_torch()
F = torch.nn.functional
IGNORE = 255
#: Every image is kept at its own, half and a quarter of its resolution.
LEVELS = 3
#: An image fills at least this share of a crop's side.
LEAST_SHOWN = 0.6


@dataclass(frozen=True)
class Packed:
    """One image as the atlas takes it: `colour` (Y, X, 4) float16, red, green, blue and depth;
    `maps` (Y, X, 4) uint8, three instance maps times 255 and the semantic class."""

    colour: np.ndarray
    maps: np.ndarray
    log_size: float


def pack(image: TrainingImage, diameter_px: float) -> Packed:
    """A training image with the truths that it has; others are zero, or `IGNORE`."""
    shape = image.pixels.shape[1:]
    colour = np.zeros((*shape, 4), np.float16)
    colour[..., :3] = np.moveaxis(image.pixels, 0, -1)
    maps = np.zeros((*shape, 4), np.uint8)
    maps[..., 3] = IGNORE
    if "depth" in image.targets:
        colour[..., 3] = image.targets["depth"]
    if "instance" in image.targets:
        made = instance_targets(np.asarray(image.targets["instance"]))
        maps[..., :3] = np.moveaxis(np.rint(made * 255).astype(np.uint8), 0, -1)
    if "semantic" in image.targets:
        maps[..., 3] = image.targets["semantic"]
    size = math.log2(image.diameter_px / diameter_px) if image.diameter_px else math.nan
    return Packed(colour, maps, size)


class Atlas:
    """Images in the card's memory; :meth:`crops` cuts a batch of them.

    Parameters
    ----------
    device : str
    capacity : int
        Pixels that fit, smaller copies included (4/3 of an image's own, a little less).
    """

    def __init__(self, device: str, capacity: int) -> None:
        self.device = torch.device(device)
        self.colour = torch.zeros(capacity, 4, dtype=torch.float16, device=self.device)
        self.maps = torch.zeros(capacity, 4, dtype=torch.uint8, device=self.device)
        self.used = 0
        self.table: list[tuple[int, int, int, float]] = []

    def reserve(self, shape: tuple[int, int]) -> int:
        """Room for an image of this shape; its number."""
        height, width = shape
        need = sum((height >> level) * (width >> level) for level in range(LEVELS))
        if self.used + need > len(self.colour):
            raise MemoryError(f"the atlas is full at {self.used} pixels")
        self.table.append((self.used, height, width, math.nan))
        self.used += need
        return len(self.table) - 1

    def put(self, number: int, colour: torch.Tensor, maps: torch.Tensor, log_size: float) -> None:
        """Write an image into its room, with its smaller copies."""
        start, height, width, _ = self.table[number]
        self.table[number] = (start, height, width, log_size)
        colour = colour.to(self.device, non_blocking=True)
        self.colour[start : start + height * width] = colour.reshape(-1, 4)
        self.maps[start : start + height * width] = maps.to(self.device, non_blocking=True).reshape(
            -1, 4
        )
        begin = start + height * width
        small = colour.permute(2, 0, 1)[None].float()
        for _ in range(1, LEVELS):
            small = F.avg_pool2d(small, 2)
            flat = small[0].permute(1, 2, 0).reshape(-1, 4).half()
            self.colour[begin : begin + len(flat)] = flat
            begin += len(flat)

    def add(self, packed: Packed) -> int:
        """Reserve and put; the image's number."""
        number = self.reserve(packed.colour.shape[:2])
        self.put(
            number, torch.from_numpy(packed.colour), torch.from_numpy(packed.maps), packed.log_size
        )
        return number

    def crops(
        self, numbers: np.ndarray, far: np.ndarray, side: int, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """Cut one crop of each image.

        Parameters
        ----------
        numbers : (B,) int
            Images.
        far : (B,) float
            Probability that a crop's scale is drawn from two octaves either way.
        side : int
            Of the crops, in pixels.

        Returns
        -------
        dict of torch.Tensor
            ``pixels`` (B, 3, side, side) float32; ``maps`` (B, 3, …) in [0, 1]; ``semantic``
            (B, …) int64; ``depth`` (B, …) float32; ``known`` (B, …) bool, inside of the image;
            ``log_size`` (B,), octaves from the training diameter (NaN where unknown).
        """
        count = len(numbers)
        rows = [self.table[int(n)] for n in numbers]
        start = self._column([r[0] for r in rows], torch.int64)
        height = self._column([r[1] for r in rows], torch.float32)
        width = self._column([r[2] for r in rows], torch.float32)
        natural = np.array([r[3] for r in rows])
        octaves = np.where(
            rng.random(count) < far,
            rng.uniform(-2.0, 2.0, count),
            rng.triangular(-0.8, 0, 0.8, count),
        )
        # Objects are brought to the training diameter before the scale is varied; a crop is never
        # mostly mirror images of a small one.
        octaves -= np.nan_to_num(natural)
        smallest = np.array([min(r[1], r[2]) for r in rows])
        octaves = np.maximum(octaves, np.log2(LEAST_SHOWN * side / smallest))
        log_size = octaves + natural
        scale = 2**octaves
        matrix = _turns(rng, count) / scale[:, None, None]
        reach = np.abs(matrix).sum(2) * side / 2
        centre = self._centres(rows, reach, rng, start, height, width)

        turn = torch.from_numpy(matrix.astype(np.float32)).to(self.device, non_blocking=True)
        offsets = torch.arange(side, device=self.device) + 0.5 - side / 2
        yy, xx = torch.meshgrid(offsets, offsets, indexing="ij")
        y = turn[:, 0, 0, None, None] * yy + turn[:, 0, 1, None, None] * xx
        x = turn[:, 1, 0, None, None] * yy + turn[:, 1, 1, None, None] * xx
        y = y + centre[:, 0, None, None]
        x = x + centre[:, 1, None, None]
        h, w = height[:, None, None], width[:, None, None]
        known = (y >= 0) & (y < h) & (x >= 0) & (x < w)
        y, x = _reflected(y, h), _reflected(x, w)

        level = np.clip(np.floor(-octaves + 0.3), 0, LEVELS - 1).astype(int)
        begin, tall, wide = [], [], []
        for (at, high, broad, _), n in zip(rows, level, strict=True):
            begin.append(at + sum((high >> k) * (broad >> k) for k in range(int(n))))
            tall.append(high >> int(n))
            wide.append(broad >> int(n))
        shrink = self._column(2.0**level, torch.float32)[:, None, None]
        colour = _bilinear(
            self.colour,
            self._column(begin, torch.int64)[:, None, None],
            self._column(tall, torch.int64)[:, None, None],
            self._column(wide, torch.int64)[:, None, None],
            y / shrink,
            x / shrink,
        )
        ih, iw, at = h.long(), w.long(), start[:, None, None]
        maps = _bilinear(self.maps, at, ih, iw, y, x) / 255
        nearest = at + y.long().clamp_max(ih - 1) * iw + x.long().clamp_max(iw - 1)
        semantic = self.maps[nearest][..., 3].long()
        return {
            "pixels": colour[..., :3].permute(0, 3, 1, 2).contiguous(),
            "maps": maps[..., :3].permute(0, 3, 1, 2).contiguous(),
            "semantic": semantic.masked_fill(~known, IGNORE),
            "depth": colour[..., 3].masked_fill(~known, math.nan),
            "known": known,
            "log_size": self._column(log_size, torch.float32),
        }

    def _column(self, values: object, dtype: torch.dtype) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values), dtype=dtype).to(self.device, non_blocking=True)

    def _centres(self, rows, reach, rng, start, height, width) -> torch.Tensor:
        """(B, 2): three times in four on something annotated, found among eight places."""
        size = np.array([[r[1], r[2]] for r in rows], float)
        fits = 2 * reach < size
        low = np.where(fits, reach, size / 2)
        high = np.where(fits, size - reach, size / 2)
        places = low[None] + rng.random((8, len(rows), 2)) * (high - low)[None]
        places = torch.from_numpy(places.astype(np.float32)).to(self.device, non_blocking=True)
        row = places[..., 0].long().clamp_max(height.long() - 1)
        column = places[..., 1].long().clamp_max(width.long() - 1)
        inside = self.maps[start + row * width.long() + column][..., 0] > 0
        inside[0] |= self._column(rng.random(len(rows)) < 0.25, torch.bool)
        first = inside.float().argmax(0)
        return places.gather(0, first.view(1, -1, 1).expand(1, -1, 2))[0]


def _turns(rng: np.random.Generator, count: int) -> np.ndarray:
    """(B, 2, 2): any angle or a right one, mirrored or not, mildly stretched."""
    right = np.pi / 2 * rng.integers(4, size=count)
    angle = np.where(rng.random(count) < 0.5, rng.uniform(0, 2 * np.pi, count), right)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    stretch = 2 ** rng.uniform(-0.12, 0.12, (count, 1, 2)) * rng.choice([-1.0, 1.0], (count, 1, 2))
    return turn * stretch


def _reflected(place: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    return length - (torch.remainder(place, 2 * length) - length).abs()


def _bilinear(store, start, height, width, y, x) -> torch.Tensor:
    """Values (B, side, side, 4) float32 at places measured from each image's upper left corner."""
    y, x = y - 0.5, x - 0.5
    y0, x0 = y.floor(), x.floor()
    wy, wx = (y - y0)[..., None], (x - x0)[..., None]
    y0, x0 = y0.long(), x0.long()
    top = start + y0.clamp(min=0).minimum(height - 1) * width
    bottom = start + (y0 + 1).clamp(min=0).minimum(height - 1) * width
    left, right = x0.clamp(min=0).minimum(width - 1), (x0 + 1).clamp(min=0).minimum(width - 1)
    upper = store[top + left].float() * (1 - wx) + store[top + right].float() * wx
    lower = store[bottom + left].float() * (1 - wx) + store[bottom + right].float() * wx
    return upper * (1 - wy) + lower * wy


def varied(
    pixels: torch.Tensor, *, absolute: bool = False, grey: float = 0.12, invert: float = 0.1
) -> torch.Tensor:
    """Illumination, stain, optics and noise, as `dinoscope.engine.augment` varies them, for a batch
    ``(B, 3, Y, X)`` in about [0, 1]; gently where classes live on `absolute` intensity. `grey` and
    `invert` are the shares of coloured images that lose their colour, and of negatives."""
    count, device = len(pixels), pixels.device
    strong = 0.35 if absolute else 1.0
    p = 0.35 if absolute else 0.5

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.empty(count, *(shape or (1, 1, 1)), device=device).uniform_(low, high)

    def some(share: float) -> torch.Tensor:
        return torch.rand(count, 1, 1, 1, device=device) < share

    colour = (pixels[:, 0] - pixels[:, 1]).abs().mean((1, 2)) + (
        pixels[:, 1] - pixels[:, 2]
    ).abs().mean((1, 2))
    colour = (colour > 0.01)[:, None, None, None]
    out = pixels
    power = torch.where(some(p), 2 ** (strong * uniform(-0.9, 0.9)), 1.0)
    # Stains differ in how much light they take, channel by channel: powers of the transmission.
    dye = torch.where(colour & some(p), 2 ** (strong * uniform(-0.5, 0.5, 3, 1, 1)), 1.0)
    positive = out.clamp(1e-4, 1) ** (power * dye)
    out = torch.where((power * dye) != 1, positive, out)
    gain = 1 + strong * uniform(-0.35, 0.25)
    shift = strong * uniform(-0.15, 0.15)
    out = torch.where(some(p), (out - 0.5) * gain + 0.5 + shift, out)
    out = torch.where(colour & some(p), out * (1 + strong * uniform(-0.2, 0.2, 3, 1, 1)), out)
    if not absolute:
        plain = out.mean(1, keepdim=True).expand_as(out)
        out = torch.where(colour & some(grey), plain, out)
        out = torch.where(colour & some(0.08), out[:, torch.randperm(3, device=device)], out)
        out = torch.where(some(invert), 1 - out, out)
    height, width = out.shape[-2:]
    yy = torch.linspace(-1, 1, height, device=device).view(1, 1, -1, 1)
    xx = torch.linspace(-1, 1, width, device=device).view(1, 1, 1, -1)
    angle = uniform(0, 2 * math.pi)
    tilt = 1 + 0.3 * strong * uniform(-1, 1) * (angle.cos() * yy + angle.sin() * xx)
    out = torch.where(some(p / 2), out * tilt, out)
    out = torch.where(some(p / 2), _blurred(out, uniform(0.4, 1.6 * strong + 0.1)), out)
    shot, read = strong * uniform(0, 0.08), strong * uniform(0, 0.04)
    noise = torch.randn_like(out) * (out.clamp(0, 1) * shot**2 + read**2).sqrt()
    out = torch.where(some(0.6 * p), out + noise, out)
    return out.clamp(-0.5, 1.5)


def _blurred(pixels: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Gaussian blur with a width of its own for each image."""
    radius = 4
    offsets = torch.arange(-radius, radius + 1, device=pixels.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets.view(1, -1) / sigma.view(-1, 1)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(pixels.shape[1], 0)
    flat = pixels.reshape(1, -1, *pixels.shape[-2:])
    groups = flat.shape[1]
    padded = F.pad(flat, (radius,) * 4, mode="reflect")
    tall = F.conv2d(padded, kernel.view(groups, 1, -1, 1), groups=groups)
    return F.conv2d(tall, kernel.view(groups, 1, 1, -1), groups=groups).view_as(pixels)
