"""Tokens of a whole plane, joined from its tiles, and what is pooled from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dinoscope.arrays.axes import Region
from dinoscope.engine.dense import EncodedTiles


@dataclass(frozen=True)
class TokenPlane:
    """Tokens on the patch grid of a window of a plane.

    `patch_tokens` (D, h, w) float16, averaged where tiles overlap; `cls_token` (D,) float32, the
    mean over tiles; `origin` is the row and column of the window's first patch, in patches.
    """

    patch_tokens: np.ndarray
    cls_token: np.ndarray
    origin: tuple[int, int]

    @classmethod
    def empty(cls) -> TokenPlane:
        """No tokens, for runs that need none."""
        return cls(np.zeros((0, 0, 0), np.float16), np.zeros(0, np.float32), (0, 0))

    @property
    def window(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.patch_tokens.shape[1], self.patch_tokens.shape[2]


class TokenJoiner:
    """Collects the tokens of tiles as they are encoded.

    Parameters
    ----------
    bounds : Region
        Model pixels that the tiles cover together, padding included.
    patch : int
        Side of a patch.
    last_only : bool
        Keep the last block's tokens only, which is all that colours need.
    """

    def __init__(self, bounds: Region, patch: int, *, last_only: bool) -> None:
        self.patch = patch
        self.last_only = last_only
        self.origin = (bounds[0] // patch, bounds[1] // patch)
        self.shape = (
            -(-bounds[2] // patch) - self.origin[0],
            -(-bounds[3] // patch) - self.origin[1],
        )
        self._sum: np.ndarray | None = None
        self._count = np.zeros(self.shape, np.float32)
        self._cls: list[np.ndarray] = []

    def add(self, batch: EncodedTiles) -> None:
        """Add the tokens of a few tiles."""
        features = batch.features
        tokens = features.last if self.last_only else features.patch_tokens
        for tile, values in zip(batch.tiles, tokens.float().cpu().numpy(), strict=True):
            if self._sum is None:
                self._sum = np.zeros((len(values), *self.shape), np.float32)
            y, x = tile.y0 // self.patch - self.origin[0], tile.x0 // self.patch - self.origin[1]
            h, w = values.shape[1:]
            self._sum[:, y : y + h, x : x + w] += values
            self._count[y : y + h, x : x + w] += 1
        self._cls.append(features.cls_token.float().cpu().numpy())

    def result(self) -> TokenPlane:
        """The joined tokens; at least one tile must have been added."""
        if self._sum is None:
            raise ValueError("no tile was added")
        tokens = self._sum
        tokens /= np.maximum(self._count, 1)
        return TokenPlane(tokens.astype(np.float16), np.concatenate(self._cls).mean(0), self.origin)


def pooled_vector(tokens: TokenPlane) -> np.ndarray:
    """``(1, D + cls)`` vector of the whole plane for a pooled head."""
    mean = tokens.patch_tokens.astype(np.float32).mean((1, 2))
    return np.concatenate([mean, tokens.cls_token])[None].astype(np.float32)


def pooled_objects(
    tokens: TokenPlane, ids: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """``(n, D + cls)`` vectors of objects 1..n: tokens averaged by each object's share of every
    patch.

    Parameters
    ----------
    tokens : TokenPlane
        Tokens around `ids`.
    ids : (Y, X) integer array
        Objects numbered 1..n.
    rows, columns : (Y,) and (X,) integer arrays
        The patch that each row and column of `ids` falls into.
    """
    from scipy.sparse import csr_matrix

    h, w = tokens.window
    y, x = np.nonzero(ids)
    patch = rows.clip(0, h - 1)[y] * w + columns.clip(0, w - 1)[x]
    count = int(ids.max(initial=0))
    share = csr_matrix(
        (np.ones(len(y), np.float32), (ids[y, x].astype(int) - 1, patch)), shape=(count, h * w)
    )
    area = np.maximum(np.asarray(share.sum(1)), 1)
    flat = tokens.patch_tokens.reshape(len(tokens.patch_tokens), -1).T.astype(np.float32)
    mean = (share @ flat) / area
    return np.hstack([mean, np.tile(tokens.cls_token, (count, 1))]).astype(np.float32)
