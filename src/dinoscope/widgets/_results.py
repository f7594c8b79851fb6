"""Result layers: made above their source, filled plane by plane, replaced only while they are ours.

A result belongs to us as long as nobody painted in it, gave it other data or features, or renamed
it. From then on it is the user's: it is never written again, and never removed.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.types import Table
from dinoscope.widgets._classes import FOUND_COLOUR, class_colormap, class_features
from dinoscope.widgets._layers import Placement, Source
from dinoscope.widgets._store import ResultStore

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

#: Key of our provenance in ``layer.metadata``.
METADATA = "dinoscope"


def is_result(layer: Any) -> bool:
    """Whether a layer was made by us; layers of the user's may carry notes of ours, too."""
    made = layer.metadata.get(METADATA)
    return isinstance(made, dict) and "task" in made


@dataclass(frozen=True)
class Kind:
    """How the result of a task looks: its name, its layer type, and its place in the pile."""

    title: str
    layer: str
    rank: int
    style: Mapping[str, Any] = field(default_factory=dict)


#: Opaque images lie below labels; within the pile a higher rank lies higher.
KINDS = {
    "view": Kind("view", "image", -1),
    "pca": Kind("PCA", "rgb", 0),
    "focus": Kind("in focus", "image", 1, {"colormap": "gray", "visible": False}),
    "confidence": Kind("focus confidence", "image", 2, {"colormap": "magma", "visible": False}),
    "height": Kind("height", "image", 3, {"colormap": "viridis"}),
    "depth": Kind("depth", "image", 4, {"colormap": "viridis"}),
    "similarity": Kind("similarity", "image", 4, {"colormap": "inferno", "opacity": 0.65}),
    "semantic": Kind("classes", "labels", 5, {"opacity": 0.5}),
    "instance": Kind("instances", "labels", 6),
    "faults": Kind("errors", "labels", 7),
    "depth error": Kind("depth error", "image", 7, {"colormap": "coolwarm"}),
    "similar": Kind("similar", "labels", 7, {"opacity": 0.6}),
}


@contextmanager
def selection_kept(viewer: Viewer) -> Iterator[None]:
    """Layers may be added inside; active layer, selection and tool stay as they were."""
    selection = viewer.layers.selection
    active, chosen = selection.active, set(selection)
    mode = getattr(active, "mode", None)
    yield
    chosen &= set(viewer.layers)
    if active is not None and active in viewer.layers:
        selection.active = active
        if mode is not None and active.mode != mode:
            active.mode = mode
    elif set(selection) != chosen:
        selection.clear()
        selection.update(chosen)


def remove_layer(viewer: Viewer, layer: Layer) -> None:
    """Remove a layer of ours; the active layer, the selection and the tool stay as they were."""
    from qtpy.QtCore import QCoreApplication, QEvent

    with selection_kept(viewer):
        viewer.layers.remove(layer)
    # Drawn now: when several layers go between two frames, the next layer that is added crashes
    # software OpenGL (Mesa 22 with vispy 0.17). Only repaints are let through, no other event.
    QCoreApplication.sendPostedEvents(None, int(QEvent.Type.UpdateRequest.value))


