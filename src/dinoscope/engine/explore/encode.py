"""Images to sets of tokens, plane by plane; what was encoded before is not encoded again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.arrays.axes import Index, Region, clip_region, plane_indices
from dinoscope.arrays.patches import PatchGrid
from dinoscope.arrays.resample import scaled_shape
from dinoscope.arrays.tiling import Stitcher, Tile, TileGrid
from dinoscope.config import ExploreOptions, PredictOptions, parse_layers
from dinoscope.engine.dense import EncodedTiles, Runner
from dinoscope.engine.explore.store import EncodedPlane, TokenStore
from dinoscope.engine.limits import TileTooLarge
from dinoscope.engine.opening import open_runner, prepare
from dinoscope.engine.scale import Prepared, zoom_for
from dinoscope.engine.tokens import TokenJoiner
from dinoscope.errors import DeviceError, InputError
from dinoscope.models.adapter import remove_lora
from dinoscope.models.backbone import FeatureMap
from dinoscope.models.checkpoint import load_model
from dinoscope.models.device import set_threads
from dinoscope.models.model import Model, with_layers
from dinoscope.models.registry import layer_indices
from dinoscope.models.runtime.choose import Engine
from dinoscope.types import ImageInput, Progress

#: The adapter of these goes elsewhere, so the tokens are the same with and without.
_HEADS_ONLY = "heads"


@dataclass(frozen=True)
class TokenSet:
    """Tokens of some planes of one image by one model.

    `indices` are the planes, `keys` their places in `store`; `grid` is the same for all of them.
    `adapter` says whether the model's LoRA was on, `tuned` whether it has one on its backbone,
    `whole` whether all pixels of a plane were encoded and not a region.
    """

    image: str
    model: str
    adapter: bool
    tuned: bool
    indices: tuple[Index, ...]
    keys: tuple[str, ...]
    plane_axes: str
    grid: PatchGrid
    layers: tuple[int, ...]
    dim: int
    zoom: float
    store: TokenStore
    whole: bool = True
    cached: int = 0
    notes: tuple[str, ...] = ()

    def plane(self, index: Index) -> EncodedPlane:
        """What is kept of one plane.

        Raises
        ------
        InputError
            That plane was not encoded, or is not kept any more.
        """
        index = tuple(int(i) for i in index)
        try:
            return self.store.get(self.keys[self.indices.index(index)])
        except ValueError:
            raise InputError(
                f"plane {index} of {self.image!r} was not encoded",
                expected=f"one of {len(self.indices)} planes",
                hint="Encode it first.",
            ) from None
        except KeyError:
            raise InputError(
                f"the tokens of plane {index} of {self.image!r} are not kept any more",
                hint="Encode again.",
            ) from None

    def tokens(self, index: Index) -> np.ndarray:
        """``(h·w, D)`` float16 tokens of one plane, row by row of the grid."""
        return self.plane(index).tokens

    @property
    def comparable(self) -> tuple[str, bool, tuple[int, ...], int]:
        """Sets in which this is equal have tokens that can be compared."""
        return self.model, self.adapter, self.layers, self.dim


def resolve_layers(text: str, depth: int) -> tuple[int, ...]:
    """Numbers of the blocks that ``ExploreOptions.layers`` means in a network of `depth` blocks.

    Raises
    ------
    InputError
        It has no such block.

    Examples
    --------
    >>> resolve_layers("early+last", 12), resolve_layers("0,5", 12)
    ((3, 11), (0, 5))
    """
    ends = layer_indices(depth)
    named = {"early": ends[0], "middle": ends[len(ends) // 2], "last": ends[-1]}
    found = tuple(sorted({p if isinstance(p, int) else named[p] for p in parse_layers(text)}))
    if found[-1] >= depth:
        raise InputError(
            f"layers are {text!r} of a backbone with {depth} blocks",
            expected=f"blocks from 0 to {depth - 1}",
        )
    return found


def load_original(name_or_path: str | Path, **options: Any) -> Model:
    """Load a model with its LoRA adapter switched off: the backbone as it was before tuning.

    Parameters
    ----------
    name_or_path : str or Path
        See :func:`dinoscope.models.checkpoint.load_model`, which takes `options` too.

    Raises
    ------
    InputError
        The model has no adapter on its backbone, so there is nothing to switch off.
    """
    model = load_model(name_or_path, merge=False, **options)
    if model.lora is None or model.lora.config.on == _HEADS_ONLY:
        raise no_adapter(model)
    remove_lora(model)
    model.digest = f"{model.digest}-original"
    return model


def no_adapter(model: Model) -> InputError:
    """What to say where a model has nothing to switch off."""
    return InputError(
        f"model {model.card.name!r} has no LoRA adapter on its backbone",
        expected="a model that was fine-tuned with LoRA on the backbone",
        hint="Look at its tokens as they are (adapter on), or choose a fine-tuned model.",
    )


def encode(
    image: ImageInput,
    model: Model,
    options: ExploreOptions | None = None,
    *,
    store: TokenStore | None = None,
    indices: Sequence[Index] | None = None,
    adapter: bool = True,
    zoom: float | None = None,
) -> Generator[Progress, None, TokenSet]:
    """Encode planes of an image.

    Parameters
    ----------
    image : ImageInput
        Any axes; read lazily, one plane at a time.
    model : Model
        As :func:`load_model` or :func:`load_original` give it.
    options : ExploreOptions, optional
        Layers, channels, scale.
    store : TokenStore, optional
        Where planes are kept, and found if they were encoded before with equal pixels.
    indices : sequence of tuple, optional
        Planes to encode; all of them when not given.
    adapter : bool
        ``False`` where `model` is the original of a tuned one.
    zoom : float, optional
        Model pixels per image pixel, decided before (so that both models see the same patches).

    Yields
    ------
    Progress
        After every tile.

    Returns
    -------
    TokenSet
        It holds its planes in the store.

    Raises
    ------
    InputError
        A plane, region, channel or layer that is not there, or tokens that are not numbers.
    """
    options = options or ExploreOptions()
    store = store or TokenStore()
    run = yield from open_image(image, model, options, zoom, store)
    wanted = list(plane_indices(image)) if indices is None else [tuple(i) for i in indices]
    if not wanted:
        raise InputError(f"no plane of {image.name!r} was chosen", expected="at least one")
    keys: list[str] = []
    cached = 0
    begun = time.perf_counter()
    try:
        for number, index in enumerate(wanted):
            pixels = run.pixels(index)
            key = run.key(pixels)
            if key in store:
                cached += 1
            else:
                for step in run.encode(pixels, number, len(wanted), begun):
                    if isinstance(step, Progress):
                        yield step
                    else:
                        store.put(key, replace(step, guide=run.guide(index, pixels)))
            keys.append(key)
            store.hold([key])
            yield Progress("encode", (number + 1) * run.steps, len(wanted) * run.steps)
    except BaseException:
        store.release(keys)
        raise
    return TokenSet(
        image=image.name,
        model=model.card.name,
        adapter=adapter,
        tuned=not adapter or model.lora is not None,
        indices=tuple(wanted),
        keys=tuple(keys),
        plane_axes=image.plane_axes,
        grid=run.patches,
        layers=run.layers,
        dim=len(run.layers) * model.backbone.embed_dim,
        zoom=run.zoom,
        store=store,
        whole=options.region is None,
        cached=cached,
        notes=tuple(run.notes),
    )


def open_image(
    image: ImageInput,
    model: Model,
    options: ExploreOptions,
    zoom: float | None,
    store: TokenStore,
    *,
    heads: Sequence[str] = (),
) -> Generator[Progress, None, ImageRun]:
    """Look at an image once: its limits, and its zoom where that is not given; see `encode`.

    The maps of dense `heads` come along, where the model has them and computes the wanted layers
    for its heads anyway.
    """
    predict = PredictOptions(
        tasks=("pca",),
        channels=options.channels,
        diameter_px=options.diameter_px,
        pixel_size_um=options.pixel_size_um,
        denoise=options.denoise,
        local_contrast=options.local_contrast,
        device=options.device,
        threads=options.threads,
    )
    layers = resolve_layers(options.layers, len(model.backbone.vit.blocks))
    region = clip_region(image, options.region) if options.region else None
    runner, notes = open_runner(model, predict)
    yield Progress("prepare", 0, 1, message="reading the image")
    prepared = prepare(image, model, predict)
    zoom = zoom or options.zoom
    if zoom is None:
        # The limits tell images of one name apart: looking at their objects again takes seconds.
        place = (
            image.name,
            image.shape,
            prepared.limits.tobytes(),
            model.digest or id(model),
            predict,
        )
        if place not in store.zooms:
            store.zooms[place] = zoom_for(prepared, runner)[0]
        zoom = store.zooms[place]
    alike = set(layers) <= set(model.backbone.layers)
    present = tuple(name for name in heads if alike and name in model.heads)
    seen = tuple(model.backbone.layers) if present else layers
    engine = Engine(
        model, runner.device, runner.dtype, threads=set_threads(options.threads), layers=seen
    )
    view = Runner(with_layers(model, seen), runner.device, runner.dtype, engine=engine)
    region = region or (0, 0, *prepared.shape)
    return ImageRun(view, prepared, layers, zoom, region, notes, heads=present)


def _maps_of(model: Model, head: str) -> int:
    """Maps of a head that are of use: of the instance head, not the size of objects."""
    return 3 if head == "instance" else model.card.heads[head].channels


class ImageRun:
    """Geometry and steps that the planes of one image share."""

    def __init__(
        self,
        runner: Runner,
        prepared: Prepared,
        layers: tuple[int, ...],
        zoom: float,
        region: Region,
        notes: Sequence[str],
        *,
        heads: tuple[str, ...] = (),
    ) -> None:
        self.runner = runner
        #: Dense heads whose maps come with the tokens, and how many of each.
        self.heads = {name: _maps_of(runner.model, name) for name in heads}
        self.prepared = prepared
        self.layers = layers
        self.zoom = zoom
        self.notes = notes
        self._region = region
        patch = runner.model.backbone.patch
        model_shape = scaled_shape(prepared.shape, zoom)
        ratio = (model_shape[0] / prepared.shape[0], model_shape[1] / prepared.shape[1])
        low = [int(region[a] * ratio[a] / patch) for a in (0, 1)]
        high = [-int(-region[a + 2] * ratio[a] // patch) for a in (0, 1)]
        last = [-(-model_shape[a] // patch) for a in (0, 1)]
        high = [min(max(h, lo + 1), n) for h, lo, n in zip(high, low, last, strict=True)]
        self._rows, self._columns = (low[0], high[0]), (low[1], high[1])
        step = (patch / ratio[0], patch / ratio[1])
        self.patches = PatchGrid(
            shape=(region[2] - region[0], region[3] - region[1]),
            grid=(high[0] - low[0], high[1] - low[1]),
            step=step,
            first=((low[0] + 0.5) * step[0] - 0.5, (low[1] + 0.5) * step[1] - 0.5),
            origin=(region[0], region[1]),
        )
        self._grid: TileGrid = runner.grid(model_shape)
        model_region = (
            low[0] * patch,
            low[1] * patch,
            min(high[0] * patch, model_shape[0]),
            min(high[1] * patch, model_shape[1]),
        )
        self._tiles: tuple[Tile, ...] = self._grid.covering(model_region)
        self._bounds = self._grid.bounds(self._tiles)
        #: Tiles of a plane.
        self.steps = len(self._tiles)

    def at(self, zoom: float) -> ImageRun:
        """The same image at another zoom."""
        return ImageRun(
            self.runner,
            self.prepared,
            self.layers,
            zoom,
            self._region,
            self.notes,
            heads=tuple(self.heads),
        )

    @property
    def map_count(self) -> int:
        """How many maps of heads come with the tokens."""
        return sum(self.heads.values())

    def map_positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Where rows and columns of the image's pixels lie in the maps of heads."""
        model_shape = scaled_shape(self.prepared.shape, self.zoom)
        found = []
        for size, scaled in zip(self.prepared.shape, model_shape, strict=True):
            found.append((np.arange(size) + 0.5) * (scaled / size / 2) - 0.5)
        return found[0], found[1]

    def pixels(self, index: Index) -> np.ndarray:
        """Model pixels ``(3, y, x)`` of all that the tiles look at."""
        return self.prepared.pixels(index, self.zoom, self._bounds)

    def guide(self, index: Index, pixels: np.ndarray) -> np.ndarray:
        """The grey image ``(Y, X)`` uint8 of the region at its own scale."""
        if scaled_shape(self.prepared.shape, self.zoom) == self.prepared.shape:
            y0, x0, y1, x1 = self._region
            top, left = self._bounds[:2]
            native = pixels[:, y0 - top : y1 - top, x0 - left : x1 - left]
        else:
            native = self.prepared.pixels(index, 1.0, self._region)
        grey: np.ndarray = np.rint(native.mean(0).clip(0, 1) * 255).astype(np.uint8)
        return grey

    def key(self, pixels: np.ndarray) -> str:
        """What the tokens depend on: the pixels as the model sees them, the model, the layers."""
        model = self.runner.model
        facts = (
            model.digest or model.card.backbone_hash or id(model.backbone.vit),
            self.layers,
            self._bounds,
            self._grid,
            self.patches,
            str(self.runner.dtype),
            tuple(self.heads.items()),
        )
        digest = hashlib.blake2b(repr(facts).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(pixels).data)
        return digest.hexdigest()

    def encode(
        self, pixels: np.ndarray, number: int, total: int, begun: float
    ) -> Generator[Progress | EncodedPlane, None, None]:
        """Progress after every batch of tiles, then the plane.

        Its guide is empty, or holds the maps of `heads` in [0, 255] at half the model's resolution,
        one below the other, ``(map_count · y, x)``.
        """
        height, width = self._grid.tile_shape
        tiles = self._tiles
        covered = (
            *self._bounds[:2],
            max(t.y0 for t in tiles) + height,
            max(t.x0 for t in tiles) + width,
        )
        patch = self.runner.model.backbone.patch
        joiner = TokenJoiner(covered, patch, last_only=False)
        half = _halved(self._grid)
        maps = Stitcher(self.map_count, half.shape, half) if self.heads else None
        done = 0
        try:
            for batch in self.runner.tiles(pixels, self._grid, tiles, origin=self._bounds[:2]):
                joiner.add(self._chosen(batch))
                if maps is not None:
                    decoded = self.runner.decode(batch, list(self.heads))
                    stack = np.concatenate([decoded[n][:, :c] for n, c in self.heads.items()], 1)
                    for tile, each in zip(batch.tiles, stack, strict=True):
                        small = each.reshape(len(each), each.shape[1] // 2, 2, -1, 2).mean((2, 4))
                        maps.add(Tile(tile.y0 // 2, tile.x0 // 2), small)
                done += len(batch.tiles)
                share = (number + done / len(tiles)) / total
                left = (time.perf_counter() - begun) / share * (1 - share)
                count = number * len(tiles) + done
                yield Progress("encode", count, total * len(tiles), left)
        except TileTooLarge as error:
            height, width = self._grid.tile_shape
            raise DeviceError(
                f"there is not enough memory for a tile of {height} x {width} px",
                hint="Close other programs, choose a smaller model, or compute on the CPU.",
            ) from error
        joined = joiner.result()
        rows = slice(*(r - joined.origin[0] for r in self._rows))
        columns = slice(*(c - joined.origin[1] for c in self._columns))
        tokens = joined.patch_tokens[:, rows, columns]
        flat = np.ascontiguousarray(tokens.reshape(len(tokens), -1).T)
        if not np.isfinite(flat).all():
            raise InputError(
                f"the tokens of {self.prepared.image.name!r} are not all numbers",
                expected="finite values",
                hint="The model's weights may be damaged, or overflow in this precision.",
            )
        guide = np.zeros((0, 0), np.uint8)
        if maps is not None:
            guide = np.rint(maps.result() * 255).clip(0, 255).astype(np.uint8)
            guide = guide.reshape(-1, guide.shape[2])
        yield EncodedPlane(flat, joined.cls_token, guide)

    def _chosen(self, batch: EncodedTiles) -> EncodedTiles:
        """The tiles with the tokens of the wanted layers alone."""
        seen = self.runner.model.backbone.layers
        if tuple(seen) == self.layers:
            return batch
        features = batch.features
        dim = features.embed_dim
        apart = features.patch_tokens.unflatten(1, (len(seen), dim))
        wanted = apart[:, [seen.index(layer) for layer in self.layers]].flatten(1, 2)
        return replace(batch, features=FeatureMap(wanted, features.cls_token, dim))


def _halved(grid: TileGrid) -> TileGrid:
    """A grid at half its scale; tiles begin and end at even pixels."""

    def half(pair: tuple[int, int]) -> tuple[int, int]:
        return -(-pair[0] // 2), -(-pair[1] // 2)

    tiles = tuple(Tile(*half((t.y0, t.x0))) for t in grid.tiles)
    return TileGrid(half(grid.shape), half(grid.tile_shape), half(grid.padded_shape), tiles)
