"""Patch tokens as colours: the first three principal components, scaled robustly, with a fixed
sign."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Tokens that are enough to fit three components.
FIT_TOKENS = 20_000


@dataclass(frozen=True)
class Projection:
    """A fitted projection of tokens ``(N, D)`` to three components in [0, 1]."""

    mean: np.ndarray
    components: np.ndarray
    low: np.ndarray
    high: np.ndarray
    explained: np.ndarray

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """``(D, h, w)`` tokens to ``(3, h, w)`` float32 in [0, 1]."""
        d, h, w = tokens.shape
        projected = self.components @ (
            tokens.reshape(d, -1).astype(np.float32) - self.mean[:, None]
        )
        scaled = (projected - self.low[:, None]) / (self.high - self.low)[:, None]
        return np.asarray(np.clip(scaled, 0, 1).reshape(3, h, w), np.float32)


def fit_projection(tokens: np.ndarray) -> Projection:
    """Fit on tokens ``(N, D)``.

    Each component is scaled by its own 1st and 99th percentile, so that the third is as readable
    as the first. Its sign is chosen so that the largest loading is positive: the same tokens give
    the same colours.
    """
    tokens = tokens[:: max(1, len(tokens) // FIT_TOKENS)].astype(np.float32)
    mean = tokens.mean(0)
    centred = tokens - mean
    covariance = centred.T @ centred / max(1, len(centred) - 1)
    values, vectors = np.linalg.eigh(covariance.astype(np.float64))
    components = vectors[:, ::-1][:, :3].T.astype(np.float32)
    largest = np.abs(components).argmax(1)
    components *= np.sign(components[np.arange(3), largest])[:, None]
    projected = centred @ components.T
    low, high = np.percentile(projected, [1, 99], axis=0).astype(np.float32)
    high = np.where(high - low > 1e-6, high, low + 1)
    total = max(float(values.clip(0).sum()), 1e-12)
    return Projection(mean, components, low, high, values[::-1][:3].clip(0) / total)


def sample_bilinear(maps: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Sample ``(K, h, w)`` at fractional rows and columns, edges repeated."""
    rows = rows.clip(0, maps.shape[1] - 1)
    columns = columns.clip(0, maps.shape[2] - 1)
    r0, c0 = np.floor(rows).astype(int), np.floor(columns).astype(int)
    r1, c1 = np.minimum(r0 + 1, maps.shape[1] - 1), np.minimum(c0 + 1, maps.shape[2] - 1)
    fr = (rows - r0).astype(np.float32)[:, None]
    fc = (columns - c0).astype(np.float32)
    tall = maps[:, r0] * (1 - fr) + maps[:, r1] * fr
    return np.asarray(tall[:, :, c0] * (1 - fc) + tall[:, :, c1] * fc, np.float32)
