"""The jobs behind the Annotate panel's fast loop: strokes in, labels of the whole plane out.

A *session* holds strokes, features and the classifier. It lives in the worker and is lost with it:
a job that names a session which is not known fails with an
:class:`~dinoscope.errors.InputError`, upon which the window opens another and sends all strokes
again; every job may be repeated. A plane is named by ``source``, the window's own name for an
image, and ``index``, its place along the plane axes. Codes are those of scribble layers (0 = not
annotated, 1 = background, 2… = classes).

=================  ===============================================  ===============================
annotate_…         payload (defaults in brackets)                   data of ``plane`` and ``done``
=================  ===============================================  ===============================
open               ``model``, ``options`` [AnnotateOptions],        ``session``, ``model``,
                   ``codes`` [any], ``classifier`` [none]: a file,  ``model_hash``, ``embed_dim``,
                   ``allow_download`` [False]                       ``own_classes``, ``classes``,
                                                                    ``notes``
prepare            ``session``, ``source``, ``index``;              ``seconds``, ``cached``,
                   image ``image``                                  ``shape``, ``zoom``
strokes            ``session``, ``source``, ``index``,              ``count``
                   ``pixels``, ``codes``: all of that plane
preview            ``session``, ``source``, ``index``,              plane, for each region (before,
                   ``regions`` [all], ``want`` [labels],            where the plane is new,
                   ``strokes`` [none]: dicts as above,              ``rough`` ones): ``source``,
                   ``overview`` [False]: all of it first, coarsely; ``index``, ``region``, ``step``
                   ``draft`` [False]: by a small forest;            (pixels from one value to the
                   image ``image`` where not prepared, others by    next), ``draft``, ``labels``,
                   their source                                     ``uncertainty``,
                                                                    ``probabilities``; done:
                                                                    ``seconds``, ``classes``,
                                                                    ``notes``
numbers            ``session``                                      ``ece``, ``temperature``,
                                                                    ``accuracy_heldout``
next               ``session``, ``sources``: indices by source,     ``source`` (or None),
                   ``all`` [False]: also planes that must be        ``index``, ``y``, ``x``,
                   encoded, ``visited`` [none]: ``(source, index,   ``score``
                   y, x)``
objects            ``session``, ``source``, ``index``, ``labels``   ``instances``, ``classes``,
                   [predicted], ``method`` [instance],              ``table``
                   ``min_size_px`` [12]
object_classes     ``session``, ``source``, ``index``,              ``classes``, ``codes``,
                   ``instances``, ``examples``: code by id; or      ``probabilities``, ``table``;
                   ``planes``: a list of such dicts                 ``planes``: a list of the same
apply              ``session``, ``planes`` [all]: indices by        plane: ``source``, ``index``,
                   source, images by source; or ``files``,          ``labels``; done: ``planes``,
                   ``output``, ``overwrite`` [False]                ``files``
save               ``session``, ``path``                            ``path``
close              ``session``                                      nothing
=================  ===============================================  ===============================
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.arrays.axes import Index, plane_indices, read_plane
from dinoscope.engine.scribble.forest import TREES
from dinoscope.engine.scribble.next_place import NextPlace, least_certain
from dinoscope.engine.scribble.objects import (
    METHODS,
    classify_objects,
    measured,
    object_vectors,
    split_objects,
)
from dinoscope.engine.scribble.persist import save_classifier
from dinoscope.engine.scribble.predicting import Prediction
from dinoscope.engine.scribble.session import ScribbleSession
from dinoscope.errors import InputError
from dinoscope.types import ImageInput, Progress
from dinoscope.worker.annotated import Annotation, apply_to_file, no_strokes
from dinoscope.worker.jobs import JobContext, Steps
from dinoscope.worker.protocol import Event

#: Trees of a draft: a quarter of the time.
DRAFT_TREES = TREES // 4
_WANT = ("labels", "uncertainty", "probabilities")


def open_session(context: JobContext) -> Steps:
    """Begin a session."""
    work: Annotation = context.tools.annotation
    yield Progress("load", 0, 1, message=f"loading {Path(str(context.payload['model'])).stem}")
    name, session = work.open(context)
    model = session.model
    return {
        "session": name,
        "model": model.card.name,
        "model_hash": model.digest or model.card.backbone_hash,
        "embed_dim": model.backbone.embed_dim,
        "classes": _codes(session),
        "own_classes": session.knows_classes,
        "notes": list(session.notes),
    }


def prepare(context: JobContext) -> Steps:
    """Encode a plane ahead of the first stroke."""
    session, source, index = _plane(context)
    begun = time.perf_counter()
    cached = session.is_prepared(source, index)
    features = yield from session.features(source, index, context.image)
    return {
        "seconds": time.perf_counter() - begun,
        "cached": cached,
        "shape": features.shape,
        "zoom": session.zoom,
    }


def strokes(context: JobContext) -> Mapping[str, Any]:
    """Replace what is annotated on a plane."""
    session, source, index = _plane(context)
    payload = context.payload
    return {"count": session.set_strokes(source, index, payload["pixels"], payload["codes"])}


def preview(context: JobContext) -> Steps:
    """Labels of a plane by all strokes."""
    session, source, index = _plane(context)
    payload = context.payload
    want = _wanted(payload.get("want", ("labels",)))
    for each in payload.get("strokes") or ():
        session.set_strokes(
            str(each["source"]), _index(each["index"]), each["pixels"], each["codes"]
        )
    seconds: dict[str, float] = {}
    clock = time.perf_counter()
    image = _image(context, source, "image")
    regions = payload.get("regions") or (None,)
    first = yield from session.rough(source, index, image, regions[0], want)
    if first is not None:
        yield _labels(first, source, index, regions[0], rough=True)
    features = yield from session.features(source, index, image)
    for place in session.unread():
        image = context.images.get(place[0])
        if image is not None:
            yield from session.features(*place, image)
    seconds["encode"] = time.perf_counter() - clock
    clock = time.perf_counter()
    draft = bool(payload.get("draft", False))
    session.fit(calibrate=want != ("labels",) and not draft, trees=DRAFT_TREES if draft else TREES)
    seconds["fit"] = time.perf_counter() - clock
    yield Progress("preview", 0, 1)  # a draft may be out of date by now
    seconds["predict"] = 0.0
    if payload.get("overview", False):
        clock = time.perf_counter()
        found = session.predict(source, index, features.overview, None, want)
        seconds["predict"] += time.perf_counter() - clock
        yield _labels(found, source, index, None, step=2 * features.stride, draft=draft)
    for region in regions:
        clock = time.perf_counter()
        found = session.predict(source, index, features, region, want)
        seconds["predict"] += time.perf_counter() - clock
        yield _labels(found, source, index, region, draft=draft)
    return {
        "seconds": seconds,
        "classes": _codes(session),
        "notes": [*session.notes, *_unread_notes(session)],
    }


def numbers(context: JobContext) -> Mapping[str, Any]:
    """How good and how sure the classifier is on held-out strokes: for when nobody paints."""
    classifier = _session(context).fit()
    return {
        "ece": classifier.ece if classifier else None,
        "temperature": classifier.temperature if classifier else 1.0,
        "accuracy_heldout": classifier.accuracy if classifier else None,
    }


def _labels(
    found: Prediction,
    source: str,
    index: Index,
    region: Any,
    *,
    rough: bool = False,
    step: int = 1,
    draft: bool = False,
) -> Event:
    data: dict[str, Any] = {"source": source, "index": index, "region": region, "rough": rough}
    data |= {"labels": found.labels, "step": step, "draft": draft}
    if found.uncertainty is not None:
        data["uncertainty"] = found.uncertainty
    if found.probabilities is not None:
        data["probabilities"] = found.probabilities
    return Event("plane", data)


def next_place(context: JobContext) -> Steps:
    """The least certain patch of the given planes."""
    session = _session(context)
    payload = context.payload
    if session.fit() is None:
        raise no_strokes()
    visited = [(str(s), _index(i), int(y), int(x)) for s, i, y, x in payload.get("visited") or ()]
    places = [(str(s), _index(i)) for s, each in payload["sources"].items() for i in each]
    best: NextPlace | None = None
    for number, place in enumerate(places):
        yield Progress("search", number, len(places))
        readable = payload.get("all", False) and place[0] in context.images
        if not session.is_prepared(*place) and not readable:
            continue
        features = yield from session.features(*place, context.images.get(place[0]))
        uncertainty = session.predict(*place, features, want=("uncertainty",)).uncertainty
        if uncertainty is None:
            continue
        seen = [(y, x) for s, i, y, x in visited if (s, i) == place]
        found = least_certain(place, uncertainty, session.annotated(*place), seen)
        if found is not None and (best is None or found.score > best.score):
            best = found
    if best is None:
        return {"source": None, "index": (), "y": 0, "x": 0, "score": 0.0}
    return {
        "source": best.source,
        "index": best.index,
        "y": best.y,
        "x": best.x,
        "score": best.score,
    }


def objects(context: JobContext) -> Steps:
    """Objects of a preview."""
    session, source, index = _plane(context)
    payload, image = context.payload, _image(context, source, "image")
    method = str(payload.get("method", "instance"))
    if method not in METHODS:
        raise InputError(f"method is {method!r}", expected=" or ".join(METHODS))
    least = int(payload.get("min_size_px", 12))
    if least < 0:
        raise InputError(f"min_size_px is {least!r}", expected="0 or more")
    labels = payload.get("labels")
    if labels is None:
        features = yield from session.features(source, index, image)
        if session.fit() is None:
            raise no_strokes()
        labels = session.predict(source, index, features).labels
    maps = None
    if method == "instance":
        work: Annotation = context.tools.annotation
        maps = yield from work.instance_maps(session, source, index, image)
    labels = np.asarray(labels).astype(np.uint8, copy=False)
    ids, classes = split_objects(labels, maps, min_size_px=least)
    return {
        "instances": ids,
        "classes": classes,
        "table": _table(image, index, ids, classes),
    }


def object_classes(context: JobContext) -> Steps:
    """Classes of objects from examples."""
    payload = context.payload
    session = _session(context)
    planes: list[Mapping[str, Any]] = list(payload.get("planes") or [payload])
    collected: list[tuple[Mapping[str, Any], np.ndarray]] = []
    vectors: list[np.ndarray] = []
    examples: list[tuple[int, int]] = []
    rows = 0
    dim = 0
    for each in planes:
        source, index = str(each["source"]), _index(each["index"])
        image = _image(context, source, "image")
        yield from session.features(source, index, image)
        ids = np.asarray(each["instances"])
        tokens = session.tokens(source, index)
        dim = tokens.shape[1]
        numbers, found = object_vectors(
            ids, tokens, session.grid(source), session.channels(source, index, image)
        )
        row_of = {int(number): rows + row for row, number in enumerate(numbers)}
        for number, code in (each.get("examples") or {}).items():
            if int(number) not in row_of:
                raise InputError(
                    f"object {number} is an example of class {code} but is not there",
                    expected=f"one of {len(numbers)} objects",
                )
            examples.append((row_of[int(number)], int(code)))
        collected.append((each, numbers))
        vectors.append(found)
        rows += len(numbers)
    codes, probabilities = classify_objects(np.concatenate(vectors), dim, examples)
    # What was clicked stays as it was clicked.
    best = codes[probabilities.argmax(1)]
    for row, code in examples:
        best[row] = code
    answers: list[dict[str, Any]] = []
    begin = 0
    for each, numbers in collected:
        part = slice(begin, begin + len(numbers))
        begin += len(numbers)
        source, index = str(each["source"]), _index(each["index"])
        classes = {int(n): int(c) for n, c in zip(numbers, best[part], strict=True)}
        image = _image(context, source, "image")
        ids = np.asarray(each["instances"])
        answers.append(
            {
                "source": source,
                "index": index,
                "classes": classes,
                "probabilities": probabilities[part],
                "codes": codes,
                "table": _table(image, index, ids, classes),
            }
        )
    return {**answers[0], "planes": answers}


def apply(context: JobContext) -> Steps:
    """Labels of many planes, or of files."""
    session, payload = _session(context), context.payload
    if session.fit() is None:
        raise no_strokes()
    if payload.get("files"):
        files = [Path(str(f)) for f in payload["files"]]
        written = []
        for number, file in enumerate(files):
            yield Progress("apply", number, len(files), message=file.name)
            overwrite = bool(payload.get("overwrite", False))
            written.append(
                (yield from apply_to_file(session, file, Path(payload["output"]), overwrite))
            )
        return {"planes": 0, "files": [str(path) for path in written]}
    chosen = payload.get("planes") or {}
    wanted = {
        source: [_index(i) for i in chosen[source]] if source in chosen else plane_indices(image)
        for source, image in context.images.items()
    }
    places = [(source, index) for source, each in wanted.items() for index in each]
    if not places:
        raise InputError("no image was given", expected="images by their source")
    for number, (source, index) in enumerate(places):
        yield Progress("apply", number, len(places))
        features = yield from session.features(source, index, context.images[source])
        labels = session.predict(source, index, features).labels
        yield Event("plane", {"source": source, "index": index, "labels": labels})
    yield Progress("apply", len(places), len(places))
    return {"planes": len(places), "files": []}


def save(context: JobContext) -> Mapping[str, Any]:
    """Write the classifier."""
    session = _session(context)
    classifier = session.fit()
    if classifier is None or session.projection is None:
        raise no_strokes()
    about = {
        "model": session.model.card.name,
        "model_hash": session.model.digest or session.model.card.backbone_hash,
        "zoom": session.zoom,
        "filters": session.options.filters,
        "layers": session.options.layers,
    }
    path = save_classifier(context.payload["path"], classifier, session.projection, about)
    return {"path": str(path)}


def close(context: JobContext) -> Mapping[str, Any]:
    """End a session; one that is not there is as good as ended."""
    work: Annotation = context.tools.annotation
    work.close(str(context.payload["session"]))
    return {}


def _session(context: JobContext) -> ScribbleSession:
    work: Annotation = context.tools.annotation
    return work.session(context.payload.get("session"))


def _plane(context: JobContext) -> tuple[ScribbleSession, str, Index]:
    payload = context.payload
    return _session(context), str(payload["source"]), _index(payload["index"])


def _index(value: Any) -> Index:
    return tuple(int(i) for i in value)


def _image(context: JobContext, *names: str) -> ImageInput | None:
    return next((context.images[n] for n in names if n in context.images), None)


def _wanted(want: Any) -> tuple[str, ...]:
    found = tuple(str(w) for w in want)
    unknown = [w for w in found if w not in _WANT]
    if unknown:
        raise InputError(f"want is {found!r}", expected="some of " + ", ".join(_WANT))
    return found


def _codes(session: ScribbleSession) -> tuple[int, ...]:
    classifier = session.classifier
    return tuple(int(c) for c in classifier.codes) if classifier is not None else ()


def _unread_notes(session: ScribbleSession) -> list[str]:
    count = len(session.unread())
    if not count:
        return []
    return [f"Strokes on {count} plane(s) count once those planes have been shown."]


def _table(
    image: ImageInput | None, index: Index, ids: np.ndarray, classes: Mapping[int, int]
) -> Any:
    if image is None:
        return measured(ids, None, {}, (), "", classes)
    pixels = read_plane(image, index)
    return measured(ids, pixels, image.pixel_size_um, index, image.plane_axes, classes)
