"""What a user waits for: the first layer, a moved slider, Cancel, a panel."""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import session, window
from benchmarks.rows import Row
from dinoscope.types import ImageInput

REPEATS = 5


def time_rows(data: Path | None) -> Iterator[Row]:
    """From Run to the finished layer in a real window, one plane of 1024², and where it goes."""
    with tempfile.TemporaryDirectory() as name:
        models = {
            "ViT-S (random weights)": str(session.random_vit_small(Path(name))),
            "embedded": "embedded",
        }
        for label, model in models.items():
            found = window.result_of("-m", "benchmarks.window", model, "1", str(REPEATS))
            for step in found["seconds"][0]:
                yield Row(
                    f"Run to layer, 1024², {label}: {step}, median s (less)",
                    statistics.median(run[step] for run in found["seconds"]),
                )


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


#: Each panel is the first one of its process so many times.
PANEL_REPEATS = 3
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
first = int(sys.argv[1]) % len(names)
names = names[first:] + names[:first]
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
    first: dict[str, list[float]] = {}
    rounds = 1
    for number in itertools.count():
        if number >= rounds:
            break
        result = window.result_of("-c", PANELS, str(number))
        rounds = PANEL_REPEATS * len(result["seconds"])
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
