"""One training of a round: heads first, then LoRA from there, on what is annotated."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dinoscope.config import ImproveOptions, TrainOptions, parse_tune
from dinoscope.engine.augment import Augmentation
from dinoscope.engine.batches import BatchSource, CropPlan
from dinoscope.engine.cached import token_pool
from dinoscope.engine.dataset import ImageSet, TrainingImage
from dinoscope.engine.fit import ExtraLoss, FitOptions, FitState, Validate, fit
from dinoscope.engine.heads import loss_settings, prepare_heads, set_trainable
from dinoscope.engine.improve.material import AnnotatedPlane, Material, training_images
from dinoscope.errors import InputError
from dinoscope.models.card import HeadSpec
from dinoscope.models.model import Model
from dinoscope.tasks.base import task
from dinoscope.types import Progress

#: Diameter in model pixels that objects are brought to where the base model names none.
DIAMETER_PX = 28.0
#: Images smaller than this side (in model pixels) are enlarged, at most four times.
LEAST_SIDE_PX = 154.0
#: Boxes of classified objects are brought to about this side.
BOX_PX = 112.0
#: How much of a batch the boxes of classified objects are, beside planes.
BOX_SHARE = 0.25
#: How much of a batch planes are whose truth is what the fast loop says.
GUIDE_SHARE = 0.5
#: Decay of the averaged weights that are kept.
AVERAGE = 0.995


@dataclass(frozen=True)
class Setting:
    """What all trainings of a round share.

    `clock` tells the seconds that count (a paused round has none).
    """

    plan: CropPlan
    options: ImproveOptions
    classes: tuple[str, ...]
    device: str
    autocast: torch.dtype | None
    clock: Callable[[], float]
    loss_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def with_loss(self, name: str, **settings: Any) -> Setting:
        """The same with more settings of a task's loss."""
        own = {**self.loss_settings.get(name, {}), **settings}
        return replace(self, loss_settings={**self.loss_settings, name: own})

    def train_options(self, tune: str) -> TrainOptions:
        """The same in the words of a training."""
        own = self.options
        return TrainOptions(
            tune=tune,
            lora_rank=own.rank,
            minutes=own.minutes,
            batch_size=own.batch_size,
            learning_rate=own.learning_rate,
            crop_px=own.crop_px,
            token_cache_mb=own.token_cache_mb,
            seed=own.seed,
            device=self.device,
            threads=own.threads,
        )


def crop_plan(model: Model, material: Material, crop_px: int) -> CropPlan:
    """Scale and crops: by the objects' diameter where objects are known, else as they are."""
    images = list(training_images(material.planes))
    sides = float(np.median([min(i.pixels.shape[1:]) for i in images]))
    diameters = [i.diameter_px for i in images if i.diameter_px]
    tasks = material.tasks
    if tasks == ("classification",):
        zoom = float(np.clip(BOX_PX / sides, 0.5, 4))
        kept = Augmentation(scale_jitter=0.1, intensity=0.35, invert=0.0, keep_absolute=True)
        return CropPlan(min(crop_px, 112), None, zoom, kept)
    jitter = Augmentation(scale_jitter=0.3, invert=0.0)
    if diameters:
        target = model.card.diameter_px or DIAMETER_PX
        return CropPlan(crop_px, target, target / float(np.median(diameters)), jitter)
    return CropPlan(crop_px, None, float(np.clip(LEAST_SIDE_PX / sides, 1, 4)), jitter)


def head_specs(model: Model, material: Material) -> dict[str, HeadSpec]:
    """The heads that the annotations ask for; the model's own where it fits them."""
    specs: dict[str, HeadSpec] = {}
    for name in material.tasks:
        present = model.card.heads.get(name)
        if name == "depth":
            specs[name] = _depth_head(present, material)
            continue
        classes = {"semantic": material.classes, "classification": material.named}.get(name, ())
        fits = present is not None and (name == "instance" or present.classes == classes)
        specs[name] = present if fits and present else task(name).head_spec(classes)
    return specs


