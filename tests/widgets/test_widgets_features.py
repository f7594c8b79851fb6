"""The Features panel with a worker that the test plays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel
from tests.widgets.fake_explorer import PATCH, FakeExplorer

from dinoscope.config import ExploreOptions
from dinoscope.errors import InputError, WorkerError
from dinoscope.widgets import _client, _overlay
from dinoscope.widgets._colourby import choices
from dinoscope.widgets.features import FeaturesPanel

H, W = 5, 7  # patches
HEIGHT, WIDTH = H * PATCH, W * PATCH
GEOMETRY: dict[str, Any] = {
    "scale": (0.5, 0.25),
    "translate": (-5.0, 3.0),
    "rotate": 20.0,
    "shear": (0.1,),
    "affine": np.array([[1, 0.1, 4], [0, 1, 5], [0, 0, 1.0]]),
    "units": ("um", "um"),
    "axis_labels": ("y", "x"),
}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeExplorer:
    client = FakeExplorer()
    monkeypatch.setattr(_client, "_start_client", lambda: client)
    return client


@pytest.fixture
def viewer(fake: FakeExplorer) -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def open_panel(viewer: Any, qtbot: Any) -> Callable[..., FeaturesPanel]:
    def make(viewer: Any = viewer) -> FeaturesPanel:
        panel = FeaturesPanel(viewer)
        if hasattr(viewer, "window"):
            viewer.window.add_dock_widget(panel, name="Features")
        else:
            qtbot.addWidget(panel, before_close_func=FeaturesPanel.teardown)
        panel.controller.warm_up()
        qtbot.waitUntil(lambda: bool(panel.controller.models))
        return panel

    return make


@pytest.fixture
def panel(viewer: ViewerModel, open_panel: Any) -> FeaturesPanel:
    """A panel over one plane of 5 x 7 patches."""
    viewer.add_image(np.zeros((HEIGHT, WIDTH), np.uint8), name="cells", **GEOMETRY)
    return open_panel()


def run(panel: FeaturesPanel, qtbot: Any, mode: str) -> str:
    """Press the button of a mode; what it said at the end."""
    panel.modes.mode = mode
    panel.runbar.run.click()
    qtbot.waitUntil(lambda: not panel.busy)
    return panel.runbar.status.text()


def select(panel: FeaturesPanel, *points: int) -> None:
    """As a lasso around these points."""
    mask = np.zeros(panel.linked.points.count, bool)
    mask[list(points)] = True
    panel.linked.dock.plot.lassoed.emit(mask, "new")


def lit(panel: FeaturesPanel, number: int = 0) -> np.ndarray:
    """The states that the overlay shows, of patches."""
    shown = np.asarray(panel.linked.overlays[number].layer.data)
    assert shown.shape[-2:] == (HEIGHT, WIDTH)
    patches = shown[..., PATCH // 2 :: PATCH, PATCH // 2 :: PATCH]
    np.testing.assert_array_equal(np.kron(patches, np.ones((PATCH, PATCH), int)), shown)
    return patches


def patch_at(layer: Any, row: int, column: int) -> Any:
    """World position of a patch's centre."""
    return layer.data_to_world((row * PATCH + 6.5, column * PATCH + 6.5))


# -- colours -------------------------------------------------------------------------------------


def test_colours_lie_exactly_on_their_image(panel: Any, viewer: Any, qtbot: Any) -> None:
    layer = viewer.layers["cells"]
    viewer.layers.selection.active = layer
    text = run(panel, qtbot, "colours")
    assert "50 + 20 + 10 %" in text
    colours = viewer.layers["cells · PCA"]
    assert colours.rgb
    assert colours.data.shape == (HEIGHT, WIDTH, 3)
    for name in ("scale", "translate", "rotate", "shear"):
        np.testing.assert_array_equal(getattr(colours, name), getattr(layer, name))
    np.testing.assert_array_equal(colours.affine.affine_matrix, layer.affine.affine_matrix)
    assert colours.units == layer.units
    assert viewer.layers.selection.active is layer


def test_colours_of_patches_lie_on_their_pixels(panel: Any, viewer: Any, qtbot: Any) -> None:
    panel.colours.detail.key = "patch"
    run(panel, qtbot, "colours")
    colours, layer = viewer.layers["cells · PCA"], viewer.layers["cells"]
    assert colours.data.shape == (H, W, 3)
    for row, column in ((0, 0), (2, 5), (4, 6)):
        centre = (row * PATCH + (PATCH - 1) / 2, column * PATCH + (PATCH - 1) / 2)
        np.testing.assert_allclose(
            colours.data_to_world((row, column)), layer.data_to_world(centre), atol=1e-9
        )


