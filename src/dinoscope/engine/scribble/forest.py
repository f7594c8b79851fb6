"""A random forest of oblivious trees on 8-bit features: learned and applied in milliseconds.

All nodes of one level of an oblivious tree ask the same question (Kohavi 1994; the trees of
CatBoost), so that a tree of depth d is d comparisons of whole maps with a number, which vector
instructions do 64 pixels at a time, and one table of 2^d entries. Questions are the best of a few
random ones (extremely randomised trees, Geurts et al. 2006), found for all trees at once; a leaf
that few annotated pixels reached leans on the leaf it was split from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dinoscope.errors import InputError

TREES = 64
DEPTH = 6
#: Questions that are tried for each level of a tree.
TRIES = 8
#: Annotated pixels that a tree's questions are chosen on; its leaves are filled by all of them.
PIXELS = 400
#: Pixels that the leaf above counts as, in every leaf.
PRIOR = 1.0
#: Answers of trees that are worked on at once.
_AT_ONCE = 40_000
#: Trees that are grown at once, for the same reason.
_GROWN = 16


@dataclass(frozen=True)
class Forest:
    """Trees in arrays: `features` (T, d) and `thresholds` (T, d) uint8 are the questions ``feature
    > threshold``, the first the highest bit of a leaf's number; `leaves` (T, 2^d, C) float32 class
    probabilities."""

    features: np.ndarray
    thresholds: np.ndarray
    leaves: np.ndarray

    @property
    def classes(self) -> int:
        return int(self.leaves.shape[2])

    def leaf_numbers(self, values: np.ndarray) -> np.ndarray:
        """``(n, K)`` uint8 features to ``(T, n)`` uint16 leaf numbers."""
        columns = np.ascontiguousarray(values.T)
        found = np.zeros((len(self.features), len(values)), np.uint16)
        for group in _groups(len(self.features), len(values)):
            number = found[group]
            for features, thresholds in zip(
                self.features[group].T, self.thresholds[group].T, strict=True
            ):
                bits = columns[features] > thresholds[:, None]
                np.add(number, number, out=number)
                np.bitwise_or(number, bits.view(np.uint8), out=number)
        return found

    def probabilities(self, values: np.ndarray) -> np.ndarray:
        """``(n, K)`` uint8 features to ``(n, C)`` float32 class probabilities."""
        numbers = self.leaf_numbers(values)
        trees = np.arange(len(numbers))[:, None]
        return np.asarray(self.leaves[trees, numbers].mean(0), np.float32)


def grow(
    values: np.ndarray,
    classes: np.ndarray,
    count: int,
    *,
    weights: np.ndarray | None = None,
    trees: int = TREES,
    depth: int = DEPTH,
    tries: int = TRIES,
    pixels: int = PIXELS,
    seed: int = 0,
) -> Forest:
    """Grow a forest.

    Parameters
    ----------
    values : (n, K) uint8
        Features of annotated pixels.
    classes : (n,) integer
        Their classes, 0 to ``count - 1``.
    count : int
        Number of classes.
    weights : (n,) float, optional
        How much each pixel counts.
    trees, depth, tries : int
        Size of the forest and questions tried at each level.
    pixels : int
        Annotated pixels that each tree's questions are chosen on.
    seed : int
        Of which pixels and questions are drawn; equal input gives an equal forest.

    Raises
    ------
    InputError
        No pixels, or arrays that do not fit together.
    """
    if values.ndim != 2 or len(values) == 0 or values.dtype != np.uint8:
        raise InputError(
            f"features have shape {values.shape} and dtype {values.dtype}",
            expected="(pixels, features) uint8 with some pixels",
        )
    if classes.shape != (len(values),):
        raise InputError(f"classes have shape {classes.shape}", expected=f"({len(values)},)")
    rng = np.random.default_rng(seed)
    weights = np.ones(len(values), np.float32) if weights is None else weights
    size = min(len(values), pixels)
    drawn = rng.integers(0, len(values), (trees, size))
    features = np.empty((trees, depth), np.int64)
    thresholds = np.empty((trees, depth), np.uint8)
    numbers = np.zeros((trees, size), np.int64)
    each = np.arange(trees)
    columns = np.ascontiguousarray(values.T)  # one column fits the first cache
    kinds, counts = classes[drawn].astype(np.int64), weights[drawn]
    groups = [slice(first, first + _GROWN) for first in range(0, trees, _GROWN)]
    for level in range(depth):
        tried = rng.integers(0, values.shape[1], (trees, tries))
        limit = _between(values, classes, drawn, numbers, tried, rng)
        best = np.empty(trees, np.int64)
        for group in groups:
            bits = columns[tried[group, :, None], drawn[group, None]] > limit[group, :, None]
            best[group] = _purest(numbers[group], bits, kinds[group], counts[group], count, level)
            numbers[group] *= 2
            numbers[group] += bits[np.arange(len(bits)), best[group]]
        features[:, level] = tried[each, best]
        thresholds[:, level] = limit[each, best]
    found = Forest(features, thresholds, np.zeros((trees, 1, count), np.float32))
    return fill(found, values, classes, weights, count)


#: Pixels that are looked through for one of another class in the same leaf.
_PARTNERS = 6


def _between(
    values: np.ndarray,
    classes: np.ndarray,
    drawn: np.ndarray,
    numbers: np.ndarray,
    tried: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Thresholds ``(T, tries)`` uint8, each half-way between two pixels of different classes.

    Of one leaf where such are found: what still has to be told apart. Half-way, as the widest
    margin is what holds on pixels that nobody painted.
    """
    trees, size = drawn.shape
    each = np.arange(trees)[:, None]
    one = rng.integers(0, size, tried.shape)
    other = rng.integers(0, size, (*tried.shape, _PARTNERS))
    kind, leaf = classes[drawn], numbers
    unlike = kind[each[..., None], other] != kind[each, one][..., None]
    near = leaf[each[..., None], other] == leaf[each, one][..., None]
    chosen = (unlike * 2 + near * unlike).argmax(-1)
    other = np.take_along_axis(other, chosen[..., None], -1)[..., 0]
    low = values[drawn[each, one], tried].astype(np.int64)
    high = values[drawn[each, other], tried]
    return np.asarray((low + high) // 2, np.uint8)


def _purest(
    numbers: np.ndarray,
    bits: np.ndarray,
    classes: np.ndarray,
    weights: np.ndarray,
    count: int,
    level: int,
) -> np.ndarray:
    """The try of each tree, ``(T,)``, that leaves the purest leaves (Gini)."""
    trees, tries, _ = bits.shape
    leaves = 2 ** (level + 1)
    nodes = trees * tries * leaves
    place = (np.arange(trees * tries) * leaves).reshape(trees, tries, 1)
    key = numbers[:, None, :] * 2 + bits
    key += place
    key += (classes * nodes)[:, None, :]
    weight = np.broadcast_to(weights[:, None, :], bits.shape).ravel()
    # Classes outermost: sums over the few of them then run along memory.
    table = np.bincount(key.ravel(), weight, minlength=count * nodes).reshape(count, nodes)
    total = np.maximum(table.sum(0), 1e-9)
    table *= table
    purity = table.sum(0)
    purity /= total
    return np.asarray(purity.reshape(trees, tries, leaves).sum(-1).argmax(1))


def _groups(trees: int, pixels: int) -> list[slice]:
    """Trees that are worked on at once: what they need of so many pixels stays in a core's cache,
    and few pixels take few calls."""
    step = max(1, _AT_ONCE // max(1, pixels))
    return [slice(first, first + step) for first in range(0, trees, step)]


def fill(
    forest: Forest, values: np.ndarray, classes: np.ndarray, weights: np.ndarray, count: int
) -> Forest:
    """The same questions with leaves from all of these pixels; see :func:`grow`."""
    trees, depth = forest.features.shape
    numbers = forest.leaf_numbers(values)
    leaves = 2**depth
    weights = np.asarray(weights, np.float64)
    table = np.empty((count, trees, leaves))
    for group in _groups(trees, len(values)):
        own = numbers[group].astype(np.int64)
        some = len(own)
        own += np.arange(some)[:, None] * leaves
        own += classes.astype(np.int64) * (some * leaves)
        weight = np.broadcast_to(weights, own.shape).ravel()
        found = np.bincount(own.ravel(), weight, minlength=count * some * leaves)
        table[:, group] = found.reshape(count, some, leaves)
    levels = [table]
    while levels[0].shape[2] > 1:
        levels.insert(0, levels[0][..., ::2] + levels[0][..., 1::2])
    above = levels[0] / levels[0].sum(0)
    for counts in levels[1:]:
        above = np.repeat(above, 2, axis=2)
        above *= PRIOR
        above += counts
        above /= counts.sum(0) + PRIOR
    filled = np.ascontiguousarray(np.moveaxis(above, 0, -1), np.float32)
    return Forest(forest.features, forest.thresholds, filled)
