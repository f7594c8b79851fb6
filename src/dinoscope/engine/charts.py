"""The plots of an evaluation as plain values; the report draws them as SVG, the panel with Qt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dinoscope.arrays.faults import CONFUSED, FAULTS
from dinoscope.engine.evaluate.evaluation import MAIN_FIGURE, Evaluation

#: Colours of series, told apart by all eyes (Okabe and Ito).
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#888888")
GREY = "#888888"
_BINS = 20
#: Fewer images have no distribution worth a plot.
_FEWEST = 3

Points = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Chart:
    """One plot.

    Parameters
    ----------
    kind : {"axes", "bars", "matrix"}
        ``axes``: `marks` on linear axes that span `x` and `y`. ``bars``: `rows` of (label, value,
        colour), from top to bottom. ``matrix``: `names`, and `counts` with the truth in rows.
    marks : list of dict
        ``kind`` (``line dots bar``), ``x y`` (lists), ``colour``, ``name`` (for the legend, may be
        empty), ``dash`` (bool), ``opacity``. A bar spans two x and rises from the bottom to its y.
    """

    kind: str
    title: str
    x_title: str = ""
    y_title: str = ""
    x: tuple[float, float] = (0.0, 1.0)
    y: tuple[float, float] = (0.0, 1.0)
    marks: list[dict[str, Any]] = field(default_factory=list)
    rows: list[tuple[str, float, str]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    counts: list[list[int]] = field(default_factory=list)

    def line(
        self, x: Points, y: Points, colour: str, name: str = "", *, dash: bool = False
    ) -> None:
        """Add a line through points."""
        self._mark("line", x, y, colour, name, dash=dash)

    def dots(self, x: Points, y: Points, colour: str, name: str = "") -> None:
        """Add points."""
        self._mark("dots", x, y, colour, name, opacity=0.55)

    def bar(self, x: tuple[float, float], y: float, colour: str, opacity: float = 0.8) -> None:
        """Add a bar from the bottom of the axes."""
        self._mark("bar", x, [y], colour, opacity=opacity)

    def plain(self) -> dict[str, Any]:
        """All of it in plain values."""
        return asdict(self)

    def _mark(
        self,
        kind: str,
        x: Points,
        y: Points,
        colour: str,
        name: str = "",
        *,
        dash: bool = False,
        opacity: float = 1.0,
    ) -> None:
        mark = {"kind": kind, "x": [float(v) for v in x], "y": [float(v) for v in y]}
        self.marks.append(
            {**mark, "colour": colour, "name": name, "dash": dash, "opacity": opacity}
        )


def charts(evaluations: Mapping[str, Evaluation]) -> list[Chart]:
    """The plots of one evaluation, or of several of one task together.

    Parameters
    ----------
    evaluations : mapping
        By the name that is shown in legends.
    """
    first = next(iter(evaluations.values()))
    made = []
    if "ap" in first.curves:
        made += [_faults(evaluations), _precision(evaluations), _counts(evaluations)]
    if "confusion" in first.curves:
        for name, one in evaluations.items():
            title = "Confusion matrix" + (f": {name}" if len(evaluations) > 1 else "")
            names, counts = one.curves["classes"], one.curves["confusion"]
            made.append(Chart("matrix", title, names=list(names), counts=counts))
    if "reliability" in first.curves:
        made.append(_reliability(evaluations))
    if first.curves.get("roc"):
        made.append(_roc(evaluations))
    if "points" in first.curves:
        made.append(_depth(evaluations, str(first.scores.get("unit", ""))))
    if first.task != "classification" and len(first.per_image) >= _FEWEST:
        made.append(_distribution(evaluations))
    return made


def _precision(evaluations: Mapping[str, Evaluation]) -> Chart:
    chart = Chart("axes", "AP over IoU thresholds", "IoU threshold", "mean AP")
    for name, one, colour in _series(evaluations):
        chart.line(one.curves["thresholds"], one.curves["ap"], colour, name)
    return chart


def _faults(evaluations: Mapping[str, Evaluation]) -> Chart:
    kinds = [FAULTS[code] for code in FAULTS if code != CONFUSED]
    chart = Chart("bars", "What became of the objects")
    for number, (kind, colour) in enumerate(kinds):
        for name, one, _ in _series(evaluations):
            value = list(one.curves["faults"].values())[number]
            chart.rows.append((f"{kind}, {name}" if name else kind, value, colour))
    return chart


def _counts(evaluations: Mapping[str, Evaluation]) -> Chart:
    pairs = [np.array(one.curves["counts"]) for one in evaluations.values()]
    most = 1.05 * float(max(p.max(initial=1) for p in pairs))
    title, span = "Counts", (0.0, most)
    chart = Chart("axes", title, "objects in the truth", "objects predicted", span, span)
    chart.line(span, span, GREY, dash=True)
    for (name, _, colour), points in zip(_series(evaluations), pairs, strict=False):
        points = points[:: max(1, len(points) // 400)]
        chart.dots(points[:, 0], points[:, 1], colour, name)
    return chart


def _distribution(evaluations: Mapping[str, Evaluation]) -> Chart:
    first = next(iter(evaluations.values()))
    figure, _ = MAIN_FIGURE[first.task]
    values = [np.array([row[figure] for row in e.per_image]) for e in evaluations.values()]
    highest = max(float(v.max(initial=0)) for v in values)
    top = 1.0 if first.task != "depth" else 1.05 * highest or 1.0
    counted = [np.histogram(v, bins=_BINS, range=(0, top))[0] for v in values]
    most = 1.05 * float(max(c.max(initial=1) for c in counted))
    chart = Chart("axes", f"{figure} of single images", figure, "images", (0.0, top), (0.0, most))
    opacity = 0.8 if len(counted) == 1 else 0.5
    rows = zip(_series(evaluations), values, counted, strict=False)
    for (name, _, colour), own, counts in rows:
        for i in np.flatnonzero(counts):
            chart.bar((top * i / _BINS, top * (i + 1) / _BINS), counts[i], colour, opacity)
        mean = float(own.mean())
        chart.line([mean, mean], [0, most], colour, name, dash=True)
    return chart


def _reliability(evaluations: Mapping[str, Evaluation]) -> Chart:
    chart = Chart("axes", "Reliability", "confidence", "accuracy")
    chart.line([0, 1], [0, 1], GREY, dash=True)
    for name, one, colour in _series(evaluations):
        bins = one.curves.get("reliability")
        if bins is None:
            continue
        count = np.asarray(bins["count"])
        used = np.flatnonzero(count)
        for i in used:
            span = (i / len(count), (i + 1) / len(count))
            chart.bar(span, bins["accuracy"][i], colour, 0.25)
        x, y = np.asarray(bins["confidence"])[used], np.asarray(bins["accuracy"])[used]
        chart.line(x, y, colour, f"{name or 'ECE'} {one.scores['ece']:.3f}")
    return chart


def _roc(evaluations: Mapping[str, Evaluation]) -> Chart:
    chart = Chart("axes", "ROC", "false positive rate", "true positive rate")
    chart.line([0, 1], [0, 1], GREY, dash=True)
    if len(evaluations) == 1:
        (one,) = evaluations.values()
        for (name, (x, y)), colour in zip(one.curves["roc"].items(), SERIES, strict=False):
            chart.line(x, y, colour, name)
        return chart
    for name, one, colour in _series(evaluations):
        for number, (x, y) in enumerate(one.curves.get("roc", {}).values()):
            chart.line(x, y, colour, name if number == 0 else "")
    return chart


def _depth(evaluations: Mapping[str, Evaluation], unit: str) -> Chart:
    points = [np.array(one.curves["points"]) for one in evaluations.values()]
    together = np.concatenate(points)
    low, high = float(together.min()), float(together.max())
    span = (low, high) if high > low else (low - 0.5, low + 0.5)
    suffix = f", {unit}" if unit else ""
    chart = Chart("axes", "Depth", f"truth{suffix}", f"prediction{suffix}", span, span)
    chart.line(span, span, GREY, dash=True)
    for (name, _, colour), own in zip(_series(evaluations), points, strict=False):
        own = own[:: max(1, len(own) // 600)]
        chart.dots(own[:, 0], own[:, 1], colour, name)
    return chart


def _series(evaluations: Mapping[str, Evaluation]) -> list[tuple[str, Evaluation, str]]:
    """Name, evaluation and colour of each; a single one needs no name."""
    single = len(evaluations) == 1
    pairs = zip(evaluations.items(), SERIES, strict=False)
    return [("" if single else name, one, colour) for (name, one), colour in pairs]