def test_both_models_are_shown_beside_each_other(panel: Any, viewer: Any, qtbot: Any) -> None:
    panel.tokens.adapter.key = "both"
    run(panel, qtbot, "colours")
    assert viewer.layers["cells · PCA [LoRA-tuned]"].data.max() == 0.5
    assert viewer.layers["cells · PCA [original]"].data.max() == 0.25


def test_what_is_chosen_reaches_the_worker(panel: Any, viewer: Any, fake: Any, qtbot: Any) -> None:
    labels = viewer.add_labels(np.ones((HEIGHT, WIDTH), np.uint8), name="tissue", **GEOMETRY)
    panel.tokens.layers.key = "early+last"
    panel.tokens.controls["zoom"].value = 2.0
    panel.colours.components[0].setValue(4)
    panel.colours.fit.key = "labels"
    panel.colours.labels.layer = labels
    panel.colours.only.setValue(1)
    panel.colours.mask.setChecked(True)
    run(panel, qtbot, "colours")
    options = fake.last("tokens").payload["options"]
    assert (options.layers, options.zoom) == ("early+last", 2.0)
    job = fake.last("pca")
    assert job.payload["options"].components == (3, 1, 2)
    assert job.payload["label_ids"] == [1]
    assert job.payload["mask_background"]
    assert job.images["labels"].shape == (HEIGHT, WIDTH)


def test_other_components_are_shown_at_once(panel: Any, fake: Any, qtbot: Any) -> None:
    panel.colours.components[0].setValue(2)
    qtbot.wait(450)
    assert fake.count("pca") == 0, "nothing is shown yet that could change"
    run(panel, qtbot, "colours")
    panel.colours.components[0].setValue(3)
    qtbot.waitUntil(lambda: fake.count("pca") == 2)
    assert fake.last("pca").payload["options"].components == (2, 1, 2)
    qtbot.waitUntil(lambda: not panel.busy)
    panel.tokens.layers.key = "early"  # has to be encoded: not unasked
    panel.colours.components[0].setValue(1)
    qtbot.wait(450)
    assert fake.count("pca") == 2


def test_a_stack_is_coloured_plane_by_plane(viewer: Any, open_panel: Any, qtbot: Any) -> None:
    viewer.add_image(np.zeros((3, HEIGHT, WIDTH), np.uint8), name="stack", scale=(4, 1, 1))
    panel = open_panel()
    panel.scope.buttons["stack"].click()
    run(panel, qtbot, "colours")
    assert viewer.layers["stack · PCA"].data.shape == (3, HEIGHT, WIDTH, 3)
    assert (viewer.layers["stack · PCA"].data == 0.5).all()


def test_several_images_share_a_run(viewer: Any, open_panel: Any, fake: Any, qtbot: Any) -> None:
    for name in ("first", "second"):
        viewer.add_image(np.zeros((HEIGHT, WIDTH), np.uint8), name=name)
    # What class scores leave in an image's metadata does not make it a result.
    viewer.layers["second"].metadata["dinoscope"] = {"classification": {"class": ["healthy"]}}
    panel = open_panel()
    panel.source.combo.layer = viewer.layers["first"]
    panel.others.list.item(0).setCheckState(panel.others.list.item(0).checkState().Checked)
    assert panel.others.isHidden(), "the list stays in its fold"
    assert not panel.others_fold.isHidden()
    run(panel, qtbot, "colours")
    assert [panel.others.list.item(0).text(), panel.others.list.count()] == ["second", 1]
    assert {"first · PCA", "second · PCA"} <= {layer.name for layer in viewer.layers}
    assert len(fake.last("pca").payload["sets"]) == 2
    run(panel, qtbot, "plot")
    assert panel.linked.points.count == 2 * H * W
    select(panel, 0, H * W)
    assert [int(lit(panel, number).sum()) for number in range(2)] == [1, 1]


def test_labels_of_another_shape_are_refused_by_name(panel: Any, viewer: Any, qtbot: Any) -> None:
    panel.colours.labels.layer = viewer.add_labels(np.ones((9, 9), int), name="other")
    panel.colours.fit.key = "labels"
    text = run(panel, qtbot, "colours")
    assert "'other' has shape (9, 9)" in text


