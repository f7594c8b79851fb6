"""What this machine has time to train: measured, chosen, said."""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace

from dinoscope.config import parse_tune
from dinoscope.engine.cached import VARIANTS
from dinoscope.engine.improve.material import AnnotatedPlane
from dinoscope.engine.improve.training import Setting, train_part, trained_blocks
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
    """Seconds of one step of each way of tuning, on a copy of the model.

    Heads and last blocks begin at kept tokens, as in the training itself. Steps of a single crop
    are timed, and multiplied: between two of them strokes get their preview. What was measured in
    this process is remembered: a plan that is made again after each stroke costs nothing.
    """
    found = {}
    options = setting.options
    single = replace(setting, options=replace(options, batch_size=1))
    depth = len(model.backbone.vit.blocks)
    about = (model.card.backbone, tuple(model.heads), setting.plan.crop_px, options.batch_size)
    for tune in tunes:
        key = (*about, options.rank, options.threads, setting.device, tune)
        if key not in _MEASURED:
            trial = copy.deepcopy(model)
            times: list[float] = []
            # The first crops fill the pool of tokens; later ones are what a training mostly does.
            fill = 1 if trained_blocks(tune, depth) == depth else VARIANTS + 1
            events = train_part(
                trial, planes, single, tune, None, steps=fill + TIMED, pool_images=1
            )
            begun = time.perf_counter()
            for _ in events:
                times.append(time.perf_counter() - begun)
                yield Progress("prepare", 2, 4, message=f"measuring: {tune}")
                begun = time.perf_counter()
            _MEASURED[key] = options.batch_size * min(times[-TIMED:])
        found[tune] = _MEASURED[key]
    return found


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
