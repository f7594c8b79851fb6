"""Score objects: AP, F1, panoptic quality, SEG, counts, COCO's mAP, and what went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dinoscope.arrays.detection import coco_precision
from dinoscope.arrays.faults import fault_table, instance_fault_map, object_faults
from dinoscope.arrays.intervals import bootstrap_interval
from dinoscope.arrays.labels import validate_labels
from dinoscope.arrays.matching import InstanceMatch, match_instances
from dinoscope.arrays.metrics import (
    AP_THRESHOLDS,
    INSTANCE_FIGURES,
    accuracy_of,
    instance_figures,
    instance_scores,
    instance_sums,
)
from dinoscope.config import EvaluateOptions
from dinoscope.engine.evaluate.evaluation import (
    Case,
    Evaluation,
    existing,
    figure_intervals,
    groups_of,
    known_intervals,
    mean_of,
    row_figures,
)
from dinoscope.engine.evaluate.pictures import Gallery, Picture, fault_picture
from dinoscope.types import Table

#: Objects that are wrong are listed up to this number; an image adds at most so many.
_LISTED, _LISTED_EACH = 5000, 500
#: Thresholds of the curve that is drawn.
_CURVE = tuple(round(0.05 * step, 2) for step in range(1, 20))


class InstanceScorer:
    """Scores instance ids; see :func:`dinoscope.engine.evaluate.evaluate` for the figures."""

    def __init__(self, options: EvaluateOptions, groups: Mapping[str, str] | None = None) -> None:
        self._options, self._groups = options, groups
        self._matches: list[InstanceMatch] = []
        self._sums: list[np.ndarray] = []
        self._scores: list[np.ndarray | None] = []
        self._rows: list[dict[str, Any]] = []
        self._faults: dict[str, int] = {}
        self._tables: list[tuple[str, int, Table]] = []
        self._gallery = Gallery(options.worst, more_is_better=True)

    def add(self, case: Case) -> np.ndarray:
        """Score a plane; returns its map of faults."""
        true = validate_labels(case.truth, name=case.truth_origin)
        said = validate_labels(case.predicted, shape=true.shape, name=case.origin)
        match = match_instances(true, said)
        sums = instance_sums(match)
        figures = dict(zip(INSTANCE_FIGURES, map(float, instance_figures(sums)), strict=True))
        faults = object_faults(match, self._options.fault_threshold)
        counts = faults.counts()
        self._faults = {name: self._faults.get(name, 0) + n for name, n in counts.items()}
        codes = instance_fault_map(true, said, match, faults)
        self._matches.append(match)
        self._sums.append(sums)
        self._scores.append(_scores_of(match, case.scores))
        self._rows.append(
            {"image": case.name, "plane": case.plane}
            | row_figures(figures, INSTANCE_FIGURES)
            | {"n_truth": match.n_truth, "n_pred": match.n_pred}
            | {"dice": _foreground_dice(true, said), **counts}
        )
        if len(self._tables) * _LISTED_EACH < 20 * _LISTED:
            table = fault_table(true, said, match, faults)
            self._tables.append(
                (case.name, case.plane, {n: c[:_LISTED_EACH] for n, c in table.items()})
            )

        def draw() -> Picture:
            pixels, origin = fault_picture(codes, case.image, true)
            return Picture(case.name, case.plane, figures["ap50"], origin, pixels)

        self._gallery.offer(figures["ap50"], draw)
        return codes

    def finish(self) -> Evaluation:
        """The figures over all planes."""
        scores: dict[str, Any] = dict(instance_scores(self._matches))
        groups = groups_of(self._rows, self._groups)
        scores["dice"] = mean_of(self._rows, "dice")
        intervals = figure_intervals(self._rows, (*INSTANCE_FIGURES, "dice"), groups)
        low, high = bootstrap_interval(np.array(self._sums), instance_figures, groups)
        intervals |= known_intervals(
            {f"{n}_pooled": (low[i], high[i]) for i, n in enumerate(INSTANCE_FIGURES)}
        )
        if "ap50" in intervals:
            scores["ap50_low"], scores["ap50_high"] = intervals["ap50"]
        scores |= {name: n for name, n in self._faults.items() if name in ("merged", "split")}
        notes = []
        scored = all(own is not None for own in self._scores)
        if scored and (scores["n_pred"] or scores["n_truth"]):
            precision = coco_precision(
                self._matches, [own for own in self._scores if own is not None], AP_THRESHOLDS
            )
            scores |= {"coco_map": float(precision.mean()), "coco_ap50": float(precision[0])}
            scores["coco_ap75"] = float(precision[AP_THRESHOLDS.index(0.75)])
        if not scores["n_truth"] and not scores["n_pred"]:
            notes.append("No object in truth or prediction: every score is 1 by convention.")
        return Evaluation(
            "instance",
            existing(scores),
            intervals,
            self._rows,
            objects=_join(self._tables),
            curves={
                "thresholds": list(_CURVE),
                "ap": _curve(self._matches),
                "faults": dict(self._faults),
                "counts": [[r["n_truth"], r["n_pred"]] for r in self._rows],
            },
            pictures=self._gallery.pictures(),
            notes=notes,
        )


def _foreground_dice(true: np.ndarray, said: np.ndarray) -> float:
    inside, found = true > 0, said > 0
    total = np.count_nonzero(inside) + np.count_nonzero(found)
    return 2 * np.count_nonzero(inside & found) / total if total else 1.0


def _scores_of(match: InstanceMatch, scores: Mapping[int, float] | None) -> np.ndarray | None:
    """Scores in the order of the ids, ``None`` unless every object has one."""
    if not match.n_pred:
        return np.zeros(0)  # no object lacks a score
    if scores is None:
        return None
    own = np.array([scores.get(int(label), np.nan) for label in match.pred_ids], np.float64)
    return own if np.isfinite(own).all() else None


def _curve(matches: Sequence[InstanceMatch]) -> list[float]:
    """Mean AP over images at each threshold."""
    return [
        float(np.mean([accuracy_of(*match.counts(threshold)) for match in matches]))
        for threshold in _CURVE
    ]


def _join(tables: Sequence[tuple[str, int, Table]]) -> Table:
    """The worst objects of all images, those that were found least well first."""
    if not tables:
        return {}
    sizes = [len(table["iou"]) for *_, table in tables]
    joined: Table = {
        "image": np.repeat(np.array([name for name, *_ in tables], dtype=object), sizes),
        "plane": np.repeat([plane for _, plane, _ in tables], sizes),
    }
    joined |= {name: np.concatenate([t[name] for *_, t in tables]) for name in tables[0][2]}
    order = np.lexsort((-joined["area_px"], joined["iou"].round(6)))[:_LISTED]
    return {name: column[order] for name, column in joined.items()}
