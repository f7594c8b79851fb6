"""How the panels look: one style sheet made from napari's theme, and the small parts they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

if TYPE_CHECKING:
    from napari.viewer import Viewer

#: Width of the column of labels, so that rows of different sections line up.
LABEL_WIDTH = 80
SPACING = 6


def style_sheet(viewer: Viewer) -> str:
    """The panels' style sheet in the colours of the viewer's theme."""
    from napari.utils.theme import get_theme

    theme = get_theme(viewer.theme)
    colour = {
        name: getattr(theme, name).as_hex()
        for name in ("background", "foreground", "primary", "secondary", "text", "current")
    }
    warning, error = theme.warning.as_hex(), theme.error.as_hex()
    light = theme.background.as_rgb_tuple()[0] > 128
    on_current = colour["text"] if light else "white"
    bad = error if light else "#ff8a8a"
    return f"""
    QFrame#section {{ background: {colour["foreground"]}; border-radius: 5px; }}
    QFrame#section QLabel, QFrame#section QCheckBox, QFrame#section QRadioButton,
    QFrame#section QWidget#bare {{ background: transparent; }}
    QLabel#title {{ font-weight: 600; padding: 0 0 2px 0; }}
    QLabel#hint {{ color: {colour["text"]}; }}
    QLabel[tone="warning"] {{ color: {warning}; }}
    QLabel[tone="error"] {{ color: {bad}; }}
    QPushButton {{ padding: 4px 10px; min-height: 18px; }}
    QPushButton#primary {{
        background: {colour["current"]}; color: {on_current}; font-weight: 600; padding: 6px 14px;
    }}
    QPushButton#primary:hover {{ border: 1px solid {colour["text"]}; }}
    QPushButton#primary:disabled {{
        background: {colour["primary"]}; color: {colour["secondary"]}; font-weight: 400;
    }}
    QPushButton#small {{ padding: 4px 6px; }}
    QPushButton#small:checked {{ background: {colour["current"]}; color: {on_current}; }}
    QPushButton#segment {{ padding: 4px 4px; border-radius: 0; margin: 0; }}
    QPushButton#segment:checked {{ background: {colour["current"]}; color: {on_current}; }}
    QToolButton#fold {{
        background: transparent; border: none; padding: 2px 0; font-weight: 600;
        color: {colour["text"]};
    }}
    QToolButton#fold:hover {{ color: {on_current}; }}
    QProgressBar {{ min-height: 16px; max-height: 16px; text-align: center; }}
    QTableWidget {{ background: {colour["background"]}; }}
    QWidget#footer {{ border-top: 1px solid {colour["foreground"]}; }}
    """


def section(title: str, tooltip: str = "") -> tuple[QFrame, QVBoxLayout]:
    """A titled card; returns it and the layout for its rows."""
    frame = QFrame()
    frame.setObjectName("section")
    layout = QVBoxLayout(frame)
    layout.setContentsMargins(8, 6, 8, 8)
    layout.setSpacing(SPACING)
    if title:
        heading = QLabel(title)
        heading.setObjectName("title")
        heading.setToolTip(tooltip)
        layout.addWidget(heading)
    return frame, layout


class Fold(QWidget):
    """A heading that shows and hides what is below it."""

    def __init__(self, title: str, tooltip: str, content: QWidget) -> None:
        super().__init__()
        self.setObjectName("bare")
        self.button = QToolButton()
        self.button.setObjectName("fold")
        self.button.setText(title)
        self.button.setToolTip(tooltip)
        self.button.setCheckable(True)
        self.button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextOnly)
        self.button.setCursor(Qt.CursorShape.PointingHandCursor)
        self.content = content
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.button, 0, Qt.AlignmentFlag.AlignLeft)
        layout.addWidget(content)
        self._title = title
        self.button.toggled.connect(self._on_toggle)
        self._on_toggle(False)

    def open(self) -> None:
        """Show the content."""
        self.button.setChecked(True)

    def _on_toggle(self, shown: bool) -> None:
        self.button.setText(("▾  " if shown else "▸  ") + self._title)
        self.content.setVisible(shown)


def form() -> QGridLayout:
    """A grid of labelled rows whose labels line up with those of other forms."""
    grid = QGridLayout()
    grid.setContentsMargins(0, 0, 0, 0)
    grid.setHorizontalSpacing(8)
    grid.setVerticalSpacing(SPACING)
    grid.setColumnMinimumWidth(0, LABEL_WIDTH)
    grid.setColumnStretch(1, 1)
    return grid


def add_row(grid: QGridLayout, label: str, *widgets: QWidget, tooltip: str = "") -> QLabel:
    """Add a labelled row; several widgets share it, the first one stretches."""
    row = grid.rowCount()
    caption = QLabel(label)
    caption.setToolTip(tooltip or widgets[0].toolTip())
    caption.setBuddy(widgets[0])
    grid.addWidget(caption, row, 0, Qt.AlignmentFlag.AlignVCenter)
    if len(widgets) == 1:
        grid.addWidget(widgets[0], row, 1)
    else:
        grid.addWidget(side_by_side(*widgets), row, 1)
    return caption


def side_by_side(*widgets: QWidget, stretch_first: bool = True) -> QWidget:
    """Widgets in one line."""
    holder = QWidget()
    holder.setObjectName("bare")
    line = QHBoxLayout(holder)
    line.setContentsMargins(0, 0, 0, 0)
    line.setSpacing(SPACING)
    for i, widget in enumerate(widgets):
        line.addWidget(widget, 1 if stretch_first and i == 0 else 0)
    if not stretch_first:
        line.addStretch(1)
    return holder


def narrow(combo: QComboBox) -> QComboBox:
    """Long entries must not widen the panel."""
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    combo.setMinimumContentsLength(8)
    combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return combo


def hint_label(text: str = "") -> QLabel:
    """A line of explanation that wraps instead of widening the panel."""
    label = QLabel(text)
    label.setObjectName("hint")
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    return label


def set_tone(label: QLabel, text: str, tone: str = "") -> None:
    """Show `text`; `tone` is ``""``, ``"warning"`` or ``"error"``."""
    label.setText(text)
    label.setProperty("tone", tone)
    label.style().unpolish(label)
    label.style().polish(label)


def time_text(seconds: float | None) -> str:
    """A duration as people say it: ``0.4 s``, ``12 s``, ``3 min``, ``1 h 05 min``.

    Examples
    --------
    >>> [time_text(s) for s in (0.04, 2.3, 12.4, 95, 4000)]
    ['0.1 s', '2.3 s', '12 s', '1 min 35 s', '1 h 07 min']
    """
    if seconds is None:
        return ""
    if seconds < 9.5:
        return f"{max(seconds, 0.1):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60:02d} s".replace(" 00 s", "")
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def memory_text(megabytes: float | None) -> str:
    """``350 MB`` or ``1.4 GB``."""
    if not megabytes:
        return ""
    return f"{megabytes:.0f} MB" if megabytes < 950 else f"{megabytes / 1000:.1f} GB"


def blocked(widget: Any) -> Any:
    """Signals of `widget` are blocked inside the ``with`` block."""
    from qtpy.QtCore import QSignalBlocker

    return QSignalBlocker(widget)
