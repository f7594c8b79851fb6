"""Predict: from an image and a model to labels, depth, colours and classes, plane by plane.

One generator serves Python, the command line and the worker. The backbone runs once for all tasks;
maps are joined over tiles before anything is decoded, so objects do not know where tiles met.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from dinoscope.arrays.axes import (
    Region,
    clip_region,
    plane_indices,
    read_plane,
    sample_indices,
)
from dinoscope.arrays.calibrate import Calibration
from dinoscope.arrays.decode import decode_instances, quantize
from dinoscope.arrays.objects import object_table
from dinoscope.arrays.resample import needed_window, resample, scaled_shape
from dinoscope.arrays.tiling import Stitcher
from dinoscope.config import PredictOptions
from dinoscope.engine.ahead import PixelsAhead, Wanted, parts_of
from dinoscope.engine.classes import class_table, join_classes, plane_name
from dinoscope.engine.dense import Runner
from dinoscope.engine.lent import lender_of, predict_lent
from dinoscope.engine.limits import TileTooLarge
from dinoscope.engine.opening import open_runner, prepare
from dinoscope.engine.pca import FIT_TOKENS, Projection, fit_projection, sample_bilinear
from dinoscope.engine.scale import Prepared, scale_text, zoom_for
from dinoscope.engine.tokens import TokenJoiner, TokenPlane, pooled_objects, pooled_vector
from dinoscope.engine.wholeview import split_tasks, whole_view_maps
from dinoscope.errors import InputError
from dinoscope.models.model import Model
from dinoscope.tasks.base import task
from dinoscope.types import ImageInput, PlaneOutput, Progress, Summary, Table

Index = tuple[int, ...]


def predict(
    image: ImageInput,
    model: Model,
    options: PredictOptions | None = None,
    calibration: Calibration | None = None,
) -> Generator[Progress | PlaneOutput, None, Summary]:
    """Run `model` over `image`.

    Parameters
    ----------
    image : ImageInput
        Any axes; read lazily, one plane at a time.
    model : Model
        Needs a head for every task asked for; ``pca`` needs none.
    options : PredictOptions, optional
        Tasks, channels, scale, scope, post-processing.
    calibration : Calibration, optional
        Dark and flat image, applied before normalisation.

    Yields
    ------
    Progress or PlaneOutput
        Progress after every tile; each plane's results as soon as they are ready. Closing the
        generator between two of them cancels the run.

    Returns
    -------
    Summary

    Raises
    ------
    MissingHeadError
        The model has no head for a task.
    InputError
        The image or an option cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> from dinoscope.types import ImageInput
    >>> image = ImageInput(np.zeros((32, 32), np.uint8), "YX")
    >>> events = list(predict(image, Model.fresh("tiny-test"), PredictOptions(("pca",))))
    >>> events[-1].arrays["pca"].shape
    (32, 32, 3)
    """
    options = options or PredictOptions()
    lender = lender_of(model, options)
    if lender is not None:
        return (yield from predict_lent(predict, image, model, lender, options, calibration))
    model.require_heads(t for t in options.tasks if t != "pca")
    begun = time.perf_counter()
    runner, notes = open_runner(model, options)
    yield Progress("prepare", 0, 1, message="reading the image")
    prepared = prepare(image, model, options, calibration)
    zoom, diameter = zoom_for(prepared, runner)
    yield Progress("prepare", 1, 1, message=scale_text(diameter, zoom))
    run = _Run(runner, prepared, options, zoom, begun)
    indices = [tuple(options.plane)] if options.plane is not None else list(plane_indices(image))
    try:
        if "pca" in options.tasks:
            yield from run.fit_colours(indices)
        for number in range(len(indices)):
            output = yield from run.plane(indices, number)
            yield output
    finally:
        run.close()
    if runner.engine is not None:
        notes += [note for note in runner.engine.notes if note not in notes]
    seconds = runner.seconds
    total = time.perf_counter() - begun
    card = model.card
    return Summary(
        model=card.name,
        model_hash=model.digest or card.backbone_hash,
        device=runner.device,
        tasks=options.tasks,
        planes=len(indices),
        diameter_px=diameter,
        seconds={
            "encode": seconds.encode,
            "decode": seconds.decode,
            "assemble": seconds.assemble,
            "other": max(0.0, total - seconds.encode - seconds.decode - seconds.assemble),
            "total": total,
        },
        notes=tuple(notes),
        class_names={t: s.classes for t, s in card.heads.items() if s.classes},
        depth_unit=card.heads["depth"].unit if "depth" in card.heads else "relative",
    )


@dataclass
class _Run:
    """State of one prediction: what planes share, and the running number of objects."""

    runner: Runner
    prepared: Prepared
    options: PredictOptions
    zoom: float
    begun: float
    colours: Projection | None = None
    objects: int = 0
    tiles_done: int = 0
    _region: Region = field(init=False)
    _ahead: PixelsAhead = field(init=False)

    def __post_init__(self) -> None:
        image = self.prepared.image
        self._ahead = PixelsAhead(self.prepared, self.zoom)
        whole = (0, 0, *self.prepared.shape)
        self._region = clip_region(image, self.options.region) if self.options.region else whole
        if self.options.plane is not None and len(self.options.plane) != len(image.plane_axes):
            raise InputError(
                f"plane is {self.options.plane!r} but {image.name!r} has plane axes "
                f"{image.plane_axes!r}",
                expected=f"{len(image.plane_axes)} numbers",
            )

    # -- geometry -------------------------------------------------------------------------------

    @property
    def _wants_tokens(self) -> bool:
        return bool({"pca", "classification"} & set(self.options.tasks))

    @property
    def _model_shape(self) -> tuple[int, int]:
        return scaled_shape(self.prepared.shape, self.zoom)

    @property
    def _model_region(self) -> Region:
        """The wanted region in model pixels, with what resampling back needs."""
        if self._region == (0, 0, *self.prepared.shape):
            return (0, 0, *self._model_shape)
        return needed_window(self._model_shape, self.prepared.shape, self._region)

    # -- colours --------------------------------------------------------------------------------

    def fit_colours(self, indices: Sequence[Index]) -> Generator[Progress, None, None]:
        """Fit the projection on tokens of at most 16 evenly spaced planes; one plane waits for its
        own."""
        if len(indices) == 1:
            return
        chosen = [i for i in sample_indices(self.prepared.image) if i in set(indices)]
        samples = []
        for number in range(len(chosen)):
            _, tokens = yield from self._through_model(chosen, number, (), "colours")
            last = tokens.patch_tokens[-self.runner.model.backbone.embed_dim :]
            flat = last.reshape(len(last), -1).T
            samples.append(flat[:: max(1, len(flat) * len(chosen) // FIT_TOKENS)])
        self.colours = fit_projection(np.concatenate(samples))

    # -- planes ---------------------------------------------------------------------------------

    def close(self) -> None:
        """End the thread that reads ahead."""
        self._ahead.close()

    def plane(
        self, indices: Sequence[Index], number: int
    ) -> Generator[Progress, None, PlaneOutput]:
        """Everything of one of the planes."""
        index = indices[number]
        near, whole = split_tasks(self.runner.model.card, self.options.tasks)
        maps: dict[str, np.ndarray] = {}
        tokens = TokenPlane.empty()
        if near or self._wants_tokens:
            maps, tokens = yield from self._through_model(indices, number, near, "predict")
        native = whole_view_maps(self.prepared, self.runner, index, whole, self._region)
        if not (near or self._wants_tokens):
            yield self._progress("predict", number + 1, len(indices))
        begun = time.perf_counter()
        arrays: dict[str, np.ndarray] = {}
        kept: dict[str, np.ndarray] = {}
        objects: Table | None = None
        classes: Table | None = None
        native |= {t: self._to_native(m) for t, m in maps.items()}
        if "semantic" in native:
            arrays["semantic"] = native["semantic"].argmax(0).astype(np.uint8)
        if "depth" in native:
            arrays["depth"] = native["depth"][0]
        if "pca" in self.options.tasks:
            arrays["pca"] = self._coloured(tokens)
        ids: np.ndarray | None = None
        if "instance" in native:
            quantized = quantize(native["instance"][:3])
            # The largest arrays there are: their memory is wanted for what comes.
            del native["instance"], maps["instance"]
            if self.options.keep_maps:
                kept["instance"] = quantized
            ids = decode_instances(quantized, self.options.instance)
            objects = measure(self.prepared.image, ids, index, self._region, quantized[0])
        if "classification" in self.options.tasks:
            classes = self._classify(index, tokens, ids)
            if ids is not None and objects is not None:
                join_classes(objects, classes)
        if ids is not None and objects is not None:
            arrays["instance"] = np.where(ids > 0, ids + np.uint32(self.objects), 0).astype(
                np.uint32
            )
            objects["label"] = objects["label"] + self.objects
            if classes is not None:
                classes["object"] = classes["object"] + self.objects
            self.objects += int(ids.max(initial=0))
        self.runner.seconds.assemble += time.perf_counter() - begun
        return PlaneOutput(index, arrays, kept, objects, classes)

    def _through_model(
        self, indices: Sequence[Index], number: int, dense: tuple[str, ...], step: str
    ) -> Generator[Progress, None, tuple[dict[str, np.ndarray], TokenPlane]]:
        """Tiles of one plane through backbone and dense heads; smaller ones where memory ends."""
        if self.runner.engine is not None:
            self.runner.engine.refresh()
        while True:
            try:
                return (yield from self._tiles_through_model(indices, number, dense, step))
            except TileTooLarge:
                self.runner.shrink()

    def _tiles_through_model(
        self, indices: Sequence[Index], number: int, dense: tuple[str, ...], step: str
    ) -> Generator[Progress, None, tuple[dict[str, np.ndarray], TokenPlane]]:
        runner = self.runner
        region = self._model_region
        grid = runner.grid(self._model_shape)
        tiles = grid.covering(region)
        bounds = grid.bounds(tiles)
        shape = (region[2] - region[0], region[3] - region[1])
        stitchers: dict[str, Stitcher] = {}
        patch = runner.model.backbone.patch
        height, width = grid.tile_shape
        covered = (
            bounds[0],
            bounds[1],
            max(t.y0 for t in tiles) + height,
            max(t.x0 for t in tiles) + width,
        )
        joiner = TokenJoiner(covered, patch, last_only="classification" not in self.options.tasks)
        done = 0
        parts = parts_of(grid, tiles, whole=self.prepared.filtered)
        queue: list[Wanted] = [(indices[number], grid.bounds(part)) for part in parts]
        if number + 1 < len(indices):
            queue.append((indices[number + 1], grid.bounds(parts[0])))
        for turn, part in enumerate(parts):
            then = queue[turn + 1] if turn + 1 < len(queue) else None
            pixels = self._ahead.take(queue[turn], then)
            for batch in runner.tiles(pixels, grid, part, origin=queue[turn][1][:2]):
                begun = time.perf_counter()
                for name, value in runner.decode(batch, dense).items():
                    if name not in stitchers:
                        stitchers[name] = Stitcher(value.shape[1], shape, grid, region=region)
                    for tile, tile_maps in zip(batch.tiles, value, strict=True):
                        stitchers[name].add(tile, tile_maps)
                if self._wants_tokens:
                    classed = "classification" in self.options.tasks
                    joiner.add(runner.pooled_features(batch) if classed else batch)
                runner.seconds.decode += time.perf_counter() - begun
                done += len(batch.tiles)
                yield self._progress(step, number * len(tiles) + done, len(indices) * len(tiles))
        tokens = joiner.result() if self._wants_tokens else TokenPlane.empty()
        return {name: s.result() for name, s in stitchers.items()}, tokens

    def _progress(self, step: str, done: int, total: int) -> Progress:
        elapsed = time.perf_counter() - self.begun
        return Progress(step, done, total, elapsed / done * (total - done) if done else None)

    def _to_native(self, maps: np.ndarray) -> np.ndarray:
        """Maps of the model region to the wanted region in image pixels."""
        region = self._model_region
        return resample(
            maps,
            self.prepared.shape,
            shape=self._model_shape,
            origin=(region[0], region[1]),
            window=self._region,
        )

    def _coloured(self, tokens: TokenPlane) -> np.ndarray:
        """(Y, X, 3) float32 in [0, 1]."""
        # The last block's: classifiers put more in front of them.
        last = tokens.patch_tokens[-self.runner.model.backbone.embed_dim :]
        if self.colours is None:
            self.colours = fit_projection(last.reshape(len(last), -1).T)
        colours = self.colours(last)
        rows, columns = self._patch_positions(tokens)
        return np.ascontiguousarray(sample_bilinear(colours, rows, columns).transpose(1, 2, 0))

    def _patch_positions(self, tokens: TokenPlane) -> tuple[np.ndarray, np.ndarray]:
        """Where each wanted image row and column lies on the patch grid, in patches."""
        patch = self.runner.model.backbone.patch
        y0, x0, y1, x1 = self._region
        full, scaled = self.prepared.shape, self._model_shape
        rows = (np.arange(y0, y1) + 0.5) * scaled[0] / full[0] / patch - 0.5 - tokens.origin[0]
        columns = (np.arange(x0, x1) + 0.5) * scaled[1] / full[1] / patch - 0.5 - tokens.origin[1]
        return rows, columns

    def _classify(self, index: Index, tokens: TokenPlane, ids: np.ndarray | None) -> Table:
        """Class probabilities of the image, or of every object where there are objects."""
        image = self.prepared.image
        model = self.runner.model
        names = model.card.heads["classification"].classes
        if ids is None:
            vectors = pooled_vector(tokens)
        else:
            rows, columns = self._patch_positions(tokens)
            vectors = pooled_objects(
                tokens, ids, np.rint(rows).astype(int), np.rint(columns).astype(int)
            )
        with torch.inference_mode():
            logits = model.decode_pooled(torch.from_numpy(vectors).to(self.runner.device))
            probabilities = task("classification").activate(logits).cpu().numpy()
        table = class_table(names, probabilities, image=image.name, plane=plane_name(image, index))
        table["object"] = (
            np.arange(1, len(probabilities) + 1) if ids is not None else table["object"]
        )
        return table


def measure(
    image: ImageInput, ids: np.ndarray, index: Index, region: Region, foreground: np.ndarray
) -> Table:
    """The objects table of one plane; centroids count from the image's origin."""
    pixels = read_plane(image, index, region=region)
    return object_table(
        ids,
        pixels,
        image.pixel_size_um,
        index,
        image.plane_axes,
        origin=region[:2],
        foreground=foreground,
    )


