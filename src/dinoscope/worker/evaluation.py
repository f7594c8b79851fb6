"""Jobs of the Evaluate panel: score layers or folders, and write the report of what was scored."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.config import EvaluateOptions, PredictOptions
from dinoscope.errors import InputError, WorkerError
from dinoscope.types import ImageInput, Progress
from dinoscope.worker.jobs import JobContext, Steps
from dinoscope.worker.models import plain
from dinoscope.worker.protocol import Event

if TYPE_CHECKING:
    from dinoscope.engine.evaluate import Case, Evaluation
    from dinoscope.engine.evaluate.compare import Comparison

#: Evaluations that are kept for their report.
_KEPT = 4
#: Rows of the table of objects that are sent.
_ROWS = 500


@dataclass(frozen=True)
class Outcome:
    """What a report is made of."""

    evaluations: dict[str, Evaluation]
    about: dict[str, Any]
    comparison: Comparison | None


_kept: OrderedDict[int, Outcome] = OrderedDict()


def evaluate(context: JobContext) -> Steps:
    """Score; see the table in :mod:`dinoscope.worker.jobs` for what is asked for."""
    from dinoscope.engine.charts import charts
    from dinoscope.engine.evaluate.compare import compare

    payload = context.payload
    options: EvaluateOptions = payload.get("options") or EvaluateOptions()
    if "files" in payload:
        evaluations, about = yield from _files(context, options)
    else:
        evaluations, about = yield from _layers(context, options)
    first, *others = evaluations.values()
    comparison = compare(first, others[0]) if others else None
    _kept[context.number] = Outcome(evaluations, about, comparison)
    while len(_kept) > _KEPT:
        _kept.popitem(last=False)
    return {
        "number": context.number,
        "evaluations": {name: _plain(one.document()) for name, one in evaluations.items()},
        "objects": {name: column[:_ROWS] for name, column in first.objects.items()},
        "charts": [_plain(chart.plain()) for chart in charts(evaluations)],
        "comparison": _plain(comparison.document()) if comparison is not None else None,
    }


def report(context: JobContext) -> Mapping[str, Any]:
    """Write the report of an evaluation into a folder.

    Raises
    ------
    WorkerError
        The evaluation is not kept any more.
    """
    from dinoscope.engine.report import write_report

    number = int(context.payload["number"])
    if number not in _kept:
        raise WorkerError(
            "this evaluation is no longer kept", hint="Press Evaluate, then save the report."
        )
    outcome = _kept[number]
    folder = Path(context.payload["folder"])
    files = write_report(folder, outcome.evaluations, outcome.about, outcome.comparison)
    return {"files": {kind: str(path) for kind, path in files.items()}}


Found = tuple[dict[str, "Evaluation"], dict[str, Any]]


def _layers(context: JobContext, options: EvaluateOptions) -> Generator[Any, None, Found]:
    """Score one or two predictions given as images, plane by plane."""
    from dinoscope.engine.evaluate import scorer_for
    from dinoscope.engine.evaluate.classes import evaluate_classes
    from dinoscope.engine.evaluate.object_classes import pair_object_classes

    payload = context.payload
    task = str(payload["task"])
    which = [name for name in ("prediction", "other") if name in context.images]
    total = len(which) * _planes(context.images["truth"])
    evaluations: dict[str, Evaluation] = {}
    done = 0
    for kind in which:
        if task == "classification":
            tables = payload["classes"]
            cases = _cases(context, kind)
            pairs = pair_object_classes(
                cases, tables["truth"], tables[kind], options.fault_threshold
            )
            yield Progress("evaluate", 1, 1)
            evaluations[_free(context.images[kind].name, evaluations)] = evaluate_classes(pairs)
            continue
        scorer = scorer_for(task, options)
        for index, case in _indexed(context, kind):
            faults = scorer.add(case)
            if faults is not None:
                yield Event("plane", {"which": kind, "index": index, "faults": faults})
            done += 1
            yield Progress("evaluate", done, total, message=f"plane {case.plane + 1}")
        evaluations[_free(context.images[kind].name, evaluations)] = scorer.finish()
    about = {
        "task": task,
        "truth": context.images["truth"].name,
        "predictions": [context.images[kind].name for kind in which],
        "image": context.images["image"].name if "image" in context.images else None,
        **dict(payload.get("about") or {}),
    }
    for one in evaluations.values():
        one.notes.extend(str(note) for note in payload.get("notes") or ())
    return evaluations, about


def _files(context: JobContext, options: EvaluateOptions) -> Generator[Any, None, Found]:
    """Score predictions in folders, or models on a folder of images."""
    from dinoscope.engine.evaluate import evaluate_files

    payload = context.payload
    task, files = str(payload["task"]), payload["files"]
    truth = Path(files["truth"])
    images = Path(files["images"]) if files.get("images") else None
    evaluations: dict[str, Evaluation] = {}
    about: dict[str, Any] = {"task": task, "truth": str(truth)}
    for kind in ("prediction", "other"):
        given = files.get(kind)
        if not given:
            continue
        own = options
        if files.get("models"):
            if images is None:
                raise InputError("no folder of images was given", expected="one for the model")
            folder = context.tools.folder / f"evaluate{context.number}_{kind}"
            facts = yield from _predict(context, str(given), task, images, truth, folder)
            about[f"model ({kind})"] = facts
            if facts["depth_unit"] != "relative" and not own.depth_unit:
                own = dataclasses.replace(own, depth_unit=facts["depth_unit"])
            name = Path(str(given)).stem
        else:
            folder = Path(given)
            about[kind] = str(folder)
            name = folder.name
        yield Progress("evaluate", 0, 1, message=f"scoring {name}")
        evaluations[_free(name, evaluations)] = evaluate_files(
            folder, truth, task, own, images=images
        )
    if not evaluations:
        raise InputError("no predictions were given", expected="a folder, or a model and images")
    return evaluations, about


def _predict(
    context: JobContext, name: str, task: str, images: Path, truth: Path, folder: Path
) -> Generator[Any, None, dict[str, Any]]:
    from dinoscope.engine.evaluate.folder import predict_folder

    payload = context.payload
    options: PredictOptions = payload.get("predict") or PredictOptions()
    options = dataclasses.replace(
        options, tasks=(task,), threads=options.threads or context.tools.threads
    )
    yield Progress("load", 0, 1, message=f"loading {Path(name).stem}")
    model = context.tools.models.get(
        name,
        options.device,
        allow_download=bool(payload.get("allow_download", False)),
        report=context.report,
    )
    facts = yield from predict_folder(model, images, truth, options, folder)
    return {**facts, "card": model.card.to_json()}


def _cases(context: JobContext, kind: str) -> Iterator[Case]:
    for _, case in _indexed(context, kind):
        context.check()
        yield case


def _indexed(context: JobContext, kind: str) -> Iterator[tuple[tuple[int, ...], Case]]:
    """Plane indices and cases of one prediction."""
    from dinoscope.arrays.axes import plane_indices, read_plane
    from dinoscope.engine.evaluate import Case

    truth, said = context.images["truth"], context.images[kind]
    image = context.images.get("image")
    scores = (context.payload.get("scores") or {}).get(kind)
    for number, index in enumerate(plane_indices(truth)):
        true = _single(read_plane(truth, index), truth)
        predicted = _single(read_plane(said, index), said)
        shown = read_plane(image, index) if image is not None else None
        origins = (f"prediction {said.name!r}", f"truth {truth.name!r}")
        yield index, Case(truth.name, number, true, predicted, shown, scores, *origins)


def _single(plane: np.ndarray, image: ImageInput) -> np.ndarray:
    if plane.shape[0] != 1:
        raise InputError(
            f"{image.name!r} has {plane.shape[0]} channels", expected="one number for each pixel"
        )
    return np.asarray(plane[0])


def _planes(image: ImageInput) -> int:
    return int(np.prod(image.plane_shape, dtype=int)) if image.plane_shape else 1


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """A name that is not used yet."""
    return name if name not in taken else f"{name} (2)"


def _plain(value: Any) -> Any:
    """In values that may travel: numbers, texts, lists and mappings."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return plain(value)
