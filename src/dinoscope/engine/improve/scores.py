"""How good a model is on held-out annotations, which leave most of their planes unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from dinoscope.arrays.decode import decode_instances
from dinoscope.arrays.metrics import (
    average_precision,
    classification_scores,
    confusion_matrix,
    depth_scores,
)
from dinoscope.arrays.resample import resample, scaled_shape
from dinoscope.engine.batches import CropPlan
from dinoscope.engine.dataset import TrainingImage
from dinoscope.engine.dense import Runner
from dinoscope.engine.improve.material import around
from dinoscope.engine.validate import MAIN_SCORE, pooled_plane
from dinoscope.models.model import Model
from dinoscope.tasks.base import IGNORE, task

#: Pixels around what is judged that the network sees.
CONTEXT_PX = 56
#: A predicted object of which more than this share lies on unknown pixels is not judged.
UNKNOWN_SHARE = 0.5
#: A probability counts as no smaller, so that one pixel does not decide.
LEAST = 0.01

Predict = Callable[[TrainingImage], np.ndarray]


class HeldScores:
    """Scores of a model on `images`; call it with the model.

    ``iou`` is the mean over classes of strokes that are held out, ``iou_<class>`` each one's;
    ``log_loss`` is the mean of -log(probability of the true class) there, in nats.

    Parameters
    ----------
    images : sequence of TrainingImage
        Truths with unknown pixels.
    plan : CropPlan
        The scale that training uses.
    classes : sequence of str
        Names of the semantic classes.
    weights : sequence of float, optional
        How much a painted pixel of each class counts, see `Told`; may be set later.
    """

    def __init__(
        self,
        images: Sequence[TrainingImage],
        plan: CropPlan,
        classes: Sequence[str],
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.weights = weights
        self.images = [judged_window(i) for i in images]
        self.plan = plan
        self.classes = tuple(classes)
        self.device = device
        self.dtype = dtype

    def __call__(self, model: Model) -> dict[str, float]:
        """``iou``, ``ap50``, ``depth_gain``, ``f1_macro`` …, and ``score``, their mean."""
        runner = Runner(model, self.device, self.dtype)
        told = Told(self.classes, self.weights)
        with torch.no_grad():
            for image in self.images:
                self._look(runner, image, told)
        return told.scores()

    def _look(self, runner: Runner, image: TrainingImage, told: Told) -> None:
        model = runner.model
        pixels = image.pixels.astype(np.float32)
        shape = (pixels.shape[1], pixels.shape[2])
        scaled = resample(pixels, scaled_shape(shape, self.plan.zoom_of(image)))
        dense = [t for t in image.targets if task(t).dense and t in model.heads]
        if dense:
            maps = {n: resample(m, shape) for n, m in runner.dense_maps(scaled, dense).items()}
            for name in dense:
                told.add(name, np.asarray(image.targets[name]), maps[name])
        if "classification" in image.targets and "classification" in model.heads:
            vector = torch.from_numpy(pooled_plane(runner, scaled)).to(self.device)
            said = int(model.decode_pooled(vector).argmax(1)[0])
            told.add_class(int(image.targets["classification"]), said)


class Told:
    """What was predicted where the truth is known, over many images.

    Strokes are of like length for classes of unlike area; with `weights`, how much a painted pixel
    of each class counts, the figures are those of the areas.
    """

    def __init__(self, classes: Sequence[str], weights: Sequence[float] | None = None) -> None:
        self.classes = tuple(classes)
        self.weights = np.ones(len(self.classes)) if weights is None else np.asarray(weights)
        self.confusion = np.zeros((len(self.classes), len(self.classes) + 1), np.int64)
        self.precisions: list[float] = []
        self.depth: list[Mapping[str, float]] = []
        self.pairs: list[tuple[str, str]] = []
        self._surprise = self._weighed = 0.0

    def add(self, name: str, truth: np.ndarray, maps: np.ndarray) -> None:
        """Maps ``(K, Y, X)`` of a dense task against its truth."""
        if name == "semantic":
            self.add_classes(truth, maps)
        elif name == "instance":
            ids = np.rint(maps[:3] * 255).clip(0, 255).astype(np.uint8)
            precision = partial_precision(truth, decode_instances(ids))
            self.precisions += [] if precision is None else [precision]
        elif bool(np.isfinite(truth).any()):
            self.depth.append(depth_scores(truth, maps[0]))

    def add_classes(self, truth: np.ndarray, maps: np.ndarray) -> None:
        """Probabilities ``(K, Y, X)`` of classes against strokes."""
        size = len(self.classes)
        labels = maps.argmax(0).clip(0, size - 1).astype(np.uint8)
        self.confusion += confusion_matrix(truth, labels, size)
        known = truth < size
        true = truth[known]
        said = np.take_along_axis(maps[:, known], true[None].astype(np.intp), 0)[0]
        weights = self.weights[true]
        self._surprise -= float(weights @ np.log(np.maximum(said, LEAST)))
        self._weighed += float(weights.sum())

    def add_class(self, truth: int, said: int) -> None:
        """The class of one image or object."""
        self.pairs.append((str(truth), str(said)))

    def scores(self) -> dict[str, float]:
        """All scores; only of tasks that were looked at."""
        scores: dict[str, float] = {}
        if self.confusion.any():
            counted = self.confusion * self.weights[:, None]
            square = counted[:, :-1]
            union = square.sum(0) + counted.sum(1) - np.diag(square)
            # Classes without a held-out stroke: what is called them counts against the others.
            known = np.flatnonzero(self.confusion.sum(1) > 0)
            each = {int(c): float(counted[c, c] / union[c]) for c in known}
            scores["iou"] = float(np.mean(list(each.values())))
            scores |= {f"iou_{self.classes[c]}": v for c, v in each.items()}
            scores["log_loss"] = self._surprise / self._weighed
            scores["pixel_accuracy"] = float(np.trace(square) / counted.sum())
        if self.precisions:
            scores["ap50"] = float(np.mean(self.precisions))
        if self.depth:
            scores["rmse"] = float(np.mean([d["rmse"] for d in self.depth]))
            scores["depth_gain"] = 1 - float(
                np.mean([min(d["rmse_over_mean"], 2.0) for d in self.depth])
            )
        if self.pairs:
            true, said = zip(*self.pairs, strict=True)
            measured = classification_scores(list(true), list(said))
            scores |= {"f1_macro": measured["f1_macro"], "accuracy": measured["accuracy"]}
        return scores | {"score": main_score(scores)}


def main_score(scores: Mapping[str, float]) -> float:
    """Mean of the tasks' main scores, 0 without any; larger is better."""
    main = [scores[name] for name in MAIN_SCORE.values() if name in scores]
    return float(np.mean(main)) if main else 0.0


