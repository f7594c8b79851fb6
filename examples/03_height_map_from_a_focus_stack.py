"""Measure a surface from a stack through focus: shape from focus, with its confidence.

    python examples/03_height_map_from_a_focus_stack.py --output example_output

The stack is made, so that the true height is known and the error can be shown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from dinoscope import height_map
from dinoscope.arrays.files import write_image
from dinoscope.datasets.synthetic import make


def main(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)

    made = make("zstack", shape=(192, 192), seed=3)
    step_um = made.pixel_size_um["Z"]
    print(f"{made.image.shape[0]} planes, {step_um:.2f} µm apart")

    result = height_map(made.image, step_um=step_um)
    print(f"heights in {result.unit}; {result.mask.mean():.0%} of the points can be trusted")

    # The zero of a height map is the first plane's; compare after taking out the offset.
    trusted = result.mask & np.isfinite(result.height)
    error = (result.height - made.height_um)[trusted]
    error -= np.median(error)
    print(f"typical error {np.median(np.abs(error)):.2f} µm, plane distance {step_um:.2f} µm")

    size = {axis: made.pixel_size_um[axis] for axis in "YX"}
    write_image(output / "height_um.tif", result.height, "YX", size)
    write_image(output / "confidence.tif", result.confidence, "YX", size)
    write_image(output / "all_in_focus.tif", result.all_in_focus, "YX", size)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("example_output"))
    main(parser.parse_args().output)
