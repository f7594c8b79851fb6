"""How well the outlines of classes agree: boundary F1.

Csurka et al., What is a good evaluation measure for semantic segmentation? (BMVC 2013): a pixel of
an outline is right if the other outline of its class passes within a tolerance.
"""

from __future__ import annotations

import numpy as np

from dinoscope.arrays.labels import IGNORE, validate_classes
from dinoscope.errors import InputError

#: Tolerance in pixels.
TOLERANCE_PX = 2.0


def boundary_counts(
    truth: np.ndarray, pred: np.ndarray, classes: int, tolerance_px: float = TOLERANCE_PX
) -> np.ndarray:
    """Count the outline pixels of each class, and those that are right.

    The outline of a class are its pixels beside (above, below, left or right) another class. The
    edge of the image is no outline, nor is the edge of an ignored region; where the truth is
    ignored (255), no outline is counted.

    Parameters
    ----------
    truth, pred : (Y, X) integer arrays
        Class codes, 255 = ignored.
    classes : int
        Number of classes, background included.
    tolerance_px : float
        How far outlines may lie apart.

    Returns
    -------
    (classes, 4) int64
        Predicted outline pixels that are right, all of them, true outline pixels that were found,
        all of them. Sum over images, then :func:`boundary_f1`.

    Raises
    ------
    InputError
        The shapes differ, a class is out of range, or the tolerance is negative.
    """
    from scipy.ndimage import distance_transform_edt

    if not tolerance_px >= 0:
        raise InputError(f"tolerance is {tolerance_px!r}", expected="0 or more pixels")
    truth = validate_classes(truth, name="truth")
    pred = validate_classes(pred, shape=truth.shape, name="prediction")
    known = truth != IGNORE
    truth_edge, pred_edge = _outline(truth, known), _outline(pred, known)
    counts = np.zeros((classes, 4), np.int64)
    for code in np.union1d(np.unique(truth[truth_edge]), np.unique(pred[pred_edge])):
        if code == IGNORE:
            continue  # an answer of no class has no outline of its own
        if code >= classes:
            raise InputError(f"class {code} occurs", expected=f"0 to {classes - 1} or {IGNORE}")
        true, said = truth_edge & (truth == code), pred_edge & (pred == code)
        n_true, n_said = int(true.sum()), int(said.sum())
        hit_said = hit_true = 0
        if n_true and n_said:
            limit = tolerance_px + 1e-9
            hit_said = int((distance_transform_edt(~true)[said] <= limit).sum())
            hit_true = int((distance_transform_edt(~said)[true] <= limit).sum())
        counts[code] = hit_said, n_said, hit_true, n_true
    return counts


def boundary_f1(counts: np.ndarray) -> np.ndarray:
    """F1 of each class from its counts.

    Parameters
    ----------
    counts : (..., 4) array
        From :func:`boundary_counts`, summed over images.

    Returns
    -------
    (...) float64
        2 P R / (P + R); 0 where only one side has an outline, NaN where neither has.

    Examples
    --------
    >>> boundary_f1(np.array([[3, 4, 4, 4], [0, 0, 0, 5]])).round(3).tolist()
    [0.857, 0.0]
    """
    counts = np.asarray(counts, np.float64)
    hit_said, n_said, hit_true, n_true = np.moveaxis(counts, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(n_said > 0, hit_said / n_said, 0.0)
        recall = np.where(n_true > 0, hit_true / n_true, 0.0)
        score = np.where(precision + recall > 0, 2 * precision * recall / (precision + recall), 0.0)
    return np.where(n_said + n_true > 0, score, np.nan)


def _outline(classes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Pixels beside another class, both of them known."""
    edge = np.zeros(classes.shape, bool)
    for axis in (0, 1):
        near = [slice(None), slice(None)]
        far = [slice(None), slice(None)]
        near[axis], far[axis] = slice(None, -1), slice(1, None)
        a, b = tuple(near), tuple(far)
        differs = (classes[a] != classes[b]) & known[a] & known[b]
        edge[a] |= differs
        edge[b] |= differs
    return edge