def partial_precision(truth: np.ndarray, predicted: np.ndarray) -> float | None:
    """Average precision at an IoU of 0.5 where the truth is known.

    Parameters
    ----------
    truth : (Y, X) int32
        Ids, 0 = background, negative = unknown.
    predicted : (Y, X) integer array
        Predicted ids; objects that lie mostly on unknown pixels are left out.

    Returns
    -------
    float or None
        ``None`` where no object is known.
    """
    if not (truth > 0).any():
        return None
    predicted = predicted.astype(np.int64)
    sizes = np.bincount(predicted.ravel())
    unknown = np.bincount(predicted[truth < 0], minlength=len(sizes))
    left_out = unknown > UNKNOWN_SHARE * np.maximum(sizes, 1)
    kept = np.where(left_out[predicted] | (truth < 0), 0, predicted)
    return float(average_precision(np.maximum(truth, 0), kept, (0.5,))[0])


def judged_window(image: TrainingImage) -> TrainingImage:
    """The part of an image that its truths are known in, with some context."""
    dense = {t: v for t, v in image.targets.items() if isinstance(v, np.ndarray)}
    if not dense or len(dense) < len(image.targets):
        return image
    known = np.zeros((image.pixels.shape[1], image.pixels.shape[2]), bool)
    for name, truth in dense.items():
        if name == "semantic":
            known |= truth != IGNORE
        elif name == "instance":
            known |= truth >= 0
        else:
            known |= np.isfinite(truth)
    window = around(known, CONTEXT_PX)
    return TrainingImage(
        image.name,
        image.group,
        image.pixels[(slice(None), *window)],
        {t: v[window] for t, v in dense.items()},
        image.diameter_px,
    )
