"""Plots of the report as SVG, drawn here: no script, no font, no file from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from dinoscope.arrays.faults import FAULTS
from dinoscope.engine.evaluate.evaluation import MAIN_FIGURE, Evaluation

#: Colours of series, told apart by all eyes (Okabe and Ito).
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_WIDTH, _HEIGHT = 360, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 28, 42
#: Classes whose names and counts are written into the confusion matrix.
_WRITTEN = 12


Points = Sequence[float] | np.ndarray


class Plot:
    """Axes with a linear scale on both sides.

    Parameters
    ----------
    title, x_title, y_title : str
    x, y : (low, high)
        What the axes span.
    """

    def __init__(
        self,
        title: str,
        x_title: str,
        y_title: str,
        x: tuple[float, float] = (0.0, 1.0),
        y: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self._x, self._y = _span(*x), _span(*y)
        self.title = title
        self._parts: list[str] = []
        self._legend: list[tuple[str, str]] = []
        self._axes(x_title, y_title)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Place of a point in the picture."""
        across = (x - self._x[0]) / (self._x[1] - self._x[0])
        up = (y - self._y[0]) / (self._y[1] - self._y[0])
        wide, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        return _LEFT + across * wide, _HEIGHT - _BOTTOM - up * tall

    def line(self, x: Points, y: Points, colour: str, name: str = "", dash: str = "") -> None:
        """A line through points."""
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in map(self.at, x, y))
        style = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"{style}/>'
        )
        if name:
            self._legend.append((name, colour))

    def dots(self, x: Points, y: Points, colour: str, name: str = "") -> None:
        """Points."""
        for a, b in map(self.at, x, y):
            self._parts.append(
                f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.4" fill="{colour}" fill-opacity="0.55"/>'
            )
        if name:
            self._legend.append((name, colour))

    def bar(self, x0: float, x1: float, y: float, colour: str, opacity: float = 0.8) -> None:
        """A bar from the bottom of the axes."""
        left, top = self.at(x0, y)
        right, bottom = self.at(x1, self._y[0])
        self._parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(right - left - 1, 0.5):.1f}" '
            f'height="{max(bottom - top, 0):.1f}" fill="{colour}" fill-opacity="{opacity}"/>'
        )

    def svg(self) -> str:
        """The picture."""
        legend, right = [], _WIDTH - _RIGHT
        for name, colour in reversed(self._legend):
            shown = _short(name, 16)
            left = right - 7 * len(shown) - 16
            if left < _LEFT + 8 * len(self.title):
                break  # colours go on where there is no room for names
            legend.append(
                f'<rect x="{left}" y="8" width="10" height="8" fill="{colour}"/>'
                f'<text x="{left + 13}" y="16">{escape(shown)}</text>'
            )
            right = left - 8
        return _picture(self.title, "".join([*self._parts, *legend]))

    def _axes(self, x_title: str, y_title: str) -> None:
        left, bottom = self.at(self._x[0], self._y[0])
        right, top = self.at(self._x[1], self._y[1])
        for value in _ticks(*self._x):
            a, _ = self.at(value, self._y[0])
            self._parts.append(
                f'<line x1="{a:.1f}" y1="{top:.1f}" x2="{a:.1f}" y2="{bottom:.1f}" class="grid"/>'
                f'<text x="{a:.1f}" y="{bottom + 14:.1f}" text-anchor="middle">{value:g}</text>'
            )
        for value in _ticks(*self._y):
            _, b = self.at(self._x[0], value)
            self._parts.append(
                f'<line x1="{left:.1f}" y1="{b:.1f}" x2="{right:.1f}" y2="{b:.1f}" class="grid"/>'
                f'<text x="{left - 5:.1f}" y="{b + 4:.1f}" text-anchor="end">{value:g}</text>'
            )
        middle, centre = (left + right) / 2, (top + bottom) / 2
        self._parts.append(
            f'<text x="{middle:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">'
            f"{escape(x_title)}</text>"
            f'<text transform="translate(13 {centre:.1f}) rotate(-90)" text-anchor="middle">'
            f"{escape(y_title)}</text>"
        )


