"""Which points are selected: set, added to, taken from, undone. Knows neither plot nor image."""

from __future__ import annotations

import numpy as np
from qtpy.QtCore import QObject, Signal

#: Steps that can be undone.
_DEPTH = 50


class Selection(QObject):
    """A mask over points, with its history.

    Parameters
    ----------
    count : int
        Number of points.
    """

    changed = Signal()

    def __init__(self, count: int = 0, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.mask = np.zeros(count, bool)
        self._before: list[np.ndarray] = []

    @property
    def count(self) -> int:
        """How many points are selected."""
        return int(np.count_nonzero(self.mask))

    @property
    def can_undo(self) -> bool:
        return bool(self._before)

    def reset(self, count: int) -> None:
        """Other points: nothing of them is selected, nothing can be undone."""
        self.mask = np.zeros(count, bool)
        self._before = []
        self.changed.emit()

    def apply(self, mask: np.ndarray, how: str = "new") -> None:
        """Select the points of a mask.

        Parameters
        ----------
        mask : (n,) bool
            Points that were chosen.
        how : str
            ``"new"`` (only these), ``"add"`` or ``"remove"``.
        """
        mask = np.asarray(mask, bool)
        if how == "add":
            mask = self.mask | mask
        elif how == "remove":
            mask = self.mask & ~mask
        if np.array_equal(mask, self.mask):
            return
        # Eight points a byte: fifty steps of a million points are 6 MB.
        self._before = [*self._before[-_DEPTH + 1 :], np.packbits(self.mask)]
        self.mask = mask.copy()
        self.changed.emit()

    def clear(self) -> None:
        """Select nothing (which can be undone)."""
        self.apply(np.zeros(len(self.mask), bool))

    def undo(self) -> None:
        """Go one step back."""
        if self._before:
            bits = self._before.pop()
            self.mask = np.unpackbits(bits, count=len(self.mask)).astype(bool)
            self.changed.emit()
