"""The overview picture: a table of pictures with titles and captions, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoscope.errors import OutputError

if TYPE_CHECKING:
    import numpy as np

CELL_PX = 340
GAP_PX = 14
MARGIN_PX = 28
HEADER_PX = 96
CAPTION_PX = 30
_INK = (28, 32, 38)
_FAINT = (105, 112, 122)
_PAPER = (255, 255, 255)


@dataclass(frozen=True)
class Panel:
    """A picture `rgb` ``(Y, X, 3)`` uint8; `keys` are (colour, text) pairs of its legend."""

    title: str
    rgb: np.ndarray
    caption: str = ""
    keys: Sequence[tuple[tuple[int, int, int], str]] = ()


@dataclass(frozen=True)
class Row:
    """The pictures of one image."""

    title: str
    panels: Sequence[Panel] = field(default_factory=tuple)


def draw(rows: Sequence[Row], path: Path, title: str, subtitle: str = "") -> None:
    """Draw `rows` below each other and write the picture.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    from PIL import Image, ImageDraw

    columns = max((len(row.panels) for row in rows), default=1)
    heights = [_row_height(row) for row in rows]
    width = 2 * MARGIN_PX + columns * CELL_PX + (columns - 1) * GAP_PX
    page = Image.new("RGB", (width, HEADER_PX + sum(heights) + MARGIN_PX), _PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((MARGIN_PX, 22), _plain(title), fill=_INK, font=_font(30))
    pen.text((MARGIN_PX, 62), _plain(subtitle), fill=_FAINT, font=_font(17))
    top = HEADER_PX
    for row, height in zip(rows, heights, strict=True):
        pen.line((MARGIN_PX, top, width - MARGIN_PX, top), fill=(215, 219, 224))
        pen.text((MARGIN_PX, top + 8), _plain(row.title), fill=_INK, font=_font(20))
        for number, panel in enumerate(row.panels):
            left = MARGIN_PX + number * (CELL_PX + GAP_PX)
            _draw_panel(page, pen, panel, left, top + 40)
        top += height
    try:
        page.save(path)
    except OSError as error:
        raise OutputError(
            f"cannot write {str(path)!r} ({error.strerror or error})",
            hint="Check the folder and the space on the disk.",
        ) from error


def _row_height(row: Row) -> int:
    pictures = max((_fitted(panel.rgb)[1] for panel in row.panels), default=0)
    return 40 + CAPTION_PX + pictures + CAPTION_PX + 12


def _fitted(rgb: np.ndarray) -> tuple[int, int]:
    """Width and height of a picture that fills a cell's width (and is not too tall)."""
    height, width = rgb.shape[:2]
    scale = min(CELL_PX / width, 1.3 * CELL_PX / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _draw_panel(page: Any, pen: Any, panel: Panel, left: int, top: int) -> None:
    from PIL import Image

    pen.text((left, top), _plain(panel.title), fill=_FAINT, font=_font(17))
    size = _fitted(panel.rgb)
    way = Image.Resampling.LANCZOS if size[0] < panel.rgb.shape[1] else Image.Resampling.NEAREST
    page.paste(Image.fromarray(panel.rgb).resize(size, way), (left, top + CAPTION_PX))
    below = top + CAPTION_PX + size[1] + 7
    pen.text((left, below), _plain(panel.caption), fill=_INK, font=_font(16))
    x = left
    for colour, text in panel.keys:
        pen.rectangle((x, below + 4, x + 12, below + 16), fill=colour)
        pen.text((x + 18, below), _plain(text), fill=_INK, font=_font(16))
        x += 30 + round(pen.textlength(text, font=_font(16)))


def _plain(text: str) -> str:
    """Without the letters that Pillow's own font lacks."""
    return text.translate({ord("×"): "x", ord("µ"): "u"})


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)
