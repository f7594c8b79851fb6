"""The dock of the plot: the points, their tools, and what can be done with a selection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, Qt, Signal
from qtpy.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QDockWidget,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QMenu,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from dinoscope.widgets._plotpaint import look_of
from dinoscope.widgets._scatter import ScatterView
from dinoscope.widgets._sources import LayerCombo
from dinoscope.widgets._style import blocked, hint_label, narrow, style_sheet

if TYPE_CHECKING:
    from napari.viewer import Viewer

EXPORTS = {
    "png": "Figure as PNG",
    "svg": "Figure as SVG",
    "csv": "Points as CSV",
    "parquet": "Points as Parquet",
    "h5ad": "Points as AnnData (h5ad)",
}
_SIDE = 236


class PlotDock(QWidget):
    """Layout and signals only; :class:`~dinoscope.widgets._linked.LinkedPlot` acts on them."""

    colour_chosen = Signal(str)
    variant_chosen = Signal(int)
    pick_toggled = Signal(bool)
    lasso_toggled = Signal(bool)
    follow_chosen = Signal()
    undo_clicked = Signal()
    clear_clicked = Signal()
    give_clicked = Signal(str)
    labels_clicked = Signal()
    annotate_clicked = Signal()
    table_clicked = Signal()
    export_chosen = Signal(str)
    #: The user closed the dock.
    closed = Signal()

    def __init__(self, viewer: Viewer) -> None:
        self._docked = False  # events come before the base class is ready
        super().__init__()
        self._viewer = viewer
        self.plot = ScatterView()
        self._keys: list[str] = []
        self._build()
        self._restyle()
        viewer.events.theme.connect(self._restyle)

    def disconnect_viewer(self) -> None:
        """Stop following the viewer."""
        self._viewer.events.theme.disconnect(self._restyle)
        self.follow.disconnect_viewer()

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ParentChange:
            if isinstance(self.parent(), QDockWidget):
                self._docked = True
            elif self.parent() is None and self._docked:
                self._docked = False
                self.closed.emit()
        return super().event(event)

    # -- layout --------------------------------------------------------------------------------

    def _build(self) -> None:
        side = QWidget()
        rows = QVBoxLayout(side)
        rows.setContentsMargins(6, 6, 6, 6)
        rows.setSpacing(5)

        self.tool_lasso = _segment("Lasso", "Draw around points. Shift adds, Alt takes away.")
        self.tool_move = _segment(
            "Move", "Drag to move (to turn in 3-D). The right button always moves."
        )
        self.tool_lasso.setChecked(True)
        group = QButtonGroup(self)
        for button in (self.tool_lasso, self.tool_move):
            group.addButton(button)
        self.fit = _small("Fit", "Show all points (double click).")
        rows.addLayout(_line(self.tool_lasso, self.tool_move, self.fit))

        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(6)
        grid.setVerticalSpacing(5)
        grid.setColumnStretch(1, 1)
        self.colour = narrow(QComboBox())
        self.colour.setToolTip("What the colours of the points mean.")
        self.variant = narrow(QComboBox())
        self.variant.setToolTip("The tuned model beside the original one; the selection stays.")
        self.variant_label = QLabel("Model")
        self.follow = LayerCombo(self._viewer, "labels", none="no layer", accept=_not_ours)
        self.follow.setToolTip(
            "Points under the selected label of this layer light up,\n"
            "while you select labels or paint."
        )
        for row, (label, widget) in enumerate(
            ((QLabel("Colour"), self.colour), (self.variant_label, self.variant))
        ):
            grid.addWidget(label, row, 0)
            grid.addWidget(widget, row, 1)
        self.pick = _small("Pick", "Click patches or objects in the image.")
        self.lasso = _small("Lasso", "Draw around patches or objects in the image.")
        for button in (self.pick, self.lasso):
            button.setCheckable(True)
        grid.addWidget(QLabel("Image"), 2, 0)
        grid.addLayout(_line(self.pick, self.lasso), 2, 1)
        grid.addWidget(QLabel("Follow"), 3, 0)
        grid.addWidget(self.follow, 3, 1)
        rows.addLayout(grid)

        self.count = hint_label("Nothing is selected.")
        rows.addWidget(self.count)
        self.undo = _small("Undo", "Back to the selection before (Ctrl+Z in the plot).")
        self.clear = _small("Clear", "Select nothing (Escape in the plot).")
        rows.addLayout(_line(self.undo, self.clear))

        self.class_name = QComboBox()
        self.class_name.setEditable(True)
        self.class_name.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.class_name.lineEdit().setPlaceholderText("class name")
        self.class_name.setToolTip("A class for the selected points; type a new name or choose.")
        self.give = _small("Assign", "Give the selected points this class.")
        rows.addLayout(_line(self.class_name, self.give, first=True))
        self.labels = _small(
            "Make labels", "A new Labels layer of the classes, or of the selection where none is."
        )
        self.annotate = _small(
            "Annotate", "Hand the classes, or the selection, over to the Annotate panel as strokes."
        )
        self.export = _small("Export", "Save the figure, or the points with their features.")
        menu = QMenu(self.export)
        for key, text in EXPORTS.items():
            menu.addAction(text, lambda key=key: self.export_chosen.emit(key))
        self.export.setMenu(menu)
        self.table = _small("To table", "Write the classes into the objects' features table.")
        rows.addLayout(_line(self.labels, self.annotate))
        rows.addLayout(_line(self.table, self.export))
        self.note = hint_label()
        rows.addWidget(self.note)
        rows.addStretch(1)

        scroll = QScrollArea()
        scroll.setWidget(side)
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setFixedWidth(_SIDE)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(scroll)
        layout.addWidget(self.plot, 1)

        self.tool_lasso.toggled.connect(self._on_tool)
        self.fit.clicked.connect(self._on_fit)
        self.colour.activated.connect(self._on_colour)
        self.variant.activated.connect(self.variant_chosen)
        self.pick.toggled.connect(self.pick_toggled)
        self.lasso.toggled.connect(self.lasso_toggled)
        self.follow.layer_changed.connect(self.follow_chosen)
        self.undo.clicked.connect(self._on_undo)
        self.clear.clicked.connect(self._on_clear)
        self.plot.undo_asked.connect(self.undo_clicked)
        self.plot.clear_asked.connect(self.clear_clicked)
        self.give.clicked.connect(self._on_give)
        self.class_name.lineEdit().returnPressed.connect(self._on_give)
        self.labels.clicked.connect(self._on_labels)
        self.annotate.clicked.connect(self._on_annotate)
        self.table.clicked.connect(self._on_table)

    # -- what is shown -------------------------------------------------------------------------

    @property
    def colour_key(self) -> str:
        index = self.colour.currentIndex()
        return self._keys[index] if 0 <= index < len(self._keys) else "plain"

    def offer_colours(self, entries: Sequence[tuple[str, str]]) -> None:
        """Offer what points can be coloured by; the choice stays where it is still possible."""
        before = self.colour_key
        with blocked(self.colour):
            self.colour.clear()
            self._keys = [key for key, _ in entries]
            self.colour.addItems([text for _, text in entries])
            self.choose_colour(before)

    def choose_colour(self, key: str) -> None:
        """Show a choice that was made elsewhere."""
        if key in self._keys:
            self.colour.setCurrentIndex(self._keys.index(key))

    def offer_variants(self, names: Sequence[str]) -> None:
        """The models whose points can be seen."""
        with blocked(self.variant):
            self.variant.clear()
            self.variant.addItems(list(names))
        for widget in (self.variant, self.variant_label):
            widget.setVisible(len(names) > 1)

    def offer_classes(self, names: Sequence[str]) -> None:
        """The classes that were given so far."""
        text = self.class_name.currentText()
        with blocked(self.class_name):
            self.class_name.clear()
            self.class_name.addItems(list(names))
            self.class_name.setCurrentText(text)

    # -- signals -------------------------------------------------------------------------------

    def _restyle(self, event: Any = None) -> None:
        self.setStyleSheet(style_sheet(self._viewer))
        self.plot.set_look(look_of(self._viewer))

    def _on_tool(self, on: bool) -> None:
        self.plot.tool = "lasso" if self.tool_lasso.isChecked() else "move"

    def _on_fit(self) -> None:
        self.plot.fit()

    def _on_colour(self, index: int) -> None:
        self.colour_chosen.emit(self.colour_key)

    def _on_undo(self) -> None:
        self.undo_clicked.emit()

    def _on_clear(self) -> None:
        self.clear_clicked.emit()

    def _on_give(self) -> None:
        self.give_clicked.emit(self.class_name.currentText().strip())

    def _on_table(self) -> None:
        self.table_clicked.emit()

    def _on_annotate(self) -> None:
        self.annotate_clicked.emit()

    def _on_labels(self) -> None:
        self.labels_clicked.emit()


def _segment(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setObjectName("segment")
    button.setCheckable(True)
    button.setToolTip(tip)
    return button


def _small(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setObjectName("small")
    button.setToolTip(tip)
    return button


def _line(*widgets: QWidget, first: bool = False) -> QHBoxLayout:
    """Widgets side by side, alike in width, or only the first one wide."""
    line = QHBoxLayout()
    line.setContentsMargins(0, 0, 0, 0)
    line.setSpacing(4)
    for number, widget in enumerate(widgets):
        line.addWidget(widget, 0 if first and number else 1)
    return line


def _not_ours(layer: Any) -> bool:
    return not layer.metadata.get("dinoscope_guide")
