"""Points of many dimensions laid out in two or three: PCA, t-SNE, UMAP.

PCA is scikit-learn's. t-SNE (van der Maaten & Hinton 2008; scikit-learn) has no rule for further
points: where there are many, a sample is laid out and every other point is placed at the mean of
its nearest sampled neighbours, weighted by closeness. UMAP (McInnes et al. 2018; umap-learn) places
further points by its own rule.
"""

from __future__ import annotations

import importlib
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dinoscope.config import ProjectionOptions
from dinoscope.engine.explore.points import PointSet
from dinoscope.errors import InputError, UsageError
from dinoscope.types import Progress

#: Points that are laid out before the others are placed.
FIT_POINTS = {"tsne": 10_000, "umap": 50_000}
#: Tokens on which principal components are found; more do not change them visibly.
PCA_POINTS = 100_000
#: Principal components that neighbours are looked for in: a common first step of both methods.
REDUCED = 50
#: Sampled neighbours between which a further point is placed.
NEIGHBOURS = 5
#: Points that go through at once.
CHUNK = 20_000


@dataclass(frozen=True)
class Layout:
    """Points of a plot.

    `coordinates` (n, dimensions) float32; `explained` (dimensions,) shares of the variance for PCA,
    else ``None``; `fitted` (n,) bool, false where a point was placed among the others afterwards.
    """

    coordinates: np.ndarray
    explained: np.ndarray | None
    fitted: np.ndarray
    notes: tuple[str, ...] = ()


def project(
    points: PointSet, options: ProjectionOptions | None = None
) -> Generator[Progress, None, Layout]:
    """Lay points out.

    Parameters
    ----------
    points : PointSet
        At least 2, and 4 for t-SNE and UMAP. Two points have one component; the other axes are 0.
    options : ProjectionOptions, optional
        Method and its settings.

    Raises
    ------
    InputError
        Too few points, or tokens that are not numbers.
    UsageError
        UMAP is not installed.
    """
    options = options or ProjectionOptions()
    count = len(points)
    least = 2 if options.method == "pca" else 4
    if count < least:
        raise InputError(
            f"{count} points for {options.method} in {options.dimensions} dimensions",
            expected=f"at least {least}",
        )
    if options.method == "pca":
        return (yield from _project_pca(points, options))
    umap = require_umap() if options.method == "umap" else None
    rng = np.random.default_rng(options.seed)
    reduced = yield from reduce_dimensions(points, REDUCED, rng)
    wanted = min(count, options.fit_points or FIT_POINTS[options.method])
    chosen = sample_rows(count, wanted, rng)
    fitted = np.zeros(count, bool)
    fitted[chosen] = True
    coordinates = np.empty((count, options.dimensions), np.float32)
    yield Progress("project", 0, 1, message=f"{options.method} of {wanted} points")
    rest = np.flatnonzero(~fitted)
    if umap is None:
        coordinates[chosen] = _tsne(reduced[chosen], options)
        place = NeighbourMean(reduced[chosen], coordinates[chosen])
    else:
        settings = {"random_state": options.seed, "n_jobs": 1}
        layout = umap.UMAP(
            n_components=options.dimensions,
            n_neighbors=min(options.neighbours, wanted - 1),
            min_dist=options.min_distance,
            # A spectral start needs more points than dimensions; few points start at random.
            init="spectral" if wanted > 10 * options.dimensions else "random",
            **settings,
        )
        coordinates[chosen] = layout.fit_transform(reduced[chosen])
        place = layout.transform
    yield Progress("project", 1, 1)
    for start in range(0, len(rest), CHUNK):
        rows = rest[start : start + CHUNK]
        coordinates[rows] = place(reduced[rows])
        yield Progress("place", min(start + CHUNK, len(rest)), len(rest))
    return Layout(coordinates, None, fitted, _notes(options, wanted, count))


def _notes(options: ProjectionOptions, fitted: int, count: int) -> tuple[str, ...]:
    if fitted == count:
        return ()
    how = (
        f"at the mean of their {NEIGHBOURS} nearest sampled neighbours"
        if options.method == "tsne"
        else "by UMAP's own rule"
    )
    name = {"tsne": "t-SNE", "umap": "UMAP"}[options.method]
    return (f"{name} laid out {fitted} of {count} points; the others are placed {how}.",)


