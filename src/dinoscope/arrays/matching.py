"""Which object of a prediction is which object of the truth.

Overlaps are counted by runs: neighbouring pixels that have one id in the truth and one in the
prediction are one entry. Time grows with the length of the outlines, not with the number of pixels
or objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dinoscope.arrays.labels import validate_labels

#: Tables of all pairs up to this size are counted into directly; larger ones are sorted.
_DENSE_PAIRS = 1 << 18


@dataclass(frozen=True)
class InstanceMatch:
    """Overlaps between the objects of a truth and of a prediction.

    `truth` and `pred` are object numbers from 0, one entry for each overlapping pair; `overlap` is
    their common area in pixels, `iou` their intersection over union. `truth_ids` and `pred_ids`
    give the id of each number, `truth_area` and `pred_area` its pixels.
    """

    truth: np.ndarray
    pred: np.ndarray
    overlap: np.ndarray
    truth_ids: np.ndarray
    pred_ids: np.ndarray
    truth_area: np.ndarray
    pred_area: np.ndarray

    @property
    def n_truth(self) -> int:
        """Objects in the truth."""
        return int(self.truth_ids.size)

    @property
    def n_pred(self) -> int:
        """Objects in the prediction."""
        return int(self.pred_ids.size)

    @cached_property
    def iou(self) -> np.ndarray:
        """Intersection over union of each pair, float64."""
        union = self.truth_area[self.truth] + self.pred_area[self.pred] - self.overlap
        return np.asarray(self.overlap / union)

    def pairs(self, threshold: float) -> np.ndarray:
        """Positions, in the list of pairs, of the matches: see :meth:`matched`."""
        keep = np.flatnonzero(self.iou >= threshold)
        if threshold > 0.5 or keep.size == 0:
            return keep  # above one half a pair excludes all others
        truth, pred = self.truth[keep], self.pred[keep]
        contested = (np.bincount(truth)[truth] > 1) | (np.bincount(pred)[pred] > 1)
        if not contested.any():
            return keep
        disputed = keep[contested]
        solved = _assign(self.truth[disputed], self.pred[disputed], self.iou[disputed])
        return np.concatenate([keep[~contested], disputed[solved]])

    def matched(self, threshold: float) -> np.ndarray:
        """IoUs of the largest one-to-one set of pairs that all reach `threshold`."""
        return np.asarray(self.iou[self.pairs(threshold)])

    def counts(self, threshold: float) -> tuple[int, int, int]:
        """True positives, false positives and false negatives at `threshold`."""
        true = self.pairs(threshold).size
        return true, self.n_pred - true, self.n_truth - true


def _assign(truth: np.ndarray, pred: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Positions of the chosen pairs."""
    from scipy.optimize import linear_sum_assignment

    rows, row = np.unique(truth, return_inverse=True)
    columns, column = np.unique(pred, return_inverse=True)
    value = np.zeros((rows.size, columns.size))
    # As many pairs as possible; among those sets the one of the largest summed IoU.
    value[row, column] = iou + min(value.shape)
    position = np.full(value.shape, -1)
    position[row, column] = np.arange(iou.size)
    chosen = position[linear_sum_assignment(value, maximize=True)]
    return np.asarray(chosen[chosen >= 0])


def match_instances(truth: np.ndarray, pred: np.ndarray) -> InstanceMatch:
    """Find every overlapping pair of objects and its IoU.

    Parameters
    ----------
    truth, pred : integer arrays of one shape
        Instance ids, 0 = background; ids need not be consecutive nor agree.

    Raises
    ------
    InputError
        The shapes differ, or an array holds no labels.

    Examples
    --------
    >>> match = match_instances(np.array([[4, 4, 0, 9]]), np.array([[7, 7, 7, 0]]))
    >>> match.n_truth, match.n_pred, match.counts(0.5)
    (2, 1, (1, 0, 1))
    """
    truth = validate_labels(truth, name="truth")
    pred = validate_labels(pred, shape=truth.shape, name="prediction").ravel()
    truth = truth.ravel()
    ends = _run_ends(truth, pred)
    lengths = np.diff(ends, prepend=-1)
    truth_ids, pred_ids, overlap = _overlaps(truth[ends], pred[ends], lengths)
    truth_ids, row = _numbered(truth_ids)
    pred_ids, column = _numbered(pred_ids)
    truth_area = np.bincount(row, overlap, truth_ids.size + 1)[1:]
    pred_area = np.bincount(column, overlap, pred_ids.size + 1)[1:]
    both = (row > 0) & (column > 0)
    return InstanceMatch(
        row[both] - 1,
        column[both] - 1,
        overlap[both],
        truth_ids,
        pred_ids,
        truth_area.astype(np.int64),
        pred_area.astype(np.int64),
    )


def _run_ends(truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Last pixel of each run of one pair of ids."""
    size = truth.size
    ends = np.zeros(-(-size // 8) * 8, bool)
    np.not_equal(truth[1:], truth[:-1], out=ends[: size - 1])
    ends[: size - 1] |= pred[1:] != pred[:-1]
    ends[size - 1] = True
    # Eight pixels at a time first: most have no end among them, and looking for the others in all
    # pixels would take longer than everything else.
    eights = ends.view(np.uint64)
    some = np.flatnonzero(eights != 0)
    inside = np.flatnonzero(eights[some].view(bool))
    return np.asarray(some[inside >> 3] * 8 + (inside & 7))


def _overlaps(
    truth: np.ndarray, pred: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each pair of ids (0 included) that occurs, and in how many pixels."""
    across = int(pred.max()) + 1
    if (int(truth.max()) + 1) * across <= max(_DENSE_PAIRS, 4 * truth.size):
        codes = truth.astype(np.intp) * across + pred.astype(np.intp)
        total = np.bincount(codes, lengths)
        pairs = np.flatnonzero(total > 0)
        row, column = np.divmod(pairs, across)
        return row, column, total[pairs].astype(np.int64)
    order = np.lexsort((pred, truth))
    truth, pred = truth[order], pred[order]
    new = (truth[1:] != truth[:-1]) | (pred[1:] != pred[:-1])
    first = np.flatnonzero(np.concatenate([[True], new]))
    return truth[first], pred[first], np.add.reduceat(lengths[order], first)


def _numbered(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different ids without 0, in order, and for each entry its number from 1 (0 stays 0)."""
    different, number = np.unique(ids, return_inverse=True)
    if different[0] == 0:
        return different[1:], number
    return different, number + 1
