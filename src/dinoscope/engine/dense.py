"""One normalised plane through the model: resample, tile, encode once, decode every head, join."""

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

@dataclass
class Seconds:
    """Where the time of a run went."""

    encode: float = 0.0
    decode: float = 0.0
    assemble: float = 0.0


@dataclass(frozen=True)
class Runner:
    """A model on a device in a precision; what turns pixels into joined maps."""

    model: Model
    device: str = "cpu"
    dtype: torch.dtype | None = None
    seconds: Seconds = field(default_factory=Seconds)

    def tiles(
        self, pixels: np.ndarray, grid: TileGrid, tiles: Sequence[Tile] | None = None
    ) -> Iterator[tuple[Tile, Tensor, FeatureMap]]:
        """Encode the tiles of ``(3, Y, X)`` model pixels one after the other.

        One tile at a time is fastest on a CPU from 448 pixels up, and bounds memory.
        """
        for tile in grid.tiles if tiles is None else tiles:
            begun = time.perf_counter()
            x = torch.from_numpy(np.ascontiguousarray(cut(pixels, grid, tile)))[None]
            x = x.to(self.device).contiguous(memory_format=torch.channels_last)
            with self.autocast():
                features = self.model.encode(x)
            self.seconds.encode += time.perf_counter() - begun
            yield tile, x, features

    def autocast(self) -> torch.autocast:
        """Reduced precision where it was found to be safe."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, self.dtype, enabled=self.dtype not in (None, torch.float32))

    def grid(self, shape: tuple[int, int]) -> TileGrid:
        """The grid that the model's card asks for."""
        low, high = self.model.card.tile
        return tile_grid(shape, tile_min=low, tile_max=high, patch=self.model.backbone.patch)

    @torch.inference_mode()
    def dense_maps(self, pixels: np.ndarray, tasks: Sequence[str]) -> dict[str, np.ndarray]:
        """Activated maps ``(K, Y, X)`` float32 of dense tasks, at the resolution of `pixels`."""
        maps, _ = self.maps_and_tokens(pixels, tasks, keep_tokens=False)
        return maps

    @torch.inference_mode()
    def maps_and_tokens(
        self, pixels: np.ndarray, tasks: Sequence[str], *, keep_tokens: bool
    ) -> tuple[dict[str, np.ndarray], list[tuple[Tile, FeatureMap]]]:
        """As `dense_maps`, with the tokens of every tile where they are wanted."""
        shape = (pixels.shape[1], pixels.shape[2])
        grid = self.grid(shape)
        stitchers: dict[str, Stitcher] = {}
        kept: list[tuple[Tile, FeatureMap]] = []
        for tile, x, features in self.tiles(pixels, grid):
            begun = time.perf_counter()
            if keep_tokens:
                kept.append((tile, features))
            if tasks:
                with self.autocast():
                    raw = self.model.decode_dense(features, x, tasks)
                for name, value in raw.items():
                    maps = task(name).activate(value.float())[0].cpu().numpy()
                    if name not in stitchers:
                        stitchers[name] = Stitcher(len(maps), shape, grid)
                    stitchers[name].add(tile, maps)
            self.seconds.decode += time.perf_counter() - begun
        return {name: s.result() for name, s in stitchers.items()}, kept
