"""The plot as a figure for print: white, as the user has zoomed and turned it, with its legend."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import QSize
from qtpy.QtGui import QImage, QPainter

from dinoscope.errors import OutputError
from dinoscope.widgets._plotpaint import Look
from dinoscope.widgets._scatter import ScatterView

#: Pixels of a PNG for each pixel on the screen: 300 dpi at the width of a column.
_FINENESS = 3.0
_PRINT = Look(
    background="#ffffff",
    canvas="#ffffff",
    text="#000000",
    line="#808080",
    select="#d97800",
    hover="#0077cc",
)


def save_figure(plot: ScatterView, path: Path) -> None:
    """Write what the plot shows.

    Parameters
    ----------
    path : Path
        Ends in ``.png`` or ``.svg``; an SVG has circles, up to some thousand points.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    size = QSize(plot.width(), plot.height())
    look, hover = plot.look, plot.hover
    try:
        plot.set_look(_PRINT)
        plot.set_hover(-1)
        if path.suffix.lower() == ".svg":
            ok = _svg(plot, path, size)
        else:
            image = QImage(size * _FINENESS, QImage.Format.Format_RGB32)
            image.setDevicePixelRatio(_FINENESS)
            painter = QPainter(image)
            painter.setFont(plot.font())
            plot.paint(painter, _FINENESS)
            painter.end()
            ok = image.save(str(path))
    finally:
        plot.set_look(look)
        plot.set_hover(hover)
    if not ok:
        raise OutputError(
            f"the figure could not be written to {str(path)!r}",
            hint="Choose a folder that can be written.",
        )


def _svg(plot: ScatterView, path: Path, size: QSize) -> bool:
    from qtpy.QtCore import QRect
    from qtpy.QtSvg import QSvgGenerator

    writer = QSvgGenerator()
    writer.setFileName(str(path))
    writer.setSize(size)
    writer.setViewBox(QRect(0, 0, size.width(), size.height()))
    writer.setTitle(plot.title or "Feature plot")
    painter = QPainter()
    if not painter.begin(writer):
        return False
    painter.setFont(plot.font())
    plot.paint(painter, 1.0, vector=True)
    return painter.end()
