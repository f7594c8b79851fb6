"""Choosing what to work on: one image layer, or several layers as the channels of one image."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QVBoxLayout,
    QWidget,
)

from dinoscope.errors import DinoscopeError
from dinoscope.widgets._layers import Source, full_size, guess_axes, make_source, same_geometry
from dinoscope.widgets._results import is_result
from dinoscope.widgets._style import add_row, blocked, form, hint_label, narrow, set_tone

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer


class LayerCombo(QComboBox):
    """A list of the viewer's layers of some kind that follows additions, removals and renames.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose layers.
    kind : str
        ``"image"``, ``"labels"``, or both with a blank between them.
    none : str
        Text of an entry for "no layer"; no such entry when empty.
    accept : callable, optional
        Which layers to offer.
    """

    layer_changed = Signal()

    def __init__(
        self,
        viewer: Viewer,
        kind: str,
        *,
        none: str = "",
        accept: Callable[[Layer], bool] | None = None,
    ) -> None:
        super().__init__()
        self._viewer, self._kind, self._none, self._accept = viewer, kind, none, accept
        self._choices: list[Layer | None] = []
        narrow(self)
        events = viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered, events.renamed):
            event.connect(self.refresh)
        self.refresh()
        active = viewer.layers.selection.active
        if active in self._choices and not none:
            self.layer = active
        self.currentIndexChanged.connect(self._on_index)

    @property
    def layer(self) -> Layer | None:
        """The chosen layer."""
        index = self.currentIndex()
        return self._choices[index] if 0 <= index < len(self._choices) else None

    @layer.setter
    def layer(self, layer: Layer | None) -> None:
        if layer in self._choices:
            self.setCurrentIndex(self._choices.index(layer))

    @property
    def layers(self) -> list[Layer]:
        """The layers that are offered, topmost first."""
        return [layer for layer in self._choices if layer is not None]

    def refresh(self, event: Any = None) -> None:
        """Offer the layers there are now; the chosen one stays chosen while it exists."""
        with contextlib.suppress(RuntimeError):  # the widget is gone, its slot is not yet
            self._refresh()

    def disconnect_viewer(self) -> None:
        """Stop following the viewer."""
        events = self._viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered, events.renamed):
            event.disconnect(self.refresh)

    def _refresh(self) -> None:
        before = self.layer
        layers = [
            layer
            for layer in reversed(self._viewer.layers)
            if layer._type_string in self._kind.split()
            and (self._accept is None or self._accept(layer))
        ]
        choices: list[Layer | None] = ([None] if self._none else []) + layers
        with blocked(self):
            self.clear()
            for layer in choices:
                self.addItem(layer.name if layer is not None else self._none)
            self._choices = choices
            if before in choices:
                self.setCurrentIndex(choices.index(before))
            elif choices:
                self.setCurrentIndex(0 if self._none else len(choices) - 1)
        self.setToolTip(self.currentText() if self.layer is not None else "")
        if self.layer is not before:
            self.layer_changed.emit()

    def _on_index(self, index: int) -> None:
        self.layer_changed.emit()


class SourcePicker(QWidget):
    """Image layer, its channels and axes, and a line that says how they are understood."""

    changed = Signal()

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.setObjectName("bare")
        self._viewer = viewer
        self.combo = LayerCombo(viewer, "image", accept=_not_a_guide)
        self.several = QCheckBox("Use several layers as channels")
        self.several.setToolTip(
            "For multi-channel files, which napari opens as one layer for each channel.\n"
            "Offered are layers with the same shape, scale and position."
        )
        self.channels = QListWidget()
        self.channels.setToolTip("Ticked layers become the channels of one image, in this order.")
        self.channels.setMaximumHeight(84)
        self.channels.hide()
        self.axes = QLineEdit()
        self.axes.setToolTip(
            "What each dimension is: T time, Z depth, C channel, Y row, X column.\n"
            "Empty = as the layer's axis labels say, else time, depth, rows, columns."
        )
        self.about = hint_label()

        grid = form()
        add_row(grid, "Layer", self.combo, tooltip="The image to work on.")
        grid.addWidget(self.several, grid.rowCount(), 0, 1, 2)
        grid.addWidget(self.channels, grid.rowCount(), 0, 1, 2)
        add_row(grid, "Axes", self.axes)
        grid.addWidget(self.about, grid.rowCount(), 0, 1, 2)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(grid)

        self.combo.layer_changed.connect(self._on_layer)
        self.several.toggled.connect(self._on_several)
        self.channels.itemChanged.connect(self._on_change)
        self.axes.editingFinished.connect(self._on_change)
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
            event.connect(self._on_layers)
        self._listed: list[Layer] = []
        self._describe()

    @property
    def layer(self) -> Layer | None:
        return self.combo.layer

    def source(self) -> Source:
        """What is chosen.

        Raises
        ------
        DinoscopeError
            Nothing is, or it cannot be understood.
        """
        layers = [self.layer] if self.layer is not None else []
        if self.several.isChecked():
            ticked = self._ticked()
            layers = ticked or layers
        return make_source(layers, axes=self.axes.text(), anchor=self.layer)

    def disconnect_viewer(self) -> None:
        self.combo.disconnect_viewer()
        for event in (self._viewer.layers.events.inserted, self._viewer.layers.events.removed):
            event.disconnect(self._on_layers)

    def state(self) -> dict[str, Any]:
        """What is remembered for the source."""
        return {"axes": self.axes.text(), "several": self.several.isChecked()}

    def restore(self, state: dict[str, Any]) -> None:
        with blocked(self):
            self.axes.setText(str(state.get("axes", "")))
            self.several.setChecked(bool(state.get("several", False)))
        self._describe()

    def _ticked(self) -> list[Layer]:
        return [
            layer
            for row, layer in enumerate(self._listed)
            if self.channels.item(row).checkState() == Qt.CheckState.Checked
        ]

    def _list_channels(self) -> None:
        first = self.layer
        ticked = set(self._ticked())
        self._listed = []
        if first is not None and self.several.isChecked():
            self._listed = [
                layer
                for layer in self._viewer.layers
                if layer._type_string == "image" and (layer is first or same_geometry(first, layer))
            ]
        with blocked(self.channels):
            self.channels.clear()
            for layer in self._listed:
                item = QListWidgetItem(layer.name)
                item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
                own = is_result(layer)
                on = layer in ticked or (not ticked and not own)
                item.setCheckState(Qt.CheckState.Checked if on else Qt.CheckState.Unchecked)
                self.channels.addItem(item)
        rows = min(max(len(self._listed), 1), 4)
        self.channels.setFixedHeight(rows * max(self.channels.sizeHintForRow(0), 18) + 8)
        self.channels.setVisible(self.several.isChecked())

    def _on_layer(self) -> None:
        with blocked(self.axes):
            self.axes.clear()
        self._list_channels()
        self._on_change()

    def _on_several(self, on: bool) -> None:
        self._list_channels()
        self._on_change()

    def _on_layers(self, event: Any = None) -> None:
        with contextlib.suppress(RuntimeError):
            if self.several.isChecked():
                self._list_channels()

    def _on_change(self, *_: Any) -> None:
        self._describe()
        self.changed.emit()

    def _describe(self) -> None:
        layer = self.layer
        if layer is None:
            self.axes.setPlaceholderText("")
            set_tone(self.about, "Open an image, or File ▸ Open Sample ▸ Dinoscope.")
            return
        with contextlib.suppress(DinoscopeError):
            self.axes.setPlaceholderText(guess_axes(layer))
        try:
            source = self.source()
        except DinoscopeError as error:
            set_tone(self.about, str(error), "error")
            return
        set_tone(self.about, describe(source))


def _not_a_guide(layer: Layer) -> bool:
    """Whether a layer holds something, and does not just mark it (see ``_circle.GUIDE``)."""
    return not layer.metadata.get("dinoscope_guide")


def describe(source: Source) -> str:
    """One line: size, planes, channels, type, pixel size.

    Examples
    --------
    ``512 × 512 px · 24 planes (Z) · 2 channels · uint16 · 0.325 µm/px``
    """
    image = source.image
    parts = [f"{image.size('X')} × {image.size('Y')} px"]
    if image.plane_axes:
        parts.append(" × ".join(f"{a} {image.size(a)}" for a in image.plane_axes))
    if "S" in image.axes:
        parts.append("RGB")
    elif image.size("C") > 1:
        parts.append(f"{image.size('C')} channels")
    parts.append(str(full_size(source.layer).dtype))
    size = image.pixel_size_um.get("X")
    parts.append(f"{size:.4g} µm/px" if size else "pixel size unknown")
    return " · ".join(parts)
