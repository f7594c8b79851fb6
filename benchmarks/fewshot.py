"""Few annotated images: nuclei from a twin that never saw any, and sets that never shape weights.

``--twin`` is a model of ``benchmarks.train_embedded --exclude dsb2018``; it does not ship.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from benchmarks import forest, sets
from benchmarks.accuracy import dinoscope
from benchmarks.retrain import few, retrain
from benchmarks.rows import Row
from benchmarks.settings import Kept, Settings, model_key, say

#: Images, must, aim.
COUNTS = ((1, 0.60, 0.80), (5, 0.75, 0.86), (10, 0.79, 0.88))
MINUTES = 10.0
SEMANTIC_IMAGES = 5
#: Folder of the set, label, the classes whose IoU counts, the label code that is made class 1.
SEMANTIC: dict[str, tuple[str, tuple[int, ...], int | None]] = {
    "wbc": ("nucleus and cytoplasm mIoU", (1, 2), None),
    "em_vnc": ("mitochondria IoU", (1,), 2),
    "em_isbi2012": ("membrane IoU", (1,), 1),
}


def finetune(
    settings: Settings, kept: Kept, key: str, folder: Path, task: str, base: str, seed: int
) -> Path:
    """``dinoscope train`` on a folder; its learning curve is kept as CSV."""
    output = kept.file(key, ".dinoscope")
    minutes = settings.minutes_or(MINUTES)
    done = dinoscope(
        *("train", "--images", str(folder / "images"), "--labels", str(folder / "labels")),
        *("--task", task, "--from", base, "--minutes", str(minutes), "--seed", str(seed)),
        *("--output", str(output), "--resume", *settings.thread_flags, *settings.train_flags),
    )
    kept.curve(key, done["history"])
    return output


def trained(settings: Settings) -> str:
    """The flags that every ``dinoscope train`` got, for keys."""
    return " ".join(settings.train_flags) or "defaults"


def nuclei_rows(settings: Settings) -> Iterator[Row]:
    """Zero, one, five and ten images of nuclei in fluorescence, and from-scratch twins beside."""
    twin = settings.need_twin("one trained with --exclude dsb2018")
    if sets.saw(twin, "dsb2018"):
        say(f"{twin} says that it saw dsb2018: its results are not the bar")
    kept = Kept(settings, "fewshot")
    scored = sets.index(settings, "dsb2018", "dev-val", sets.fluorescence)
    minutes = settings.minutes_or(MINUTES)
    label = f"{minutes:g} min, {len(scored)} scored"
    labels = {"scratch": label, "twin": f"{model_key(twin)}, {trained(settings)}, {label}"}
    say(f"{2 * settings.draws * len(COUNTS)} runs of {minutes:g} minutes, and their scores")
    zero = kept.get(
        f"zero, {model_key(twin)}, {len(scored)} scored",
        lambda: nuclei_score(settings, scored, twin),
    )
    yield Row(f"fewshot nuclei, 0 images, AP@0.5, {len(scored)} scored (more)", zero)
    for count, must, aim in COUNTS:
        found: dict[str, list[float]] = {"twin": [], "scratch": []}
        for draw in range(settings.draws):
            images = few(settings, count, draw)
            for start in found:
                key = f"{count} images, draw {draw}, {start}, {labels[start]}"
                value = kept.get(
                    key,
                    lambda k=key, i=images, d=draw, s=start: nuclei_run(
                        settings, kept, k, i, d, twin if s == "twin" else None, scored
                    ),
                )
                found[start].append(value)
        mean = float(np.mean(found["twin"]))
        scratch = float(np.mean(found["scratch"]))
        spread = float(np.std(found["twin"], ddof=1)) if settings.draws > 1 else 0.0
        bar = f"fewshot nuclei, {count} images, {settings.draws} draws"
        yield Row(f"{bar}, AP@0.5, ± {spread:.3f} (more)", mean, must, aim, rival_value=scratch)
        spread = float(np.std(found["scratch"], ddof=1)) if settings.draws > 1 else 0.0
        yield Row(f"{bar}, from scratch, AP@0.5, ± {spread:.3f} (more)", scratch)


def nuclei_run(
    settings: Settings,
    kept: Kept,
    key: str,
    images: list[dict[str, str]],
    draw: int,
    twin: str | None,
    scored: list[dict[str, str]],
) -> float:
    """Train on a few images and score; without a twin, the whole network from random weights."""
    if twin is None:
        minutes = settings.minutes_or(MINUTES)
        path, _ = retrain(settings, kept, key, images, minutes=minutes, seed=draw)
    else:
        with tempfile.TemporaryDirectory() as name:
            folder = sets.copy(settings, "dsb2018", images, Path(name))
            path = finetune(settings, kept, key, folder, "instance", twin, draw)
    return nuclei_score(settings, scored, str(path))


def nuclei_score(settings: Settings, scored: list[dict[str, str]], model: str) -> float:
    """AP@0.5 of `model` with the command line's defaults."""
    with tempfile.TemporaryDirectory() as name:
        folder = sets.copy(settings, "dsb2018", scored, Path(name))
        return float(sets.predicted_scores(settings, folder, model)["ap50"])


