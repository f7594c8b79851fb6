"""The bars of the embedded model, a part of the suite each. See ``benchmarks/results/README.md``.

Scores come from ``dinoscope predict`` with its defaults and ``dinoscope evaluate``.
"""

from __future__ import annotations

import csv
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import ablation, fewshot, outside, probe, sets, zoom
from benchmarks.rows import Row
from benchmarks.settings import Settings, model_key, say

USIIGACI = "phase_contrast_usiigaci"
FOUR_PHASES = ("G1", "S_phase", "G2", "Prophase")
#: Must and aim of `sets.DSB_SCORES`.
DSB_BARS = ((0.80, 0.90), (0.86, 0.92), (0.68, 0.76), (0.50, 0.70))
SPEED_REPEATS = 7
CORNERS = ("ymin", "xmin", "ymax", "xmax")


def rival(settings: Settings, score: str) -> float | None:
    """The best result of the peers that were trained here, where there are any."""
    if settings.rivals is None:
        return None
    found = [
        json.loads(path.read_text(encoding="utf-8")).get("scores", {}).get(score)
        for path in sorted(settings.rivals.glob("*.json"))
    ]
    return max((float(v) for v in found if v is not None), default=None)


def dsb_rows(settings: Settings) -> Iterator[Row]:
    """Nuclei of six modalities, and phase contrast with the diameter estimated and given."""
    label = model_key(settings.model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = sets.index(settings, "dsb2018", "dev-val")
        say(f"dsb2018: {len(rows)} images through {label}")
        scores = sets.predicted_scores(
            settings, sets.copy(settings, "dsb2018", rows, folder), settings.model
        )
    for (bar, metric, keep), (must, aim) in zip(sets.DSB_SCORES, DSB_BARS, strict=True):
        yield _mean_row(settings, bar, scores, rows, metric, keep, must, aim)
    for modality in sorted({r["modality"] for r in rows}):
        yield _mean_row(
            settings,
            f"dsb2018 {modality}, AP@0.5",
            scores,
            rows,
            "ap50",
            lambda r, m=modality: r["modality"] == m,
        )
    yield from _usiigaci(settings)


def _mean_row(settings, bar, scores, rows, metric, keep, must=None, aim=None) -> Row:
    mean = sets.mean_over(scores, rows, metric, keep)
    if mean is None:
        return Row(f"{bar} (no such image)", None, must=must, aim=aim)
    return Row(
        f"{bar}, {mean.n} images (more)",
        mean.value,
        must=must,
        aim=aim,
        rival_value=rival(settings, bar),
        low=mean.low,
        high=mean.high,
    )


def _usiigaci(settings: Settings) -> Iterator[Row]:
    from dinoscope.arrays.axes import read_plane
    from dinoscope.arrays.files import read_image
    from dinoscope.arrays.labels import typical_diameter

    rows = sets.index(settings, USIIGACI, "dev-val")
    with tempfile.TemporaryDirectory() as name:
        folder = sets.copy(settings, USIIGACI, rows, Path(name))
        say(f"usiigaci: {len(rows)} images, diameter estimated")
        scores = sets.predicted_scores(settings, folder, settings.model)
        yield _mean_row(settings, "usiigaci, AP@0.5", scores, rows, "ap50", bool, 0.58, 0.72)
        say("usiigaci: each image with its diameter")
        shutil.rmtree(folder / "out")
        for row in rows:
            image = next((folder / "images").glob(f"{row['id']}.*"))
            truth = read_image(sets.image_file(settings, USIIGACI, row["id"], "labels"))
            diameter = typical_diameter(read_plane(truth, ())[0].astype(np.int32))
            assert diameter is not None
            flags = ("--diameter", f"{diameter:.1f}")
            sets.predict(settings, image, folder / "out", "instance", settings.model, *flags)
        scores = sets.evaluate(folder / "out", folder / "labels", "instance")
        bar = "usiigaci, diameter given, AP@0.5"
        yield _mean_row(settings, bar, scores, rows, "ap50", bool)


def class_rows(settings: Settings) -> Iterator[Row]:
    """Red-cell and cell-cycle classes of the adapters, and objects of whole smears."""
    for name, model, flags in (
        ("rbc12_crops", settings.redcells, ()),
        ("cellcycle_ifc", settings.cellcycle, ("--axes", "CYX")),
    ):
        rows = sets.index(settings, name, "dev-val")
        say(f"{name}: {len(rows)} images through {model_key(model)}")
        with tempfile.TemporaryDirectory() as place:
            folder = sets.copy(settings, name, rows, Path(place), ("images",))
            truth = folder / "truth.csv"
            with truth.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["image", "class"])
                writer.writerows([r["id"], r["class_name"]] for r in rows)
            sets.predict(
                settings, folder / "images", folder / "out", "classification", model, *flags
            )
            scores = sets.evaluate(folder / "out", truth, "classification")
        if name == "rbc12_crops":
            yield Row("rbc12 macro-F1, 11 classes (more)", scores["f1_macro"], must=0.70, aim=0.85)
        else:
            value = float(np.mean([scores.get(f"f1_{c}", 0.0) for c in FOUR_PHASES]))
            bar = "cellcycle macro-F1 over G1, S_phase, G2, Prophase (more)"
            yield Row(bar, value, must=0.70, aim=0.80)
            yield Row("cellcycle macro-F1, 7 classes (more)", scores["f1_macro"])
        yield Row(f"{name} accuracy (more)", scores["accuracy"])
    yield from _smears(settings)


