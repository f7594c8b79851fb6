"""What this machine has time to train: measured, chosen, said."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from dinoscope.config import parse_tune
from dinoscope.engine.batches import BatchSource
from dinoscope.engine.cached import lower_tokens
from dinoscope.engine.fit import FitOptions, losses_of
from dinoscope.engine.improve.material import AnnotatedPlane
from dinoscope.engine.improve.training import Setting, image_sets, trained_blocks
from dinoscope.models.model import Model
from dinoscope.types import Progress

#: Share of the time that goes into the heads before LoRA layers are added.
HEADS_SHARE = 0.4
#: LoRA is trained where the time is enough for so many steps of it.
LEAST_STEPS = 250
#: LoRA goes into all blocks only where so many steps of it are possible: until then it learns more
#: in the last blocks, in steps that cost less.
STEPS_FOR_ALL = 1500
#: Steps that are timed, after one that warms up.
TIMED = 2
#: What LoRA layers are taken to add to the passes through frozen blocks: roughly, for rank 8.
LORA_COST = 1.15


@dataclass(frozen=True)
class Choice:
    """What is trained.

    `seconds_per_step` are those of the chosen way, `measured` those of all that were looked at.
    """

    tune: str
    why: str
    seconds_per_step: float
    measured: Mapping[str, float]


def measure(
    model: Model, planes: Sequence[AnnotatedPlane], setting: Setting, tunes: Sequence[str]
) -> Generator[Progress, None, dict[str, float]]:
    """Seconds of one step of each way of tuning; the model's weights stay as they are.

    What takes the time is gone through, forward and back: the trained blocks, from kept tokens, the
    decoder and the heads. LoRA layers are left out: to import what they need takes longer than all
    of it, and they add `LORA_COST`. Steps of a single crop are timed, and multiplied: between two
    of them strokes get their preview. What was measured in this process is remembered: a plan that
    is made again after each stroke costs nothing.
    """
    found = {}
    options = setting.options
    depth = len(model.backbone.vit.blocks)
    about = (model.card.backbone, tuple(model.heads), setting.plan.crop_px, options.batch_size)
    model.to(setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.backbone.requires_grad_(False)
    source = BatchSource(image_sets(planes), setting.plan, 1, options.seed)
    for tune in tunes:
        key = (*about, options.threads, setting.device, tune)
        if key not in _MEASURED:
            blocks = trained_blocks(tune, depth)
            times = []
            for number in range(1 + TIMED):
                times.append(_time_step(model, source, number, setting, depth - blocks))
                yield Progress("prepare", 2, 4, message=f"measuring: {tune}")
            _MEASURED[key] = options.batch_size * min(times[1:]) * (LORA_COST if blocks else 1.0)
        found[tune] = _MEASURED[key]
    return found


def _time_step(
    model: Model, source: BatchSource, number: int, setting: Setting, start: int
) -> float:
    """Seconds of the passes of a step whose first trained block is `start`."""
    settings = FitOptions(
        seconds=None,
        steps=1,
        learning_rate=setting.options.learning_rate,
        weight_decay=0.0,
        frozen_backbone=start == len(model.backbone.vit.blocks),
        autocast=setting.autocast,
        device=setting.device,
        loss_settings=setting.loss_settings,
    )
    device = torch.device(setting.device)
    clock = time.perf_counter()
    batch = source[number]
    with torch.autocast(device.type, setting.autocast, enabled=setting.autocast is not None):
        lower = lower_tokens(model.backbone, batch.pixels.to(device), start)
    if start > 0:  # kept between steps
        clock = time.perf_counter()
    lower.tokens.requires_grad_(not settings.frozen_backbone)
    losses = losses_of(model, replace(batch, tokens=lower), settings, device)
    asked = [lower.tokens, *model.parameters()]
    wanted = [t for t in asked if t.requires_grad]
    torch.autograd.grad(torch.stack([*losses.values()]).sum(), wanted, allow_unused=True)
    return time.perf_counter() - clock


_MEASURED: dict[tuple[object, ...], float] = {}


def candidates(depth: int) -> list[str]:
    """Ways of tuning that are compared, from the cheapest to the dearest."""
    last = min(4, max(1, depth // 3))
    return ["heads", f"lora-last:{last}", "lora-all"]


def choose(
    measured: Mapping[str, float], minutes: float, depth: int, wanted: str = "auto"
) -> Choice:
    """The dearest way that the time suffices for.

    Parameters
    ----------
    measured : mapping
        Seconds of a step by way of tuning.
    minutes : float
        For everything.
    wanted : str
        Another way than ``auto`` is taken as it is.

    Examples
    --------
    >>> times = {"heads": 0.1, "lora-last:4": 0.4, "lora-all": 1.0}
    >>> choose(times, 10, 12).tune, choose(times, 60, 12).tune, choose(times, 1, 12).tune
    ('lora-last:4', 'lora-all', 'heads')
    """
    left = minutes * 60 * (1 - HEADS_SHARE)
    steps = {tune: left / max(1e-6, s) for tune, s in measured.items()}
    if wanted != "auto":
        why = f"{named(wanted, depth)}, as you chose."
        return Choice(wanted, why, measured.get(wanted, 0.0), measured)
    chosen = "heads"
    for tune in sorted(measured, key=lambda t: trained_blocks(t, depth)):
        least = STEPS_FOR_ALL if parse_tune(tune)[0] == "lora-all" else LEAST_STEPS
        if tune != "heads" and steps[tune] >= least:
            chosen = tune
    seconds = measured[chosen]
    if chosen == "heads":
        dearer = min((s for t, s in measured.items() if t != "heads"), default=seconds)
        why = (
            f"{named(chosen, depth)}: LoRA takes {dearer:.2g} s a step here, and {minutes:g} "
            f"minutes are too short for {LEAST_STEPS} of them."
        )
    else:
        why = (
            f"{named(chosen, depth)}: a step takes {seconds:.2g} s here, so that "
            f"{int(steps[chosen])} fit into {minutes:g} minutes after the heads."
        )
    return Choice(chosen, why, seconds, measured)


def named(tune: str, depth: int) -> str:
    """A way of tuning in words."""
    kind, blocks = parse_tune(tune)
    if kind == "heads":
        return "Heads only, on kept tokens"
    if kind == "lora-all":
        return f"LoRA in all {depth} blocks"
    return f"LoRA in the last {blocks} of {depth} blocks, from kept lower tokens"
