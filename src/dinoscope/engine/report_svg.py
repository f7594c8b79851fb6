"""Charts as SVG, drawn here: no script, no font, no file from elsewhere."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np

from dinoscope.arrays.ticks import ticks
from dinoscope.engine.charts import Chart

_WIDTH, _HEIGHT = 360, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 28, 42
#: Where a chart with a legend begins; pixels of a letter, and of what says how many more there are.
_BELOW_LEGEND, _LETTER, _MORE = 44, 6.2, 66
#: Where the bars of a bar chart begin, and the letters that fit before it.
_BARS, _BAR_LETTERS = 146, 23
#: Classes up to this number have names and counts written into the matrix.
_WRITTEN = 12


def svg(chart: Chart) -> str:
    """The chart as an ``<svg>`` element."""
    inside = {"axes": _axes, "bars": _bars, "matrix": _matrix}[chart.kind](chart)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f'<text x="{_LEFT}" y="16" class="name">{escape(chart.title)}</text>{inside}</svg>'
    )


def _place(chart: Chart, x: float, y: float) -> tuple[float, float]:
    across = (x - chart.x[0]) / (chart.x[1] - chart.x[0])
    up = (y - chart.y[0]) / (chart.y[1] - chart.y[0])
    top = _BELOW_LEGEND if any(mark["name"] for mark in chart.marks) else _TOP
    wide, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - top - _BOTTOM
    return _LEFT + across * wide, _HEIGHT - _BOTTOM - up * tall


def _axes(chart: Chart) -> str:
    left, bottom = _place(chart, chart.x[0], chart.y[0])
    right, top = _place(chart, chart.x[1], chart.y[1])
    parts = []
    for value in ticks(*chart.x):
        a, _ = _place(chart, value, chart.y[0])
        parts.append(
            f'<line x1="{a:.1f}" y1="{top:.1f}" x2="{a:.1f}" y2="{bottom:.1f}" class="grid"/>'
            f'<text x="{a:.1f}" y="{bottom + 14:.1f}" text-anchor="middle">{value:g}</text>'
        )
    for value in ticks(*chart.y):
        _, b = _place(chart, chart.x[0], value)
        parts.append(
            f'<line x1="{left:.1f}" y1="{b:.1f}" x2="{right:.1f}" y2="{b:.1f}" class="grid"/>'
            f'<text x="{left - 5:.1f}" y="{b + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    middle, centre = (left + right) / 2, (top + bottom) / 2
    parts.append(
        f'<text x="{middle:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">'
        f"{escape(chart.x_title)}</text>"
        f'<text transform="translate(13 {centre:.1f}) rotate(-90)" text-anchor="middle">'
        f"{escape(chart.y_title)}</text>"
    )
    parts += [_mark(chart, mark) for mark in chart.marks]
    return "".join(parts) + _legend(chart)


def _mark(chart: Chart, mark: dict[str, Any]) -> str:
    colour, opacity = mark["colour"], mark["opacity"]
    if mark["kind"] == "bar":
        x0, x1 = mark["x"]
        left, top = _place(chart, x0, mark["y"][0])
        right, bottom = _place(chart, x1, chart.y[0])
        return (
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(right - left - 1, 0.5):.1f}" '
            f'height="{max(bottom - top, 0):.1f}" fill="{colour}" fill-opacity="{opacity}"/>'
        )
    places = [_place(chart, x, y) for x, y in zip(mark["x"], mark["y"], strict=True)]
    if mark["kind"] == "dots":
        return "".join(
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.4" fill="{colour}" fill-opacity="{opacity}"/>'
            for a, b in places
        )
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    dash = ' stroke-dasharray="4 3"' if mark["dash"] else ""
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>'


def _legend(chart: Chart) -> str:
    """Names in a line below the title; those that find no room are counted."""
    parts, left = [], float(_LEFT)
    named = [mark for mark in chart.marks if mark["name"]]
    for number, mark in enumerate(named):
        shown = _short(mark["name"], 24)
        wide = _LETTER * len(shown) + 24
        rest = len(named) - number
        if left + wide > _WIDTH - _RIGHT - (_MORE if rest > 1 else 0):
            parts.append(f'<text x="{left:.0f}" y="33">and {rest} more</text>')
            break
        parts.append(
            f'<rect x="{left:.0f}" y="25" width="10" height="8" fill="{mark["colour"]}"/>'
            f'<text x="{left + 13:.0f}" y="33">{escape(shown)}</text>'
        )
        left += wide
    return "".join(parts)


def _bars(chart: Chart) -> str:
    most = max((value for _, value, _ in chart.rows), default=0) or 1
    step = (_HEIGHT - _TOP - 16) / max(len(chart.rows), 1)
    parts = []
    for row, (label, value, colour) in enumerate(chart.rows):
        y = _TOP + row * step
        wide = (_WIDTH - _BARS - 50) * value / most
        parts.append(
            f'<text x="{_BARS - 6}" y="{y + step / 2 + 4:.1f}" text-anchor="end">'
            f"{escape(_short(label, _BAR_LETTERS))}</text>"
            f'<rect x="{_BARS}" y="{y + 2:.1f}" width="{wide:.1f}" height="{step - 5:.1f}" '
            f'fill="{colour}"/>'
            f'<text x="{_BARS + 6 + wide:.1f}" y="{y + step / 2 + 4:.1f}">{value:g}</text>'
        )
    return "".join(parts)


def _matrix(chart: Chart) -> str:
    counts = np.asarray(chart.counts, float)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = len(chart.names)
    left, top = 84, 46
    step = min((_WIDTH - left - 10) / size, (_HEIGHT - top - 30) / size)
    parts = []
    for i in range(size):
        middle = i * step + step / 2 + 4
        if size <= _WRITTEN:
            short = _short(chart.names[i], max(2, int(step / 6)))
            parts.append(
                f'<text x="{left - 5}" y="{top + middle:.1f}" text-anchor="end">'
                f"{escape(_short(chart.names[i], 11))}</text>"
                f'<text x="{left + middle - 4:.1f}" y="{top - 5}" text-anchor="middle">'
                f"{escape(short)}</text>"
            )
        for j in range(size):
            shade = share[i, j]
            ink = "#ffffff" if shade > 0.55 else "#222222"
            x, y = left + j * step, top + i * step
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{step:.1f}" height="{step:.1f}" '
                f'fill="#0072b2" fill-opacity="{shade:.3f}" stroke="#bbbbbb" stroke-width="0.5"/>'
            )
            if size <= _WRITTEN:
                text = _count(int(counts[i, j])) if step > 26 else f"{100 * shade:.0f}"
                parts.append(
                    f'<text x="{x + step / 2:.1f}" y="{y + step / 2 + 4:.1f}" '
                    f'text-anchor="middle" style="fill:{ink}">{text}</text>'
                )
    foot = "rows: truth, columns: prediction"
    return "".join(parts) + f'<text x="{left}" y="{_HEIGHT - 8}">{foot}</text>'


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _count(value: int) -> str:
    if value < 10_000:
        return str(value)
    return f"{value / 1e3:.0f}k" if value < 10_000_000 else f"{value / 1e6:.0f}M"
