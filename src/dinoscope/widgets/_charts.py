"""Draws the charts of an evaluation, as the worker describes them, in the colours of the theme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPalette, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

from dinoscope.arrays.ticks import ticks

_HEIGHT = 220
#: Classes up to this number have names and counts written into the matrix.
_WRITTEN = 8
_SHADE = "#0072b2"


class ChartView(QWidget):
    """One chart: lines, points and bars on axes, bars with labels, or a matrix of counts."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setMinimumHeight(_HEIGHT)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.chart: Mapping[str, Any] = {}

    def sizeHint(self) -> QSize:
        return QSize(300, _HEIGHT)

    def show_chart(self, chart: Mapping[str, Any]) -> None:
        """Draw another one; an empty mapping for none."""
        self.chart = chart
        self.setToolTip(_said(chart))
        self.update()

    def paintEvent(self, event: Any) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        font = painter.font()
        font.setPointSizeF(max(6.5, font.pointSizeF() - 1))
        painter.setFont(font)
        text = self.palette().color(QPalette.ColorRole.WindowText)
        painter.setPen(text)
        if not self.chart:
            middle = Qt.AlignmentFlag.AlignCenter
            painter.drawText(QRectF(self.rect()), middle, "Plots appear here")
            return
        draw = {"axes": _Axes, "bars": _Bars, "matrix": _Matrix}[self.chart["kind"]]
        draw(painter, self.chart, QRectF(self.rect()), text).draw()


class _Drawing:
    def __init__(
        self, painter: QPainter, chart: Mapping[str, Any], rect: QRectF, text: QColor
    ) -> None:
        self.painter, self.chart, self.rect, self.text = painter, chart, rect, text
        self.line = painter.fontMetrics().height()

    def wide(self, text: str) -> int:
        return self.painter.fontMetrics().horizontalAdvance(text)

    def write(self, box: QRectF, text: str, *flags: Qt.AlignmentFlag) -> None:
        self.painter.setPen(self.text)
        align = Qt.AlignmentFlag.AlignVCenter
        for flag in flags:
            align |= flag
        self.painter.drawText(box, align, text)

    def fitted(self, text: str, width: float) -> str:
        metrics = self.painter.fontMetrics()
        return metrics.elidedText(text, Qt.TextElideMode.ElideRight, int(width))


class _Axes(_Drawing):
    def draw(self) -> None:
        chart, line = self.chart, self.line
        left = self.wide("0.00") + line + 10.0
        top = line + 6.0 if self._names() else 6.0
        self.area = QRectF(
            left, top, self.rect.width() - left - 8, self.rect.height() - top - 2.3 * line - 6
        )
        self._grid()
        self.painter.save()
        self.painter.setClipRect(self.area.adjusted(-2, -2, 2, 2))
        for mark in chart["marks"]:
            self._mark(mark)
        self.painter.restore()
        self._legend()

    def at(self, x: float, y: float) -> QPointF:
        (x0, x1), (y0, y1), area = self.chart["x"], self.chart["y"], self.area
        return QPointF(
            area.left() + area.width() * (x - x0) / (x1 - x0),
            area.bottom() - area.height() * (y - y0) / (y1 - y0),
        )

    def _grid(self) -> None:
        faint = QColor(self.text)
        faint.setAlpha(45)
        area, line = self.area, self.line
        (x0, x1), (y0, y1) = self.chart["x"], self.chart["y"]
        for value in ticks(x0, x1):
            x = self.at(value, y0).x()
            self.painter.setPen(QPen(faint, 1))
            self.painter.drawLine(QPointF(x, area.top()), QPointF(x, area.bottom()))
            box = QRectF(x - 30, area.bottom() + 2, 60, line)
            self.write(box, f"{value:g}", Qt.AlignmentFlag.AlignHCenter)
        for value in ticks(y0, y1, most=4):
            y = self.at(x0, value).y()
            self.painter.setPen(QPen(faint, 1))
            self.painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
            box = QRectF(0, y - line / 2, area.left() - 5, line)
            self.write(box, f"{value:g}", Qt.AlignmentFlag.AlignRight)
        foot = QRectF(area.left(), area.bottom() + line + 3, area.width(), line)
        self.write(foot, self.chart["x_title"], Qt.AlignmentFlag.AlignHCenter)
        self.painter.save()
        self.painter.translate(0, area.bottom())
        self.painter.rotate(-90)
        side = QRectF(0, 0, area.height(), line)
        self.write(side, self.chart["y_title"], Qt.AlignmentFlag.AlignHCenter)
        self.painter.restore()

    def _mark(self, mark: Mapping[str, Any]) -> None:
        colour = QColor(mark["colour"])
        colour.setAlphaF(mark["opacity"])
        if mark["kind"] == "bar":
            a, b = self.at(mark["x"][0], mark["y"][0]), self.at(mark["x"][1], self.chart["y"][0])
            self.painter.fillRect(QRectF(a, b).adjusted(0, 0, -1, 0), colour)
            return
        points = [self.at(x, y) for x, y in zip(mark["x"], mark["y"], strict=True)]
        if mark["kind"] == "dots":
            self.painter.setPen(Qt.PenStyle.NoPen)
            self.painter.setBrush(colour)
            for point in points:
                self.painter.drawEllipse(point, 2.4, 2.4)
            return
        pen = QPen(colour, 1.8)
        if mark["dash"]:
            pen.setDashPattern([3, 2])
        self.painter.setPen(pen)
        self.painter.setBrush(Qt.BrushStyle.NoBrush)
        self.painter.drawPolyline(QPolygonF(points))

    def _names(self) -> list[Mapping[str, Any]]:
        return [mark for mark in self.chart["marks"] if mark["name"]]

    def _legend(self) -> None:
        names = self._names()
        x = self.area.left()
        room = self.area.width() / max(len(names), 1)
        for mark in names:
            text = self.fitted(mark["name"], min(room, 150.0) - 18)
            self.painter.fillRect(QRectF(x, self.line / 2 - 4, 9, 9), QColor(mark["colour"]))
            self.write(QRectF(x + 13, 0, self.wide(text) + 4, self.line), text)
            x += self.wide(text) + 24


