"""Train and score a peer: ``python -m benchmarks.peers NAME --data DIR --minutes 20 --output DIR``.

Writes ``DIR/NAME.json`` (scores on dsb2018's dev-val, as ``benchmarks.run embedded --rivals DIR``
reads them) and, for networks, the learning curve ``DIR/NAME.csv``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from benchmarks import forest, sets
from benchmarks.rows import commit, machine
from benchmarks.settings import Settings, say
from dinoscope.models.device import precision_for, set_threads

NETWORKS = {"unet-distance": "distance", "unet-flows": "flows", "stardist": "star"}
#: Images that the forest learns from: 300 000 pixels in all come from them.
FOREST_IMAGES = 60
#: Images that learning curves are read off.
LOOKED_AT = 10
#: Training images that a method's threshold is chosen on.
TUNED_ON = 20


def main() -> None:
    """Train one peer, score it, write its JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=[*NETWORKS, "forest"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--minutes", type=float, default=20, help="of training (networks)")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, help="at most so many validation images")
    parser.add_argument(
        "--known-diameter",
        action="store_true",
        help="bring each image to one diameter, read off its truth also in validation",
    )
    args = parser.parse_args()
    set_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    output = args.output / f"{args.name}{'-known-diameter' if args.known_diameter else ''}.json"
    settings = Settings(args.data, args.output, images=args.images, threads=args.threads)
    training = sets.index(settings, "dsb2018", "dev-train")
    scored = sets.index(settings, "dsb2018", "dev-val")
    say(f"{args.name}: {len(training)} images to train on, {len(scored)} to score")
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out"
        out.mkdir()
        run = forest_run if args.name == "forest" else network_run
        facts = run(args, output, training, scored, out)
        folder = sets.copy(settings, "dsb2018", scored, Path(name), ("labels",))
        scores = sets.evaluate(out, folder / "labels", "instance")
    found: dict[str, Any] = {"scores": {}, "intervals": {}}
    by_modality = [
        (f"dsb2018 {m}, AP@0.5", "ap50", lambda r, m=m: r["modality"] == m)
        for m in sorted({r["modality"] for r in scored})
    ]
    for bar, metric, keep in (*sets.DSB_SCORES, *by_modality):
        mean = sets.mean_over(scores, scored, metric, keep)
        if mean is not None:
            found["scores"][bar] = mean.value
            found["intervals"][bar] = [mean.low, mean.high, mean.n]
            print(f"{mean.value:.4f}  {bar} ({mean})")
    head = {"name": output.stem, **facts, "threads": args.threads, "seed": args.seed}
    document = {**head, **found, "machine": machine(), "commit": commit()}
    output.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    output.with_suffix(".ckpt").unlink(missing_ok=True)


def network_run(
    args: argparse.Namespace,
    output: Path,
    training: list[dict[str, str]],
    scored: list[dict[str, str]],
    out: Path,
) -> dict[str, Any]:
    """Train a U-Net and predict every validation image."""
    from importlib import import_module

    from benchmarks.peers import training as loop

    method = import_module(f"benchmarks.peers.{NETWORKS[args.name]}")
    images: dict[str, list[Any]] = {}
    for row in training:
        images.setdefault(row["modality"], []).append(loop.read(args.data, row))
    held = [loop.read(args.data, row) for row in scored]
    plan = loop.crop_plan(args.known_diameter)
    net, facts = loop.train(
        method,
        images,
        held[:: max(1, len(held) // LOOKED_AT)],
        minutes=args.minutes,
        plan=plan,
        output=output,
        seed=args.seed,
        dtype=precision_for("cpu"),
    )
    everything = [image for part in images.values() for image in part]
    decoding = loop.best_threshold(
        net, method, everything[:: max(1, len(everything) // TUNED_ON)], plan
    )
    begun = time.monotonic()
    for image in held:
        write(out, image.name, loop.predict(net, method, image, plan, **decoding))
    parameters = sum(p.numel() for p in net.parameters())
    facts |= {"minutes": args.minutes, "parameters": parameters}
    facts |= decoding
    return facts | {"predict_s_per_image": (time.monotonic() - begun) / len(held)}


def forest_run(
    args: argparse.Namespace,
    output: Path,
    training: list[dict[str, str]],
    scored: list[dict[str, str]],
    out: Path,
) -> dict[str, Any]:
    """scikit-image's forest on background, inside and rim; a watershed grows the insides."""
    from scipy.ndimage import label
    from skimage.segmentation import find_boundaries, watershed

    from benchmarks.peers import training as loop
    from benchmarks.peers.distance import without_specks

    begun = time.monotonic()
    order = np.random.default_rng(args.seed).permutation(len(training))[:FOREST_IMAGES]
    images = [loop.read(args.data, training[int(i)]) for i in order]
    truths = []
    for image in images:
        ids = np.asarray(image.targets["semantic"])
        rim = find_boundaries(ids, mode="inner")
        truths.append(np.where(ids == 0, 0, np.where(rim, 2, 1)).astype(np.uint8))
    pixels = [i.pixels.astype(np.float32) for i in images]
    trees = forest.train(pixels, truths, seed=args.seed, threads=args.threads)
    trained = time.monotonic()
    for row in scored:
        image = loop.read(args.data, row)
        outside, inside, _ = forest.predict(trees, image.pixels.astype(np.float32))
        seeds, _ = label(inside > 0.5)
        ids = watershed(-inside, without_specks(seeds), mask=outside < 0.5)
        write(out, image.name, without_specks(ids))
    return {
        "seconds": trained - begun,
        "training_images": len(images),
        "predict_s_per_image": (time.monotonic() - trained) / len(scored),
    }


def write(folder: Path, name: str, ids: np.ndarray) -> None:
    """Ids as ``dinoscope evaluate`` reads them."""
    tifffile.imwrite(folder / f"{name}_instance.tif", ids.astype(np.uint32))


if __name__ == "__main__":
    main()
