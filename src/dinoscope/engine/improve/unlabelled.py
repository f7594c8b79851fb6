"""Planes without annotations, and the unknown pixels of annotated ones, as a further loss."""

from __future__ import annotations

import numpy as np

from dinoscope.arrays.axes import read_plane, sample_indices
from dinoscope.arrays.normalize import Normalization, limits, to_model_input
from dinoscope.config import UnlabelledOptions, parse_tune
from dinoscope.engine.consistency import TASKS, Consistency
from dinoscope.engine.dataset import TrainingImage
from dinoscope.engine.fit import ExtraLoss
from dinoscope.engine.improve.holdout import Part
from dinoscope.engine.improve.prepare import Prepared
from dinoscope.engine.unlabelled import Views
from dinoscope.models.model import Model

#: Planes of a stack without annotations that are looked at, at most.
PLANES = 8


def consistency(model: Model, work: Prepared, part: Part) -> list[ExtraLoss]:
    """The loss, or nothing where no task of the round can use it.

    Held-out planes are left out; of held-out regions the pixels are seen, as always, without their
    annotations.
    """
    tasks = [t for t in work.specs if t in TASKS]
    if not tasks:
        return []
    held = {p.key for p in part.held} - {p.key for p in part.training}
    planes = [
        TrainingImage(p.image.name, p.image.group, p.image.pixels, {}, p.image.diameter_px)
        for p in part.training
    ]
    known = {p.key for p in part.training} | held
    normalization = Normalization.from_json(model.card.normalization)
    for source, image in work.images.items():
        bounds = limits(image, normalization)
        for index in sample_indices(image, PLANES):
            name = f"{source}@{'_'.join(map(str, index))}"
            if name not in known:
                pixels = to_model_input(read_plane(image, index), bounds, normalization)
                planes.append(TrainingImage(name, source, pixels.astype(np.float16), {}))
    setting = work.setting
    options = UnlabelledOptions("consistency", ramp_up=0.1)
    views = Views(planes, setting.plan, options.crops, setting.options.seed)
    return [
        Consistency(
            views,
            tasks,
            options,
            device=setting.device,
            autocast=setting.autocast,
            frozen_backbone=parse_tune(work.choice.tune)[0] == "heads",
        )
    ]
