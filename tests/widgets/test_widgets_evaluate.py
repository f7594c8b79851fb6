"""The Evaluate panel with a worker that computes in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from tests.peers.make_peer_values import seeded_pair

from dinoscope.arrays.faults import FALSE, FAULTS, FOUND, MISSED
from dinoscope.config import EvaluateOptions
from dinoscope.errors import DinoscopeError
from dinoscope.widgets._charts import ChartView
from dinoscope.widgets.evaluate import EvaluatePanel
from dinoscope.worker import evaluation
from dinoscope.worker.jobs import JobContext, Tools
from dinoscope.worker.protocol import Event


@pytest.fixture
def viewer(fake: Any) -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def open_panel(viewer: Any, qtbot: Any) -> Callable[[], EvaluatePanel]:
    def make() -> EvaluatePanel:
        panel = EvaluatePanel(viewer)
        qtbot.addWidget(panel, before_close_func=EvaluatePanel.teardown)
        panel.controller.warm_up()
        qtbot.waitUntil(lambda: bool(panel.controller.models))
        return panel

    return make


@pytest.fixture
def play(fake: Any, qtbot: Any, tmp_path: Path) -> Callable[..., None]:
    """Press Evaluate and let the job run as the worker would."""

    def run(panel: EvaluatePanel, before_done: Callable[[], None] = lambda: None) -> None:
        asked = fake.count("evaluate")
        panel.runbar.run.click()
        if fake.count("evaluate") == asked:
            return
        job = fake.last("evaluate")
        nothing = lambda *_: None  # noqa: E731
        tools = Tools(tmp_path / "worker", 1)
        number = len(fake.jobs)
        steps = evaluation.evaluate(
            JobContext(number, job.payload, job.images, tools, nothing, nothing)
        )
        try:
            while True:
                step = next(steps)
                if isinstance(step, Event):
                    job.send(step.kind, **step.data)
        except StopIteration as stop:
            before_done()
            job.done(**stop.value)
        except DinoscopeError as error:
            job.send("error", error=error, traceback="")
        qtbot.waitUntil(lambda: not panel.runbar.busy)

    return run


def cells(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return seeded_pair(seed, side=64, objects=8)


def test_prediction_is_scored_and_its_errors_become_a_layer(
    viewer: Any, open_panel: Any, play: Any
) -> None:
    truth, pred = cells()
    viewer.add_image(np.zeros((64, 64)), name="image", scale=(0.5, 0.5), units=("um", "um"))
    kwargs: dict[str, Any] = {"scale": (0.5, 0.5), "units": ("um", "um")}
    viewer.add_labels(truth, name="truth", **kwargs)
    viewer.add_labels(pred, name="guess", **kwargs)
    viewer.layers.selection.active = viewer.layers["image"]
    panel = open_panel()
    assert panel.layers.choice.prediction.layer.name == "guess"
    assert panel.layers.choice.truth.layer.name == "truth"
    play(panel)
    errors = viewer.layers["guess · errors"]
    assert set(np.unique(errors.data)) <= {0, *FAULTS}
    uncovered = errors.data[(truth > 0) & (pred == 0)]
    assert uncovered.min() >= FOUND
    assert MISSED in uncovered
    np.testing.assert_allclose(errors.scale, (0.5, 0.5))
    assert viewer.layers.selection.active.name == "image"
    np.testing.assert_allclose(
        errors.colormap.map(np.array([FOUND]))[0][:3], (0, 0x9E / 255, 0x73 / 255), atol=0.01
    )
    assert list(errors.features["error"])[FALSE] == "false positive"
    table = panel.results.figures.table
    assert table["figure"][0] == "ap50"
    assert panel.runbar.status.text().startswith("guess: ap50 ")
    assert panel.results.worst.rowCount() > 0
    # The error layer is no candidate for the next evaluation.
    assert "guess · errors" not in [x.name for x in panel.layers.choice.prediction.layers]


def test_layers_that_overlap_partly_are_scored_on_the_common_part(
    viewer: Any, open_panel: Any, play: Any
) -> None:
    truth, _ = cells()
    viewer.add_labels(truth, name="truth", scale=(2, 2))
    viewer.add_labels(truth[10:50, 20:], name="guess", scale=(2, 2), translate=(20, 40))
    panel = open_panel()
    play(panel)
    assert "Only the common part is scored: 40 × 44 of 64 × 64 px of 'truth'" in (
        panel.results.notes.text()
    )
    table = panel.results.figures.table
    assert table["value"][0].startswith("1.000")
    errors = viewer.layers["guess · errors"]
    assert errors.data.shape == (40, 44)
    np.testing.assert_allclose(errors.translate, (20, 40))
    np.testing.assert_array_equal(errors.data > 0, truth[10:50, 20:] > 0)


def test_layers_that_do_not_meet_are_refused(viewer: Any, open_panel: Any, play: Any) -> None:
    truth, pred = cells()
    viewer.add_labels(truth, name="truth")
    viewer.add_labels(pred, name="guess", translate=(0, 500))
    panel = open_panel()
    play(panel)
    assert "'truth' and 'guess' do not overlap" in panel.runbar.status.text()


def test_forgotten_scale_is_said_and_another_scale_is_refused(
    viewer: Any, open_panel: Any, play: Any
) -> None:
    truth, pred = cells()
    viewer.add_labels(truth, name="truth", scale=(0.5, 0.5), units=("um", "um"))
    guess = viewer.add_labels(pred, name="guess")
    panel = open_panel()
    play(panel)
    assert "compared pixel by pixel" in panel.results.notes.text()
    guess.data = pred[:32]
    play(panel)
    assert "another scale than 'truth'" in panel.runbar.status.text()


def test_a_shift_by_half_a_pixel_is_said(viewer: Any, open_panel: Any, play: Any) -> None:
    truth, _ = cells()
    viewer.add_labels(truth, name="truth")
    viewer.add_labels(truth, name="guess", translate=(0.4, 0))
    panel = open_panel()
    play(panel)
    assert "was moved by 0.4 px" in panel.results.notes.text()
    assert panel.results.figures.table["value"][0].startswith("1.000")


def test_floating_point_labels_are_a_clear_error(viewer: Any, open_panel: Any, play: Any) -> None:
    truth, pred = cells()
    viewer.add_labels(truth, name="truth")
    viewer.add_image(pred.astype(np.float32), name="floats")
    panel = open_panel()
    assert panel.layers.choice.prediction.layer.name == "truth"  # no image is taken for labels
    panel.layers.choice.choose(viewer.layers["floats"], viewer.layers["truth"])
    play(panel)
    assert "'floats' has dtype float32; expected integers" in panel.runbar.status.text()
    assert panel.runbar.status.property("tone") == "error"


def test_layer_that_is_chosen_twice_is_refused(viewer: Any, open_panel: Any, play: Any) -> None:
    truth, _ = cells()
    viewer.add_labels(truth, name="only")
    panel = open_panel()
    play(panel)
    assert "'only' is chosen as prediction and as truth" in panel.runbar.status.text()
    viewer.layers.clear()
    play(panel)
    assert "no prediction layer is chosen" in panel.runbar.status.text()


def test_stack_against_a_single_plane_is_refused_and_of_one_plane_is_not(
    viewer: Any, open_panel: Any, play: Any
) -> None:
    truth, pred = cells()
    layer = viewer.add_labels(np.stack([truth] * 3), name="truth")
    viewer.add_labels(pred, name="guess")
    panel = open_panel()
    play(panel)
    assert "'truth' has shape (3, 64, 64); expected 2 dimensions" in panel.runbar.status.text()
    layer.data = truth[None]
    play(panel)
    assert panel.results.number is not None
    assert viewer.layers["guess · errors"].data.shape == (1, 64, 64)


@pytest.mark.parametrize("kind", ["gaps", "many"])
def test_ids_with_gaps_or_beyond_16_bits_are_right(
    viewer: Any, open_panel: Any, play: Any, kind: str
) -> None:
    truth = cells()[0] * 1000 if kind == "gaps" else np.arange(1, 300 * 300 + 1).reshape(300, 300)
    viewer.add_labels(truth, name="truth")
    viewer.add_labels(np.where(truth > 0, truth + 7, 0), name="guess")
    panel = open_panel()
    play(panel)
    assert panel.results.figures.table["value"][0].startswith("1.000")
    assert set(np.unique(viewer.layers["guess · errors"].data)) <= {0, FOUND}


def test_no_foreground_in_either_is_perfect_and_said(
    viewer: Any, open_panel: Any, play: Any
) -> None:
    for name in ("truth", "guess"):
        viewer.add_labels(np.zeros((20, 20), np.uint8), name=name)
    panel = open_panel()
    play(panel)
    assert "No object in truth or prediction" in panel.results.notes.text()
    assert panel.results.figures.table["value"][0] == "1.000"
    panel.task.setCurrentIndex(panel.task.findData("semantic"))
    play(panel)
    assert "Only background occurs" in panel.results.notes.text()


def test_one_class_only_is_scored(viewer: Any, open_panel: Any, play: Any) -> None:
    for name in ("truth", "guess"):
        viewer.add_labels(np.ones((20, 20), np.uint8), name=name)
    panel = open_panel()
    panel.task.setCurrentIndex(panel.task.findData("semantic"))
    play(panel)
    assert "Only one class occurs" in panel.results.notes.text()
    assert panel.results.figures.table["value"][0] == "1.000"


def test_depth_without_values_is_left_out_and_shown_as_signed_errors(
    viewer: Any, open_panel: Any, play: Any
) -> None:
    rng = np.random.default_rng(0)
    height = rng.uniform(1, 4, (30, 40)).astype(np.float32)
    truth = height.copy()
    truth[:10] = np.nan
    viewer.add_image(truth, name="truth")
    viewer.add_image(height + 0.5, name="guess", metadata={"dinoscope": {"unit": "µm"}})
    panel = open_panel()
    panel.task.setCurrentIndex(panel.task.findData("depth"))
    choice = panel.layers.choice
    choice.choose(viewer.layers["guess"], viewer.layers["truth"])
    play(panel)
    table = panel.results.figures.table
    assert dict(zip(table["figure"], table["value"], strict=True))["rmse"].startswith("0.500")
    assert {"rmse_mean", "rmse_fit"} <= set(table["figure"])
    errors = viewer.layers["guess · depth error"]
    assert errors.contrast_limits[0] == -errors.contrast_limits[1]
    assert np.isnan(errors.data[:10]).all()
    viewer.layers["truth"].data = np.full_like(truth, np.nan)
    play(panel)
    assert "no truth holds a finite depth" in panel.runbar.status.text()


def test_layer_that_disappears_meanwhile_costs_only_its_errors(
    viewer: Any, open_panel: Any, play: Any
) -> None:
    truth, pred = cells()
    viewer.add_labels(np.stack([truth] * 2), name="truth")
    viewer.add_labels(np.stack([pred] * 2), name="guess")
    panel = open_panel()

    def remove() -> None:
        viewer.layers.remove("guess")

    play(panel, before_done=remove)
    assert panel.results.number is not None
    viewer.layers.clear()
    panel.results.worst.cellClicked.emit(0, 0)
    assert "layers of this evaluation are closed" in panel.runbar.status.text()


def test_click_goes_to_the_object_on_its_plane(viewer: Any, open_panel: Any, play: Any) -> None:
    truth = np.zeros((4, 60, 80), np.uint8)
    truth[1, 10:20, 10:20] = 1
    truth[3, 40:50, 60:72] = 2
    pred = truth.copy()
    pred[3] = 0
    kwargs: dict[str, Any] = {"scale": (2, 0.5, 0.5), "translate": (10, 0, 5)}
    viewer.add_labels(truth, name="truth", **kwargs)
    viewer.add_labels(pred, name="guess", **kwargs)
    panel = open_panel()
    play(panel)
    assert panel.results.worst.table["error"][0] == "missed"
    assert panel.results.worst.table["plane"][0] == 3
    panel.results.worst.cellClicked.emit(0, 0)
    assert viewer.dims.current_step[0] == 3
    np.testing.assert_allclose(viewer.scene.camera.center[-2:], (44.5 * 0.5, 65.5 * 0.5 + 5))
    panel.results.listed.setCurrentIndex(panel.results.listed.findData("images"))
    panel.results.worst.cellClicked.emit(1, 0)
    assert viewer.dims.current_step[0] in (0, 1, 2)


def test_two_predictions_are_compared(viewer: Any, open_panel: Any, play: Any) -> None:
    pairs = [cells(seed) for seed in range(8)]
    truth, pred = (np.stack([pair[i] for pair in pairs]) for i in (0, 1))
    viewer.add_labels(truth, name="truth")
    viewer.add_labels(pred, name="first")
    viewer.add_labels(truth.copy(), name="second")
    panel = open_panel()
    choice = panel.layers.choice
    choice.choose(*(viewer.layers[name] for name in ("first", "truth", "second")))
    play(panel)
    assert panel.results.notes.text().startswith("The second is better: ap50 differs by +")
    assert list(panel.results.figures.table)[1:] == ["first", "second"]
    assert {"first · errors", "second · errors"} <= {layer.name for layer in viewer.layers}
    choice.other.layer = viewer.layers["first"]
    play(panel)
    assert "compared with itself" in panel.runbar.status.text()


def test_report_is_asked_for_and_shown(
    viewer: Any, open_panel: Any, play: Any, fake: Any, qtbot: Any, tmp_path: Path
) -> None:
    truth, pred = cells()
    viewer.add_labels(truth, name="truth")
    viewer.add_labels(pred, name="guess")
    panel = open_panel()
    play(panel)
    shown: list[Path] = []
    panel.show_file = shown.append
    panel.results.ask_for_folder = lambda: str(tmp_path / "report")
    panel.results.report.click()
    job = fake.last("evaluate_report")
    assert job.payload == {"number": panel.results.number, "folder": str(tmp_path / "report")}
    found = evaluation.report(JobContext(1, job.payload, {}, None, None, None))
    job.done(**found)
    qtbot.waitUntil(lambda: bool(shown))
    assert shown[0].read_text(encoding="utf-8").startswith("<!doctype html>")
    panel.results.report.click()
    fake.last("evaluate_report").send("error", error=DinoscopeError("disk full"), traceback="")
    qtbot.waitUntil(lambda: "disk full" in panel.runbar.status.text())


def test_classes_of_objects_need_a_column(viewer: Any, open_panel: Any, play: Any) -> None:
    truth, _ = cells()
    ids = np.unique(truth)
    kinds = np.where(ids % 2 == 0, "even", "odd")
    viewer.add_labels(truth, name="truth", features={"index": ids, "class": kinds})
    guess = viewer.add_labels(truth.copy(), name="guess")
    panel = open_panel()
    panel.task.setCurrentIndex(panel.task.findData("classification"))
    play(panel)
    assert "'guess' has no column 'class'" in panel.runbar.status.text()
    guess.features = {"index": ids, "class": kinds}
    play(panel)
    assert panel.results.figures.table["value"][0].startswith("1.000")


def test_cancel_takes_the_error_layer_back_to_what_it_was(
    viewer: Any, open_panel: Any, fake: Any, qtbot: Any
) -> None:
    truth, pred = cells()
    viewer.add_labels(truth, name="truth")
    viewer.add_labels(pred, name="guess")
    panel = open_panel()
    panel.runbar.run.click()
    panel.runbar.cancel.click()
    qtbot.waitUntil(lambda: not panel.runbar.busy)
    assert panel.runbar.status.text() == "Cancelled."
    assert fake.last("evaluate").cancel_asked
    assert len(viewer.layers) == 2


def test_folders_are_scored_where_they_are(
    viewer: Any, open_panel: Any, play: Any, fake: Any, tmp_path: Path
) -> None:
    for folder, number in (("truth", 0), ("guess", 1)):
        (tmp_path / folder).mkdir()
        for seed in range(3):
            plane = cells(seed)[number].astype(np.uint16)
            tifffile.imwrite(tmp_path / folder / f"{seed}.tif", plane)
    panel = open_panel()
    panel.origin.setCurrentIndex(panel.origin.findData("folders"))
    play(panel)
    assert "Results is empty" in panel.runbar.status.text()
    panel.folders.predictions.text.setText(str(tmp_path / "guess"))
    panel.folders.truth.text.setText(str(tmp_path / "nowhere"))
    play(panel)
    assert "nowhere' does not exist" in panel.runbar.status.text()
    panel.folders.truth.text.setText(str(tmp_path / "truth"))
    play(panel)
    assert panel.runbar.status.text().endswith("3 scored.")
    panel.results.worst.cellClicked.emit(0, 0)
    assert "These images are files" in panel.runbar.status.text()


def test_model_on_a_folder_is_run_in_the_worker(
    viewer: Any, open_panel: Any, fake: Any, tmp_path: Path
) -> None:
    for folder in ("truth", "images"):
        (tmp_path / folder).mkdir()
    panel = open_panel()
    panel.origin.setCurrentIndex(panel.origin.findData("folders"))
    panel.folders.what.setCurrentIndex(panel.folders.what.findData("model"))
    panel.folders.truth.text.setText(str(tmp_path / "truth"))
    panel.folders.images.text.setText(str(tmp_path / "images"))
    panel.folders.other.text.setText("only-instances")
    panel.threshold.value = 0.6
    panel.runbar.run.click()
    job = fake.last("evaluate_models")
    assert job.payload["files"] == {
        "truth": str(tmp_path / "truth"),
        "images": str(tmp_path / "images"),
        "prediction": "embedded",
        "other": "only-instances",
        "models": True,
    }
    assert job.payload["options"] == EvaluateOptions(fault_threshold=0.6)
    job.send("error", error=DinoscopeError("no image"), traceback="")


def test_charts_of_all_kinds_are_drawn(qtbot: Any) -> None:
    from dinoscope.engine.charts import Chart

    axes = Chart("axes", "Lines", "x", "y")
    axes.line([0, 1], [0, 1], "#ff0000", "first")
    axes.dots([0.5], [0.5], "#00ff00")
    axes.bar((0.2, 0.4), 0.8, "#0000ff")
    bars = Chart("bars", "Bars", rows=[("found", 3, "#009e73"), ("missed", 0, "#56b4e9")])
    names = [f"class {i}" for i in range(3)]
    matrix = Chart("matrix", "Matrix", names=names, counts=[[5, 1, 0], [0, 20_000, 3], [0, 0, 0]])
    view = ChartView()
    qtbot.addWidget(view)
    view.resize(320, 240)
    empty = view.grab().toImage()
    for chart in (axes, bars, matrix):
        view.show_chart(chart.plain())
        drawn = view.grab().toImage()
        assert drawn != empty
        assert view.toolTip()
