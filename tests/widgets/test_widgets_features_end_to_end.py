"""The Features panel with a real worker and a tiny tuned model, through a kill."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from dinoscope.widgets._client import Controller
from dinoscope.widgets.features import FeaturesPanel
from dinoscope.worker.client import WorkerClient

SIDE = 112
PATIENCE_MS = 90_000


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """A random model whose backbone was tuned with LoRA."""
    import torch

    from dinoscope.models.adapter import add_lora
    from dinoscope.models.checkpoint import save_model
    from dinoscope.models.model import Model
    from dinoscope.tasks.base import task

    model = Model.fresh("tiny-test", {"instance": task("instance").head_spec(())}, seed=0)
    add_lora(model, rank=2)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".lora_B" in name:
                value.normal_(0, 50, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "tuned.dinoscope"
    save_model(model.eval(), path, include_backbone=True)
    return path


@pytest.fixture
def controller(qtbot: Any) -> Iterator[Controller]:
    viewer = ViewerModel()
    controller = Controller(viewer, lambda: WorkerClient(threads=1, warm_up=False))
    controller._viewer = viewer  # the test's only reference to it
    yield controller
    controller.close()


@pytest.mark.slow
def test_features_with_a_real_worker(
    controller: Controller, model_file: Path, qtbot: Any, tmp_path: Path
) -> None:
    viewer = controller.results.viewer
    image = np.full((SIDE, SIDE), 40, np.uint8)
    image[:, SIDE // 2 :] = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE // 2))
    layer = viewer.add_image(image, name="halves", scale=(0.5, 0.5), units=("um", "um"))
    labels = viewer.add_labels((image != 40).astype(np.uint8) + 1, name="truth", scale=(0.5, 0.5))
    panel = FeaturesPanel(viewer, controller)
    qtbot.addWidget(panel, before_close_func=FeaturesPanel.teardown)
    controller.choose_model(str(model_file))
    qtbot.waitUntil(lambda: panel.model.model == str(model_file), timeout=PATIENCE_MS)
    panel.tokens.controls["zoom"].value = 1.0

    def run(mode: str) -> str:
        panel.modes.mode = mode
        panel.runbar.run.click()
        qtbot.waitUntil(lambda: not panel.busy, timeout=PATIENCE_MS)
        assert panel.runbar.status.property("tone") != "error", panel.runbar.status.text()
        return panel.runbar.status.text()

    # Both models as colours, then as points of one selection.
    panel.tokens.adapter.key = "both"
    run("colours")
    tuned = viewer.layers["halves · PCA [LoRA-tuned]"].data
    original = viewer.layers["halves · PCA [original]"].data
    assert tuned.shape == original.shape == (SIDE, SIDE, 3)
    assert np.abs(tuned - original).max() > 0.05
    assert "64 patches" in run("plot")
    variants = panel.linked.points.variants
    assert [v.name for v in variants] == ["original", "LoRA-tuned"]
    assert all(len(v.explained) == 2 for v in variants)
    corner = panel.linked.point_under(layer.data_to_world((3, 3)))
    assert corner == 0

    # Labels as colours and as classes for the numbers.
    key = f"labels:{labels.unique_id}"
    panel.linked.dock.choose_colour(key)
    panel.linked.dock.colour_chosen.emit(key)
    qtbot.waitUntil(lambda: not panel.busy and key in panel.linked.points.columns)
    halves = panel.linked.points.columns[key].reshape(8, 8)
    assert (halves[:, :4] == 1).all()
    assert (halves[:, 4:] == 2).all()
    panel.numbers.classes.key = key
    assert "right" in run("numbers")
    assert panel.numbers.view.results[0]["accuracy"] > 0.9, "smooth and noisy lie apart"

    # A click finds its own half.
    panel.tokens.adapter.key = "on"
    run("similar")
    panel.similarity.add_click(layer.data_to_world((50, 20)), positive=True)
    qtbot.waitUntil(lambda: "halves · similar" in viewer.layers, timeout=PATIENCE_MS)
    score = viewer.layers["halves · similarity"].data
    assert score[:, :40].mean() > score[:, 72:].mean() + 0.05

    # Files.
    for suffix in ("csv", "svg"):
        panel.actions.ask_path = lambda kind: str(tmp_path / f"points.{kind}")
        panel.linked.dock.export_chosen.emit(suffix)
        qtbot.waitUntil(lambda: not panel.busy, timeout=PATIENCE_MS)
        assert (tmp_path / f"points.{suffix}").exists(), panel.runbar.status.text()
    assert len((tmp_path / "points.csv").read_text().splitlines()) == 65

    # The worker is killed: the clicks survive, and the next plot is made by a new one.
    os.kill(controller.client.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    qtbot.waitUntil(lambda: controller.state == "stopped", timeout=PATIENCE_MS)
    panel.similarity.add_click(layer.data_to_world((80, 20)), positive=True)
    qtbot.waitUntil(
        lambda: (
            len(panel.similarity.clicks) == 2
            and panel.similarity.sets
            and not panel.busy
            and not panel.similarity._asker.busy
            and len(viewer.layers["halves · clicks"].data) == 2
        ),
        timeout=PATIENCE_MS,
    )
    assert "64 patches" in run("plot")
