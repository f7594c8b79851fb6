"""The Annotate panel in a real window, painted on with real mouse events, in processes of its own.

``python -m benchmarks.annotate_window preview SIDE MODEL STROKES`` prints JSON: seconds from the
release of each stroke until its preview is on the screen. ``paint MODEL MOVES`` prints seconds from
each move of the brush to its repaint, idle and while *Improve* trains, and of an idle repaint.
``memory MODEL PLANES`` annotates a stack of 2048² planes on disk and prints the peak of both
processes. Without a display it needs ``xvfb-run`` (see :mod:`benchmarks.window`).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import session, window
from benchmarks.memory import PeakMemory
from benchmarks.rows import Row
from benchmarks.settings import Settings

#: Side of an image: must and aim of the 95th percentile, in seconds.
PREVIEW_BARS = {1024: (0.5, 0.25), 4096: (1.5, 0.6)}
STROKES, MOVES, PLANES = 24, 160, 50
STACK_SIDE = 2048
#: Planes of the stack that are annotated, and that are looked at.
PAINTED, SEEN = 6, 16
TRAIN_MINUTES = 3.0


class Annotating:
    """A window with an image and the panel, ready to be painted on.

    Parameters
    ----------
    image : array or str
        Pixels, or the file of a stack.
    model : str
        Name or file.
    """

    def __init__(self, image: Any, model: str) -> None:
        import napari

        from benchmarks.hand import Hand
        from dinoscope.widgets.annotate import AnnotatePanel

        self.viewer = napari.Viewer(show=True)
        self.viewer.window.resize(1400, 900)
        self.layer = self.viewer.add_image(
            image, name="image", multiscale=False, contrast_limits=(0, 4000)
        )
        self.panel = AnnotatePanel(self.viewer)
        self.viewer.window.add_dock_widget(self.panel, name="Annotate")
        self.panel.controller.warm_up()
        self.wait(lambda: bool(self.panel.controller.models))
        self.panel.controller.choose_model(model)
        self.wait(lambda: self.panel.model.model == model)
        self.viewer.fit_to_view()
        self.panel.start()
        self.hand = Hand(self.viewer, self.layer)
        self.draws = 0
        #: The state of the strokes whose labels are on all of the plane, coarse ones or not.
        self.covered: Any = None
        self.panel.annotator.session.arrived.connect(self._on_arrived)
        canvas = self.viewer.window._qt_viewer.canvas._scene_canvas
        canvas.events.draw.connect(self._on_draw)

    def _on_draw(self, event: Any = None) -> None:
        self.draws += 1

    def _on_arrived(self, wish: Any, data: Any) -> None:
        if data["region"] is None and not data["rough"] and not data["draft"]:
            self.covered = wish.state

    def wait(self, until: Callable[[], Any]) -> None:
        """Let the window work until something is true."""
        from qtpy.QtWidgets import QApplication

        end = time.monotonic() + window.LONGEST_S
        while not until():
            QApplication.processEvents()
            time.sleep(0.001)
            if time.monotonic() > end:
                raise TimeoutError(f"the window took too long: {self.panel.runbar.status.text()}")

    def stroke(self, row: int, start: tuple[float, ...], length: float) -> list[float]:
        """Paint a class from a place to the right; seconds of each move."""
        self.panel.classes.choose(row)
        *lead, y, x = start
        return self.hand.stroke(((*lead, y, x), (*lead, y, x + length)))

    def shown(self, since: int) -> Callable[[], bool]:
        """Whether the newest strokes are in the preview, at the screen's resolution, and drawn."""
        annotator = self.panel.annotator
        seen: list[int] = []

        def ready() -> bool:
            newest = annotator.is_fresh() or self.covered == annotator.state
            if annotator.version <= since or not newest:
                return False
            if not seen:
                seen.append(self.draws)
                self.viewer.window._qt_viewer.canvas.native.update()
            return self.draws > seen[0]

        return ready

    def first_strokes(self, *lead: int) -> None:
        """Two strokes, and their preview."""
        side = self.layer.data.shape[-1]
        for row in (0, 1):
            before = self.panel.annotator.version
            self.stroke(row, (*lead, side * (0.2 + 0.1 * row), side * 0.2), side * 0.1)
            self.wait(lambda before=before: self.panel.annotator.version > before)
        self.wait(lambda: self.panel.annotator.is_fresh())


