"""Classes of objects in two id images: which object of one is which of the other, and its class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from dinoscope.arrays.matching import match_instances
from dinoscope.engine.evaluate.evaluation import Case
from dinoscope.engine.pairs import ClassPairs
from dinoscope.errors import InputError

#: The answer for an object that the prediction does not have.
NOT_FOUND = "(not found)"


def pair_object_classes(
    cases: Iterable[Case],
    truth: Mapping[int, str],
    predicted: Mapping[int, str],
    threshold: float = 0.5,
) -> ClassPairs:
    """Pair the classes of objects that cover each other.

    Parameters
    ----------
    cases : iterable of Case
        Ids of truth and prediction, plane by plane.
    truth, predicted : mapping
        Class of each id; objects of the truth without one are left out.
    threshold : float
        IoU from which two objects are the same.

    Returns
    -------
    ClassPairs
        One entry for each object and plane; the answer for an object that was not found, or has no
        class in the prediction, is ``(not found)``.

    Raises
    ------
    InputError
        No object of the truth has a class.
    """
    keys: list[tuple[str, ...]] = []
    true: list[str] = []
    said: list[str] = []
    unused = 0
    for case in cases:
        match = match_instances(case.truth, case.predicted)
        pairs = match.pairs(threshold)
        partner = np.full(match.n_truth, -1)
        partner[match.truth[pairs]] = match.pred[pairs]
        unused += match.n_pred - pairs.size
        for number, label in enumerate(match.truth_ids.tolist()):
            if label not in truth:
                continue
            other = partner[number]
            answer = predicted.get(int(match.pred_ids[other]), "") if other >= 0 else ""
            keys.append((case.name, str(case.plane), str(label)))
            true.append(truth[label])
            said.append(answer or NOT_FOUND)
    if not keys:
        raise InputError(
            "no object of the truth has a class",
            expected="a column 'class' in the features of the truth's layer",
        )
    return ClassPairs(keys, ["plane", "object"], true, said, [], None, unused)
