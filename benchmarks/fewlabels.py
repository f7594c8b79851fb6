"""Few labels: the same training with and without images that have no labels.

    python -m benchmarks.fewlabels --data DATA --set dsb2018 --labelled 2 5 --minutes 3 \\
        --seeds 0 1 2 --json fewlabels.json

A few labelled images are drawn for each seed; the rest of the training part gives its images
without labels. Every method trains for the same minutes (or epochs), from the same base, on the
same draw, and is scored on the validation part. Results are kept as they come: started again,
finished trainings are not repeated.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sets import fluorescence
from dinoscope.config import TrainOptions, UnlabelledOptions
from dinoscope.engine.dataset import TaskSource
from dinoscope.engine.heldout import score_file
from dinoscope.engine.train import TrainSummary, train
from dinoscope.engine.unlabelled import Unlabelled

METHODS = ("none", "consistency", "distill")
#: Task and score of each set.
SETS = {
    "dsb2018": ("instance", "ap50"),
    "phase_contrast_usiigaci": ("instance", "ap50"),
    "em_isbi2012": ("semantic", "iou"),
    "em_vnc": ("semantic", "iou"),
    "wbc": ("semantic", "iou"),
}


def rows_of(data: Path, name: str, split: str) -> list[dict[str, str]]:
    """Rows of a set's index; of dsb2018 the fluorescence images."""
    import csv

    with (data / name / "index.csv").open(newline="", encoding="utf-8") as handle:
        rows = [r for r in csv.DictReader(handle) if r["split"] == split]
    return [r for r in rows if fluorescence(r)] if name == "dsb2018" else rows


def source_of(data: Path, name: str, rows: Sequence[Mapping[str, str]]) -> TaskSource:
    """Images with their labels."""
    files = [
        {p.name.split(".")[0]: p for p in (data / name / kind).iterdir()}
        for kind in ("images", "labels")
    ]
    images, labels = ([found[r["id"]] for r in rows] for found in files)
    return TaskSource(SETS[name][0], images, labels, name)


def one_run(args: argparse.Namespace, count: int, seed: int, method: str) -> dict[str, Any]:
    """Train once and score."""
    rows = rows_of(args.data, args.set, "dev-train")
    order = np.random.default_rng(seed).permutation(len(rows))
    labelled = [rows[int(i)] for i in order[:count]]
    pool = source_of(args.data, args.set, [rows[int(i)] for i in order[count:]])
    options = TrainOptions(
        tune=args.tune,
        minutes=args.minutes if args.epochs is None else None,
        epochs=args.epochs,
        batch_size=args.batch_size,
        crop_px=args.crop,
        val_fraction=0.0,
        seed=seed,
        threads=args.threads,
    )
    few = UnlabelledOptions(
        method, weight=args.weight, threshold=args.threshold, ramp_up=args.ramp, crops=args.crops
    )
    held = rows_of(args.data, args.set, "dev-val")
    limit = min(args.images or len(held), len(held))
    held = [held[int(i * len(held) / limit)] for i in range(limit)]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "few.dinoscope"
        events = train(
            [source_of(args.data, args.set, labelled)],
            options,
            output=output,
            base=args.base,
            new_heads=args.new_heads,
            unlabelled=Unlabelled(pool.images, few),  # type: ignore[arg-type]
        )
        while True:
            try:
                next(events)
            except StopIteration as stop:
                summary: TrainSummary = stop.value
                break
        scores = score_file(output, [source_of(args.data, args.set, held)])
    return {
        "set": args.set,
        "labelled": count,
        "without_labels": len(pool.images) if method != "none" else 0,
        "seed": seed,
        "method": method,
        "steps": summary.steps,
        "seconds": round(summary.seconds, 1),
        "validation_images": len(held),
        **{n: round(v, 4) for n, v in scores.items() if n != "score"},
    }


def gains(runs: Sequence[Mapping[str, Any]], score: str) -> list[dict[str, Any]]:
    """Mean and standard deviation of each method, and of its gain over ``none`` draw by draw."""
    found = []
    for count in sorted({r["labelled"] for r in runs}):
        plain = {
            r["seed"]: r[score] for r in runs if r["labelled"] == count and r["method"] == "none"
        }
        for method in dict.fromkeys(r["method"] for r in runs):
            own = {
                r["seed"]: r[score]
                for r in runs
                if r["labelled"] == count and r["method"] == method
            }
            gain = [own[s] - plain[s] for s in own if s in plain]
            found.append(
                {
                    "labelled": count,
                    "method": method,
                    "draws": len(own),
                    score: mean(list(own.values())),
                    "sd": spread(list(own.values())),
                    "gain": mean(gain) if method != "none" and gain else None,
                    "gain_sd": spread(gain) if method != "none" else None,
                }
            )
    return found


def mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for fewer than two values."""
    return round(float(np.std(values, ddof=1)), 4) if len(values) > 1 else None


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, write the JSON file, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", choices=SETS, default="dsb2018")
    parser.add_argument("--labelled", type=int, nargs="+", default=[2, 5])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=3.0, help="of each training")
    parser.add_argument("--epochs", type=int, help="instead of minutes: the same steps for all")
    parser.add_argument("--images", type=int, help="at most this many validation images")
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--new-heads", action="store_true", help="begin with new heads")
    parser.add_argument("--tune", default="lora-last:4")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--weight", type=float, default=UnlabelledOptions().weight)
    parser.add_argument("--threshold", type=float, default=UnlabelledOptions().threshold)
    parser.add_argument("--ramp", type=float, default=UnlabelledOptions().ramp_up)
    parser.add_argument("--crops", type=int, default=UnlabelledOptions().crops)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args(argv)
    not_settings = ("data", "labelled", "methods", "seeds", "json", "threads")
    settings = {n: v for n, v in vars(args).items() if n not in not_settings}
    document: dict[str, Any] = {"settings": settings, "runs": []}
    if args.json.exists():
        document = json.loads(args.json.read_text(encoding="utf-8"))
        if document["settings"] != settings:
            parser.error(f"{args.json} holds runs with other settings; choose another --json")
    runs: list[dict[str, Any]] = document["runs"]
    score = SETS[args.set][1]
    for count in args.labelled:
        for seed in args.seeds:
            for method in args.methods:
                key = (count, seed, method)
                if any((r["labelled"], r["seed"], r["method"]) == key for r in runs):
                    continue
                runs.append(one_run(args, count, seed, method))
                document["gains"] = gains(runs, score)
                args.json.write_text(json.dumps(document, indent=1), encoding="utf-8")
                said = f"{count} labelled, seed {seed}, {method}: {score} {runs[-1][score]:.4f}"
                print(time.strftime("%H:%M:%S"), said, f"{runs[-1]['steps']} steps", flush=True)
    for row in gains(runs, score):
        print(row)


if __name__ == "__main__":
    main()
