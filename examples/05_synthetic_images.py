"""Make microscopy images with exact truth: every kind on one sheet, image above labels.

    python examples/05_synthetic_images.py --output example_output

The same arguments give the same image. Useful to try a method before there is any annotation, and
as further training data.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from dinoscope.datasets.synthetic import KINDS, SEMANTIC_CLASSES, make

SIDE = 160


def as_rgb(image: np.ndarray) -> np.ndarray:
    """``(C, Y, X)`` in [0, 1] to 8-bit RGB; the middle plane of a stack."""
    channels = image if len(image) == 3 else np.repeat(image[len(image) // 2][None], 3, 0)
    return (np.clip(np.moveaxis(channels, 0, -1), 0, 1) * 255).astype(np.uint8)


def as_colours(ids: np.ndarray) -> np.ndarray:
    """Instance ids to random but fixed colours."""
    colours = np.random.default_rng(0).integers(60, 255, (int(ids.max()) + 1, 3), dtype=np.uint8)
    colours[0] = 0
    return colours[ids]


def main(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    sheet = np.zeros((2 * SIDE, len(KINDS) * SIDE, 3), np.uint8)
    for column, kind in enumerate(KINDS):
        made = make(kind, shape=(SIDE, SIDE), seed=5, diameter=28)
        print(f"{kind:12} axes {made.axes}, {made.object_count:3} objects, truths {made.tasks}")
        across = slice(column * SIDE, (column + 1) * SIDE)
        sheet[:SIDE, across] = as_rgb(made.image)
        sheet[SIDE:, across] = as_colours(made.instances)
    Image.fromarray(sheet).save(output / "synthetic_kinds.png")
    print("classes of the semantic truth:", ", ".join(SEMANTIC_CLASSES))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("example_output"))
    main(parser.parse_args().output)
