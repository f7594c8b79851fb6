"""Result layers: order, ownership, replacement, removal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from dinoscope.widgets._layers import Source, make_source, place
from dinoscope.widgets._results import METADATA, Results, ResultSet

HEIGHT, WIDTH = 30, 40


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def source(viewer: ViewerModel) -> Source:
    return make_source([viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="cells")])


def run(results: Results, source: Source, value: int = 1, **arrays: Any) -> ResultSet:
    """One finished run."""
    one = ResultSet(results, source, place(source), about={"model": "embedded"})
    arrays = arrays or {"instance": np.full((HEIGHT, WIDTH), value, np.uint32)}
    for task, array in arrays.items():
        one.put(task, {}, array)
    one.finish()
    return one


def names(viewer: ViewerModel) -> list[str]:
    return [layer.name for layer in viewer.layers]


def test_results_lie_above_their_source_labels_on_top(viewer: ViewerModel, source: Source) -> None:
    viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="other")
    run(
        Results(viewer),
        source,
        pca=np.zeros((HEIGHT, WIDTH, 3), np.float32),
        instance=np.ones((HEIGHT, WIDTH), np.uint32),
        depth=np.ones((HEIGHT, WIDTH), np.float32),
        semantic=np.ones((HEIGHT, WIDTH), np.uint8),
    )
    assert names(viewer) == [
        "cells",
        "cells · PCA",
        "cells · depth",
        "cells · classes",
        "cells · instances",
        "other",
    ]
    assert viewer.layers["cells · PCA"].rgb
    assert viewer.layers["cells · classes"].data.dtype == np.uint8


def test_provenance_is_in_the_metadata(viewer: ViewerModel, source: Source) -> None:
    run(Results(viewer), source)
    about = viewer.layers["cells · instances"].metadata[METADATA]
    assert about["model"] == "embedded"
    assert about["source_id"] == str(source.layer.unique_id)
    assert about["task"] == "instance"


def test_the_next_run_updates_the_layer_and_keeps_how_it_is_shown(
    viewer: ViewerModel, source: Source
) -> None:
    results = Results(viewer)
    run(results, source, 1)
    layer = viewer.layers["cells · instances"]
    layer.opacity, layer.visible, layer.contour = 0.3, False, 2
    run(results, source, 2)
    assert names(viewer) == ["cells", "cells · instances"]
    assert viewer.layers[1] is layer
    assert layer.data.max() == 2
    assert (layer.opacity, layer.visible, layer.contour) == (0.3, False, 2)


def paint(layer: Any) -> None:
    layer.paint((5, 5), 9)


def fill(layer: Any) -> None:
    layer.fill((5, 5), 9)


def paint_and_undo(layer: Any) -> None:
    layer.paint((5, 5), 9)
    layer.undo()


def in_place(layer: Any) -> None:
    layer.data[3, 3] = 9


def other_data(layer: Any) -> None:
    layer.data = np.full((HEIGHT, WIDTH), 9, np.uint32)


def features(layer: Any) -> None:
    layer.features = {"index": [1], "note": ["mine"]}


def rename(layer: Any) -> None:
    layer.name = "my cells"


@pytest.mark.parametrize(
    "edit", [paint, fill, paint_and_undo, in_place, other_data, features, rename]
)
def test_an_edited_result_belongs_to_the_user(
    viewer: ViewerModel, source: Source, edit: Any
) -> None:
    results = Results(viewer)
    run(results, source, 1)
    layer = viewer.layers["cells · instances"]
    edit(layer)
    mine, name = layer.data.copy(), layer.name
    run(results, source, 2)
    assert layer in viewer.layers
    assert layer.name == name
    np.testing.assert_array_equal(layer.data, mine)
    assert len(viewer.layers) == 3
    removed, kept = results.remove(str(source.layer.unique_id))
    assert len(removed) == 1
    assert kept == [name]
    assert layer in viewer.layers


def test_a_result_of_another_shape_replaces_the_layer_in_its_place(viewer: ViewerModel) -> None:
    source = make_source([viewer.add_image(np.zeros((3, HEIGHT, WIDTH)), name="stack")])
    results = Results(viewer)
    for plane in ((0,), None):
        one = ResultSet(results, source, place(source, plane=plane))
        one.put("instance", {"Z": 0}, np.ones((HEIGHT, WIDTH), np.uint32))
        one.finish()
        viewer.layers["stack · instances"].opacity = 0.4
    assert names(viewer) == ["stack", "stack · instances"]
    layer = viewer.layers["stack · instances"]
    assert layer.data.shape == (3, HEIGHT, WIDTH)
    assert layer.opacity == 0.4


@pytest.mark.parametrize("plane", [None, (0,)])
def test_a_run_that_fails_brings_the_earlier_result_back(
    viewer: ViewerModel, plane: tuple[int, ...] | None
) -> None:
    source = make_source([viewer.add_image(np.zeros((3, HEIGHT, WIDTH)), name="stack")])
    results = Results(viewer)
    first = ResultSet(results, source, place(source))
    first.put("instance", {"Z": 1}, np.full((HEIGHT, WIDTH), 5, np.uint32))
    first.set_features("instance", {"label": np.array([5]), "area_px": np.array([3])})
    first.finish()
    second = ResultSet(results, source, place(source, plane=plane))
    second.put("instance", {"Z": 0}, np.full((HEIGHT, WIDTH), 7, np.uint32))
    assert second.roll_back() == []
    layer = viewer.layers["stack · instances"]
    assert layer.data[1].min() == 5
    assert layer.data[0].max() == 0
    assert layer.features["area_px"].tolist() == [3]
    assert results.find(str(source.layer.unique_id), "instance", "") is not None


def test_a_new_result_that_was_cancelled_keeps_its_planes_and_says_so(
    viewer: ViewerModel, source: Source
) -> None:
    one = ResultSet(Results(viewer), source, place(source))
    one.put("instance", {}, np.ones((HEIGHT, WIDTH), np.uint32))
    assert one.roll_back() == ["cells · instances"]
    assert viewer.layers["cells · instances"].metadata[METADATA]["partial"]


def test_results_cannot_be_painted_on_while_they_are_written(
    viewer: ViewerModel, source: Source
) -> None:
    one = ResultSet(Results(viewer), source, place(source))
    one.put("instance", {}, np.ones((HEIGHT, WIDTH), np.uint32))
    assert not viewer.layers["cells · instances"].editable
    one.finish()
    assert viewer.layers["cells · instances"].editable


def test_what_is_painted_while_it_is_written_stays(viewer: ViewerModel) -> None:
    source = make_source([viewer.add_image(np.zeros((3, HEIGHT, WIDTH)), name="stack")])
    one = ResultSet(Results(viewer), source, place(source))
    one.put("instance", {"Z": 0}, np.ones((HEIGHT, WIDTH), np.uint32))
    layer = viewer.layers["stack · instances"]
    layer.paint((1, 5, 5), 9)
    one.put("instance", {"Z": 1}, np.ones((HEIGHT, WIDTH), np.uint32))
    one.put("instance", {"Z": 2}, np.ones((HEIGHT, WIDTH), np.uint32))
    assert layer.data[1, 5, 5] == 9
    assert layer.data[2].min() == 1


def test_a_removed_result_is_not_written_any_more(viewer: ViewerModel) -> None:
    source = make_source([viewer.add_image(np.zeros((3, HEIGHT, WIDTH)), name="stack")])
    one = ResultSet(Results(viewer), source, place(source))
    one.put("instance", {"Z": 0}, np.ones((HEIGHT, WIDTH), np.uint32))
    viewer.layers.remove("stack · instances")
    one.put("instance", {"Z": 1}, np.ones((HEIGHT, WIDTH), np.uint32))
    one.finish()
    assert names(viewer) == ["stack"]


def test_active_layer_selection_and_tool_stay(viewer: ViewerModel, source: Source) -> None:
    labels = viewer.add_labels(np.zeros((HEIGHT, WIDTH), np.uint8), name="mine")
    labels.mode = "paint"
    labels.selected_label = 4
    viewer.layers.selection.active = labels
    results = Results(viewer)
    run(results, source)
    assert viewer.layers.selection.active is labels
    assert (labels.mode, labels.selected_label) == ("paint", 4)
    results.remove(str(source.layer.unique_id))
    assert viewer.layers.selection.active is labels
    viewer.layers.selection.clear()
    viewer.layers.selection.update({labels, source.layer})
    run(results, source)
    assert set(viewer.layers.selection) == {labels, source.layer}


def test_sliders_and_view_stay(viewer: ViewerModel) -> None:
    layer = viewer.add_image(
        np.zeros((9, HEIGHT, WIDTH)), name="stack", scale=(2, 0.5, 0.5), units=("um",) * 3
    )
    viewer.dims.set_point(0, 4.0)
    source = make_source([layer])
    one = ResultSet(Results(viewer), source, place(source, plane=(2,), region=(3, 4, 20, 21)))
    one.put("instance", {"Z": 2}, np.ones((17, 17), np.uint32))
    assert viewer.dims.point[0] == 4.0
    assert viewer.layers.units is not None


def test_classes_get_names_and_colours(viewer: ViewerModel, source: Source) -> None:
    one = ResultSet(Results(viewer), source, place(source))
    one.put("semantic", {}, np.ones((HEIGHT, WIDTH), np.uint8))
    one.name_classes(("background", "nucleus", "cell"))
    one.finish()
    layer = viewer.layers["cells · classes"]
    assert layer.features["class"].tolist() == ["background", "nucleus", "cell"]
    assert layer.colormap.map(0)[3] == 0
    assert not np.allclose(layer.get_color(1), layer.get_color(2))
    run(one.results, source, semantic=np.ones((HEIGHT, WIDTH), np.uint8))
    assert names(viewer) == ["cells", "cells · classes"]


def test_objects_become_features(viewer: ViewerModel, source: Source) -> None:
    one = run(Results(viewer), source)
    one.set_features("instance", {"label": np.array([1]), "area_um2": np.array([12.5])})
    layer = viewer.layers["cells · instances"]
    assert layer.features["area_um2"].tolist() == [12.5]
    assert results_are_ours(one)


def results_are_ours(one: ResultSet) -> bool:
    return one.results.find(str(one.source.layer.unique_id), "instance", "") is not None


def test_depth_is_shown_over_its_whole_range(viewer: ViewerModel) -> None:
    source = make_source([viewer.add_image(np.zeros((2, HEIGHT, WIDTH)), name="stack")])
    one = ResultSet(Results(viewer), source, place(source))
    one.put("depth", {"Z": 0}, np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH))
    one.put("depth", {"Z": 1}, np.full((HEIGHT, WIDTH), 4.0))
    one.put("depth", {"Z": 1}, np.full((HEIGHT, WIDTH), np.nan))
    one.finish()
    assert viewer.layers["stack · depth"].contrast_limits == [0, 4]


def test_groups_do_not_replace_each_other(viewer: ViewerModel, source: Source) -> None:
    results = Results(viewer)
    for group in ("a", "b", "a"):
        one = ResultSet(results, source, place(source), group=group)
        one.put("instance", {}, np.ones((HEIGHT, WIDTH), np.uint32))
        one.finish()
    assert names(viewer) == ["cells", "cells · instances [a]", "cells · instances [b]"]
    results.remove(str(source.layer.unique_id), group="a")
    assert names(viewer) == ["cells", "cells · instances [b]"]


def test_opaque_results_below_labels_start_hidden(viewer: ViewerModel, source: Source) -> None:
    results = Results(viewer)
    for tasks, shown in ((("depth",), True), (("depth", "instance"), False)):
        one = ResultSet(results, source, place(source), group=str(shown), tasks=tasks)
        one.put("depth", {}, np.ones((HEIGHT, WIDTH), np.float32))
        assert viewer.layers[-1].visible is shown
