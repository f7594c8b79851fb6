"""What limits *Improve*: other ways to learn from the same strokes, and what dense truth is worth.

Each way has the strokes, images and minutes of `benchmarks.annotate_improve`. *Strokes alone* is
the same training without what the fast loop says between them. *Auto-context* (Tu & Bai 2010, IEEE
TPAMI 32:1744) trains no network: a second forest looks, beside the features, at what the first one
says around each pixel. With the *dense truth* of the same images in place of the fast loop's word,
the network shows what it could reach in this time if every pixel had been painted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.annotate_improve import (
    MINUTES,
    SETS,
    Annotated,
    Outcome,
    annotate,
    before,
    end,
    improved,
    score,
)
from benchmarks.rows import Row
from benchmarks.settings import Kept, Settings, model_key
from dinoscope.config import AnnotateOptions
from dinoscope.engine.explore.store import TokenStore
from dinoscope.engine.improve import improve as rounds
from dinoscope.engine.improve.baseline import FastLoop
from dinoscope.engine.improve.guides import Guides, Teacher, fast_teacher
from dinoscope.engine.improve.material import AnnotatedPlane
from dinoscope.engine.scribble.classifier import FOLDS, Classifier, Samples, fit, stroke_numbers
from dinoscope.engine.scribble.features import PlaneFeatures, plain_columns
from dinoscope.engine.scribble.session import ScribbleSession
from dinoscope.models.checkpoint import load_model
from dinoscope.project import Project
from dinoscope.types import Progress

#: What is trained where the way is compared with another truth.
TUNE = "lora-all"
#: Deviations, in looked-at pixels, over which the first forest's probabilities are smoothed.
AROUND = (0, 2, 4, 8, 16)
#: Forests upon forests.
PASSES = 2
_SEEN = 800


@dataclass
class _Painted:
    """The features of a plane with its strokes: flat pixels, codes, and the stroke of each."""

    features: PlaneFeatures
    pixels: np.ndarray
    codes: np.ndarray
    strokes: np.ndarray


def dense_truth(work: Annotated) -> Any:
    """A teacher that knows every pixel, for `mock.patch`."""

    def told(
        loop: FastLoop, planes: Sequence[AnnotatedPlane]
    ) -> Generator[Progress, None, Teacher]:
        teacher = yield from fast_teacher(loop, planes)
        maps = []
        for plane in planes:
            truth = work.truths[work.sources.index(plane.source)]
            top, left = plane.origin
            height, width = plane.image.pixels.shape[1:]
            part = truth[top : top + height, left : left + width]
            classes = np.arange(len(work.classes))[:, None, None]
            maps.append(np.where(part == classes, 255, 0).astype(np.uint8))
        return replace(teacher, maps=tuple(maps))

    return told


def trained(settings: Settings, name: str, way: str, fast: float) -> dict[str, Any]:
    """A round with another truth than the fast loop's, as plain values of `Outcome`."""
    with tempfile.TemporaryDirectory() as folder:
        work = annotate(settings, name, Path(folder))
        if way == "strokes alone":
            return asdict(improved(settings, work, TUNE, fast, guide=False))
        with (
            mock.patch.object(rounds, "fast_teacher", dense_truth(work)),
            mock.patch.object(Guides, "draw_anew"),  # a truth is not changed
        ):
            return asdict(improved(settings, work, TUNE, fast))


