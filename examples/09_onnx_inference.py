"""Run an exported model with onnxruntime and numpy alone, pre- and post-processing included.

The file is made once, where dinoscope is: ``dinoscope export embedded --output embedded.onnx``.
What stands between the lines needs neither dinoscope nor PyTorch.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--output", type=Path, default=Path("onnx_output"))
folder = parser.parse_args().output
folder.mkdir(parents=True, exist_ok=True)
command = ["export", "embedded", "--task", "instance", "--output", str(folder / "embedded.onnx")]
subprocess.run([sys.executable, "-m", "dinoscope", *command], check=True)
places = np.stack(np.mgrid[20:300:40, 20:320:40], -1).reshape(-1, 1, 1, 2)
square = np.sum((np.stack(np.mgrid[:300, :320], -1) - places) ** 2, -1)
image = 100 + 900 * np.exp(-square / 150).sum(0)  # (Y, X), any intensities: blurred nuclei

# -----------------------------------------------------------------------------------------------
session = onnxruntime.InferenceSession(folder / "embedded.onnx")
low, high = np.percentile(image, (1, 99.8))
pads = [(0, -n % 14) for n in image.shape]  # sides become multiples of the patch
pixels = np.pad((image - low) / (high - low), pads, mode="reflect").astype(np.float32)
maps = session.run(["instance"], {"image": pixels[None, None].repeat(3, axis=1)})[0][0]
foreground, centre = maps[:2, : image.shape[0], : image.shape[1]]
seeds = (foreground > 0.5) & (centre > 0.5)
objects = np.where(seeds, np.arange(1, seeds.size + 1).reshape(seeds.shape), 0)
while True:  # every pixel takes the largest number beside it, until objects have one number each
    wide = np.pad(objects, 1)
    beside = np.max([wide[1:-1, :-2], wide[1:-1, 2:], wide[:-2, 1:-1], wide[2:, 1:-1]], axis=0)
    grown = np.where(seeds, np.maximum(objects, beside), 0)
    if np.array_equal(grown, objects):
        break
    objects = grown
numbers, ids = np.unique(objects, return_inverse=True)
# -----------------------------------------------------------------------------------------------

np.save(folder / "objects.npy", ids.reshape(image.shape).astype(np.uint32))
print(f"{len(numbers) - 1} objects in an image of {image.shape[1]} x {image.shape[0]} px")
