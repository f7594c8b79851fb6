"""The Predict panel with a worker that answers what the test says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils.notifications import notification_manager
from tests.widgets.fake_worker import MODELS, objects, summary, two_objects

from dinoscope.config import InstanceOptions
from dinoscope.errors import InputError
from dinoscope.widgets._client import controller_for
from dinoscope.widgets._results import is_result
from dinoscope.widgets.predict import PredictPanel

HEIGHT, WIDTH = 48, 60

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
def viewer(fake: Any) -> ViewerModel:
    """A viewer without a window: quicker, and all that most of the panel needs."""
    return ViewerModel()


@pytest.fixture
def window(make_napari_viewer: Any, fake: Any) -> Any:
    """A viewer with its window."""
    return make_napari_viewer()


@pytest.fixture
def open_panel(viewer: Any, qtbot: Any) -> Callable[..., PredictPanel]:
    def make(viewer: Any = viewer) -> PredictPanel:
        panel = PredictPanel(viewer)
        if hasattr(viewer, "window"):
            viewer.window.add_dock_widget(panel, name="Predict")
        else:
            qtbot.addWidget(panel, before_close_func=PredictPanel.teardown)
        panel.controller.warm_up()
        qtbot.waitUntil(lambda: bool(panel.controller.models))
        return panel

    return make


def run(panel: PredictPanel, fake: Any, qtbot: Any) -> Any:
    """Press Run and return the worker's job."""
    before = fake.count("predict")
    panel.runbar.run.click()
    assert fake.count("predict") == before + 1, panel.runbar.status.text()
    return fake.last("predict")


def finish(panel: PredictPanel, job: Any, qtbot: Any, **changes: Any) -> None:
    job.done(run="run1", summary=summary(**changes))
    qtbot.waitUntil(lambda: not panel.runbar.busy)


