"""What is done with a plot: classes, labels, a column of the table, files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QFileDialog, QWidget

from dinoscope.errors import DinoscopeError
from dinoscope.widgets._chain import Ask, Steps
from dinoscope.widgets._figure import save_figure
from dinoscope.widgets._linked import LinkedPlot
from dinoscope.widgets._plotdock import EXPORTS
from dinoscope.widgets._pointlabels import class_planes, give_class, make_labels, write_column
from dinoscope.widgets._points import PointSet

if TYPE_CHECKING:
    from dinoscope.widgets._plotdock import PlotDock

FIGURES = ("png", "svg")


class PlotActions(QObject):
    """Acts on the buttons of the plot's dock.

    Parameters
    ----------
    linked : LinkedPlot
        The plot.
    panel : QWidget
        The parent of file dialogs.
    """

    said = Signal(str, str)
    #: Steps for the worker, and what to call them.
    run_wanted = Signal(object, str)
    #: Points have other classes.
    classes_changed = Signal()
    #: Classes for the Annotate panel: names, and (source, index, plane) of each plane.
    strokes_made = Signal(object)

    def __init__(self, linked: LinkedPlot, panel: QWidget) -> None:
        super().__init__(panel)
        self._linked = linked
        self._panel = panel
        linked.shown.connect(self._on_shown)

    def ask_path(self, suffix: str) -> str:
        """Where to save; replaced in tests."""
        points = self._linked.points
        suggestion = suggested_path(points, suffix) if points is not None else ""
        path, _ = QFileDialog.getSaveFileName(
            self._panel, EXPORTS[suffix], suggestion, f"{suffix.upper()} (*.{suffix})"
        )
        return path

    def _on_shown(self, shown: bool) -> None:
        dock: PlotDock | None = self._linked.dock
        if shown and dock is not None:
            dock.give_clicked.connect(self.give)
            dock.labels_clicked.connect(self.make_labels)
            dock.annotate_clicked.connect(self.annotate)
            dock.table_clicked.connect(self.write_column)
            dock.export_chosen.connect(self.export)

    def give(self, name: str) -> None:
        """Give the selected points a class."""

        def act(points: PointSet) -> str:
            count = give_class(points, self._linked.selection.mask, name)
            self._linked.dock.offer_classes(points.class_names)
            self._linked.colour("classes")
            self.classes_changed.emit()
            return f"{count:,} {points.what} are {name!r}."

        self._try(act)

    def make_labels(self) -> None:
        """Classes or selection as Labels layers."""

        def act(points: PointSet) -> str:
            made = make_labels(self._linked._viewer, points, self._linked.selection.mask)
            return "New: " + ", ".join(repr(layer.name) for layer in made) + "."

        self._try(act)

    def annotate(self) -> None:
        """Hand classes or selection over to the Annotate panel."""

        def act(points: PointSet) -> str:
            names, planes = class_planes(points, self._linked.selection.mask)
            self.strokes_made.emit((names, planes))
            return f"{', '.join(names)}: handed over to Annotate."

        self._try(act)

    def write_column(self) -> None:
        """Classes into the features table of the objects."""

        def act(points: PointSet) -> str:
            column = write_column(points)
            self._linked.offer_colours()
            return f"Column {column!r} of {points.objects.name!r} holds the classes."

        self._try(act)

    def export(self, kind: str) -> None:
        """Save the figure or the points."""
        points, dock = self._linked.points, self._linked.dock
        if points is None or dock is None:
            return
        path = self.ask_path(kind)
        if not path:
            return
        target = Path(path) if Path(path).suffix else Path(f"{path}.{kind}")
        if kind in FIGURES:

            def act(points: PointSet) -> str:
                save_figure(dock.plot, target)
                return f"Saved {target}."

            self._try(act)
            return
        self.run_wanted.emit(export_steps(points, self._linked, target), "Saving the points")

    def _try(self, act: Callable[[PointSet], str]) -> None:
        points = self._linked.points
        if points is None:
            return
        try:
            text = act(points)
        except DinoscopeError as error:
            self.said.emit(str(error), "error")
        else:
            self.said.emit(text, "")


def suggested_path(points: PointSet, suffix: str) -> str:
    """Beside the file of the first image, where it has one."""
    layer = points.sets[0].source.layer
    stem = "".join(c if c.isalnum() or c in " -_." else "_" for c in layer.name).strip()
    name = f"{stem}_features.{suffix}"
    path = layer.source.path
    return str(Path(path).parent / name) if path else name


def export_steps(points: PointSet, linked: LinkedPlot, path: Path) -> Steps:
    """Points of the variant that is shown, with their features, coordinates, groups and classes."""
    variant = linked.variant
    if variant is None:
        return "Nothing to save."
    extra: dict[str, np.ndarray] = {}
    method = points.options.method
    for axis in range(variant.coordinates.shape[1]):
        extra[f"{method}_{axis + 1}"] = variant.coordinates[:, axis]
    if variant.clusters is not None:
        extra["cluster"] = variant.clusters
    if points.classes.any():
        extra["class"] = np.array(["", *points.class_names])[points.classes]
    if "similarity" in points.columns:
        extra["similarity"] = points.columns["similarity"]
    extra["selected"] = linked.selection.mask.copy()
    payload = {"points": variant.points, "path": str(path), "extra": extra}
    data = yield Ask("explore_export", payload)
    return f"Saved {int(data['rows']):,} points to {data['path']}."
