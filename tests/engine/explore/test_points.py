from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinoscope.engine.explore.encode import TokenSet
from dinoscope.engine.explore.export import export_points
from dinoscope.engine.explore.overlay import LabelReader
from dinoscope.engine.explore.points import (
    PointSet,
    image_points,
    object_points,
    patch_points,
)
from dinoscope.errors import InputError, UsageError
from dinoscope.types import ImageInput

End = Callable[..., Any]


def test_every_patch_points_back_to_its_pixels(end: End, token_set: TokenSet) -> None:
    points: PointSet = end(patch_points([token_set]))
    assert len(points) == 3 * token_set.grid.count
    rng = np.random.default_rng(0)
    for k in rng.integers(0, len(points), 20):
        row = {name: column[k] for name, column in points.table.items()}
        patch = token_set.grid.patch_at(row["y"], row["x"]) if row["x"] < 99.5 else None
        assert patch in ((row["row"], row["column"]), None)
        flat = row["row"] * token_set.grid.grid[1] + row["column"]
        assert np.array_equal(
            points.features(np.array([k]))[0], token_set.tokens((row["z"],))[flat]
        )


def test_features_come_in_the_order_asked_for(end: End, token_set: TokenSet) -> None:
    points: PointSet = end(patch_points([token_set]))
    rows = np.random.default_rng(1).permutation(len(points))[:50]
    assert np.array_equal(points.features(rows), points.features()[rows])


def test_too_many_patches_are_thinned_evenly(end: End, token_set: TokenSet) -> None:
    points: PointSet = end(patch_points([token_set], max_points=50))
    assert len(points) == 3 * token_set.grid.count // 5 + 1
    assert points.notes == ("1 of 5 patches is kept: there are 216.",)
    flat = points.table["z"] * 72 + points.table["row"] * 8 + points.table["column"]
    assert np.array_equal(flat, np.arange(0, 216, 5))


def test_a_patch_has_the_label_of_most_of_its_pixels(
    end: End, token_set: TokenSet, halves: ImageInput
) -> None:
    classes = {"half": {0: LabelReader(halves, token_set)}}
    points: PointSet = end(patch_points([token_set], classes=classes))
    left = points.table["column"] <= 3  # column 3 covers pixels 42 to 55: 8 of 14 are left
    assert np.array_equal(points.table["half"], np.where(left, 1, 2))


def objects() -> np.ndarray:
    ids = np.zeros((120, 100), np.uint32)
    ids[0:14, 0:14] = 70_000  # exactly patch (0, 0)
    ids[14:28, 21:35] = 3  # half of patch (1, 1), half of patch (1, 2)
    return ids


def test_an_object_has_the_mean_token_of_its_pixels(
    end: End, token_set: TokenSet, halves: ImageInput, stack: ImageInput
) -> None:
    labels = {0: LabelReader(ImageInput(objects(), "YX"), token_set)}
    classes = {"half": {0: LabelReader(halves, token_set)}}
    points: PointSet = end(
        object_points([token_set], labels, [(0, (1,))], intensity={0: stack}, classes=classes)
    )
    assert points.table["label"].tolist() == [3, 70_000]
    assert points.table["area_px"].tolist() == [196, 196]
    assert points.table["centroid_y"].tolist() == [20.5, 6.5]
    assert points.table["z"].tolist() == [1, 1]
    assert points.table["half"].tolist() == [1, 1]
    assert points.table["mean_intensity_0"][1] == pytest.approx(
        np.asarray(stack.data)[1, :14, :14].mean(), rel=1e-5
    )
    tokens = token_set.tokens((1,)).reshape(*token_set.grid.grid, -1).astype(np.float32)
    assert np.allclose(points.features()[1], tokens[0, 0], atol=1e-5)
    assert np.allclose(points.features()[0], (tokens[1, 1] + tokens[1, 2]) / 2, atol=1e-5)


def test_labels_without_objects_are_refused(end: End, token_set: TokenSet) -> None:
    empty = LabelReader(ImageInput(np.zeros((120, 100), int), "YX"), token_set)
    with pytest.raises(InputError, match="no object"):
        end(object_points([token_set], {0: empty}))


def test_an_image_is_the_mean_of_its_tokens(end: End, token_set: TokenSet) -> None:
    points: PointSet = end(image_points([token_set, token_set]))
    assert len(points) == 6
    assert points.table["set"].tolist() == [0, 0, 0, 1, 1, 1]
    expected = token_set.tokens((2,)).astype(np.float32).mean(0)
    assert np.allclose(points.features()[5], expected)
    assert (points.table["y"][0], points.table["x"][0]) == (59.5, 49.5)


# Export


def test_points_are_written_as_csv(end: End, token_set: TokenSet, tmp_path: Path) -> None:
    points: PointSet = end(patch_points([token_set], max_points=60))
    place = np.random.default_rng(0).normal(size=(len(points), 2)).astype(np.float32)
    path = tmp_path / "points.csv"
    rows, columns = export_points(points, path, {"pca": place, "cluster": np.arange(len(points))})
    lines = path.read_text().splitlines()
    head = lines[0].split(",")
    assert len(lines) == rows + 1 == len(points) + 1
    assert len(head) == columns
    assert head[:6] == ["set", "image", "z", "row", "column", "y"]
    assert head[7:11] == ["pca_0", "pca_1", "cluster", "f0"]
    cells = lines[4].split(",")
    assert float(cells[head.index("pca_1")]) == pytest.approx(place[3, 1], rel=1e-5)
    assert float(cells[-1]) == pytest.approx(points.features()[3, -1], rel=1e-5)
    export_points(points, path, features=False)
    assert len(path.read_text().splitlines()[0].split(",")) == 7


@pytest.mark.parametrize(("name", "library"), [("a.parquet", "pyarrow"), ("a.h5ad", "anndata")])
def test_a_missing_library_is_named(
    end: End,
    token_set: TokenSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    library: str,
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, library, None)
    points = end(image_points([token_set]))
    with pytest.raises(UsageError, match=r"not installed.*pip install"):
        export_points(points, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_parquet_and_anndata_where_they_are_installed(
    end: End, token_set: TokenSet, tmp_path: Path
) -> None:
    anndata = pytest.importorskip("anndata")
    points = end(image_points([token_set]))
    export_points(points, tmp_path / "a.h5ad", {"pca": np.zeros((3, 2))})
    read = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert np.array_equal(read.X, points.features())
    assert read.obsm["pca"].shape == (3, 2)


def test_columns_that_do_not_fit_are_refused(end: End, token_set: TokenSet, tmp_path: Path) -> None:
    points = end(image_points([token_set]))
    with pytest.raises(InputError, match="'wrong' has shape"):
        export_points(points, tmp_path / "a.csv", {"wrong": np.zeros(2)})
    with pytest.raises(InputError, match=r"a\.txt"):
        export_points(points, tmp_path / "a.txt")