def auto_context(settings: Settings, name: str) -> float:
    """Mean IoU of a forest on features and on what an earlier forest says around each pixel.

    What it learns from is said by forests that never saw the stroke it belongs to.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = annotate(settings, name, Path(folder))
        planes, plain = _planes(settings, work)
    plainly = [p.features for p in planes]
    looked_at, values = plainly, [f.at(p.pixels) for f, p in zip(plainly, planes, strict=True)]
    classifier = _fitted(planes, looked_at, values, plain)
    numbers = int(max(p.strokes.max() for p in planes)) + 1
    folds = np.random.default_rng(0).integers(0, FOLDS, numbers)
    for _ in range(PASSES):
        following = [np.zeros(0)] * len(planes)
        for fold in range(FOLDS):
            kept = [folds[p.strokes] != fold for p in planes]
            part = _fitted(planes, looked_at, values, plain, kept)
            for n, plane in enumerate(planes):
                context = _with_context(plainly[n], part, looked_at[n])
                own = context.at(plane.pixels)
                following[n] = own if fold == 0 else np.where(kept[n][:, None], following[n], own)
        looked_at = [
            _with_context(first, classifier, last)
            for first, last in zip(plainly, looked_at, strict=True)
        ]
        values = following
        classifier = _fitted(planes, looked_at, values, plain)

    def labels(number: int) -> np.ndarray:
        found = _said(classifier, looked_at[number]).argmax(0)
        stride = looked_at[number].stride
        height, width = work.truths[number].shape
        return np.asarray(found.repeat(stride, 0).repeat(stride, 1)[:height, :width], np.uint8)

    return score(work, labels)


def _planes(settings: Settings, work: Annotated) -> tuple[list[_Painted], tuple[int, ...]]:
    """All planes, and which of their features are smoothed intensities."""
    model = load_model(settings.model)
    session = ScribbleSession(model, AnnotateOptions(threads=1), TokenStore(), threads=1)
    found: list[_Painted] = []
    shift = 0
    with Project.open(work.folder, read_only=True) as project:
        for source, image in zip(work.sources, work.images, strict=True):
            dense = np.asarray(project.dense(source, ())).ravel()
            pixels = np.flatnonzero(dense)
            features = end(session.features(source, (), image))
            strokes = stroke_numbers(pixels, dense[pixels], features.shape) + shift
            shift = int(strokes.max()) + 1
            found.append(_Painted(features, pixels, dense[pixels], strokes))
    channels = max(work.images[0].size("C"), work.images[0].size("S"))
    return found, plain_columns(session.bank, channels)


def _fitted(
    planes: Sequence[_Painted],
    looked_at: Sequence[PlaneFeatures],
    values: Sequence[np.ndarray],
    plain: tuple[int, ...],
    kept: Sequence[np.ndarray] | None = None,
) -> Classifier:
    """The fast loop's classifier on the strokes, or on those that are kept."""
    chosen = kept or [np.ones(len(p.pixels), bool) for p in planes]
    return fit(
        Samples(
            np.concatenate([v[k] for v, k in zip(values, chosen, strict=True)]),
            np.concatenate([p.codes[k] for p, k in zip(planes, chosen, strict=True)]),
            np.concatenate([f.some(_SEEN)[:: len(planes)] for f in looked_at]),
            plain,
        )
    )


def _said(classifier: Classifier, features: PlaneFeatures) -> np.ndarray:
    """``(C, y, x)`` probabilities at the looked-at pixels."""
    flat = np.ascontiguousarray(features.maps.reshape(len(features.maps), -1).T)
    found = classifier.probabilities(flat)
    return np.asarray(np.moveaxis(found, 1, 0).reshape(-1, *features.maps.shape[1:]))


def _with_context(
    begin: PlaneFeatures, classifier: Classifier, features: PlaneFeatures
) -> PlaneFeatures:
    """`begin`, and what the classifier says of `features`, smoothed more and more."""
    said = _said(classifier, features) * np.float32(255)
    maps = [gaussian_filter(c, s) if s else c for s in AROUND for c in said]
    return replace(begin, maps=np.concatenate([begin.maps, np.rint(maps).astype(np.uint8)]))


def limit_rows(settings: Settings) -> Iterator[Row]:
    """Other ways than *Improve*'s, on each set, as gains over the fast loop."""
    minutes = settings.minutes or MINUTES
    kept = Kept(settings, "improve")
    asked = f"{minutes:g} min, {settings.threads} threads, {model_key(settings.model)}"
    for name in SETS:
        fast = float(kept.get(f"{name} fast loop {asked}", lambda n=name: before(settings, n)))
        context = kept.get(f"{name} auto-context {asked}", lambda n=name: auto_context(settings, n))
        yield Row(f"{name}: auto-context, mean IoU gained", context - fast, rival_value=fast)
        for way in ("strokes alone", "dense truth"):
            found = Outcome(
                **kept.get(
                    f"{name} {way} {asked}",
                    lambda n=name, w=way, f=fast: trained(settings, n, w, f),
                )
            )
            label = f"{name}: {way}, {TUNE}, {minutes:g} min"
            yield Row(f"{label}: gained in the preview", found.preview - fast, rival_value=fast)
            yield Row(f"{label}: the network alone over the fast loop", found.network - fast)