def test_run_makes_layers_exactly_where_the_source_is(
    window: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    layer = window.add_image(np.zeros((HEIGHT, WIDTH), np.uint8), name="cells", **GEOMETRY)
    panel = open_panel(window)
    for task in ("semantic", "depth", "pca"):
        panel.tasks.boxes[task].setChecked(True)
    job = run(panel, fake, qtbot)
    assert set(job.payload["options"].tasks) == {"instance", "semantic", "depth", "pca"}
    assert job.payload["model"] == "embedded"
    assert job.images["image"].pixel_size_um["Y"] > 0
    job.plane(
        (),
        arrays={
            "instance": two_objects(HEIGHT, WIDTH),
            "semantic": np.ones((HEIGHT, WIDTH), np.uint8),
            "depth": np.ones((HEIGHT, WIDTH), np.float32),
            "pca": np.zeros((HEIGHT, WIDTH, 3), np.float32),
        },
        objects=objects(1, 2),
    )
    finish(panel, job, qtbot)
    results = [x for x in window.layers if x is not layer]
    assert [x.name for x in results] == [
        "cells · PCA",
        "cells · depth",
        "cells · classes",
        "cells · instances",
    ]
    for result in results:
        for name in ("scale", "translate", "rotate", "shear"):
            np.testing.assert_array_equal(getattr(result, name), getattr(layer, name))
        np.testing.assert_array_equal(result.affine.affine_matrix, layer.affine.affine_matrix)
        assert result.units == layer.units
        assert result.axis_labels == layer.axis_labels
        assert result.metadata["dinoscope"]["model"] == "embedded"
    instances = window.layers["cells · instances"]
    assert instances.features["area_px"].tolist() == [10, 20]
    assert "2 objects" in panel.runbar.status.text()
    assert "2 objects" in notification_manager.records[-1].message
    assert window.layers["cells · classes"].features["class"].tolist()[1] == "nucleus"


def test_active_layer_and_tool_stay_through_a_run(
    window: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    window.add_image(np.zeros((HEIGHT, WIDTH)), name="cells")
    labels = window.add_labels(np.zeros((HEIGHT, WIDTH), np.uint8), name="mine")
    labels.mode = "paint"
    panel = open_panel(window)
    job = run(panel, fake, qtbot)
    job.plane((), arrays={"instance": two_objects(HEIGHT, WIDTH)}, objects=objects(1, 2))
    finish(panel, job, qtbot)
    assert window.layers.selection.active is labels
    assert labels.mode == "paint"


@pytest.mark.parametrize(
    ("shape", "labels", "axes", "plane_axes", "result"),
    [
        ((5, HEIGHT, WIDTH), None, "ZYX", "Z", (5, HEIGHT, WIDTH)),
        ((5, HEIGHT, WIDTH), ("t", "y", "x"), "TYX", "T", (5, HEIGHT, WIDTH)),
        ((2, 3, HEIGHT, WIDTH), ("c", "z", "y", "x"), "CZYX", "Z", (3, HEIGHT, WIDTH)),
        ((3, 2, HEIGHT, WIDTH), ("z", "c", "y", "x"), "ZCYX", "Z", (3, 1, HEIGHT, WIDTH)),
        (
            (2, 3, 2, HEIGHT, WIDTH),
            ("t", "z", "c", "y", "x"),
            "TZCYX",
            "TZ",
            (2, 3, 1, HEIGHT, WIDTH),
        ),
        ((HEIGHT, WIDTH, 4), ("y", "x", "z"), "YXZ", "Z", (HEIGHT, WIDTH, 4)),
    ],
)
def test_axes_in_any_order(
    viewer: Any,
    open_panel: Any,
    fake: Any,
    qtbot: Any,
    shape: tuple[int, ...],
    labels: Any,
    axes: str,
    plane_axes: str,
    result: tuple[int, ...],
) -> None:
    layer = viewer.add_image(np.zeros(shape, np.uint8), name="stack", axis_labels=labels, rgb=False)
    panel = open_panel()
    panel.scope.buttons["stack"].click()
    job = run(panel, fake, qtbot)
    image = job.images["image"]
    assert image.axes == axes
    assert image.plane_axes == plane_axes
    assert job.payload["options"].plane is None
    first = 1
    for index in np.ndindex(*image.plane_shape):
        job.plane(
            index,
            arrays={"instance": two_objects(HEIGHT, WIDTH, first)},
            objects=objects(first, first + 1),
        )
        first += 2
    finish(panel, job, qtbot, planes=int(np.prod(image.plane_shape)))
    instances = viewer.layers["stack · instances"]
    assert instances.data.shape == result
    assert len(np.unique(instances.data)) == first
    last = tuple(n - 1 for n in shape)
    world = layer.data_to_world(last)[-instances.ndim :]
    at = tuple(np.round(instances.world_to_data(world)).astype(int))
    assert instances.data[at] == first - 1


def test_rgb_and_multiscale(viewer: Any, open_panel: Any, fake: Any, qtbot: Any) -> None:
    viewer.add_image(np.zeros((HEIGHT, WIDTH, 3), np.uint8), name="tissue", rgb=True)
    levels = [np.zeros((HEIGHT, WIDTH)), np.zeros((HEIGHT // 2, WIDTH // 2))]
    pyramid = viewer.add_image(levels, multiscale=True, name="pyramid")
    panel = open_panel()
    panel.source.combo.layer = viewer.layers["tissue"]
    assert run(panel, fake, qtbot).images["image"].axes == "YXS"
    panel.runbar.cancel.click()
    qtbot.waitUntil(lambda: not panel.runbar.busy)
    panel.source.combo.layer = pyramid
    assert run(panel, fake, qtbot).images["image"].shape == (HEIGHT, WIDTH)


def test_choosing_and_running_reads_no_plane_in_the_window(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    computed: list[int] = []

    def plane(block_info: Any = None) -> np.ndarray:
        computed.append(block_info[None]["chunk-location"][0])
        return np.zeros((1, HEIGHT, WIDTH), np.uint16)

    stack = da.map_blocks(plane, chunks=((1,) * 50, (HEIGHT,), (WIDTH,)), dtype=np.uint16)
    viewer.add_image(stack, contrast_limits=(0, 1), name="lazy", rgb=False)
    shown = set(computed)
    panel = open_panel()
    panel.scope.buttons["stack"].click()
    job = run(panel, fake, qtbot)
    assert set(computed) == shown
    np.asarray(job.images["image"].data[30])
    assert set(computed) == shown | {30}


def test_several_layers_as_channels(viewer: Any, open_panel: Any, fake: Any, qtbot: Any) -> None:
    for name in ("red", "green", "blue"):
        viewer.add_image(np.zeros((HEIGHT, WIDTH), np.uint16), name=name)
    viewer.add_image(np.zeros((HEIGHT, WIDTH + 1), np.uint16), name="other")
    panel = open_panel()
    panel.source.combo.layer = viewer.layers["green"]
    panel.source.several.setChecked(True)
    assert panel.source.several.isChecked()
    listed = [panel.source.channels.item(i).text() for i in range(panel.source.channels.count())]
    assert listed == ["red", "green", "blue"]
    job = run(panel, fake, qtbot)
    assert job.images["image"].axes == "CYX"
    assert job.images["image"].shape == (3, HEIGHT, WIDTH)
    job.plane((), arrays={"instance": two_objects(HEIGHT, WIDTH)}, objects=objects(1, 2))
    finish(panel, job, qtbot)
    assert panel.source.several.isChecked()
    assert [x.name for x in viewer.layers][:4] == ["red", "green", "green · instances", "blue"]


def test_this_slice_runs_one_plane_and_lies_on_it(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    layer = viewer.add_image(np.zeros((5, HEIGHT, WIDTH)), name="stack", scale=(2, 1, 1))
    viewer.dims.set_point(0, 6.0)
    panel = open_panel()
    job = run(panel, fake, qtbot)
    assert job.payload["options"].plane == (3,)
    job.plane((3,), arrays={"instance": two_objects(HEIGHT, WIDTH)}, objects=objects(1, 2))
    finish(panel, job, qtbot)
    result = viewer.layers["stack · instances"]
    assert result.data.shape == (1, HEIGHT, WIDTH)
    np.testing.assert_allclose(result.data_to_world((0, 0, 0)), layer.data_to_world((3, 0, 0)))


# -- edits, removal --------------------------------------------------------------------------------


def test_an_edited_result_is_kept_and_the_next_run_adds_a_layer(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="cells")
    panel = open_panel()
    for _ in range(2):
        job = run(panel, fake, qtbot)
        job.plane((), arrays={"instance": two_objects(HEIGHT, WIDTH)}, objects=objects(1, 2))
        finish(panel, job, qtbot)
        assert len(viewer.layers) == 2
    edited = viewer.layers["cells · instances"]
    edited.paint((5, 5), 7)
    mine = edited.data.copy()
    job = run(panel, fake, qtbot)
    job.plane((), arrays={"instance": two_objects(HEIGHT, WIDTH)}, objects=objects(1, 2))
    finish(panel, job, qtbot)
    assert len(viewer.layers) == 3
    np.testing.assert_array_equal(edited.data, mine)
    panel.results.remove.click()
    assert [x.name for x in viewer.layers] == ["cells", edited.name]
    assert "Kept, because you changed them: 'cells · instances'" in panel.runbar.status.text()


def test_a_layer_deleted_while_it_runs_stops_the_run(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    viewer.add_image(np.zeros((3, HEIGHT, WIDTH)), name="cells")
    panel = open_panel()
    panel.scope.buttons["stack"].click()
    job = run(panel, fake, qtbot)
    job.plane((0,), arrays={"instance": two_objects(HEIGHT, WIDTH)}, objects=objects(1, 2))
    qtbot.waitUntil(lambda: len(viewer.layers) == 2)
    viewer.layers.remove("cells")
    qtbot.waitUntil(lambda: not panel.runbar.busy)
    assert job.cancel_asked
    assert "'cells' was removed" in panel.runbar.status.text()


def test_data_changed_while_it_runs_is_said(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    layer = viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="cells")
    panel = open_panel()
    job = run(panel, fake, qtbot)
    layer.data = np.ones((HEIGHT, WIDTH))
    job.plane((), arrays={"instance": two_objects(HEIGHT, WIDTH)}, objects=objects(1, 2))
    finish(panel, job, qtbot)
    assert "changed meanwhile" in panel.runbar.status.text()


def test_cancel_then_run_again(viewer: Any, open_panel: Any, fake: Any, qtbot: Any) -> None:
    viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="cells")
    panel = open_panel()
    job = run(panel, fake, qtbot)
    assert not panel.runbar.run.isEnabled()
    job.send("progress", step="encode", done=1, total=4, seconds_left=3.0, message="encoding")
    qtbot.waitUntil(lambda: "3.0 s left" in panel.runbar.status.text())
    assert panel.runbar.bar.value() == 250
    panel.runbar.cancel.click()
    qtbot.waitUntil(lambda: not panel.runbar.busy)
    assert job.cancel_asked
    assert panel.runbar.status.text() == "Cancelled."
    assert panel.runbar.run.isEnabled()
    job = run(panel, fake, qtbot)
    job.plane((), arrays={"instance": two_objects(HEIGHT, WIDTH)}, objects=objects(1, 2))
    finish(panel, job, qtbot)
    assert "cells · instances" in viewer.layers


def test_the_activity_dock_shows_the_run_and_can_cancel_it(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    from napari.utils.progress import progress

    viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="cells")
    panel = open_panel()
    before = len(progress._all_instances)
    job = run(panel, fake, qtbot)
    bar = panel.runbar._dock_bar
    assert bar in progress._all_instances
    job.send("progress", step="encode", done=1, total=2)
    qtbot.waitUntil(lambda: bar.n == 500)
    bar.cancel()
    qtbot.waitUntil(lambda: not panel.runbar.busy)
    assert job.cancel_asked
    assert len(progress._all_instances) == before


def test_errors_are_shown_and_nothing_is_lost(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="cells")
    panel = open_panel()
    job = run(panel, fake, qtbot)
    job.send("error", error=InputError("the image is constant", hint="Choose another."))
    qtbot.waitUntil(lambda: not panel.runbar.busy)
    assert "the image is constant" in panel.runbar.status.text()
    assert "the image is constant" in notification_manager.records[-1].message
    assert [x.name for x in viewer.layers] == ["cells"]
    assert panel.runbar.run.isEnabled()


# -- live controls ---------------------------------------------------------------------------------


def test_threshold_acts_without_the_network_latest_wins(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="cells")
    panel = open_panel()
    job = run(panel, fake, qtbot)
    job.plane((), arrays={"instance": two_objects(HEIGHT, WIDTH)}, objects=objects(1, 2))
    finish(panel, job, qtbot)
    for value in (0.6, 0.7, 0.8):
        panel.adjust.controls["threshold"].value = value
    qtbot.waitUntil(lambda: fake.count("redecode") == 1)
    live = fake.last("redecode")
    assert live.payload["options"] == InstanceOptions(threshold=0.8)
    assert live.payload["indices"] == [()]
    live.plane((), arrays={"instance": np.ones((HEIGHT, WIDTH), np.uint32)}, objects=objects(1))
    live.done(next_id=2)
    layer = viewer.layers["cells · instances"]
    qtbot.waitUntil(lambda: layer.data.min() == 1)
    assert fake.count("predict") == 1
    qtbot.waitUntil(lambda: fake.count("redecode") == 2)
    rest = fake.last("redecode")
    assert "indices" not in rest.payload
    assert "image" in rest.images
    rest.plane((), arrays={"instance": np.ones((HEIGHT, WIDTH), np.uint32)}, objects=objects(1))
    rest.done(next_id=2)
    qtbot.waitUntil(lambda: layer.features["area_px"].tolist() == [10])
    assert layer.metadata["dinoscope"]["options"]["instance"]["threshold"] == 0.8
    assert "1 objects" in panel.results.line.text()


def test_adjusting_an_edited_result_makes_a_new_layer(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="cells")
    panel = open_panel()
    job = run(panel, fake, qtbot)
    job.plane((), arrays={"instance": two_objects(HEIGHT, WIDTH)}, objects=objects(1, 2))
    finish(panel, job, qtbot)
    edited = viewer.layers["cells · instances"]
    edited.paint((5, 5), 7)
    mine = edited.data.copy()
    panel.adjust.controls["min_size_px"].value = 50
    qtbot.waitUntil(lambda: fake.count("redecode") == 1)
    live = fake.last("redecode")
    live.plane((), arrays={"instance": np.ones((HEIGHT, WIDTH), np.uint32)}, objects=objects(1))
    live.done(next_id=2)
    qtbot.waitUntil(lambda: len(viewer.layers) == 3)
    np.testing.assert_array_equal(edited.data, mine)
    assert "You have edited" in panel.runbar.status.text()


# -- choices ---------------------------------------------------------------------------------------


def test_tasks_without_a_head_are_grey_and_say_which_model_has_one(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="cells")
    panel = open_panel()
    panel.model.choose("only-instances")
    assert not panel.tasks.boxes["depth"].isEnabled()
    assert "embedded" in panel.tasks.boxes["depth"].toolTip()
    assert panel.tasks.boxes["pca"].isEnabled()
    panel.model.choose("embedded")
    assert panel.tasks.boxes["depth"].isEnabled()


def test_missing_weights_are_asked_for_with_one_button(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="cells")
    panel = open_panel()
    panel.model.choose("dinov2_vits14")
    assert not panel.model.download.isHidden()
    assert not run(panel, fake, qtbot).payload["allow_download"]
    panel.runbar.cancel.click()
    qtbot.waitUntil(lambda: not panel.runbar.busy)
    panel.model.download.click()
    assert run(panel, fake, qtbot).payload["allow_download"]


def test_the_cost_is_told_before_run(viewer: Any, open_panel: Any, fake: Any, qtbot: Any) -> None:
    viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="cells")
    panel = open_panel()
    qtbot.waitUntil(lambda: "3.2 s" in panel.runbar.cost.text())
    assert "640 MB" in panel.runbar.cost.text()
    assert panel.runbar.cost.text().startswith("About")


def test_a_cost_that_hangs_on_an_unknown_diameter_is_said_to_be_the_least(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    fake.answers["estimate"] = {"seconds": 3.2, "memory_mb": 640, "at_least": 1.0}
    viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="cells")
    panel = open_panel()
    qtbot.waitUntil(lambda: panel.runbar.cost.text().startswith("At least 3.2 s"))
    assert fake.last("estimate").payload["diameter_px"] is None


def test_a_card_that_torch_cannot_use_is_said(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    fake.answers["device"] = {"device": "cpu", "name": "CPU", "note": "There is an NVIDIA card."}
    viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="cells")
    panel = open_panel()
    qtbot.waitUntil(lambda: not panel.nvidia.isHidden())
    assert "NVIDIA" in panel.nvidia.text()


def test_settings_are_remembered_for_each_source(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    first = viewer.add_image(np.zeros((3, HEIGHT, WIDTH)), name="first")
    second = viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="second")
    panel = open_panel()
    panel.source.combo.layer = first
    panel.scope.buttons["stack"].click()
    panel.diameter.diameter_px = 33.0
    panel.adjust.controls["threshold"].value = 0.7
    panel.tasks.boxes["depth"].setChecked(True)
    panel.more.controls["denoise"].value = True
    panel.source.combo.layer = second
    panel.diameter.diameter_px = None
    panel.adjust.controls["threshold"].value = 0.4
    panel.tasks.boxes["depth"].setChecked(False)
    panel.more.controls["denoise"].value = False
    panel.source.combo.layer = first
    options = panel.request().options
    assert options.diameter_px == 33
    assert options.instance.threshold == pytest.approx(0.7)
    assert set(options.tasks) == {"instance", "depth"}
    assert options.denoise
    assert panel.scope.scope == "stack"


def test_diameter_is_measured_and_shown_as_a_circle_that_does_not_stay(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    viewer.add_image(np.zeros((3, HEIGHT, WIDTH)), name="cells", scale=(1, 0.5, 0.5))
    panel = open_panel()
    panel.diameter.estimate.click()
    fake.last("diameter").done(diameter_px=18.4)
    qtbot.waitUntil(lambda: panel.diameter.diameter_px == 18.4)
    circle = viewer.layers[-1]
    extent = np.ptp(circle.data[0], axis=0)
    np.testing.assert_allclose(extent, (18.4, 18.4))
    assert circle.scale.tolist() == [0.5, 0.5]
    panel.diameter.diameter_px = 24.0
    np.testing.assert_allclose(np.ptp(circle.data[0], axis=0), (24, 24))
    run(panel, fake, qtbot)
    assert [x.name for x in viewer.layers] == ["cells"]
    panel.runbar.cancel.click()


def test_dark_and_flat_images_travel_with_the_run(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="cells")
    viewer.add_image(np.full((HEIGHT, WIDTH), 3.0), name="dark field")
    panel = open_panel()
    panel.source.combo.layer = viewer.layers["cells"]
    panel.more.dark.layer = viewer.layers["dark field"]
    calibration = run(panel, fake, qtbot).payload["calibration"]
    assert calibration["dark"].min() == 3
    assert calibration["flat"] is None


def test_bad_choices_are_said_and_nothing_runs(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    panel = open_panel()
    assert not panel.runbar.run.isEnabled()
    viewer.add_image(np.zeros((3, HEIGHT, WIDTH)), name="cells")
    assert panel.runbar.run.isEnabled()
    panel.tasks.boxes["instance"].setChecked(False)
    panel.runbar.run.click()
    assert "no task" in panel.runbar.status.text()
    panel.tasks.boxes["instance"].setChecked(True)
    panel.more.controls["channels"].widget.setText("one")
    panel.runbar.run.click()
    assert "list of numbers" in panel.runbar.status.text()
    assert fake.count("predict") == 0


# -- classes, tables -------------------------------------------------------------------------------


def test_class_scores_are_shown_and_saved(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any, tmp_path: Path
) -> None:
    layer = viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="cells")
    panel = open_panel()
    panel.tasks.wanted = ["classification"]
    job = run(panel, fake, qtbot)
    table = {
        "image": np.array(["cells"], dtype=object),
        "class": np.array(["healthy"], dtype=object),
        "probability": np.array([0.91]),
    }
    job.plane((), arrays={}, classes=table)
    finish(panel, job, qtbot)
    assert panel.results.classes.item(0, 1).text() == "healthy"
    assert layer.metadata["dinoscope"]["classification"]["class"] == ["healthy"]
    assert not is_result(layer)  # it is still an image of the user's, and offered as one
    assert [x.name for x in viewer.layers] == ["cells"]
    panel.results.ask_csv = lambda what: str(tmp_path / "classes.csv")
    panel.results.save_classes.click()
    assert "healthy" in (tmp_path / "classes.csv").read_text()


def test_objects_are_saved_as_csv(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any, tmp_path: Path
) -> None:
    viewer.add_image(np.zeros((2, HEIGHT, WIDTH)), name="cells")
    panel = open_panel()
    panel.scope.buttons["stack"].click()
    job = run(panel, fake, qtbot)
    for z, first in ((1, 3), (0, 1)):  # planes may come in any order
        job.plane(
            (z,),
            arrays={"instance": two_objects(HEIGHT, WIDTH, first)},
            objects=objects(first, first + 1),
        )
    finish(panel, job, qtbot)
    panel.results.ask_csv = lambda what: str(tmp_path / f"{what}.csv")
    panel.results.save_objects.click()
    lines = (tmp_path / "objects.csv").read_text().splitlines()
    assert lines[0].startswith("label,")
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3", "4"]
    panel.results.ask_csv = lambda what: str(tmp_path / "objects.csv" / "no folder.csv")
    panel.results.save_objects.click()
    assert panel.runbar.status.property("tone") == "error"


# -- height map ------------------------------------------------------------------------------------


def test_height_map_of_a_stack(viewer: Any, open_panel: Any, fake: Any, qtbot: Any) -> None:
    viewer.add_image(
        np.zeros((6, HEIGHT, WIDTH)), name="stack", scale=(2, 0.5, 0.5), units=("um",) * 3
    )
    panel = open_panel()
    assert not panel.height_card.isHidden()
    assert "2 µm apart" in panel.height.about.text()
    panel.height.run.click()
    job = fake.last("heightmap")
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[:10] = False
    job.plane(
        (),
        arrays={
            "height": np.full((HEIGHT, WIDTH), 4.0, np.float32),
            "confidence": np.ones((HEIGHT, WIDTH), np.float32),
            "all_in_focus": np.ones((HEIGHT, WIDTH), np.float32),
            "mask": mask,
        },
        unit="µm",
    )
    job.done(unit="µm", step_um=2.0)
    qtbot.waitUntil(lambda: not panel.runbar.busy)
    height = viewer.layers["stack · height"]
    assert height.data.shape == (HEIGHT, WIDTH)
    assert height.scale.tolist() == [0.5, 0.5]
    assert np.isnan(height.data[0, 0])
    assert height.data[20, 20] == 4
    assert height.metadata["dinoscope"]["unit"] == "µm"
    assert not viewer.layers["stack · in focus"].visible


def test_no_height_map_without_a_stack(viewer: Any, open_panel: Any) -> None:
    viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="flat")
    assert open_panel().height_card.isHidden()


# -- comparing models ------------------------------------------------------------------------------


@pytest.fixture
def shown(make_napari_viewer: Any, fake: Any) -> Any:
    return make_napari_viewer(show=True)


def test_models_are_tried_on_the_view_and_cleared_again(shown: Any, fake: Any, qtbot: Any) -> None:
    layer = shown.add_image(np.random.default_rng(0).random((HEIGHT, WIDTH)), name="cells")
    panel = PredictPanel(shown)
    shown.window.add_dock_widget(panel, name="Predict")
    qtbot.waitUntil(lambda: bool(panel.controller.models))
    qtbot.wait(200)
    panel.trials.try_button.click()
    for name in ("embedded", "only-instances"):
        qtbot.waitUntil(lambda name=name: fake.last("predict").payload["model"] == name)
        job = fake.last("predict")
        y0, x0, y1, x1 = job.payload["options"].region
        job.plane((), arrays={"instance": two_objects(y1 - y0, x1 - x0)}, objects=objects(1, 2))
        job.done(run="r", summary=summary())
        qtbot.waitUntil(lambda job=job: fake.last("predict") is not job or not panel.runbar.busy)
    qtbot.waitUntil(lambda: not panel.runbar.busy)
    assert [x.name for x in shown.layers] == [
        "cells",
        "cells · view [embedded]",
        "cells · instances [embedded]",
        "cells · view [only-instances]",
        "cells · instances [only-instances]",
    ]
    assert panel.trials.table.rowCount() == 2
    assert not layer.visible
    first, second = (shown.layers[f"cells · view [{m}]"] for m in ("embedded", "only-instances"))
    over = shown.layers["cells · instances [only-instances]"]
    np.testing.assert_array_equal(over.translate, second.translate)
    assert second.translate[1] - first.translate[1] > first.data.shape[1]
    panel.trials.beside.setChecked(False)
    np.testing.assert_array_equal(second.translate, first.translate)
    assert layer.visible
    panel.trials.table.selectRow(0)
    visible = {x.name for x in shown.layers if x.visible}
    assert visible == {"cells", "cells · view [embedded]", "cells · instances [embedded]"}
    panel.trials.table.selectRow(1)
    panel.trials.use.click()
    assert panel.model.model == "only-instances"
    panel.trials.clear.click()
    assert [x.name for x in shown.layers] == ["cells"]


def test_the_visible_region_is_what_is_in_view(shown: Any, fake: Any, qtbot: Any) -> None:
    layer = shown.add_image(
        np.zeros((200, 300)), name="cells", scale=(0.5, 0.5), translate=(10, 20), units=("um", "um")
    )
    panel = PredictPanel(shown)
    shown.window.add_dock_widget(panel, name="Predict")
    qtbot.wait(200)
    shown.fit_to_view()
    qtbot.wait(100)
    panel.scope.buttons["region"].click()
    assert panel.request().options.region == (0, 0, 200, 300)
    shown.scene.camera.zoom *= 4
    qtbot.wait(200)
    y0, x0, y1, x1 = region = panel.request().options.region
    assert 0 < y0 < y1 < 200
    assert 0 < x0 < x1 < 300
    panel.runbar.run.click()
    job = fake.last("predict")
    assert job.payload["options"].region == region
    job.plane((), arrays={"instance": two_objects(y1 - y0, x1 - x0)}, objects=objects(1, 2))
    finish(panel, job, qtbot)
    result = shown.layers["cells · instances"]
    np.testing.assert_allclose(result.data_to_world((0, 0)), layer.data_to_world((y0, x0)))
    shown.scene.camera.center = (0, 1e6, 1e6)
    qtbot.wait(200)
    panel.runbar.run.click()
    assert "out of view" in panel.runbar.status.text()


# -- life ------------------------------------------------------------------------------------------


def test_closing_the_dock_stops_the_run_and_takes_the_circle_away(
    window: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    window.add_image(np.zeros((HEIGHT, WIDTH)), name="cells")
    panel = open_panel(window)
    panel.diameter.circle.setChecked(True)
    assert len(window.layers) == 2
    job = run(panel, fake, qtbot)
    panel.diameter.circle.setChecked(True)
    window.window.remove_dock_widget(panel)
    assert job.cancel_asked
    assert [x.name for x in window.layers] == ["cells"]
    assert fake.closed
    panel.teardown()  # again does nothing
    window.add_image(np.zeros((HEIGHT, WIDTH)), name="later")


def test_a_model_file_dropped_on_napari_is_chosen(
    window: Any, fake: Any, qtbot: Any, tmp_path: Path
) -> None:
    from dinoscope.widgets._reader import get_reader

    path = tmp_path / "yeast.dinoscope"
    path.write_bytes(b"")
    known = {"name": str(path), "kind": "model", "tasks": ("instance",), "where": str(path)}
    fake.answers["models"] = {"models": [*MODELS, {**known, "available": True, "note": ""}]}
    assert get_reader("image.tif") is None
    assert window.open(str(path), plugin="napari-dinoscope") == []
    (panel,) = controller_for(window).panels(PredictPanel)
    qtbot.waitUntil(lambda: panel.model.entry.get("name") == str(path))
    assert panel.model.label == "yeast"
    assert len(window.layers) == 0
    # A panel that is opened afterwards begins with it, too.
    _, features = window.window.add_plugin_dock_widget("napari-dinoscope", "Features")
    qtbot.waitUntil(lambda: features.model.label == "yeast")


def test_no_layer_is_written_off_the_main_thread(
    make_napari_viewer_proxy: Any, fake: Any, qtbot: Any
) -> None:
    import threading

    viewer = make_napari_viewer_proxy()
    viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="cells")
    panel = PredictPanel(viewer.__wrapped__)
    panel.controller.warm_up()
    qtbot.waitUntil(lambda: bool(panel.controller.models))
    job = run(panel, fake, qtbot)

    def answer() -> None:
        job.plane((), arrays={"instance": two_objects(HEIGHT, WIDTH)}, objects=objects(1, 2))
        job.done(run="run1", summary=summary())

    thread = threading.Thread(target=answer)
    thread.start()
    thread.join()
    qtbot.waitUntil(lambda: not panel.runbar.busy)
    assert "cells · instances" in viewer.layers
    panel.teardown()
    panel.deleteLater()


# -- large results, full disks, files --------------------------------------------------------------


def test_large_results_live_in_a_file_and_edits_are_still_noticed(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zarr

    monkeypatch.setattr("dinoscope.widgets._store.MEMORY_LIMIT", 1000)
    viewer.add_image(np.zeros((4, HEIGHT, WIDTH)), name="large")
    panel = open_panel()
    panel.scope.buttons["stack"].click()

    def once(first: int) -> None:
        job = run(panel, fake, qtbot)
        for z in range(4):
            ids = two_objects(HEIGHT, WIDTH, first + 2 * z)
            job.plane((z,), arrays={"instance": ids}, objects=objects(first + 2 * z))
        finish(panel, job, qtbot)

    once(1)
    layer = viewer.layers["large · instances"]
    assert isinstance(layer.data, zarr.Array)
    assert layer.data[3].max() == 8
    once(11)
    assert len(viewer.layers) == 2
    assert layer.data[3].max() == 18
    layer.paint((2, 40, 5), 99)
    once(1)
    assert len(viewer.layers) == 3
    assert layer.data[2, 40, 5] == 99
    assert layer.data[3].max() == 18


def test_a_full_disk_ends_the_run_with_words(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dinoscope.errors import OutputError
    from dinoscope.widgets._store import ResultStore

    viewer.add_image(np.zeros((3, HEIGHT, WIDTH)), name="cells")
    panel = open_panel()
    panel.scope.buttons["stack"].click()
    job = run(panel, fake, qtbot)
    job.plane((0,), arrays={"instance": two_objects(HEIGHT, WIDTH)}, objects=objects(1, 2))
    qtbot.waitUntil(lambda: len(viewer.layers) == 2)

    def full(*_: Any) -> None:
        raise OutputError("no space left on device")

    monkeypatch.setattr(ResultStore, "write", full)
    job.plane((1,), arrays={"instance": two_objects(HEIGHT, WIDTH)}, objects=objects(3, 4))
    qtbot.waitUntil(lambda: not panel.runbar.busy)
    assert job.cancel_asked
    assert "no space left" in panel.runbar.status.text()
    assert "kept in 'cells · instances'" in panel.runbar.status.text()
    assert viewer.layers["cells · instances"].data[0].max() == 2


def test_a_model_file_dropped_on_the_panel_is_chosen(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
    from qtpy.QtGui import QDragEnterEvent, QDropEvent

    panel = open_panel()
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile("/data/yeast.dinoscope")])
    copy, left, no = Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton, Qt.KeyboardModifier(0)
    enter = QDragEnterEvent(QPoint(5, 5), copy, data, left, no)
    panel.dragEnterEvent(enter)
    assert enter.isAccepted()
    panel.dropEvent(QDropEvent(QPointF(5, 5), copy, data, left, no))
    assert fake.last("models").payload["files"] == ["/data/yeast.dinoscope"]
    other = QMimeData()
    other.setUrls([QUrl.fromLocalFile("/data/cells.tif")])
    enter = QDragEnterEvent(QPoint(5, 5), copy, other, left, no)
    enter.ignore()
    panel.dragEnterEvent(enter)
    assert not enter.isAccepted()


def test_a_run_that_has_to_wait_for_a_training_says_so(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="cells")
    panel = open_panel()
    panel.controller.submit("train", {})
    run(panel, fake, qtbot)
    assert "until the training has ended" in panel.runbar.status.text()
    panel.runbar.cancel.click()


def test_sliders_change_the_objects_of_the_chosen_image_only(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    panel = open_panel()
    for name in ("first", "second"):
        panel.source.combo.layer = viewer.add_image(np.zeros((HEIGHT, WIDTH)), name=name)
        panel.source.combo.layer = viewer.layers[name]
        job = run(panel, fake, qtbot)
        job.plane((), arrays={"instance": two_objects(HEIGHT, WIDTH)}, objects=objects(1, 2))
        job.done(run=f"run of {name}", summary=summary())
        qtbot.waitUntil(lambda: not panel.runbar.busy)
    third = viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="third")
    panel.source.combo.layer = third
    panel.adjust.controls["threshold"].value = 0.8
    qtbot.wait(150)
    assert fake.count("redecode") == 0
    assert panel.results.line.text() == "Nothing yet."
    panel.source.combo.layer = viewer.layers["first"]
    panel.adjust.controls["threshold"].value = 0.7
    qtbot.waitUntil(lambda: fake.count("redecode") == 1)
    assert fake.last("redecode").payload["run"] == "run of first"


def test_after_a_cancelled_run_the_earlier_objects_can_still_be_changed(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    viewer.add_image(np.zeros((HEIGHT, WIDTH)), name="cells")
    panel = open_panel()
    job = run(panel, fake, qtbot)
    job.plane((), arrays={"instance": two_objects(HEIGHT, WIDTH)}, objects=objects(1, 2))
    finish(panel, job, qtbot)
    run(panel, fake, qtbot)
    panel.runbar.cancel.click()
    qtbot.waitUntil(lambda: not panel.runbar.busy)
    assert "2 objects" in panel.results.line.text()
    panel.adjust.controls["threshold"].value = 0.7
    qtbot.waitUntil(lambda: fake.count("redecode") == 1)
