"""Does the transformer matter? Tokens zeroed, detail branch zeroed, both present: each retrained.

Each variant trains for the same minutes on the same images of dsb2018, with a new decoder and head
on one and the same backbone: that of ``--twin`` (which must not have seen dsb2018), a random one
without it. "no backbone" has zeroed tokens too, and spends the time that they would cost on more
steps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
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
    everything = sets.index(settings, "dsb2018", "dev-train")
    for label, images, must, aim in (
        ("all images", [everything], 0.01, 0.03),
        (f"{FEW} images", [few(settings, FEW, d) for d in range(draws)], 0.03, 0.08),
    ):
        minutes = full if label == "all images" else FEW_SHARE * full
        chosen = sets.fluorescence if label != "all images" else lambda _: True
        scored = sets.index(settings, "dsb2018", "dev-val", chosen)
        limit = f", {len(scored)} scored"
        value: dict[str, list[float]] = {}
        for number, part in enumerate(images):
            for variant in VARIANTS:
                key = f"{label} {number}, {variant}, {minutes:g} min, {start}{limit}"
                done = kept.get(
                    key,
                    lambda k=key, p=part, v=variant, n=number, s=scored, m=minutes: run(
                        settings, kept, k, p, v, n, s, m
                    ),
                )
                value.setdefault(variant, []).append(done["ap50"])
        mean = {v: float(np.mean(x)) for v, x in value.items()}
        what = f"{label}, {minutes:g} min"
        for variant in VARIANTS:
            spread = float(np.std(value[variant]))
            yield Row(f"ablation, {what}: {variant}, AP@0.5, ± {spread:.3f} (more)", mean[variant])
        gain = mean["both"] - mean["tokens zeroed"]
        yield Row(f"ablation, {what}: what the tokens add to AP@0.5 (more)", gain, must, aim)
        extra = mean["both"] - mean["no backbone"]
        yield Row(f"ablation, {what}: both less no backbone in the same time (more)", extra)


def run(
    settings: Settings,
    kept: Kept,
    key: str,
    images: list[dict[str, str]],
    variant: str,
    seed: int,
    scored: list[dict[str, str]],
    minutes: float,
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
        check=validator(settings, looked_at),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = sets.copy(settings, "dsb2018", scored, Path(name))
        scores = sets.predicted_scores(settings, folder, str(path))
    return {"ap50": scores["ap50"], "map": scores["map"], "steps": steps}
