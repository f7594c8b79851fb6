"""Intervals for means over images that are not independent of one another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def interval(
    values: Sequence[float], groups: Sequence[str], *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the mean by bootstrap over groups.

    Whole groups (tiles of one field, repeats of one sample) are drawn with replacement, and the
    mean is over the images of those drawn; the same values give the same interval.

    Examples
    --------
    >>> interval([0.5, 0.5, 0.5], ["a", "a", "b"])
    (0.5, 0.5)
    """
    numbers = np.asarray(values, float)
    names, member = np.unique(np.asarray(groups, str), return_inverse=True)
    total = np.bincount(member, numbers, len(names))
    count = np.bincount(member, minlength=len(names))
    drawn = np.random.default_rng(seed).integers(0, len(names), (resamples, len(names)))
    means = total[drawn].sum(1) / count[drawn].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
