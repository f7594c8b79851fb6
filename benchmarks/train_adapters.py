"""Train the embedded adapters: LoRA and a classification head on the embedded backbone.

    python -m benchmarks.train_adapters redcells --data DATA --minutes 10 --output runs/

``redcells`` reads Chula-RBC-12 crops (MIT), ``cellcycle`` reads Jurkat cells from imaging flow
cytometry (BSD-3-Clause); both licences permit shipped weights. The backbone stays as it is, so the
file holds the adapter, the head and the card only.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from dinoscope.config import TrainOptions
from dinoscope.engine.dataset import TaskSource
from dinoscope.engine.train import TrainSummary, train
from dinoscope.models.checkpoint import load_model, save_model

#: Folder, column that names what must not be split, axes, description, data.
SETS = {
    "redcells": (
        "rbc12_crops",
        "source_image",
        None,
        "Red blood cell morphology in stained smears, 80 px crops around each cell.",
        "Chula-RBC-12 (MIT), crops",
    ),
    "cellcycle": (
        "cellcycle_ifc",
        "id",
        "CYX",
        "Cell-cycle phase of Jurkat cells: bright field, DNA stain, dark field.",
        "Imaging flow cytometry of Blasi et al. 2016 / BBBC048 (BSD-3-Clause)",
    ),
}


def sources(data: Path, name: str) -> tuple[TaskSource, TaskSource]:
    """Training and validation images with their classes, as the set's own index splits them."""
    folder, group, axes, *_ = SETS[name]
    root = data / folder
    with (root / "index.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    files = {p.stem: p for p in (root / "images").iterdir()}
    parts = []
    for split in ("dev-train", "dev-val"):
        chosen = [r for r in rows if r["split"] == split]
        parts.append(
            TaskSource(
                "classification",
                [files[r["id"]] for r in chosen],
                [r["class_name"] for r in chosen],
                f"{name} {split}",
                axes,
                [r[group] for r in chosen],
            )
        )
    return parts[0], parts[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=SETS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--tune", default="lora-all")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    training, validation = sources(args.data, args.name)
    options = TrainOptions(
        tune=args.tune,
        lora_rank=args.rank,
        minutes=args.minutes,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        threads=args.threads,
        resume=args.resume,
    )
    args.output.mkdir(parents=True, exist_ok=True)
    output = args.output / f"embedded-{args.name}.dinoscope"
    events = train([training], options, base="embedded", output=output, val_sources=[validation])
    while True:
        try:
            event = next(events)
        except StopIteration as stop:
            summary: TrainSummary = stop.value
            break
        if any(n.startswith("val_") for n in event.values):
            print(event.message, {k: round(v, 4) for k, v in event.values.items()}, flush=True)
    shipped(output, args.name, summary)
    print(json.dumps({"scores": dict(summary.scores), "steps": summary.steps}))


def shipped(path: Path, name: str, summary: TrainSummary) -> None:
    """Write the file again in half precision, with what it was trained on in its card."""
    *_, description, data = SETS[name]
    model = load_model(path, device="cpu", merge=False)
    model.card = model.card.replace(description=description, data=(data,), licence="BSD-3-Clause")
    save_model(model, path, half=True)


if __name__ == "__main__":
    main()
