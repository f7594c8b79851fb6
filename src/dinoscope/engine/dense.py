"""Normalised pixels through the model: batches of tiles, encoded once, decoded by every head."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dinoscope.arrays.tiling import Stitcher, Tile, TileGrid, cut, tile_grid
from dinoscope.models.backbone import FeatureMap
from dinoscope.models.model import Model
from dinoscope.tasks.base import task

#: Least overlap of neighbouring tiles in model pixels: two patches, about one object.
MARGIN_PX = 28
#: Tiles go through together up to this many pixels: one of 518², five of 224². More only leaves
#: the cache.
BATCH_PIXELS = 270_000


@dataclass
class Seconds:
    """Where the time of a run went."""

    encode: float = 0.0
    decode: float = 0.0
    assemble: float = 0.0


@dataclass(frozen=True)
class EncodedTiles:
    """A few tiles of one plane: pixels ``(B, 3, th, tw)`` and their tokens."""

    tiles: tuple[Tile, ...]
    pixels: Tensor
    features: FeatureMap


@dataclass(frozen=True)
class Runner:
    """A model on a device in a precision."""

    model: Model
    device: str = "cpu"
    dtype: torch.dtype | None = None
    seconds: Seconds = field(default_factory=Seconds)

    def grid(self, shape: tuple[int, int]) -> TileGrid:
        """The grid that the model's card asks for, on a plane of model pixels."""
        low, high = self.model.card.tile
        patch = self.model.backbone.patch
        return tile_grid(shape, tile_min=low, tile_max=high, patch=patch, margin=MARGIN_PX)

    def tiles(
        self,
        pixels: np.ndarray,
        grid: TileGrid,
        tiles: Sequence[Tile] | None = None,
        *,
        origin: tuple[int, int] = (0, 0),
    ) -> Iterator[EncodedTiles]:
        """Encode tiles of ``(3, Y, X)`` model pixels that begin at `origin`, a few at a time."""
        wanted = tuple(grid.tiles if tiles is None else tiles)
        size = max(1, BATCH_PIXELS // (grid.tile_shape[0] * grid.tile_shape[1]))
        for first in range(0, len(wanted), size):
            chosen = wanted[first : first + size]
            begun = time.perf_counter()
            stack = np.stack([cut(pixels, grid, t, origin=origin) for t in chosen])
            x = torch.from_numpy(stack).to(self.device)
            x = x.contiguous(memory_format=torch.channels_last)
            with self._autocast():
                features = self.model.encode(x)
            self.seconds.encode += time.perf_counter() - begun
            yield EncodedTiles(chosen, x, features)

    def decode(self, batch: EncodedTiles, tasks: Sequence[str]) -> dict[str, np.ndarray]:
        """Activated maps ``(B, K, th, tw)`` float32 of dense tasks."""
        if not tasks:
            return {}
        with self._autocast():
            raw = self.model.decode_dense(batch.features, batch.pixels, tasks)
        return {
            name: task(name).activate(value.float()).cpu().numpy() for name, value in raw.items()
        }

    @torch.inference_mode()
    def dense_maps(self, pixels: np.ndarray, tasks: Sequence[str]) -> dict[str, np.ndarray]:
        """Joined maps ``(K, Y, X)`` float32 of a whole plane ``(3, Y, X)`` of model pixels."""
        shape = (pixels.shape[1], pixels.shape[2])
        grid = self.grid(shape)
        stitchers: dict[str, Stitcher] = {}
        for batch in self.tiles(pixels, grid):
            for name, maps in self.decode(batch, tasks).items():
                if name not in stitchers:
                    stitchers[name] = Stitcher(maps.shape[1], shape, grid)
                for tile, tile_maps in zip(batch.tiles, maps, strict=True):
                    stitchers[name].add(tile, tile_maps)
        return {name: s.result() for name, s in stitchers.items()}

    @torch.inference_mode()
    def seconds_per_tile(self, tile_shape: tuple[int, int], tasks: Sequence[str]) -> float:
        """Time of one tile, measured once for each model, device, shape and set of tasks."""
        key = (id(self.model), self.device, tile_shape, tuple(tasks))
        if key not in _TIMED:
            grid = tile_grid(tile_shape, tile_min=max(tile_shape), tile_max=max(tile_shape))
            pixels = np.zeros((3, *tile_shape), np.float32)
            times = []
            for _ in range(2):
                begun = time.perf_counter()
                for batch in self.tiles(pixels, grid):
                    self.decode(batch, tasks)
                times.append(time.perf_counter() - begun)
            _TIMED[key] = min(times)
        return _TIMED[key]

    def _autocast(self) -> torch.autocast:
        """Reduced precision where it was found to be safe."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, self.dtype, enabled=self.dtype not in (None, torch.float32))


_TIMED: dict[tuple[int, str, tuple[int, int], tuple[str, ...]], float] = {}
