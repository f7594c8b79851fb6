"""Cut a landscape into its hills, fast enough for a slider.

Every pixel climbs to its highest neighbour until it stands on a summit; pixels of one summit are
one hill. Hills that no real valley parts are then joined. All but the last step is whole-array
NumPy: seeds and flooding together take less time than flooding with a queue alone, and no seed
threshold has to suit large and small, sharp and blurred objects at once.
"""

from __future__ import annotations

import numpy as np


def hills(
    height: np.ndarray, mask: np.ndarray, *, valley_ratio: float, valley_depth: float
) -> np.ndarray:
    """Partition the pixels of `mask` into hills of `height`.

    Two neighbouring hills are one if the pass between them is at least `valley_ratio` times as
    high as the lower summit, or lies less than `valley_depth` below it. Passes are taken from the
    highest down, so that a hill always joins the neighbour it is best connected to.

    Parameters
    ----------
    height : (Y, X) float32, >= 0
        The landscape.
    mask : (Y, X) bool
        Pixels that take part.
    valley_ratio : float
        Between 0 (one hill for each connected region) and 1.
    valley_depth : float
        In units of `height`.

    Returns
    -------
    (Y, X) int32
        Hill numbers from 1, not all of them used; 0 outside `mask`.
    """
    hill, summits = _climb(height, mask)
    low, high, passes = _passes(hill, height, summits.size)
    if passes.size == 0:
        return hill
    joined = _join(summits, low, high, passes, valley_ratio, valley_depth)
    return np.asarray(joined[hill])


def _climb(height: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hills of steepest ascent, (Y, X) int32, and the height of each summit (index 0 unused)."""
    rows, columns = height.shape
    width = columns + 2
    padded = np.full((rows + 2, width), -1, np.float32)
    padded[1:-1, 1:-1] = np.where(mask, height, -1)
    flat = padded.ravel()
    place = np.flatnonzero(flat >= 0)
    hill = np.zeros(flat.size, np.int32)
    if place.size == 0:
        return hill.reshape(-1, width)[1:-1, 1:-1].copy(), np.zeros(1, np.float32)

    best = np.full(place.size, -1, np.float32)
    towards = place.copy()
    # In order of position, with >=: of equal neighbours the last wins, so a plateau has no cycles.
    around = (-width - 1, -width, -width + 1, -1, 0, 1, width - 1, width, width + 1)
    for offset in around:
        there = place + offset
        candidate = flat[there]
        higher = candidate >= best
        best = np.where(higher, candidate, best)
        towards = np.where(higher, there, towards)

    rank = np.zeros(flat.size, np.int32)
    rank[place] = np.arange(place.size, dtype=np.int32)
    goal = rank[towards]
    while True:  # each round doubles how far a pixel looks ahead
        further = goal[goal]
        if np.array_equal(further, goal):
            break
        goal = further
    tops = np.flatnonzero(goal == np.arange(goal.size))
    number = np.zeros(goal.size, np.int32)
    number[tops] = np.arange(1, tops.size + 1, dtype=np.int32)
    hill[place] = number[goal]
    summits = np.concatenate([np.zeros(1, np.float32), flat[place[tops]]])
    return hill.reshape(-1, width)[1:-1, 1:-1].copy(), summits


def _passes(
    hill: np.ndarray, height: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pair of touching hills, their numbers and the height of the pass between them."""
    inner, outer = slice(1, None), slice(None, -1)
    every = slice(None)
    keys, heights = [], []
    for one, other in (
        ((every, inner), (every, outer)),
        ((inner, every), (outer, every)),
        ((inner, inner), (outer, outer)),
        ((inner, outer), (outer, inner)),
    ):
        touch = (hill[one] != hill[other]) & (hill[one] > 0) & (hill[other] > 0)
        a, b = hill[one][touch].astype(np.int64), hill[other][touch].astype(np.int64)
        keys.append(np.minimum(a, b) * count + np.maximum(a, b))
        heights.append(np.minimum(height[one][touch], height[other][touch]))
    key, level = np.concatenate(keys), np.concatenate(heights)
    if key.size:
        order = np.argsort(key, kind="stable")
        key, level = key[order], level[order]
        starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
        key, level = key[starts], np.maximum.reduceat(level, starts)
    low, high = np.divmod(key, count)
    return low, high, level


def _join(
    summits: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    passes: np.ndarray,
    valley_ratio: float,
    valley_depth: float,
) -> np.ndarray:
    """The hill that each hill ends up in, int32, by union-find over the passes."""
    parent = list(range(summits.size))
    summit = summits.tolist()

    def root(hill: int) -> int:
        while parent[hill] != hill:
            parent[hill] = parent[parent[hill]]
            hill = parent[hill]
        return hill

    order = np.argsort(-passes, kind="stable")
    for one, other, level in zip(
        low[order].tolist(), high[order].tolist(), passes[order].tolist(), strict=True
    ):
        big, small = root(one), root(other)
        if big == small:
            continue
        if summit[big] < summit[small]:
            big, small = small, big
        lower = summit[small]
        if level >= valley_ratio * lower or lower - level < valley_depth:
            parent[small] = big
    return np.array([root(hill) for hill in range(summits.size)], np.int32)
