"""Normalised pixels through the model: batches of tiles, encoded once, decoded by every head."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from dinoscope.arrays.tiling import Stitcher, Tile, TileGrid, cut, tile_grid
from dinoscope.engine.limits import Limits, TileTooLarge, is_memory, lost_device, release
from dinoscope.models.backbone import FeatureMap
from dinoscope.models.heads import pool_tokens
from dinoscope.models.model import Model
from dinoscope.models.runtime.choose import Engine
from dinoscope.tasks.base import task

#: Least overlap of neighbouring tiles in model pixels: two patches, about one object.
MARGIN_PX = 28
#: Tiles go through together up to this many pixels: two of 518², four of 364², nine of 252². More
#: gains nothing, takes memory and makes Cancel wait.
BATCH_PIXELS = 600_000
#: Tokens of this length, or shorter ones, allow that; fewer pixels where they are longer.
BATCH_DIM = 384
#: On a card, which one tile does not keep busy: eight of 518², whatever the model.
CARD_BATCH_PIXELS = 8 * 270_000


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

    def halves(self) -> list[EncodedTiles]:
        """The same tiles in two batches."""
        middle = len(self.tiles) // 2
        found = []
        for part in (slice(None, middle), slice(middle, None)):
            features = FeatureMap(
                self.features.patch_tokens[part],
                self.features.cls_token[part],
                self.features.embed_dim,
            )
            found.append(EncodedTiles(self.tiles[part], self.pixels[part], features))
        return found


@dataclass(frozen=True)
class Runner:
    """A model on a device in a precision.

    `engine` computes the tokens; without one the model's own modules do, which follow weights that
    are being trained.
    """

    model: Model
    device: str = "cpu"
    dtype: torch.dtype | None = None
    seconds: Seconds = field(default_factory=Seconds)
    engine: Engine | None = None
    limits: Limits = field(default_factory=Limits)

    def grid(self, shape: tuple[int, int]) -> TileGrid:
        """The grid that the model's card asks for, on a plane of model pixels."""
        low, high = self.limits.tile_range(*self.model.card.tile)
        spec = self.model.backbone.spec
        return tile_grid(
            shape,
            tile_min=low,
            tile_max=high,
            patch=self.model.backbone.patch,
            margin=MARGIN_PX,
            # A block multiplies 12·N·D² numbers in its linear layers, 2·N²·D in attention.
            knee=6 * spec.embed_dim,
        )

    def tiles(
        self,
        pixels: np.ndarray,
        grid: TileGrid,
        tiles: Sequence[Tile] | None = None,
        *,
        origin: tuple[int, int] = (0, 0),
    ) -> Iterator[EncodedTiles]:
        """Encode tiles of ``(3, Y, X)`` model pixels that begin at `origin`, a few at a time.

        Fewer where memory does not suffice.

        Raises
        ------
        TileTooLarge
            Memory does not suffice for one: see `shrink`.
        DeviceError
            The card is gone.
        """
        wanted = tuple(grid.tiles if tiles is None else tiles)
        most = self._tiles_at_once(grid.tile_shape)
        # Batches of about one size: nine as 3, 3, 3 take less time than as 4, 4, 1.
        most = math.ceil(len(wanted) / max(1, math.ceil(len(wanted) / most)))
        first = 0
        while first < len(wanted):
            chosen = wanted[first : first + min(most, self.limits.batch or most)]
            begun = time.perf_counter()
            stack = np.stack([cut(pixels, grid, t, origin=origin) for t in chosen])
            try:
                with torch.inference_mode():
                    x = torch.from_numpy(stack).to(self.device)
                    x = x.contiguous(memory_format=torch.channels_last)
                    features = self._encode(x)
            except (RuntimeError, MemoryError) as error:
                self._give_way(error, len(chosen))
                continue
            self.seconds.encode += time.perf_counter() - begun
            first += len(chosen)
            yield EncodedTiles(chosen, x, features)

    def _tiles_at_once(self, tile_shape: tuple[int, int]) -> int:
        pixels = CARD_BATCH_PIXELS
        if self.device == "cpu":
            dim = self.model.backbone.spec.embed_dim
            pixels = BATCH_PIXELS * BATCH_DIM // max(BATCH_DIM, dim)
        return max(1, pixels // (tile_shape[0] * tile_shape[1]))

    def _encode(self, x: Tensor) -> FeatureMap:
        if self.engine is not None:
            return self.engine.encode(x)
        with self._autocast():
            return self.model.encode(x)

    def _give_way(self, error: BaseException, tiles: int) -> None:
        """After a failure with so many tiles: go on with fewer, or raise what is to be told."""
        if is_memory(error):
            release(self.device)
            self.limits.smaller_batch(tiles)
            return
        lost = lost_device(error, self.device)
        if lost is None:
            raise error
        raise lost from error

    def shrink(self) -> None:
        """Halve the tiles, after `TileTooLarge`.

        Raises
        ------
        DeviceError
            They are as small as they can be.
        """
        self.limits.smaller_tiles(self.model.card.tile[1])

    def decode(self, batch: EncodedTiles, tasks: Sequence[str]) -> dict[str, np.ndarray]:
        """Activated maps ``(B, K, th, tw)`` float32 of dense tasks."""
        if not tasks:
            return {}
        parts = [batch]
        maps: list[dict[str, np.ndarray]] = []
        while parts:
            part = parts.pop(0)
            try:
                maps.append(self._decode(part, tasks))
            except (RuntimeError, MemoryError) as error:
                self._give_way(error, len(part.tiles))
                parts[:0] = part.halves()
        return {name: np.concatenate([m[name] for m in maps]) for name in maps[0]}

    def _decode(self, batch: EncodedTiles, tasks: Sequence[str]) -> dict[str, np.ndarray]:
        with torch.inference_mode(), self._autocast():
            raw = self.model.decode_dense(batch.features, batch.pixels, tasks)
            return {
                name: task(name).activate(value.float()).cpu().numpy()
                for name, value in raw.items()
            }

    def class_logits(self, stack: np.ndarray) -> Tensor:
        """``(B, classes)`` of images ``(B, 3, Y, X)`` that are a tile each."""
        x = torch.from_numpy(stack).to(self.device).contiguous(memory_format=torch.channels_last)
        features = self._encode(x)
        with self._autocast():
            features = self.model.pooled_features(features, x)
            return self.model.decode_pooled(pool_tokens(features)).float()

    def pooled_features(self, batch: EncodedTiles) -> EncodedTiles:
        """Tiles with what the classifier pools in place of their tokens."""
        with torch.inference_mode(), self._autocast():
            features = self.model.pooled_features(batch.features, batch.pixels)
        return replace(batch, features=features)

    @torch.inference_mode()
    def dense_maps(self, pixels: np.ndarray, tasks: Sequence[str]) -> dict[str, np.ndarray]:
        """Joined maps ``(K, Y, X)`` float32 of a whole plane ``(3, Y, X)`` of model pixels.

        Raises
        ------
        DeviceError
            The card is gone, or memory does not suffice for the smallest tile.
        """
        while True:
            try:
                return self._dense_maps(pixels, tasks)
            except TileTooLarge:
                self.shrink()

    def _dense_maps(self, pixels: np.ndarray, tasks: Sequence[str]) -> dict[str, np.ndarray]:
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
