"""How far a figure can be trusted: bootstrap intervals over images, and paired tests.

Images (or groups of images) are drawn with replacement; the figure is computed from the sums over
those drawn. All figures here are functions of sums, so a resampling is one product of matrices.
Efron and Tibshirani, An Introduction to the Bootstrap (1993), percentile intervals and chapter 15
(permutation tests).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dinoscope.errors import InputError

#: Resamplings of one interval, and random sign patterns of one test.
RESAMPLES = 2000
PERMUTATIONS = 10_000
#: Up to this many pairs every pattern of signs is tried.
_EXACT_PAIRS = 13
#: Entries of one block of draws.
_BLOCK = 4_000_000

Statistic = Callable[[np.ndarray], np.ndarray]


def sum_by_group(rows: np.ndarray, groups: Sequence[str] | None) -> np.ndarray:
    """Rows summed by group, in the order in which the groups first appear: (groups, m)."""
    rows = np.asarray(rows, np.float64)
    if groups is None:
        return rows
    if len(groups) != len(rows):
        raise InputError(f"there are {len(groups)} groups", expected=f"{len(rows)}, one for a row")
    number = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    total = np.zeros((len(number), rows.shape[1]))
    np.add.at(total, [number[name] for name in groups], rows)
    return total


def bootstrap_interval(
    rows: np.ndarray,
    statistic: Statistic,
    groups: Sequence[str] | None = None,
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """Interval of figures that are functions of sums over images.

    Parameters
    ----------
    rows : (n, m) array
        What each image adds to the sums.
    statistic : callable
        (B, m) sums to (B, s) figures; NaN where a figure does not exist.
    groups : sequence of n str, optional
        Images of one group are drawn together.
    level : float
        Share of the resamplings inside the interval.

    Returns
    -------
    low, high : (s,) float64
        Always the same for the same input. NaN where a figure never exists, and everywhere for a
        single image or group: one observation says nothing about how much others would differ.

    Raises
    ------
    InputError
        No rows.
    """
    rows = sum_by_group(rows, groups)
    if not len(rows):
        raise InputError("there is nothing to resample", expected="at least one image")
    if len(rows) == 1:
        nothing = np.full(statistic(rows).shape[1], np.nan)
        return nothing, nothing.copy()
    rng = np.random.default_rng(0)
    figures = []
    block = max(1, _BLOCK // len(rows))
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        draws = rng.integers(0, len(rows), (count, len(rows)))
        draws += np.arange(count)[:, None] * len(rows)
        times = np.bincount(draws.ravel(), minlength=count * len(rows))
        figures.append(statistic(times.reshape(count, len(rows)) @ rows))
    found = np.concatenate(figures)
    edge = 50 * (1 - level)
    low, high = np.full(found.shape[1], np.nan), np.full(found.shape[1], np.nan)
    for i, column in enumerate(found.T):
        known = column[np.isfinite(column)]
        if known.size:
            low[i], high[i] = np.percentile(known, [edge, 100 - edge])
    return low, high


def mean_intervals(
    values: np.ndarray, groups: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals of column means; NaN entries do not count.

    Examples
    --------
    >>> low, high = mean_intervals(np.array([[0.0], [1.0], [1.0], [0.0]]))
    >>> float(low[0]), float(high[0])
    (0.0, 1.0)
    """
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    columns = values.shape[1]

    def means(sums: np.ndarray) -> np.ndarray:
        count = sums[:, columns:]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(count > 0, sums[:, :columns] / count, np.nan)

    rows = np.concatenate([np.where(known, values, 0), known], axis=1)
    return bootstrap_interval(rows, means, groups)


@dataclass(frozen=True)
class PairedTest:
    """Two sets of figures of the same images compared.

    `difference` is the mean of second minus first, `low` and `high` its 95 % interval; `n` counts
    the pairs (images, or groups). `p_value` is that of the sign-flip permutation test, two-sided;
    `p_wilcoxon` that of Wilcoxon's signed-rank test (NaN where all differences are 0).
    """

    n: int
    difference: float
    low: float
    high: float
    p_value: float
    p_wilcoxon: float


def paired_test(
    first: Sequence[float], second: Sequence[float], groups: Sequence[str] | None = None
) -> PairedTest:
    """Test whether two sets of figures of the same images differ.

    The main test flips the sign of each difference: were the two methods alike, either could have
    given either figure. It tests the mean difference, which is what is reported, needs no
    distribution, and is exact up to 13 pairs; on right (1) or wrong (0) answers it is McNemar's
    exact test. Wilcoxon's test, of ranks, is given beside it because readers know it.

    Parameters
    ----------
    first, second : sequence of float
        One figure for each image; pairs with a NaN are left out.
    groups : sequence of str, optional
        Images of one group count as one pair, by the mean of their differences.

    Raises
    ------
    InputError
        Different lengths, or no pair.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape:
        raise InputError(
            f"there are {a.size} and {b.size} figures", expected="as many of one as of the other"
        )
    known = np.isfinite(a) & np.isfinite(b)
    if not known.any():
        raise InputError("no image has a figure on both sides", expected="at least one")
    difference = (b - a)[known]
    if groups is not None:
        kept = [name for name, keep in zip(groups, known, strict=True) if keep]
        both = np.column_stack([difference, np.ones_like(difference)])
        summed = sum_by_group(both, kept)
        difference = summed[:, 0] / summed[:, 1]
    low, high = mean_intervals(difference[:, None])
    return PairedTest(
        n=difference.size,
        difference=float(difference.mean()),
        low=float(low[0]),
        high=float(high[0]),
        p_value=_sign_flips(difference),
        p_wilcoxon=_wilcoxon(difference),
    )


def _sign_flips(difference: np.ndarray) -> float:
    moved = difference[difference != 0]  # a difference of 0 is the same with either sign
    if moved.size == 0:
        return 1.0
    seen = abs(moved.sum()) * (1 - 1e-9)
    if moved.size <= _EXACT_PAIRS:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=moved.size)))
        return float((np.abs(signs @ moved) >= seen).mean())
    rng = np.random.default_rng(0)
    block = max(1, _BLOCK // moved.size)
    extreme = 0
    for start in range(0, PERMUTATIONS, block):
        count = min(block, PERMUTATIONS - start)
        signs = rng.integers(0, 2, (count, moved.size)) * 2.0 - 1.0
        extreme += int((np.abs(signs @ moved) >= seen).sum())
    # The pattern that was seen is one of those that could have been: never a p of 0.
    return (extreme + 1) / (PERMUTATIONS + 1)


def _wilcoxon(difference: np.ndarray) -> float:
    from scipy.stats import wilcoxon

    if not difference.any():
        return float("nan")
    return float(wilcoxon(difference).pvalue)
