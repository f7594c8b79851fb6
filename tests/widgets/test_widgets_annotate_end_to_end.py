"""The Annotate panel with a real worker and the embedded model, through kill −9 of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils._proxies import ReadOnlyWrapper
from napari.utils.interactions import (
    mouse_move_callbacks,
    mouse_press_callbacks,
    mouse_release_callbacks,
)

from dinoscope.widgets._client import Controller
from dinoscope.widgets.annotate import AnnotatePanel
from dinoscope.worker.client import WorkerClient

SIDE = 126
PATIENCE_MS = 90_000


def textures() -> np.ndarray:
    """Smooth on the left, coarse noise on the right."""
    rng = np.random.default_rng(0)
    image = rng.integers(90, 110, (SIDE, SIDE)).astype(np.uint8)
    coarse = np.kron(rng.integers(0, 2, (SIDE // 3, SIDE // 6)) * 180, np.ones((3, 3)))
    image[:, SIDE // 2 :] = coarse[:, : SIDE - SIDE // 2] + 30
    return image


def drag(layer: Any, start: tuple[int, int], stop: tuple[int, int]) -> None:
    """A stroke of the mouse over the layer, as the canvas hands it on."""
    acts = {
        "mouse_press": mouse_press_callbacks,
        "mouse_move": mouse_move_callbacks,
        "mouse_release": mouse_release_callbacks,
    }
    places = [("mouse_press", start)]
    places += [("mouse_move", tuple(p)) for p in np.linspace(start, stop, 12)]
    places += [("mouse_release", stop)]
    for kind, position in places:
        event = ReadOnlyWrapper(
            SimpleNamespace(
                type=kind,
                is_dragging=kind == "mouse_move",
                position=tuple(float(p) for p in position),
                view_direction=None,
                dims_displayed=[0, 1],
                dims_point=[0, 0],
                pos=(0, 0),
                button=1,
                handled=False,
                modifiers=(),
            )
        )
        acts[kind](layer, event)


@pytest.fixture
def controller(qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Controller]:
    monkeypatch.setenv("DINOSCOPE_PROJECTS", str(tmp_path / "projects"))
    viewer = ViewerModel()
    controller = Controller(viewer, lambda: WorkerClient(threads=1, warm_up=False))
    controller._viewer = viewer  # the test's only reference to it
    yield controller
    controller.close()


@pytest.mark.slow
def test_strokes_preview_kill_and_reopen(controller: Controller, qtbot: Any) -> None:
    viewer = controller.results.viewer
    viewer.add_image(textures(), name="halves")
    panel = AnnotatePanel(viewer, controller)
    qtbot.addWidget(panel, before_close_func=AnnotatePanel.teardown)
    controller.warm_up()
    panel.runbar.run.click()
    layer = panel.image.scribbles
    layer.brush_size = 5

    def paint(row: int, *stroke: tuple[int, int]) -> None:
        panel.classes.choose(row)
        drag(layer, *stroke)

    def agreement() -> float:
        if panel.image.preview is None:
            return 0.0
        preview = np.asarray(panel.image.preview.data)
        truth = np.where(np.arange(SIDE) < SIDE // 2, 1, 2)
        return float((preview == truth).mean())

    paint(0, (10, 10), (60, 30))
    paint(0, (100, 10), (110, 40))
    paint(1, (10, 80), (60, 110))
    paint(1, (100, 80), (110, 110))
    qtbot.waitUntil(lambda: agreement() > 0.9, timeout=PATIENCE_MS)
    qtbot.waitUntil(lambda: bool(panel.annotator.keeper.ids), timeout=PATIENCE_MS)

    # The worker is killed while nothing runs; the next stroke finds a new one that knows all.
    qtbot.waitUntil(lambda: panel.annotator.session.idle, timeout=PATIENCE_MS)
    first = panel.annotator.session.info["session"], controller.client.pid
    os.kill(controller.client.pid, signal.SIGKILL)
    panel.image.preview.data[:] = 0
    paint(0, (70, 20), (80, 50))
    qtbot.waitUntil(lambda: agreement() > 0.9, timeout=PATIENCE_MS)
    assert controller.client.pid != first[1]

    # Objects of the preview, next place, and all of it saved.
    panel.objects_part.split.click()
    qtbot.waitUntil(lambda: panel.image.layer("objects") is not None, timeout=PATIENCE_MS)
    assert panel.image.layer("objects").data[:, SIDE // 2 + 12 :].any()
    panel.preview.next.click()
    qtbot.waitUntil(lambda: "least sure" in panel.runbar.status.text(), timeout=PATIENCE_MS)
    panel.apply.image_clicked.emit()
    qtbot.waitUntil(lambda: "Done" in panel.runbar.status.text(), timeout=PATIENCE_MS)
    assert set(np.unique(viewer.layers["halves · classes"].data)) == {0, 1}
    painted = np.array(layer.data)
    folder = panel.link.project.folder
    panel.teardown()

    # Another window: strokes, classes, objects are there, and are learned from.
    other = AnnotatePanel(ViewerModel())
    qtbot.addWidget(other, before_close_func=AnnotatePanel.teardown)
    other.link.open(folder)
    qtbot.waitUntil(lambda: len(other.annotator.images) == 1, timeout=PATIENCE_MS)
    np.testing.assert_array_equal(other.image.scribbles.data, painted)
    assert other.image.layer("objects") is not None
    qtbot.waitUntil(
        lambda: other.image.preview is not None and other.image.preview.data.any(),
        timeout=PATIENCE_MS,
    )
