"""Run the engine in a process of its own, as the panels do: progress, results, cancel.

    python examples/07_worker_in_the_background.py --output example_output

The program that owns the worker never imports torch. Planes are pulled from the image while the
model runs, so it may be larger than memory.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dinoscope import PredictOptions
from dinoscope.arrays.files import write_image
from dinoscope.datasets.synthetic import make
from dinoscope.worker.client import WorkerClient
from dinoscope.worker.protocol import Event


def main(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    image = make("nuclei", shape=(256, 256), seed=4, diameter=24).as_input()

    def listen(event: Event) -> None:
        """Called in a thread of the client's own."""
        if event.kind == "progress":
            print("progress:", event.data.get("progress", event.data))
        elif event.kind == "plane":
            write_image(output / "nuclei_instance.tif", event.data["arrays"]["instance"], "YX", {})

    client = WorkerClient()
    try:
        payload = {"model": "embedded", "options": PredictOptions(device="cpu")}
        job = client.submit("predict", payload, {"image": image}, listen)
        print("ended:", job.wait(120).kind)

        second = client.submit("predict", payload, {"image": image}, listen)
        second.cancel()
        print("cancelled:", second.wait(10).kind)
    finally:
        client.close()
    print("torch in this process:", "torch" in sys.modules)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("example_output"))
    main(parser.parse_args().output)
