"""What stands around the points of a plot: axes, a cross of three axes, the legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QImage, QPainter, QPen

from dinoscope.arrays.ticks import ticks
from dinoscope.widgets._plotcolours import Legend
from dinoscope.widgets._plotview import PlotView

_CENTRE = Qt.AlignmentFlag.AlignCenter


@dataclass(frozen=True)
class Look:
    """Colours of a plot."""

    background: str = "#262930"
    canvas: str = "#1d1f25"
    text: str = "#f0f1f2"
    line: str = "#6b7078"
    select: str = "#ffd60a"
    hover: str = "#00e5ff"


def look_of(viewer: Any) -> Look:
    """The colours of the viewer's theme."""
    from napari.utils.theme import get_theme

    theme = get_theme(viewer.theme)
    red, green, blue = theme.background.as_rgb_tuple()[:3]
    light = red + green + blue > 3 * 128
    return Look(
        background=theme.background.as_hex(),
        canvas="#ffffff" if light else theme.canvas.as_hex(),
        text=theme.text.as_hex(),
        line=theme.secondary.as_hex() if light else "#6b7078",
        select="#d97800" if light else "#ffd60a",
        hover="#0077cc" if light else "#00e5ff",
    )


def paint_axes(
    painter: QPainter,
    frame: QRectF,
    view: PlotView,
    look: Look,
    names: Sequence[str],
    numbers: bool,
) -> None:
    """Frame, ticks and names of two axes."""
    painter.setBrush(Qt.BrushStyle.NoBrush)
    painter.setPen(QPen(QColor(look.line), 1))
    painter.drawRect(frame)
    line = painter.fontMetrics().height()
    below = frame.bottom() + 2
    if numbers:
        width, height = frame.width(), frame.height()
        low_x, low_y = view.value_at(0, height, width, height)
        high_x, high_y = view.value_at(width, 0, width, height)
        for value in ticks(low_x, high_x, max(2, int(width / 90))):
            x = frame.left() + width * (value - low_x) / (high_x - low_x)
            painter.setPen(QPen(QColor(look.line), 1))
            painter.drawLine(QPointF(x, frame.bottom()), QPointF(x, frame.bottom() - 4))
            painter.setPen(QColor(look.text))
            painter.drawText(QRectF(x - 40, below, 80, line), _CENTRE, f"{value:g}")
        for value in ticks(low_y, high_y, max(2, int(height / 50))):
            y = frame.bottom() - height * (value - low_y) / (high_y - low_y)
            painter.setPen(QPen(QColor(look.line), 1))
            painter.drawLine(QPointF(frame.left(), y), QPointF(frame.left() + 4, y))
            painter.setPen(QColor(look.text))
            box = QRectF(0, y - line / 2, frame.left() - 4, line)
            painter.drawText(
                box, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, f"{value:g}"
            )
        below += line - 2
    painter.setPen(QColor(look.text))
    if len(names) > 0:
        painter.drawText(QRectF(frame.left(), below, frame.width(), line), _CENTRE, names[0])
    if len(names) > 1:
        painter.save()
        painter.translate(2, frame.center().y())
        painter.rotate(-90)
        painter.drawText(QRectF(-frame.height() / 2, 0, frame.height(), line), _CENTRE, names[1])
        painter.restore()


def paint_axis_cross(
    painter: QPainter, frame: QRectF, view: PlotView, look: Look, names: Sequence[str]
) -> None:
    """Three small arrows that turn with the points, and the names of the axes below."""
    painter.setBrush(Qt.BrushStyle.NoBrush)
    painter.setPen(QPen(QColor(look.line), 1))
    painter.drawRect(frame)
    line = painter.fontMetrics().height()
    origin = QPointF(frame.left() + 40, frame.bottom() - 40)
    for number, axis in enumerate(view.rotation.T):  # where each data axis points on the screen
        tip = QPointF(origin.x() + 26 * axis[0], origin.y() - 26 * axis[1])
        painter.setPen(QPen(QColor(look.text), 1.4))
        painter.drawLine(origin, tip)
        at = QPointF(origin.x() + 34 * axis[0], origin.y() - 34 * axis[1])
        painter.drawText(QRectF(at.x() - 12, at.y() - line / 2, 24, line), _CENTRE, str(number + 1))
    painter.setPen(QColor(look.text))
    text = "   ".join(f"{number + 1}: {name}" for number, name in enumerate(names))
    box = QRectF(frame.left(), frame.bottom() + 3, frame.width(), line)
    text = painter.fontMetrics().elidedText(text, Qt.TextElideMode.ElideRight, int(box.width()))
    painter.drawText(box, _CENTRE, text)


def paint_legend(painter: QPainter, box: QRectF, legend: Legend, look: Look) -> None:
    """Entries with their colours, or a bar with its ends."""
    metrics = painter.fontMetrics()
    line = float(metrics.height()) + 2
    y = box.top()
    left = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter

    def write(x: float, text: str) -> None:
        room = int(box.right() - x)
        painter.setPen(QColor(look.text))
        shown = metrics.elidedText(text, Qt.TextElideMode.ElideMiddle, room)
        painter.drawText(QRectF(x, y, room, line), left, shown)

    if legend.title:
        write(box.left(), legend.title)
        y += line + 2
    if legend.scale is not None:
        height = max(min(box.bottom() - y - line, 160.0), 30.0)
        strip = np.ascontiguousarray(legend.scale[::-1])
        image = QImage(strip.data, 1, len(strip), 3, QImage.Format.Format_RGB888).copy()
        bar = QRectF(box.left(), y + line / 2, 14, height - line / 2)
        painter.drawImage(bar, image)
        painter.setPen(QPen(QColor(look.line), 1))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRect(bar)
        ends = ((legend.high, bar.top()), (_middle(legend), bar.center().y()))
        for value, at in (*ends, (legend.low, bar.bottom())):
            y = at - line / 2
            write(box.left() + 20, f"{value:.4g}")
        return
    rows = int((box.bottom() - y) / line)
    more = legend.more
    entries = legend.entries
    if len(entries) + bool(more) > rows:
        keep = max(rows - 1, 1)
        more += len(entries) - keep
        entries = entries[:keep]
    for text, colour in entries:
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(*colour))
        painter.drawEllipse(QPointF(box.left() + 5, y + line / 2), 4.5, 4.5)
        write(box.left() + 15, text)
        y += line
    if more:
        write(box.left() + 15, f"{more} more")


def _middle(legend: Legend) -> float:
    return (float(legend.low or 0.0) + float(legend.high or 0.0)) / 2
