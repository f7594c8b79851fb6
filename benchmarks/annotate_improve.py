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
from dataclasses import asdict, dataclass
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
from dinoscope.config import (
    AnnotateOptions,
    ImproveOptions,
    PredictOptions,
    available_cores,
)
from dinoscope.engine.explore.store import TokenStore
from dinoscope.engine.improve.baseline import FastLoop
from dinoscope.engine.improve.improve import improve
from dinoscope.engine.improve.material import gather
from dinoscope.engine.predict import predict
from dinoscope.engine.scribble.session import ScribbleSession
from dinoscope.models.checkpoint import load_model
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
        end(loop.fit(material.planes))
        by_source = {p.source: p for p in material.planes}

        def labels(number: int) -> np.ndarray:
            plane = by_source[work.sources[number]]
            found = np.zeros(work.truths[number].shape, np.uint8)
            maps = end(loop.probabilities(plane))
            top, left = plane.origin
            found[top : top + maps.shape[1], left : left + maps.shape[2]] = maps.argmax(0)
            return found

        return score(work, labels)
    finally:
        loop.close()


@dataclass(frozen=True)
class Outcome:
    """Mean IoU on the dense truth: of the new network alone, of the preview with it, and of what
    the user has afterwards (the old preview where the new model was not better on held-out
    strokes); and what the round said."""

    network: float
    preview: float
    after: float
    told: str


def improved(
    settings: Settings, work: Annotated, tune: str, before: float, *, guide: bool = True
) -> Outcome:
    """A round of improvement, when the fast loop's mean IoU was `before`."""
    threads = settings.threads or available_cores()
    minutes = settings.minutes or MINUTES
    # Each round begins with the same model: an earlier one that was better must not help.
    options = ImproveOptions(minutes=minutes, tune=tune, threads=threads, guide=guide)
    summary = end(
        improve(
            work.folder,
            options,
            base=settings.model,
            clock=lambda: time.process_time() / threads,
        )
    )
    model = load_model(summary.output)
    network = score(work, lambda number: _labels(model, work.images[number], threads))
    preview = _preview(model, work, threads)
    own = f"held-out strokes {summary.before.get('iou', 0):.3f} to {summary.after['iou']:.3f}"
    return Outcome(
        network,
        preview,
        preview if summary.kept == "new" else before,
        f"{summary.tune}, {own}, {summary.kept} kept",
    )


def _preview(model: Model, work: Annotated, threads: int) -> float:
    """Mean IoU of what the panel shows with a model: all strokes, and its own head's say."""
    session = ScribbleSession(
        model, AnnotateOptions(threads=threads), TokenStore(), threads=threads, classes=work.classes
    )
    features = {}
    with Project.open(work.folder, read_only=True) as project:
        for source, image in zip(work.sources, work.images, strict=True):
            strokes = np.asarray(project.dense(source, ())).ravel()
            pixels = np.flatnonzero(strokes)
            session.set_strokes(source, (), pixels, strokes[pixels])
            features[source] = end(session.features(source, (), image))
    session.fit()

    def labels(number: int) -> np.ndarray:
        source = work.sources[number]
        return session.predict(source, (), features[source]).labels - np.uint8(1)

    return score(work, labels)


def _labels(model: Model, image: ImageInput, threads: int) -> np.ndarray:
    for event in predict(image, model, PredictOptions(("semantic",), threads=threads)):
        if isinstance(event, PlaneOutput):
            return np.asarray(event.arrays["semantic"])
    raise RuntimeError(f"{image.name} was not predicted")


def before(settings: Settings, name: str) -> float:
    """Mean IoU of the fast loop on a set."""
    with tempfile.TemporaryDirectory() as folder:
        return fast_loop(settings, annotate(settings, name, Path(folder)))


def outcome(settings: Settings, name: str, tune: str, fast: float) -> dict[str, Any]:
    """What a round does on a set, as plain values of `Outcome`."""
    with tempfile.TemporaryDirectory() as folder:
        return asdict(improved(settings, annotate(settings, name, Path(folder)), tune, fast))


def improve_rows(settings: Settings) -> Iterator[Row]:
    """Gain over the fast loop of each way of tuning, on each set; the best of them last."""
    gains: dict[str, list[float]] = {tune: [] for tune in TUNES}
    minutes = settings.minutes or MINUTES
    kept = Kept(settings, "improve")
    asked = f"{minutes:g} min, {settings.threads} threads, {model_key(settings.model)}"
    for name in SETS:
        fast = float(kept.get(f"{name} fast loop {asked}", lambda n=name: before(settings, n)))
        yield Row(f"{name}, {SHARE:.0%} strokes: mean IoU of the fast loop", fast)
        for tune in TUNES:
            found = Outcome(
                **kept.get(
                    f"{name} {tune} {asked}",
                    lambda n=name, t=tune, f=fast: outcome(settings, n, t, f),
                )
            )
            gains[tune].append(found.after - fast)
            label = f"{name}, {tune}, {minutes:g} min"
            yield Row(
                f"{label}: mean IoU gained by what the user has afterwards ({found.told})",
                found.after - fast,
                rival_value=fast,
            )
            yield Row(f"{label}: the preview with the new model", found.preview)
            yield Row(f"{label}: the new network alone", found.network)
    means = {tune: float(np.mean(values)) for tune, values in gains.items()}
    best = max(means, key=lambda tune: means[tune])
    yield Row(
        f"Improve, {minutes:g} min: mean IoU gained, mean of {len(SETS)} sets, best way ({best})",
        means[best],
        0.03,
        0.08,
    )


def end(steps: Generator[Any, None, _T]) -> _T:
    """What a generator returns."""
    try:
        while True:
            next(steps)
    except StopIteration as stop:
        found: _T = stop.value
        return found