def plots(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """The plots of one evaluation, or of several of one task together.

    Parameters
    ----------
    evaluations : mapping
        By the name that is shown in legends.
    """
    first = next(iter(evaluations.values()))
    made = [per_image_plot(evaluations)]
    if "ap" in first.curves:
        made.append(precision_plot(evaluations))
        made.append(fault_plot(evaluations))
        made.append(count_plot(evaluations))
    if "confusion" in first.curves:
        for name, one in evaluations.items():
            title = "Confusion matrix" + (f": {name}" if len(evaluations) > 1 else "")
            made.append(confusion_plot(one.curves["classes"], one.curves["confusion"], title))
    if "reliability" in first.curves:
        made.append(reliability_plot(evaluations))
    if first.curves.get("roc"):
        made.append(roc_plot(evaluations))
    if "points" in first.curves:
        made.append(depth_plot(evaluations, str(first.scores.get("unit", ""))))
    return [svg for svg in made if svg]


def precision_plot(evaluations: Mapping[str, Evaluation]) -> str:
    """AP over IoU thresholds."""
    plot = Plot("AP over IoU thresholds", "IoU threshold", "mean AP")
    for (name, one), colour in zip(evaluations.items(), SERIES, strict=False):
        plot.line(one.curves["thresholds"], one.curves["ap"], colour, _name(name, evaluations))
    return plot.svg()


def fault_plot(evaluations: Mapping[str, Evaluation]) -> str:
    """How many objects were found, invented, missed, merged, split."""
    kinds = [(name, colour) for name, colour in FAULTS.values() if name != "wrong class"]
    counts = {n: list(one.curves["faults"].values()) for n, one in evaluations.items()}
    most = max((max(own, default=0) for own in counts.values()), default=0) or 1
    rows = len(kinds) * len(counts)
    step = (_HEIGHT - _TOP - 16) / rows
    parts = []
    lines = [(number, which) for number in range(len(kinds)) for which in counts]
    for row, (number, which) in enumerate(lines):
        kind, colour = kinds[number]
        y = _TOP + row * step
        value = counts[which][number]
        label = kind if len(counts) == 1 else f"{kind}, {which}"
        wide = (_WIDTH - 190) * value / most
        parts.append(
            f'<text x="118" y="{y + step / 2 + 4:.1f}" text-anchor="end">'
            f"{escape(_short(label))}</text>"
            f'<rect x="124" y="{y + 2:.1f}" width="{wide:.1f}" height="{step - 5:.1f}" '
            f'fill="{colour}"/>'
            f'<text x="{130 + wide:.1f}" y="{y + step / 2 + 4:.1f}">{value}</text>'
        )
    return _picture("What became of the objects", "".join(parts))


def count_plot(evaluations: Mapping[str, Evaluation]) -> str:
    """Objects counted against objects there are, one point an image."""
    pairs = {n: np.array(one.curves["counts"]) for n, one in evaluations.items()}
    most = float(max(p.max(initial=1) for p in pairs.values()))
    plot = Plot("Counts", "objects in the truth", "objects predicted", (0, most), (0, most))
    plot.line([0, most], [0, most], "#888888", dash="4 3")
    for (name, points), colour in zip(pairs.items(), SERIES, strict=False):
        points = points[:: max(1, len(points) // 400)]
        plot.dots(points[:, 0], points[:, 1], colour, _name(name, evaluations))
    return plot.svg()


def per_image_plot(evaluations: Mapping[str, Evaluation]) -> str:
    """Distribution of the main figure over images."""
    first = next(iter(evaluations.values()))
    figure, _ = MAIN_FIGURE[first.task]
    if first.task == "classification":
        return ""
    values = {n: np.array([r[figure] for r in e.per_image]) for n, e in evaluations.items()}
    together = np.concatenate(list(values.values()))
    top = 1.0 if first.task != "depth" else float(together.max(initial=0)) * 1.05 or 1.0
    counted = {n: np.histogram(v, bins=20, range=(0, top))[0] for n, v in values.items()}
    most = float(max(c.max(initial=1) for c in counted.values()))
    plot = Plot(f"{figure} of single images", figure, "images", (0, top), (0, most))
    opacity = 0.8 if len(counted) == 1 else 0.5
    for (name, counts), colour in zip(counted.items(), SERIES, strict=False):
        for i, count in enumerate(counts):
            if count:
                plot.bar(top * i / 20, top * (i + 1) / 20, float(count), colour, opacity)
        mean = float(values[name].mean())
        plot.line([mean, mean], [0, most], colour, _name(name, evaluations), dash="3 2")
    return plot.svg()


def confusion_plot(
    names: Sequence[str], matrix: Sequence[Sequence[int]], title: str = "Confusion matrix"
) -> str:
    """Rows are the truth, columns the prediction; colour is the share of the row."""
    counts = np.asarray(matrix, float)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = len(names)
    left, top = 84, 46
    step = min((_WIDTH - left - 10) / size, (_HEIGHT - top - 30) / size)
    parts = []
    for i in range(size):
        middle = i * step + step / 2 + 4
        if size <= _WRITTEN:
            parts.append(
                f'<text x="{left - 5}" y="{top + middle:.1f}" text-anchor="end">'
                f"{escape(_short(names[i], 11))}</text>"
                f'<text x="{left + middle - 4:.1f}" y="{top - 5}" text-anchor="middle">'
                f"{escape(_short(names[i], max(2, int(step / 6))))}</text>"
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
    parts.append(f'<text x="{left}" y="{_HEIGHT - 8}">{foot}</text>')
    return _picture(title, "".join(parts))


def reliability_plot(evaluations: Mapping[str, Evaluation]) -> str:
    """Accuracy over confidence; on the diagonal probabilities mean what they say."""
    plot = Plot("Reliability", "confidence", "accuracy")
    plot.line([0, 1], [0, 1], "#888888", dash="4 3")
    for (name, one), colour in zip(evaluations.items(), SERIES, strict=False):
        bins = one.curves.get("reliability")
        if bins is None:
            continue
        count = np.asarray(bins["count"])
        width = 1 / len(count)
        for i in np.flatnonzero(count):
            plot.bar(i * width, (i + 1) * width, bins["accuracy"][i], colour, 0.25)
        kept = np.flatnonzero(count)
        label = _name(name, evaluations) or "ECE"
        label += f" {one.scores['ece']:.3f}"
        x, y = np.asarray(bins["confidence"])[kept], np.asarray(bins["accuracy"])[kept]
        plot.line(x, y, colour, label)
    return plot.svg()


def roc_plot(evaluations: Mapping[str, Evaluation]) -> str:
    """ROC curves: of each class, or of the first class where several are compared."""
    plot = Plot("ROC", "false positive rate", "true positive rate")
    plot.line([0, 1], [0, 1], "#888888", dash="4 3")
    if len(evaluations) == 1:
        (one,) = evaluations.values()
        for (name, (x, y)), colour in zip(one.curves["roc"].items(), SERIES, strict=False):
            plot.line(x, y, colour, name)
        return plot.svg()
    for (name, one), colour in zip(evaluations.items(), SERIES, strict=False):
        for number, (x, y) in enumerate(one.curves.get("roc", {}).values()):
            plot.line(x, y, colour, name if number == 0 else "")
    return plot.svg()


def depth_plot(evaluations: Mapping[str, Evaluation], unit: str) -> str:
    """Predicted against true depth, some points of each image."""
    points = {n: np.array(one.curves["points"]) for n, one in evaluations.items()}
    together = np.concatenate(list(points.values()))
    low, high = float(together.min()), float(together.max())
    with_unit = f", {unit}" if unit else ""
    span = (low, high)
    plot = Plot("Depth", f"truth{with_unit}", f"prediction{with_unit}", span, span)
    plot.line([low, high], [low, high], "#888888", dash="4 3")
    for (name, own), colour in zip(points.items(), SERIES, strict=False):
        own = own[:: max(1, len(own) // 600)]
        plot.dots(own[:, 0], own[:, 1], colour, _name(name, evaluations))
    return plot.svg()


def _name(name: str, evaluations: Mapping[str, Any]) -> str:
    """Series of a single evaluation need no name."""
    return name if len(evaluations) > 1 else ""


def _short(text: str, most: int = 20) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _count(value: int) -> str:
    if value < 10_000:
        return str(value)
    return f"{value / 1e3:.0f}k" if value < 10_000_000 else f"{value / 1e6:.0f}M"


def _span(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    """Some round numbers from `low` to `high`."""
    raw = (high - low) / 5
    power = 10.0 ** np.floor(np.log10(raw))
    step = power * next(s for s in (1, 2, 5, 10) if s * power >= raw)
    first = np.ceil(low / step - 1e-9) * step
    # Adding 0 turns -0 into 0.
    return [float(round(v, 10)) + 0.0 for v in np.arange(first, high + step * 1e-6, step)]


def _picture(title: str, inside: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f'<text x="{_LEFT}" y="16" class="name">{escape(title)}</text>{inside}</svg>'
    )