def test_a_cancelled_run_puts_earlier_colours_back(
    panel: Any, viewer: Any, fake: Any, qtbot: Any
) -> None:
    run(panel, qtbot, "colours")
    before = viewer.layers["cells · PCA"].data.copy()
    fake.silent = {"pca"}
    panel.runbar.run.click()
    qtbot.waitUntil(lambda: fake.count("pca") == 2)
    name = fake.last("pca").payload["sets"][0]
    rgb = np.ones((HEIGHT, WIDTH, 3), np.float32)
    fake.last("pca").send("plane", set=name, index=(), rgb=rgb)
    qtbot.waitUntil(lambda: viewer.layers["cells · PCA"].data.max() == 1)
    panel.runbar.cancel.click()
    qtbot.waitUntil(lambda: not panel.busy)
    assert panel.runbar.status.text() == "Cancelled."
    np.testing.assert_array_equal(viewer.layers["cells · PCA"].data, before)


def test_a_removed_image_ends_the_run(panel: Any, viewer: Any, fake: Any, qtbot: Any) -> None:
    fake.silent = {"tokens"}
    panel.runbar.run.click()
    viewer.layers.remove("cells")
    qtbot.waitUntil(lambda: not panel.busy)
    assert "'cells' was removed" in panel.runbar.status.text()


# -- plot and brushing ---------------------------------------------------------------------------


def test_points_chosen_in_the_plot_light_up_in_the_image(
    panel: Any, viewer: Any, qtbot: Any
) -> None:
    layer = viewer.layers["cells"]
    viewer.layers.selection.active = layer
    assert "35 patches" in run(panel, qtbot, "plot")
    dock = panel.linked.dock
    assert dock.plot.axis_names == ("PC1 (50 %)", "PC2 (20 %)")
    select(panel, 0, W + 2)  # first patch; second row, third column
    states = lit(panel)
    assert states.shape == (H, W)
    assert np.argwhere(states == 1).tolist() == [[0, 0], [1, 2]]
    overlay = panel.linked.overlays[0].layer
    np.testing.assert_array_equal(overlay.data_to_world((30, 40)), layer.data_to_world((30, 40)))
    assert "2 of 35 patches selected" in dock.count.text()
    assert viewer.layers.selection.active is layer
    dock.undo.click()
    assert lit(panel).max() == 0


