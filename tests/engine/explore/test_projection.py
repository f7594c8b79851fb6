from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from dinoscope.config import ClusterOptions, ProjectionOptions
from dinoscope.engine.explore.clusters import find_clusters
from dinoscope.engine.explore.encode import TokenSet
from dinoscope.engine.explore.points import PointSet, patch_points
from dinoscope.engine.explore.projection import NeighbourMean, project, sample_rows
from dinoscope.errors import InputError, UsageError

End = Callable[..., Any]

RNG = np.random.default_rng(0)
GROUP = np.repeat([0, 1, 2], [120, 90, 60])


def blobs(token_set: TokenSet) -> PointSet:
    """270 points of three well separated groups, in the clothes of objects."""
    values = RNG.normal(size=(270, 64)).astype(np.float32)
    values[:, :3] += 20 * np.eye(3)[GROUP]
    return PointSet("objects", (token_set,), {"set": np.zeros(270, int)}, (), values)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_pca_is_sklearns(end: End, token_set: TokenSet, dimensions: int) -> None:
    points = end(patch_points([token_set]))
    layout = end(project(points, ProjectionOptions("pca", dimensions)))
    whole = PCA(dimensions, svd_solver="full")
    expected = whole.fit_transform(points.features().astype(np.float64))
    assert np.allclose(layout.coordinates, expected, atol=1e-2)
    assert np.allclose(layout.explained, whole.explained_variance_ratio_, atol=1e-4)
    assert layout.fitted.all()
    assert layout.notes == ()


def test_tsne_keeps_neighbours_and_places_the_rest_among_them(
    end: End, token_set: TokenSet
) -> None:
    points = blobs(token_set)
    layout = end(project(points, ProjectionOptions("tsne", perplexity=20, fit_points=150)))
    assert layout.fitted.sum() == 150
    assert layout.explained is None
    assert "laid out 150 of 270 points" in layout.notes[0]
    assert "nearest sampled neighbours" in layout.notes[0]
    centres = np.stack([layout.coordinates[(g == GROUP) & layout.fitted].mean(0) for g in range(3)])
    nearest = np.linalg.norm(layout.coordinates[:, None] - centres, axis=2).argmin(1)
    assert (nearest == GROUP).all()  # those placed afterwards too
    again = end(project(points, ProjectionOptions("tsne", perplexity=20, fit_points=150)))
    assert np.array_equal(layout.coordinates, again.coordinates)


def test_a_known_point_is_placed_where_it_is() -> None:
    values, targets = RNG.normal(size=(30, 8)), RNG.normal(size=(30, 2))
    assert np.allclose(NeighbourMean(values, targets)(values[:4]), targets[:4], atol=1e-4)
    assert NeighbourMean(values[:2], targets[:2])(values).shape == (30, 2)


def test_umap_is_named_where_it_is_missing(
    end: End, token_set: TokenSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(UsageError, match=r"UMAP is not installed.*napari-dinoscope\[all\]"):
        end(project(blobs(token_set), ProjectionOptions("umap")))


def test_umap_fits_a_sample_and_transforms_the_rest(
    end: End, token_set: TokenSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    class Layout:
        def __init__(self, **settings: Any) -> None:
            calls.append(settings)

        def fit_transform(self, values: np.ndarray) -> np.ndarray:
            calls.append(len(values))
            return values[:, :3]

        def transform(self, values: np.ndarray) -> np.ndarray:
            calls.append(len(values))
            return values[:, :3] + 100

    fake = ModuleType("umap")
    fake.UMAP = Layout  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", fake)
    options = ProjectionOptions("umap", 3, neighbours=7, min_distance=0.3, fit_points=100)
    layout = end(project(blobs(token_set), options))
    assert (calls[0]["n_components"], calls[0]["n_neighbors"]) == (3, 7)
    assert calls[0]["min_dist"] == 0.3
    assert calls[1:] == [100, 170]
    assert (layout.coordinates[~layout.fitted] > 50).all()
    assert (layout.coordinates[layout.fitted] < 50).all()


def test_bad_points_are_refused(end: End, token_set: TokenSet) -> None:
    points = blobs(token_set)
    one = PointSet("objects", (token_set,), {"set": np.zeros(1, int)}, (), points.pooled[:1])
    with pytest.raises(InputError, match="1 points for pca"):
        end(project(one))
    points.pooled[7, 3] = np.nan
    for options in (ProjectionOptions("pca"), ProjectionOptions("tsne")):
        with pytest.raises(InputError, match="1 of 270 points"):
            end(project(points, options))
    with pytest.raises(InputError, match="dimensions"):
        ProjectionOptions(dimensions=4)


def test_a_sample_is_drawn_once_each_and_in_order() -> None:
    rows = sample_rows(1000, 100, np.random.default_rng(0))
    assert len(np.unique(rows)) == 100
    assert np.array_equal(rows, np.sort(rows))
    assert np.array_equal(sample_rows(5, 100, np.random.default_rng(0)), np.arange(5))


# Clusters


@pytest.mark.parametrize(
    "options", [ClusterOptions("kmeans", 3), ClusterOptions("hdbscan", min_size=15)]
)
def test_groups_are_found_and_numbered_by_size(
    end: End, token_set: TokenSet, options: ClusterOptions
) -> None:
    found = end(find_clusters(blobs(token_set), options))
    assert found.count == 3
    grouped = found.labels >= 0
    assert grouped.mean() > 0.8
    assert adjusted_rand_score(GROUP[grouped], found.labels[grouped]) > 0.99
    if options.method == "kmeans":
        assert np.bincount(found.labels).tolist() == [120, 90, 60]


@pytest.mark.parametrize("method", ["kmeans", "hdbscan"])
def test_many_points_join_the_groups_of_a_sample(
    end: End, token_set: TokenSet, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from dinoscope.engine.explore import clusters

    monkeypatch.setitem(clusters.FIT_POINTS, method, 100)
    options = ClusterOptions(method, clusters=3, min_size=10)
    found = end(find_clusters(blobs(token_set), options))
    assert "100 of 270" in found.notes[0]
    grouped = found.labels >= 0
    assert adjusted_rand_score(GROUP[grouped], found.labels[grouped]) > 0.99


def test_noise_alone_is_said_to_be_noise(end: End, token_set: TokenSet) -> None:
    values = np.random.default_rng(3).uniform(size=(60, 64)).astype(np.float32)
    points = PointSet("objects", (token_set,), {"set": np.zeros(60, int)}, (), values)
    found = end(find_clusters(points, ClusterOptions("hdbscan", min_size=25)))
    assert found.count == 0
    assert set(found.labels) == {-1}
    assert "all points are noise" in found.notes[-1]


def test_groups_in_a_plot_need_the_plot(end: End, token_set: TokenSet) -> None:
    points = blobs(token_set)
    options = ClusterOptions("kmeans", 3, space="projection")
    with pytest.raises(InputError, match="no projection"):
        end(find_clusters(points, options))
    angle = 2 * np.pi * GROUP / 3
    place = np.stack([np.cos(angle), np.sin(angle)], 1) + RNG.normal(0, 0.01, (270, 2))
    assert end(find_clusters(points, options, place)).count == 3
    with pytest.raises(InputError, match="270 points for kmeans"):
        end(find_clusters(points, ClusterOptions("kmeans", 271)))
