"""Runs an evaluation in the worker and shows its errors as layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from dinoscope.arrays.faults import FAULTS
from dinoscope.arrays.objects import SCORE_COLUMNS
from dinoscope.errors import DinoscopeError, InputError
from dinoscope.types import ImageInput
from dinoscope.widgets._client import Controller, JobHandle
from dinoscope.widgets._commonpart import Window, common_part
from dinoscope.widgets._layers import (
    Placement,
    Source,
    data_to_physical,
    full_size,
    guess_axes,
    layer_is_rgb,
    pixel_sizes_um,
    spatial_kwargs,
)
from dinoscope.widgets._results import METADATA, ResultSet
from dinoscope.widgets._run import Outcome, progress_of

if TYPE_CHECKING:
    from napari.layers import Layer


@dataclass(frozen=True)
class EvaluateRequest:
    """What is scored.

    `layers` by what they are (``truth prediction other image``), for an evaluation of layers;
    `origin` is where the scored part begins in the truth, in pixels.
    """

    task: str
    payload: dict[str, Any]
    images: dict[str, ImageInput] = field(default_factory=dict)
    layers: dict[str, Any] = field(default_factory=dict)
    origin: tuple[int, ...] = ()
    kind: str = "evaluate"
    title: str = "Evaluating"


def layers_request(task: str, layers: Mapping[str, Layer | None]) -> EvaluateRequest:
    """What to ask the worker for these layers.

    Parameters
    ----------
    task : str
    layers : mapping
        ``truth`` and ``prediction``; ``other`` and ``image`` may be missing.

    Raises
    ------
    InputError
        A layer is missing, is scored against itself, or does not fit the others.
    """
    for kind in ("prediction", "truth"):
        if layers.get(kind) is None:
            raise InputError(f"no {kind} layer is chosen", hint="Open one, or pick it above.")
    used = {k: v for k, v in layers.items() if v is not None}
    for kind in ("prediction", "other"):
        if used.get(kind) is used["truth"]:
            raise InputError(
                f"{used['truth'].name!r} is chosen as {kind} and as truth", expected="two layers"
            )
    if used.get("other") is used["prediction"]:
        raise InputError(
            f"{used['prediction'].name!r} is compared with itself", expected="two predictions"
        )
    truth = used["truth"]
    scored = [kind for kind in ("truth", "prediction", "other") if kind in used]
    part = common_part([used[kind] for kind in scored])
    notes = list(part.notes)
    if "image" in used:
        try:
            part = common_part([used[kind] for kind in (*scored, "image")])
            scored.append("image")
            notes = list(part.notes)
        except InputError as error:
            notes.append(f"The image was left out: {error}")
    axes = guess_axes(truth)
    letters = axes[len(axes) - len(part.windows[0]) :]
    images = {
        kind: _image(used[kind], window, letters, truth)
        for kind, window in zip(scored, part.windows, strict=True)
    }
    payload: dict[str, Any] = {"task": task, "notes": notes, "about": _about(used)}
    if task == "classification":
        payload["classes"] = {k: _classes(used[k], k) for k in scored if k != "image"}
    if task == "instance":
        payload["scores"] = {k: _scores(used[k]) for k in scored if k in ("prediction", "other")}
    lead = truth.ndim - len(part.windows[0])
    origin = (0,) * lead + tuple(window.start for window in part.windows[0])
    title = f"{used['prediction'].name} against {truth.name}"
    return EvaluateRequest(task, payload, images, used, origin, title=title)


def _image(layer: Layer, window: tuple[slice, ...], letters: str, truth: Layer) -> ImageInput:
    data = full_size(layer)
    shape = tuple(map(int, data.shape))
    samples = layer_is_rgb(layer)
    if samples:
        window = (*window, slice(0, shape[-1]))
    whole = tuple(slice(0, n) for n in shape)
    shown = data if window == whole else Window(data, window)
    sizes = pixel_sizes_um(truth, guess_axes(truth))
    return ImageInput(shown, letters + "S" * samples, sizes, name=layer.name)


def _about(layers: Mapping[str, Layer]) -> dict[str, Any]:
    """Where the layers come from: files, and what made them."""
    about = {}
    for kind, layer in layers.items():
        facts = {"layer": layer.name}
        path = getattr(layer.source, "path", None)
        if path:
            facts["file"] = str(path)
        made = layer.metadata.get(METADATA)
        if isinstance(made, Mapping):
            known = ("model", "model_hash", "task", "written")
            facts |= {name: str(made[name]) for name in known if made.get(name)}
        about[kind] = facts
    return about


def _table(layer: Layer) -> tuple[np.ndarray, Any]:
    """Ids and features of a Labels layer."""
    table = getattr(layer, "features", None)
    if table is None or len(table) == 0:
        return np.zeros(0, int), {}
    ids = table.get("index", table.index)
    return np.asarray(ids), table


def _scores(layer: Layer) -> dict[int, float] | None:
    ids, table = _table(layer)
    column = next((name for name in SCORE_COLUMNS if name in table), None)
    if column is None:
        return None
    values = np.asarray(table[column], float)
    known = np.isfinite(values)
    return {int(i): float(v) for i, v in zip(ids[known], values[known], strict=True)}


def _classes(layer: Layer, kind: str) -> dict[int, str]:
    ids, table = _table(layer)
    if "class" not in table:
        raise InputError(
            f"the {kind} {layer.name!r} has no column 'class' in its features",
            expected="a Labels layer of objects with their classes",
            hint="Predict instances with a model that has classes, or score folders and CSV files.",
        )
    pairs = zip(ids, table["class"], strict=True)
    return {int(i): str(name) for i, name in pairs if i and str(name) not in ("", "nan", "None")}


class EvaluateRun(QObject):
    """One evaluation; error layers appear while it runs."""

    progress = Signal(object)
    #: The data of the last event.
    done = Signal(object)
    ended = Signal(object)

    def __init__(self, controller: Controller, request: EvaluateRequest) -> None:
        super().__init__(controller)
        self._controller = controller
        self.request = request
        self._job: JobHandle | None = None
        self._results: dict[str, ResultSet] = {}
        self._notes: list[str] = []

    @property
    def running(self) -> bool:
        return self._job is not None and self._job.running

    def start(self) -> None:
        """Ask the worker."""
        request = self.request
        job = self._controller.submit(request.kind, request.payload, request.images)
        self._job = job
        job.progress.connect(self._on_progress)
        job.plane.connect(self._on_plane)
        job.done.connect(self._on_done)
        job.failed.connect(self._on_failed)
        job.cancelled.connect(self._on_cancelled)

    def cancel(self) -> None:
        """Stop within a second."""
        if self._job is not None:
            self._job.cancel()

    def close(self) -> None:
        """The panel is going away."""
        if self._job is not None and self._job.running:
            self._job.silence()
            self._job.cancel()

    def error_layer(self, which: str = "prediction") -> Any:
        """The error layer of a prediction, while it is open."""
        results = self._results.get(which)
        return results.layer(self._kind) if results is not None else None

    @property
    def _kind(self) -> str:
        return "depth error" if self.request.task == "depth" else "faults"

    def _on_progress(self, data: Any) -> None:
        self.progress.emit(progress_of(data))

    def _on_plane(self, data: Mapping[str, Any]) -> None:
        which = str(data["which"])
        layer = self.request.layers[which]
        if layer not in self._controller.results.viewer.layers:
            return  # removed meanwhile: its figures are still of use, its errors have no place
        if which not in self._results:
            self._results[which] = self._open(layer)
        results = self._results[which]
        letters = [a for a in results.placement.axes if a not in "YX"]
        given = list(data["index"])
        index = dict.fromkeys(letters, 0)
        index |= dict(zip(letters[len(letters) - len(given) :], given, strict=True))
        fresh = results.layer(self._kind) is None
        results.put(self._kind, index, data["faults"])
        shown = results.layer(self._kind)
        if fresh and shown is not None and self._kind == "faults":
            shown.colormap = fault_colormap()

    def _open(self, layer: Layer) -> ResultSet:
        truth = self.request.layers["truth"]
        axes = guess_axes(truth)
        shape = self.request.images["truth"].shape
        shape = (1,) * (truth.ndim - len(shape)) + shape
        kwargs = spatial_kwargs(truth)
        if any(self.request.origin):
            linear = data_to_physical(truth).linear_matrix
            offset = linear @ np.array(self.request.origin, float)
            kwargs["translate"] = np.asarray(kwargs["translate"]) + offset
        place = Placement(axes, shape, dict.fromkeys(axes, 0), "", kwargs)
        source = Source((layer,), self.request.images["prediction"], axes)
        about = {"truth": truth.name, "evaluated": self.request.task}
        return ResultSet(self._controller.results, source, place, about=about)

    def _on_done(self, data: Mapping[str, Any]) -> None:
        for results in self._results.values():
            results.finish()
            layer = results.layer(self._kind)
            if layer is None:
                continue
            if self._kind == "faults":
                names = {code: name for code, (name, _) in FAULTS.items()}
                results.set_features(
                    "faults",
                    {
                        "label": np.array([0, *names]),
                        "error": np.array(["", *names.values()], dtype=object),
                    },
                )
            else:
                most = max(abs(float(limit)) for limit in layer.contrast_limits)
                layer.contrast_limits_range = (-most, most)
                layer.contrast_limits = (-most, most)
        self.done.emit(data)
        self.ended.emit(Outcome("done", _summary(data)))

    def _on_failed(self, error: DinoscopeError) -> None:
        self._back()
        self.ended.emit(Outcome("error", str(error)))

    def _on_cancelled(self) -> None:
        self._back()
        self.ended.emit(Outcome("cancelled", "Cancelled."))

    def _back(self) -> None:
        for results in self._results.values():
            results.roll_back()


def fault_colormap() -> Any:
    """The colours of the error map."""
    from napari.utils.colormaps import DirectLabelColormap

    colours: dict[int | None, str] = {None: "transparent", 0: "transparent"}
    colours |= {code: colour for code, (_, colour) in FAULTS.items()}
    return DirectLabelColormap(color_dict=colours)


def _summary(data: Mapping[str, Any]) -> str:
    """One line about the outcome."""
    if data.get("comparison"):
        return str(data["comparison"]["verdict"])
    ((name, scores),) = data["evaluations"].items()
    for figure in ("ap50", "iou", "accuracy", "rmse"):
        if figure in scores:
            value = f"{scores[figure]:.3g}"
            span = scores["intervals"].get(figure)
            shown = f" (95 % {span[0]:.3g} to {span[1]:.3g})" if span else ""
            return f"{name}: {figure} {value}{shown}, {scores['n']} scored."
    return f"{name}: {scores['n']} scored."