class Record:
    """What we know about one result layer of ours: what we wrote, and whether it still is ours."""

    def __init__(self, layer: Layer, source_id: str, task: str, group: str) -> None:
        self._layer = weakref.ref(layer)
        self.source_id, self.task, self.group = source_id, task, group
        self.store: ResultStore | None = None
        self.touched = False
        self._writing = 0
        self._name = layer.name
        layer.events.data.connect(self._on_edit)
        layer.events.name.connect(self._on_name)
        for event in ("paint", "features"):
            if hasattr(layer.events, event):
                getattr(layer.events, event).connect(self._on_edit)

    @property
    def layer(self) -> Layer | None:
        return self._layer()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Changes made inside are ours."""
        self._writing += 1
        try:
            yield
        finally:
            self._writing -= 1

    def is_ours(self) -> bool:
        """Whether nobody but us has changed the layer since we wrote it."""
        layer = self.layer
        if layer is None or self.touched or self.store is None:
            return False
        if layer.data is not self.store.array or not self.store.is_as_written():
            # Painted in code, without an event.
            self.touched = True
        return not self.touched

    def _on_edit(self, event: Any = None) -> None:
        if not self._writing:
            self.touched = True

    def _on_name(self, event: Any = None) -> None:
        layer = self.layer
        if layer is not None and not self._writing and layer.name != self._name:
            self.touched = True

    def name_given(self) -> None:
        """Call after the viewer has made the name unique."""
        if self.layer is not None:
            self._name = self.layer.name


class Results:
    """All result layers of one viewer."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = weakref.ref(viewer)
        self._records: weakref.WeakKeyDictionary[Layer, Record] = weakref.WeakKeyDictionary()

    @property
    def viewer(self) -> Viewer:
        viewer = self._viewer()
        if viewer is None:
            raise RuntimeError("the viewer is gone")
        return viewer

    def of(self, source_id: str, *, group: str | None = None) -> list[Record]:
        """Records of the layers that are still open, lowest in the list first."""
        found = [self._records.get(layer) for layer in self.viewer.layers]
        return [
            r
            for r in found
            if r is not None and r.source_id == source_id and (group is None or r.group == group)
        ]

    def record(self, layer: Layer) -> Record | None:
        """Our record of `layer`, if we made it."""
        return self._records.get(layer)

    def find(self, source_id: str, task: str, group: str) -> Record | None:
        """The layer that a new result of this kind may replace."""
        for record in self.of(source_id, group=group):
            if record.task == task and record.is_ours():
                return record
        return None

    def remove(self, source_id: str, *, group: str | None = None) -> tuple[list[str], list[str]]:
        """Remove the results of a source that nobody has edited.

        Returns
        -------
        removed, kept : list of str
            Names of the layers.
        """
        removed, kept = [], []
        for record in self.of(source_id, group=group):
            layer = record.layer
            if record.is_ours():
                removed.append(layer.name)
                remove_layer(self.viewer, layer)
            else:
                kept.append(layer.name)
        return removed, kept

    def add(self, layer: Layer, source: Layer, task: str, group: str) -> Record:
        """Insert `layer` above `source` and above our lower-ranked results of it."""
        layers = self.viewer.layers
        record = Record(layer, str(source.unique_id), task, group)
        if group:
            at = len(layers)  # groups that are compared lie together, on top
        elif source in layers:
            at = layers.index(source) + 1
            while at < len(layers):
                other = self._records.get(layers[at])
                if (
                    other is None
                    or other.source_id != record.source_id
                    or KINDS[other.task].rank > KINDS[task].rank
                ):
                    break
                at += 1
        else:
            at = len(layers)
        with selection_kept(self.viewer), record.writing():
            layers.insert(at, layer)
        record.name_given()
        self._records[layer] = record
        return record


