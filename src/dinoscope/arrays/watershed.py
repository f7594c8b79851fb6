"""Cut a landscape into its hills, fast enough for a slider.

Every pixel climbs to its highest neighbour until it stands on a summit; pixels of one summit are
one hill. Hills that no real valley parts are then joined. All but the last step is whole-array
NumPy: seeds and flooding together take less time than flooding with a queue alone, and no seed
threshold has to suit large and small, sharp and blurred objects at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dinoscope.arrays.orientation import Across

#: Rows, and pixels, that are looked at together: what they take stays in the processor's cache,
#: and beside the image's own size nothing is held of it in large numbers.
_ROWS, _PIXELS = 64, 1 << 20


@dataclass(frozen=True)
class Valleys:
    """Which valleys part hills.

    Two neighbouring hills are one if the pass between them is at least `ratio` times as high as the
    lower summit, or lies less than `depth` below it. Where hills are long and lie side by side, a
    step across them and a step along them do not mean the same: `ratio` grows by `ratio_across`
    for a valley along such hills, and shrinks by as much for a dent across one; `depth` shrinks
    and grows by the share `depth_across` of itself.
    """

    ratio: float
    depth: float
    ratio_across: float = 0.0
    depth_across: float = 0.0


def hills(
    height: np.ndarray, mask: np.ndarray, valleys: Valleys, across: Across | None = None
) -> np.ndarray:
    """Partition the pixels of `mask` into hills of `height`.

    Passes are taken from the highest down, so that a hill always joins the neighbour it is best
    connected to.

    Parameters
    ----------
    height : (Y, X) float32, >= 0
        The landscape.
    mask : (Y, X) bool
        Pixels that take part.
    valleys : Valleys
        With a `ratio` between 0 (one hill for each connected region) and 1, and a `depth` in units
        of `height`.
    across : Across, optional
        The direction square to long hills.

    Returns
    -------
    (Y, X) int32
        Hill numbers from 1, not all of them used; 0 outside `mask`.
    """
    hill, summits = _climb(height, mask)
    passes = _passes(hill, height, summits.size, across)
    if passes.level.size == 0:
        return hill
    return np.asarray(_join(summits, passes, valleys)[hill])


def _climb(height: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hills of steepest ascent, (Y, X) int32, and the height of each summit (index 0 unused)."""
    rows, columns = height.shape
    width = columns + 2
    padded = np.full((rows + 2, width), -1, np.float32)
    np.copyto(padded[1:-1, 1:-1], height, where=mask)
    # Pixels of the mask are numbered in reading order; the border belongs to none.
    rank = np.full(padded.shape, -1, np.int32)
    count = int(np.count_nonzero(mask))
    rank[1:-1, 1:-1][mask] = np.arange(count, dtype=np.int32)
    goal = np.empty(count, np.int32)
    done = 0
    for y in range(0, rows, _ROWS):
        part = slice(done, done + int(np.count_nonzero(mask[y : y + _ROWS])))
        steps = _steepest(padded[y : y + _ROWS + 2], width)
        inside = np.flatnonzero(mask[y : y + _ROWS])
        place = (inside // columns + y + 1) * width + inside % columns + 1
        goal[part] = rank.ravel()[place + steps.ravel()[inside]]
        done = part.stop
    moved = True
    while moved:  # each round at least doubles how far a pixel looks ahead
        moved = False
        for begin in range(0, count, _PIXELS):
            part = slice(begin, begin + _PIXELS)
            further = goal[goal[part]]
            moved = moved or not np.array_equal(further, goal[part])
            goal[part] = further
    tops = np.flatnonzero(goal == np.arange(count, dtype=np.int32))
    number = np.zeros(count, np.int32)
    number[tops] = np.arange(1, tops.size + 1, dtype=np.int32)
    hill = np.zeros(mask.shape, np.int32)
    hill[mask] = number[goal]
    return hill, np.concatenate([np.zeros(1, np.float32), height[mask][tops]])


def _steepest(block: np.ndarray, width: int) -> np.ndarray:
    """How far the highest of each pixel's neighbours is in a flat image `width` wide, int32.

    `block` has a rim of one pixel, which the result lacks.
    """
    high, wide = block.shape[0] - 2, block.shape[1] - 2
    best = np.full((high, wide), -1, np.float32)
    steps = np.zeros((high, wide), np.int32)
    # In order of position, with >=: of equal neighbours the last wins, so a plateau has no cycles.
    for y in range(3):
        for x in range(3):
            candidate = block[y : y + high, x : x + wide]
            higher = candidate >= best
            np.copyto(best, candidate, where=higher)
            np.copyto(steps, np.int32((y - 1) * width + x - 1), where=higher)
    return steps


@dataclass(frozen=True)
class _Passes:
    """For each pair of touching hills: their numbers, the height of the pass between them, and how
    far their contact line runs along long hills (1) or across one (-1)."""

    low: np.ndarray
    high: np.ndarray
    level: np.ndarray
    lateral: np.ndarray


def _passes(hill: np.ndarray, height: np.ndarray, count: int, across: Across | None) -> _Passes:
    inner, outer, every = slice(1, None), slice(None, -1), slice(None)
    keys, heights, turns = [], [], []
    # Each step with the cosine and sine of twice its angle.
    for one, other, cosine, sine in (
        ((every, inner), (every, outer), 1, 0),
        ((inner, every), (outer, every), -1, 0),
        ((inner, inner), (outer, outer), 0, 1),
        ((inner, outer), (outer, inner), 0, -1),
    ):
        touch = (hill[one] != hill[other]) & (hill[one] > 0) & (hill[other] > 0)
        a, b = hill[one][touch].astype(np.int64), hill[other][touch].astype(np.int64)
        keys.append(np.minimum(a, b) * count + np.maximum(a, b))
        heights.append(np.minimum(height[one][touch], height[other][touch]))
        if across is None:
            turns.append(np.zeros(a.size, np.float32))
        else:
            y, x = np.nonzero(touch)
            square = across.at(y + (one[0] == inner), x + (one[1] == inner))
            turns.append(cosine * square[0] + sine * square[1])
    key, level, lateral = (np.concatenate(parts) for parts in (keys, heights, turns))
    if key.size:
        order = np.argsort(key, kind="stable")
        key, level, lateral = key[order], level[order], lateral[order]
        starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
        steps = np.diff(np.append(starts, key.size))
        key, level = key[starts], np.maximum.reduceat(level, starts)
        lateral = np.add.reduceat(lateral, starts) / steps
    low, high = np.divmod(key, count)
    return _Passes(low, high, level, lateral)


def _join(summits: np.ndarray, passes: _Passes, valleys: Valleys) -> np.ndarray:
    """The hill that each hill ends up in, int32, by union-find over the passes."""
    parent = list(range(summits.size))
    summit = summits.tolist()

    def root(hill: int) -> int:
        while parent[hill] != hill:
            parent[hill] = parent[parent[hill]]
            hill = parent[hill]
        return hill

    ratios = valleys.ratio + valleys.ratio_across * passes.lateral
    depths = valleys.depth * (1 - valleys.depth_across * passes.lateral)
    columns = (passes.low, passes.high, passes.level, ratios, depths)
    order = np.argsort(-passes.level, kind="stable")
    for one, other, level, ratio, depth in zip(*(c[order].tolist() for c in columns), strict=True):
        big, small = root(one), root(other)
        if big == small:
            continue
        if summit[big] < summit[small]:
            big, small = small, big
        lower = summit[small]
        if level >= ratio * lower or lower - level < depth:
            parent[small] = big
    return np.array([root(hill) for hill in range(summits.size)], np.int32)
