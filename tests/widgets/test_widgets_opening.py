"""Opening: fast, without torch, in tabs; and the manifest leads to all of it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from dinoscope.widgets._client import controller_for

FORBIDDEN = ("torch", "torchvision", "timm", "peft", "transformers", "sklearn", "accelerate")

SCRIPT = """
import json, sys, time
import numpy as np
import napari
from qtpy.QtWidgets import QApplication

viewer = napari.Viewer(show=True)
viewer.add_image(np.zeros((3, 40, 40)), name="stack")
viewer.add_labels(np.zeros((3, 40, 40), int), name="labels")
viewer.layers.selection.active = viewer.layers["stack"]
QApplication.processEvents()
seconds = {}
docks = []
for name in ("Predict", "Annotate", "Fine-tune", "Features"):
    start = time.perf_counter()
    docks.append(viewer.window.add_plugin_dock_widget("napari-dinoscope", name))
    seconds[name] = time.perf_counter() - start
again = {}
for dock, panel in docks:
    viewer.window.remove_dock_widget(dock)
for name in ("Predict", "Annotate", "Fine-tune", "Features"):
    start = time.perf_counter()
    viewer.window.add_plugin_dock_widget("napari-dinoscope", name)
    again[name] = time.perf_counter() - start
end = time.monotonic() + 3
from dinoscope.widgets._client import controller_for
controller = controller_for(viewer)
while time.monotonic() < end and not controller.models:
    QApplication.processEvents()
    time.sleep(0.02)
heavy = sorted({m.split(".")[0] for m in sys.modules} & set(json.loads(sys.argv[1])))
pid = controller.client.pid
viewer.close()
print(json.dumps({"seconds": seconds, "again": again, "heavy": heavy, "pid": pid}))
"""


@pytest.fixture(scope="module")
def opened() -> dict[str, Any]:
    """What a fresh napari says after it has opened every panel."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, json.dumps(FORBIDDEN)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_the_window_s_process_imports_no_torch(opened: dict[str, Any]) -> None:
    assert opened["heavy"] == []


@pytest.mark.parametrize("panel", ["Predict", "Annotate", "Fine-tune", "Features"])
def test_panels_open_quickly(opened: dict[str, Any], panel: str) -> None:
    # The bar is 0.3 s on a quiet machine; test machines are not quiet.
    assert min(opened["seconds"][panel], opened["again"][panel]) < 1.5


def test_the_worker_ends_with_the_window(opened: dict[str, Any]) -> None:
    import os
    import time

    if opened["pid"] is None:
        pytest.skip("the worker had not started yet")
    for _ in range(50):
        try:
            os.kill(opened["pid"], 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the worker outlived the window")


def test_panels_share_one_place_as_tabs(make_napari_viewer: Any, fake: Any, qtbot: Any) -> None:
    viewer = make_napari_viewer()
    first, predict = viewer.window.add_plugin_dock_widget("napari-dinoscope", "Predict")
    second, finetune = viewer.window.add_plugin_dock_widget("napari-dinoscope", "Fine-tune")
    main = first.parent()
    qtbot.waitUntil(lambda: second in main.tabifiedDockWidgets(first))
    assert predict.controller is finetune.controller is controller_for(viewer)


@pytest.mark.parametrize("key", ["ihc", "cell", "zstack", "timelapse"])
def test_samples_open_as_layers(make_napari_viewer: Any, key: str) -> None:
    viewer = make_napari_viewer()
    layers = viewer.open_sample("napari-dinoscope", key)
    assert layers
    for layer in layers:
        assert layer.data.size
        assert all(label.isalpha() for label in layer.axis_labels)


def test_every_control_has_a_tooltip(qtbot: Any, fake: Any) -> None:
    from qtpy.QtWidgets import (
        QAbstractButton,
        QAbstractSlider,
        QAbstractSpinBox,
        QComboBox,
        QLineEdit,
    )

    from dinoscope.widgets._panel import Panel
    from dinoscope.widgets.evaluate import EvaluatePanel
    from dinoscope.widgets.finetune import FinetunePanel
    from dinoscope.widgets.predict import PredictPanel

    viewer = ViewerModel()
    viewer.add_image(np.zeros((3, 20, 20)), name="stack")
    kinds = (QAbstractButton, QAbstractSpinBox, QComboBox, QAbstractSlider)
    for kind in (PredictPanel, FinetunePanel, EvaluatePanel):
        panel: Panel = kind(viewer)
        silent = []
        for control in panel.findChildren((*kinds, QLineEdit)):
            own = control
            while own is not None and own is not panel and not own.toolTip():
                own = own.parentWidget()
            inside = type(control).__name__ in ("QScrollBar", "QTableCornerButton")
            if (own is None or own is panel) and not inside:
                silent.append(f"{type(control).__name__} {control.objectName()}")
        panel.teardown()
        panel.deleteLater()
        assert [s for s in silent if "qt_" not in s] == []
