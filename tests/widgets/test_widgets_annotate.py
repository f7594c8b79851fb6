"""The Annotate panel with a worker that answers by grey value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication
from tests.widgets.annotating import (
    HEIGHT,
    WIDTH,
    halves,
    paint,
    press,
    preview,
    right,
    two_strokes,
)
from tests.widgets.fake_annotator import FakeAnnotator

from dinoscope.errors import WorkerError
from dinoscope.widgets import _regions


@pytest.fixture
def viewer(worker: FakeAnnotator) -> ViewerModel:
    viewer = ViewerModel()
    viewer.add_image(halves(HEIGHT, WIDTH), name="cells", scale=(2, 2))
    return viewer


def test_start_makes_a_locked_layer_to_paint_on(viewer: Any, open_annotate: Any) -> None:
    panel = open_annotate()
    layer = panel.image.scribbles
    assert viewer.layers.selection.active is layer
    assert layer.locked
    assert layer.data.dtype == np.uint8
    assert layer.mode == "paint"
    assert layer.selected_label == 2
    assert tuple(layer.scale) == (2, 2)
    assert layer.name == "cells · scribbles"


def test_strokes_become_a_preview_beneath_them_and_the_tool_stays(
    viewer: Any, open_annotate: Any, qtbot: Any, worker: FakeAnnotator
) -> None:
    panel = open_annotate()
    two_strokes(panel)
    qtbot.waitUntil(lambda: right(panel))
    names = [layer.name for layer in viewer.layers]
    assert names == ["cells", "cells · preview", "cells · scribbles"]
    assert viewer.layers.selection.active is panel.image.scribbles
    assert panel.image.scribbles.mode == "paint"
    assert not panel.image.preview.editable
    qtbot.waitUntil(lambda: "94 %" in panel.preview.trust.text())
    assert "can be trusted" in panel.preview.trust.text()
    colours = [layer.get_color(2) for layer in (panel.image.preview, panel.image.scribbles)]
    np.testing.assert_allclose(colours[0][:3], colours[1][:3])


def test_one_class_alone_asks_for_another(
    open_annotate: Any, qtbot: Any, worker: FakeAnnotator
) -> None:
    panel = open_annotate()
    paint(panel, 2, slice(5, 10), slice(45, 55))
    qtbot.waitUntil(lambda: "another class" in panel.runbar.status.text())
    assert worker.count("annotate_preview") == 0


@pytest.mark.parametrize("how", ["undo", "erase", "fill", "assign"])
def test_every_way_of_editing_is_followed(
    open_annotate: Any, qtbot: Any, worker: FakeAnnotator, how: str
) -> None:
    panel = open_annotate()
    two_strokes(panel)
    qtbot.waitUntil(lambda: right(panel))
    layer = panel.image.scribbles
    sent = worker.count("annotate_preview")
    if how == "undo":
        layer.undo()
        qtbot.waitUntil(lambda: not preview(panel).any())
        layer.redo()
    elif how == "erase":
        paint(panel, 0, slice(5, 7), slice(45, 55))
    elif how == "fill":
        layer.fill((5, 45), 3)
        panel.classes.add.click()
        qtbot.waitUntil(lambda: right(panel, 1, 3))
        return
    else:
        layer.data[20:22, 3:9] = 1
        layer.refresh()
    qtbot.waitUntil(lambda: worker.count("annotate_preview") > sent)
    qtbot.waitUntil(lambda: right(panel))
    key = (panel.image.key, ())
    qtbot.waitUntil(lambda: len(worker.strokes[key][0]) == np.count_nonzero(layer.data))


def test_a_redraw_asks_for_nothing(open_annotate: Any, qtbot: Any, worker: FakeAnnotator) -> None:
    panel = open_annotate()
    two_strokes(panel)
    qtbot.waitUntil(lambda: right(panel) and panel.annotator.session.idle)
    sent = worker.count("annotate_preview")
    panel.image.scribbles.refresh()
    panel.image.scribbles.visible = False
    panel.image.scribbles.visible = True
    qtbot.wait(200)
    assert worker.count("annotate_preview") == sent


def test_only_the_newest_strokes_are_waited_for(
    open_annotate: Any, qtbot: Any, worker: FakeAnnotator
) -> None:
    panel = open_annotate()
    worker.silent.add("annotate_preview")
    two_strokes(panel)
    qtbot.waitUntil(lambda: worker.count("annotate_preview") == 1)
    for row in range(12, 40, 4):
        paint(panel, 2, slice(row, row + 2), slice(45, 55))
        qtbot.wait(20)
    qtbot.wait(150)
    assert worker.count("annotate_preview") == 1, "one at a time"
    worker.silent.clear()
    worker.play(worker.last("annotate_preview"))
    qtbot.waitUntil(lambda: right(panel))
    assert worker.count("annotate_preview") == 2, "the newest state, and nothing between"


def test_while_the_mouse_is_down_drafts_are_asked_for(
    open_annotate: Any, qtbot: Any, worker: FakeAnnotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = open_annotate()
    down = Qt.MouseButton.LeftButton
    monkeypatch.setattr(QApplication, "mouseButtons", lambda: down)
    two_strokes(panel)
    qtbot.waitUntil(panel.annotator.is_fresh)
    asked = [job.payload["draft"] for job in worker.jobs if job.kind == "annotate_preview"]
    assert asked[0], "while a stroke is painted"
    assert not asked[-1], "the whole forest's labels follow without another event"
    assert right(panel)


def test_planes_and_images_teach_one_classifier(
    viewer: Any, open_annotate: Any, qtbot: Any, worker: FakeAnnotator
) -> None:
    viewer.add_image(halves(3, HEIGHT, WIDTH), name="stack")
    panel = open_annotate(begin=False)
    panel.source.combo.layer = viewer.layers["stack"]
    panel.runbar.run.click()
    viewer.dims.set_current_step(0, 0)
    paint(panel, 1, slice(5, 10), slice(2, 12), 0)
    qtbot.waitUntil(lambda: panel.annotator.keeper.book.counts()[1] == 50)
    viewer.dims.set_current_step(0, 2)
    paint(panel, 2, slice(5, 10), slice(45, 55), 2)
    qtbot.waitUntil(lambda: preview(panel)[2].any())
    assert not preview(panel)[1].any()
    viewer.dims.set_current_step(0, 1)
    qtbot.waitUntil(lambda: preview(panel)[1].any())
    panel.source.combo.layer = viewer.layers["cells"]
    panel.runbar.run.click()
    qtbot.waitUntil(lambda: right(panel))
    assert {key[0] for key in worker.strokes} == {
        str(viewer.layers["stack"].unique_id),
    }


def test_classes_are_recoded_in_layers_and_strokes(
    open_annotate: Any, qtbot: Any, worker: FakeAnnotator
) -> None:
    panel = open_annotate()
    panel.classes.add.click()
    paint(panel, 1, slice(5, 10), slice(2, 12))
    paint(panel, 2, slice(20, 25), slice(2, 12))
    paint(panel, 3, slice(5, 10), slice(45, 55))
    qtbot.waitUntil(lambda: preview(panel).max() == 3)
    panel.classes.choose(1)
    panel.classes.drop.click()
    assert panel.annotator.classes.names == ["background", "class 2"]
    assert set(np.unique(panel.image.scribbles.data)) == {0, 1, 2}
    qtbot.waitUntil(lambda: right(panel, 1, 2))
    panel.undo.click()
    assert panel.annotator.classes.names == ["background", "cells", "class 2"]
    assert (panel.image.scribbles.data[20:25, 2:12] == 2).all()
    assert (panel.image.scribbles.data[5:10, 45:55] == 3).all()
    qtbot.waitUntil(lambda: preview(panel)[..., -1].max() == 3)
    panel.classes.choose(2)
    panel.classes.up.click()
    assert panel.annotator.classes.names == ["background", "class 2", "cells"]
    assert (panel.image.scribbles.data[5:10, 45:55] == 2).all()
    qtbot.waitUntil(lambda: preview(panel)[..., -1].max() == 2)


def test_answers_in_old_codes_are_dropped(
    open_annotate: Any, qtbot: Any, worker: FakeAnnotator
) -> None:
    panel = open_annotate()
    panel.classes.add.click()
    worker.silent.add("annotate_preview")
    paint(panel, 1, slice(5, 10), slice(2, 12))
    paint(panel, 3, slice(5, 10), slice(45, 55))
    qtbot.waitUntil(lambda: worker.count("annotate_preview") == 1)
    panel.classes.choose(1)
    panel.classes.drop.click()
    worker.silent.clear()
    worker.play(worker.last("annotate_preview"))
    qtbot.waitUntil(lambda: right(panel, 1, 2))
    assert preview(panel).max() == 2


@pytest.mark.parametrize("announce", [True, False])
def test_a_killed_worker_is_told_everything_again(
    open_annotate: Any, qtbot: Any, worker: FakeAnnotator, announce: bool
) -> None:
    panel = open_annotate()
    two_strokes(panel)
    qtbot.waitUntil(lambda: right(panel) and panel.annotator.session.idle)
    worker.restart(announce=announce)
    paint(panel, 2, slice(30, 32), slice(45, 55))
    key = (panel.image.key, ())
    qtbot.waitUntil(lambda: key in worker.strokes and len(worker.strokes[key][0]) == 120)
    assert worker.count("annotate_open") == 2


def test_a_worker_that_dies_each_time_is_asked_twice(
    open_annotate: Any, qtbot: Any, worker: FakeAnnotator
) -> None:
    panel = open_annotate()
    worker.silent.add("annotate_preview")
    two_strokes(panel)
    for number in (1, 2):
        qtbot.waitUntil(lambda n=number: worker.count("annotate_preview") == n)
        worker.last("annotate_preview").send("error", error=WorkerError("it died"))
    qtbot.waitUntil(lambda: "it died" in panel.runbar.status.text())
    qtbot.wait(100)
    assert worker.count("annotate_preview") == 2


def test_large_planes_begin_with_what_is_in_view(
    viewer: Any, open_annotate: Any, qtbot: Any, worker: FakeAnnotator
) -> None:
    big = viewer.add_image(halves(2048, 2048), name="big")
    panel = open_annotate(begin=False)
    panel.source.combo.layer = big
    panel.runbar.run.click()
    big.corner_pixels = np.array([[0, 0], [400, 500]])
    layer = panel.image.scribbles
    layer.data[10:20, 10:200] = 1
    layer.data[10:20, 1500:1600] = 2
    layer.refresh()
    qtbot.waitUntil(lambda: right(panel))
    (regions,) = [j.payload["regions"] for j in worker.jobs if j.kind == "annotate_preview"]
    assert regions[0] == (0, 0, 401, 501)
    assert len(regions) == 5


def test_a_large_plane_in_view_is_labelled_coarsely_at_first(
    viewer: Any,
    open_annotate: Any,
    qtbot: Any,
    worker: FakeAnnotator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_regions, "OVERVIEW_PIXELS", 30 * 30)
    monkeypatch.setattr(_regions, "WHOLE_PIXELS", 30 * 30)
    monkeypatch.setattr(_regions, "BLOCK_PX", 20)
    panel = open_annotate()
    seen: list[tuple[Any, np.ndarray]] = []
    panel.annotator.session.arrived.connect(
        lambda wish, data: seen.append((data["step"], preview(panel).copy()))
    )
    two_strokes(panel)
    qtbot.waitUntil(lambda: right(panel) and panel.annotator.is_fresh())
    assert [step for step, _ in seen[-10:]] == [4] + [1] * 9
    # Before any piece is there, each pixel has the label of the first one of its square.
    coarse = seen[-10][1]
    place = panel.image.placement.shape
    assert coarse.shape == place
    assert set(np.unique(coarse)) == {1, 2}
    wrong = (coarse != np.where(np.arange(place[1]) < place[1] // 2, 1, 2)).any(0)
    assert wrong.sum() < 4


def test_layers_may_be_renamed_hidden_moved_and_removed(
    viewer: Any, open_annotate: Any, qtbot: Any, worker: FakeAnnotator
) -> None:
    panel = open_annotate()
    two_strokes(panel)
    qtbot.waitUntil(lambda: right(panel))
    viewer.layers["cells"].name = "other"
    panel.image.scribbles.name = "mine"
    viewer.layers.move(viewer.layers.index(panel.image.scribbles), 0)
    panel.image.preview.visible = False
    paint(panel, 2, slice(30, 32), slice(45, 55))
    key = (panel.image.key, ())
    qtbot.waitUntil(lambda: len(worker.strokes[key][0]) == 120)
    # The scribbles go, and come back.
    viewer.layers.remove(panel.image.scribbles)
    assert "brings them back" in panel.runbar.status.text()
    assert not panel.runbar.run.isHidden()
    panel.runbar.run.click()
    assert np.count_nonzero(panel.image.scribbles.data) == 120
    # The preview goes, and with it the tick.
    viewer.layers.remove(panel.image.preview)
    assert not panel.preview.preview.isChecked()
    panel.preview.preview.setChecked(True)
    qtbot.waitUntil(lambda: right(panel))
    # The image goes.
    viewer.layers.remove("other")
    assert panel.image is None


def test_keys_choose_classes_preview_and_the_next_place(
    viewer: Any, open_annotate: Any, qtbot: Any, worker: FakeAnnotator
) -> None:
    panel = open_annotate()
    layer = panel.image.scribbles
    press(layer, "1")
    assert layer.selected_label == 1
    assert panel.classes.row == 0
    layer.selected_label = 2
    assert panel.classes.row == 1
    layer.brush_size = 21
    assert panel.brush.value() == 21
    two_strokes(panel)
    qtbot.waitUntil(lambda: right(panel))
    press(viewer, "T")
    assert not panel.image.preview.visible
    press(viewer, "T")
    assert panel.image.preview.visible
    press(viewer, "N")
    qtbot.waitUntil(lambda: "least sure" in panel.runbar.status.text())
    centre = np.array(viewer.scene.camera.center[-2:])
    np.testing.assert_allclose(centre, (20, 24))
    panel.teardown()
    assert "N" not in map(str, viewer.keymap)


def test_uncertainty_is_a_layer_when_it_is_wanted(
    viewer: Any, open_annotate: Any, qtbot: Any, worker: FakeAnnotator
) -> None:
    panel = open_annotate()
    two_strokes(panel)
    qtbot.waitUntil(lambda: right(panel))
    assert panel.image.uncertainty is None
    panel.preview.uncertainty.setChecked(True)
    qtbot.waitUntil(lambda: panel.image.uncertainty is not None)
    assert (panel.image.uncertainty.data == 90).all()
    panel.preview.uncertainty.setChecked(False)
    assert not panel.image.uncertainty.visible


@pytest.mark.parametrize(
    ("shape", "rgb"), [((HEIGHT, WIDTH, 3), True), ((2, 3, HEIGHT, WIDTH), False)]
)
def test_any_image_can_be_annotated(
    viewer: Any, open_annotate: Any, qtbot: Any, shape: tuple[int, ...], rgb: bool
) -> None:
    flat = halves(HEIGHT, WIDTH)
    data = np.broadcast_to(flat[..., None] if rgb else flat, shape).copy()
    viewer.add_image(data, name="new", rgb=rgb)
    panel = open_annotate(begin=False)
    panel.source.combo.layer = viewer.layers["new"]
    panel.runbar.run.click()
    lead = () if rgb else (1, 2)
    for axis, step in enumerate(lead):
        viewer.dims.set_current_step(axis, step)
    two_strokes(panel, *lead)
    qtbot.waitUntil(lambda: preview(panel)[lead].any())
    half = preview(panel)[lead]
    assert (half[:, : WIDTH // 2] == 1).all()
    assert (half[:, WIDTH // 2 :] == 2).all()


def test_classes_of_a_lasso_become_strokes_that_spare_the_user_s(
    viewer: Any, open_annotate: Any, qtbot: Any, worker: FakeAnnotator
) -> None:
    from dinoscope.widgets._layers import make_source

    panel = open_annotate()
    two_strokes(panel)
    plane = np.zeros((HEIGHT, WIDTH), np.uint8)
    plane[:14, :14] = 1
    source = make_source([viewer.layers["cells"]])
    panel.controller.strokes_offered.emit((["dividing"], [(source, (), plane)]))
    assert panel.annotator.classes.names == ["background", "cells", "dividing"]
    data = panel.image.scribbles.data
    assert (data[5:10, 2:12] == 1).all()
    assert data[0, 0] == 3
    assert "dividing" in panel.runbar.status.text()
    qtbot.waitUntil(lambda: panel.annotator.keeper.book.counts()[3] == 196 - 50)
    panel.image.scribbles.undo()
    qtbot.waitUntil(lambda: panel.annotator.keeper.book.counts()[3] == 0)


def test_a_second_panel_of_one_window_sends_to_the_first(
    viewer: Any, open_annotate: Any, qtbot: Any
) -> None:
    open_annotate()
    second = open_annotate()
    assert "open already" in second.runbar.status.text()
    assert [layer.name for layer in viewer.layers] == ["cells", "cells · scribbles"]
    second.teardown()
    assert "N" in map(str, viewer.keymap)