def _project_pca(points: PointSet, options: ProjectionOptions) -> Generator[Progress, None, Layout]:
    from sklearn.decomposition import PCA

    count, size = len(points), options.dimensions
    wanted = min(count, options.fit_points or PCA_POINTS)
    chosen = sample_rows(count, wanted, np.random.default_rng(options.seed))
    fitted = np.zeros(count, bool)
    fitted[chosen] = True
    yield Progress("reduce", 0, 1)
    tokens = require_finite(points.features(chosen))
    pca = PCA(min(size, *tokens.shape), svd_solver="covariance_eigh").fit(tokens)
    coordinates = np.zeros((count, size), np.float32)
    kept = pca.n_components_
    for start in range(0, count, CHUNK):
        rows = np.arange(start, min(count, start + CHUNK))
        coordinates[rows, :kept] = pca.transform(points.features(rows))
        yield Progress("project", int(rows[-1]) + 1, count)
    explained = np.zeros(size)
    explained[:kept] = np.nan_to_num(pca.explained_variance_ratio_)
    notes: tuple[str, ...] = ()
    if wanted < count:
        notes = (f"Components were found in {wanted} of {count} points.",)
    return Layout(coordinates, explained, fitted, notes)


def reduce_dimensions(
    points: PointSet, size: int, rng: np.random.Generator
) -> Generator[Progress, None, np.ndarray]:
    """``(n, at most size)`` float32 principal components of all points."""
    from sklearn.decomposition import PCA

    count = len(points)
    tokens = require_finite(points.features(sample_rows(count, PCA_POINTS, rng)))
    pca = PCA(min(size, *tokens.shape), svd_solver="covariance_eigh").fit(tokens)
    out = np.empty((count, pca.n_components_), np.float32)
    for start in range(0, count, CHUNK):
        rows = np.arange(start, min(count, start + CHUNK))
        out[rows] = pca.transform(points.features(rows))
        yield Progress("reduce", int(rows[-1]) + 1, count)
    return require_finite(out)


def _tsne(values: np.ndarray, options: ProjectionOptions) -> np.ndarray:
    from sklearn.manifold import TSNE

    layout = TSNE(
        options.dimensions,
        # scikit-learn wants fewer neighbours than points.
        perplexity=min(options.perplexity, max(1.0, (len(values) - 1) / 3)),
        init="pca" if min(values.shape) >= options.dimensions else "random",
        random_state=options.seed,
    )
    return np.asarray(layout.fit_transform(values), np.float32)


class NeighbourMean:
    """Places further points at the mean of their nearest known neighbours.

    Parameters
    ----------
    values : (m, D) float array
        Known points.
    targets : (m, K) float array
        Where they are.
    """

    def __init__(self, values: np.ndarray, targets: np.ndarray) -> None:
        from sklearn.neighbors import NearestNeighbors

        self._targets = targets
        self._near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(values))).fit(values)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """``(n, K)`` places of ``(n, D)`` points; a known point is put where it is."""
        distance, index = self._near.kneighbors(values)
        weight = 1 / np.maximum(distance, 1e-6 * max(float(distance.max(initial=0)), 1e-9))
        weight /= weight.sum(1, keepdims=True)
        return np.asarray((self._targets[index] * weight[..., None]).sum(1), np.float32)


def sample_rows(count: int, at_most: int, rng: np.random.Generator) -> np.ndarray:
    """At most `at_most` of the rows 0 to ``count - 1``, drawn once each, in order."""
    if count <= at_most:
        return np.arange(count)
    return np.sort(rng.choice(count, at_most, replace=False))


def require_finite(values: np.ndarray) -> np.ndarray:
    """`values`, or an InputError that says how many rows hold what is no number."""
    bad = ~np.isfinite(values).all(1)
    if bad.any():
        raise InputError(
            f"{int(bad.sum())} of {len(values)} points have values that are not numbers",
            expected="finite values",
            hint="Leave them out, or encode the image again.",
        )
    return values


def require_umap() -> Any:
    """The module ``umap``.

    Raises
    ------
    UsageError
        It is not installed; says how to get it.
    """
    try:
        return importlib.import_module("umap")
    except ImportError as error:
        raise UsageError(
            f"UMAP is not installed ({error})",
            hint='Install it with: pip install "napari-dinoscope[all]" (or umap-learn alone). '
            "PCA and t-SNE need nothing more.",
        ) from error
