"""The forms of the Features panel: whose tokens, colours, plot, similarity, numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QHBoxLayout,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from dinoscope.config import ClusterOptions, ExploreOptions, PcaOptions, ProjectionOptions
from dinoscope.widgets._circle import GUIDE
from dinoscope.widgets._controls import Control, control_for, values_of
from dinoscope.widgets._pcarun import FIT
from dinoscope.widgets._points import WHAT
from dinoscope.widgets._results import is_result
from dinoscope.widgets._segments import Segments
from dinoscope.widgets._sources import LayerCombo
from dinoscope.widgets._style import Fold, add_row, blocked, form, narrow

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

MODES = {
    "colours": ("Colours", "Show colours", "What the network sees, as colours over the image."),
    "plot": ("Plot", "Make plot", "Patches or objects as points, linked to the image."),
    "similar": ("Find alike", "Start", "Click on something and see what looks like it."),
    "numbers": ("Numbers", "Measure", "How well classes lie apart, before and after LoRA."),
}
LAYERS = {
    "last": "last blocks",
    "middle": "middle blocks",
    "early": "early blocks",
    "early+last": "early and last",
    "early+middle+last": "early, middle and last",
}
ADAPTER = {
    "on": ("as the model is", "With its adapter, where it has one."),
    "off": ("without LoRA", "The model as it was before it was tuned."),
    "both": ("both, side by side", "The tuned model beside the original one."),
}
DETAIL = {
    "image": ("sharp", "Follows the edges of the image (guided filter)."),
    "linear": ("smooth", "Interpolated between patches."),
    "patch": ("patches", "One pixel for each patch: what the network really gives."),
}
METHODS = {
    "pca": ("PCA", "Straight axes of largest variance; the numbers say how much they show."),
    "tsne": ("t-SNE", "Keeps neighbours together; distances between groups mean little."),
    "umap": ("UMAP", "As t-SNE, faster for many points; needs umap-learn."),
}


class Choice(QComboBox):
    """A combo of keys with texts and tooltips."""

    chosen = Signal(str)

    def __init__(self, entries: dict[str, Any], tip: str = "") -> None:
        super().__init__()
        narrow(self)
        self._keys: list[str] = []
        self.offer(entries)
        self.setToolTip(tip)
        self.currentIndexChanged.connect(self._on_index)

    def offer(self, entries: dict[str, Any]) -> None:
        """Offer other entries; the choice stays where it is still possible."""
        before = self.key if self._keys else ""
        with blocked(self):
            self.clear()
            self._keys = list(entries)
            for row, text in enumerate(entries.values()):
                name, about = text if isinstance(text, tuple) else (text, "")
                self.addItem(name)
                self.setItemData(row, about, Qt.ItemDataRole.ToolTipRole)
            self.setCurrentIndex(self._keys.index(before) if before in self._keys else 0)

    @property
    def key(self) -> str:
        return self._keys[self.currentIndex()]

    @key.setter
    def key(self, key: str) -> None:
        self.setCurrentIndex(self._keys.index(key))

    def _on_index(self, index: int) -> None:
        self.chosen.emit(self.key)


class ModeBar(Segments):
    """Buttons of which one is down: what is looked at."""

    changed = Signal(str)

    def __init__(self) -> None:
        super().__init__({mode: (text, tip) for mode, (text, _, tip) in MODES.items()})
        self.group.buttonToggled.connect(self._on_toggle)

    @property
    def mode(self) -> str:
        return self.picked

    @mode.setter
    def mode(self, mode: str) -> None:
        self.pick(mode)

    def _on_toggle(self, button: Any, on: bool) -> None:
        if on:
            self.changed.emit(self.mode)


class OtherImages(QWidget):
    """Further image layers that are looked at together with the chosen one."""

    changed = Signal()
    #: Whether there is any image to offer.
    offered = Signal(bool)

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.setObjectName("bare")
        self._viewer = viewer
        self._listed: list[Any] = []
        self.list = QListWidget()
        self.list.setToolTip("Ticked images share one set of colours and one plot with the layer.")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.list)
        events = viewer.layers.events
        for event in (events.inserted, events.removed, events.renamed):
            event.connect(self.refresh)
        self.list.itemChanged.connect(self._on_item)
        self._first: Any = None
        self.refresh()

    def disconnect_viewer(self) -> None:
        events = self._viewer.layers.events
        for event in (events.inserted, events.removed, events.renamed):
            event.disconnect(self.refresh)

    @property
    def layers(self) -> list[Layer]:
        """What is ticked."""
        return [
            layer
            for row, layer in enumerate(self._listed)
            if self.list.item(row).checkState() == Qt.CheckState.Checked
        ]

    def leave_out(self, layer: Any) -> None:
        """Do not offer the layer that is chosen anyway."""
        self._first = layer
        self.refresh()

    def refresh(self, event: Any = None) -> None:
        """Offer the image layers there are now."""
        ticked = self.layers if self.list.count() == len(self._listed) else []
        self._listed = [
            layer
            for layer in self._viewer.layers
            if layer._type_string == "image"
            and layer is not self._first
            and not is_result(layer)
            and not layer.metadata.get(GUIDE)
        ]
        with blocked(self.list):
            self.list.clear()
            for layer in self._listed:
                item = QListWidgetItem(layer.name)
                item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
                on = layer in ticked
                item.setCheckState(Qt.CheckState.Checked if on else Qt.CheckState.Unchecked)
                self.list.addItem(item)
        rows = min(max(len(self._listed), 1), 4)
        self.list.setFixedHeight(rows * max(self.list.sizeHintForRow(0), 18) + 8)
        self.offered.emit(bool(self._listed))

    def _on_item(self, item: Any) -> None:
        self.changed.emit()


class TokenForm(QWidget):
    """Whose tokens: blocks, LoRA, scale, channels, device."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("bare")
        self.layers = Choice(
            LAYERS, "Early blocks see edges and stains, last blocks see kinds of things."
        )
        self.adapter = Choice(ADAPTER, "For models that were tuned with LoRA.")
        self.controls: dict[str, Control] = {
            name: control_for(ExploreOptions, name, label=label)
            for name, label in (
                ("zoom", ""),
                ("diameter_px", ""),
                ("channels", ""),
                ("pixel_size_um", ""),
                ("device", ""),
                ("denoise", "Denoise"),
                ("local_contrast", "Local contrast"),
            )
        }
        self.controls["channels"].widget.setPlaceholderText("all, or for example 0, 2")
        self.controls["pixel_size_um"].widget.setSpecialValueText("from the layer")
        self.controls["pixel_size_um"].widget.setSuffix(" µm")
        self.controls["diameter_px"].widget.setSuffix("")
        grid = form()
        add_row(grid, "Blocks", self.layers)
        add_row(grid, "LoRA", self.adapter)
        more = QWidget()
        more.setObjectName("bare")
        inner = form()
        inner.setContentsMargins(0, 4, 0, 0)
        for name, text in (
            ("zoom", "Zoom"),
            ("diameter_px", "Diameter px"),
            ("channels", "Channels"),
            ("pixel_size_um", "Pixel size"),
            ("device", "Device"),
        ):
            add_row(inner, text, self.controls[name].widget)
        ticks = QWidget()
        ticks.setObjectName("bare")
        line = QHBoxLayout(ticks)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(12)
        for name in ("denoise", "local_contrast"):
            line.addWidget(self.controls[name].widget)
        line.addStretch(1)
        add_row(inner, "Prepare", ticks, tooltip="What is done to each plane first.")
        more.setLayout(inner)
        self.fold = Fold("More options", "Scale, channels, device, preprocessing.", more)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(grid)
        layout.addWidget(self.fold)

    def options(self, region: tuple[int, int, int, int] | None) -> ExploreOptions:
        """What is chosen.

        Raises
        ------
        InputError
            A value is out of range.
        """
        return ExploreOptions(layers=self.layers.key, region=region, **values_of(self.controls))