def semantic_rows(settings: Settings) -> Iterator[Row]:
    """Five images against scikit-image's forest on the same: white cells, mitochondria,
    membranes."""
    kept = Kept(settings, "fewshot-semantic")
    minutes = settings.minutes_or(MINUTES)
    label = f"{model_key(settings.model)}, {trained(settings)}, {minutes:g} min"
    limit = f", {settings.images} images" if settings.images else ""
    say(f"{len(SEMANTIC) * settings.draws} runs of {minutes:g} minutes, and as many forests")
    for name, (what, _, _) in SEMANTIC.items():
        own, trees = [], []
        for draw in range(settings.draws):
            key = f"{name}, draw {draw}"
            own.append(
                kept.get(
                    f"{key}, {label}{limit}",
                    lambda n=name, d=draw, k=f"{key}, {label}{limit}": semantic_run(
                        settings, kept, k, n, d
                    ),
                )
            )
            trees.append(
                kept.get(f"{key}, forest{limit}", lambda n=name, d=draw: forest_run(settings, n, d))
            )
        ours, theirs = float(np.mean(own)), float(np.mean(trees))
        bar = f"fewshot {name}, {SEMANTIC_IMAGES} images, {settings.draws} draws"
        yield Row(f"{bar}, {what} (more)", ours, rival_value=theirs)
        yield Row(f"{bar}, {what} less the forest's (more)", ours - theirs, must=0.0, aim=0.10)


def semantic_images(settings: Settings, name: str, draw: int) -> list[dict[str, str]]:
    """Five training images of a set, evenly over classes or slices."""
    rows = sets.index(settings, name, "dev-train")
    rng = np.random.default_rng([20241, draw])
    if name == "wbc":  # one of each common class, both subsets by chance
        classes = sorted({r["class_name"] for r in rows})[:SEMANTIC_IMAGES]
        return [_one(rng, [r for r in rows if r["class_name"] == c]) for c in classes]
    parts = np.array_split(np.arange(len(rows)), SEMANTIC_IMAGES)
    return [_one(rng, [rows[int(i)] for i in part]) for part in parts]


def _one(rng: np.random.Generator, rows: list[dict[str, str]]) -> dict[str, str]:
    return rows[int(rng.integers(len(rows)))]


def semantic_folder(
    settings: Settings, name: str, rows: list[dict[str, str]], folder: Path
) -> Path:
    """Images and class images; where one class is asked for, it is 1 and all else 0."""
    from dinoscope.arrays.axes import read_plane
    from dinoscope.arrays.files import read_image

    only = SEMANTIC[name][2]
    sets.copy(settings, name, rows, folder, ("images",))
    (folder / "labels").mkdir()
    for row in rows:
        path = sets.image_file(settings, name, row["id"], "labels")
        truth = read_plane(read_image(path), ())[0]
        truth = truth if only is None else truth == only
        tifffile.imwrite(folder / "labels" / f"{row['id']}.tif", truth.astype(np.uint8))
    return folder


def semantic_run(settings: Settings, kept: Kept, key: str, name: str, draw: int) -> float:
    """Fine-tune on five images and score."""
    with tempfile.TemporaryDirectory() as place:
        images = semantic_images(settings, name, draw)
        folder = semantic_folder(settings, name, images, Path(place) / "train")
        path = finetune(settings, kept, key, folder, "semantic", settings.model, draw)
        scored = sets.index(settings, name, "dev-val")
        folder = semantic_folder(settings, name, scored, Path(place) / "val")
        scores = sets.predicted_scores(settings, folder, str(path), "semantic")
    return mean_iou(scores, name)


def forest_run(settings: Settings, name: str, draw: int) -> float:
    """The forest on the same five images, scored in the same way."""
    from dinoscope.arrays.axes import read_plane
    from dinoscope.arrays.files import image_stem, read_image

    def planes(folder: Path) -> list[np.ndarray]:
        return [
            read_plane(read_image(p), ()).astype(np.float32) / 255 for p in sorted(folder.iterdir())
        ]

    with tempfile.TemporaryDirectory() as place:
        images = semantic_images(settings, name, draw)
        folder = semantic_folder(settings, name, images, Path(place) / "train")
        truths = [read_plane(read_image(p), ())[0] for p in sorted((folder / "labels").iterdir())]
        trees = forest.train(planes(folder / "images"), truths, seed=draw, threads=settings.threads)
        scored = sets.index(settings, name, "dev-val")
        folder = semantic_folder(settings, name, scored, Path(place) / "val")
        (folder / "out").mkdir()
        for path, pixels in zip(
            sorted((folder / "images").iterdir()), planes(folder / "images"), strict=True
        ):
            said = trees.classes_[forest.predict(trees, pixels).argmax(0)].astype(np.uint8)
            tifffile.imwrite(folder / "out" / f"{image_stem(path)}_semantic.tif", said)
        scores = sets.evaluate(folder / "out", folder / "labels", "semantic")
    return mean_iou(scores, name)


def mean_iou(scores: dict[str, Any], name: str) -> float:
    """Mean IoU, over all pixels of all images, of the classes that count."""
    return float(np.mean([scores.get(f"iou_{c}", 0.0) for c in SEMANTIC[name][1]]))
