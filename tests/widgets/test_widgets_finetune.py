"""The Fine-tune panel with a worker that answers what the test says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from tests.widgets.fake_worker import two_objects

from dinoscope.errors import TrainingError
from dinoscope.widgets.finetune import FinetunePanel
from dinoscope.widgets.predict import PredictPanel

HEIGHT, WIDTH = 48, 60


@pytest.fixture
def viewer(fake: Any, tmp_path: Path) -> ViewerModel:
    fake.answers["models"]["folder"] = str(tmp_path / "models")
    viewer = ViewerModel()
    viewer.add_image(np.zeros((HEIGHT, WIDTH), np.uint8), name="cells", scale=(2, 2))
    viewer.add_labels(two_objects(HEIGHT, WIDTH), name="truth", scale=(2, 2))
    return viewer


@pytest.fixture
def open_panel(viewer: Any, qtbot: Any, tmp_path: Path) -> Callable[[], FinetunePanel]:
    def make() -> FinetunePanel:
        panel = FinetunePanel(viewer)
        qtbot.addWidget(panel, before_close_func=FinetunePanel.teardown)
        panel.controller.warm_up()
        qtbot.waitUntil(lambda: bool(panel.controller.models))
        panel.output.setText(str(tmp_path / "new.dinoscope"))
        return panel

    return make


def test_layers_are_handed_over_as_they_are(
    viewer: Any, open_panel: Any, fake: Any, tmp_path: Path
) -> None:
    panel = open_panel()
    panel.blocks.setValue(2)
    panel.rank.value = 16
    panel.minutes.value = 3.5
    panel.runbar.run.click()
    job = fake.last("train")
    (source,) = job.payload["sources"]
    assert source["task"] == "instance"
    image = job.images[source["images"][0]["image"]]
    truth = job.images[source["truths"][0]["image"]]
    assert image.data is viewer.layers["cells"].data
    assert truth.data is viewer.layers["truth"].data
    assert job.payload["options"].tune == "lora-last:2"
    assert job.payload["options"].lora_rank == 16
    assert job.payload["options"].minutes == 3.5
    assert job.payload["base"] == "embedded"
    assert job.payload["output"] == str(tmp_path / "new.dinoscope")


def test_the_course_is_shown_and_the_model_is_chosen_in_predict(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any, tmp_path: Path
) -> None:
    panel = open_panel()
    predict = PredictPanel(viewer)
    qtbot.addWidget(predict, before_close_func=PredictPanel.teardown)
    panel.runbar.run.click()
    job = fake.last("train")
    before = {"before_ap50": 0.3, "before_score": 0.3}
    job.send("progress", step="prepare", done=2, total=3, message="1 images", values=before)
    for step in range(1, 6):
        values = {"loss": 1 / step, "images_per_s": 12.0}
        if step == 5:
            values |= {"val_ap50": 0.8, "val_score": 0.8}
        job.send(
            "progress",
            step="train",
            done=step * 100,
            total=1000,
            seconds_left=8.0,
            message=f"step {step}",
            values=values,
        )
    qtbot.waitUntil(lambda: len(panel.curve.loss) == 5)
    assert panel.curve.score == [(0, 0.3), (5, 0.8)]
    assert panel.curve.loss[-1] == (5, 0.2)
    assert "12.0 images/s" in panel.numbers.text()
    assert "ap50 0.8" in panel.numbers.text()
    assert "8.0 s left" in panel.runbar.status.text()
    panel.curve.grab()  # it can be painted
    path = str(tmp_path / "new.dinoscope")
    model = {"name": path, "kind": "model", "tasks": ("instance",), "where": path}
    fake.answers["models"]["models"] = [
        *fake.answers["models"]["models"],
        {**model, "available": True, "note": ""},
    ]
    job.done(output=path, summary={})
    qtbot.waitUntil(lambda: predict.model.model == path)
    assert predict.model.label == "new"
    assert not panel.runbar.busy
    assert "chosen in Predict" in panel.runbar.status.text()


def test_cancel_then_start_again(viewer: Any, open_panel: Any, fake: Any, qtbot: Any) -> None:
    panel = open_panel()
    panel.runbar.run.click()
    panel.runbar.cancel.click()
    qtbot.waitUntil(lambda: not panel.runbar.busy)
    assert fake.last("train").cancel_asked
    assert "no model was written" in panel.runbar.status.text()
    panel.runbar.run.click()
    assert fake.count("train") == 2


def test_a_failed_training_says_why(viewer: Any, open_panel: Any, fake: Any, qtbot: Any) -> None:
    panel = open_panel()
    panel.runbar.run.click()
    fake.last("train").send("error", error=TrainingError("the loss is not a number"))
    qtbot.waitUntil(lambda: not panel.runbar.busy)
    assert "not a number" in panel.runbar.status.text()
    assert panel.runbar.status.property("tone") == "error"


def test_classes_are_named_one_image_after_the_other(
    viewer: Any, open_panel: Any, fake: Any
) -> None:
    viewer.add_image(np.zeros((HEIGHT, WIDTH), np.uint8), name="others")
    panel = open_panel()
    panel.task.setCurrentIndex(panel.task.findData("classification"))
    panel.source.combo.layer = viewer.layers["cells"]
    panel.class_name.setText("healthy")
    panel.add.click()
    panel.runbar.run.click()
    assert "at least two classes" in panel.runbar.status.text()
    panel.source.combo.layer = viewer.layers["others"]
    panel.class_name.setText("sick")
    panel.add.click()
    assert [panel.examples.item(i).text() for i in range(2)] == [
        "cells  →  healthy",
        "others  →  sick",
    ]
    panel.runbar.run.click()
    (source,) = fake.last("train").payload["sources"]
    assert source["truths"] == ["healthy", "sick"]
    panel.examples.setCurrentRow(0)
    panel.drop.click()
    assert panel.examples.count() == 1


def test_depth_is_learned_from_an_image_layer(viewer: Any, open_panel: Any, fake: Any) -> None:
    height = viewer.add_image(np.ones((HEIGHT, WIDTH), np.float32), name="height")
    panel = open_panel()
    panel.task.setCurrentIndex(panel.task.findData("depth"))
    panel.source.combo.layer = viewer.layers["cells"]
    panel.depth.layer = height
    panel.runbar.run.click()
    job = fake.last("train")
    assert job.payload["sources"][0]["task"] == "depth"
    assert job.images["truth0"].data is height.data


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (np.zeros((HEIGHT, WIDTH), np.uint8), "is empty"),
        (np.ones((HEIGHT, WIDTH + 2), np.uint8), "expected 60 × 48 px"),
        (np.ones((3, HEIGHT, WIDTH), np.uint8), "has planes"),
    ],
)
def test_a_target_that_does_not_fit_is_said(
    viewer: Any, open_panel: Any, fake: Any, truth: np.ndarray, message: str
) -> None:
    viewer.add_labels(truth, name="wrong")
    panel = open_panel()
    panel.labels.layer = viewer.layers["wrong"]
    panel.runbar.run.click()
    assert message in panel.runbar.status.text()
    assert fake.count("train") == 0


def test_no_file_is_overwritten(viewer: Any, open_panel: Any, fake: Any, tmp_path: Path) -> None:
    path = tmp_path / "new.dinoscope"
    path.write_text("a colleague's model")
    panel = open_panel()
    panel.runbar.run.click()
    assert "nothing is overwritten" in panel.runbar.status.text()
    assert fake.count("train") == 0
    panel.output.setText(str(tmp_path / "other"))
    panel.runbar.run.click()
    assert fake.last("train").payload["output"] == str(tmp_path / "other.dinoscope")


def test_a_free_name_is_suggested_in_the_user_s_folder(
    viewer: Any, fake: Any, qtbot: Any, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "cells-model.dinoscope").write_text("")
    panel = FinetunePanel(viewer)
    panel.controller.warm_up()
    qtbot.waitUntil(lambda: panel.output.text() == str(tmp_path / "models/cells-model2.dinoscope"))
    panel.teardown()
    panel.deleteLater()


def test_closing_the_panel_stops_the_training(viewer: Any, open_panel: Any, fake: Any) -> None:
    panel = open_panel()
    panel.runbar.run.click()
    panel.teardown()
    assert fake.last("train").cancel_asked
    assert fake.closed
