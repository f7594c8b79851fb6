"""How fast plot and image follow each other, in a real window with 10,000 points and a million.

``python -m benchmarks.brushing [POINTS]`` prints JSON: milliseconds of each step. "handled" is the
time until the window goes on (selection, overlay and plot know); "painted" ends when the window has
drawn image and plot again. Without a display it needs ``xvfb-run``, whose software OpenGL alone
takes 25 to 30 ms for a frame of 1024².
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import window
from benchmarks.rows import Row

POINTS = 10_000
REPEATS = 20
#: Brushing: what is chosen on one side is lit on the other within so many milliseconds.
MUST_MS = 50.0
MUST_FPS = 30.0


def brushing_rows(data: Path | None) -> Iterator[Row]:
    """Lasso and hover both ways, and redrawing the plot."""
    found = window.result_of("-m", "benchmarks.brushing", str(POINTS))
    for step, values in found["ms"].items():
        for kind, label in (("p50", "median"), ("p95", "95th percentile")):
            yield Row(f"{POINTS:,} points: {step}, {label}, ms (less)", values[kind], must=MUST_MS)
    for count, rate in found["frames"].items():
        yield Row(
            f"plot of {int(count):,} points panned, frames a second (more)", rate, must=MUST_FPS
        )
    yield Row("lasso over 1,000,000 points, ms (less)", found["million_ms"])


def made_points(count: int, kind: str, viewer: Any) -> Any:
    """A plot of `count` points over a made image: patches of a grid, or objects of a layer."""
    from dinoscope.arrays.patches import PatchGrid
    from dinoscope.config import ProjectionOptions
    from dinoscope.widgets._layers import make_source
    from dinoscope.widgets._points import PointSet, Variant
    from dinoscope.widgets._tokens import TokenSet

    side = round(count**0.5)
    step = 10 if kind == "patches" else 20
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (side * step, side * step), dtype=np.uint8)
    layer = viewer.add_image(pixels, name=kind, contrast_limits=(0, 255))
    row, column = (a.ravel() for a in np.indices((side, side)))
    step_px = (float(step), float(step))
    grid = PatchGrid(pixels.shape, (side, side), step_px, ((step - 1) / 2, (step - 1) / 2))
    centres = grid.centres(row, column)
    table = {
        "set": np.zeros(side * side, int),
        "image": np.full(side * side, kind, dtype=object),
        "y": centres[:, 0],
        "x": centres[:, 1],
        "row": row,
        "column": column,
    }
    objects = None
    if kind == "objects":
        ids = np.zeros(pixels.shape, np.int32)
        table["label"] = np.arange(1, side * side + 1)
        for dy in range(4, 16):
            for dx in range(4, 16):
                ids[dy::step, dx::step] = table["label"].reshape(side, side)
        objects = viewer.add_labels(ids, name="ids", visible=False)
    one = TokenSet("t", make_source([layer]), True, False, ((),), grid, 192, True)
    coordinates = rng.normal(size=(side * side, 2)).astype(np.float32)
    return PointSet(
        kind,
        ProjectionOptions(),
        table,
        [Variant("", "p", (one,), coordinates, np.array([0.5, 0.2]))],
        objects=objects,
        classes=np.zeros(side * side, np.int32),
    )


def measure(count: int) -> dict[str, Any]:
    """Open a window and time everything in it."""
    import napari
    from qtpy.QtWidgets import QApplication

    from dinoscope.widgets._linked import LinkedPlot

    viewer = napari.Viewer(show=True)
    viewer.window.resize(1480, 940)
    ms: dict[str, dict[str, float]] = {}

    def settle(seconds: float = 0.3) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            QApplication.processEvents()
            time.sleep(0.005)

    def timed(name: str, act: Callable[[int], Any]) -> None:
        handled, painted = [], []
        for number in range(REPEATS + 1):
            settle(0.05)
            started = time.perf_counter()
            act(number)
            handled.append(1e3 * (time.perf_counter() - started))
            QApplication.processEvents()
            painted.append(1e3 * (time.perf_counter() - started))
        for kind, values in (("handled", handled), ("painted", painted)):
            kept = values[1:]  # the first one makes the layer
            ms[f"{name}, {kind}"] = {
                "p50": statistics.median(kept),
                "p95": float(np.percentile(kept, 95)),
            }

    for kind in ("patches", "objects"):
        viewer.layers.clear()
        points = made_points(count, kind, viewer)
        linked = LinkedPlot(viewer)
        linked.show(points)
        viewer.fit_to_view()
        settle(1.0)
        plot = linked.dock.plot
        place = plot.screen()[:, :2]
        layer = points.sets[0].source.layer

        def lasso(number: int, plot: Any = plot, place: np.ndarray = place) -> None:
            x0, x1 = np.percentile(place[:, 0], [number, number + 40])
            around = np.linspace(0, 2 * np.pi, 100)
            middle, reach = np.array([(x0 + x1) / 2, 130.0]), np.array([(x1 - x0) / 2, 130.0])
            corners = middle + reach * np.column_stack([np.cos(around), np.sin(around)])
            plot.lassoed.emit(plot.points_in(corners), "new")

        def hover(number: int, plot: Any = plot) -> None:
            plot.hovered.emit(100 + 7 * number)

        def pointer(number: int, linked: Any = linked, layer: Any = layer) -> None:
            linked._pointer = layer.data_to_world((25 + 20 * number, 25 + 20 * number))
            linked._look_at_pointer()

        def image_lasso(number: int, linked: Any = linked, layer: Any = layer) -> None:
            around = np.linspace(0, 2 * np.pi, 100)
            side = layer.data.shape[0] / 2
            circle = np.column_stack([np.cos(around), np.sin(around)])
            linked._on_image_lasso((), side + (0.3 + 0.02 * number) * side * circle)

        timed(f"lasso in the plot lights up {kind}", lasso)
        timed(f"hover in the plot lights up one of {kind}", hover)
        timed(f"hover in the image lights up a point of {kind}", pointer)
        timed(f"lasso in the image lights up points of {kind}", image_lasso)
        linked.forget()
        settle()

    frames, million_ms = {}, 0.0
    for number in (count, 1_000_000):
        rate, lasso_ms = redrawing(number)
        frames[str(number)] = rate
        million_ms = lasso_ms
    viewer.close()
    return {"ms": ms, "frames": frames, "million_ms": million_ms}


def redrawing(count: int) -> tuple[float, float]:
    """Frames a second while the plot is moved, and milliseconds of a lasso over its points."""
    from dinoscope.widgets._scatter import ScatterView

    plot = ScatterView()
    plot.resize(820, 340)
    plot.set_points(np.random.default_rng(0).normal(size=(count, 2)).astype(np.float32))
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        plot.view.pan(1, 0)
        plot._changed()
        plot.grab()
        seconds.append(time.perf_counter() - started)
    around = np.linspace(0, 2 * np.pi, 200)
    circle = np.array([400.0, 170.0]) + 120 * np.column_stack([np.cos(around), np.sin(around)])
    started = time.perf_counter()
    plot.points_in(circle)
    return 1 / statistics.median(seconds), 1e3 * (time.perf_counter() - started)


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else POINTS
    print("RESULT" + json.dumps(measure(number)), flush=True)
