"""Two-way brushing: what is chosen in the plot lights up in the image, and the other way round."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QDockWidget, QMainWindow, QWidget

from dinoscope.widgets._clicks import ImageClicks, how_of_keys, locate
from dinoscope.widgets._colourby import choices, colouring_of
from dinoscope.widgets._follow import LabelFollower
from dinoscope.widgets._imagelasso import ImageLasso
from dinoscope.widgets._layers import show_plane
from dinoscope.widgets._overlay import Overlay
from dinoscope.widgets._plotdock import PlotDock
from dinoscope.widgets._pointmap import PointMap
from dinoscope.widgets._points import PointSet, Variant
from dinoscope.widgets._selection import Selection

if TYPE_CHECKING:
    from napari.viewer import Viewer

#: Rows of pixels that the plot takes at first.
_HEIGHT = 320
#: The pointer on the image is followed this often.
_HOVER_MS = 30
DOCK_NAME = "Feature plot"


class LinkedPlot(QObject):
    """One plot, its selection, and its overlays in the image.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose layers.
    """

    #: Colours that the worker has to be asked for: a key of ``_colourby.choices``.
    colours_wanted = Signal(str)
    #: Something to tell, and its tone.
    said = Signal(str, str)
    #: The plot was opened or closed.
    shown = Signal(bool)

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.dock: PlotDock | None = None
        self.points: PointSet | None = None
        self.variant_index = 0
        self.selection = Selection(parent=self)
        self.overlays: list[Overlay] = []
        self._hover = -1
        self._pointer: Any = None
        self._clicks = ImageClicks(viewer, self)
        self._lasso = ImageLasso(viewer, self)
        self._follower = LabelFollower(viewer, self)
        self._hover_timer = QTimer(self)
        self._hover_timer.setSingleShot(True)
        self._hover_timer.setInterval(_HOVER_MS)
        self._hover_timer.timeout.connect(self._look_at_pointer)
        self._connected = False
        self.selection.changed.connect(self._on_selection)
        self._clicks.clicked.connect(self._on_image_click)
        self._lasso.drawn.connect(self._on_image_lasso)
        self._lasso.ended.connect(self._on_lasso_ended)
        self._follower.found.connect(self._on_followed)
        self._follower.failed.connect(self._on_follow_failed)

    # -- opening and closing -------------------------------------------------------------------

    @property
    def variant(self) -> Variant | None:
        """The points of the model that is shown."""
        return self.points.variants[self.variant_index] if self.points is not None else None

    @property
    def open(self) -> bool:
        return self.dock is not None

    def show(self, points: PointSet) -> None:
        """Show other points; the dock appears if it is not there."""
        self._drop_overlays()
        self._disconnect()
        self.points = points
        self.variant_index = len(points.variants) - 1  # the tuned model where there are two
        self._open_dock()
        dock = self.dock
        dock.offer_variants([v.name or "model" for v in points.variants])
        dock.variant.setCurrentIndex(self.variant_index)
        dock.plot.describe = points.describe
        self.overlays = [
            Overlay(self._viewer, PointMap.of(points, number)) for number in range(len(points.sets))
        ]
        self._hover = -1
        self._draw_points()
        self.selection.reset(points.count)
        self.offer_colours()
        dock.offer_classes(points.class_names)
        dock.table.setVisible(points.what == "objects")
        dock.note.setText("\n".join(points.notes))
        self._connect()
        self.colour()
        self._on_follow_chosen()

    def reopen(self) -> None:
        """Bring back a plot whose dock was closed."""
        if self.points is not None and self.dock is None:
            self.show(self.points)

    def close(self) -> None:
        """Take plot and overlays away; the points are kept."""
        self._drop_overlays()
        self._disconnect()
        dock, self.dock = self.dock, None
        if dock is not None:
            dock.closed.disconnect(self._on_dock_closed)
            dock.disconnect_viewer()
            window = getattr(self._viewer, "window", None)
            if window is not None:
                # The window may be closing, and its docks with it.
                with contextlib.suppress(RuntimeError, LookupError, AttributeError):
                    window.remove_dock_widget(dock)
            with contextlib.suppress(RuntimeError):
                dock.deleteLater()
            self.shown.emit(False)

    def forget(self) -> None:
        """Close, and forget the points."""
        self.close()
        self.points = None

    def _open_dock(self) -> None:
        if self.dock is not None:
            return
        dock = self.dock = PlotDock(self._viewer)
        window = getattr(self._viewer, "window", None)
        if window is not None:
            window.add_dock_widget(dock, name=DOCK_NAME, area="bottom", add_vertical_stretch=False)
            _make_room(dock)
        dock.closed.connect(self._on_dock_closed)
        dock.plot.lassoed.connect(self.selection.apply)
        dock.plot.picked.connect(self._on_plot_pick)
        dock.plot.hovered.connect(self._on_plot_hover)
        dock.undo_clicked.connect(self.selection.undo)
        dock.clear_clicked.connect(self.selection.clear)
        dock.colour_chosen.connect(self._on_colour)
        dock.variant_chosen.connect(self._on_variant)
        dock.pick_toggled.connect(self._on_pick)
        dock.lasso_toggled.connect(self._on_lasso)
        dock.follow_chosen.connect(self._on_follow_chosen)
        self.shown.emit(True)

    def _on_dock_closed(self) -> None:
        self.close()

    # -- colours -------------------------------------------------------------------------------

    def offer_colours(self) -> None:
        """List what points can be coloured by now."""
        if self.dock is not None and self.points is not None:
            self.dock.offer_colours(choices(self.points, list(self._viewer.layers)))

    def colour(self, key: str = "") -> None:
        """Colour the points; asks for what is not known yet."""
        if self.dock is None or self.points is None or self.variant is None:
            return
        if key:
            self.dock.choose_colour(key)
        key = self.dock.colour_key
        colouring = colouring_of(self.points, self.variant, key, self.layer_of(key))
        if colouring is None:
            self.colours_wanted.emit(key)
        else:
            self.dock.plot.set_colours(colouring)

    def layer_of(self, key: str) -> Any:
        """The layer that a key ``labels:…`` or ``under:…`` means, while it is open."""
        kind, _, rest = key.partition(":")
        name = rest.partition(":")[0]
        if kind not in ("labels", "under"):
            return None
        return next((x for x in self._viewer.layers if str(x.unique_id) == name), None)

    def _on_colour(self, key: str) -> None:
        layer = self.layer_of(key)
        if layer is not None and self.points is not None:
            # It may have been painted in meanwhile.
            self.points.columns.pop(f"labels:{layer.unique_id}", None)
        self.colour()

    def _on_variant(self, index: int) -> None:
        self.variant_index = index
        self._draw_points()
        self.dock.plot.set_mask(self.selection.mask)
        self.colour()

    def _draw_points(self) -> None:
        points, variant = self.points, self.variant
        numbers = points.options.method == "pca"
        names = points.axis_names(variant)
        self.dock.plot.set_points(variant.coordinates, names, ticks=numbers)

    # -- selection and pointer -----------------------------------------------------------------

    def _on_selection(self) -> None:
        if self.dock is None or self.points is None:
            return
        self.dock.plot.set_mask(self.selection.mask)
        self._light_up()
        count, total = self.selection.count, self.points.count
        what = self.points.what if self.points.what != "images" else "planes"
        text = f"{count:,} of {total:,} {what} selected." if count else f"{total:,} {what}."
        self.dock.count.setText(text)
        self.dock.undo.setEnabled(self.selection.can_undo)
        self.dock.clear.setEnabled(count > 0)
        self.dock.give.setEnabled(count > 0)

    def _light_up(self) -> None:
        for overlay in self.overlays:
            overlay.show(self.selection.mask, self._hover)

    def _set_hover(self, point: int) -> None:
        if point != self._hover:
            self._hover = point
            self._light_up()

    def _on_plot_hover(self, point: int) -> None:
        self._set_hover(point)

    def _on_plot_pick(self, point: int, how: str) -> None:
        mask = np.zeros(len(self.selection.mask), bool)
        mask[point] = True
        self.selection.apply(mask, how)
        one = self.points.sets[int(self.points.table["set"][point])]
        axes = one.source.image.plane_axes
        if axes and one.source.layer in self._viewer.layers:
            index = tuple(int(i) for i in self.points.index_of([point], axes)[0])
            show_plane(self._viewer, one.source, index)

    def _select_rows(self, rows: np.ndarray, how: str = "new") -> None:
        mask = np.zeros(len(self.selection.mask), bool)
        mask[rows] = True
        self.selection.apply(mask, how)

    # -- from the image ------------------------------------------------------------------------

    def point_under(self, position: Any) -> int:
        """The point whose patch or object lies at a world position, or -1."""
        for overlay in reversed(self.overlays):
            found = locate(self._viewer, overlay.points.source, position)
            if found is not None:
                return overlay.points.at(*found)
        return -1

    def _on_mouse_move(self, viewer: Any, event: Any) -> None:
        self._pointer = tuple(event.position)
        if not self._hover_timer.isActive():
            self._hover_timer.start()

    def _look_at_pointer(self) -> None:
        if self.dock is None or self._pointer is None:
            return
        point = self.point_under(self._pointer)
        self.dock.plot.set_hover(point)
        self._set_hover(point)

    def _on_pick(self, on: bool) -> None:
        if on:
            self.dock.lasso.setChecked(False)
            self._clicks.start()
        else:
            self._clicks.stop()

    def _on_lasso(self, on: bool) -> None:
        if not on:
            self._lasso.stop()
            return
        self.dock.pick.setChecked(False)
        for overlay in reversed(self.overlays):
            if overlay.points.source.layer in self._viewer.layers:
                self._lasso.start(overlay.points.source)
                return
        self.dock.lasso.setChecked(False)

    def _on_lasso_ended(self) -> None:
        if self.dock is not None:
            self.dock.lasso.setChecked(False)

    def _on_image_click(self, position: Any, button: int, modifiers: Any) -> None:
        point = self.point_under(position)
        if button != 1:
            return
        how = how_of_keys(modifiers)
        if point >= 0:
            self._select_rows(np.array([point]), how)
        elif how == "new":
            self.selection.clear()

    def _on_image_lasso(self, index: tuple[int, ...], corners: np.ndarray) -> None:
        if self.overlays:
            self._select_rows(self.overlays[-1].points.inside(index, corners))

    def _on_follow_chosen(self) -> None:
        if self.dock is None or not self.overlays:
            return
        self._follower.follow(self.dock.follow.layer, self.overlays[0].points)

    def _on_followed(self, rows: np.ndarray) -> None:
        self._select_rows(rows)

    def _on_follow_failed(self, text: str) -> None:
        self.said.emit(text, "error")
        if self.dock is not None:
            self.dock.follow.setCurrentIndex(0)

    # -- the user's layers ---------------------------------------------------------------------

    def _connect(self) -> None:
        self._connected = True
        self._viewer.mouse_move_callbacks.append(self._on_mouse_move)
        events = self._viewer.layers.events
        events.removed.connect(self._on_removed)
        for event in (events.inserted, events.renamed):
            event.connect(self._on_layers)
        for one in self.points.sets:
            one.source.layer.events.data.connect(self._on_data)

    def _disconnect(self) -> None:
        self._hover_timer.stop()
        self._clicks.stop()
        self._lasso.stop()
        self._follower.stop()
        if not self._connected:
            return
        self._connected = False
        if self._on_mouse_move in self._viewer.mouse_move_callbacks:
            self._viewer.mouse_move_callbacks.remove(self._on_mouse_move)
        events = self._viewer.layers.events
        events.removed.disconnect(self._on_removed)
        for event in (events.inserted, events.renamed):
            event.disconnect(self._on_layers)
        for one in self.points.sets:
            one.source.layer.events.data.disconnect(self._on_data)

    def _drop_overlays(self) -> None:
        for overlay in self.overlays:
            overlay.remove()
        self.overlays = []

    def _on_layers(self, event: Any = None) -> None:
        with contextlib.suppress(RuntimeError):
            self.offer_colours()

    def _on_removed(self, event: Any) -> None:
        layer = event.value
        gone = [
            overlay
            for overlay in self.overlays
            if layer in overlay.points.source.layers
            or getattr(overlay.points, "layer", None) is layer
        ]
        for overlay in gone:
            overlay.remove()
            self.overlays.remove(overlay)
        if gone:
            self._lasso.stop()
            self._follower.stop()
            text = f"{layer.name!r} was removed: the plot stays, without its link to the image."
            self.said.emit(text, "warning")
        self._on_layers()

    def _on_data(self, event: Any = None) -> None:
        self.said.emit("The image has changed since the plot was made: plot it again.", "warning")


def _make_room(dock: QWidget) -> None:
    """Let the panels on the right keep their full height, and give the plot a fair share."""
    parent = dock.parent()
    main = parent.parent() if isinstance(parent, QDockWidget) else None
    if isinstance(main, QMainWindow):
        main.setCorner(Qt.Corner.BottomRightCorner, Qt.DockWidgetArea.RightDockWidgetArea)
        main.resizeDocks([parent], [_HEIGHT], Qt.Orientation.Vertical)