def test_patches_of_a_large_plane_are_shown_one_pixel_each(
    panel: Any, viewer: Any, qtbot: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(_overlay, "MOST_PIXELS", 10)
    run(panel, qtbot, "plot")
    select(panel, W + 2)
    overlay = panel.linked.overlays[0].layer
    assert np.argwhere(overlay.data == 1).tolist() == [[1, 2]]
    world = overlay.data_to_world((1, 2))
    np.testing.assert_allclose(world, patch_at(viewer.layers["cells"], 1, 2), atol=1e-9)


def test_a_region_is_lit_up_where_it_lies(panel: Any, viewer: Any, qtbot: Any) -> None:
    layer = viewer.layers["cells"]
    region = (14, 20, 14 + 30, 20 + 40)  # the last patches are cut
    panel.request = lambda: dataclasses.replace(
        FeaturesPanel.request(panel), options=ExploreOptions(region=region)
    )
    run(panel, qtbot, "plot")
    select(panel, 0, panel.linked.points.count - 1)
    overlay = panel.linked.overlays[0].layer
    shown = np.asarray(overlay.data)
    assert shown.shape == (30, 40)
    assert (int(shown[:14, :14].sum()), int(shown[28:, 28:].sum())) == (196, 2 * 12)
    np.testing.assert_allclose(
        overlay.data_to_world((0, 0)), layer.data_to_world((14, 20)), atol=1e-9
    )
    panel.linked.dock.labels.click()
    made = np.asarray(viewer.layers["cells · selection"].data)
    assert made[14:28, 20:34].all()
    assert made.sum() == 196 + 24


def test_the_patch_under_the_pointer_is_marked_both_ways(
    panel: Any, viewer: Any, qtbot: Any
) -> None:
    run(panel, qtbot, "plot")
    panel.linked.dock.plot.hovered.emit(9)
    assert np.argwhere(lit(panel) == 2).tolist() == [[1, 2]]
    panel.linked._pointer = patch_at(viewer.layers["cells"], 3, 4)
    panel.linked._look_at_pointer()
    assert panel.linked.dock.plot.hover == 3 * W + 4
    assert np.argwhere(lit(panel) == 2).tolist() == [[3, 4]]


def test_a_click_in_the_image_picks_a_patch(panel: Any, viewer: Any, qtbot: Any) -> None:
    run(panel, qtbot, "plot")
    layer = viewer.layers["cells"]
    panel.linked._on_image_click(patch_at(layer, 2, 1), 1, ())
    panel.linked._on_image_click(patch_at(layer, 2, 2), 1, ("Shift",))
    assert np.flatnonzero(panel.linked.selection.mask).tolist() == [2 * W + 1, 2 * W + 2]
    panel.linked._on_image_click(patch_at(layer, 2, 1), 1, ("Alt",))
    assert np.flatnonzero(panel.linked.selection.mask).tolist() == [2 * W + 2]
    panel.linked._on_image_click(patch_at(layer, 50, 50), 1, ())
    assert panel.linked.selection.count == 0


def test_a_lasso_on_the_image_takes_patches_and_gives_the_tool_back(
    panel: Any, viewer: Any, qtbot: Any
) -> None:
    labels = viewer.add_labels(np.zeros((HEIGHT, WIDTH), int), name="mine", **GEOMETRY)
    labels.mode = "paint"
    run(panel, qtbot, "plot")
    panel.linked.dock.lasso.setChecked(True)
    lasso = panel.linked._lasso._layer
    assert viewer.layers.selection.active is lasso
    assert lasso.mode == "add_polygon_lasso"
    lasso.add_polygons([np.array([[0, 0], [0, 2 * PATCH], [PATCH, 2 * PATCH], [PATCH, 0]])])
    qtbot.waitUntil(lambda: not panel.linked._lasso.on)
    assert np.flatnonzero(panel.linked.selection.mask).tolist() == [0, 1]
    assert lasso not in viewer.layers
    assert viewer.layers.selection.active is labels
    assert labels.mode == "paint"


def test_what_is_painted_or_selected_in_labels_lights_up_in_the_plot(
    panel: Any, viewer: Any, qtbot: Any
) -> None:
    labels = viewer.add_labels(np.zeros((HEIGHT, WIDTH), np.uint8), name="mine", **GEOMETRY)
    run(panel, qtbot, "plot")
    panel.linked.dock.follow.layer = labels
    labels.selected_label = 2
    labels.data_setitem((np.arange(2, 12), np.arange(2, 12)), 2)
    qtbot.waitUntil(lambda: panel.linked.selection.count == 1)
    assert panel.linked.selection.mask[0]
    labels.undo()
    qtbot.waitUntil(lambda: panel.linked.selection.count == 0)


def test_objects_are_linked_through_their_labels(viewer: Any, open_panel: Any, qtbot: Any) -> None:
    ids = np.zeros((3, HEIGHT, WIDTH), np.int32)
    for plane in range(3):
        ids[plane, :20, :20] = 5 + plane
        ids[plane, 40:, 40:] = 100_000_000 + plane  # too high for a table
    viewer.add_image(np.zeros(ids.shape, np.uint8), name="stack")
    labels = viewer.add_labels(ids, name="cells")
    labels.features = {"index": [5, 6, 7], "kind": ["a", "b", "a"], "size": [1.0, 2.0, 3.0]}
    panel = open_panel()
    panel.scope.buttons["stack"].click()
    panel.plot.what.key = "objects"
    panel.plot.objects.layer = labels
    assert "6 objects" in run(panel, qtbot, "plot")
    assert panel.linked.points.table["label"].tolist()[:2] == [5, 100_000_000]
    select(panel, 1, 2)
    overlay = panel.linked.overlays[0].layer.data
    assert overlay.shape == ids.shape
    np.testing.assert_array_equal(overlay[0] == 1, ids[0] == 100_000_000)
    np.testing.assert_array_equal(overlay[1] == 1, ids[1] == 6)
    assert overlay[2].max() == 0
    np.testing.assert_array_equal(np.asarray(overlay)[1], overlay[1])
    assert panel.linked.point_under((1, 5, 5)) == 2
    panel.linked.dock.follow.layer = labels
    labels.selected_label = 7
    qtbot.waitUntil(lambda: np.flatnonzero(panel.linked.selection.mask).tolist() == [4])
    panel.linked.colour("feature:kind")
    entries = [text for text, _ in panel.linked.dock.plot.colouring.legend.entries]
    assert {"a", "b", "none"} == set(entries)


def test_a_picked_point_brings_its_plane_into_view(
    viewer: Any, open_panel: Any, qtbot: Any
) -> None:
    stack = np.zeros((4, HEIGHT, WIDTH), np.uint8)
    viewer.add_image(stack, name="stack", scale=(3, 1, 1), units=("um", "um", "um"))
    panel = open_panel()
    panel.scope.buttons["stack"].click()
    run(panel, qtbot, "plot")
    panel.linked.dock.plot.picked.emit(2 * H * W + 4, "new")
    assert viewer.dims.current_step[0] == 2
    panel.plot.what.key = "images"
    assert "4 planes" in run(panel, qtbot, "plot")
    select(panel, 3)
    assert lit(panel).max(axis=(1, 2)).tolist() == [0, 0, 0, 1]
    assert lit(panel)[3].all()


def test_a_selection_becomes_labels_of_the_user(panel: Any, viewer: Any, qtbot: Any) -> None:
    run(panel, qtbot, "plot")
    dock = panel.linked.dock
    dock.labels.click()
    assert "no points are selected" in panel.runbar.status.text()
    select(panel, 0)
    dock.labels.click()
    made = viewer.layers["cells · selection"]
    assert np.asarray(made.data).sum() == PATCH * PATCH
    assert np.asarray(made.data)[:PATCH, :PATCH].all()
    np.testing.assert_array_equal(made.affine.affine_matrix, GEOMETRY["affine"])
    for name, points in (("round", (0, 1)), ("long", (W,))):
        select(panel, *points)
        dock.class_name.setCurrentText(name)
        dock.give.click()
    dock.labels.click()
    classes = viewer.layers["cells · point classes"]
    assert np.asarray(classes.data)[0, 0] == 1
    assert np.asarray(classes.data)[PATCH, 0] == 2
    assert list(classes.features["class"]) == ["background", "round", "long"]
    assert dock.colour_key == "classes"
    panel.teardown()
    assert classes in viewer.layers
    assert not [x for x in viewer.layers if x.metadata.get("dinoscope_guide")]


def test_classes_go_into_the_table_and_a_class_column_of_the_user_stays(
    viewer: Any, open_panel: Any, qtbot: Any
) -> None:
    ids = np.zeros((HEIGHT, WIDTH), np.int32)
    ids[:20, :20], ids[:20, 40:60], ids[40:60, :20] = 1, 2, 3
    viewer.add_image(np.zeros(ids.shape, np.uint8), name="image")
    labels = viewer.add_labels(ids, name="cells")
    labels.features = {"index": [1, 2, 3], "class": ["x", "y", "z"]}
    panel = open_panel()
    panel.plot.what.key = "objects"
    panel.plot.objects.layer = labels
    run(panel, qtbot, "plot")
    select(panel, 1)
    panel.linked.dock.class_name.setCurrentText("mitotic")
    panel.linked.dock.give.click()
    panel.linked.dock.table.click()
    assert list(labels.features["class"]) == ["x", "y", "z"]
    assert list(labels.features["dinoscope_class"]) == ["", "mitotic", ""]


def test_points_are_coloured_by_clusters_and_by_labels_as_they_are_now(
    panel: Any, viewer: Any, fake: Any, qtbot: Any
) -> None:
    labels = viewer.add_labels(np.zeros((HEIGHT, WIDTH), np.uint8), name="mine", **GEOMETRY)
    run(panel, qtbot, "plot")
    keys = panel.linked.dock._keys
    panel.linked.dock.colour.setCurrentIndex(keys.index("cluster:kmeans"))
    panel.linked.dock.colour.activated.emit(keys.index("cluster:kmeans"))
    qtbot.waitUntil(lambda: panel.linked.dock.plot.colouring.legend.title == "cluster")
    assert len(panel.linked.dock.plot.colouring.legend.entries) == 2
    for value in (0, 3):
        labels.data[...] = value
        key = f"labels:{labels.unique_id}"
        panel.linked.dock.choose_colour(key)
        panel.linked.dock.colour_chosen.emit(key)
        qtbot.waitUntil(lambda: not panel.busy)
        entries = panel.linked.dock.plot.colouring.legend.entries
        assert [text for text, _ in entries] == ["none" if value == 0 else "3"]
    wanted = tuple(round(255 * float(c)) for c in labels.get_color(3)[:3])
    assert entries[0][1] == wanted, "plot and layer agree"


def test_patches_are_coloured_by_the_confidence_of_the_objects_they_lie_in(
    panel: Any, viewer: Any, qtbot: Any
) -> None:
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[:, :14], ids[:, 14:28] = 4, 7
    objects = viewer.add_labels(ids, name="objects", **GEOMETRY)
    objects.features = pd.DataFrame({"index": [0, 4, 7], "confidence": [np.nan, 0.25, 0.75]})
    run(panel, qtbot, "plot")
    key = f"under:{objects.unique_id}:confidence"
    assert dict(choices(panel.linked.points, viewer.layers))[key] == "confidence: objects"
    panel.linked.dock.choose_colour(key)
    panel.linked.dock.colour_chosen.emit(key)
    qtbot.waitUntil(lambda: panel.linked.dock.plot.colouring.legend.title == "confidence")
    colours = panel.linked.dock.plot.colouring.colours.reshape(H, W, 3)
    unsure, sure, none = colours[0, 0], colours[0, 1], colours[0, 2]
    assert (colours[:, 0] == unsure).all()
    assert (unsure != sure).any()
    assert (none != sure).any()
    assert len(set(none.tolist())) == 1, "grey where no object is"


def test_the_selection_stays_when_the_other_model_is_shown(panel: Any, qtbot: Any) -> None:
    panel.tokens.adapter.key = "both"
    run(panel, qtbot, "plot")
    dock = panel.linked.dock
    names = [dock.variant.itemText(i) for i in range(dock.variant.count())]
    assert names == ["original", "LoRA-tuned"]
    select(panel, 3)
    dock.variant_chosen.emit(0)
    assert panel.linked.selection.mask[3]
    assert panel.linked.variant.name == "original"


def test_three_axes_are_shown_and_can_be_turned(panel: Any, qtbot: Any) -> None:
    panel.plot.dimensions.key = "3"
    panel.plot.method.key = "tsne"
    run(panel, qtbot, "plot")
    plot = panel.linked.dock.plot
    assert plot.coordinates.shape == (H * W, 3)
    assert plot.axis_names == ("t-SNE 1", "t-SNE 2", "t-SNE 3")
    before = plot.screen()[:, :2]
    plot.view.turn(60, 20)
    assert np.abs(plot.screen()[:, :2] - before).max() > 1


def test_a_plot_outlives_its_layers(panel: Any, viewer: Any, qtbot: Any) -> None:
    run(panel, qtbot, "plot")
    select(panel, 1)
    overlay = panel.linked.overlays[0].layer
    viewer.layers["cells"].name = "renamed"
    select(panel, 2)
    assert np.argwhere(lit(panel) == 1).tolist() == [[0, 2]]
    viewer.layers.remove("renamed")
    assert overlay not in viewer.layers
    assert "without its link" in panel.runbar.status.text()
    select(panel, 3)
    assert panel.linked.selection.count == 1
    panel.linked.dock.labels.click()
    assert "removed" in panel.runbar.status.text()


def test_an_overlay_that_the_user_removed_does_not_come_back(
    panel: Any, viewer: Any, qtbot: Any
) -> None:
    run(panel, qtbot, "plot")
    select(panel, 1)
    viewer.layers.remove(panel.linked.overlays[0].layer)
    select(panel, 2)
    assert len(viewer.layers) == 1
    run(panel, qtbot, "plot")
    select(panel, 2)
    assert len(viewer.layers) == 2, "a new plot shows again"


def test_few_points_are_an_error_that_says_what_to_do(panel: Any, qtbot: Any) -> None:
    panel.plot.what.key = "images"
    assert "expected at least three points" in run(panel, qtbot, "plot")
    panel.plot.what.key = "objects"
    assert "no Labels layer of objects is chosen" in run(panel, qtbot, "plot")


def test_old_sets_and_points_are_let_go(panel: Any, fake: Any, qtbot: Any) -> None:
    run(panel, qtbot, "plot")
    first = set(fake.sets) | set(fake.points)
    run(panel, qtbot, "plot")
    run(panel, qtbot, "plot")
    assert first <= set(fake.forgotten)
    assert len(fake.sets) <= 2


def test_export_saves_figures_here_and_points_in_the_worker(
    panel: Any, fake: Any, qtbot: Any, tmp_path: Path
) -> None:
    run(panel, qtbot, "plot")
    select(panel, 1)
    panel.linked.dock.give_clicked.emit("round")
    panel.actions.ask_path = lambda suffix: str(tmp_path / f"out.{suffix}")
    panel.linked.dock.export_chosen.emit("png")
    assert (tmp_path / "out.png").stat().st_size > 1000
    panel.linked.dock.export_chosen.emit("csv")
    qtbot.waitUntil(lambda: not panel.busy)
    extra = fake.last("explore_export").payload["extra"]
    assert set(extra) == {"pca_1", "pca_2", "class", "selected"}
    assert extra["class"][1] == "round"
    assert "Saved 35 points" in panel.runbar.status.text()
    panel.actions.ask_path = lambda suffix: str(tmp_path / "missing" / f"out.{suffix}")
    panel.linked.dock.export_chosen.emit("png")
    assert "could not be written" in panel.runbar.status.text()


# -- similarity ----------------------------------------------------------------------------------


def test_clicks_make_a_heat_map_and_labels_live(
    panel: Any, viewer: Any, fake: Any, qtbot: Any
) -> None:
    layer = viewer.layers["cells"]
    viewer.layers.selection.active = layer
    run(panel, qtbot, "similar")
    tool = panel.similarity
    tool._on_click(patch_at(layer, 1, 2), 1, ())
    qtbot.waitUntil(lambda: "cells · similarity" in viewer.layers)
    heat = viewer.layers["cells · similarity"]
    assert np.unravel_index(np.argmax(heat.data), heat.data.shape) == (20, 34)
    np.testing.assert_array_equal(heat.affine.affine_matrix, layer.affine.affine_matrix)
    qtbot.waitUntil(lambda: "cells · similar" in viewer.layers)
    labels = viewer.layers["cells · similar"]
    assert panel.similar.slider.value() == pytest.approx(0.7), "suggested"
    np.testing.assert_array_equal(labels.data == 1, heat.data >= np.float32(0.7))
    panel.similar.slider.setValue(0.9)
    np.testing.assert_array_equal(labels.data == 1, heat.data >= np.float32(0.9))
    tool._on_click(patch_at(layer, 3, 5), 2, ())
    qtbot.waitUntil(lambda: len(fake.last("similarity").payload["negative"]) == 1)
    assert panel.similar.slider.value() == pytest.approx(0.9), "a threshold of the user stays"
    assert len(viewer.layers["cells · clicks"].data) == 2
    assert viewer.layers.selection.active is layer
    panel.similar.undo.click()
    assert len(viewer.layers["cells · clicks"].data) == 1
    panel.similar.keep.click()
    panel.similar.clear.click()
    assert [x.name for x in viewer.layers] == ["cells", "cells · alike"]


def test_a_drawing_tool_rests_while_clicks_are_taken(panel: Any, viewer: Any, qtbot: Any) -> None:
    labels = viewer.add_labels(np.zeros((HEIGHT, WIDTH), int), name="mine", **GEOMETRY)
    labels.mode = "paint"
    run(panel, qtbot, "similar")
    assert labels.mode == "pan_zoom"
    panel.similar.stop.click()
    assert labels.mode == "paint"
    assert panel.similarity._listener._on_drag not in viewer.mouse_drag_callbacks


def test_a_heat_map_that_the_user_painted_over_stays(panel: Any, viewer: Any, qtbot: Any) -> None:
    run(panel, qtbot, "similar")
    panel.similarity._on_click(patch_at(viewer.layers["cells"], 1, 2), 1, ())
    qtbot.waitUntil(lambda: "cells · similar" in viewer.layers)
    labels = viewer.layers["cells · similar"]
    labels.data_setitem((np.array([0]), np.array([0])), 1)
    panel.similar.clear.click()
    assert labels in viewer.layers
    assert "cells · similarity" not in viewer.layers


def test_clicks_outlive_a_worker_that_was_killed(
    panel: Any, viewer: Any, fake: Any, qtbot: Any
) -> None:
    run(panel, qtbot, "similar")
    layer = viewer.layers["cells"]
    panel.similarity._on_click(patch_at(layer, 1, 2), 1, ())
    qtbot.waitUntil(lambda: "cells · similarity" in viewer.layers)
    fake.restart()
    panel.similarity._on_click(patch_at(layer, 0, 1), 1, ())
    qtbot.waitUntil(lambda: fake.count("tokens") == 2)
    qtbot.waitUntil(lambda: not panel.busy and not panel.similarity._asker.busy)
    assert len(fake.last("similarity").payload["positive"]) == 2
    assert np.argmax(viewer.layers["cells · similarity"].data[6]) == 20


def test_planes_follow_the_slider_and_the_rest(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    viewer.add_image(np.zeros((3, HEIGHT, WIDTH), np.uint8), name="stack")
    panel = open_panel()
    panel.scope.buttons["stack"].click()
    run(panel, qtbot, "similar")
    panel.similarity.add_click((1, 20, 20), positive=True)
    qtbot.waitUntil(lambda: fake.count("similarity") >= 2)
    first, second = [j for j in fake.jobs if j.kind == "similarity"][:2]
    assert [index for _, index in first.payload["targets"]] == [(1,)]
    assert sorted(index for _, index in second.payload["targets"]) == [(0,), (2,)]
    qtbot.waitUntil(lambda: viewer.layers["stack · similarity"].data[2].max() > 0.9)


def test_a_first_click_that_excludes_says_what_to_do(panel: Any, viewer: Any, qtbot: Any) -> None:
    run(panel, qtbot, "similar")
    panel.similarity._on_click(patch_at(viewer.layers["cells"], 1, 2), 1, ("Alt",))
    assert "First click on what you look for" in panel.runbar.status.text()
    assert len(viewer.layers) == 1


def test_scores_colour_the_points_of_the_plot(
    panel: Any, viewer: Any, fake: Any, qtbot: Any
) -> None:
    run(panel, qtbot, "plot")
    run(panel, qtbot, "similar")
    panel.similarity._on_click(patch_at(viewer.layers["cells"], 1, 2), 1, ())
    qtbot.waitUntil(lambda: "similarity" in panel.linked.points.columns)
    panel.linked.colour("similarity")
    assert panel.linked.dock.plot.colouring.legend.title == "similarity"
    panel.tokens.layers.key = "early"  # tokens of other blocks cannot be compared
    run(panel, qtbot, "similar")
    qtbot.waitUntil(lambda: not panel.similarity._asker.busy)
    assert "points" not in fake.last("similarity").payload


# -- numbers -------------------------------------------------------------------------------------


def test_numbers_say_whether_tuning_helped(panel: Any, qtbot: Any) -> None:
    assert "Make a plot first" in run(panel, qtbot, "numbers")
    panel.tokens.adapter.key = "both"
    run(panel, qtbot, "plot")
    assert "fewer than two classes" in run(panel, qtbot, "numbers")
    for name, points in (("a", range(5)), ("b", range(5, 12))):
        select(panel, *points)
        panel.linked.dock.give_clicked.emit(name)
    text = run(panel, qtbot, "numbers")
    assert "Tuning helps here: 70 → 90 % right" in text
    table = panel.numbers.view.table.table
    assert list(table["class"]) == ["a", "b", "all"]
    assert table["right %\noriginal"][-1] == pytest.approx(70)
    assert table["right %\ntuned"][-1] == pytest.approx(90)


# -- the rest ------------------------------------------------------------------------------------


def test_a_restarted_worker_is_asked_again_for_tokens(panel: Any, fake: Any, qtbot: Any) -> None:
    panel.similarity._sets = ()
    run(panel, qtbot, "plot")
    fake.restart()
    panel.linked.colours_wanted.emit("cluster:kmeans")
    qtbot.waitUntil(lambda: not panel.busy)
    assert "make the plot again" in panel.runbar.status.text()
    assert "35 patches" in run(panel, qtbot, "plot")


@pytest.mark.parametrize("error", [WorkerError("the worker process stopped"), InputError("bad")])
def test_errors_of_the_worker_are_said(panel: Any, fake: Any, qtbot: Any, error: Any) -> None:
    fake.silent = {"tokens"}
    panel.runbar.run.click()
    fake.last("tokens").send("error", error=error)
    qtbot.waitUntil(lambda: not panel.busy)
    assert str(error) in panel.runbar.status.text()
    assert panel.runbar.run.isEnabled()


def test_closing_takes_everything_of_ours_away(
    make_napari_viewer: Any, fake: Any, open_panel: Any, qtbot: Any
) -> None:
    window = make_napari_viewer()
    layer = window.add_image(np.zeros((HEIGHT, WIDTH), np.uint8), name="cells")
    panel = open_panel(window)
    run(panel, qtbot, "plot")
    select(panel, 1, 2)
    assert "Feature plot" in window.window.dock_widgets
    colour = panel.linked.dock.plot.look.background
    window.theme = "light"
    assert panel.linked.dock.plot.look.background != colour, "the theme is followed"
    window.window.remove_dock_widget(panel.linked.dock)
    assert panel.linked.dock is None
    assert list(window.layers) == [layer], "the overlay goes with the plot"
    panel.plot.reopen.click()
    assert panel.linked.dock is not None
    panel.modes.mode = "similar"
    window.window.remove_dock_widget(panel)
    assert "Feature plot" not in window.window.dock_widgets
    assert list(window.layers) == [layer]
    assert not window.mouse_move_callbacks
    assert panel.similarity._listener._on_drag not in window.mouse_drag_callbacks


def test_napari_closes_with_a_plot_open(
    make_napari_viewer: Any, open_panel: Any, qtbot: Any
) -> None:
    window = make_napari_viewer()
    window.add_image(np.zeros((HEIGHT, WIDTH), np.uint8), name="cells")
    panel = open_panel(window)
    run(panel, qtbot, "plot")
    select(panel, 1, 2)
    window.close()
    qtbot.wait(50)
