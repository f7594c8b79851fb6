"""Score depth maps, beside what knowing nothing gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dinoscope.arrays.focus import sharpness
from dinoscope.arrays.metrics import depth_scores
from dinoscope.config import EvaluateOptions
from dinoscope.engine.evaluate.evaluation import (
    Case,
    Evaluation,
    existing,
    figure_intervals,
    groups_of,
    mean_of,
)
from dinoscope.engine.evaluate.pictures import Gallery, Picture, depth_picture
from dinoscope.errors import InputError

#: Points kept of each plane for the plot of prediction against truth.
_POINTS = 200


class DepthScorer:
    """Scores depth maps; NaN in the truth is not scored."""

    def __init__(self, options: EvaluateOptions, groups: Mapping[str, str] | None = None) -> None:
        self._options, self._groups = options, groups
        self._rows: list[dict[str, Any]] = []
        self._points: list[np.ndarray] = []
        self._skipped = 0
        self._gallery = Gallery(options.worst, more_is_better=False)

    def add(self, case: Case) -> np.ndarray | None:
        """Score a plane; returns prediction minus truth as (Y, X) float32."""
        true, said = np.asarray(case.truth), np.asarray(case.predicted)
        if not np.isfinite(true).any():
            self._skipped += 1
            return None  # nothing was measured there
        try:
            own = depth_scores(true, said)
        except InputError as error:
            raise InputError(f"{case.origin}: {error.what}", expected=error.expected) from error
        if case.image is not None:
            own["rmse_focus_fit"] = _focus_error(true, case.image)
        self._rows.append({"image": case.name, "plane": case.plane, **existing(own)})
        error_map: np.ndarray = (said - true).astype(np.float32)
        both = np.flatnonzero(np.isfinite(error_map))
        kept = both[:: max(1, both.size // _POINTS)][:_POINTS]
        self._points.append(np.stack([true.ravel()[kept], said.ravel()[kept]], axis=1))

        def draw() -> Picture:
            pixels, origin = depth_picture(true, said)
            return Picture(case.name, case.plane, own["rmse"], origin, pixels)

        self._gallery.offer(own["rmse"], draw)
        return error_map

    def finish(self) -> Evaluation:
        """Means over the planes.

        Raises
        ------
        InputError
            No truth is finite anywhere.
        """
        if not self._rows:
            raise InputError("no truth holds a finite depth", expected="numbers, NaN where unknown")
        names = list(dict.fromkeys(n for row in self._rows for n in row))[2:]
        scores: dict[str, Any] = {"n": len(self._rows)}
        scores |= {name: mean_of(self._rows, name) for name in names}
        if self._options.depth_unit:
            scores["unit"] = self._options.depth_unit
        notes = []
        if self._skipped:
            notes.append(f"{self._skipped} planes without any finite truth were left out.")
        points = np.concatenate(self._points)
        points = points[:: max(1, len(points) // 2000)]
        return Evaluation(
            "depth",
            existing(scores),
            figure_intervals(self._rows, names, groups_of(self._rows, self._groups)),
            self._rows,
            curves={"points": points.astype(float).round(6).tolist()},
            pictures=self._gallery.pictures(),
            notes=notes,
        )


def _focus_error(true: np.ndarray, image: np.ndarray) -> float:
    """RMSE of the best that sharpness alone could say: a focus measure, scaled and shifted."""
    plane = np.asarray(image, np.float32).mean(axis=0)
    finite = np.isfinite(plane)
    if not finite.any():
        return float("nan")
    plane = np.where(finite, plane, plane[finite].mean()).astype(np.float32)
    return depth_scores(true, sharpness(plane))["rmse_fit"]
