"""The jobs behind the Features panel: encode once, then colour, lay out, compare, measure, export.

``tokens`` encodes images and answers with the ids of *sets*; ``points`` makes points of sets. Other
jobs name sets and points by these ids, so that nothing is encoded or sent twice. A plane is named
``(set, index)``.

==============  ===============================================  ===================================
kind            payload (defaults in brackets)                   data of ``plane`` and ``done``
==============  ===============================================  ===================================
tokens          ``model``, ``options`` [ExploreOptions],         ``sets`` (dicts, see
                ``adapter`` ["on"]: on, off, both;               :func:`.describe_set`), ``notes``
                ``planes`` [all]: indices by image;
                ``allow_download`` [False]
pca             ``sets``, ``options`` [PcaOptions],              plane: ``set``, ``index``, ``rgb``;
                ``fit``, ``show`` [all]: planes; ``labels``      done: ``explained`` by set,
                [none]: image name by set; ``label_ids``         ``components``,
                [above 0]; ``mask_background`` [False]           ``fitted_tokens``
points          ``sets``, ``what``: patches, objects, images;    ``points``, ``what``, ``n``,
                ``labels``, ``intensity`` [none]: image name     ``dim``, ``sets``, ``table``,
                by set; ``classes`` [none]: the same by          ``notes``
                column; ``indices`` [all] by set;
                ``max_points`` [1 million]
project         ``points``, ``options`` [ProjectionOptions]      ``coordinates``, ``explained``,
                                                                 ``fitted``, ``notes``
cluster         ``points``, ``options`` [ClusterOptions]         ``clusters``, ``count``, ``notes``
similarity      ``positive``, ``negative`` [none]: clicks;       plane: ``set``, ``index``,
                ``targets``: planes; ``points`` [none];          ``score``, ``labels``; done:
                ``options`` [SimilarityOptions]                  ``scores``, ``low``, ``high``,
                                                                 ``suggested``
separability    ``points``: list; ``column`` or ``classes``;     ``results``: dicts with
                ``names`` [codes], ``folds`` [5],                ``points``, ``accuracy``,
                ``groups`` [False]                               ``accuracy_std``, ``silhouette``,
                                                                 ``table``; ``folds``, ``notes``
explore_export  ``points``, ``path``, ``extra`` [none],          ``path``, ``rows``, ``columns``
                ``features`` [True]
explore_forget  ``sets``, ``points`` [none]                      nothing
==============  ===============================================  ===================================

A click is ``{"set", "index", "y", "x"}`` in image coordinates, ``{"set", "index", "row",
"column"}`` on the patch grid, or ``{"points", "point"}``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.config import (
    ClusterOptions,
    ExploreOptions,
    PcaOptions,
    ProjectionOptions,
    SimilarityOptions,
)
from dinoscope.engine.explore import clusters as clustering
from dinoscope.engine.explore import export as exporting
from dinoscope.engine.explore import overlay, projection
from dinoscope.engine.explore import points as making
from dinoscope.engine.explore import separability as separating
from dinoscope.engine.explore import similarity as comparing
from dinoscope.engine.explore.encode import TokenSet, encode, load_original, no_adapter
from dinoscope.errors import InputError
from dinoscope.models.model import Model
from dinoscope.types import Progress
from dinoscope.worker.explored import Exploration, describe_set
from dinoscope.worker.jobs import JobContext, Steps
from dinoscope.worker.protocol import Event


def tokens(context: JobContext) -> Steps:
    """Encode the images of the job."""
    payload, work = context.payload, context.tools.exploration
    options: ExploreOptions = payload.get("options") or ExploreOptions()
    options = dataclasses.replace(options, threads=options.threads or context.tools.threads)
    adapter = str(payload.get("adapter", "on"))
    if adapter not in ("on", "off", "both"):
        raise InputError(f"adapter is {adapter!r}", expected="on, off or both")
    if not context.images:
        raise InputError("no image was given", expected="an image to work on")
    name = str(payload["model"])
    download = bool(payload.get("allow_download", False))
    yield Progress("load", 0, 1, message=f"loading {Path(name).stem}")
    tuned: Model = context.tools.models.get(
        name, options.device, allow_download=download, report=context.report
    )
    models: list[tuple[Model, bool]] = [(tuned, True)] if adapter != "off" else []
    if adapter != "on":
        models.append((_original(context, name, options.device, tuned), False))
    described: list[dict[str, Any]] = []
    notes: list[str] = []
    planes = payload.get("planes") or {}
    try:
        for image_name, image in context.images.items():
            zoom = None
            for model, on in models:
                found = yield from encode(
                    image,
                    model,
                    options,
                    store=work.store,
                    indices=planes.get(image_name),
                    adapter=on,
                    zoom=zoom,
                )
                zoom = found.zoom  # both models look at the same patches
                described.append(describe_set(work.add_set(found), image_name, found))
                notes.extend(n for n in found.notes if n not in notes)
    except BaseException:
        for made in described:
            work.forget_set(made["set"])
        raise
    return {"sets": described, "notes": notes}


def _original(context: JobContext, name: str, device: str, tuned: Model) -> Model:
    """The model with its adapter off; the last one stays loaded."""
    if tuned.lora is None:
        raise no_adapter(tuned)
    work = context.tools.exploration
    key = (name, tuned.digest, device)
    if work.original is None or work.original[0] != key:
        work.original = (key, load_original(name, device=device, progress=context.report))
    model: Model = work.original[1]
    return model


def pca(context: JobContext) -> Steps:
    """Colours of planes; a ``plane`` event for each."""
    payload, work = context.payload, context.tools.exploration
    options: PcaOptions = payload.get("options") or PcaOptions()
    names = _names(payload["sets"])
    sets = [work.set_of(name) for name in names]
    fit = _places(payload.get("fit"), names)
    show = _places(payload.get("show"), names)
    own = options.basis == "own"
    readers = _readers(context, payload.get("labels"), names, sets)
    mask = overlay.under_labels(readers, payload.get("label_ids")) if readers else None
    # Labels may have been painted since: with them, components are always found anew.
    key = (tuple(s.keys for s in sets), own, tuple(fit) if fit is not None else None)
    bases = work.bases.get(key) if mask is None else None
    if bases is None:
        bases = yield from overlay.fit_bases(sets, fit, foreground=mask, own=own)
    if mask is None:
        work.keep_bases(key, bases)
    shade = mask if payload.get("mask_background") else None
    for step in overlay.coloured(sets, bases, options, places=show, foreground=shade):
        if isinstance(step, Progress):
            yield step
        else:
            place, index = step.place
            yield Event("plane", {"set": names[place], "index": index, "rgb": step.rgb})
    return {
        "explained": {name: b.explained for name, b in zip(names, bases, strict=True)},
        "components": tuple(options.components),
        "fitted_tokens": sum(b.tokens for b in bases) if own else bases[0].tokens,
    }


def points(context: JobContext) -> Steps:
    """Points of sets, with their table."""
    payload, work = context.payload, context.tools.exploration
    names = _names(payload["sets"])
    sets = [work.set_of(name) for name in names]
    what = str(payload.get("what", "patches"))
    classes = {
        str(column): _readers(context, layers, names, sets)
        for column, layers in (payload.get("classes") or {}).items()
    }
    places = None
    if payload.get("indices"):
        chosen = payload["indices"]
        places = _places([(n, i) for n in names for i in chosen.get(n, ())], names)
    if what == "patches":
        most = int(payload.get("max_points") or making.MAX_POINTS)
        made = yield from making.patch_points(sets, places, classes=classes, max_points=most)
    elif what == "images":
        made = yield from making.image_points(sets, places, classes=classes)
    elif what == "objects":
        labels = _readers(context, payload.get("labels"), names, sets)
        if not labels:
            raise InputError("no labels were given", expected="a layer of objects")
        measured = {
            names.index(str(n)): _image(context, i)
            for n, i in (payload.get("intensity") or {}).items()
        }
        made = yield from making.object_points(
            sets, labels, places, intensity=measured, classes=classes
        )
    else:
        raise InputError(f"points of {what!r}", expected=" or ".join(making.KINDS))
    return {
        "points": work.add_points(made, names),
        "what": what,
        "n": len(made),
        "dim": made.dim,
        "sets": names,
        "table": dict(made.table),
        "notes": list(made.notes),
    }


def project(context: JobContext) -> Steps:
    """Lay points out."""
    payload, work = context.payload, context.tools.exploration
    name = payload["points"]
    options: ProjectionOptions = payload.get("options") or ProjectionOptions()
    layout = yield from projection.project(work.points_of(name), options)
    work.coordinates[name] = layout.coordinates
    return {
        "coordinates": layout.coordinates,
        "explained": layout.explained,
        "fitted": layout.fitted,
        "notes": list(layout.notes),
    }


def cluster(context: JobContext) -> Steps:
    """Groups of points."""
    payload, work = context.payload, context.tools.exploration
    name = payload["points"]
    options: ClusterOptions = payload.get("options") or ClusterOptions()
    found = yield from clustering.find_clusters(
        work.points_of(name), options, work.coordinates.get(name)
    )
    return {"clusters": found.labels, "count": found.count, "notes": list(found.notes)}


def similarity(context: JobContext) -> Steps:
    """Scores of planes and points; a ``plane`` event for each target."""
    payload, work = context.payload, context.tools.exploration
    options: SimilarityOptions = payload.get("options") or SimilarityOptions()
    targets = [(str(n), tuple(int(i) for i in index)) for n, index in payload.get("targets", ())]
    used: list[TokenSet] = [work.set_of(name) for name, _ in targets]
    positive = [_clicked(work, click, used) for click in payload.get("positive", ())]
    negative = [_clicked(work, click, used) for click in payload.get("negative", ())]
    against = work.points_of(payload["points"]) if payload.get("points") else None
    used += list(against.sets) if against is not None else []
    if len({found.comparable for found in used}) > 1:
        raise InputError(
            "clicks and targets were encoded in different ways",
            expected="one model, with or without its adapter, and the same layers",
            hint="Encode all images together.",
        )
    mean = None
    if options.centred:
        centred_on = [n for n, _ in targets] or (
            work.sets_of_points[payload["points"]] if against is not None else ()
        )
        mean = np.mean([work.mean(n) for n in dict.fromkeys(centred_on)], axis=0)
    wanted = np.array(positive, np.float32)
    unwanted = np.array(negative, np.float32) if negative else None
    every: list[np.ndarray] = []
    for name, index in targets:
        found = work.set_of(name)
        flat = comparing.similarity(found.tokens(index), wanted, unwanted, mean)
        every.append(flat)
        maps = flat.reshape(1, *found.grid.grid)
        score = overlay.to_pixels(found, index, maps, options.upsample)[0]
        data: dict[str, Any] = {"set": name, "index": index, "score": score}
        if options.threshold is not None:
            data["labels"] = (score >= options.threshold).astype(np.uint8)
        yield Event("plane", data)
    scores = None
    if against is not None:
        scores = np.empty(len(against), np.float32)
        for start in range(0, len(against), projection.CHUNK):
            rows = np.arange(start, min(len(against), start + projection.CHUNK))
            part = comparing.similarity(against.features(rows), wanted, unwanted, mean)
            scores[rows] = part
        every.append(scores)
    return {
        "scores": scores,
        "low": float(min((s.min() for s in every), default=0.0)),
        "high": float(max((s.max() for s in every), default=0.0)),
        "suggested": comparing.suggested_threshold(every, negatives=bool(negative)),
    }


def _clicked(work: Exploration, click: Mapping[str, Any], used: list[TokenSet]) -> np.ndarray:
    """The token of what was clicked; its set is added to `used`."""
    if "points" in click:
        chosen = work.points_of(click["points"])
        row = int(click["point"])
        if not 0 <= row < len(chosen):
            raise InputError(f"point {row}", expected=f"0 to {len(chosen) - 1}")
        used.append(chosen.sets[int(chosen.table["set"][row])])
        return np.asarray(chosen.features(np.array([row]))[0])
    found = work.set_of(click["set"])
    used.append(found)
    grid = found.grid
    if "row" in click:
        patch: tuple[int, int] | None = (int(click["row"]), int(click["column"]))
        if patch is not None and not all(0 <= p < n for p, n in zip(patch, grid.grid, strict=True)):
            patch = None
    else:
        patch = grid.patch_at(float(click["y"]), float(click["x"]))
    if patch is None:
        raise InputError(
            f"the click {dict(click)} lies outside of what was encoded of {found.image!r}",
            expected=f"a pixel of {grid.shape[0]} x {grid.shape[1]} from {grid.origin}",
        )
    row = patch[0] * grid.grid[1] + patch[1]
    return np.asarray(found.tokens(tuple(click["index"]))[row], np.float32)


def separability(context: JobContext) -> Steps:
    """How well classes come apart, for each of the given points."""
    payload, work = context.payload, context.tools.exploration
    names = _names(payload["points"])
    results: list[dict[str, Any]] = []
    notes: list[str] = []
    for name in names:
        chosen = work.points_of(name)
        given = payload.get("classes")
        if given is None:
            column = str(payload.get("column"))
            if column not in chosen.table:
                raise InputError(
                    f"points have no column {column!r}",
                    expected="one of " + ", ".join(chosen.table),
                )
            given = chosen.table[column]
        groups = None
        if payload.get("groups"):
            groups = np.empty(len(chosen), np.int64)
            for number, (_, start, stop) in enumerate(chosen.parts):
                groups[start:stop] = number
        found = yield from separating.separability(
            chosen.features(),
            np.asarray(given),
            groups=groups,
            names=payload.get("names"),
            folds=int(payload.get("folds", 5)),
        )
        values = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
        results.append({"points": name, **values, "notes": list(found.notes)})
        notes.extend(n for n in found.notes if n not in notes)
    return {"results": results, "folds": results[0]["folds"], "notes": notes}


def export(context: JobContext) -> Mapping[str, Any]:
    """Points as a file."""
    payload = context.payload
    chosen = context.tools.exploration.points_of(payload["points"])
    rows, columns = exporting.export_points(
        chosen,
        payload["path"],
        payload.get("extra"),
        features=bool(payload.get("features", True)),
    )
    return {"path": str(payload["path"]), "rows": rows, "columns": columns}


def forget(context: JobContext) -> Mapping[str, Any]:
    """Let sets and points go."""
    for name in context.payload.get("points", ()):
        context.tools.exploration.forget_points(str(name))
    for name in context.payload.get("sets", ()):
        context.tools.exploration.forget_set(str(name))
    return {}


def _names(given: Any) -> list[str]:
    """Ids, one or several."""
    names = [given] if isinstance(given, str) else [str(name) for name in given]
    if not names:
        raise InputError("nothing was chosen", expected="at least one")
    return names


def _places(given: Any, names: Sequence[str]) -> list[overlay.Place] | None:
    """Planes named ``(set, index)`` as places among `names`."""
    if given is None:
        return None
    found = []
    for name, index in given:
        if str(name) not in names:
            raise InputError(f"plane {index} of set {name!r}", expected=f"one of {list(names)}")
        found.append((names.index(str(name)), tuple(int(i) for i in index)))
    return found


def _readers(
    context: JobContext,
    layers: Mapping[str, str] | None,
    names: Sequence[str],
    sets: Sequence[TokenSet],
) -> dict[int, overlay.LabelReader]:
    """Label layers by the place of their set."""
    found = {}
    for name, image in (layers or {}).items():
        if str(name) in names:
            place = names.index(str(name))
            found[place] = overlay.LabelReader(_image(context, image), sets[place])
    return found


def _image(context: JobContext, name: str) -> Any:
    if name not in context.images:
        raise InputError(f"image {name!r} was not given", expected="an image of the job")
    return context.images[name]