def _depth_head(present: HeadSpec | None, material: Material) -> HeadSpec:
    depths = [p.image.targets["depth"] for p in material.planes if "depth" in p.image.targets]
    finite = np.concatenate([np.asarray(d)[np.isfinite(d)].ravel()[::7] for d in depths])
    low, high = (float(v) for v in np.percentile(finite, [0.2, 99.8]))
    if high - low < 1e-9:
        raise InputError(f"depth is {low:g} everywhere", expected="heights that differ")
    if present and present.low - 0.02 <= low and high <= present.high + 0.02:
        return replace(present, view="scale")  # training shows it crops
    spare = 0.05 * (high - low)
    unit = "relative" if low >= 0 and high <= 1 else "as in the depth layer"
    made = task("depth").head_spec(())
    return HeadSpec(made.kind, made.channels, (), unit, low - spare, high + spare)


def add_heads(model: Model, specs: Mapping[str, HeadSpec], plan: CropPlan, seed: int) -> None:
    """Give the model exactly these heads, and the card the scale that they are trained at."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prepare_heads(model, specs, new_heads=False)
    model.card = model.card.replace(
        diameter_px=plan.diameter_px,
        zoom=plan.zoom if plan.diameter_px is None else 1.0,
        pixel_size_um=None,
        tile=(plan.crop_px, plan.crop_px + 28),
        data=(),
        scores={},
    )


def train_part(
    model: Model,
    planes: Sequence[AnnotatedPlane],
    setting: Setting,
    tune: str,
    seconds: float | None,
    *,
    guides: Sequence[TrainingImage] = (),
    validate: Validate | None = None,
    start_score: float | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    extras: Sequence[ExtraLoss] = (),
    steps: int | None = None,
) -> Generator[Progress, None, FitState]:
    """Train `model`, whose heads are there, in place; it ends with the weights that judged best.

    `guides` are planes with dense truths drawn from what the fast loop says, mixed in by half.
    """
    kind = set_trainable(model, setting.train_options(tune))
    sets = image_sets(planes, guides)
    count = len(planes) + len({i.name for i in guides})
    options = setting.options
    settings = FitOptions(
        seconds=seconds,
        steps=steps,
        learning_rate=options.learning_rate,
        weight_decay=0.05,
        frozen_backbone=kind == "heads",
        autocast=setting.autocast,
        device=setting.device,
        workers=0,
        loss_settings=setting.loss_settings,
        average=AVERAGE,
        validate_every_s=60.0 if seconds is None else max(2.0, min(60.0, seconds / 8)),
        clock=setting.clock,
    )
    pool = token_pool(
        model,
        setting.train_options(tune),
        count,
        device=setting.device,
        autocast=setting.autocast,
    )
    batches = BatchSource(sets, setting.plan, options.batch_size, options.seed)
    return (
        yield from fit(
            model,
            batches,
            settings,
            checkpoint=checkpoint,
            resume=resume,
            validate=validate,
            start_score=start_score,
            extras=extras,
            pool=pool,
        )
    )


def image_sets(
    planes: Sequence[AnnotatedPlane], guides: Sequence[TrainingImage] = ()
) -> list[ImageSet]:
    """What crops are drawn from, by weight.

    Raises
    ------
    InputError
        There is nothing to train on.
    """
    own = [p.image for p in planes if p.image.targets]
    boxes = [box for p in planes for box in p.objects]
    sets = []
    if own:
        sets.append(ImageSet("planes", own))
    if boxes:
        share = BOX_SHARE if own else 0.5
        sets.append(ImageSet("objects", boxes, share / (1 - share)))
    if guides and own:
        # They take from the planes' share, so that objects are seen as often as without.
        sets[0].weight = 1 - GUIDE_SHARE
        sets.append(ImageSet("guides", list(guides), GUIDE_SHARE))
    if not sets:
        raise InputError("there is nothing to train on", expected="annotations on a plane")
    return sets


def settings_of_losses(
    specs: Mapping[str, HeadSpec], options: TrainOptions, images: Sequence[TrainingImage]
) -> dict[str, dict[str, Any]]:
    """How each task's loss is set for these heads."""
    return loss_settings(specs, options, images)


def trained_blocks(tune: str, depth: int) -> int:
    """Blocks of the backbone that a way of tuning changes."""
    kind, blocks = parse_tune(tune)
    return {"heads": 0, "lora-all": depth}.get(kind, min(depth, blocks or 0))