def places(count: int, side: int, seed: int = 0) -> Iterator[tuple[float, float]]:
    """Where strokes begin."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        y, x = rng.uniform(0.1, 0.8, 2) * side
        yield float(y), float(x)


def measure_preview(side: int, model: str, strokes: int) -> dict[str, Any]:
    """Seconds from the release of a stroke until its preview is on the screen, as finely as that
    shows it; of every fourth stroke also until every pixel has its label."""
    work = Annotating(session.nuclei(side), model)
    work.panel.brush.setValue(max(6, side // 200))
    work.first_strokes()
    seconds: list[float] = []
    whole: list[float] = []
    for number, place in enumerate(places(strokes, side)):
        before = work.panel.annotator.version
        work.stroke(number % 2, place, side * 0.05)
        started = time.perf_counter()
        work.wait(work.shown(before))
        seconds.append(time.perf_counter() - started)
        if number % 4 == 3:
            work.wait(work.panel.annotator.is_fresh)
            whole.append(time.perf_counter() - started)
    work.viewer.close()
    return {"seconds": seconds, "whole": whole}


def measure_paint(model: str, moves: int) -> dict[str, Any]:
    """Seconds from a move of the brush to its repaint: idle, and while the model is improved."""
    from qtpy.QtWidgets import QApplication

    side = 1024
    work = Annotating(session.nuclei(side), model)
    work.panel.brush.setValue(10)
    work.first_strokes()
    found: dict[str, Any] = {"repaint": [], "idle": [], "training": []}
    canvas = work.hand.canvas
    for _ in range(40):
        clock = time.perf_counter()
        canvas.update()
        QApplication.processEvents()
        found["repaint"].append(time.perf_counter() - clock)
    for number, place in enumerate(places(moves // 8, side)):
        found["idle"] += work.stroke(number % 2, place, side * 0.1)
    work.wait(lambda: work.panel.annotator.is_fresh() and bool(work.panel.annotator.keeper.ids))
    work.panel.improve.minutes.value = TRAIN_MINUTES
    work.panel.run()
    work.wait(lambda: len(work.panel.improve.curve.loss) > 2 or not work.panel.runs.busy)
    for number, place in enumerate(places(moves // 8, side, seed=1)):
        if not work.panel.runs.busy:
            break
        found["training"] += work.stroke(number % 2, place, side * 0.1)
    found["status"] = work.panel.runbar.status.text()
    work.panel.runs.cancel()
    work.wait(lambda: not work.panel.runs.busy)
    work.viewer.close()
    return found


def measure_memory(model: str, planes: int) -> dict[str, Any]:
    """Highest PSS of window and worker while a stack on disk is annotated, and of the results."""
    import tifffile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stack.tif"
        plane = session.nuclei(STACK_SIDE)
        with tifffile.TiffWriter(path) as writer:
            for number in range(planes):
                writer.write(np.roll(plane, 7 * number, 1), contiguous=True)
        stack = tifffile.memmap(path, mode="r")
        work = Annotating(stack, model)
        work.wait(lambda: work.panel.controller.client.pid is not None)
        with PeakMemory(os.getpid(), work.panel.controller.client.pid) as memory:
            seen = np.linspace(0, planes - 1, SEEN).astype(int)
            for number, index in enumerate(seen):
                work.viewer.dims.set_current_step(0, int(index))
                if number < PAINTED:
                    if number == 0:
                        work.first_strokes(int(index))
                    for row in (0, 1):
                        y = STACK_SIDE * (0.5 + 0.1 * row)
                        work.stroke(row, (int(index), y, STACK_SIDE * 0.3), STACK_SIDE * 0.1)
                work.wait(lambda: work.panel.annotator.is_fresh())
        results = len(work.panel.annotator.previewed) * STACK_SIDE**2 / 1e6
        work.viewer.close()
    return {"peak_mb": memory.peak_mb, "results_mb": results}


def window_rows(settings: Settings) -> Iterator[Row]:
    """What a user feels while annotating, in a window under Xvfb; the worker leaves it one core."""
    here = "benchmarks.annotate_window"
    with tempfile.TemporaryDirectory() as folder:
        models = {
            "ViT-S (random weights)": str(session.random_vit_small(Path(folder))),
            "embedded": "embedded",
        }
        for side, (must, aim) in PREVIEW_BARS.items():
            for label, model in models.items():
                told = window.result_of("-m", here, "preview", str(side), model, str(STROKES))
                for share, name, limits in ((50, "median", (None, None)), (95, "p95", (must, aim))):
                    yield Row(
                        f"stroke released to preview on screen, {side}², {label}, {name}, s (less)",
                        float(np.percentile(told["seconds"], share)),
                        must=limits[0],
                        aim=limits[1],
                    )
                yield Row(
                    f"the same until every pixel has its label, {side}², {label}, median, s (less)",
                    float(np.median(told["whole"])),
                )
        label, model = "embedded", models["embedded"]
        told = window.result_of("-m", here, "paint", model, str(MOVES))
        late = {k: float(np.percentile(told[k], 95)) for k in ("repaint", "idle", "training")}
        yield Row("idle repaint, 1024², p95 s (less)", late["repaint"])
        yield Row("brush moved to repaint, 1024², idle, p95 s (less)", late["idle"])
        yield Row(f"brush moved to repaint, {label} in training, p95 s (less)", late["training"])
        ratio = late["training"] / late["idle"]
        yield Row("brush in training ÷ idle, p95 (less)", ratio, must=2.0, aim=1.3)
        for label, model in models.items():
            told = window.result_of("-m", here, "memory", model, str(PLANES))
            peak = (told["peak_mb"] - told["results_mb"]) / 1000
            yield Row(
                f"annotating {PLANES} × {STACK_SIDE}² on disk, {label}, PSS of both processes "
                "without results, GB (less)",
                peak,
                must=2.5,
                aim=1.8,
            )


def main(what: str, *told: str) -> dict[str, Any]:
    """Measure in this process."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DINOSCOPE_PROJECTS"] = folder
        if what == "preview":
            return measure_preview(int(told[0]), told[1], int(told[2]))
        if what == "paint":
            return measure_paint(told[0], int(told[1]))
        return measure_memory(told[0], int(told[1]))


if __name__ == "__main__":
    print("RESULT" + json.dumps(main(*sys.argv[1:])), flush=True)