def run_prediction(
    image: ImageInput,
    model: Model,
    options: PredictOptions | None = None,
    calibration: Calibration | None = None,
) -> tuple[dict[str, np.ndarray], Table | None, Table | None, Summary]:
    """Run `predict` to its end and stack the planes.

    Returns
    -------
    tuple
        Arrays by task, shaped ``plane_shape + (Y, X)`` (and 3 for ``pca``); the objects table; the
        class table; the summary.
    """
    options = options or PredictOptions()
    planes: list[PlaneOutput] = []
    events = predict(image, model, options, calibration)
    while True:
        try:
            event = next(events)
        except StopIteration as stop:
            summary: Summary = stop.value
            break
        if isinstance(event, PlaneOutput):
            planes.append(event)
    shape = () if options.plane is not None else image.plane_shape
    arrays = {
        name: np.stack([p.arrays[name] for p in planes]).reshape(
            *shape, *planes[0].arrays[name].shape
        )
        for name in planes[0].arrays
    }
    return (
        arrays,
        _stacked([p.objects for p in planes]),
        _stacked([p.classes for p in planes]),
        summary,
    )


def _stacked(tables: Sequence[Table | None]) -> Table | None:
    present = [t for t in tables if t is not None]
    if not present:
        return None
    return {name: np.concatenate([t[name] for t in present]) for name in present[0]}