def _smears(settings: Settings) -> Iterator[Row]:
    """Share of annotated red cells that an object's bounding box meets at IoU 0.5."""
    rows = sets.index(settings, "bccd_boxes", "dev-val")
    assert settings.data is not None
    with (settings.data / "bccd_boxes" / "boxes.csv").open(newline="", encoding="utf-8") as file:
        cells = [b for b in csv.DictReader(file) if b["class_name"] == "RBC"]
    boxes = {r["id"]: [b for b in cells if b["id"] == r["id"]] for r in rows}
    wanted = {
        stem: np.array([[float(b[c]) for c in CORNERS] for b in own]).reshape(-1, 4)
        for stem, own in boxes.items()
    }
    sides = np.concatenate([np.sqrt((w[:, 2:] - w[:, :2]).prod(1)) for w in wanted.values()])
    typical = f"{0.9 * np.median(sides):.0f}"  # a disc in its box, a little deformed
    say(f"bccd_boxes: {len(rows)} smears through {model_key(settings.model)}")
    with tempfile.TemporaryDirectory() as place:
        folder = sets.copy(settings, "bccd_boxes", rows, Path(place), ("images",))
        for how, flags in (("automatic", ()), (f"{typical} px", ("--diameter", typical))):
            found = _boxes_found(settings, folder, wanted, flags)
            bar = f"bccd: red-cell boxes found at IoU 0.5, of {len(sides)}, diameter {how} (more)"
            yield Row(bar, found)
        yield _smear_classes(settings, next((folder / "images").iterdir()), folder / "classes")


def _boxes_found(settings, folder, wanted, flags) -> float:
    """Share of boxes that the bounding box of an object meets at IoU 0.5."""
    from dinoscope.arrays.files import read_image

    output = folder / "out"
    shutil.rmtree(output, ignore_errors=True)
    sets.predict(settings, folder / "images", output, "instance", settings.model, *flags)
    overlaps: list[float] = []
    for stem, own in wanted.items():
        ids = np.asarray(read_image(output / f"{stem}_instance.tif").data)
        found = object_boxes(ids.reshape(ids.shape[-2:]))
        overlaps += box_overlaps(own, found).max(1, initial=0).tolist()
    return float(np.mean(np.array(overlaps) >= 0.5))


def _smear_classes(settings, image: Path, output: Path) -> Row:
    """Share of a smear's objects that one run gives a red-cell class."""
    bar = "bccd: objects of a smear with a red-cell class (more)"
    tasks = "instance,classification"
    try:
        done = sets.predict(settings, image, output, tasks, settings.redcells)
    except RuntimeError:
        say("instances and red-cell classes cannot be predicted together in one run")
        return Row(f"{bar}: not offered by the command line", None)
    objects = done["images"][0]["objects"]
    with (output / "classification.csv").open(newline="", encoding="utf-8") as file:
        classed = sum(r["object"] not in ("", "0") for r in csv.DictReader(file))
    return Row(bar, classed / objects if objects else None)


