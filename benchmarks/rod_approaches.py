"""How much better packed rods are parted by what was tried in the decoder (`benchmarks.rod_parts`).

    python -m benchmarks.rod_approaches --parts contrast --parts lines --minutes 18 --output FILE

Decoder and heads of a model go on learning on generated rods alone, three quarters of them packed,
or with --data on all that the embedded model is trained on, from the backbone's tokens as they are.
Fields outside of training's range, and packed ones within it, are then scored with their diameter
given. Writes FILE (JSON) and a log beside it. For the contact map scores stand for powers of its
complement that the boundary distance is multiplied by.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import outside, train_embedded
from benchmarks.rod_parts import PARTS, contact_learned, extend
from benchmarks.settings import training_precision, write_table
from dinoscope.arrays.decode import decode_instances, quantize
from dinoscope.arrays.labels import typical_diameter
from dinoscope.arrays.metrics import average_precision
from dinoscope.datasets.synthetic.rods import LOOKS
from dinoscope.engine.augment import Augmentation
from dinoscope.engine.batches import CropPlan
from dinoscope.engine.dataset import GeneratedSet
from dinoscope.engine.dense import Runner
from dinoscope.engine.fit import FitOptions, fit
from dinoscope.models.catalog import locate
from dinoscope.models.checkpoint import load_model
from dinoscope.models.device import precision_for, set_threads
from dinoscope.models.model import Model

SHARES = {"rods": 0.25, train_embedded.PACKED_RODS: 0.75}
LEARNING_RATE = 1e-3
#: Powers of 1 - contact that the boundary distance is multiplied by.
POWERS = (0.0, 0.5, 1.0, 2.0)
#: New parts that begin at zero learn faster.
RATES = {"decoder.detail2.lines": 3.0}
#: Steps between rows of the log.
EVERY = 20


def train(
    model: Model, minutes: float, *, data: Path | None, head_alone: bool, seed: int
) -> list[dict[str, float]]:
    """Learn for a time; the log."""
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        learns = parts[:2] == ["heads", "instance"] and "known" not in parts
        parameter.requires_grad_(learns if head_alone else parts[0] != "backbone")
    sets: list[Any] = [
        GeneratedSet(kind, train_embedded.SyntheticImages(kind), ("instance",), share)
        for kind, share in SHARES.items()
    ]
    if data is not None:
        sets, _ = train_embedded.load(data, set())
    augmentation = Augmentation(far_scale=0.25, coarse=0.2)
    plan = CropPlan(train_embedded.CROP_PX, train_embedded.DIAMETER_PX, 1.0, augmentation)
    cells = train_embedded.SingleCells((), [], {}, {}, {})
    options = FitOptions(
        seconds=60 * minutes,
        steps=None,
        learning_rate=LEARNING_RATE,
        weight_decay=0.05,
        autocast=training_precision(),
        average=0.998,
        balance="fixed",
        balance_weights={"instance": 1.0, "semantic": 0.3, "depth": 24.0},
        loss_settings={"depth": {"depth_loss": "mse"}},
        warmup=0.03,
        log_every=EVERY,
        rates=RATES,
    )
    rows: list[dict[str, float]] = []
    events = fit(model, train_embedded.MixedBatches(sets, plan, cells, 8, seed), options)
    begun = time.perf_counter()
    for event in events:
        passed = round((time.perf_counter() - begun) / 60, 2)
        rows.append({"minutes": passed, "step": EVERY * (len(rows) + 1), **event.values})
        print(rows[-1], flush=True)
    return rows


def score(model: Model, make: Callable[[int], Any], count: int) -> list[dict[str, Any]]:
    """AP@0.5 of each field, by power of the contact map (0 where the model has none)."""
    runner = Runner(model.eval(), "cpu", precision_for("cpu"))
    rows = []
    for number in range(count):
        made = make(number)
        truth = made.instances.astype(np.int32)
        pixels = train_embedded.model_pixels(made.as_input())
        diameter = typical_diameter(truth)
        maps = train_embedded.instance_maps(runner, pixels, truth.shape, diameter)
        found = {}
        for power in POWERS if len(maps) > 4 else POWERS[:1]:
            cut = maps[:3].clip(0, 1)
            if power:
                cut[2] *= (1 - maps[4].clip(0, 1)) ** power
            found[f"power {power:g}"] = average_precision(
                truth, decode_instances(quantize(cut)), (0.5,)
            )[0]
        rows.append({"look": LOOKS[number % len(LOOKS)], **found})
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Means over all fields and over those of each look, by power."""
    names = [n for n in rows[0] if n != "look"]
    groups = {"all": rows, **{k: [r for r in rows if r["look"] == k] for k in LOOKS}}
    return {
        group: {n: round(float(np.mean([r[n] for r in some])), 3) for n in names}
        for group, some in groups.items()
        if some
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", action="append", default=[], choices=PARTS)
    parser.add_argument("--head-alone", action="store_true", help="the decoder stays as it is")
    parser.add_argument("--data", type=Path, help="train on all sets in this folder, not on rods")
    parser.add_argument("--minutes", type=float, default=18, help="0: score the model as it is")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--fields", type=int, nargs=2, default=(24, 12), help="outside, packed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    set_threads(options.threads)
    torch.manual_seed(options.seed)
    parts = tuple(options.parts)
    contact = contact_learned(alone=options.head_alone) if "contact" in parts else nullcontext()
    with contact:
        model = extend(load_model(locate(options.model), device="cpu"), parts)
        rows: list[dict[str, float]] = []
        if options.minutes:
            rows = train(
                *(model, options.minutes),
                data=options.data,
                head_alone=options.head_alone,
                seed=options.seed,
            )
        fields = {
            "outside": score(model, outside.rods, options.fields[0]),
            "packed": score(model, lambda n: outside.trained_rods("packed", n), options.fields[1]),
        }
    found = {
        "parts": parts,
        "head alone": options.head_alone,
        "minutes": options.minutes,
        "steps": int(rows[-1]["step"]) if rows else 0,
        **{name: summary(scored) for name, scored in fields.items()},
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    write_table(options.output.with_suffix(".csv"), rows)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
