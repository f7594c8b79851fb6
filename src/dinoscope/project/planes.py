"""Painted pixels in memory: only those parts of a plane that have any."""

from __future__ import annotations

import numpy as np

#: Flat indices that share their upper bits lie in one dense piece.
_PIECE_BITS = 16
_PIECE = 1 << _PIECE_BITS


class SparsePlane:
    """Codes of one plane by flat index, ``dtype`` uint8 or uint32; 0 = nothing.

    Memory follows what is painted: a stroke on a large plane takes a few pieces of 64k pixels.
    """

    def __init__(self, dtype: type[np.unsignedinteger] = np.uint8) -> None:
        self.dtype = np.dtype(dtype)
        self._pieces: dict[int, np.ndarray] = {}

    def paint(self, flat: np.ndarray, codes: np.ndarray) -> None:
        """Set pixels; `flat` (n,) int64 ascending, `codes` (n,)."""
        numbers = flat >> _PIECE_BITS
        first = np.flatnonzero(np.diff(numbers, prepend=-1))
        for start, stop in zip(first, [*first[1:], len(flat)], strict=True):
            number = int(numbers[start])
            piece = self._pieces.get(number)
            if piece is None:
                piece = self._pieces[number] = np.zeros(_PIECE, self.dtype)
            piece[flat[start:stop] & (_PIECE - 1)] = codes[start:stop]

    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Flat indices, (n,) int64 ascending, and codes, (n,), of what is painted."""
        flats: list[np.ndarray] = []
        codes: list[np.ndarray] = []
        for number in sorted(self._pieces):
            piece = self._pieces[number]
            found = np.flatnonzero(piece)
            flats.append(found + (number << _PIECE_BITS))
            codes.append(piece[found])
        if not flats:
            return np.empty(0, np.int64), np.empty(0, self.dtype)
        return np.concatenate(flats).astype(np.int64), np.concatenate(codes)

    def dense(self, shape: tuple[int, int]) -> np.ndarray:
        """``(Y, X)`` codes."""
        plane = np.zeros(shape[0] * shape[1], self.dtype)
        for number, piece in self._pieces.items():
            start = number << _PIECE_BITS
            part = plane[start : start + _PIECE]
            part[:] = piece[: len(part)]
        return plane.reshape(shape)

    @classmethod
    def from_dense(cls, plane: np.ndarray) -> SparsePlane:
        """From ``(Y, X)`` codes."""
        own = cls(plane.dtype.type)
        flat = np.flatnonzero(plane)
        own.paint(flat, plane.ravel()[flat])
        return own

    def __bool__(self) -> bool:
        return any(bool(piece.any()) for piece in self._pieces.values())

    @property
    def nbytes(self) -> int:
        """Memory of the pieces."""
        return sum(piece.nbytes for piece in self._pieces.values())
