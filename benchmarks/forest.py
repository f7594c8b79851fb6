"""scikit-image's trainable segmentation: multiscale features and a random forest on pixels.

The recipe of scikit-image's gallery, with more trees and more pixels than there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

#: Pixels that the forest learns from, as many from each class as there are, at most.
PIXELS = 300_000
TREES = 100
SIGMAS = (1.0, 16.0)


def features(pixels: np.ndarray) -> np.ndarray:
    """``(C, Y, X)`` float to ``(Y, X, K)`` intensity, edges and texture at several scales."""
    from skimage.feature import multiscale_basic_features

    planes = [
        multiscale_basic_features(p, sigma_min=SIGMAS[0], sigma_max=SIGMAS[1]) for p in pixels
    ]
    return np.concatenate(planes, axis=-1).astype(np.float32)


def train(
    images: Sequence[np.ndarray], labels: Sequence[np.ndarray], *, seed: int = 0, threads: int = 0
) -> Any:
    """A forest from images ``(C, Y, X)`` and class images ``(Y, X)``; 255 is not learned."""
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(seed)
    each = PIXELS // len(images)
    vectors, classes = [], []
    for pixels, truth in zip(images, labels, strict=True):
        known = np.flatnonzero(truth.ravel() != 255)
        chosen = rng.permutation(known)[:each]
        table = features(pixels)
        vectors.append(table.reshape(-1, table.shape[-1])[chosen])
        classes.append(truth.ravel()[chosen])
    forest = RandomForestClassifier(
        TREES, min_samples_leaf=2, n_jobs=threads or -1, random_state=seed
    )
    return forest.fit(np.concatenate(vectors), np.concatenate(classes))


def predict(forest: Any, pixels: np.ndarray) -> np.ndarray:
    """``(K, Y, X)`` probabilities of the forest's classes."""
    table = features(pixels)
    flat = table.reshape(-1, table.shape[-1])
    parts = [forest.predict_proba(flat[i : i + 200_000]) for i in range(0, len(flat), 200_000)]
    return np.concatenate(parts).T.reshape(-1, *table.shape[:2])
