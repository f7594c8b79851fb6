"""Scores of a model on held-out training images, while it trains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dinoscope.arrays.decode import decode_instances
from dinoscope.arrays.metrics import (
    average_precision,
    classification_scores,
    confusion_matrix,
    depth_scores,
    semantic_scores,
)
from dinoscope.arrays.resample import resample, scaled_shape
from dinoscope.engine.batches import CropPlan
from dinoscope.engine.dataset import TrainingImage
from dinoscope.engine.dense import Runner
from dinoscope.engine.tokens import TokenJoiner, pooled_vector
from dinoscope.models.model import Model
from dinoscope.tasks.base import task

#: Larger validation planes are scored on their middle, so that looking never takes longer than
#: learning.
WINDOW_PX = 512
#: What each task's scores are summed up by; all of them: larger is better.
MAIN_SCORE = {
    "instance": "ap50",
    "semantic": "iou",
    "depth": "depth_gain",
    "classification": "f1_macro",
}


class Validator:
    """Scores averaged over images and tasks; call it with a model.

    Parameters
    ----------
    images : Sequence[TrainingImage]
        Held-out images; at most `at_most`, evenly spaced, are looked at.
    plan : CropPlan
        The scale that training uses.
    """

    def __init__(
        self,
        images: Sequence[TrainingImage],
        plan: CropPlan,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        at_most: int = 24,
    ) -> None:
        step = max(1, len(images) / at_most)
        self.images = [images[int(i * step)] for i in range(min(len(images), at_most))]
        self.plan = plan
        self.device = device
        self.dtype = dtype

    def __call__(self, model: Model) -> dict[str, float]:
        """``ap50``, ``iou``, ``rmse``, ``depth_gain``, ``f1_macro`` … of the tasks there are, and
        ``score``."""
        runner = Runner(model, self.device, self.dtype)
        precisions: list[float] = []
        confusion: np.ndarray | None = None
        depth: list[dict[str, float]] = []
        said: list[str] = []
        true: list[str] = []
        for image in self.images:
            maps, vector = self._run(runner, image)
            if "instance" in maps:
                ids = np.rint(maps["instance"][:3] * 255).clip(0, 255).astype(np.uint8)
                truth = _window(np.asarray(image.targets["instance"]))
                precisions.append(float(average_precision(truth, decode_instances(ids), (0.5,))[0]))
            if "semantic" in maps:
                truth = _window(np.asarray(image.targets["semantic"]))
                counted = confusion_matrix(truth, maps["semantic"].argmax(0), len(maps["semantic"]))
                confusion = counted if confusion is None else confusion + counted
            if "depth" in maps:
                truth = _window(np.asarray(image.targets["depth"]))
                if np.isfinite(truth).any():
                    depth.append(depth_scores(truth, maps["depth"][0]))
            if vector is not None:
                logits = model.decode_pooled(torch.from_numpy(vector).to(self.device))
                said.append(str(int(logits.argmax(1)[0])))
                true.append(str(int(image.targets["classification"])))
        scores: dict[str, float] = {}
        if precisions:
            scores["ap50"] = float(np.mean(precisions))
        if confusion is not None:
            scores["iou"] = semantic_scores(confusion)["iou"]
        if depth:
            scores["rmse"] = float(np.mean([d["rmse"] for d in depth]))
            scores["depth_gain"] = 1 - float(
                np.mean([min(d["rmse_over_mean"], 2.0) for d in depth])
            )
        if true:
            measured = classification_scores(true, said)
            scores |= {"f1_macro": measured["f1_macro"], "accuracy": measured["accuracy"]}
        main = [scores[s] for s in MAIN_SCORE.values() if s in scores]
        scores["score"] = float(np.mean(main)) if main else 0.0
        return scores

    def _run(
        self, runner: Runner, image: TrainingImage
    ) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """Maps in the image's pixels, and the pooled vector where there is a class."""
        tasks = [t for t in image.targets if task(t).dense and t in runner.model.heads]
        pixels = _window(image.pixels).astype(np.float32)
        shape = (pixels.shape[1], pixels.shape[2])
        scaled = resample(pixels, scaled_shape(shape, self.plan.zoom_of(image)))
        maps = (
            {n: resample(m, shape) for n, m in runner.dense_maps(scaled, tasks).items()}
            if tasks
            else {}
        )
        if "classification" not in image.targets or "classification" not in runner.model.heads:
            return maps, None
        return maps, pooled_plane(runner, scaled)


@torch.inference_mode()
def pooled_plane(runner: Runner, pixels: np.ndarray) -> np.ndarray:
    """``(1, D + cls)`` vector of a plane ``(3, Y, X)`` of model pixels."""
    grid = runner.grid((pixels.shape[1], pixels.shape[2]))
    joiner = TokenJoiner((0, 0, *grid.padded_shape), runner.model.backbone.patch, last_only=False)
    for batch in runner.tiles(pixels, grid):
        joiner.add(runner.pooled_features(batch))
    return pooled_vector(joiner.result())


def _window(array: np.ndarray) -> np.ndarray:
    """The middle of the last two axes, at most `WINDOW_PX` wide."""
    y0 = max(0, (array.shape[-2] - WINDOW_PX) // 2)
    x0 = max(0, (array.shape[-1] - WINDOW_PX) // 2)
    return array[..., y0 : y0 + WINDOW_PX, x0 : x0 + WINDOW_PX]
