"""Where a prediction is wrong: found, invented, missed, merged and split objects, as a label map.

An object of the truth is *found* when it is matched one to one at the IoU threshold. Of the others:
several objects that one predicted object covers by more than half each are *merged*; one that more
than half of several predicted objects lie in is *split*; the rest are *missed*. Predicted objects
that match nothing and take part in neither are *false*.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dinoscope.arrays.labels import IGNORE
from dinoscope.arrays.matching import InstanceMatch
from dinoscope.types import Table

FOUND, FALSE, MISSED, MERGED, SPLIT, CONFUSED = range(1, 7)
#: Name and colour of each code of a fault map; colours by Okabe and Ito, told apart by all eyes.
FAULTS = {
    FOUND: ("found", "#009e73"),
    FALSE: ("false positive", "#d55e00"),
    MISSED: ("missed", "#56b4e9"),
    MERGED: ("merged", "#cc79a7"),
    SPLIT: ("split", "#f0e442"),
    CONFUSED: ("wrong class", "#e69f00"),
}
#: Share of an object that has to be covered for it to take part in a merge or split.
_MOST = 0.5


@dataclass(frozen=True)
class ObjectFaults:
    """A fault code for each object.

    `truth` (n_truth,) and `pred` (n_pred,) are codes in the order of the match's ids; `partner`
    (n_truth,) is the number of the predicted object that each is matched with, or that shares most
    with it, -1 for none; `iou` (n_truth,) the IoU with that one. `cut` counts objects that were
    found though pieces of them are other predicted objects.
    """

    truth: np.ndarray
    pred: np.ndarray
    partner: np.ndarray
    iou: np.ndarray
    cut: int

    def counts(self) -> dict[str, int]:
        """``found false missed merged split``: predicted objects for false, else true ones.

        An object whose largest piece still matches counts as found and as split.
        """
        return {
            "found": int((self.truth == FOUND).sum()),
            "false": int((self.pred == FALSE).sum()),
            "missed": int((self.truth == MISSED).sum()),
            "merged": int((self.truth == MERGED).sum()),
            "split": int((self.truth == SPLIT).sum()) + self.cut,
        }


def object_faults(match: InstanceMatch, threshold: float = 0.5) -> ObjectFaults:
    """Say of each object what became of it.

    Examples
    --------
    >>> from dinoscope.arrays.matching import match_instances
    >>> truth, pred = np.array([[1, 1, 2, 2, 0]]), np.array([[5, 5, 5, 5, 0]])
    >>> object_faults(match_instances(truth, pred), 0.75).counts()["merged"]
    2
    """
    truth = np.full(match.n_truth, MISSED, np.uint8)
    pred = np.full(match.n_pred, FALSE, np.uint8)
    swallowed = match.overlap > _MOST * match.truth_area[match.truth]
    merging = np.bincount(match.pred[swallowed], minlength=match.n_pred) > 1
    part = match.overlap > _MOST * match.pred_area[match.pred]
    pieces = np.bincount(match.truth[part], minlength=match.n_truth) > 1
    pred[match.pred[part & pieces[match.truth]]] = SPLIT
    truth[pieces] = SPLIT
    pred[merging] = MERGED
    truth[match.truth[swallowed & merging[match.pred]]] = MERGED

    partner = np.full(match.n_truth, -1)
    iou = np.zeros(match.n_truth)
    order = np.argsort(match.iou, kind="stable")  # the best comes last and stays
    partner[match.truth[order]] = match.pred[order]
    iou[match.truth[order]] = match.iou[order]
    matched = match.pairs(threshold)
    partner[match.truth[matched]] = match.pred[matched]
    iou[match.truth[matched]] = match.iou[matched]
    cut = int(pieces[match.truth[matched]].sum())
    truth[match.truth[matched]] = FOUND
    pred[match.pred[matched]] = FOUND
    return ObjectFaults(truth, pred, partner, iou, cut)


def instance_fault_map(
    truth: np.ndarray, pred: np.ndarray, match: InstanceMatch, faults: ObjectFaults
) -> np.ndarray:
    """The codes of :data:`FAULTS` for each pixel.

    Inside an object of the truth that was missed, merged or split its own code; elsewhere the
    predicted object's, and that of the truth where nothing was predicted.

    Parameters
    ----------
    truth, pred : integer arrays of one shape
        Instance ids, as they were matched.

    Returns
    -------
    uint8 array of that shape
    """
    said = _codes_at(pred, match.pred_ids, faults.pred)
    true = _codes_at(truth, match.truth_ids, faults.truth)
    return np.where((true > FOUND) | (said == 0), true, said)


def _codes_at(ids: np.ndarray, known: np.ndarray, codes: np.ndarray) -> np.ndarray:
    if known.size == 0:
        return np.zeros(ids.shape, np.uint8)
    highest = int(known[-1])
    if highest <= 4 * ids.size + 65_536:
        table = np.zeros(highest + 1, np.uint8)
        table[known.astype(np.int64)] = codes
        return np.asarray(table[ids])
    place = np.searchsorted(known, ids).clip(max=known.size - 1)
    return np.where(known[place] == ids, codes[place], 0).astype(np.uint8)


def class_fault_map(truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Codes of :data:`FAULTS` for each pixel of classes; 0 where both are background or ignored.

    Examples
    --------
    >>> class_fault_map(np.array([0, 0, 1, 1, 2, 255]), np.array([0, 1, 1, 0, 1, 1])).tolist()
    [0, 2, 1, 3, 6, 0]
    """
    truth, pred = np.asarray(truth), np.asarray(pred)
    said = np.where(pred == IGNORE, 0, pred)
    codes = np.full(truth.shape, CONFUSED, np.uint8)
    codes[truth == said] = FOUND
    codes[(truth == 0) & (said > 0)] = FALSE
    codes[(truth > 0) & (said == 0)] = MISSED
    codes[((truth == 0) & (said == 0)) | (truth == IGNORE)] = 0
    return codes


