"""What the Annotate panel saves, and what comes back when it is opened again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers._source import layer_source
from tests.widgets.annotating import HEIGHT, WIDTH, halves, paint, right, two_strokes
from tests.widgets.fake_annotator import FakeAnnotator

from dinoscope.project import Project, opened
from dinoscope.widgets.annotate import AnnotatePanel


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, halves(HEIGHT, WIDTH))
    return path


@pytest.fixture
def viewer(worker: FakeAnnotator, file: Path) -> ViewerModel:
    viewer = ViewerModel()
    with layer_source(path=str(file)):
        viewer.add_image(tifffile.imread(file), name="cells")
    return viewer


def saved_in(panel: AnnotatePanel, qtbot: Any) -> Path:
    qtbot.waitUntil(lambda: panel.link.project is not None and bool(panel.annotator.keeper.ids))
    return Path(panel.link.project.folder)


def strokes_on_disk(folder: Path) -> dict[int, int]:
    with opened(folder) as project:
        found: dict[int, int] = {}
        for source in project.sources:
            for index in project.planes(source):
                codes = project.strokes(source, index)[1]
                for code in np.unique(codes):
                    found[int(code)] = found.get(int(code), 0) + int((codes == code).sum())
    return found


def test_strokes_are_on_the_disk_within_two_seconds(
    viewer: Any, open_annotate: Any, qtbot: Any, tmp_path: Path
) -> None:
    panel = open_annotate()
    two_strokes(panel)
    start = time.monotonic()
    folder = saved_in(panel, qtbot)
    assert folder.parent == tmp_path / "projects"
    qtbot.waitUntil(lambda: strokes_on_disk(folder) == {1: 50, 2: 50})
    assert time.monotonic() - start < 2
    panel.image.scribbles.undo()
    qtbot.waitUntil(lambda: strokes_on_disk(folder) == {1: 50})


def test_a_project_comes_back_in_a_new_window(
    viewer: Any, open_annotate: Any, qtbot: Any, worker: FakeAnnotator, file: Path
) -> None:
    panel = open_annotate()
    panel.classes.add.click()
    panel.annotator.classes.rename(2, "nuclei")
    panel.classes.changed.emit(np.arange(256, dtype=np.uint8))
    two_strokes(panel)
    paint(panel, 3, slice(20, 22), slice(45, 55))
    folder = saved_in(panel, qtbot)
    qtbot.waitUntil(lambda: strokes_on_disk(folder) == {1: 50, 2: 50, 3: 20})
    panel.teardown()
    other = AnnotatePanel(ViewerModel())
    qtbot.addWidget(other, before_close_func=AnnotatePanel.teardown)
    other.link.open(folder)
    qtbot.waitUntil(lambda: len(other.annotator.images) == 1)
    assert other.annotator.classes.names == ["background", "cells", "nuclei"]
    assert np.count_nonzero(other.image.scribbles.data) == 120
    assert other.viewer.layers.selection.active is other.image.scribbles
    two_strokes(other)  # as they were
    paint(other, 0, slice(20, 22), slice(45, 55))
    qtbot.waitUntil(lambda: right(other))
    qtbot.waitUntil(lambda: strokes_on_disk(folder) == {1: 50, 2: 50})


def test_a_second_window_may_look_and_says_so(
    viewer: Any, open_annotate: Any, qtbot: Any, tmp_path: Path
) -> None:
    panel = open_annotate()
    two_strokes(panel)
    folder = saved_in(panel, qtbot)
    qtbot.waitUntil(lambda: strokes_on_disk(folder) == {1: 50, 2: 50})
    other = AnnotatePanel(ViewerModel())
    qtbot.addWidget(other, before_close_func=AnnotatePanel.teardown)
    other.link.open(folder)
    qtbot.waitUntil(lambda: len(other.annotator.images) == 1)
    assert "looked at only" in other.project.about.text()
    paint(other, 2, slice(30, 32), slice(45, 55))
    qtbot.waitUntil(lambda: other.annotator.keeper.book.counts()[2] == 70)
    assert strokes_on_disk(folder) == {1: 50, 2: 50}
    # A copy may be changed, and has what was painted meanwhile.
    other.project.ask_new = lambda title: str(tmp_path / "copy")
    other.project.save.click()
    qtbot.waitUntil(lambda: other.link.project.name == "copy")
    paint(other, 2, slice(33, 35), slice(45, 55))
    qtbot.waitUntil(lambda: strokes_on_disk(tmp_path / "copy.dinoproject") == {1: 50, 2: 90})


def test_a_moved_image_is_asked_for(
    viewer: Any, open_annotate: Any, qtbot: Any, file: Path, tmp_path: Path
) -> None:
    panel = open_annotate()
    two_strokes(panel)
    folder = saved_in(panel, qtbot)
    qtbot.waitUntil(lambda: strokes_on_disk(folder) == {1: 50, 2: 50})
    panel.teardown()
    file.rename(tmp_path / "elsewhere.tif")
    other = AnnotatePanel(ViewerModel())
    qtbot.addWidget(other, before_close_func=AnnotatePanel.teardown)
    other.link.open(folder)
    qtbot.waitUntil(lambda: not other.project.find.isHidden())
    assert "cells" in other.project.about.text()
    other.project.ask_image = lambda name: str(tmp_path / "elsewhere.tif")
    other.project.find.click()
    qtbot.waitUntil(lambda: len(other.annotator.images) == 1)
    assert np.count_nonzero(other.image.scribbles.data) == 100
    assert other.project.find.isHidden()


def test_an_image_without_a_file_is_kept(
    viewer: Any, open_annotate: Any, qtbot: Any, worker: FakeAnnotator
) -> None:
    viewer.layers.clear()
    viewer.add_image(halves(2, HEIGHT, WIDTH), name="made here", scale=(1, 2, 2))
    panel = open_annotate()
    viewer.dims.set_current_step(0, 1)
    two_strokes(panel, 1)
    folder = saved_in(panel, qtbot)
    qtbot.waitUntil(lambda: strokes_on_disk(folder) == {1: 50, 2: 50})
    panel.teardown()
    other = AnnotatePanel(ViewerModel())
    qtbot.addWidget(other, before_close_func=AnnotatePanel.teardown)
    other.link.open(folder)
    qtbot.waitUntil(lambda: len(other.annotator.images) == 1)
    assert other.image.source.layer.data.shape == (2, HEIGHT, WIDTH)
    assert np.count_nonzero(other.image.scribbles.data[1]) == 100


def test_the_panel_may_be_closed_and_opened(
    viewer: Any, open_annotate: Any, qtbot: Any, worker: FakeAnnotator
) -> None:
    panel = open_annotate()
    two_strokes(panel)
    folder = saved_in(panel, qtbot)
    qtbot.waitUntil(lambda: strokes_on_disk(folder) == {1: 50, 2: 50})
    panel.teardown()
    again = open_annotate()
    qtbot.waitUntil(lambda: len(again.annotator.images) == 1)
    assert sum("scribbles" in layer.name for layer in viewer.layers) == 1
    assert again.link.project.folder == folder
    paint(again, 2, slice(30, 32), slice(45, 55))
    qtbot.waitUntil(lambda: strokes_on_disk(folder) == {1: 50, 2: 70})


def test_a_new_project_begins_empty(
    viewer: Any, open_annotate: Any, qtbot: Any, tmp_path: Path
) -> None:
    panel = open_annotate()
    two_strokes(panel)
    folder = saved_in(panel, qtbot)
    qtbot.waitUntil(lambda: strokes_on_disk(folder) == {1: 50, 2: 50})
    panel.project.ask_new = lambda title: str(tmp_path / "second")
    panel.project.new.click()
    qtbot.waitUntil(lambda: panel.link.project.name == "second")
    assert [layer.name for layer in viewer.layers] == ["cells"]
    panel.runbar.run.click()
    assert not panel.image.scribbles.data.any()
    paint(panel, 2, slice(30, 32), slice(45, 55))
    qtbot.waitUntil(lambda: strokes_on_disk(tmp_path / "second.dinoproject") == {2: 20})
    assert strokes_on_disk(folder) == {1: 50, 2: 50}


def test_a_broken_project_is_said(
    viewer: Any, open_annotate: Any, qtbot: Any, tmp_path: Path
) -> None:
    panel = open_annotate()
    panel.link.open(tmp_path)
    qtbot.waitUntil(lambda: panel.runbar.status.property("tone") == "error")
    assert str(tmp_path) in panel.runbar.status.text()
    Project.create(tmp_path / "good.dinoproject").close()
    panel.link.open(tmp_path / "good.dinoproject")
    qtbot.waitUntil(lambda: panel.project.about.text().startswith("good"))
