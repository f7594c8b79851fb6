"""Segment an image without a window: read a file, load a model, run several tasks at once.

    python examples/01_predict_headless.py --output example_output

Makes its own image, so nothing has to be downloaded; put the path of yours in its place.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dinoscope import PredictOptions, load_model, read_image, run_prediction
from dinoscope.arrays.files import write_image, write_table
from dinoscope.datasets.synthetic import make


def main(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)

    # A made image of touching cells, as a file with axes and pixel size, as microscopes write.
    made = make("touching", shape=(256, 256), seed=1, diameter=24)
    path = output / "cells.tif"
    write_image(path, made.image, made.axes, made.pixel_size_um)

    image = read_image(path)  # lazy: pixels are read plane by plane
    print(f"{image.name}: shape {image.shape}, axes {image.axes}, pixel size {image.pixel_size_um}")

    model = load_model("embedded", device="cpu")
    options = PredictOptions(tasks=("instance", "semantic", "depth", "pca"), device="cpu")
    arrays, objects, _, summary = run_prediction(image, model, options)

    print(f"{arrays['instance'].max()} objects found, {made.object_count} are there")
    print("seconds:", {step: round(s, 2) for step, s in summary.seconds.items()})

    for task, array in arrays.items():
        axes = "YXS" if task == "pca" else "YX"
        write_image(output / f"cells_{task}.tif", array, axes, image.pixel_size_um)
    write_table(output / "cells_objects.csv", objects)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("example_output"))
    main(parser.parse_args().output)
