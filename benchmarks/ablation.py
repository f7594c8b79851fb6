"""Does the transformer matter? Tokens zeroed, detail branch zeroed, both present: each retrained.

Each variant trains for the same minutes on the same images of dsb2018, with a new decoder and head
on one and the same backbone: that of ``--twin`` (which must not have seen dsb2018), a random one
without it. "no backbone" has zeroed tokens too, and spends the time that they would cost on more
steps. With a twin and few images, the runs with and without tokens are repeated from all of the
twin, its decoder and head included, as fine-tuning does it, and with a backbone that stays as it
is.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import sets
from benchmarks.retrain import VARIANTS, few, retrain, validator
from benchmarks.rows import Row
from benchmarks.settings import Kept, Settings, model_key, say, write_table

MINUTES = 20.0
FEW = 5
#: Share of those minutes that runs with few images take.
FEW_SHARE = 0.5
#: Variants that are also trained from all of the twin, and with a frozen backbone.
SHORT = ("both", "tokens zeroed")
#: Images that learning curves are read off.
LOOKED_AT = 8


def rows(settings: Settings) -> Iterator[Row]:
    """AP@0.5 of every variant, with all images and with five, and what the tokens add."""
    kept = Kept(settings, "ablation")
    full = settings.minutes_or(MINUTES)
    start = model_key(settings.twin) if settings.twin else "random weights"
    if settings.twin and sets.saw(settings.twin, "dsb2018"):
        say(f"{settings.twin} says that it saw dsb2018: not a fair start")
    runs = sum(len(p.images) * len(p.variants) for p in parts(settings))
    say(f"{runs} runs of {full:g} minutes or {FEW_SHARE:.0%} of it; start: {start}")
    curves: list[dict[str, Any]] = []
    for part in parts(settings):
        minutes = part.share * full
        scored = sets.index(settings, "dsb2018", "dev-val", part.scored)
        limit = f", {len(scored)} scored"
        value: dict[str, list[float]] = {}
        for number, images in enumerate(part.images):
            for variant in part.variants:
                key = f"{part.label} {number}, {variant}, {minutes:g} min, {start}{limit}"
                todo = partial(run, settings, kept, key, images, variant, number, scored, minutes)
                done = kept.get(key, partial(todo, **part.how))
                value.setdefault(variant, []).append(done["ap50"])
                curves += curve(kept.file(key, ".csv"), part.label, number, variant)
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
    write_table(kept.file("ablation curves", ".csv"), curves)


def curve(path: Path, label: str, draw: int, variant: str) -> list[dict[str, Any]]:
    """Scores of a run on the images that are looked at while it trains, from its log."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as handle:
        rows = [r for r in csv.DictReader(handle) if r["val_ap50"]]
    return [
        {
            "images": label,
            "draw": draw,
            "variant": variant,
            "minutes": round(float(row["seconds"]) / 60, 2),
            "step": row["step"],
            "val_ap50": round(float(row["val_ap50"]), 4),
        }
        for row in rows
    ]


@dataclass(frozen=True)
class Part:
    """Runs that are compared: `images` of each draw, which variants, and `share` of the minutes;
    `how` is told to `retrain`."""

    label: str
    images: list[list[dict[str, str]]]
    share: float
    scored: Callable[[sets.IndexRow], bool]
    must: float
    aim: float
    variants: tuple[str, ...] = VARIANTS
    how: Mapping[str, bool] = field(default_factory=dict)


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
        found += [
            replace(found[-1], label=f"{label}, {name}", variants=SHORT, how={argument: True})
            for name, argument in (("decoder kept", "keep_decoder"), ("frozen", "frozen"))
        ]
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
    **how: bool,
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
        **how,
        check=validator(settings, looked_at),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = sets.copy(settings, "dsb2018", scored, Path(name))
        scores = sets.predicted_scores(settings, folder, str(path))
    return {"ap50": scores["ap50"], "map": scores["map"], "steps": steps}
