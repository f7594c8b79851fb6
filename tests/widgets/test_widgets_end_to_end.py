"""A window, a real worker, a tiny model: run, adjust, cancel, kill, train, use what was trained."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from dinoscope.widgets._client import Controller
from dinoscope.widgets.finetune import FinetunePanel
from dinoscope.widgets.predict import PredictPanel
from dinoscope.worker.client import WorkerClient

SIDE = 112
PATIENCE_MS = 90_000


def blobs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image of discs, and their ids."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    ids = np.zeros((SIDE, SIDE), np.int32)
    for number, (y, x) in enumerate([(20, 20), (30, 80), (75, 30), (85, 85), (55, 55)], 1):
        ids[(rows - y) ** 2 + (columns - x) ** 2 < 100] = number
    image = 60.0 * (ids > 0) + rng.normal(20, 4, ids.shape)
    return image.clip(0, 255).astype(np.uint8), ids


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """A random model with heads for objects, which it sees in many places, and for two classes."""
    from dinoscope.models.checkpoint import save_model
    from dinoscope.models.model import Model
    from dinoscope.tasks.base import task

    heads = {
        "instance": task("instance").head_spec(()),
        "classification": task("classification").head_spec(("round", "long")),
    }
    path = tmp_path / "tiny.dinoscope"
    model = Model.fresh("tiny-test", heads, seed=3).eval()
    for name, weight in model.heads["instance"].named_parameters():
        if name == "out.weight":
            weight.data.mul_(30)  # maps that differ from place to place
    save_model(model, path, include_backbone=True)
    return path


@pytest.fixture
def controller(qtbot: Any) -> Iterator[Controller]:
    viewer = ViewerModel()
    controller = Controller(viewer, lambda: WorkerClient(threads=1, warm_up=False))
    controller._viewer = viewer  # the test's only reference to it
    yield controller
    controller.close()


@pytest.mark.slow
def test_the_main_job_with_a_real_worker(
    controller: Controller, model_file: Path, qtbot: Any, tmp_path: Path
) -> None:
    viewer = controller.results.viewer
    image, ids = blobs()
    stack = viewer.add_image(
        np.stack([image, image[::-1], image.T] * 6),  # long enough to be killed while it runs
        name="discs",
        scale=(2, 0.5, 0.5),
        units=("um",) * 3,
    )
    panel = PredictPanel(viewer, controller)
    qtbot.addWidget(panel, before_close_func=PredictPanel.teardown)

    def ended() -> None:
        qtbot.waitUntil(lambda: not panel.runbar.busy, timeout=PATIENCE_MS)

    # Drop the model, run the whole stack.
    controller.choose_model(str(model_file))
    qtbot.waitUntil(lambda: panel.model.entry.get("name") == str(model_file), timeout=PATIENCE_MS)
    assert not panel.tasks.boxes["semantic"].isEnabled()
    panel.tasks.wanted = ["instance", "pca", "classification"]
    panel.diameter.diameter_px = 20.0
    panel.adjust.controls["threshold"].value = 0.3
    panel.adjust.controls["min_size_px"].value = 0
    panel.scope.buttons["stack"].click()
    panel.runbar.run.click()
    ended()
    assert panel.runbar.status.text().startswith("Done"), panel.runbar.status.text()
    instances = viewer.layers["discs · instances"]
    assert instances.data.shape == stack.data.shape
    np.testing.assert_array_equal(instances.scale, stack.scale)
    assert instances.units == stack.units
    assert viewer.layers["discs · PCA"].data.shape == (*stack.data.shape, 3)
    count = int(instances.data.max())
    assert count > 3
    assert (np.unique(instances.data[instances.data > 0]) == np.arange(1, count + 1)).all()
    assert len(instances.features) == count
    assert panel.results.classes.rowCount() >= 3
    assert panel.results.classes.table["class"][0] in ("round", "long")

    # The cost line, from the worker's own calibration.
    qtbot.waitUntil(lambda: "About" in panel.runbar.cost.text(), timeout=PATIENCE_MS)

    # Live controls: with this smallest size every object is dropped.
    panel.adjust.controls["min_size_px"].value = 100_000
    qtbot.waitUntil(lambda: instances.data.max() == 0, timeout=PATIENCE_MS)
    panel.adjust.controls["min_size_px"].value = 0
    qtbot.waitUntil(lambda: instances.data.max() == count, timeout=PATIENCE_MS)
    qtbot.waitUntil(lambda: not panel.last_run.adjusting, timeout=PATIENCE_MS)

    # Cancel, then killed from outside, then run again.
    before = instances.data.copy()
    panel.runbar.run.click()
    panel.runbar.cancel.click()
    ended()
    assert panel.runbar.status.text().startswith("Cancelled")
    np.testing.assert_array_equal(instances.data, before)
    panel.runbar.run.click()
    # A job that has not begun would simply move to the next worker.
    qtbot.waitUntil(lambda: controller.client.state == "busy", timeout=PATIENCE_MS)
    os.kill(controller.client.pid, signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
    ended()
    assert "worker process stopped" in panel.runbar.status.text()
    assert viewer.layers["discs · instances"].data.max() == before.max()

    # Teach it the discs, and run what was learned.
    viewer.add_image(image, name="lesson")
    viewer.add_labels(ids, name="truth")
    school = FinetunePanel(viewer, controller)
    qtbot.addWidget(school, before_close_func=FinetunePanel.teardown)
    school.source.combo.layer = viewer.layers["lesson"]
    school.labels.layer = viewer.layers["truth"]
    school.base.choose(str(model_file))
    school.tune.setCurrentIndex(school.tune.findData("heads"))
    school.minutes.value = 0.1
    school.output.setText(str(tmp_path / "taught.dinoscope"))
    school.runbar.run.click()
    qtbot.waitUntil(lambda: not school.runbar.busy, timeout=PATIENCE_MS)
    assert school.runbar.status.text().startswith("Done"), school.runbar.status.text()
    assert school.curve.loss
    taught = str(tmp_path / "taught.dinoscope")
    qtbot.waitUntil(lambda: panel.model.entry.get("name") == taught, timeout=PATIENCE_MS)
    panel.source.combo.layer = viewer.layers["lesson"]
    assert panel.model.model == taught
    panel.runbar.run.click()
    ended()
    assert panel.runbar.status.text().startswith("Done"), panel.runbar.status.text()
    assert viewer.layers["lesson · instances"].metadata["dinoscope"]["model"] == "taught"


@pytest.mark.slow
def test_height_map_with_a_real_worker(controller: Controller, qtbot: Any) -> None:
    viewer = controller.results.viewer
    rng = np.random.default_rng(0)
    texture = rng.random((64, 64)).astype(np.float32)
    from scipy.ndimage import gaussian_filter

    stack = np.stack([gaussian_filter(texture, abs(z - 3) + 0.1) for z in range(7)])
    viewer.add_image(stack, name="focus", scale=(2, 1, 1), units=("um",) * 3)
    panel = PredictPanel(viewer, controller)
    qtbot.addWidget(panel, before_close_func=PredictPanel.teardown)
    panel.height.run.click()
    qtbot.waitUntil(lambda: not panel.runbar.busy, timeout=PATIENCE_MS)
    assert "height map in µm" in panel.runbar.status.text()
    height = viewer.layers["focus · height"].data
    assert abs(float(np.nanmedian(height)) - 6.0) < 0.5
