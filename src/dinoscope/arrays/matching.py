"""Which object of a prediction is which object of the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dinoscope.arrays.labels import relabel_sequential, validate_labels


@dataclass(frozen=True)
class InstanceMatch:
    """Overlaps between the objects of a truth and of a prediction.

    `truth` and `pred` are object numbers from 0, one entry for each overlapping pair, `iou` their
    intersection over union; `n_truth` and `n_pred` count all objects.
    """

    n_truth: int
    n_pred: int
    truth: np.ndarray
    pred: np.ndarray
    iou: np.ndarray

    def matched(self, threshold: float) -> np.ndarray:
        """IoUs of the largest one-to-one set of pairs that all reach `threshold`."""
        keep = self.iou >= threshold
        truth, pred, iou = self.truth[keep], self.pred[keep], self.iou[keep]
        # Above 0.5 a pair excludes all others; below, only objects with a choice need solving.
        contested = (np.bincount(truth, minlength=1)[truth] > 1) | (
            np.bincount(pred, minlength=1)[pred] > 1
        )
        if not contested.any():
            return np.asarray(iou)
        solved = _assign(truth[contested], pred[contested], iou[contested])
        return np.concatenate([iou[~contested], solved])

    def counts(self, threshold: float) -> tuple[int, int, int]:
        """True positives, false positives and false negatives at `threshold`."""
        true = self.matched(threshold).size
        return true, self.n_pred - true, self.n_truth - true


def _assign(truth: np.ndarray, pred: np.ndarray, iou: np.ndarray) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment

    rows, row = np.unique(truth, return_inverse=True)
    columns, column = np.unique(pred, return_inverse=True)
    value = np.zeros((rows.size, columns.size))
    # As many pairs as possible; among those sets the one of the largest summed IoU.
    value[row, column] = iou + min(value.shape)
    chosen = linear_sum_assignment(value, maximize=True)
    gains = value[chosen]
    return np.asarray(gains[gains > 0] - min(value.shape))


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
    """
    truth = validate_labels(truth, name="truth")
    pred = validate_labels(pred, shape=truth.shape, name="prediction")
    truth_codes, n_truth = _codes(truth)
    pred_codes, n_pred = _codes(pred)
    pairs, overlap = np.unique(truth_codes * (n_pred + 1) + pred_codes, return_counts=True)
    row, column = np.divmod(pairs, n_pred + 1)
    truth_area = np.bincount(row, overlap, minlength=n_truth + 1)
    pred_area = np.bincount(column, overlap, minlength=n_pred + 1)
    both = (row > 0) & (column > 0)
    row, column, overlap = row[both], column[both], overlap[both]
    iou = overlap / (truth_area[row] + pred_area[column] - overlap)
    return InstanceMatch(n_truth, n_pred, row - 1, column - 1, iou)


def _codes(ids: np.ndarray) -> tuple[np.ndarray, int]:
    """Ids as 0 (background) and 1..n, int64."""
    codes = relabel_sequential(ids.ravel()).astype(np.int64)
    return codes, int(codes.max())
