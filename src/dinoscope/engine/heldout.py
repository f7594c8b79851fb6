"""Scores of a finished model on images that took no part in training or choosing it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dinoscope.arrays.normalize import Normalization
from dinoscope.engine.batches import CropPlan
from dinoscope.engine.dataset import TaskSource, TrainingImage
from dinoscope.engine.loading import load_sources
from dinoscope.engine.validate import Validator
from dinoscope.models.checkpoint import load_model
from dinoscope.models.device import pick_device
from dinoscope.models.model import Model
from dinoscope.models.precision import check_bf16


def score_model(
    model: Model,
    sources: Sequence[TaskSource],
    *,
    plan: CropPlan | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> dict[str, float]:
    """The scores of `Validator` over all images of `sources`, which are read here.

    `plan` is the scale that the model was trained at; without it, the one that its card tells.
    """
    normalization = Normalization.from_json(model.card.normalization)
    head = model.card.heads.get("classification")
    classes = {"classification": head.classes if head else ()}
    images = [i for s in load_sources(sources, normalization, classes) for i in s.images]
    validator = Validator(
        images, plan or _plan(model, images), device=device, dtype=dtype, at_most=len(images)
    )
    model.eval()
    with torch.no_grad():
        return validator(model)


def score_file(
    path: str | Path, sources: Sequence[TaskSource], *, device: str = "auto"
) -> dict[str, float]:
    """The same for a model file."""
    where = pick_device(device)
    model = load_model(path, device=where)
    dtype, _ = check_bf16(model.backbone, where)
    return score_model(model, sources, device=where, dtype=dtype)


def _plan(model: Model, images: Sequence[TrainingImage]) -> CropPlan:
    card = model.card
    diameters = [i.diameter_px for i in images if i.diameter_px]
    zoom = card.zoom
    if card.diameter_px and diameters:  # for images without an object
        zoom = card.diameter_px / float(np.median(diameters))
    return CropPlan(card.tile[0], card.diameter_px, zoom)
