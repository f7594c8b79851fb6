"""The plot of points: pan, zoom, turn, hover, lasso. It knows points and colours, not images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QImage, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from dinoscope.widgets._plotcolours import Colouring, Legend, plain
from dinoscope.widgets._plotpaint import Look, paint_axes, paint_axis_cross, paint_legend
from dinoscope.widgets._plotview import PlotView
from dinoscope.widgets._raster import Raster, inside_polygon, pack

#: Points that are drawn; the selection always uses all of them.
MOST_DRAWN = 60_000
#: Circles that a vector figure may have.
MOST_CIRCLES = 20_000
#: How near the pointer must be to a point, in pixels.
REACH = 9.0
_CLICK = 4.0
_WHEEL = 1.0015


class ScatterView(QWidget):
    """Points in two or three dimensions.

    The left button draws a lasso, or moves (turns in 3-D) with that tool; the right and the middle
    button always move; the wheel zooms; a double click shows everything. Shift adds to the
    selection, Alt takes away. Escape clears, Ctrl+Z undoes.
    """

    #: Mask of the points in the lasso, and ``"new"``, ``"add"`` or ``"remove"``.
    lassoed = Signal(object, str)
    #: The point under the pointer, or -1.
    hovered = Signal(int)
    #: A point was clicked, and how it goes into the selection.
    picked = Signal(int, str)
    clear_asked = Signal()
    undo_asked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMinimumSize(220, 170)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.view = PlotView()
        self.look = Look()
        self.tool = "lasso"
        self.title = ""
        self.axis_names: tuple[str, ...] = ()
        self.show_ticks = True
        self.coordinates = np.zeros((0, 2), np.float32)
        self.drawn = np.zeros(0, np.intp)
        self.empty_text = "Points appear here."
        #: What the tooltip says of a point; set by whoever knows.
        self.describe: Any = None
        self._colouring: Colouring = plain(0)
        self._mask = np.zeros(0, bool)
        self._hover = -1
        self._press: QPointF | None = None
        self._last: QPointF | None = None
        self._moved = False
        self._path: list[QPointF] = []
        self._cloud: QImage | None = None
        self._screen: np.ndarray | None = None

    def sizeHint(self) -> QSize:
        return QSize(520, 330)

    # -- what is shown -------------------------------------------------------------------------

    def set_points(
        self,
        coordinates: np.ndarray,
        axis_names: Sequence[str] = (),
        *,
        ticks: bool = True,
        keep_view: bool = False,
    ) -> None:
        """Show other points.

        Parameters
        ----------
        coordinates : (n, 2) or (n, 3) array
            At most :data:`MOST_DRAWN` of them are drawn, chosen evenly at random.
        axis_names : sequence of str
            Beside the axes.
        ticks : bool
            Whether the numbers along the axes mean something.
        keep_view : bool
            Stay zoomed and turned as it is.
        """
        coordinates = np.ascontiguousarray(coordinates, np.float32)
        same = len(coordinates) == len(self.coordinates)
        self.coordinates = coordinates
        self.axis_names, self.show_ticks = tuple(axis_names), ticks
        count = len(coordinates)
        if not same or len(self.drawn) != min(count, MOST_DRAWN):
            order = np.random.default_rng(0).permutation(count)[:MOST_DRAWN]
            # In the order of the draw, so that no image lies over all others.
            self.drawn = order.astype(np.intp)
            self._colouring = plain(count)
            self._mask = np.zeros(count, bool)
            self._hover = -1
        if not keep_view or coordinates.shape[1] != self.view.dimensions:
            self.view.fit(coordinates)
        self._changed()

    def set_colours(self, colouring: Colouring) -> None:
        """Colour all points.

        Raises
        ------
        ValueError
            There are more or fewer colours than points.
        """
        if len(colouring.colours) != len(self.coordinates):
            raise ValueError(f"{len(colouring.colours)} colours for {len(self.coordinates)} points")
        self._colouring = colouring
        self._changed()  # the legend takes its room from the frame

    @property
    def colouring(self) -> Colouring:
        return self._colouring

    def set_mask(self, mask: np.ndarray) -> None:
        """Light up the selected points."""
        self._mask = np.asarray(mask, bool)
        self._repaint_cloud()

    def set_hover(self, point: int) -> None:
        """Mark one point, or none with -1; emits nothing."""
        if point != self._hover:
            self._hover = point
            self.update()

    @property
    def hover(self) -> int:
        return self._hover

    def set_look(self, look: Look) -> None:
        """Take the colours of a theme."""
        self.look = look
        self._repaint_cloud()

    def fit(self) -> None:
        """Show all points."""
        self.view.home()
        self._changed()

    # -- geometry ------------------------------------------------------------------------------

    def frame(self) -> QRectF:
        """The rectangle of the points, inside axes and legend."""
        line = self.fontMetrics().height()
        left = 8.0 + line + (self.fontMetrics().horizontalAdvance("-00.0") + 6 if self._2d else 0)
        right = 8.0 + self._legend_width()
        top = 6.0 + (line + 2 if self.title else 0)
        bottom = 8.0 + line * (2.1 if self._2d and self.show_ticks else 1.2)
        return QRectF(
            left,
            top,
            max(self.width() - left - right, 40.0),
            max(self.height() - top - bottom, 40.0),
        )

    @property
    def _2d(self) -> bool:
        return self.coordinates.shape[1] == 2

    def _legend_width(self) -> float:
        legend = self._colouring.legend
        if legend.empty or not len(self.coordinates):
            return 0.0
        return min(150.0, max(96.0, self.width() * 0.2))

    def screen(self, points: np.ndarray | None = None) -> np.ndarray:
        """Widget coordinates of points (all of them when none are given); depth third in 3-D."""
        chosen = self.coordinates if points is None else self.coordinates[points]
        frame = self.frame()
        found = self.view.project(chosen, frame.width(), frame.height())
        found[:, 0] += frame.left()
        found[:, 1] += frame.top()
        return found

    def _drawn_screen(self) -> np.ndarray:
        if self._screen is None:
            self._screen = self.screen(self.drawn)
        return self._screen

    def point_at(self, x: float, y: float) -> int:
        """The drawn point nearest to a pixel, or -1 where none is near."""
        if not len(self.drawn) or not self.frame().contains(QPointF(x, y)):
            return -1
        place = self._drawn_screen()
        squared = (place[:, 0] - x) ** 2 + (place[:, 1] - y) ** 2
        nearest = int(np.argmin(squared)) if np.isfinite(squared).all() else _finite_min(squared)
        return int(self.drawn[nearest]) if squared[nearest] <= REACH**2 else -1

    def points_in(self, corners: np.ndarray) -> np.ndarray:
        """Mask of all points (drawn or not) inside a polygon of widget coordinates."""
        place = self.screen()[:, :2]
        if len(place) <= MOST_DRAWN:
            return inside_polygon(place, corners)
        # Exact tests of a million points take a second: the pixels of the polygon tell as well.
        area = QImage(self.width(), self.height(), QImage.Format.Format_Grayscale8)
        area.fill(0)
        painter = QPainter(area)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor("white"))
        painter.drawPolygon(QPolygonF([QPointF(float(x), float(y)) for x, y in corners]))
        painter.end()
        stride = area.bytesPerLine()
        bits = area.constBits()
        if hasattr(bits, "setsize"):  # PyQt hands out a pointer, PySide a view
            bits.setsize(stride * area.height())
        pixels = np.frombuffer(bits, np.uint8).reshape(area.height(), stride)
        inside = np.isfinite(place).all(axis=1)
        inside &= (place >= 0).all(axis=1) & (place < (area.width(), area.height())).all(axis=1)
        at = place[inside].astype(np.intp)
        inside[inside] = pixels[at[:, 1], at[:, 0]] > 0
        return inside

    # -- painting ------------------------------------------------------------------------------

    def paintEvent(self, event: Any) -> None:
        painter = QPainter(self)
        self.paint(painter, self.devicePixelRatioF())

    def paint(self, painter: QPainter, ratio: float, *, vector: bool = False) -> None:
        """Draw everything.

        Parameters
        ----------
        painter : QPainter
            On the widget, or on a figure of its size.
        ratio : float
            Pixels of the device for each of the widget's.
        vector : bool
            Draw circles instead of pixels, where there are not too many points.
        """
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.fillRect(self.rect(), QColor(self.look.background))
        frame = self.frame()
        if not len(self.coordinates):
            painter.setPen(QColor(self.look.text))
            flags = Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap
            painter.drawText(QRectF(self.rect()).adjusted(20, 10, -20, -10), flags, self.empty_text)
            return
        if vector and len(self.drawn) <= MOST_CIRCLES:
            self._draw_circles(painter, frame)
        else:
            if self._cloud is None or self._cloud.devicePixelRatio() != ratio:
                self._cloud = self._draw_cloud(frame, ratio)
            painter.drawImage(frame.topLeft(), self._cloud)
        if self._2d:
            paint_axes(painter, frame, self.view, self.look, self.axis_names, self.show_ticks)
        else:
            paint_axis_cross(painter, frame, self.view, self.look, self.axis_names)
        if self.title:
            painter.setPen(QColor(self.look.text))
            painter.drawText(
                QRectF(frame.left(), 2, frame.width(), frame.top() - 2),
                Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter,
                painter.fontMetrics().elidedText(
                    self.title, Qt.TextElideMode.ElideRight, int(frame.width())
                ),
            )
        legend: Legend = self._colouring.legend
        if not legend.empty:
            width = self._legend_width()
            box = QRectF(self.width() - width, frame.top(), width - 6, frame.height())
            paint_legend(painter, box, legend, self.look)
        self._paint_hover(painter, frame)
        self._paint_path(painter)

    def _paint_hover(self, painter: QPainter, frame: QRectF) -> None:
        if not 0 <= self._hover < len(self.coordinates):
            return
        x, y = self.screen(np.array([self._hover]))[0, :2]
        if not (np.isfinite(x) and np.isfinite(y)) or not frame.contains(QPointF(x, y)):
            return
        radius = self.radius + 4
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(QColor(self.look.background), 4.5))
        painter.drawEllipse(QPointF(x, y), radius, radius)
        painter.setPen(QPen(QColor(self.look.hover), 2.2))
        painter.drawEllipse(QPointF(x, y), radius, radius)

    def _paint_path(self, painter: QPainter) -> None:
        if len(self._path) < 2:
            return
        colour = QColor(self.look.select)
        fill = QColor(colour)
        fill.setAlpha(40)
        painter.setPen(QPen(colour, 1.6))
        painter.setBrush(fill)
        painter.drawPolygon(QPolygonF(self._path))

    @property
    def radius(self) -> float:
        """Of a point, in pixels: the more points, the smaller."""
        count = len(self.drawn)
        return 4.0 if count < 400 else 3.0 if count < 4_000 else 2.0 if count < 25_000 else 1.4

    def _layers(self, x: np.ndarray, y: np.ndarray, depth: np.ndarray | None) -> list[Any]:
        """What is drawn one after the other: drawn points, their ``(k, 3)`` colours, more radius.

        Where points are selected, the others are dimmed and lie below.
        """
        order = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        if depth is not None:  # the nearest are drawn last
            order = order[np.argsort(depth[order], kind="stable")]
        colours = self._colouring.colours[self.drawn]
        chosen = self._mask[self.drawn]
        if not chosen.any():
            return [(order, colours[order], 0.0)]
        under, over = order[~chosen[order]], order[chosen[order]]
        dimmed = (0.35 * colours[under] + 0.65 * _rgb(self.look.canvas)).astype(np.uint8)
        ring = np.tile(_rgb(self.look.select), (len(over), 1))
        return [(under, dimmed, 0.0), (over, ring, 1.5), (over, colours[over], 0.0)]

    def _draw_cloud(self, frame: QRectF, ratio: float) -> QImage:
        width = max(1, round(frame.width() * ratio))
        height = max(1, round(frame.height() * ratio))
        raster = Raster(height, width, int(QColor(self.look.canvas).rgba()))
        place = self._drawn_screen()
        x = (place[:, 0] - frame.left()) * ratio
        y = (place[:, 1] - frame.top()) * ratio
        depth = place[:, 2] if place.shape[1] == 3 else None
        for points, colours, more in self._layers(x, y, depth):
            raster.put(x[points], y[points], pack(colours), (self.radius + more) * ratio)
        picture = raster.picture
        image = QImage(
            picture.data, width, height, 4 * width, QImage.Format.Format_RGB32
        ).copy()  # Qt does not keep the array alive
        image.setDevicePixelRatio(ratio)
        return image

    def _draw_circles(self, painter: QPainter, frame: QRectF) -> None:
        painter.save()
        painter.fillRect(frame, QColor(self.look.canvas))
        painter.setClipRect(frame)
        painter.setPen(Qt.PenStyle.NoPen)
        place = self._drawn_screen()
        depth = place[:, 2] if place.shape[1] == 3 else None
        for points, colours, more in self._layers(place[:, 0], place[:, 1], depth):
            radius = self.radius + more
            for point, colour in zip(points, colours, strict=True):
                painter.setBrush(QColor(*(int(c) for c in colour)))
                x, y = float(place[point, 0]), float(place[point, 1])
                painter.drawEllipse(QPointF(x, y), radius, radius)
        painter.restore()

    def _changed(self) -> None:
        self._screen = None
        self._repaint_cloud()

    def _repaint_cloud(self) -> None:
        self._cloud = None
        self.update()

    # -- mouse and keys ------------------------------------------------------------------------

    def resizeEvent(self, event: Any) -> None:
        self._changed()
        super().resizeEvent(event)

    def mousePressEvent(self, event: Any) -> None:
        self.setFocus()
        self._press = self._last = event.position()
        self._moved = False
        left = event.button() == Qt.MouseButton.LeftButton
        self._path = [self._press] if left and self.tool == "lasso" else []

    def mouseMoveEvent(self, event: Any) -> None:
        at = event.position()
        if self._press is None:
            self._hover_at(at, event)
            return
        if (at - self._press).manhattanLength() > _CLICK:
            self._moved = True
        if not self._moved:
            return
        step = at - (self._last or at)
        self._last = at
        if self._path:
            self._path.append(at)
            self.update()
            return
        left = bool(event.buttons() & Qt.MouseButton.LeftButton)
        if left and not self._2d:
            self.view.turn(step.x(), step.y())
        else:
            self.view.pan(step.x(), step.y())
        self._changed()

    def mouseReleaseEvent(self, event: Any) -> None:
        press, self._press = self._press, None
        path, self._path = self._path, []
        if press is None:
            return
        how = how_of(event.modifiers())
        if not self._moved and event.button() == Qt.MouseButton.LeftButton:
            point = self.point_at(event.position().x(), event.position().y())
            if point >= 0:
                self.picked.emit(point, how)
        elif len(path) > 2:
            corners = np.array([(p.x(), p.y()) for p in path])
            self.lassoed.emit(self.points_in(corners), how)
        self.update()

    def mouseDoubleClickEvent(self, event: Any) -> None:
        self.fit()

    def leaveEvent(self, event: Any) -> None:
        if self._hover >= 0:
            self.set_hover(-1)
            self.hovered.emit(-1)

    def wheelEvent(self, event: Any) -> None:
        frame = self.frame()
        at = event.position()
        self.view.zoom_at(
            _WHEEL ** event.angleDelta().y(),
            at.x() - frame.left(),
            at.y() - frame.top(),
            frame.width(),
            frame.height(),
        )
        self._changed()
        event.accept()

    def keyPressEvent(self, event: Any) -> None:
        if event.key() == Qt.Key.Key_Escape:
            if self._path:
                self._path, self._press = [], None
                self.update()
            else:
                self.clear_asked.emit()
        elif (
            event.key() == Qt.Key.Key_Z and event.modifiers() & Qt.KeyboardModifier.ControlModifier
        ):
            self.undo_asked.emit()
        else:
            super().keyPressEvent(event)

    def _hover_at(self, at: QPointF, event: Any) -> None:
        point = self.point_at(at.x(), at.y())
        if point == self._hover:
            return
        self.set_hover(point)
        self.hovered.emit(point)
        text = self.describe(point) if point >= 0 and self.describe is not None else ""
        QToolTip.showText(event.globalPosition().toPoint(), text, self)


def how_of(modifiers: Any) -> str:
    """How a click or lasso goes into the selection, from the keys that are held down."""
    if modifiers & Qt.KeyboardModifier.ShiftModifier:
        return "add"
    if modifiers & Qt.KeyboardModifier.AltModifier:
        return "remove"
    return "new"


def _rgb(colour: str) -> np.ndarray:
    found = QColor(colour)
    return np.array([found.red(), found.green(), found.blue()], np.uint8)


def _finite_min(values: np.ndarray) -> int:
    return int(np.argmin(np.where(np.isfinite(values), values, np.inf)))