class ColourForm(QWidget):
    """Components, detail, and what they are found in."""

    #: Other components or another detail: needs no new look at the image.
    changed = Signal()

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.setObjectName("bare")
        self.components = [QSpinBox() for _ in range(3)]
        for number, (box, colour) in enumerate(zip(self.components, "RGB", strict=True)):
            box.setRange(1, 16)
            box.setValue(number + 1)
            box.setPrefix(f"{colour} ")
            box.setToolTip("Which principal component is shown in this colour; 1 is the largest.")
        self.detail = Choice(DETAIL, "How patches become pixels.")
        self.fit = Choice(FIT, "What the components are found in.")
        self.labels = LayerCombo(viewer, "labels", none="choose labels", accept=_usable)
        self.labels.setToolTip("Components are found under this layer only.")
        self.only = QSpinBox()
        self.only.setRange(0, 2**31 - 1)
        self.only.setSpecialValueText("all labels")
        self.only.setToolTip("One label, or all above 0.")
        self.mask = QCheckBox("Hide the rest")
        self.mask.setToolTip("Patches outside of the labels are black.")
        grid = form()
        holder = QWidget()
        holder.setObjectName("bare")
        line = QHBoxLayout(holder)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(4)
        for box in self.components:
            line.addWidget(box, 1)
        add_row(grid, "Components", holder, tooltip=self.components[0].toolTip())
        add_row(grid, "Detail", self.detail)
        add_row(grid, "Fit on", self.fit)
        self.under = QWidget()
        self.under.setObjectName("bare")
        inner = form()
        add_row(inner, "Labels", self.labels)
        add_row(inner, "Label", self.only, self.mask)
        self.under.setLayout(inner)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(grid)
        layout.addWidget(self.under)
        self.under.hide()
        self.fit.chosen.connect(self._on_fit)
        for box in self.components:
            box.valueChanged.connect(self._on_change)
        self.detail.chosen.connect(self._on_change)

    def options(self) -> PcaOptions:
        """What is chosen."""
        components = tuple(box.value() - 1 for box in self.components)
        return PcaOptions(components=components, upsample=self.detail.key)

    def _on_change(self, *_: Any) -> None:
        self.changed.emit()

    def _on_fit(self, key: str) -> None:
        self.under.setVisible(key == "labels")