class ResultSet:
    """The result layers of one run over one source.

    Parameters
    ----------
    results : Results
        The viewer's register.
    source : Source
        What is being run on.
    placement : Placement
        Shape and place of the results.
    group : str
        Results of another group are left alone; the name of the model where models are compared.
    about : Mapping
        Provenance, stored in each layer's metadata.
    tasks : sequence of str
        What the run will give.
    """

    def __init__(
        self,
        results: Results,
        source: Source,
        placement: Placement,
        *,
        group: str = "",
        about: Mapping[str, Any] | None = None,
        tasks: Sequence[str] = (),
    ) -> None:
        self.results, self.source, self.placement, self.group = results, source, placement, group
        self.about = dict(about or {})
        self.class_names: tuple[str, ...] = ()
        # An opaque result below labels would hide the image from them: its eye starts closed.
        self._labelled = any(KINDS[t].layer == "labels" for t in tasks if t in KINDS)
        self._open: dict[str, _Open] = {}

    # -- writing -------------------------------------------------------------------------------

    def put(self, task: str, index: Mapping[str, int], plane: np.ndarray) -> None:
        """Write one finished plane; the layer appears with the first one."""
        plane = self.placement.oriented(np.asarray(plane))
        current = self._open.get(task)
        if current is None:
            current = self._open[task] = self._begin(task, plane)
        layer = current.record.layer
        if layer is None or layer not in self.results.viewer.layers:
            return  # the user removed it; the others go on
        key = self.placement.key(index)
        if KINDS[task].layer == "rgb":
            key = (*key, slice(None))
        if current.record.touched and np.any(current.store.array[key]):
            return  # painted by the user meanwhile
        current.store.write(key, plane)
        if KINDS[task].layer == "image":
            self._widen_contrast(current, layer, plane)
        layer.refresh(extent=False)

    def replace_touched(self, task: str) -> bool:
        """Let go of a result the user has edited; the next `put` starts a new layer.

        Returns whether there is one to go on with (``False``: all planes are needed again).
        """
        current = self._open.get(task)
        if current is None:
            return False
        if current.record.is_ours():
            return True
        del self._open[task]
        return False

    def let_go(self, task: str) -> None:
        """Write a result no more; the next `put` starts a new layer, or takes up one of ours."""
        self._open.pop(task, None)

    def layer(self, task: str) -> Layer | None:
        """The layer of `task`, while it is open in the viewer."""
        current = self._open.get(task)
        layer = current.record.layer if current else None
        return layer if layer is not None and layer in self.results.viewer.layers else None

    @property
    def tasks(self) -> list[str]:
        return list(self._open)

    def set_features(self, task: str, table: Table | None) -> None:
        """Show a table of objects as the layer's features (row = label)."""
        layer = self.layer(task)
        if layer is None or not table or not hasattr(layer, "features"):
            return
        record = self._open[task].record
        columns = {k: v for k, v in table.items() if k != "label"}
        with record.writing():
            layer.features = {"index": np.asarray(table["label"]), **columns}

    def name_classes(self, names: Sequence[str]) -> None:
        """Give the classes of the semantic result their names and colours."""
        self.class_names = tuple(names)
        layer = self.layer("semantic")
        if layer is not None and names:
            with self._open["semantic"].record.writing():
                layer.colormap = class_colormap(names)
                layer.features = class_features(names)

    def annotate(self, task: str, **facts: Any) -> None:
        """Add facts to the provenance of a result."""
        layer = self.layer(task)
        if layer is not None:
            layer.metadata[METADATA] = {**layer.metadata.get(METADATA, {}), **facts}

    def finish(self, **facts: Any) -> None:
        """The run is complete: note how the layers were made."""
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        for task in self._open:
            layer = self.layer(task)
            if layer is not None:
                layer.metadata[METADATA] = self._provenance(task, written=stamp, **facts)
                if hasattr(layer, "editable"):
                    layer.editable = True
            self._open[task].before = None

    def roll_back(self) -> list[str]:
        """The run did not finish: earlier results come back; new ones keep their finished planes.

        Returns the names of the layers that now hold only a part.
        """
        partial = []
        for current in self._open.values():
            layer = current.record.layer
            if layer is None or layer not in self.results.viewer.layers:
                continue
            layer.editable = True
            if current.record.touched or current.before is None:
                task = current.record.task
                layer.metadata[METADATA] = self._provenance(task, partial=True)
                partial.append(layer.name)
            else:
                current.restore(self.results)
        return partial

    # -- inside --------------------------------------------------------------------------------

    def _provenance(self, task: str, **facts: Any) -> dict[str, Any]:
        source = self.source.layer
        return {
            **self.about,
            "task": task,
            "source": source.name,
            "source_id": str(source.unique_id),
            **facts,
        }

    def _begin(self, task: str, plane: np.ndarray) -> _Open:
        kind = KINDS[task]
        samples = (plane.shape[-1],) if kind.layer == "rgb" else ()
        store = ResultStore(self.placement.shape + samples, plane.dtype, planar=3 if samples else 2)
        source_id = str(self.source.layer.unique_id)
        old = self.results.find(source_id, task, self.group)
        if old is not None and old.layer.data.shape == store.shape:
            return self._reuse(old, store, task)
        layer = self._new_layer(task, store)
        before = None
        if old is not None:
            before = _Before.of(old, self.results.viewer.layers.index(old.layer))
            for name in ("opacity", "visible", "blending", "contour"):
                if hasattr(old.layer, name):
                    setattr(layer, name, getattr(old.layer, name))
            was_active = self.results.viewer.layers.selection.active is old.layer
            remove_layer(self.results.viewer, old.layer)
            record = self.results.add(layer, self.source.layer, task, self.group)
            if was_active:
                self.results.viewer.layers.selection.active = layer
        else:
            record = self.results.add(layer, self.source.layer, task, self.group)
        record.store = store
        layer.editable = False  # until the run has ended
        return _Open(record, store, before)

    def _reuse(self, old: Record, store: ResultStore, task: str) -> _Open:
        layer = old.layer
        before = _Before.of(old, None)
        with old.writing():
            layer.data = store.array
            for name, value in self.placement.kwargs.items():
                setattr(layer, name, value)
            if task == "semantic":
                layer.colormap = class_colormap(self.class_names)
                layer.features = class_features(self.class_names)
        old.store = store
        layer.editable = False
        return _Open(old, store, before)

    def _new_layer(self, task: str, store: ResultStore) -> Layer:
        from napari.layers import Image, Labels

        kind = KINDS[task]
        name = f"{self.source.layer.name} · {kind.title}" + (
            f" [{self.group}]" if self.group else ""
        )
        common = {"name": name, **self.placement.kwargs, **kind.style}
        # Known as a result from the first moment on, so that no list offers it as an image.
        common["metadata"] = {METADATA: self._provenance(task, partial=True)}
        if task in ("pca", "depth") and self._labelled:
            common["visible"] = False
        if kind.layer == "labels":
            if task == "similar":
                common["colormap"] = class_colormap(colours=[FOUND_COLOUR])
            layer = Labels(store.array, **common)
            if task == "semantic":
                layer.colormap = class_colormap(self.class_names)
                layer.features = class_features(self.class_names)
            return layer
        if kind.layer == "rgb":
            return Image(store.array, rgb=True, multiscale=False, **common)
        # Given, because napari would look at the whole array; the planes widen them.
        return Image(store.array, rgb=False, multiscale=False, contrast_limits=(0, 1), **common)

    def _widen_contrast(self, current: _Open, layer: Layer, plane: np.ndarray) -> None:
        finite = plane[np.isfinite(plane)]
        if finite.size == 0:
            return
        low, high = float(finite.min()), float(finite.max())
        if current.range is not None:
            low, high = min(low, current.range[0]), max(high, current.range[1])
        if (low, high) != current.range:
            current.range = (low, high)
            shown = (low, high) if high > low else (low, low + 1.0)
            layer.contrast_limits_range = shown
            layer.contrast_limits = shown


@dataclass
class _Before:
    """An earlier result, kept until the run that replaces it has finished."""

    layer: Layer
    store: ResultStore
    kwargs: dict[str, Any]
    features: Any
    metadata: dict[str, Any]
    at: int | None

    @classmethod
    def of(cls, record: Record, at: int | None) -> _Before:
        layer = record.layer
        from dinoscope.widgets._layers import spatial_kwargs

        features = layer.features.copy() if hasattr(layer, "features") else None
        return cls(layer, record.store, spatial_kwargs(layer), features, dict(layer.metadata), at)


@dataclass
class _Open:
    """A result that is being written."""

    record: Record
    store: ResultStore
    before: _Before | None
    range: tuple[float, float] | None = None

    def restore(self, results: Results) -> None:
        before = self.before
        if before is None:
            return
        if before.at is None:
            with self.record.writing():
                before.layer.data = before.store.array
                for name, value in before.kwargs.items():
                    setattr(before.layer, name, value)
                if before.features is not None:
                    before.layer.features = before.features
            self.record.store = before.store
            return
        layers = results.viewer.layers
        remove_layer(results.viewer, self.record.layer)
        with selection_kept(results.viewer):
            layers.insert(min(before.at, len(layers)), before.layer)
