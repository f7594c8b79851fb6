"""The plot: what is drawn where, what a lasso holds, and how fast it is."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtTest import QTest

from dinoscope.arrays.ticks import ticks
from dinoscope.widgets._figure import save_figure
from dinoscope.widgets._plotcolours import GREY, by_column, by_group, by_value
from dinoscope.widgets._plotview import PlotView
from dinoscope.widgets._raster import Raster, inside_polygon, pack
from dinoscope.widgets._scatter import MOST_DRAWN, ScatterView
from dinoscope.widgets._selection import Selection

SQUARE = np.array([[0, 0], [10, 0], [10, 10], [0, 10]])


@pytest.fixture
def plot(qtbot: Any) -> ScatterView:
    """Nine points in a square."""
    view = ScatterView()
    qtbot.addWidget(view)
    view.resize(420, 320)
    y, x = np.mgrid[:3, :3]
    view.set_points(np.column_stack([x.ravel(), y.ravel()]).astype(np.float32), ("PC1", "PC2"))
    view.show()
    return view


def box_around(plot: ScatterView, *points: int, margin: float = 10) -> np.ndarray:
    """A lasso around some points."""
    place = plot.screen(np.array(points))[:, :2]
    (x0, y0), (x1, y1) = place.min(0) - margin, place.max(0) + margin
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


# -- pictures and colours ------------------------------------------------------------------------


def test_discs_lie_where_their_points_are_and_later_ones_on_top() -> None:
    red, blue = pack(np.array([[255, 0, 0], [0, 0, 255]]))
    raster = Raster(40, 60, int(pack(np.zeros((1, 3)))[0]))
    raster.put(np.array([20.0, 21.0]), np.array([10.0, 10.0]), np.array([red, blue]), 2.0)
    picture = raster.picture
    assert picture.shape == (40, 60)
    assert picture[10, 21] == blue
    assert picture[10, 19] != blue
    assert len(np.unique(picture[:, 30:])) == 1


def test_points_beside_the_picture_are_left_out_and_those_at_its_edge_are_cut() -> None:
    raster = Raster(10, 10, 0xFF000000)
    far = np.array([-500.0, 0.0, 1e6, 5.0])
    raster.put(far, np.array([5.0, 0.0, 5.0, 9e5]), np.full(4, 0xFFFFFFFF, np.uint32), 3.0)
    assert raster.picture[0, 0] == 0xFFFFFFFF
    assert raster.picture[9, 9] == 0xFF000000


@pytest.mark.parametrize(("point", "inside"), [((5, 5), True), ((11, 5), False), ((-1, 3), False)])
def test_a_polygon_holds_what_lies_inside(point: tuple[int, int], inside: bool) -> None:
    assert inside_polygon(np.array([point]), SQUARE)[0] == inside


def test_groups_have_different_colours_and_no_group_is_grey() -> None:
    found = by_group(np.array([0, 3, 3, 7]), "class", names={3: "round"}, none=0)
    assert tuple(found.colours[0]) == GREY
    assert (found.colours[1] == found.colours[2]).all()
    assert (found.colours[1] != found.colours[3]).any()
    assert [text for text, _ in found.legend.entries] == ["none", "round", "7"]


def test_many_groups_are_counted_in_the_legend() -> None:
    found = by_group(np.repeat(np.arange(30), np.arange(1, 31)), "cluster")
    assert len(found.legend.entries) + found.legend.more == 30
    assert found.legend.entries[-1][0] == "29", "the largest groups are named"


def test_values_run_along_a_scale_and_gaps_are_grey() -> None:
    found = by_value(np.array([0.0, 1.0, np.nan, 0.0]), "area")
    assert tuple(found.colours[2]) == GREY
    assert (found.colours[0] == found.colours[3]).all()
    assert found.legend.low < found.legend.high


@pytest.mark.parametrize(
    ("values", "grouped"),
    [
        (np.array(["a", "b"]), True),
        (np.array([1, 2, 3]), True),
        (np.arange(500), False),
        (np.array([0.1, 0.5]), False),
        (np.array([1.5, None], dtype=object), False),
        (np.array(["x", ""], dtype=object), True),
    ],
)
def test_a_column_is_coloured_by_what_it_holds(values: np.ndarray, grouped: bool) -> None:
    assert (by_column(values, "column").legend.scale is None) == grouped


# -- camera --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [2, 3])
def test_all_points_are_inside_the_frame_at_first(dimensions: int) -> None:
    points = np.random.default_rng(0).normal(size=(200, dimensions)).astype(np.float32)
    view = PlotView()
    view.fit(points)
    for _ in range(4):  # in three dimensions also when they are turned
        place = view.project(points, 300, 200)
        assert (place[:, :2] >= 0).all()
        assert (place[:, :2] <= (300, 200)).all()
        view.turn(90, 40)


def test_zooming_keeps_what_is_under_the_pointer() -> None:
    view = PlotView()
    view.fit(np.array([[0, 0], [10, 10]], np.float32))
    before = view.value_at(70, 30, 200, 100)
    view.zoom_at(3, 70, 30, 200, 100)
    assert view.value_at(70, 30, 200, 100) == pytest.approx(before)
    assert view.value_at(199, 99, 200, 100)[0] < 7


def test_points_that_are_all_alike_or_no_numbers_are_shown_without_an_error() -> None:
    view = PlotView()
    view.fit(np.zeros((5, 2), np.float32))
    assert np.isfinite(view.project(np.zeros((5, 2), np.float32), 100, 100)).all()
    view.fit(np.full((5, 2), np.nan, np.float32))
    assert ticks(np.nan, 1) == []


# -- the widget ----------------------------------------------------------------------------------


def test_a_lasso_drawn_with_the_mouse_takes_the_points_in_it(plot: ScatterView, qtbot: Any) -> None:
    corners = [QPoint(int(x), int(y)) for x, y in box_around(plot, 0, 3)]
    with qtbot.waitSignal(plot.lassoed) as caught:
        QTest.mousePress(plot, Qt.MouseButton.LeftButton, pos=corners[0])
        for corner in [*corners[1:], corners[0] + QPoint(0, 3)]:
            QTest.mouseMove(plot, corner)
            qtbot.wait(2)
        QTest.mouseRelease(plot, Qt.MouseButton.LeftButton, pos=corners[0])
    mask, how = caught.args
    assert np.flatnonzero(mask).tolist() == [0, 3]
    assert how == "new"


def test_moving_moves_and_the_wheel_zooms(plot: ScatterView, qtbot: Any) -> None:
    plot.tool = "move"
    before = plot.screen()[4, :2]
    QTest.mousePress(plot, Qt.MouseButton.LeftButton, pos=QPoint(200, 150))
    for x in (210, 225, 240):
        QTest.mouseMove(plot, QPoint(x, 150))
        qtbot.wait(2)
    QTest.mouseRelease(plot, Qt.MouseButton.LeftButton, pos=QPoint(240, 150))
    assert plot.screen()[4, 0] > before[0] + 15
    plot.fit()
    np.testing.assert_allclose(plot.screen()[4, :2], before, atol=1e-3)


def test_hover_finds_the_nearest_point_and_says_so(plot: ScatterView, qtbot: Any) -> None:
    plot.describe = lambda point: f"point {point}"
    x, y = plot.screen()[7, :2]
    with qtbot.waitSignal(plot.hovered) as caught:
        QTest.mouseMove(plot, QPoint(round(float(x)) + 2, round(float(y)) - 2))
    assert caught.args == [7]
    assert plot.point_at(float(x) + 40, float(y) + 30) == -1


def test_a_click_picks_a_point_and_shift_adds_it(plot: ScatterView, qtbot: Any) -> None:
    x, y = (round(float(v)) for v in plot.screen()[2, :2])
    with qtbot.waitSignal(plot.picked) as caught:
        QTest.mouseClick(
            plot, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.ShiftModifier, QPoint(x, y)
        )
    assert caught.args == [2, "add"]


def test_escape_clears_and_control_z_undoes(plot: ScatterView, qtbot: Any) -> None:
    with qtbot.waitSignal(plot.clear_asked):
        QTest.keyClick(plot, Qt.Key.Key_Escape)
    with qtbot.waitSignal(plot.undo_asked):
        QTest.keyClick(plot, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)


def test_selected_points_stand_out(plot: ScatterView) -> None:
    def colour(point: int) -> Any:
        x, y = plot.screen()[point, :2]
        return plot.grab().toImage().pixelColor(QPointF(float(x), float(y)).toPoint())

    plain = colour(8)
    plot.set_mask(np.arange(9) == 0)
    assert colour(0) == plain
    assert colour(8).lightness() < plain.lightness(), "the others are dimmed on dark ground"


def test_a_million_points_are_thinned_for_drawing_but_not_for_selection(qtbot: Any) -> None:
    view = ScatterView()
    qtbot.addWidget(view)
    view.resize(500, 300)
    points = np.random.default_rng(0).uniform(0, 1, (1_000_000, 2)).astype(np.float32)
    view.set_points(points)
    assert len(view.drawn) == MOST_DRAWN
    place = view.screen()[:, :2]
    low, high = np.percentile(place, [25, 75], axis=0)
    corners = np.array([low, [high[0], low[1]], high, [low[0], high[1]]])
    exact = ((place > low) & (place < high)).all(axis=1)
    found = view.points_in(corners)
    assert abs(int(found.sum()) - int(exact.sum())) < 0.02 * exact.sum()
    view.grab()


def test_ten_thousand_points_are_redrawn_many_times_a_second(qtbot: Any) -> None:
    view = ScatterView()
    qtbot.addWidget(view)
    view.resize(700, 320)
    points = np.random.default_rng(0).normal(size=(10_000, 2)).astype(np.float32)
    view.set_points(points)
    seconds = []
    for _ in range(8):
        view.view.pan(1, 0)
        view._changed()
        started = time.perf_counter()
        view.grab()
        seconds.append(time.perf_counter() - started)
    # 30 a second are wanted on a quiet machine, where it takes 4 ms; test machines are not quiet.
    assert min(seconds) < 1 / 30


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_figure_is_white_and_has_its_axes(plot: ScatterView, tmp_path: Any, suffix: str) -> None:
    look = plot.look
    path = tmp_path / f"figure.{suffix}"
    save_figure(plot, path)
    assert plot.look == look, "the window looks as before"
    if suffix == "svg":
        text = path.read_text()
        assert "PC1" in text
        assert text.count("<circle") + text.count("<path") + text.count("<ellipse") >= 9
    else:
        from skimage.io import imread

        image = imread(path)
        assert image.shape[1] == 3 * plot.width()
        assert (image[2, 2, :3] == 255).all()


# -- selection -----------------------------------------------------------------------------------


def test_selections_are_added_taken_away_and_undone() -> None:
    selection = Selection(5)
    selection.apply(np.array([1, 1, 0, 0, 0], bool))
    selection.apply(np.array([0, 0, 1, 0, 0], bool), "add")
    selection.apply(np.array([1, 0, 0, 0, 0], bool), "remove")
    assert selection.mask.tolist() == [False, True, True, False, False]
    selection.clear()
    assert selection.count == 0
    for count in (2, 3, 2, 0):
        selection.undo()
        assert selection.count == count
    assert not selection.can_undo
