"""A forest over a whole plane, in milliseconds: comparisons of 8-bit maps, few table look-ups.

Two trees together ask twelve questions, so one table of 4096 entries, which fits a core's first
cache, answers for both. Probabilities of all classes but the last travel side by side in the lanes
of one integer, so that one look-up and one addition serve them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dinoscope.engine.scribble.calibration import sharpen
from dinoscope.engine.scribble.classifier import Classifier
from dinoscope.engine.scribble.experts import Expert, join
from dinoscope.engine.scribble.features import PlaneFeatures
from dinoscope.engine.scribble.forest import Forest

#: Pixels that are worked on at once: so many that the interpreter's own time hardly counts. On one
#: thread: with steps of microseconds, several wait for the interpreter's lock most of the time.
_CHUNK = 131_072
#: Two trees of this depth share a table.
_PAIRED = 6
#: Probabilities are added up as parts of this.
_FULL = 60_000
#: Bits of a lane.
_LANE = 16


@dataclass(frozen=True)
class Prediction:
    """Of a region: `labels` (Y, X) uint8 scribble codes, and, where they were wanted,
    `uncertainty` (Y, X) uint8 (255 = the two likeliest classes are equally likely) and
    `probabilities` (C, Y, X) float32."""

    labels: np.ndarray
    uncertainty: np.ndarray | None = None
    probabilities: np.ndarray | None = None


class Tables:
    """A forest in the form that planes are predicted with."""

    def __init__(self, forest: Forest) -> None:
        trees, depth = forest.features.shape
        pair = 2 if trees % 2 == 0 and depth <= _PAIRED else 1
        questions = pair * depth
        if questions > 16:
            raise ValueError(f"trees are {depth} deep; their numbers have 16 bits")
        #: Parts of a number that fit a byte each.
        self.parts = 1 if questions <= 8 else 2
        self.features = forest.features.reshape(trees // pair, -1)
        self.thresholds = forest.thresholds.reshape(trees // pair, -1)
        self.classes = forest.classes
        each = _FULL // trees
        whole = np.rint(forest.leaves * each).astype(np.uint64)
        if pair == 2:
            first, second = whole[::2], whole[1::2]
            whole = first[:, :, None] + second[:, None, :]
            whole = whole.reshape(trees // 2, -1, self.classes)
        self.scale = 1.0 / (each * trees)
        #: For each word, a table for each pair: lanes of up to four classes.
        self.words: list[np.ndarray] = []
        for first_class in range(0, self.classes - 1, 4):
            lanes = range(first_class, min(first_class + 4, self.classes - 1))
            kind = np.uint16 if len(lanes) == 1 else np.uint32 if len(lanes) == 2 else np.uint64
            word = np.zeros(whole.shape[:2], np.uint64)
            for lane, c in enumerate(lanes):
                word |= whole[:, :, c] << np.uint64(lane * _LANE)
            self.words.append(word.astype(kind))

    def sums(self, maps: np.ndarray) -> np.ndarray:
        """``(K, n)`` uint8 maps to ``(C - 1, n)`` uint16 probabilities, 1 being `_FULL`, about."""
        size = maps.shape[1]
        parts = [np.empty(size, np.uint8) for _ in range(self.parts)]
        number = np.empty(size, np.uint16)
        place = np.empty(size, np.intp)
        bit = np.empty(size, bool)
        bits = bit.view(np.uint8)
        totals = [np.zeros(size, word.dtype) for word in self.words]
        found = [np.empty(size, word.dtype) for word in self.words]
        each = -(-self.features.shape[1] // self.parts)
        for pair, (features, thresholds) in enumerate(
            zip(self.features.tolist(), self.thresholds, strict=True)
        ):
            questions = list(zip(features, thresholds, strict=True))
            number.fill(0)
            for first, part in enumerate(parts):
                # In bytes, which vector instructions do 64 at a time.
                asked = questions[first * each : (first + 1) * each]
                part.fill(0)
                for feature, threshold in asked:
                    np.add(part, part, out=part)
                    np.greater(maps[feature], threshold, out=bit)
                    np.bitwise_or(part, bits, out=part)
                np.left_shift(number, len(asked), out=number)
                np.bitwise_or(number, part, out=number)
            place[...] = number
            for word, total, looked_up in zip(self.words, totals, found, strict=True):
                np.take(word[pair], place, out=looked_up, mode="clip")
                np.add(total, looked_up, out=total)
        lanes = np.concatenate([_lanes(total) for total in totals])
        return np.asarray(lanes[: self.classes - 1])


def _lanes(total: np.ndarray) -> np.ndarray:
    """Words ``(n,)`` of lanes as ``(lanes, n)`` uint16."""
    lanes = total.dtype.itemsize // 2
    if lanes == 1:
        return total.view(np.uint16)[None]
    shifts = (np.arange(lanes) * _LANE).astype(total.dtype)
    return np.asarray(total[None] >> shifts[:, None], np.uint16)


def predict(
    classifier: Classifier,
    features: PlaneFeatures,
    region: tuple[int, int, int, int] | None = None,
    *,
    want: Sequence[str] = ("labels",),
    tables: Tables | None = None,
) -> Prediction:
    """Classes of a region of a plane.

    Parameters
    ----------
    classifier : Classifier
        See :func:`dinoscope.engine.scribble.classifier.fit`.
    features : PlaneFeatures
        Of the whole plane.
    region : tuple of int, optional
        ``(y0, x0, y1, x1)`` in pixels; the whole plane when not given.
    want : sequence of str
        Out of ``labels``, ``uncertainty``, ``probabilities``.
    tables : Tables, optional
        Of this classifier's forest, where they were made before.
    """
    y0, x0, y1, x1 = region or (0, 0, *features.shape)
    if len(classifier.codes) == 1:
        return _certain(int(classifier.codes[0]), (y1 - y0, x1 - x0), want)
    stride = features.stride
    height, width = features.maps.shape[1:]
    # The looked-at pixels around the region, one more at the end to interpolate to.
    top, left = y0 // stride, x0 // stride
    bottom, right = min(height, -(-y1 // stride)), min(width, -(-x1 // stride) + stride - 1)
    tables = tables or Tables(classifier.forest)
    found = _empty(classifier, (y1 - y0, x1 - x0), want)
    rows = max(1, _CHUNK // (right - left))

    for begin in range(top, bottom, rows):
        end = min(bottom, begin + rows)
        maps = features.maps[:, begin : min(height, end + stride - 1), left:right]
        flat = maps.reshape(len(maps), -1)
        sums = tables.sums(flat)
        if classifier.experts:
            _join(classifier.experts, flat, sums, tables.scale)
        sums = sums.reshape(-1, maps.shape[1], right - left)
        first, last = max(y0, begin * stride), min(y1, end * stride)
        if stride == 2:
            offset = (first - 2 * begin, x0 - 2 * left)
            sums = doubled(sums, (last - first, x1 - x0), offset)
        _decide(classifier, sums, tables.scale, _rows(found, slice(first - y0, last - y0)))
    return found


def _join(experts: Sequence[Expert], maps: np.ndarray, sums: np.ndarray, scale: float) -> None:
    """Put the experts' say into the forest's sums ``(C - 1, n)``; see `experts.join`."""
    forest = np.empty((len(sums) + 1, sums.shape[1]), np.float32)
    np.multiply(sums, np.float32(scale), out=forest[:-1])
    np.maximum(1 - forest[:-1].sum(0), 0, out=forest[-1])
    found = join(experts, forest, maps)
    found *= np.float32(1 / scale)
    np.rint(found, out=found)
    sums[...] = found[:-1]


def _empty(classifier: Classifier, shape: tuple[int, int], want: Sequence[str]) -> Prediction:
    return Prediction(
        np.empty(shape, np.uint8),
        np.empty(shape, np.uint8) if "uncertainty" in want else None,
        np.empty((len(classifier.codes), *shape), np.float32) if "probabilities" in want else None,
    )


def _rows(found: Prediction, rows: slice) -> Prediction:
    """Some rows of a prediction, to be written."""
    return Prediction(
        found.labels[rows],
        None if found.uncertainty is None else found.uncertainty[rows],
        None if found.probabilities is None else found.probabilities[:, rows],
    )


def doubled(maps: np.ndarray, shape: tuple[int, int], offset: tuple[int, int]) -> np.ndarray:
    """``(C, y, x)`` uint16 at twice its size, interpolated, from `offset` on and of `shape`."""
    count, height, width = maps.shape
    tall = np.empty((count, 2 * height, width), np.uint16)
    tall[:, ::2] = maps
    # Halves are added, so that nothing overflows.
    halves = maps >> 1
    np.add(halves[:, :-1], halves[:, 1:], out=tall[:, 1:-1:2])
    tall[:, -1] = maps[:, -1]
    wide = np.empty((count, 2 * height, 2 * width), np.uint16)
    wide[:, :, ::2] = tall
    halves = tall >> 1
    np.add(halves[:, :, :-1], halves[:, :, 1:], out=wide[:, :, 1:-1:2])
    wide[:, :, -1] = tall[:, :, -1]
    dy, dx = offset
    return wide[:, dy : dy + shape[0], dx : dx + shape[1]]


def _decide(classifier: Classifier, sums: np.ndarray, scale: float, out: Prediction) -> None:
    """Write labels and what else is wanted, from the probabilities of all classes but the last."""
    codes = classifier.codes
    full = np.uint16(round(1 / scale))
    taken = sums[0].copy() if len(sums) > 1 else sums[0]
    for each in sums[1:]:
        taken += each
    last = full - np.minimum(taken, full)
    best = sums[0].copy()
    second = None if out.uncertainty is None else np.zeros_like(best)
    out.labels.fill(codes[0])
    more = np.empty(best.shape, bool)
    for code, each in zip(codes[1:], [*sums[1:], last], strict=True):
        np.greater(each, best, out=more)
        np.copyto(out.labels, code, where=more)
        if second is not None:
            np.maximum(second, np.minimum(best, each), out=second)
        np.maximum(best, each, out=best)
    if second is not None and out.uncertainty is not None:
        out.uncertainty[...] = _uncertainty(best, second, scale, classifier.temperature)
    if out.probabilities is not None:
        stack = np.concatenate([sums, last[None]]).astype(np.float32) * np.float32(scale)
        calm = sharpen(np.moveaxis(stack, 0, -1), classifier.temperature)
        out.probabilities[...] = np.moveaxis(calm, -1, 0)


#: Steps of the ratio of the second likeliest class to the likeliest, for a table.
_RATIOS = 255


def _uncertainty(
    best: np.ndarray, second: np.ndarray, scale: float, temperature: float
) -> np.ndarray:
    """How close the second likeliest class comes to the likeliest, calibrated: uint8."""
    ratio = second.astype(np.float32)
    ratio *= _RATIOS
    ratio /= np.maximum(best, 1)
    table = np.rint((np.arange(_RATIOS + 1) / _RATIOS) ** (1 / temperature) * 255)
    return np.asarray(table.astype(np.uint8)[ratio.astype(np.uint8)])


def _certain(code: int, shape: tuple[int, int], want: Sequence[str]) -> Prediction:
    return Prediction(
        np.full(shape, code, np.uint8),
        np.zeros(shape, np.uint8) if "uncertainty" in want else None,
        np.ones((1, *shape), np.float32) if "probabilities" in want else None,
    )
