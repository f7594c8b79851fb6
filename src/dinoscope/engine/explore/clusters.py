"""Groups of points: k-means and HDBSCAN, both scikit-learn's."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from dinoscope.config import ClusterOptions
from dinoscope.engine.explore.points import PointSet
from dinoscope.engine.explore.projection import (
    CHUNK,
    reduce_dimensions,
    require_finite,
    sample_rows,
)
from dinoscope.errors import InputError
from dinoscope.types import Progress

#: Points in which groups are found; the others join the nearest.
FIT_POINTS = {"kmeans": 100_000, "hdbscan": 20_000}
#: Principal components that groups are found in: density means little in hundreds of dimensions.
REDUCED = {"kmeans": 50, "hdbscan": 15}


@dataclass(frozen=True)
class Clusters:
    """`labels` (n,) int32 from 0, -1 for points of no group; `count` groups."""

    labels: np.ndarray
    count: int
    notes: tuple[str, ...] = ()


def find_clusters(
    points: PointSet,
    options: ClusterOptions | None = None,
    coordinates: np.ndarray | None = None,
) -> Generator[Progress, None, Clusters]:
    """Find groups.

    Groups are numbered by size, the largest is 0.

    Parameters
    ----------
    points : PointSet
        What is grouped.
    options : ClusterOptions, optional
        Method and its settings.
    coordinates : (n, K) float array, optional
        The points of a plot, needed for ``space="projection"``.

    Raises
    ------
    InputError
        Fewer points than groups, or no coordinates.
    """
    options = options or ClusterOptions()
    rng = np.random.default_rng(options.seed)
    count = len(points)
    least = options.clusters if options.method == "kmeans" else max(2, options.min_size)
    if count < least:
        raise InputError(
            f"{count} points for {options.method}",
            expected=f"at least {least}",
            hint="Ask for fewer or smaller groups.",
        )
    if options.space == "projection":
        if coordinates is None or len(coordinates) != count:
            raise InputError(
                "the points have no projection", hint="Lay them out first, or group their features."
            )
        values = require_finite(np.asarray(coordinates, np.float32))
    else:
        values = yield from reduce_dimensions(points, REDUCED[options.method], rng)
    chosen = sample_rows(count, FIT_POINTS[options.method], rng)
    yield Progress("cluster", 0, 1, message=f"{options.method} of {len(chosen)} points")
    labels = np.empty(count, np.int32)
    if options.method == "kmeans":
        yield from _kmeans(values, chosen, options, labels)
    else:
        yield from _hdbscan(values, chosen, options, labels)
    labels, found = _by_size(labels)
    notes: tuple[str, ...] = ()
    if len(chosen) < count:
        notes = (f"Groups were found in {len(chosen)} of {count} points; the others joined them.",)
    if not found:
        notes += ("No group was found: all points are noise. Try a smaller size of groups.",)
    return Clusters(labels, found, notes)


def _kmeans(
    values: np.ndarray, chosen: np.ndarray, options: ClusterOptions, labels: np.ndarray
) -> Generator[Progress, None, None]:
    from sklearn.cluster import KMeans

    model = KMeans(options.clusters, n_init=4, random_state=options.seed).fit(values[chosen])
    for start in range(0, len(values), CHUNK):
        labels[start : start + CHUNK] = model.predict(values[start : start + CHUNK])
        yield Progress("cluster", min(start + CHUNK, len(values)), len(values))


def _hdbscan(
    values: np.ndarray, chosen: np.ndarray, options: ClusterOptions, labels: np.ndarray
) -> Generator[Progress, None, None]:
    """HDBSCAN (Campello et al. 2013); further points get the label of their nearest neighbour."""
    from sklearn.cluster import HDBSCAN
    from sklearn.neighbors import NearestNeighbors

    sample = values[chosen]
    found = HDBSCAN(min_cluster_size=options.min_size, copy=True).fit_predict(sample)
    labels[chosen] = found
    rest = np.setdiff1d(np.arange(len(values)), chosen, assume_unique=True)
    near = NearestNeighbors(n_neighbors=1).fit(sample) if rest.size else None
    for start in range(0, len(rest), CHUNK):
        rows = rest[start : start + CHUNK]
        if near is not None:
            labels[rows] = found[near.kneighbors(values[rows], return_distance=False)[:, 0]]
        yield Progress("cluster", min(start + CHUNK, len(rest)), len(rest))


def _by_size(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Groups numbered by size, the largest first; -1 stays."""
    used, sizes = np.unique(labels[labels >= 0], return_counts=True)
    order = used[np.argsort(-sizes, kind="stable")]
    renumbered = np.full(int(labels.max(initial=0)) + 2, -1, np.int32)
    renumbered[order] = np.arange(len(order))
    return renumbered[labels], len(order)
