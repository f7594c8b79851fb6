"""Rivals, timed by interpreters of their own on the same machine in the same run.

``DINOSCOPE_CONVPAINT_PYTHON`` and ``DINOSCOPE_CELLPOSE_PYTHON`` name the interpreters of
environments that have napari-convpaint and cellpose. Their networks get random weights: only time
is measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_CONVPAINT = """
import json, time, statistics
import numpy as np, timm, torch
torch.set_num_threads(THREADS)
class Dino(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.m = timm.create_model("vit_small_patch14_reg4_dinov2.lvd142m", pretrained=False,
                                   dynamic_img_size=True, num_classes=0)
    def forward_features(self, x):
        y = self.m.forward_features(x)
        return dict(x_norm_patchtokens=y[:, self.m.num_prefix_tokens:])
from napari_convpaint.feature_extractors import dino
dino.Dinov2Features.create_model = staticmethod(lambda name: Dino().eval())
from napari_convpaint.convpaint_model import ConvpaintModel
model = ConvpaintModel("dinov2")
model._clf_train = lambda *args, **options: None  # features only, as training asks for them
image = np.random.default_rng(0).random((SIDE, SIDE)).astype(np.float32)
marks = np.zeros(image.shape, np.uint8)
marks[40:50, 40:60], marks[100:110, 80:100] = 1, 2
side = SIDE // 14 * 14 + 14
x = torch.rand(1, 3, side, side)
times = dict(forward=[], features=[])
for _ in range(3):
    with torch.no_grad():
        begun = time.perf_counter()
        model.fe_model.model.forward_features(x)
        times["forward"].append(time.perf_counter() - begun)
    begun = time.perf_counter()
    model.train(image, marks)
    times["features"].append(time.perf_counter() - begun)
print(json.dumps(dict(forward_s=statistics.median(times["forward"]),
                      features_s=statistics.median(times["features"]))))
"""


_CELLPOSE = """
import json, time, statistics
import numpy as np
from cellpose import dynamics
side, count = SIDE, COUNT
n = int(np.ceil(count ** 0.5)); pitch = side / n
places = (np.mgrid[:side, :side] + 0.5) % pitch - pitch / 2
inside = np.hypot(*places) < 0.42 * pitch
length = np.maximum(np.hypot(*places), 1e-3)
flow = (-5 * places / length * inside).astype(np.float32)
prob = np.where(inside, 4, -4).astype(np.float32)
times = []
for _ in range(4):
    begun = time.perf_counter()
    dynamics.compute_masks(flow, prob)
    times.append(time.perf_counter() - begun)
print(json.dumps(dict(seconds=statistics.median(times[1:]))))
"""


def convpaint(side: int) -> dict[str, float] | None:
    """``forward_s`` of the whole plane at once, as convpaint does it, and ``features_s``, its time
    to read features at scribbled pixels (training without the classifier)."""
    return _run("convpaint", _CONVPAINT, SIDE=side, THREADS=os.cpu_count() or 1)


def convpaint_strokes(
    alias: str, images: Sequence[np.ndarray], scribbles: Sequence[Sequence[np.ndarray]]
) -> dict[str, Any] | None:
    """Train convpaint on strokes and label the whole image, as its widget does.

    Parameters
    ----------
    alias : str
        One of its models: ``dinov2``, ``vgg``, ``gaussian``.
    images : sequence of (Y, X) or (3, Y, X) float32
        What is labelled.
    scribbles : sequence of sequence of (Y, X) uint8
        For each image, as many scribbles.

    Returns
    -------
    dict or None
        ``times``: seconds of each training and labelling, image by image; ``labels_<i>_<k>``.
    """
    python = _python("convpaint")
    if python is None:
        return None
    job = {"alias": alias, "threads": os.cpu_count() or 1}
    job |= {"count": len(images), "shares": len(scribbles[0])}
    given: dict[str, Any] = {"job": json.dumps(job)}
    for i, (image, drawn) in enumerate(zip(images, scribbles, strict=True)):
        given[f"image_{i}"] = image
        given |= {f"scribbles_{i}_{k}": each for k, each in enumerate(drawn)}
    script = Path(__file__).with_name("convpaint_side.py")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.npz"), Path(folder, "out.npz")
        np.savez(source, **given)
        command = [python, str(script), str(source), str(target)]
        offscreen = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
        done = subprocess.run(command, capture_output=True, text=True, env=offscreen)
        if done.returncode != 0:
            note(f"convpaint {alias} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
            return None
        return dict(np.load(target))


def cellpose(side: int, count: int) -> dict[str, float] | None:
    """``seconds`` from flows to masks of about `count` discs."""
    return _run("cellpose", _CELLPOSE, SIDE=side, COUNT=count)


def note(text: str) -> None:
    """Say on stderr why rows are missing."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def _python(name: str) -> str | None:
    variable = f"DINOSCOPE_{name.upper()}_PYTHON"
    python = os.environ.get(variable)
    if not python:
        note(f"{name} is left out: set {variable} to an interpreter that has it")
    return python or None


def _run(name: str, code: str, **numbers: int) -> dict[str, float] | None:
    python = _python(name)
    if python is None:
        return None
    for word, number in numbers.items():
        code = code.replace(word, str(number))
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    if done.returncode != 0:
        note(f"{name} could not be timed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        return None
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
