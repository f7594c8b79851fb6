"""Compare the balances of several losses: the same tasks, images, seeds and steps for each.

    python -m benchmarks.balance --steps 150 --seeds 3 --json balance.json

Instance, semantic and depth heads are trained anew with LoRA in the last four blocks of the
embedded backbone, on images of the project's generator; scores are those of other generated images.
With ``--scale`` the loss of depth is multiplied, as if it were counted in another unit: a balance
that is worth its name hardly notices.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.rows import machine
from benchmarks.settings import training_precision
from dinoscope.arrays.axes import read_plane
from dinoscope.arrays.labels import typical_diameter
from dinoscope.arrays.normalize import Normalization, limits, to_model_input
from dinoscope.datasets import synthetic
from dinoscope.engine.augment import Augmentation
from dinoscope.engine.batches import BatchSource, CropPlan
from dinoscope.engine.dataset import ImageSet, TrainingImage
from dinoscope.engine.fit import FitOptions, drain, fit
from dinoscope.engine.validate import Validator
from dinoscope.models.adapter import add_lora
from dinoscope.models.checkpoint import load_model
from dinoscope.models.device import precision_for
from dinoscope.models.model import Model
from dinoscope.tasks import base as tasks

BALANCES = ("equal", "fixed", "uncertainty", "gradnorm")
NORMALIZATION = Normalization()
CLASSES = ("background", "nucleus", "cell", "rod")


def made(kind: str, seed: int) -> TrainingImage:
    """One generated image with the truths its kind has."""
    image = synthetic.make(kind, shape=(192, 192), seed=seed)
    given = image.as_input()
    pixels = to_model_input(read_plane(given, ()), limits(given, NORMALIZATION), NORMALIZATION)
    targets: dict[str, Any] = {}
    if kind == "surface":
        targets["depth"] = np.asarray(image.depth, np.float32)
    else:
        targets["instance"] = image.instances.astype(np.int32)
        targets["semantic"] = np.minimum(image.semantic, len(CLASSES) - 1).astype(np.uint8)
    diameter = None if kind == "surface" else typical_diameter(image.instances)
    return TrainingImage(f"{kind}/{seed}", f"{kind}/{seed}", pixels, targets, diameter)


def fresh(seed: int) -> Model:
    """The embedded backbone with new heads and LoRA in its last four blocks."""
    torch.manual_seed(seed)
    model = load_model("embedded", device="cpu")
    model.keep_heads(())
    for name, classes in (("instance", ()), ("semantic", CLASSES), ("depth", ())):
        model.add_head(name, tasks.task(name).head_spec(classes))
    model.requires_grad_(True)
    model.backbone.requires_grad_(False)
    add_lora(model, blocks=4, rank=8)
    return model


class Scaled:
    """A task whose loss counts in another unit."""

    def __init__(self, inner: Any, scale: float) -> None:
        self._inner = inner
        self._scale = scale

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def loss(self, raw: Tensor, target: Tensor, settings: Mapping[str, Any]) -> Tensor:
        loss: Tensor = self._inner.loss(raw, target, settings) * self._scale
        return loss


def one(balance: str, seed: int, steps: int, scale: float) -> dict[str, float]:
    """Train with one balance; validation scores."""
    model = fresh(seed)
    kinds = ("nuclei", "tissue", "rods", "surface")
    sets = [ImageSet(k, [made(k, seed * 1000 + i) for i in range(12)]) for k in kinds]
    held = [made(k, 10_000_000 + i) for k in kinds for i in range(3)]
    diameter = model.card.diameter_px
    plan = CropPlan(112, diameter, 1.0, Augmentation())
    options = FitOptions(
        seconds=None,
        steps=steps,
        learning_rate=1e-3,
        weight_decay=0.05,
        balance=balance,
        autocast=training_precision(),
        workers=0,
        average=0.98,
    )
    from dinoscope.engine import fit as module

    original = module.task
    if scale != 1:
        scaled = Scaled(original("depth"), scale)
        module.task = lambda name: scaled if name == "depth" else original(name)  # type: ignore[assignment]
    try:
        drain(fit(model, BatchSource(sets, plan, 8, seed), options))
    finally:
        module.task = original
    measure = Validator(held, plan, device="cpu", dtype=precision_for("cpu"), at_most=len(held))
    return {n: float(v) for n, v in measure(model).items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, nargs="+", default=[1.0, 100.0])
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    found = []
    for scale in args.scale:
        for kind in BALANCES:
            begun = time.monotonic()
            runs = [one(kind, seed, args.steps, scale) for seed in range(args.seeds)]
            entry: dict[str, Any] = {"balance": kind, "depth_loss_times": scale, "runs": runs}
            entry["mean"] = {n: float(np.mean([r[n] for r in runs])) for n in runs[0]}
            entry["seconds"] = time.monotonic() - begun
            found.append(entry)
            shown = {n: round(v, 3) for n, v in entry["mean"].items()}
            print(kind, scale, shown, f"{entry['seconds']:.0f} s", flush=True)
            args.json.write_text(
                json.dumps({"machine": machine(), "steps": args.steps, "results": found}, indent=1)
            )


if __name__ == "__main__":
    main()
