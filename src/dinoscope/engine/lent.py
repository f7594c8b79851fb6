"""A class for each object where one model finds objects and another one tells them apart.

A classifier on a packaged backbone has no dense heads of its own; the packaged model does. Objects
come from that, and each is shown to the classifier as it saw cells in training: in the middle of a
crop of the same size, normalised by itself. So the scores of the classifier hold for whole fields
as far as its crops are alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from dinoscope.arrays.axes import read_plane
from dinoscope.arrays.calibrate import Calibration
from dinoscope.arrays.normalize import limits, to_model_input
from dinoscope.arrays.resample import resample
from dinoscope.config import PredictOptions
from dinoscope.engine.classes import class_table, plane_name
from dinoscope.engine.dense import Runner
from dinoscope.engine.opening import open_runner, prepare
from dinoscope.engine.scale import Prepared
from dinoscope.models.catalog import lender_file
from dinoscope.models.checkpoint import load_model
from dinoscope.models.model import Model
from dinoscope.tasks.base import task
from dinoscope.types import ImageInput, PlaneOutput, Progress, Summary, Table

Predict = Callable[
    [ImageInput, Model, PredictOptions, Calibration | None],
    Generator[Progress | PlaneOutput, None, Summary],
]

#: Crops that go through together.
BATCH = 32
#: Objects of this much more or less than the training's typical size come from another
#: magnification, and are brought to that of the training; smaller differences may mean something.
SAME_MAGNIFICATION = 1.3


def lender_of(model: Model, options: PredictOptions) -> Model | None:
    """The packaged model that has what `model` lacks for these tasks; ``None`` where it lacks
    nothing, or nobody can help."""
    missing = [t for t in options.tasks if t != "pca" and t not in model.card.heads]
    path = lender_file(model.card) if missing else None
    if path is None:
        return None
    lender = _loaded(path)
    return lender if all(t in lender.card.heads for t in missing) else None


@lru_cache(maxsize=1)
def _loaded(path: Path) -> Model:
    return load_model(path, device="cpu")


def predict_lent(
    predict: Predict,
    image: ImageInput,
    model: Model,
    lender: Model,
    options: PredictOptions,
    calibration: Calibration | None,
) -> Generator[Progress | PlaneOutput, None, Summary]:
    """As :func:`dinoscope.engine.predict.predict`, which is given: maps by `lender`, classes by
    `model`, of each object where objects are wanted, else of each plane."""
    begun = time.perf_counter()
    tasks = tuple(t for t in options.tasks if t != "classification")
    events = predict(image, lender, replace(options, tasks=tasks), calibration)
    classifier: ObjectClassifier | None = None
    try:
        while True:
            event = next(events)
            if isinstance(event, PlaneOutput) and "classification" in options.tasks:
                if classifier is None:
                    prepared = prepare(image, model, options, calibration)
                    classifier = ObjectClassifier(prepared, open_runner(model, options)[0])
                if "instance" in tasks:
                    classes: Table | None = yield from classifier.classify(event)
                else:
                    alone = replace(options, tasks=("classification",), plane=event.index)
                    own = list(predict(image, model, alone, calibration))[-1]
                    classes = own.classes if isinstance(own, PlaneOutput) else None
                event = replace(event, classes=classes)
            yield event
    except StopIteration as stop:
        return _summary(stop.value, model, lender, options, classifier, begun)
    finally:
        events.close()


def _summary(
    summary: Summary,
    model: Model,
    lender: Model,
    options: PredictOptions,
    classifier: ObjectClassifier | None,
    begun: float,
) -> Summary:
    """The summary of a run of both, which `begun` at that time of the performance counter."""
    seconds = dict(summary.seconds)
    total = time.perf_counter() - begun
    seconds["other"] += total - seconds["total"]
    notes = [*summary.notes, f"Objects and maps are by {lender.card.name!r}."]
    if classifier is not None and classifier.note:
        notes.append(classifier.note)
    names = {t: s.classes for t, s in model.card.heads.items() if s.classes}
    return replace(
        summary,
        model=model.card.name,
        model_hash=model.digest or model.card.backbone_hash,
        tasks=options.tasks,
        seconds={**seconds, "total": total},
        notes=tuple(notes),
        class_names={**summary.class_names, **names},
    )


@dataclass
class ObjectClassifier:
    """Classifies objects one by one.

    Parameters
    ----------
    prepared : Prepared
        The image, and how the classifier wants it.
    runner : Runner
        The classifier.
    """

    prepared: Prepared
    runner: Runner
    size_px: float | None = None
    note: str = ""

    def classify(self, output: PlaneOutput) -> Generator[Progress, None, Table]:
        """The class table of a plane's objects; their class and its probability join their own.

        Raises
        ------
        InputError
            The image's channels are not those of the classifier.
        """
        objects = output.objects
        image = self.prepared.image
        card = self.runner.model.card
        plane = plane_name(image, output.index)
        names = card.heads["classification"].classes
        probabilities = np.zeros((0, len(names)), np.float32)
        labels = np.zeros(0, np.int64)
        if objects is not None and len(objects["label"]):
            labels = objects["label"]
            if self.size_px is None:
                self._measure(objects)
            pixels = read_plane(image, output.index, channels=self.prepared.options.channels)
            if self.prepared.calibration is not None:
                pixels = self.prepared.calibration.apply(pixels)
            places = np.stack([objects["centroid_y"], objects["centroid_x"]], 1)
            probabilities = yield from self._probabilities(pixels, places)
        table = class_table(names, probabilities, image=image.name, plane=plane)
        table["object"] = np.asarray(labels, int)
        if objects is not None:
            objects["class"], objects["probability"] = table["class"], table["probability"]
        return table

    def _measure(self, objects: Table) -> None:
        """Choose the crop's side in image pixels, once for the whole image."""
        card = self.runner.model.card
        self.size_px = card.tile[0] / card.zoom
        found = float(np.median(objects["diameter_px"]))
        if not card.object_px:
            return
        ratio = found / card.object_px
        if max(ratio, 1 / ratio) > SAME_MAGNIFICATION:
            self.size_px *= ratio
            self.note = (
                f"Objects are {found:.0f} px across here and were {card.object_px:.0f} px in the "
                f"classifier's training: they were classified at {1 / ratio:.2g} times their size."
            )

    def _probabilities(
        self, pixels: np.ndarray, places: np.ndarray
    ) -> Generator[Progress, None, np.ndarray]:
        found = []
        begun = time.perf_counter()
        for first in range(0, len(places), BATCH):
            crops = [self._crop(pixels, y, x) for y, x in places[first : first + BATCH]]
            with torch.inference_mode():
                logits = self.runner.class_logits(np.stack(crops))
                found.append(task("classification").activate(logits).cpu().numpy())
            done = min(first + BATCH, len(places))
            left = (time.perf_counter() - begun) / done * (len(places) - done)
            yield Progress("classes", done, len(places), left, f"{done} of {len(places)} objects")
        return np.concatenate(found)

    def _crop(self, pixels: np.ndarray, y: float, x: float) -> np.ndarray:
        """``(3, side, side)`` model pixels around a place; the plane is reflected at its edges."""
        side = max(2, round(self.size_px or 0))
        rows = _reflected(round(y - (side - 1) / 2), side, pixels.shape[1])
        columns = _reflected(round(x - (side - 1) / 2), side, pixels.shape[2])
        crop = pixels[:, rows[:, None], columns]
        # Samples of colour share their limits, channels have their own.
        axes = "SYX" if "S" in self.prepared.image.axes else "CYX"
        one = ImageInput(crop, axes)
        norm = self.prepared.normalization
        bounds = limits(one, norm, channels=range(len(crop)))
        weights = self.prepared.options.channel_weights
        own = to_model_input(crop, bounds, norm, weights=weights)
        side_model = self.runner.model.card.tile[0]
        return resample(own, (side_model, side_model))


def _reflected(first: int, count: int, length: int) -> np.ndarray:
    """Indices from `first` on into an axis of `length` that goes on mirrored at both ends."""
    before, after = max(0, -first), max(0, first + count - length)
    index = np.pad(np.arange(length), (before, after), mode="reflect")
    return index[first + before :][:count]
