"""Does the transformer matter? Tokens zeroed, detail branch zeroed, both present: each retrained.

Each variant trains for the same minutes on the same images of dsb2018, with a new decoder and head
on one and the same backbone: that of ``--twin`` (which must not have seen dsb2018), a random one
without it. "no backbone" has zeroed tokens too, and spends the time that they would cost on more
steps. With a twin and few images, the runs with and without tokens are repeated from all of the
twin, its decoder and head included, as fine-tuning does it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import sets
from benchmarks.retrain import VARIANTS, few, retrain, validator
from benchmarks.rows import Row
from benchmarks.settings import Kept, Settings, model_key, say

MINUTES = 20.0
FEW = 5
#: Share of those minutes that runs with few images take.
FEW_SHARE = 0.5
#: Variants that are also trained from all of the twin.
WHOLE = ("both", "tokens zeroed")
#: Images that learning curves are read off.
LOOKED_AT = 8


def rows(settings: Settings) -> Iterator[Row]:
    """AP@0.5 of every variant, with all images and with five, and what the tokens add."""
    kept = Kept(settings, "ablation")
    full = settings.minutes_or(MINUTES)
    start = model_key(settings.twin) if settings.twin else "random weights"
    draws = settings.draws
    if settings.twin and sets.saw(settings.twin, "dsb2018"):
        say(f"{settings.twin} says that it saw dsb2018: not a fair start")
    runs = len(VARIANTS) * (1 + draws)
    say(f"{runs} runs of {full:g} minutes or {FEW_SHARE:.0%} of it; start: {start}")
    for part in parts(settings):
        minutes = part.share * full
        scored = sets.index(settings, "dsb2018", "dev-val", part.scored)
        limit = f", {len(scored)} scored"
        value: dict[str, list[float]] = {}
        for number, images in enumerate(part.images):
            for variant in part.variants:
                key = f"{part.label} {number}, {variant}, {minutes:g} min, {start}{limit}"
                done = kept.get(
                    key,
                    lambda k=key, p=part, i=images, v=variant, n=number, s=scored, m=minutes: run(
                        settings, kept, k, i, v, n, s, m, keep_decoder=p.keep_decoder
                    ),
                )
                value.setdefault(variant, []).append(done["ap50"])
        mean = {v: float(np.mean(x)) for v, x in value.items()}
        what = f"{part.label}, {minutes:g} min"
        for variant in part.variants:
            spread = float(np.std(value[variant]))
            yield Row(f"ablation, {what}: {variant}, AP@0.5, ± {spread:.3f} (more)", mean[variant])
        gain = mean["both"] - mean["tokens zeroed"]
        title = f"ablation, {what}: what the tokens add to AP@0.5 (more)"
        yield Row(title, gain, part.must, part.aim)
        if "no backbone" in mean:
            extra = mean["both"] - mean["no backbone"]
            yield Row(f"ablation, {what}: both less no backbone in the same time (more)", extra)


@dataclass(frozen=True)
class Part:
    """Runs that are compared: `images` of each draw, which variants, and `share` of the minutes."""

    label: str
    images: list[list[dict[str, str]]]
    share: float
    scored: Callable[[sets.IndexRow], bool]
    must: float
    aim: float
    variants: tuple[str, ...] = VARIANTS
    keep_decoder: bool = False


def parts(settings: Settings) -> list[Part]:
    """All images, and a few."""
    everything = [sets.index(settings, "dsb2018", "dev-train")]
    some = [few(settings, FEW, d) for d in range(settings.draws)]
    label = f"{FEW} images"
    found = [
        Part("all images", everything, 1.0, lambda _: True, 0.01, 0.03),
        Part(label, some, FEW_SHARE, sets.fluorescence, 0.03, 0.08),
    ]
    if settings.twin:
        again = replace(
            found[-1], label=f"{label}, decoder kept", variants=WHOLE, keep_decoder=True
        )
        found.append(again)
    return found


def run(
    settings: Settings,
    kept: Kept,
    key: str,
    images: list[dict[str, str]],
    variant: str,
    seed: int,
    scored: list[dict[str, str]],
    minutes: float,
    *,
    keep_decoder: bool = False,
) -> dict[str, Any]:
    """Train one variant and score it through the command line."""
    looked_at = scored[:: max(1, len(scored) // LOOKED_AT)]
    path, steps = retrain(
        settings,
        kept,
        key,
        images,
        minutes=minutes,
        start=settings.twin,
        variant=variant,
        seed=seed,
        keep_decoder=keep_decoder,
        check=validator(settings, looked_at),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = sets.copy(settings, "dsb2018", scored, Path(name))
        scores = sets.predicted_scores(settings, folder, str(path))
    return {"ap50": scores["ap50"], "map": scores["map"], "steps": steps}
