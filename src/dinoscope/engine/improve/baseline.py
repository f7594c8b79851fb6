"""What the user has now, judged on the annotations that judge the new model."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dinoscope.config import AnnotateOptions
from dinoscope.engine.explore.store import TokenStore
from dinoscope.engine.improve.material import AnnotatedPlane
from dinoscope.engine.improve.scores import HeldScores, Told
from dinoscope.engine.scribble.session import ScribbleSession
from dinoscope.models.card import HeadSpec
from dinoscope.models.model import Model
from dinoscope.tasks.base import IGNORE
from dinoscope.types import ImageInput, Progress


class FastLoop:
    """The fast loop's classifier, fitted on the strokes of some planes only.

    Parameters
    ----------
    model : Model
        Whose tokens it looks at.
    images : mapping
        The whole images by source.
    classes : sequence of str
        Of the semantic head, background first.
    joined : bool
        Let the model's own semantic head of these classes join it, as in the preview.
    """

    def __init__(
        self,
        model: Model,
        images: Mapping[str, ImageInput],
        classes: Sequence[str],
        *,
        threads: int = 1,
        seed: int = 0,
        joined: bool = False,
    ) -> None:
        self.images = images
        self.classes = tuple(classes)
        self._folder = tempfile.TemporaryDirectory(prefix="dinoscope-improve-")
        store = TokenStore(Path(self._folder.name))
        # The tokens are computed with as many threads, which then stays so.
        options = AnnotateOptions(seed=seed, threads=threads)
        self._session = ScribbleSession(
            model,
            options,
            store,
            threads=max(1, threads),
            classes=self.classes if joined else (),
        )

    def fit(self, planes: Sequence[AnnotatedPlane]) -> Generator[Progress, None, bool]:
        """Learn from the strokes of `planes`; whether there were any."""
        session = self._session
        for plane in planes:
            if "semantic" not in plane.image.targets:
                continue
            pixels, codes = stroke_pixels(plane, self.images[plane.source].size("X"))
            yield from session.features(plane.source, plane.index, self.images[plane.source])
            session.set_strokes(plane.source, plane.index, pixels, codes)
        return session.fit() is not None

    def weights(self) -> list[float]:
        """How much a painted pixel of each class counts, for the class's area; at most 1."""
        found = [1.0] * len(self.classes)
        classifier = self._session.classifier
        if classifier is not None and classifier.frequency is not None:
            for code, weight in zip(classifier.codes, classifier.frequency, strict=True):
                found[int(code) - 1] = float(weight)
        return found

    def probabilities(self, plane: AnnotatedPlane) -> Generator[Progress, None, np.ndarray]:
        """``(K, Y, X)`` float32 of the semantic classes, on the plane's window."""
        session = self._session
        image = self.images[plane.source]
        features = yield from session.features(plane.source, plane.index, image)
        top, left = plane.origin
        height, width = plane.image.pixels.shape[1:]
        region = (top, left, top + height, left + width)
        found = session.predict(
            plane.source, plane.index, features, region, want=("probabilities",)
        )
        maps = np.zeros((len(self.classes), height, width), np.float32)
        if session.classifier is not None and found.probabilities is not None:
            for code, each in zip(session.classifier.codes, found.probabilities, strict=True):
                maps[int(code) - 1] = each
        return maps

    def close(self) -> None:
        """Remove what was kept on disk."""
        self._folder.cleanup()


def stroke_pixels(plane: AnnotatedPlane, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Strokes of a window as flat indices into its whole plane, and scribble codes."""
    truth = np.asarray(plane.image.targets["semantic"])
    rows, columns = np.nonzero(truth != IGNORE)
    codes = truth[rows, columns] + np.uint8(1)
    flat = (rows + plane.origin[0]).astype(np.int64) * width + columns + plane.origin[1]
    return flat, codes


def fast_scores(
    loop: FastLoop, held: Sequence[AnnotatedPlane]
) -> Generator[Progress, None, dict[str, float]]:
    """Scores of the fitted classifier on held-out strokes."""
    told = Told(loop.classes, loop.weights())
    for plane in held:
        if "semantic" in plane.image.targets:
            maps = yield from loop.probabilities(plane)
            told.add_classes(np.asarray(plane.image.targets["semantic"]), maps)
    return {n: v for n, v in told.scores().items() if n.startswith(("iou", "log_loss"))}


def model_scores(model: Model, specs: Mapping[str, HeadSpec], held: HeldScores) -> dict[str, float]:
    """Scores of a model as it is, on the tasks that it has the right head for."""
    same = {t for t, spec in specs.items() if spec.fits(model.card.heads.get(t))}
    images = [
        replace(i, targets={t: v for t, v in i.targets.items() if t in same}) for i in held.images
    ]
    if not same:
        return {}
    own = HeldScores(
        [i for i in images if i.targets],
        held.plan,
        held.classes,
        device=held.device,
        dtype=held.dtype,
        weights=held.weights,
    )
    return own(model)
