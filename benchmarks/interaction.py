"""What a user waits for: the first layer, a moved slider, Cancel, a panel."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import session
from benchmarks.rows import Row
from dinoscope.types import ImageInput

REPEATS = 5


def time_rows(data: Path | None) -> Iterator[Row]:
    """From Run to the layer's pixels in the window's process, 1024², and where the time goes."""
    image = ImageInput(session.nuclei(), "YX", name="nuclei")
    with tempfile.TemporaryDirectory() as name, session.worker() as client:
        models = {
            "ViT-S (random weights)": session.random_vit_small(Path(name)),
            "embedded": "embedded",
        }
        for label, model in models.items():
            session.predict(client, model, image)  # loads the model; the panel does so unseen
            runs = [session.predict(client, model, image) for _ in range(REPEATS)]
            totals = [run.ended for run in runs]
            parts: dict[str, list[float]] = {}
            for run in runs:
                spent = seconds_of(run)
                known = {k: spent.get(k, 0.0) for k in ("encode", "decode", "assemble")}
                known["transfer and the rest"] = run.ended - sum(known.values())
                for step, value in known.items():
                    parts.setdefault(step, []).append(value)
            yield Row(f"Run to layer, 1024², {label}, median s (less)", statistics.median(totals))
            for step, values in parts.items():
                yield Row(
                    f"Run to layer, 1024², {label}: {step}, median s (less)",
                    statistics.median(values),
                )


def seconds_of(run: session.Timed) -> dict[str, float]:
    """Seconds for each step as the engine counted them."""
    data: dict[str, Any] = run.outcome.data if run.outcome is not None else {}
    summary = data.get("summary", data)
    return dict(summary.seconds if hasattr(summary, "seconds") else summary["seconds"])


def live_rows(data: Path | None) -> Iterator[Row]:
    """A moved slider: objects made again from kept maps, 1024², without the network."""
    from dinoscope.config import InstanceOptions

    image = ImageInput(session.nuclei(), "YX", name="nuclei")
    with session.worker() as client:
        run = session.predict(client, "embedded", image)
        data_of_run = run.outcome.data if run.outcome is not None else {}
        waited = []
        for number in range(20):
            options = InstanceOptions(threshold=0.3 + 0.02 * number)
            timed = session.Timed()
            payload = {"run": data_of_run["run"], "options": options}
            client.submit("redecode", payload, on_event=timed).wait(30)
            if timed.outcome is None or timed.outcome.kind != "done":
                raise RuntimeError(f"redecode ended with {timed.outcome}")
            waited.append(timed.ended)
    yield Row("threshold moved, 1024², median s (less)", statistics.median(waited), must=0.3)
    yield Row("threshold moved, 1024², slowest of 20, s (less)", max(waited), must=0.3)


def cancel_rows(data: Path | None) -> Iterator[Row]:
    """Cancel 50 jobs at random moments, obedient and stubborn ones; after each the worker works."""
    from benchmarks import cancel_latency

    found = cancel_latency.measure(cancel_latency.TRIES, "embedded")
    tries = found["tries"]
    yield Row(f"Cancel, slowest of {tries}, s (less)", found["max_s"], must=1.0)
    yield Row(f"Cancel, median of {tries}, s (less)", found["p50_s"])
    for kind, values in found["by_kind"].items():
        yield Row(
            f"Cancel, {kind} job, slowest of {values['tries']}, s (less)", values["max_s"], must=1.0
        )


PANELS = """
import json, sys, time
import napari
from npe2 import PluginManager
viewer = napari.Viewer(show=True)
from qtpy.QtWidgets import QApplication
for _ in range(10):
    QApplication.processEvents(); time.sleep(0.02)
manifest = PluginManager.instance().get_manifest("napari-dinoscope")
names = [w.display_name for w in manifest.contributions.widgets]
names = names[::-1] if sys.argv[1] == "reversed" else names
seconds = {}
for name in names:
    started = time.perf_counter()
    viewer.window.add_plugin_dock_widget("napari-dinoscope", name)
    QApplication.processEvents()
    seconds[name] = time.perf_counter() - started
heavy = sorted({"torch", "timm", "peft", "transformers", "sklearn"} & set(sys.modules))
print("RESULT" + json.dumps({"seconds": seconds, "heavy": heavy}), flush=True)
viewer.close()
"""


def panel_rows(data: Path | None) -> Iterator[Row]:
    """Opening a panel for the first time in a real window, in a fresh process each time."""
    command = [sys.executable, "-c", PANELS]
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        if shutil.which("xvfb-run") is None:
            raise FileNotFoundError("there is no display and no xvfb-run")
        command = ["xvfb-run", "-a", "-s", "-screen 0 1600x1000x24", *command]
    first: dict[str, list[float]] = {}
    for number in range(6):
        order = "reversed" if number % 2 else "as listed"
        done = subprocess.run([*command, order], capture_output=True, text=True, timeout=120)
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
        if not lines:
            raise RuntimeError(f"the window did not open: {done.stderr[-500:]}")
        result = json.loads(lines[0].removeprefix("RESULT"))
        if result["heavy"]:
            raise RuntimeError(f"the window's process imported {result['heavy']}")
        # Only the first panel of a process pays for the imports that all panels share.
        panel, seconds = next(iter(result["seconds"].items()))
        first.setdefault(panel, []).append(seconds)
    for panel, values in first.items():
        yield Row(
            f"panel {panel!r} opened first, median of {len(values)}, s (less)",
            statistics.median(values),
            must=0.3,
        )