def fault_table(
    truth: np.ndarray, pred: np.ndarray, match: InstanceMatch, faults: ObjectFaults
) -> Table:
    """One row for each object of the truth, and for each predicted one that matches none of them.

    Parameters
    ----------
    truth, pred : (Y, X) integer arrays
        As they were matched.

    Returns
    -------
    Table
        ``fault`` (name), ``iou`` (with its best partner; 0 for predicted objects), ``truth_id
        pred_id`` (0 for none), ``area_px``, ``y x`` (centroid, in pixels). Worst first: by IoU,
        the larger object first.
    """
    extra = np.flatnonzero(faults.pred != FOUND)
    have = faults.partner >= 0
    partner = np.zeros(match.n_truth, np.int64)
    partner[have] = match.pred_ids[faults.partner[have]]
    places = np.concatenate(
        [_centroids(truth, match.truth_ids), _centroids(pred, match.pred_ids)[extra]]
    )
    codes = np.concatenate([faults.truth, faults.pred[extra]])
    table: Table = {
        "fault": np.array([FAULTS[int(code)][0] for code in codes], dtype=object),
        "iou": np.concatenate([faults.iou, np.zeros(extra.size)]),
        "truth_id": np.concatenate([match.truth_ids, np.zeros(extra.size)]).astype(np.int64),
        "pred_id": np.concatenate([partner, match.pred_ids[extra]]).astype(np.int64),
        "area_px": np.concatenate([match.truth_area, match.pred_area[extra]]),
        "y": places[:, 0],
        "x": places[:, 1],
    }
    order = np.lexsort((-table["area_px"], table["iou"].round(6)))
    return {name: column[order] for name, column in table.items()}


def _centroids(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(n, 2) centroids of the ids, in their order."""
    place = np.flatnonzero(ids)
    number = np.searchsorted(known, ids.ravel()[place])
    y, x = np.divmod(place, ids.shape[1])
    area = np.maximum(np.bincount(number, minlength=known.size), 1)
    columns = [np.bincount(number, along, known.size) / area for along in (y, x)]
    return np.stack(columns, axis=1)
