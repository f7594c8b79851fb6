"""Strokes as a person draws them: along the middle of a region of one class, a few, then more.

What is drawn at a small share is part of what is drawn at a larger one, as in a session that goes
on. Every class gets the same share of the pixels, whatever its area: people look for the rare one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dinoscope.arrays.labels import IGNORE

#: Length of a stroke in pixels, from and to.
LENGTH = (8, 48)
#: A stroke is so wide where there are pixels to spend, else one pixel.
WIDTH = 3
#: Pixels of a class from which strokes are wide.
_WIDE_FROM = 120
#: A class is never painted beyond this share of its area.
_MOST = 0.5


def draw(
    truth: np.ndarray, shares: Sequence[float], seed: int, ignore: int = IGNORE
) -> Iterator[np.ndarray]:
    """Scribbles for each share, growing.

    Parameters
    ----------
    truth : (Y, X) integer array
        Dense classes, 0 = background; `ignore` is never painted.
    shares : sequence of float
        Painted pixels as a share of all, ascending.
    seed : int
        Of where strokes lie.

    Yields
    ------
    (Y, X) uint8
        Scribble codes: 0 = not annotated, 1 = background, 2… = classes.
    """
    rng = np.random.default_rng(seed)
    classes = [int(c) for c in np.unique(truth) if c != ignore]
    scribbles = np.zeros(truth.shape, np.uint8)
    lines = {c: _Lines(truth == c, rng) for c in classes}
    for share in shares:
        each = share * truth.size / len(classes)
        for c in classes:
            lines[c].paint(scribbles, c + 1, each, wide=each >= _WIDE_FROM)
        yield scribbles.copy()


class _Lines:
    """The middle lines of one class, and what was painted along them."""

    def __init__(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        from skimage.morphology import skeletonize

        self._mask = mask
        self._rng = rng
        self._limit = max(1.0, _MOST * mask.sum())
        self._middle = skeletonize(np.pad(mask, 1))[1:-1, 1:-1]
        self._free = self._middle.copy()
        self._painted = 0

    def paint(self, scribbles: np.ndarray, code: int, budget: float, *, wide: bool) -> None:
        """Add strokes until `budget` pixels of the class are painted."""
        while self._painted < min(budget, self._limit):
            starts = np.flatnonzero(self._free)
            if starts.size == 0:
                # All middle lines are used up: dabs anywhere in the class.
                starts = np.flatnonzero(self._mask & (scribbles == 0))
                if starts.size == 0:
                    return
            start = divmod(int(self._rng.choice(starts)), self._mask.shape[1])
            left = int(min(budget, self._limit) - self._painted) + 1
            length = int(min(self._rng.integers(*LENGTH), max(1, left // (WIDTH if wide else 1))))
            stroke = self._walk(start, max(1, length))
            self._free[tuple(np.array(stroke).T)] = False
            before = int((scribbles == code).sum())
            for y, x in stroke:
                reach = WIDTH // 2 if wide else 0
                window = (
                    slice(max(0, y - reach), y + reach + 1),
                    slice(max(0, x - reach), x + reach + 1),
                )
                scribbles[window][self._mask[window]] = code
            self._painted += int((scribbles == code).sum()) - before

    def _walk(self, start: tuple[int, int], length: int) -> list[tuple[int, int]]:
        """Follow the middle line from `start`, straight on where it branches."""
        path = [start]
        heading = self._rng.normal(size=2)
        taken = {start}
        while len(path) < length:
            y, x = path[-1]
            ahead = [
                (y + dy, x + dx)
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
                if (y + dy, x + dx) not in taken and self._is_middle(y + dy, x + dx)
            ]
            if not ahead:
                break
            steps = np.array(ahead) - path[-1]
            along = steps @ heading / np.linalg.norm(steps, axis=1)
            chosen = ahead[int(along.argmax())]
            heading = 0.7 * heading + np.subtract(chosen, path[-1])
            taken.add(chosen)
            path.append(chosen)
        return path

    def _is_middle(self, y: int, x: int) -> bool:
        height, width = self._middle.shape
        return 0 <= y < height and 0 <= x < width and bool(self._middle[y, x])
