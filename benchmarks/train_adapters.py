"""Train the embedded adapters: LoRA and a classification head on the embedded backbone.

    python -m benchmarks.train_adapters redcells --data DATA --output runs/

``redcells`` reads Chula-RBC-12 crops (MIT), ``cellcycle`` reads Jurkat cells from imaging flow
cytometry (BSD-3-Clause); both licences permit shipped weights. The backbone stays as it is, so the
file holds the adapter, the head and the card only. The head's pixel branch is trained first, alone,
then LoRA with the whole head (:mod:`benchmarks.cells`).
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.cells import (
    Cells,
    CellSettings,
    adapt,
    calibrate,
    classifier,
    describe,
    forget_tokens,
    pretrain,
)
from benchmarks.train_embedded import CLASSIFIED, single_cells
from dinoscope.arrays.files import read_image
from dinoscope.config import PredictOptions
from dinoscope.engine.predict import run_prediction
from dinoscope.models import container
from dinoscope.models.checkpoint import load_model, save_model
from dinoscope.models.device import import_torch

torch = import_torch()

#: Folder, description, data.
SETS = {
    "redcells": (
        "rbc12_crops",
        "Red blood cell morphology in stained smears, 80 px crops around each cell.",
        "Chula-RBC-12 (MIT), crops",
    ),
    "cellcycle": (
        "cellcycle_ifc",
        "Cell-cycle phase of Jurkat cells: bright field, DNA stain, dark field.",
        "Imaging flow cytometry of Blasi et al. 2016 / BBBC048 (BSD-3-Clause)",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=SETS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--base", default="embedded", help="model whose backbone is used")
    parser.add_argument("--start", type=Path, help="classifier whose head is gone on from")
    parser.add_argument("--pixel-minutes", type=float, default=10, help="of the pixel branch alone")
    parser.add_argument("--minutes", type=float, default=10, help="of LoRA with the head")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    folder, description, data = SETS[args.name]
    every = single_cells(args.data, set(CLASSIFIED) - {folder})
    cells = Cells(every, folder, args.device)
    settings = CellSettings(
        60 * args.pixel_minutes,
        batch=args.batch_size,
        learning_rate=args.learning_rate,
        rank=args.rank,
    )
    model = classifier(args.base, cells)
    if args.start:
        # The head alone, so that it may have been made for an earlier backbone.
        tensors = container.read(args.start).tensors
        prefix = "heads.classification."
        earlier = {
            name.removeprefix(prefix): torch.from_numpy(array).float()
            for name, array in tensors.items()
            if name.startswith(prefix)
        }
        model.heads["classification"].load_state_dict(earlier)
        if args.pixel_minutes:
            forget_tokens(model)
    if args.pixel_minutes:
        pretrain(model, cells, settings)
    later = replace(settings, seconds=60 * args.minutes, learning_rate=args.learning_rate / 4)
    adapt(model, cells, later)
    print(f"temperature {calibrate(model, cells):.2f}")
    describe(model, every, cells, f"embedded-{args.name}", description, data)
    model.card = model.card.replace(object_px=typical_object(args.data / folder, args.base))
    args.output.mkdir(parents=True, exist_ok=True)
    output = args.output / f"embedded-{args.name}.dinoscope"
    save_model(model.to("cpu"), output, half=True)
    print(f"wrote {output}")


def typical_object(folder: Path, base: str, every: int = 6) -> float:
    """Median diameter in image pixels of the objects in the middle of training crops, as `base`
    finds them: tells whether another image shows cells at the same magnification."""
    model = load_model(base, device="cpu")
    with (folder / "index.csv").open(newline="") as handle:
        names = [r["id"] for r in csv.DictReader(handle) if r["split"] == "dev-train"][::every]
    files = {p.stem: p for p in (folder / "images").iterdir()}
    found = []
    for name in names:
        image = read_image(files[name], CLASSIFIED[folder.name])
        arrays, objects, _, _ = run_prediction(image, model, PredictOptions(("instance",)))
        ids = arrays["instance"]
        middle = ids[ids.shape[0] // 2, ids.shape[1] // 2]
        if middle and objects is not None:
            found.append(float(objects["diameter_px"][objects["label"] == middle][0]))
    return round(float(np.median(found)), 1)


if __name__ == "__main__":
    main()
