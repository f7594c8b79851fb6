"""A real napari window with the Predict panel, driven as a user drives it, in a process of its own.

``python -m benchmarks.window MODEL PLANES REPEATS`` presses Run on a stack of 1024² planes and
prints JSON: seconds from Run to the finished layer, seconds of each step, and the highest memory of
both processes. Without a display it needs ``xvfb-run`` (see :func:`command`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from typing import Any

from benchmarks.rows import ROOT

#: What the engine counts; the rest is reading, transfer, queues and making the layer.
STEPS = ("encode", "decode", "assemble")
LONGEST_S = 1800.0


def command(*arguments: str) -> list[str]:
    """A command that runs with a display, its own one where there is none."""
    if sys.platform != "linux" or os.environ.get("DISPLAY"):
        return list(arguments)
    if shutil.which("xvfb-run") is None:
        raise FileNotFoundError("there is no display and no xvfb-run")
    return ["xvfb-run", "-a", "-s", "-screen 0 1600x1000x24", *arguments]


def result_of(*arguments: str) -> dict[str, Any]:
    """Run a Python command with a display and read the JSON of its line ``RESULT…``."""
    done = subprocess.run(
        command(sys.executable, *arguments),
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        cwd=ROOT,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        raise RuntimeError(f"the window gave no result: {done.stderr[-800:]}")
    result: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT"))
    return result


def main(model: str, planes: int, repeats: int) -> dict[str, Any]:
    """Run `repeats` times after one run that loads the model."""
    import napari
    from qtpy.QtWidgets import QApplication

    from benchmarks.memory import PeakMemory
    from benchmarks.session import LazyStack, nuclei
    from dinoscope.widgets.predict import PredictPanel

    def wait(until: Any) -> None:
        end = time.monotonic() + LONGEST_S
        while not until():
            QApplication.processEvents()
            time.sleep(0.005)
            if time.monotonic() > end:
                raise TimeoutError("the window took too long")

    viewer = napari.Viewer(show=True)
    limits = (0, 4000)
    stack = LazyStack(nuclei(), planes) if planes > 1 else nuclei()
    viewer.add_image(stack, name="stack", multiscale=False, contrast_limits=limits)
    panel = PredictPanel(viewer)
    viewer.window.add_dock_widget(panel, name="Predict")
    panel.controller.warm_up()
    wait(lambda: bool(panel.controller.models))
    panel.controller.choose_model(model)
    wait(lambda: panel.model.model == model)
    panel.tasks.wanted = ("instance",)

    def run() -> float:
        started = time.perf_counter()
        panel.run()
        wait(lambda: panel._runner is not None and not panel._runner.running)
        last = panel.last_run
        if last is None or last.summary is None:
            raise RuntimeError(f"the run failed: {panel.runbar.status.text()}")
        return time.perf_counter() - started

    panel.scope.scope = "slice"
    run()
    panel.scope.scope = "stack" if planes > 1 else "slice"
    seconds: list[dict[str, float]] = []
    with PeakMemory(os.getpid(), panel.controller.client.pid or 0) as memory:
        for _ in range(repeats):
            total = run()
            spent = dict(panel.last_run.summary.seconds)
            parts = {step: float(spent.get(step, 0.0)) for step in STEPS}
            parts["transfer and the rest"] = total - sum(parts.values())
            seconds.append({"total": total, **parts})
    layers = [layer.name for layer in viewer.layers]
    viewer.close()
    return {"seconds": seconds, "peak_mb": memory.peak_mb, "layers": layers}


if __name__ == "__main__":
    print("RESULT" + json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))), flush=True)
