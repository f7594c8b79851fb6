"""A light plot for the course of a training: the loss, and the score on images held out."""

from __future__ import annotations

import math
from typing import Any

from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPalette, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

#: Points drawn of a series; longer ones are thinned.
_POINTS = 400
LOSS_COLOUR = "#56b4e9"
SCORE_COLOUR = "#e69f00"


class CurveView(QWidget):
    """Two series over time, each with its own scale: loss (left) and score (right)."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setMinimumHeight(120)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setToolTip(
            "Blue: the loss on training crops (falling is good).\n"
            "Orange: the score on images held out from training."
        )
        self.loss: list[tuple[float, float]] = []
        self.score: list[tuple[float, float]] = []
        self.score_name = ""

    def sizeHint(self) -> QSize:
        return QSize(280, 130)

    def clear(self) -> None:
        """Forget all points."""
        self.loss, self.score, self.score_name = [], [], ""
        self.update()

    def add_loss(self, step: float, value: float) -> None:
        if math.isfinite(value):
            self.loss.append((step, value))
            self.update()

    def add_score(self, step: float, value: float, name: str) -> None:
        if math.isfinite(value):
            self.score.append((step, value))
            self.score_name = name
            self.update()

    def paintEvent(self, event: Any) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        text = self.palette().color(QPalette.ColorRole.WindowText)
        frame = QColor(text)
        frame.setAlpha(60)
        font = painter.font()
        font.setPointSizeF(max(6.5, font.pointSizeF() - 1.5))
        painter.setFont(font)
        line = painter.fontMetrics().height()
        margin = painter.fontMetrics().horizontalAdvance("0.000") + 8
        area = QRectF(
            margin, line * 0.8 + 4, self.width() - 2.0 * margin, self.height() - 1.6 * line - 8
        )
        painter.setPen(QPen(frame, 1))
        painter.drawRect(area)
        if not self.loss and not self.score:
            painter.setPen(text)
            painter.drawText(area, Qt.AlignmentFlag.AlignCenter, "The loss appears here")
            return
        end = max([p[0] for p in (*self.loss, *self.score)] + [1.0])
        if self.loss:
            self._series(painter, area, _smooth(self.loss), LOSS_COLOUR, end, left=True)
        if self.score:
            self._series(painter, area, self.score, SCORE_COLOUR, end, left=False)
        foot = QRectF(area.left(), area.bottom() + 2, area.width(), line)
        painter.setPen(QColor(LOSS_COLOUR))
        painter.drawText(foot, Qt.AlignmentFlag.AlignLeft, "loss")
        painter.setPen(text)
        painter.drawText(foot, Qt.AlignmentFlag.AlignHCenter, f"step {end:.0f}")
        if self.score:
            painter.setPen(QColor(SCORE_COLOUR))
            painter.drawText(foot, Qt.AlignmentFlag.AlignRight, self.score_name)

    def _series(
        self,
        painter: QPainter,
        area: QRectF,
        points: list[tuple[float, float]],
        colour: str,
        end: float,
        *,
        left: bool,
    ) -> None:
        values = [v for _, v in points]
        low, high = min(values), max(values)
        if high - low < 1e-9:
            low, high = low - 0.5 * abs(low) - 1e-3, high + 0.5 * abs(high) + 1e-3
        stride = max(1, len(points) // _POINTS)
        line = QPolygonF(
            [
                QPointF(
                    area.left() + area.width() * step / end,
                    area.bottom() - area.height() * (value - low) / (high - low),
                )
                for step, value in [*points[::stride], points[-1]]
            ]
        )
        painter.save()
        painter.setPen(QPen(QColor(colour), 1.8))
        painter.setClipRect(area.adjusted(-1, -2, 1, 2))
        painter.drawPolyline(line)
        if len(points) < 30:
            painter.setBrush(QColor(colour))
            for point in line:
                painter.drawEllipse(point, 2.2, 2.2)
        painter.restore()
        painter.setPen(QColor(colour))
        height = painter.fontMetrics().height()
        side = Qt.AlignmentFlag.AlignRight if left else Qt.AlignmentFlag.AlignLeft
        x = 0.0 if left else area.right() + 4
        width = area.left() - 4 if left else self.width() - area.right() - 4
        for value, y in ((high, area.top()), (low, area.bottom())):
            box = QRectF(x, y - height / 2, width, height)
            painter.drawText(box, side | Qt.AlignmentFlag.AlignVCenter, _short(value))


def _smooth(points: list[tuple[float, float]], weight: float = 0.9) -> list[tuple[float, float]]:
    """Exponential mean: the loss of single steps jumps more than it tells."""
    if len(points) < 30:
        return points
    mean, result = points[0][1], []
    for step, value in points:
        mean = weight * mean + (1 - weight) * value
        result.append((step, mean))
    return result


def _short(value: float) -> str:
    """As many digits as the margin has room for: five characters.

    Examples
    --------
    >>> _short(0.94123), _short(0.00462), _short(12.345), _short(12345)
    ('0.941', '0.005', '12.3', '1e+04')
    """
    size = abs(value)
    if value and not 5e-4 <= size < 1e4:
        return f"{value:.0e}"
    return f"{value:.{3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0}f}"
