"""A plot of points as a picture: SVG written here, PNG by Pillow; no plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoscope.commands.pictures import PALETTE
from dinoscope.errors import InputError

if TYPE_CHECKING:
    import numpy as np

WIDTH_PX, HEIGHT_PX = 900, 640
MARGIN_PX = 56
LEGEND_PX = 190
#: Points that are drawn; a picture of this size shows no more.
DRAWN_POINTS = 20_000
#: Groups that have a colour and a name of their own; the others are grey.
SHOWN_GROUPS = len(PALETTE)
_INK, _FAINT, _OTHER = (38, 44, 52), (120, 128, 138), (176, 180, 186)


@dataclass(frozen=True)
class Scatter:
    """What is drawn.

    `coordinates` (n, 2 or more), of which the first two axes are shown; `groups` (n,) names by
    which points are coloured, the most frequent first in the legend; an empty name is grey.
    """

    coordinates: np.ndarray
    groups: np.ndarray
    title: str = ""
    axes: tuple[str, str] = ("", "")


def draw_scatter(path: str | Path, scatter: Scatter) -> None:
    """Write the plot; the ending of `path` chooses SVG or PNG.

    Raises
    ------
    InputError
        Another ending, no point, or groups of another length.
    OutputError
        The file could not be written.
    """
    from dinoscope.arrays.output import replacing

    path = Path(path)
    places, colours, legend = _prepared(scatter)
    suffix = path.suffix.lower()
    if suffix not in (".svg", ".png"):
        raise InputError(f"a plot cannot be written as {path.name!r}", expected=".svg or .png")
    with replacing(path) as part:
        if suffix == ".svg":
            part.write_text(_svg(scatter, places, colours, legend), encoding="utf-8")
        else:
            _png(scatter, places, colours, legend).save(part, format="PNG")


def _prepared(
    scatter: Scatter,
) -> tuple[np.ndarray, np.ndarray, list[tuple[tuple[int, int, int], str]]]:
    """Places on the page (n, 2), colours (n, 3) uint8 and the legend, thinned to what is drawn."""
    import numpy as np

    values = np.asarray(scatter.coordinates, np.float64)
    groups = np.asarray(scatter.groups).astype(str)
    if values.ndim != 2 or values.shape[1] < 2 or not len(values) or len(groups) != len(values):
        raise InputError(
            f"coordinates have shape {values.shape} and groups {groups.shape}",
            expected="(n, 2) and (n,), at least one point",
        )
    finite = np.isfinite(values[:, :2]).all(1)
    values, groups = values[finite, :2], groups[finite]
    names, counts = np.unique(groups[groups != ""], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shown = [str(name) for name in names[order][:SHOWN_GROUPS]]
    legend = [(PALETTE[k], f"{name} ({int(counts[order][k])})") for k, name in enumerate(shown)]
    rest = int((~np.isin(groups, shown)).sum())
    if rest:
        legend.append((_OTHER, f"other ({rest})"))
    chosen = np.random.default_rng(0).permutation(len(values))[:DRAWN_POINTS]
    colours = np.full((len(chosen), 3), _OTHER, np.uint8)
    for k, name in enumerate(shown):
        colours[groups[chosen] == name] = PALETTE[k]
    low, high = values.min(0), values.max(0)
    span = np.where(high > low, high - low, 1)
    share = (values[chosen] - low) / span
    right = WIDTH_PX - MARGIN_PX - (LEGEND_PX if legend else 0)
    x = MARGIN_PX + 8 + share[:, 0] * (right - MARGIN_PX - 16)
    y = HEIGHT_PX - MARGIN_PX - 8 - share[:, 1] * (HEIGHT_PX - 2 * MARGIN_PX - 16)
    return np.stack([x, y], axis=1), colours, legend


def _radius(count: int) -> float:
    return 4.0 if count <= 500 else 2.5 if count <= 5000 else 1.5


def _frame(legend: Sequence[Any]) -> tuple[int, int, int, int]:
    right = WIDTH_PX - MARGIN_PX - (LEGEND_PX if legend else 0)
    return MARGIN_PX, MARGIN_PX, right, HEIGHT_PX - MARGIN_PX


def _svg(scatter: Scatter, places: np.ndarray, colours: np.ndarray, legend: list[Any]) -> str:
    def text(x: float, y: float, words: str, size: int, more: str = "") -> str:
        return (
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="rgb{_INK}" {more}>'
            f"{escape(words)}</text>"
        )

    left, top, right, bottom = _frame(legend)
    middle = (left + right) / 2
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH_PX}" height="{HEIGHT_PX}" '
        f'viewBox="0 0 {WIDTH_PX} {HEIGHT_PX}" font-family="sans-serif">',
        f'<rect width="{WIDTH_PX}" height="{HEIGHT_PX}" fill="white"/>',
        text(left, top - 18, scatter.title, 20),
        f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" fill="none" '
        f'stroke="rgb{_FAINT}"/>',
        text(middle, bottom + 32, scatter.axes[0], 15, 'text-anchor="middle"'),
        text(
            22,
            (top + bottom) / 2,
            scatter.axes[1],
            15,
            f'text-anchor="middle" transform="rotate(-90 22 {(top + bottom) / 2:g})"',
        ),
    ]
    radius = _radius(len(places))
    lines.append('<g fill-opacity="0.75">')
    for (x, y), (red, green, blue) in zip(places, colours, strict=True):
        lines.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="#{red:02x}{green:02x}'
            f'{blue:02x}"/>'
        )
    lines.append("</g>")
    for number, (colour, name) in enumerate(legend):
        y = top + 12 + 24 * number
        lines.append(f'<circle cx="{right + 20}" cy="{y}" r="6" fill="rgb{colour}"/>')
        lines.append(text(right + 34, y + 5, name, 14))
    return "\n".join([*lines, "</svg>", ""])


def _png(scatter: Scatter, places: np.ndarray, colours: np.ndarray, legend: list[Any]) -> Any:
    from PIL import Image, ImageDraw, ImageFont

    # Drawn at twice the size and shrunk: Pillow draws circles without smooth edges.
    scale = 2
    page = Image.new("RGB", (WIDTH_PX * scale, HEIGHT_PX * scale), "white")
    pen = ImageDraw.Draw(page)
    left, top, right, bottom = (scale * v for v in _frame(legend))
    pen.rectangle((left, top, right, bottom), outline=_FAINT, width=scale)
    radius = _radius(len(places)) * scale
    for (x, y), colour in zip(places * scale, colours, strict=True):
        box = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(box, fill=tuple(int(c) for c in colour))
    for number, (colour, _) in enumerate(legend):
        y = top + scale * (12 + 24 * number)
        x = right + 20 * scale
        pen.ellipse((x - 6 * scale, y - 6 * scale, x + 6 * scale, y + 6 * scale), fill=colour)
    page = page.resize((WIDTH_PX, HEIGHT_PX), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(page)
    left, top, right, bottom = _frame(legend)
    font, small = ImageFont.load_default(20), ImageFont.load_default(15)
    pen.text((left, top - 38), scatter.title, fill=_INK, font=font)
    middle = (left + right) / 2 - pen.textlength(scatter.axes[0], font=small) / 2
    pen.text((middle, bottom + 16), scatter.axes[0], fill=_INK, font=small)
    if scatter.axes[1]:
        length = round(pen.textlength(scatter.axes[1], font=small)) + 2
        label = Image.new("RGB", (length, 22), "white")
        ImageDraw.Draw(label).text((0, 0), scatter.axes[1], fill=_INK, font=small)
        page.paste(label.rotate(90, expand=True), (14, round((top + bottom - length) / 2)))
    for number, (_, name) in enumerate(legend):
        pen.text((right + 34, top + 3 + 24 * number), name, fill=_INK, font=small)
    return page