class _Bars(_Drawing):
    def draw(self) -> None:
        rows = self.chart["rows"]
        most = max((value for _, value, _ in rows), default=0) or 1
        label = min(max(self.wide(name) for name, *_ in rows) + 4, int(0.45 * self.rect.width()))
        number = self.wide(f"{most:g}") + 10
        step = min((self.rect.height() - 8) / len(rows), 30.0)
        for row, (name, value, colour) in enumerate(rows):
            y = 4 + row * step
            text = self.fitted(name, label)
            self.write(QRectF(0, y, label, step), text, Qt.AlignmentFlag.AlignRight)
            width = (self.rect.width() - label - number - 14) * value / most
            bar = QRectF(label + 8, y + 3, width, max(step - 6, 2))
            self.painter.fillRect(bar, QColor(colour))
            self.write(QRectF(bar.right() + 6, y, number, step), f"{value:g}")


class _Matrix(_Drawing):
    def draw(self) -> None:
        names: Sequence[str] = self.chart["names"]
        counts = np.asarray(self.chart["counts"], float)
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        size, line = len(names), self.line
        written = size <= _WRITTEN
        left = min(max(map(self.wide, names)) + 8, 90) if written else 8
        top = 2.0 * line + 4 if written else line + 4.0
        step = min((self.rect.width() - left - 4) / size, (self.rect.height() - top - 4) / size)
        self.write(
            QRectF(left, 0, self.rect.width() - left, line), "rows: truth, columns: prediction"
        )
        for i in range(size):
            if written:
                y = top + i * step
                own = QRectF(0, y, left - 5, step)
                self.write(own, self.fitted(names[i], left - 5), Qt.AlignmentFlag.AlignRight)
                box = QRectF(left + i * step, line + 2, step, line)
                short = self.fitted(names[i], step - 2)
                self.write(box, short, Qt.AlignmentFlag.AlignHCenter)
            for j in range(size):
                self._cell(left + j * step, top + i * step, step, share[i, j], counts[i, j])

    def _cell(self, x: float, y: float, step: float, share: float, count: float) -> None:
        colour = QColor(_SHADE)
        colour.setAlphaF(float(share))
        faint = QColor(self.text)
        faint.setAlpha(70)
        cell = QRectF(x, y, step, step)
        self.painter.fillRect(cell, colour)
        self.painter.setPen(QPen(faint, 0.6))
        self.painter.setBrush(Qt.BrushStyle.NoBrush)
        self.painter.drawRect(cell)
        text = _short_count(count)
        if self.wide(text) < step - 2 and self.line < step:
            self.painter.setPen(QColor("white") if share > 0.55 else self.text)
            self.painter.drawText(cell, Qt.AlignmentFlag.AlignCenter, text)


def _short_count(count: float) -> str:
    if count < 10_000:
        return f"{count:.0f}"
    return f"{count / 1e3:.0f}k" if count < 10_000_000 else f"{count / 1e6:.0f}M"


def _said(chart: Mapping[str, Any]) -> str:
    """The chart in words, for the tool tip."""
    if not chart:
        return ""
    if chart["kind"] == "bars":
        return "\n".join(f"{name}: {value:g}" for name, value, _ in chart["rows"])
    if chart["kind"] == "matrix":
        return "Colour: share of the true class. Rows: truth, columns: prediction."
    names = [mark["name"] for mark in chart["marks"] if mark["name"]]
    return chart["title"] + (f" ({', '.join(names)})" if names else "")