def object_boxes(ids: np.ndarray) -> np.ndarray:
    """``(n, 4)`` boxes ``y0, x0, y1, x1`` of the objects of an id image."""
    from scipy.ndimage import find_objects

    slices = [s for s in find_objects(ids.astype(np.int32)) if s is not None]
    found = [(s[0].start, s[1].start, s[0].stop, s[1].stop) for s in slices]
    return np.array(found, float).reshape(-1, 4)


def box_overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of ``(n, 4)`` with ``(m, 4)`` boxes ``y0, x0, y1, x1``: ``(n, m)``.

    Examples
    --------
    >>> box_overlaps(np.array([[0, 0, 2, 2]]), np.array([[0, 0, 2, 1], [5, 5, 6, 6]])).tolist()
    [[0.5, 0.0]]
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(2)
    area = [(b[:, 2:] - b[:, :2]).prod(1) for b in (first, second)]
    return both / (area[0][:, None] + area[1][None] - both)


def speed_rows(settings: Settings) -> Iterator[Row]:
    """All dense tasks and colours on 1024², against a bare ViT-S/14 forward on four 518² tiles."""
    import timm

    from benchmarks.session import nuclei
    from dinoscope.config import PredictOptions
    from dinoscope.engine.predict import run_prediction
    from dinoscope.models.checkpoint import load_model
    from dinoscope.models.device import set_threads, torch
    from dinoscope.models.registry import get_spec
    from dinoscope.types import ImageInput

    set_threads(settings.threads)
    model = load_model(settings.model, device="cpu")
    image = ImageInput(nuclei(1024), "YX", name="nuclei")
    spec = get_spec("dinov2_vits14")
    rival_vit = timm.create_model(spec.timm_id, **spec.timm_kwargs()).eval()
    tiles = torch.rand(4, 3, 518, 518)
    tasks = ("instance", "semantic", "depth", "pca")
    runs = {
        "estimated": PredictOptions(tasks, device="cpu", threads=settings.threads),
        "given": PredictOptions(tasks, device="cpu", threads=settings.threads, diameter_px=28.0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in (*runs, "batch", "one by one")}
    say(f"1024², {SPEED_REPEATS} repeats in turn, {torch.get_num_threads()} threads")
    for number in range(SPEED_REPEATS + 1):
        for name, options in runs.items():
            begun = time.perf_counter()
            run_prediction(image, model, options)
            seconds[name].append(time.perf_counter() - begun)
        for name, size in (("batch", 4), ("one by one", 1)):
            begun = time.perf_counter()
            with torch.inference_mode():
                for part in tiles.split(size):
                    rival_vit(part)
            seconds[name].append(time.perf_counter() - begun)
        if number == 0:  # the first round warms up
            seconds = {name: [] for name in seconds}
    median = {name: statistics.median(values) for name, values in seconds.items()}
    vit = min(median["batch"], median["one by one"])
    what = "instance + semantic + depth + PCA on 1024², diameter"
    yield Row("ViT-S/14 fp32 forward, four 518² tiles, median s (less)", vit)
    for name in runs:
        yield Row(f"{what} {name}, median s (less)", median[name], rival_value=vit)
    yield Row(f"{what} estimated, over ViT-S/14 (less)", median["estimated"] / vit, 0.6, 0.3)
    yield Row(f"{what} given, over ViT-S/14 (less)", median["given"] / vit)


PARTS = {
    "dsb": dsb_rows,
    "outside": outside.rows,
    "classes": class_rows,
    "zoom": zoom.rows,
    "probe": probe.rows,
    "ablation": ablation.rows,
    "fewshot": fewshot.nuclei_rows,
    "fewshot-semantic": fewshot.semantic_rows,
    "speed": speed_rows,
}
