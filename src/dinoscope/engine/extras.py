"""The additional losses that a training asks for."""

from __future__ import annotations

from collections.abc import Sequence

from dinoscope.arrays.normalize import Normalization
from dinoscope.engine.batches import CropPlan
from dinoscope.engine.consistency import Consistency
from dinoscope.engine.dataset import TaskSource
from dinoscope.engine.distill import Distillation
from dinoscope.engine.fit import ExtraLoss, FitOptions
from dinoscope.engine.unlabelled import Unlabelled, Views, load_unlabelled, without
from dinoscope.models.model import Model


def extra_losses(
    unlabelled: Unlabelled | None,
    model: Model,
    plan: CropPlan,
    tasks: Sequence[str],
    settings: FitOptions,
    seed: int,
    held: Sequence[TaskSource],
) -> tuple[list[ExtraLoss], str]:
    """What is learned from images without labels, and a note about it.

    Images that are also among `held` are left out.

    Raises
    ------
    InputError
        No image is left, or the method does not fit what is trained.
    """
    if unlabelled is None or unlabelled.options.method == "none":
        return [], ""
    images, dropped = without(unlabelled.images, held)
    normalization = Normalization.from_json(model.card.normalization)
    planes = load_unlabelled(images, normalization, unlabelled.axes)
    options = unlabelled.options
    views = Views(planes, plan, options.crops, seed)
    extra: ExtraLoss
    if options.method == "distill":
        extra = Distillation(
            views, model, options, device=settings.device, autocast=settings.autocast
        )
    else:
        extra = Consistency(
            views,
            tasks,
            options,
            device=settings.device,
            autocast=settings.autocast,
            frozen_backbone=settings.frozen_backbone,
        )
    left_out = f", without {dropped} that are held out" if dropped else ""
    return [extra], f"{options.method} on {len(planes)} planes without labels{left_out}."
