"""What every run begins with: a model on its device, and how an image becomes model pixels."""

from __future__ import annotations

from dataclasses import replace

import torch

from dinoscope.arrays.calibrate import Calibration
from dinoscope.arrays.normalize import Normalization, limits
from dinoscope.config import PredictOptions
from dinoscope.engine.dense import Runner
from dinoscope.engine.scale import Prepared
from dinoscope.models.device import pick_device, set_threads
from dinoscope.models.model import Model
from dinoscope.models.precision import check_bf16
from dinoscope.models.runtime.choose import Engine
from dinoscope.types import ImageInput

#: Seconds of encoding before a faster runtime is prepared in the background: less where a session
#: has only begun, more where the process may end soon.
PATIENCE_S = 6.0
PATIENCE_IN_WINDOW_S = 1.0


def open_runner(model: Model, options: PredictOptions) -> tuple[Runner, list[str]]:
    """Place the model on its device in a precision that was checked; notes say what was decided."""
    device = pick_device(options.device)
    threads = set_threads(options.threads)
    model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    dtype, note = check_bf16(model.backbone, device)
    engine = Engine(
        model,
        device,
        dtype,
        choice=options.runtime,
        threads=threads,
        wait=options.wait_for_runtime,
        patience_s=PATIENCE_S if options.wait_for_runtime else PATIENCE_IN_WINDOW_S,
    )
    return Runner(model, device, dtype, engine=engine), [note] if note else []


def prepare(
    image: ImageInput,
    model: Model,
    options: PredictOptions,
    calibration: Calibration | None = None,
) -> Prepared:
    """How the planes of `image` become the pixels that `model` sees, preprocessed as asked."""
    normalization = _normalization(model, options)
    bounds = limits(image, normalization, channels=options.channels, calibration=calibration)
    return Prepared(image, bounds, normalization, options, calibration)


def _normalization(model: Model, options: PredictOptions) -> Normalization:
    card = Normalization.from_json(model.card.normalization)
    return replace(
        card,
        denoise=card.denoise or options.denoise,
        local_contrast=card.local_contrast or options.local_contrast,
    )
