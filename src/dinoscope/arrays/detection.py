"""COCO's mean average precision, for objects that carry a score.

Lin et al., Microsoft COCO (ECCV 2014), as ``pycocotools`` computes it: objects are matched greedily
from the highest score down, precision is interpolated at 101 points of recall. All objects of an
image count (its limit of 100 is meant for photographs, not for cells), of any area.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dinoscope.arrays.matching import InstanceMatch
from dinoscope.errors import InputError

_RECALLS = np.linspace(0.0, 1.0, 101)


def coco_precision(
    matches: Sequence[InstanceMatch], scores: Sequence[np.ndarray], thresholds: Sequence[float]
) -> np.ndarray:
    """COCO's AP of one class at each IoU threshold, over all images together.

    Parameters
    ----------
    matches : sequence of InstanceMatch
        One for each image.
    scores : sequence of (n_pred,) float arrays
        Score of each predicted object, in the order of `InstanceMatch.pred_ids`.
    thresholds : sequence of float
        At least 0.5.

    Returns
    -------
    (len(thresholds),) float64
        NaN where the truth has no object.

    Raises
    ------
    InputError
        An image has another number of scores than of objects.

    Examples
    --------
    >>> from dinoscope.arrays.matching import match_instances
    >>> match = match_instances(np.array([[1, 1, 0, 0]]), np.array([[1, 1, 0, 2]]))
    >>> coco_precision([match], [np.array([0.4, 0.9])], [0.5]).tolist()
    [0.5]
    """
    for match, own in zip(matches, scores, strict=True):
        if len(own) != match.n_pred:
            raise InputError(
                f"there are {len(own)} scores", expected=f"{match.n_pred}, one for each object"
            )
    total = sum(match.n_truth for match in matches)
    if total == 0:
        return np.full(len(thresholds), np.nan)
    # The order within an image decides between equal scores, as in pycocotools.
    orders = [np.argsort(-np.asarray(own), kind="stable") for own in scores]
    ranked = np.concatenate([np.asarray(own)[o] for own, o in zip(scores, orders, strict=True)])
    place = np.argsort(-ranked, kind="stable")
    found = np.zeros((len(thresholds), ranked.size), bool)
    for i, threshold in enumerate(thresholds):
        hits = [_hits(m, o, threshold)[o] for m, o in zip(matches, orders, strict=True)]
        found[i] = np.concatenate(hits)[place]
    return np.array([_interpolated(row, total) for row in found])


def _hits(match: InstanceMatch, order: np.ndarray, threshold: float) -> np.ndarray:
    """Which predicted objects are matched, each with the best object that is still free."""
    hit = np.zeros(match.n_pred, bool)
    keep = match.iou >= min(threshold, 1 - 1e-10)
    truth, pred, iou = match.truth[keep], match.pred[keep], match.iou[keep]
    if np.unique(truth).size == truth.size and np.unique(pred).size == pred.size:
        hit[pred] = True
        return hit
    rank = np.empty(match.n_pred, int)
    rank[order] = np.arange(match.n_pred)
    taken: set[int] = set()
    for i in np.lexsort((-iou, rank[pred])):
        if not hit[pred[i]] and int(truth[i]) not in taken:
            hit[pred[i]] = True
            taken.add(int(truth[i]))
    return hit


def _interpolated(found: np.ndarray, total: int) -> float:
    true = np.cumsum(found)
    if true.size == 0:
        return 0.0
    precision = true / np.arange(1, true.size + 1)
    recall = true / total
    highest_after = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.where(at < true.size, highest_after[at.clip(max=true.size - 1)], 0.0).mean())
