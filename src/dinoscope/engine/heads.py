"""What every training sets up: the heads that truths ask for, what is tuned, how losses run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dinoscope.config import TrainOptions, parse_tune
from dinoscope.engine.dataset import TrainingImage
from dinoscope.errors import InputError
from dinoscope.models.adapter import AdapterConfig, add_lora
from dinoscope.models.card import HeadSpec
from dinoscope.models.model import Model
from dinoscope.tasks.base import IGNORE, task


def head_spec(
    model: Model,
    name: str,
    images: Sequence[TrainingImage],
    classes: Mapping[str, tuple[str, ...]],
    new_heads: bool,
) -> HeadSpec:
    """The head that the truths ask for; the base's where it fits them."""
    truths = [i.targets[name] for i in images if name in i.targets]
    present = model.card.heads.get(name)
    if name == "instance":
        if not any(np.any(np.asarray(t) > 0) for t in truths):
            raise InputError(
                "no instance label has an object", expected="ids above 0 in at least one image"
            )
        return present if present and not new_heads else task(name).head_spec(())
    if name == "semantic":
        values = np.unique(np.concatenate([np.unique(np.asarray(t)) for t in truths]))
        values = values[values != IGNORE]
        if len(values) < 2:
            raise InputError(
                f"semantic labels have only the values {values.tolist()}",
                expected="two classes or more",
            )
        count = int(values.max()) + 1
        if present and present.channels == count and not new_heads:
            return present
        return task(name).head_spec(("background", *(f"class {i}" for i in range(1, count))))
    if name == "depth":
        return _depth_spec(present, truths, new_heads)
    names = classes["classification"]
    if len(names) < 2:
        raise InputError(f"the only class is {names!r}", expected="two classes or more")
    if present and present.classes == names and not new_heads:
        return present
    return task(name).head_spec(names)


def _depth_spec(
    present: HeadSpec | None, truths: Sequence[np.ndarray | int], new_heads: bool
) -> HeadSpec:
    finite = np.concatenate([np.asarray(t)[np.isfinite(t)].ravel()[::7] for t in truths])
    low, high = (float(v) for v in np.percentile(finite, [0.2, 99.8]))
    if high - low < 1e-9:
        raise InputError(f"depth is {low:g} everywhere", expected="heights that differ")
    if present and not new_heads and present.low - 0.02 <= low and high <= present.high + 0.02:
        return replace(present, view="scale")  # training shows it crops
    spare = 0.05 * (high - low)
    spec = task("depth").head_spec(())
    relative = low >= 0 and high <= 1
    return HeadSpec(
        spec.kind,
        spec.channels,
        unit="relative" if relative else "as in the training labels",
        low=low - spare,
        high=high + spare,
    )


def prepare_heads(model: Model, heads: Mapping[str, HeadSpec], new_heads: bool) -> None:
    """Leave the heads that are trained, add those that are new.

    A new dense head keeps the base's decoder: what that knows of edges serves any of them. One that
    only sees its images otherwise keeps its weights.
    """
    if new_heads:
        model.keep_heads(())
    for name, spec in heads.items():
        if spec.fits(model.card.heads.get(name)):
            model.card = model.card.replace(heads={**model.card.heads, name: spec})
        else:
            model.add_head(name, spec)
    model.keep_heads(heads)


def set_trainable(model: Model, options: TrainOptions) -> str:
    """Freeze what is not tuned, add LoRA layers; returns the kind of tuning."""
    kind, blocks = parse_tune(options.tune)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    if kind == "full":
        return kind
    model.backbone.requires_grad_(False)
    if kind != "heads" or options.lora_on != "backbone":
        where = options.lora_on if kind != "heads" else "heads"
        add_lora(
            model,
            AdapterConfig(
                rank=options.lora_rank,
                alpha=options.lora_alpha,
                blocks=blocks if blocks is not None else "all",
                on=where,
                targets=options.lora_targets,
                dropout=options.lora_dropout,
            ),
        )
    return kind


def loss_settings(
    heads: Mapping[str, HeadSpec], options: TrainOptions, images: Sequence[TrainingImage]
) -> dict[str, dict[str, Any]]:
    """Settings of each task's loss."""
    settings: dict[str, dict[str, Any]] = {}
    for name, spec in heads.items():
        if name == "depth":
            settings[name] = {"low": spec.low, "high": spec.high, "depth_loss": options.depth_loss}
        elif name == "classification":
            settings[name] = {"label_smoothing": options.label_smoothing}
            if options.class_weights == "balanced":
                settings[name]["class_weights"] = _class_weights(images, len(spec.classes))
    return settings


def _class_weights(images: Sequence[TrainingImage], count: int) -> list[float]:
    """One over the number of images of each class, with mean 1 over the classes that occur."""
    truths = [int(i.targets["classification"]) for i in images if "classification" in i.targets]
    number = np.bincount(truths, minlength=count)
    weights = np.where(number > 0, 1 / np.maximum(number, 1), 0.0)
    return [float(w) for w in weights / weights[number > 0].mean()]
