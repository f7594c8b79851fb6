"""Objects in the Annotate panel: made of the preview, corrected, told apart, saved."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from tests.widgets.annotating import HEIGHT, WIDTH, halves, right, two_strokes
from tests.widgets.fake_annotator import FakeAnnotator

from dinoscope.project import opened
from dinoscope.widgets.annotate import AnnotatePanel


@pytest.fixture
def viewer(worker: FakeAnnotator) -> ViewerModel:
    viewer = ViewerModel()
    viewer.add_image(halves(HEIGHT, WIDTH), name="cells", scale=(2, 2), units=("um", "um"))
    return viewer


@pytest.fixture
def panel(viewer: Any, open_annotate: Any, qtbot: Any) -> AnnotatePanel:
    """With a preview, and three objects on the right half."""
    panel = open_annotate()
    two_strokes(panel)
    qtbot.waitUntil(lambda: right(panel) and bool(panel.annotator.keeper.ids))
    panel.objects_part.split.click()
    qtbot.waitUntil(lambda: panel.image.layer("objects") is not None)
    return panel


def ids(panel: AnnotatePanel) -> list[int]:
    return [int(n) for n in np.unique(panel.image.plane("objects", ())) if n]


def click(panel: AnnotatePanel, row: int, column: int, button: int = 1) -> None:
    """A click on the image, as the tools hear of it."""
    corrections = panel.objects.corrections
    corrections._clicks.clicked.emit((2.0 * row, 2.0 * column), button, ())


def test_the_preview_becomes_objects_with_a_table(
    panel: AnnotatePanel, qtbot: Any, worker: FakeAnnotator, tmp_path: Path
) -> None:
    assert ids(panel) == [1, 2, 3]
    payload = worker.last("annotate_objects").payload
    assert payload["method"] == "watershed"
    assert payload["min_size_px"] == 20
    assert not panel.objects_part.table.isHidden()
    names = [layer.name for layer in panel.viewer.layers]
    assert names == ["cells", "cells · preview", "cells · objects", "cells · scribbles"]
    panel.objects_part.ask_csv = lambda: str(tmp_path / "objects.csv")
    panel.objects_part.csv.click()
    with (tmp_path / "objects.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["cells"] * 3
    assert float(rows[0]["area_um2"]) == 4 * HEIGHT * 10


def test_objects_are_corrected_by_clicks_and_strokes(panel: AnnotatePanel, qtbot: Any) -> None:
    tools = panel.objects_part.tools
    layer = panel.image.layer("objects")
    tools["delete"].click()
    assert panel.viewer.layers.selection.active is layer
    click(panel, 5, 35)
    assert ids(panel) == [2, 3]
    tools["merge"].click()
    click(panel, 5, 45)
    click(panel, 5, 55)
    assert ids(panel) == [2]
    layer.undo()
    assert ids(panel) == [2, 3]
    tools["split"].click()
    assert layer.mode == "paint"
    rows = np.array([20, 20])
    columns = np.arange(40, 50)
    layer.data_setitem((np.repeat(rows, 10), np.tile(columns, 2)), 0)
    qtbot.waitUntil(lambda: ids(panel) == [2, 3, 4])
    assert (panel.image.plane("objects", ())[:, 40:50] > 0).all(), "no moat stays"
    tools["draw"].click()
    assert layer.selected_label == 5
    layer.data_setitem((np.array([1, 1]), np.array([1, 2])), 5)
    qtbot.waitUntil(lambda: layer.selected_label == 6)
    tools["draw"].click()
    assert layer.mode == "pan_zoom"
    assert panel.objects.corrections.tool == ""


def test_objects_of_the_preview_teach_once_they_are_corrected(
    panel: AnnotatePanel, qtbot: Any
) -> None:
    folder = panel.link.project.folder

    def seen() -> tuple[int, list[int]]:
        """Objects that are saved, and those that teach."""
        with opened(folder) as project:
            (source,) = project.sources
            corrected = np.unique(project.corrected_objects(source, ()))
            return len(set(project.objects(source, ()).ids)), [int(n) for n in corrected if n]

    qtbot.waitUntil(lambda: seen() == (3, []))
    panel.objects_part.tools["merge"].click()
    click(panel, 5, 45)
    click(panel, 5, 55)
    (merged,) = set(ids(panel)) - {1}
    qtbot.waitUntil(lambda: seen() == (2, [merged]))
    panel.objects_part.complete.click()
    qtbot.waitUntil(lambda: seen() == (2, [1, merged]))


def test_corrections_are_saved_and_not_overwritten(
    panel: AnnotatePanel, qtbot: Any, worker: FakeAnnotator
) -> None:
    panel.objects_part.tools["delete"].click()
    click(panel, 5, 35)
    folder = panel.link.project.folder

    def saved() -> list[int]:
        with opened(folder) as project:
            (source,) = project.sources
            return sorted({int(n) for n in project.objects(source, ()).ids})

    qtbot.waitUntil(lambda: saved() == [2, 3])
    panel.objects_part.split.click()
    assert worker.count("annotate_objects") == 1
    assert "Press again" in panel.runbar.status.text()
    panel.objects_part.split.click()
    qtbot.waitUntil(lambda: ids(panel) == [1, 2, 3])
    panel.image.layer("objects").undo()
    assert ids(panel) == [2, 3]
    # They come back with the project.
    panel.teardown()
    other = AnnotatePanel(ViewerModel())
    qtbot.addWidget(other, before_close_func=AnnotatePanel.teardown)
    other.link.open(folder)
    qtbot.waitUntil(
        lambda: bool(other.annotator.images) and other.image.layer("objects") is not None
    )
    assert ids(other) in ([1, 2, 3], [2, 3])


def test_examples_give_every_object_a_class(
    panel: AnnotatePanel, qtbot: Any, worker: FakeAnnotator
) -> None:
    panel.classes.add.click()
    panel.objects_part.tools["example"].click()
    panel.classes.choose(1)
    click(panel, 5, 35)
    assert worker.count("annotate_object_classes") == 0, "one class tells nothing apart"
    panel.classes.choose(2)
    click(panel, 5, 45)
    qtbot.waitUntil(lambda: worker.count("annotate_object_classes") == 1)
    qtbot.waitUntil(lambda: panel.image.layer("object classes") is not None)
    (plane,) = worker.last("annotate_object_classes").payload["planes"]
    assert plane["examples"] == {1: 2, 2: 3}
    codes = panel.image.plane("object classes", ())
    qtbot.waitUntil(lambda: codes[5, 55] == 3)
    assert codes[5, 35] == 2
    assert codes[5, 45] == 3
    features = panel.image.layer("objects").features
    assert list(features["class"]) == ["cells", "class 2", "class 2"]


def test_areas_and_complete_planes_go_to_the_project(
    panel: AnnotatePanel, viewer: Any, qtbot: Any
) -> None:
    panel.objects_part.area.click()
    layer = viewer.layers.selection.active
    assert layer.name == "cells · annotated area"
    assert layer.mode == "add_polygon_lasso"
    layer.add_polygons(np.array([[0, 0], [0, 20], [20, 20], [20, 0]], float))
    panel.objects_part.complete.click()
    folder = panel.link.project.folder

    def saved() -> Any:
        with opened(folder) as project:
            (source,) = project.sources
            return SimpleNamespace(
                area=project.area(source, ()), complete=project.complete(source, ())
            )

    qtbot.waitUntil(lambda: len(saved().area) == 1 and saved().complete)
    np.testing.assert_allclose(saved().area[0], [[0, 0], [0, 20], [20, 20], [20, 0]])
    panel.teardown()
    other = AnnotatePanel(ViewerModel())
    qtbot.addWidget(other, before_close_func=AnnotatePanel.teardown)
    other.link.open(folder)
    qtbot.waitUntil(lambda: any("area" in layer.name for layer in other.viewer.layers))
    assert other.objects_part.complete.isChecked()


def test_the_classifier_goes_to_layers_folders_and_files(
    panel: AnnotatePanel, viewer: Any, qtbot: Any, worker: FakeAnnotator, tmp_path: Path
) -> None:
    viewer.add_image(halves(2, HEIGHT, WIDTH), name="stack")
    panel.apply.others.click()
    qtbot.waitUntil(lambda: not panel.runs.busy)
    assert "Done" in panel.runbar.status.text()
    for name, shape in (("cells", (HEIGHT, WIDTH)), ("stack", (2, HEIGHT, WIDTH))):
        layer = viewer.layers[f"{name} · classes"]
        assert layer.data.shape == shape
        assert set(np.unique(layer.data)) == {0, 1}
    (tmp_path / "a.tif").touch()
    folders = iter([str(tmp_path), str(tmp_path / "out")])
    panel.apply.ask_folder = lambda title: next(folders)
    panel.apply.folder.click()
    qtbot.waitUntil(lambda: "1 files" in panel.runbar.status.text())
    assert worker.last("annotate_apply").payload["output"] == str(tmp_path / "out")
    panel.apply.ask_file = lambda: str(tmp_path / "mine.safetensors")
    panel.apply.save.click()
    qtbot.waitUntil(lambda: "mine.safetensors" in panel.runbar.status.text())
