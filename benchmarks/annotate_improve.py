"""What *Improve* adds to the fast loop, on the same simulated strokes and in the same minutes.

For each set, images of the validation split are annotated by simulated strokes. The fast loop is
fitted on all of them; a round of improvement trains on what is not held out. Both are judged on the
dense truth of these images, mean IoU over classes. Minutes are those of the processor with all
threads busy, so that other programs do not change what is compared.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.rows import Row
from benchmarks.sets import image_file, index
from benchmarks.settings import Kept, Settings, model_key
from benchmarks.strokes import draw
from dinoscope.arrays.files import read_image
from dinoscope.arrays.metrics import confusion_matrix, semantic_scores
from dinoscope.arrays.normalize import Normalization
from dinoscope.config import ImproveOptions, PredictOptions
from dinoscope.engine.improve.baseline import FastLoop
from dinoscope.engine.improve.improve import improve
from dinoscope.engine.improve.material import gather
from dinoscope.engine.predict import predict
from dinoscope.models.checkpoint import load_model
from dinoscope.models.device import available_cores
from dinoscope.models.model import Model
from dinoscope.project import Project
from dinoscope.types import ImageInput, PlaneOutput

#: Sets, how many of their images are annotated, and the names of their classes.
SETS: dict[str, tuple[int, tuple[str, ...]]] = {
    "em_isbi2012": (4, ("other", "membrane")),
    "em_vnc": (3, ("intracellular", "membrane", "mitochondrion", "synapse", "glia")),
    "wbc": (12, ("background", "cytoplasm", "nucleus")),
}
#: Painted pixels as a share of all.
SHARE = 0.01
TUNES = ("heads", "lora-last:4", "lora-all")
MINUTES = 10.0

_T = TypeVar("_T")


@dataclass(frozen=True)
class Annotated:
    """Images with their dense truth and their strokes, as a project."""

    images: Sequence[ImageInput]
    truths: Sequence[np.ndarray]
    classes: tuple[str, ...]
    sources: Sequence[str]
    folder: Path


def annotate(settings: Settings, name: str, folder: Path, seed: int = 0) -> Annotated:
    """A project with strokes on images of a set."""
    count, classes = SETS[name]
    rows = index(settings, name, "dev-val")
    rows = rows[:: max(1, len(rows) // count)][:count]
    images, truths, sources = [], [], []
    with Project.create(folder / f"{name}.dinoproject", classes) as project:
        project.set_settings(model=settings.model)
        for number, row in enumerate(rows):
            path = image_file(settings, name, row["id"])
            image = read_image(path)
            truth = np.asarray(
                read_image(image_file(settings, name, row["id"], "labels")).data[:, :]
            ).astype(np.uint8)
            source = project.add_source(image, path)
            (scribbles,) = draw(truth, [SHARE], seed + number)
            flat = np.flatnonzero(scribbles)
            project.record(source, (), "paint", flat, scribbles.ravel()[flat])
            images.append(image)
            truths.append(truth)
            sources.append(source)
    return Annotated(images, truths, classes, sources, project.folder)


def score(work: Annotated, predict_one: Callable[[int], np.ndarray]) -> float:
    """Mean IoU over classes on the dense truth of all images."""
    size = len(work.classes)
    counted = np.zeros((size, size + 1), np.int64)
    for number, truth in enumerate(work.truths):
        counted += confusion_matrix(truth, predict_one(number), size)
    return semantic_scores(counted)["iou"]


def fast_loop(settings: Settings, work: Annotated) -> float:
    """The fast loop's mean IoU: fitted on all strokes."""
    model = load_model(settings.model)
    with Project.open(work.folder, read_only=True) as project:
        material = gather(project, Normalization.from_json(model.card.normalization))
    images = dict(zip(work.sources, work.images, strict=True))
    loop = FastLoop(model, images, work.classes, threads=settings.threads or available_cores())
    try:
        _end(loop.fit(material.planes))
        by_source = {p.source: p for p in material.planes}

        def labels(number: int) -> np.ndarray:
            plane = by_source[work.sources[number]]
            found = np.zeros(work.truths[number].shape, np.uint8)
            maps = _end(loop.probabilities(plane))
            top, left = plane.origin
            found[top : top + maps.shape[1], left : left + maps.shape[2]] = maps.argmax(0)
            return found

        return score(work, labels)
    finally:
        loop.close()


def improved(settings: Settings, work: Annotated, tune: str) -> tuple[float, str]:
    """The new model's mean IoU, and what the round said of itself."""
    threads = settings.threads or available_cores()
    minutes = settings.minutes or MINUTES
    # Each round begins with the same model: an earlier one that was better must not help.
    options = ImproveOptions(minutes=minutes, tune=tune, threads=threads)
    summary = _end(
        improve(
            work.folder,
            options,
            base=settings.model,
            clock=lambda: time.process_time() / threads,
        )
    )
    model = load_model(summary.output)
    value = score(work, lambda number: _labels(model, work.images[number], threads))
    own = f"held-out strokes {summary.before.get('iou', 0):.3f} to {summary.after['iou']:.3f}"
    return value, f"{summary.tune}, {own}"


def _labels(model: Model, image: ImageInput, threads: int) -> np.ndarray:
    for event in predict(image, model, PredictOptions(("semantic",), threads=threads)):
        if isinstance(event, PlaneOutput):
            return np.asarray(event.arrays["semantic"])
    raise RuntimeError(f"{image.name} was not predicted")


def outcome(settings: Settings, name: str, tune: str) -> tuple[float, str]:
    """Mean IoU on a set, of the fast loop (`tune` ``"none"``) or after a round; what was told."""
    with tempfile.TemporaryDirectory() as folder:
        work = annotate(settings, name, Path(folder))
        if tune == "none":
            return fast_loop(settings, work), ""
        return improved(settings, work, tune)


def improve_rows(settings: Settings) -> Iterator[Row]:
    """Gain over the fast loop of each way of tuning, on each set; the best of them last."""
    gains: dict[str, list[float]] = {tune: [] for tune in TUNES}
    minutes = settings.minutes or MINUTES
    kept = Kept(settings, "improve")
    asked = f"{minutes:g} min, {settings.threads} threads, {model_key(settings.model)}"

    def judged(name: str, tune: str) -> tuple[float, str]:
        value, told = kept.get(f"{name} {tune} {asked}", lambda: outcome(settings, name, tune))
        return float(value), str(told)

    for name in SETS:
        before, _ = judged(name, "none")
        yield Row(f"{name}, {SHARE:.0%} strokes: mean IoU of the fast loop", before)
        for tune in TUNES:
            value, told = judged(name, tune)
            gains[tune].append(value - before)
            yield Row(
                f"{name}, {tune}, {minutes:g} min: mean IoU gained over the fast loop ({told})",
                value - before,
                rival_value=before,
            )
    means = {tune: float(np.mean(values)) for tune, values in gains.items()}
    best = max(means, key=lambda tune: means[tune])
    yield Row(
        f"Improve, {minutes:g} min: mean IoU gained, mean of {len(SETS)} sets, best way ({best})",
        means[best],
        0.03,
        0.08,
    )


def _end(steps: Generator[Any, None, _T]) -> _T:
    """What a generator returns."""
    try:
        while True:
            next(steps)
    except StopIteration as stop:
        found: _T = stop.value
        return found
