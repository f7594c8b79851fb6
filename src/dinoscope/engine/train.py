"""Fine-tune a model on images with truths: any set of tasks in one run. A generator."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.arrays.normalize import Normalization
from dinoscope.config import SplitOptions, TrainOptions, available_cores, parse_weights
from dinoscope.engine.augment import Augmentation
from dinoscope.engine.batches import BatchSource, CropPlan
from dinoscope.engine.blend import FEW, NEARLY, blend, snapshot
from dinoscope.engine.cached import token_pool
from dinoscope.engine.dataset import TaskSource, TrainingImage, channel_ranges
from dinoscope.engine.extras import extra_losses
from dinoscope.engine.fit import FitOptions, fit
from dinoscope.engine.heads import head_spec, loss_settings, prepare_heads, set_trainable
from dinoscope.engine.heldout import score_model
from dinoscope.engine.loading import as_image, load_sources
from dinoscope.engine.ranks import Ranks
from dinoscope.engine.splits import grouped, hold_out
from dinoscope.engine.unlabelled import Unlabelled
from dinoscope.engine.validate import MAIN_SCORE, Validator
from dinoscope.errors import InputError
from dinoscope.models.card import HeadSpec
from dinoscope.models.checkpoint import load_model, save_model
from dinoscope.models.device import pick_device, set_threads, torch
from dinoscope.models.model import Model
from dinoscope.models.precision import check_bf16
from dinoscope.tasks.base import task
from dinoscope.types import Progress

#: Diameter in model pixels that objects are brought to where the base model names none: two
#: patches.
DIAMETER_PX = 28.0
#: Images smaller than this side (in model pixels) are enlarged, at most four times.
LEAST_SIDE_PX = 154.0
#: The same for whole images that get one class: many passes over them tell more than fine pixels.
LEAST_CLASSIFIED_PX = 112.0
#: Learning rate of a fully trained backbone, as a share of the heads'.
BACKBONE_RATE = 0.1


@dataclass(frozen=True)
class TrainSummary:
    """What a training run did. `before` are the base model's validation scores, where it has the
    heads."""

    output: str
    model_hash: str
    tasks: tuple[str, ...]
    steps: int
    seconds: float
    training_images: int
    validation_images: int
    scores: Mapping[str, float]
    before: Mapping[str, float]
    device: str
    notes: tuple[str, ...] = ()
    history: tuple[Mapping[str, float], ...] = field(default=())


def train(
    sources: Sequence[TaskSource],
    options: TrainOptions | None = None,
    *,
    output: str | Path,
    base: str | Path = "embedded",
    val_sources: Sequence[TaskSource] = (),
    new_heads: bool = False,
    allow_download: bool = False,
    splits: SplitOptions | None = None,
    test_sources: Sequence[TaskSource] = (),
    unlabelled: Unlabelled | None = None,
) -> Generator[Progress, None, TrainSummary]:
    """Train on `sources`, starting from `base`, and write ``output`` (a ``.dinoscope`` file).

    Parameters
    ----------
    sources : Sequence[TaskSource]
        Images with truths, for any set of tasks; images named by several sources are read once.
    options : TrainOptions, optional
        What is tuned, for how long.
    output : path
        Where the model goes. A checkpoint lies beside it while training runs; ``resume`` goes on
        from it.
    base : str or path
        A model or backbone, as for `load_model`.
    val_sources : Sequence[TaskSource]
        Held-out images; without them a share of the images (never of the pixels of one) is held
        out.
    new_heads : bool
        Begin with new heads even where the base has them.
    splits : SplitOptions, optional
        What must stay together, the share for a final test, cross-validation.
    test_sources : Sequence[TaskSource]
        Images that are read only when everything is trained and chosen; their scores are
        ``test_<metric>``.
    unlabelled : Unlabelled, optional
        Images without labels, and how they are used.

    Yields
    ------
    Progress
        ``loss``, ``loss_<task>``, ``lr``, ``images_per_s`` and ``val_<metric>`` in its values.

    Returns
    -------
    TrainSummary

    Raises
    ------
    InputError
        Images and truths do not fit, or there is nothing to learn from them.
    TrainingError
        The loss is not finite; the last good state was kept.
    """
    options = options or TrainOptions()
    if not sources:
        raise InputError("there is nothing to train on", expected="at least one image with a truth")
    output = Path(output)
    if splits and splits.folds:
        from dinoscope.engine.crossval import cross_validate  # which runs this function

        return (
            yield from cross_validate(
                sources,
                options,
                splits,
                output=output,
                test_sources=test_sources,
                base=base,
                new_heads=new_heads,
                allow_download=allow_download,
                unlabelled=unlabelled,
            )
        )
    begun = time.perf_counter()
    notes: list[str] = []
    tasks = tuple(dict.fromkeys(s.task for s in sources))
    class_names = _class_names([*sources, *val_sources, *test_sources])
    sources, val_sources, test_sources, told = _parts(
        sources, val_sources, test_sources, options, splits or SplitOptions()
    )
    notes += told
    yield Progress("prepare", 0, 3, message="loading the model")
    ranks = Ranks()
    device = ranks.device or pick_device(options.device)
    set_threads(options.threads)
    torch.manual_seed(options.seed)
    model = load_model(base, device=device, allow_download=allow_download)
    yield Progress("prepare", 1, 3, message="reading the images")
    normalization = _normalization(model, sources, tasks)
    classes = {"classification": class_names}
    sets = load_sources(sources, normalization, classes)
    held = [i for s in load_sources(val_sources, normalization, classes) for i in s.images]
    images = [i for s in sets for i in s.images]
    heads = {t: head_spec(model, t, [*images, *held], classes, new_heads) for t in tasks}
    plan = _plan(model, options, images, tasks)
    dtype, note = check_bf16(model.backbone, device, training=True)
    notes += [note] if note else []
    looked_at = 24 if any(task(t).dense for t in tasks) else 200  # whole planes take longer
    look = partial(Validator, plan=plan, device=device, dtype=dtype, at_most=looked_at)
    validator = look(held) if held else None
    known = not new_heads and all(s.fits(model.card.heads.get(t)) for t, s in heads.items())
    prepare_heads(model, heads, new_heads)
    before = _before(model, heads, validator, new_heads)
    yield Progress("prepare", 2, 3, message=f"{len(images)} images", values=_named(before))
    model.card = _card(model, normalization, plan, tasks)
    kind = set_trainable(model, options)
    model.to(device)
    start = snapshot(model) if known and options.blend else {}
    batch_size = min(options.batch_size, max(2, 2 * len(images)))
    settings = FitOptions(
        seconds=options.minutes * 60 if options.minutes is not None else None,
        steps=None
        if options.epochs is None
        else options.epochs * max(1, -(-len(images) // batch_size)),
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        balance=options.balance,
        balance_weights=parse_weights(options.loss_weights),
        schedule=options.schedule,
        patience=options.patience,
        frozen_backbone=kind == "heads" or options.lora_on == "heads",
        autocast=None if dtype == torch.float32 else dtype,
        device=device,
        workers=1 if available_cores() > 1 and len(images) > 1 else 0,
        rates={"backbone.": BACKBONE_RATE} if kind == "full" else {},
        loss_settings=loss_settings(heads, options, images),
        average=0.995,
        validate_every_s=max(2.0, min(60.0, (options.minutes or 5) * 60 / 12)),
    )
    extras, note = extra_losses(
        unlabelled, model, plan, tasks, settings, options.seed, [*val_sources, *test_sources]
    )
    notes += [note] if note else []
    pool = token_pool(
        model, options, len(images), device=settings.device, autocast=settings.autocast
    )
    checkpoint = output.with_suffix(".ckpt")
    state = yield from fit(
        model,
        BatchSource(sets, plan, batch_size, options.seed),
        settings,
        checkpoint=checkpoint,
        resume=options.resume,
        validate=validator,
        start_score=before.get("score"),
        extras=extras,
        pool=pool,
        ranks=ranks,
    )
    notes += [note] if pool is not None and (note := pool.note()) else []
    if before and state.best_step == 0:
        notes.append(
            "Training did not improve on the validation images: the base weights are kept."
        )
    scores = _best_scores(state.history, state.best_step, before)
    if start and not (before and state.best_step == 0):
        alone = validator if len(held) >= FEW else None
        share, said = yield from blend(
            model,
            start,
            alone or look([*held, *images]),
            nearly=1.0 if alone else NEARLY,
            ranks=ranks,
        )
        if share < 1:
            notes.append(f"The base knew the task: {share:.0%} of what training changed is kept.")
            if not alone:
                said = validator(model) if validator else {}
            scores = _wanted(said)
    if test_sources:
        yield Progress("test", 0, 1, message="reading the test images")
        tested = score_model(model, test_sources, plan=plan, device=device, dtype=dtype)
        scores |= {f"test_{n}": v for n, v in tested.items() if n != "score"}
    model.card = model.card.replace(
        name=output.stem,
        scores={n: round(v, 4) for n, v in scores.items()},
        training=_training_record(options, base, len(images), len(held), state.step)
        | ({"unlabelled": extras[0].name} if extras else {}),
        notes=tuple(notes),
    )
    digest = ""
    if ranks.first:
        digest = save_model(model, output, include_backbone=options.include_backbone)
        checkpoint.unlink(missing_ok=True)
    return TrainSummary(
        output=str(output),
        model_hash=digest,
        tasks=tasks,
        steps=state.step,
        seconds=time.perf_counter() - begun,
        training_images=len(images),
        validation_images=len(held),
        scores=scores,
        before=before,
        device=device,
        notes=tuple(notes),
        history=tuple(state.history),
    )


def _parts(
    sources: Sequence[TaskSource],
    val_sources: Sequence[TaskSource],
    test_sources: Sequence[TaskSource],
    options: TrainOptions,
    splits: SplitOptions,
) -> tuple[list[TaskSource], list[TaskSource], list[TaskSource], list[str]]:
    """What trains, what chooses, what judges, and notes; only those not given are split off."""
    training, notes = grouped(sources, splits.group_by), []
    test = list(test_sources)
    if not test and splits.test_fraction > 0:
        part = hold_out(training, splits.test_fraction, options.seed + 1)
        training, test = part.training, part.held
        notes += [f"Test images: {part.note}"] if part.note else []
    validation = list(val_sources)
    if not validation:
        part = hold_out(training, options.val_fraction, options.seed)
        training, validation = part.training, part.held
        notes += [part.note] if part.note else []
    return training, validation, test, notes


def _class_names(sources: Sequence[TaskSource]) -> tuple[str, ...]:
    names = {str(t) for s in sources if s.task == "classification" for t in s.truths}
    return tuple(sorted(names))


def _normalization(
    model: Model, sources: Sequence[TaskSource], tasks: Sequence[str]
) -> Normalization:
    """The base card's; fixed ranges measured over the training set where only classes are
    learned."""
    if tuple(tasks) != ("classification",):
        return Normalization.from_json(model.card.normalization)
    images = [as_image(i, s.axes) for s in sources for i in s.images]
    return Normalization(mode="fixed", ranges=channel_ranges(images))


def _plan(
    model: Model, options: TrainOptions, images: Sequence[TrainingImage], tasks: Sequence[str]
) -> CropPlan:
    """Scale and crops: by object diameter where objects are known, else by a fixed zoom."""
    sides = float(np.median([min(i.pixels.shape[1:]) for i in images]))
    least = float(np.clip(LEAST_SIDE_PX / sides, 1, 4))
    if tuple(tasks) == ("classification",):
        least = float(np.clip(LEAST_CLASSIFIED_PX / sides, 1, 4))
        longest = max(max(i.pixels.shape[1:]) for i in images) * least
        crop = int(min(options.crop_px, max(112, -(-longest // 14) * 14)))
        kept = Augmentation(scale_jitter=0.0, intensity=0.35, invert=0.0, keep_absolute=True)
        return CropPlan(crop, None, least, kept)
    diameters = [i.diameter_px for i in images if i.diameter_px]
    target = model.card.diameter_px or DIAMETER_PX
    if options.diameter_px:
        return CropPlan(
            options.crop_px, None, target / options.diameter_px, Augmentation(scale_jitter=0.5)
        )
    if diameters:
        zoom = target / float(np.median(diameters))
        return CropPlan(options.crop_px, target, zoom, Augmentation(scale_jitter=0.5))
    jitter = Augmentation(scale_jitter=0.3, invert=0.0)
    return CropPlan(options.crop_px, None, least, jitter)


def _before(
    model: Model, heads: Mapping[str, HeadSpec], validator: Validator | None, new_heads: bool
) -> dict[str, float]:
    """Validation scores of the base model, where it has every head already."""
    trained = bool(model.card.scores) or model.digest != ""
    if validator is None or new_heads or not trained or set(heads) != set(model.card.heads):
        return {}
    model.eval()
    return validator(model)


def _named(scores: Mapping[str, float]) -> dict[str, float]:
    return {f"before_{n}": v for n, v in scores.items()}


def _card(model: Model, normalization: Normalization, plan: CropPlan, tasks: Sequence[str]) -> Any:
    return model.card.replace(
        normalization=normalization.to_json(),
        diameter_px=plan.diameter_px,
        zoom=plan.zoom if plan.diameter_px is None else 1.0,
        pixel_size_um=None,
        tile=(plan.crop_px, plan.crop_px + 28),
        description=f"Fine-tuned for {', '.join(tasks)}.",
        data=(),
        licence="",
    )


def _best_scores(
    history: Sequence[Mapping[str, float]], best_step: int, before: Mapping[str, float]
) -> dict[str, float]:
    """Scores of the weights that were best on validation."""
    if best_step == 0:
        return _wanted(before)
    for entry in history:
        if entry["step"] == best_step:
            return _wanted({n[4:]: v for n, v in entry.items() if n.startswith("val_")})
    return {}


def _wanted(scores: Mapping[str, float]) -> dict[str, float]:
    """Those that a card names."""
    wanted = {*MAIN_SCORE.values(), "rmse", "accuracy", "score"}
    return {n: v for n, v in scores.items() if n in wanted}


def _training_record(
    options: TrainOptions, base: str | Path, images: int, held: int, steps: int
) -> dict[str, Any]:
    return {
        "base": Path(base).name,
        "tune": options.tune,
        "lora_on": options.lora_on,
        "lora_rank": options.lora_rank,
        "learning_rate": options.learning_rate,
        "seed": options.seed,
        "training_images": images,
        "validation_images": held,
        "steps": steps,
    }
