"""A walk through the Annotate panel in a real window, with real mouse and keyboard events.

Run it where there is a display, or under Xvfb::

    xvfb-run -a -s "-screen 0 1600x1000x24" python docs/make_walk.py [--minutes 2] [--to FOLDER]

Each step is written as ``annotate_N_NAME.png``: the sample opened, strokes of three classes, the
preview, a correction, objects, *Improve* with its curves, the model replaced.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import napari
from napari.utils.notifications import notification_manager
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QTableWidget

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from docs.make_screenshots import IMAGES, PLUGIN, SIZE, until, wait

from benchmarks.hand import Hand

#: Strokes on the sample *ihc*: class row, then corners as row and column.
STROKES = (
    (1, ((100, 100), (120, 110), (140, 115))),
    (1, ((60, 400), (85, 420), (110, 415))),
    (2, ((268, 236), (278, 243))),
    (2, ((306, 440), (326, 435))),
    (0, ((290, 190), (315, 175), (340, 165))),
    (0, ((360, 18), (380, 40))),
)
#: The lumen of a gland.
CORRECTION = (0, ((112, 328), (135, 342), (155, 352)))


def type_name(table: QTableWidget, row: int, name: str) -> None:
    """Rename a class as the user does: double click, type, Enter."""
    if table.state() != table.State.EditingState:
        table.editItem(table.item(row, 2))
    editor = table.focusWidget()
    QTest.keyClicks(editor, name)
    QTest.keyClick(editor, Qt.Key.Key_Return)
    until(lambda: table.state() != table.State.EditingState, "the name")
    wait(0.2)


def press(button: Any) -> None:
    """Click a button where it is."""
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)


class Walk:
    """The window, the panel, and the number of the picture."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = 0
        self.viewer = napari.Viewer(show=True)
        self.viewer.window.resize(*SIZE)

    def picture(self, name: str) -> None:
        """Write what is on the screen."""
        wait(0.6)
        self.number += 1
        path = self.folder / f"annotate_{self.number}_{name}.png"
        self.viewer.screenshot(str(path), canvas_only=False)
        print(f"wrote {path.name}", flush=True)

    def go(self, minutes: float) -> None:
        """All steps."""
        viewer = self.viewer
        viewer.open_sample(PLUGIN, "ihc")
        layer = viewer.layers["ihc"]
        _, panel = viewer.window.add_plugin_dock_widget(PLUGIN, "Annotate")
        until(lambda: panel.controller.models, "the models")
        wait(1)
        viewer.fit_to_view()
        self.picture("open")

        press(panel.runbar.run)
        until(lambda: panel.begun, "the scribble layer")
        press(panel.classes.add)
        wait(0.2)
        type_name(panel.classes.table, 2, "nuclei")
        type_name(panel.classes.table, 1, "stained")
        hand = Hand(viewer, layer)
        panel.brush.setValue(5)
        for row, corners in STROKES:
            hand.key(getattr(Qt.Key, f"Key_{row + 1}"))
            hand.stroke(corners)
            wait(0.2)
        session = panel.annotator.session
        until(lambda: panel.image.preview is not None and session.idle, "the preview")
        self.picture("preview")

        row, corners = CORRECTION
        hand.key(getattr(Qt.Key, f"Key_{row + 1}"))
        hand.stroke(corners)
        wait(0.5)
        until(lambda: session.idle, "the corrected preview")
        panel.preview.uncertainty.click()
        wait(0.3)
        until(lambda: session.idle and panel.image.uncertainty is not None, "uncertainty")
        self.picture("corrected")
        panel.preview.uncertainty.click()

        panel.objects_fold.open()
        wait(0.2)
        press(panel.objects_part.split)
        until(lambda: panel.image.layer("objects") is not None, "objects")
        panel.image.preview.visible = False
        panel.scroll.ensureWidgetVisible(panel.objects_part)
        self.picture("objects")
        panel.image.preview.visible = True
        panel.image.layer("objects").visible = False
        viewer.layers.selection.active = panel.image.scribbles
        panel.objects_fold.button.click()

        panel.improve.minutes.value = minutes
        panel.improve.minutes.changed.emit()
        until(lambda: "Will train" in panel.improve.plan.text(), "the plan")
        panel.scroll.ensureWidgetVisible(panel.improve)
        press(panel.runbar.run)
        until(lambda: len(panel.improve.curve.loss) > 12, "the curves")
        hand.key(Qt.Key.Key_2)
        hand.stroke(((180, 420), (200, 425)))
        wait(0.5)
        panel.scroll.ensureWidgetVisible(panel.improve)
        self.picture("improving")
        until(lambda: not panel.runs.busy, "the end of the round")
        if panel.runbar.status.property("tone") == "error":
            raise RuntimeError(panel.runbar.status.text())
        wait(1)
        until(lambda: session.idle, "the preview of the new model")
        panel.scroll.ensureWidgetVisible(panel.improve)
        self.picture("improved")
        print(panel.improve.result.text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=2.0, help="of training")
    parser.add_argument("--to", type=Path, default=IMAGES, help="folder for the pictures")
    told = parser.parse_args()
    told.to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("DINOSCOPE_PROJECTS", folder)
        walk = Walk(told.to)
        with notification_manager:
            walk.go(told.minutes)
        walk.viewer.close()


if __name__ == "__main__":
    sys.exit(main())
