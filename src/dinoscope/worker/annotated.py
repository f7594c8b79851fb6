"""What the jobs of the fast loop share: sessions, their tokens on disk, instance maps, files."""

from __future__ import annotations

import dataclasses
import itertools
from collections import OrderedDict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.arrays.axes import Index, plane_indices
from dinoscope.arrays.files import image_stem, read_image
from dinoscope.arrays.output import PlaneWriter
from dinoscope.arrays.resample import resample, scaled_shape
from dinoscope.config import AnnotateOptions, PredictOptions
from dinoscope.engine.explore.store import TokenStore
from dinoscope.engine.opening import open_runner
from dinoscope.engine.scribble.cache import CachedTokens
from dinoscope.engine.scribble.persist import load_classifier
from dinoscope.engine.scribble.session import ScribbleSession
from dinoscope.errors import InputError, OutputError
from dinoscope.models.folders import cache_dir
from dinoscope.types import ImageInput, Progress
from dinoscope.worker.jobs import JobContext

#: Tokens in memory, in MB: four planes of 2048² of a ViT-S. Those on disk are there in moments.
_TOKENS_MB = 80
#: Planes whose instance maps are kept.
_KEPT_MAPS = 4


class Annotation:
    """The sessions of a worker.

    Parameters
    ----------
    folder : Path
        Where tokens go that memory has no room for.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stores: dict[int, TokenStore] = {}
        self._sessions: dict[str, ScribbleSession] = {}
        self._numbers = itertools.count(1)
        self._maps: OrderedDict[tuple[int, str, Index], np.ndarray] = OrderedDict()

    def open(self, context: JobContext) -> tuple[str, ScribbleSession]:
        """Begin a session; its id and itself.

        Raises
        ------
        InputError
            A code that is none, or a classifier that was made with another model.
        """
        payload = context.payload
        options: AnnotateOptions = payload.get("options") or AnnotateOptions()
        options = dataclasses.replace(options, threads=options.threads or context.tools.threads)
        codes = [int(c) for c in payload.get("codes") or ()]
        if any(not 1 <= c <= 255 for c in codes):
            raise InputError(f"codes are {codes}", expected="1 = background, 2 to 255 = classes")
        model = context.tools.models.get(
            str(payload["model"]),
            options.device,
            allow_download=bool(payload.get("allow_download", False)),
            report=context.report,
        )
        session = ScribbleSession(
            model,
            options,
            self._store(options),
            threads=options.threads,
            classes=tuple(str(c) for c in payload.get("classes") or ()),
        )
        if payload.get("classifier"):
            classifier, projection, about = load_classifier(payload["classifier"])
            expected = model.digest or model.card.backbone_hash
            if about.get("model_hash") != expected:
                raise InputError(
                    f"the classifier was made with model {about.get('model')!r}",
                    expected=f"{model.card.name!r}, the model of this session, unchanged",
                    hint="Open it with that model.",
                )
            if not session.knows_classes:
                classifier = dataclasses.replace(classifier, network=None)
            session.classifier, session.projection = classifier, projection
            session.zoom = about.get("zoom") or session.zoom
        name = f"a{next(self._numbers)}"
        self._sessions[name] = session
        return name, session

    def _store(self, options: AnnotateOptions) -> TokenStore:
        """Tokens are shared by sessions: keys tell models and geometry apart."""
        if options.cache_mb not in self._stores:
            self._stores[options.cache_mb] = CachedTokens(
                self._folder,
                cache_dir() / "tokens",
                memory_mb=_TOKENS_MB,
                cache_mb=options.cache_mb,
            )
        return self._stores[options.cache_mb]

    def session(self, name: Any) -> ScribbleSession:
        """The session of an id.

        Raises
        ------
        InputError
            It is not known (any more).
        """
        if name not in self._sessions:
            raise InputError(
                f"session {name!r} is not known",
                expected="a session that was opened since the engine started",
                hint="The engine was started again; open a session and send the strokes again.",
            )
        return self._sessions[str(name)]

    def close(self, name: str) -> None:
        """Let a session go."""
        session = self._sessions.pop(name, None)
        for key in [k for k in self._maps if k[0] == id(session)]:
            del self._maps[key]

    def instance_maps(
        self, session: ScribbleSession, source: str, index: Index, image: ImageInput | None
    ) -> Generator[Progress, None, np.ndarray]:
        """``(3, Y, X)`` uint8 maps of the model's instance head, kept for the last few planes.

        Raises
        ------
        MissingHeadError
            The model has none.
        InputError
            They are not kept and no image was given.
        """
        session.model.require_heads(["instance"])
        key = (id(session), source, index)
        if key not in self._maps:
            if image is None:
                raise InputError(
                    f"the outlines of plane {index} of {source!r} are not kept",
                    expected="its image",
                )
            run = yield from session.opened(source, image)
            yield Progress("objects", 0, 1, message="looking for outlines")
            options = PredictOptions(threads=session.threads, device=session.options.device)
            runner, _ = open_runner(session.model, options)
            shape = run.prepared.shape
            maps = runner.dense_maps(run.prepared.pixels(index, run.zoom), ["instance"])
            native = resample(
                maps["instance"][:3], shape, shape=scaled_shape(shape, run.zoom), origin=(0, 0)
            )
            self._maps[key] = np.rint(native * 255).clip(0, 255).astype(np.uint8)
            while len(self._maps) > _KEPT_MAPS:
                self._maps.popitem(last=False)
        self._maps.move_to_end(key)
        return self._maps[key]


def apply_to_file(
    session: ScribbleSession, file: Path, output: Path, overwrite: bool
) -> Generator[Progress, None, Path]:
    """Label a file; writes ``<stem>_semantic.tif`` (0 = background) and returns its path."""
    image = read_image(file)
    source = str(file)
    path = output / f"{image_stem(file)}_semantic.tif"
    if path.exists() and not overwrite:
        raise OutputError(
            f"{str(path)!r} is there already",
            hint="Choose another folder, or allow results to be replaced.",
        )
    shape = (*image.plane_shape, image.size("Y"), image.size("X"))
    axes = image.plane_axes + "YX"
    try:
        with PlaneWriter(path, shape, axes, np.uint8, dict(image.pixel_size_um)) as writer:
            for index in plane_indices(image):
                features = yield from session.features(source, index, image)
                # Scribble codes begin with 1 = background, results with 0.
                writer.write(session.predict(source, index, features).labels - np.uint8(1))
    finally:
        session.forget(source)
    return path


def no_strokes() -> InputError:
    """What to say where nothing is annotated."""
    return InputError(
        "nothing is annotated yet",
        expected="a few strokes of at least two classes",
        hint="Paint some background and some of each class.",
    )
