"""Train the instance task of the embedded architecture on chosen images of dsb2018."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import sets
from benchmarks.settings import Kept, Settings, write_table

VARIANTS = ("both", "tokens zeroed", "detail zeroed", "no backbone")
BATCH = 8
LEARNING_RATE = 1.2e-3
#: A backbone that was trained before learns at this share of the rate, so that a new decoder's
#: first large gradients do not undo what its tokens tell.
BACKBONE_RATE = 0.1


def start_model(start: str | None, seed: int, *, keep_decoder: bool = False) -> Any:
    """A model to train: new decoder and head, on the backbone of `start` or on a random one; with
    `keep_decoder` those of `start` too."""
    from benchmarks.probe import raise_layer_scale
    from benchmarks.train_embedded import DIAMETER_PX, FINE, NORMALIZATION, TILE_PX
    from dinoscope.models.checkpoint import load_model
    from dinoscope.models.model import Model
    from dinoscope.tasks.base import task

    model = Model.fresh(
        "embedded",
        {"instance": task("instance").head_spec(())},
        seed=seed,
        fine_channels=FINE,
        diameter_px=DIAMETER_PX,
        tile=TILE_PX,
        normalization=NORMALIZATION.to_json(),
    )
    if start is None:
        raise_layer_scale(model)
    else:
        known = load_model(start, device="cpu")
        model.backbone.load_state_dict(known.backbone.state_dict())
        if keep_decoder:
            model.decoder.load_state_dict(known.decoder.state_dict())
            model.heads["instance"].load_state_dict(known.heads["instance"].state_dict())
    return model


def zero(model: Any, variant: str) -> None:
    """Take a part out for good: its last layers give zeros and are not trained.

    The zeros are in the weights, so the saved file is the ablated model for everyone.
    """
    import torch

    decoder = model.decoder
    unfolded = () if decoder.fine is None else (decoder.fine[2],)
    tokens = (decoder.tokens[1], *unfolded)
    parts = {
        "both": (),
        "tokens zeroed": tokens,
        "no backbone": tokens,
        "detail zeroed": tuple(
            d[-1][1] for d in (decoder.detail2, decoder.detail4, decoder.detail8)
        ),
    }[variant]
    with torch.no_grad():
        for part in parts:
            part.requires_grad_(False)
            for parameter in part.parameters():
                parameter.zero_()


def skip_backbone(model: Any) -> None:
    """Tokens of zeros without the transformer's work: what a plain decoder does in the same
    time."""
    import torch

    from dinoscope.models.backbone import FeatureMap

    def encode(x: torch.Tensor) -> FeatureMap:
        side = model.backbone.patch
        grid = (x.shape[-2] // side, x.shape[-1] // side)
        tokens = x.new_zeros(x.shape[0], model.token_dim, *grid)
        wide = model.backbone.embed_dim
        return FeatureMap(tokens, x.new_zeros(x.shape[0], wide), wide)

    model.encode = encode


def retrain(
    settings: Settings,
    kept: Kept,
    key: str,
    rows: list[dict[str, str]],
    *,
    minutes: float,
    start: str | None = None,
    variant: str = "both",
    seed: int = 0,
    keep_decoder: bool = False,
    frozen: bool = False,
    check: Callable[[Any], dict[str, float]] | None = None,
) -> tuple[Path, int]:
    """Train on `rows` of dsb2018 for some minutes; the model's file and the number of steps.

    With `keep_decoder`, decoder and head begin as those of `start`; with `frozen`, the backbone
    stays as it is.

    A run that was interrupted goes on from its last checkpoint.
    """
    import torch

    from benchmarks.train_embedded import CROP_PX, DIAMETER_PX, WEIGHTS, real_image
    from dinoscope.config import available_cores
    from dinoscope.engine.augment import Augmentation
    from dinoscope.engine.batches import BatchSource, CropPlan
    from dinoscope.engine.dataset import ImageSet
    from dinoscope.engine.fit import FitOptions, fit
    from dinoscope.models.checkpoint import save_model
    from dinoscope.models.device import set_threads
    from dinoscope.models.precision import check_bf16

    set_threads(settings.threads)
    torch.manual_seed(seed)
    model = start_model(start, seed, keep_decoder=keep_decoder)
    model.backbone.requires_grad_(not frozen)
    zero(model, variant)
    assert settings.data is not None
    by_modality: dict[str, list[Any]] = {}
    for row in rows:
        image = real_image(settings.data / "dsb2018", row, 1)
        image = type(image)(
            image.name,
            image.group,
            image.pixels,
            {"instance": image.targets["instance"]},
            image.diameter_px,
        )
        by_modality.setdefault(row["modality"], []).append(image)
    plan = CropPlan(CROP_PX, DIAMETER_PX, 1.0, Augmentation(far_scale=0.15))
    source = BatchSource(
        [ImageSet(n, i, WEIGHTS[n]) for n, i in sorted(by_modality.items())], plan, BATCH, seed
    )
    dtype, _ = check_bf16(model.backbone, "cpu")
    options = FitOptions(
        seconds=minutes * 60,
        steps=None,
        learning_rate=LEARNING_RATE,
        weight_decay=0.05,
        autocast=None if dtype == torch.float32 else dtype,
        workers=1 if available_cores() > 1 else 0,
        rates={"backbone.": BACKBONE_RATE} if start else {},
        frozen_backbone=frozen,
        average=0.997 if minutes > 15 else 0.99,
        validate_every_s=max(5.0, minutes * 60 / 8),
    )
    if variant == "no backbone":
        skip_backbone(model)
    curve: list[dict[str, float]] = []
    begun = time.monotonic()
    events = fit(
        model,
        source,
        options,
        checkpoint=kept.file(key, ".ckpt"),
        resume=True,
        # A key other than "score": nothing is chosen by the validation images.
        validate=(lambda m: {k: v for k, v in check(m).items() if k != "score"}) if check else None,
    )
    while True:
        try:
            event = next(events)
        except StopIteration as stop:
            state = stop.value
            break
        if int(event.message.split()[-1]) % 10 == 0 or "val_ap50" in event.values:
            seconds = round(time.monotonic() - begun, 1)
            curve.append(
                {"step": int(event.message.split()[-1]), "seconds": seconds, **event.values}
            )
    write_table(kept.file(key, ".csv"), curve)
    if variant == "no backbone":
        del model.encode
    path = kept.file(key, ".dinoscope")
    model.card = model.card.replace(name=path.stem, data=("DSB2018 / BBBC038 (CC0-1.0)",))
    save_model(model, path, include_backbone=True)
    kept.file(key, ".ckpt").unlink(missing_ok=True)
    return path, int(state.step)


def validator(settings: Settings, rows: list[dict[str, str]]) -> Callable[[Any], dict[str, float]]:
    """AP@0.5 of a model on a few images whose diameters are known: for learning curves."""
    from benchmarks.train_embedded import CROP_PX, DIAMETER_PX, real_image
    from dinoscope.engine.batches import CropPlan
    from dinoscope.engine.validate import Validator

    assert settings.data is not None
    images = [real_image(settings.data / "dsb2018", r, 1) for r in rows]
    return Validator(images, CropPlan(CROP_PX, DIAMETER_PX))


def few(settings: Settings, count: int, draw: int, seed: int = 20240) -> list[dict[str, str]]:
    """`count` random fluorescence images of the training split, the same for the same draw."""
    import numpy as np

    rows = sets.index(settings, "dsb2018", "dev-train", sets.fluorescence)
    order = np.random.default_rng([seed, draw]).permutation(len(rows))
    return [rows[int(i)] for i in order[:count]]