class PlotForm(QWidget):
    """What the points are, and how they are laid out."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.setObjectName("bare")
        self.what = Choice(WHAT, "What a point stands for.")
        self.objects = LayerCombo(viewer, "labels", none="choose labels", accept=_usable)
        self.objects.setToolTip("Its ids are the objects: for example instances of Predict.")
        self.method = Choice(METHODS, "How points are laid out.")
        self.dimensions = Choice({"2": "2-D", "3": "3-D"}, "Two axes, or three that can be turned.")
        self.controls = {
            name: control_for(ProjectionOptions, name)
            for name in ("perplexity", "neighbours", "min_distance", "seed")
        }
        self.clusters = {
            name: control_for(ClusterOptions, name) for name in ("clusters", "min_size", "space")
        }
        grid = form()
        add_row(grid, "Points", self.what)
        self.objects_label = add_row(grid, "Objects", self.objects)
        add_row(grid, "Layout", self.method, self.dimensions)
        more = QWidget()
        more.setObjectName("bare")
        inner = form()
        inner.setContentsMargins(0, 4, 0, 0)
        for name, text in (
            ("perplexity", "Perplexity"),
            ("neighbours", "Neighbours"),
            ("min_distance", "Distance"),
            ("seed", "Seed"),
        ):
            add_row(inner, text, self.controls[name].widget)
        for name, text in (
            ("clusters", "Clusters"),
            ("min_size", "Smallest"),
            ("space", "Cluster by"),
        ):
            add_row(inner, text, self.clusters[name].widget)
        more.setLayout(inner)
        self.fold = Fold("Layout and clusters", "Perplexity, neighbours, clusters.", more)
        self.reopen = QPushButton("Show the plot again")
        self.reopen.setToolTip("Its dock was closed; the points are still there.")
        self.reopen.hide()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(grid)
        layout.addWidget(self.fold)
        layout.addWidget(self.reopen)
        self.what.chosen.connect(self._on_what)
        self._on_what(self.what.key)

    def options(self) -> ProjectionOptions:
        """How points are laid out."""
        return ProjectionOptions(
            method=self.method.key,
            dimensions=int(self.dimensions.key),
            **values_of(self.controls),
        )

    def cluster_options(self, method: str) -> ClusterOptions:
        """How groups are found."""
        return ClusterOptions(method=method, **values_of(self.clusters))

    def _on_what(self, key: str) -> None:
        for widget in (self.objects, self.objects_label):
            widget.setVisible(key == "objects")


def _usable(layer: Any) -> bool:
    return not layer.metadata.get(GUIDE)
