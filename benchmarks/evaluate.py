"""How long matching objects takes: ours beside StarDist's, on the same label images.

StarDist runs in a process of its own, in the environment whose interpreter is named by
``DINOSCOPE_STARDIST_PYTHON`` or ``--peer`` (it needs ``stardist``, ``csbdeep`` and what their
matching imports; not TensorFlow). Without it only our own time is measured.

    python -m benchmarks.evaluate --images 1000 --peer /path/to/python
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.rows import Row, show, write_rows

PEER_VARIABLE = "DINOSCOPE_STARDIST_PYTHON"
#: Different images; a run repeats them, so that making them takes no time.
_DIFFERENT = 20
#: What the peer runs: the figures of a data set at IoU 0.5, as its users call them.
_PEER = """
import importlib.util, json, sys, time, types
for name in ("stardist", "csbdeep"):
    module = types.ModuleType(name)
    module.__path__ = list(importlib.util.find_spec(name).submodule_search_locations)
    sys.modules[name] = module
import numpy as np
from stardist.matching import matching_dataset
truth, pred = np.load(sys.argv[1]), np.load(sys.argv[2])
repeat = int(sys.argv[3])
matching_dataset(list(truth[:1]), list(pred[:1]), show_progress=False)
start = time.perf_counter()
for _ in range(repeat):
    found = matching_dataset(list(truth), list(pred), thresh=0.5, show_progress=False)
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "tp": int(found.tp), "fp": int(found.fp)}))
"""


def label_images(count: int, side: int = 512, objects: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction, (count, side, side) uint16: discs, shifted where predicted."""
    across = int(np.ceil(np.sqrt(objects)))
    step = side / across
    rows, columns = np.mgrid[:side, :side]
    truth = np.zeros((count, side, side), np.uint16)
    pred = np.zeros_like(truth)
    for number in range(count):
        rng = np.random.default_rng(number)
        for label in range(1, objects + 1):
            y, x = (np.array(divmod(label - 1, across)) + 0.5) * step + rng.uniform(-4, 4, 2)
            radius = step * rng.uniform(0.28, 0.44)
            for plane, dy, dx in ((truth, 0, 0), (pred, *rng.uniform(-5, 5, 2))):
                near = (rows - y - dy) ** 2 + (columns - x - dx) ** 2 < radius**2
                plane[number][near] = label
    return truth, pred


def our_seconds(truth: np.ndarray, pred: np.ndarray, repeat: int) -> tuple[float, int]:
    """Seconds for matching and pooled counts at IoU 0.5, and the true positives."""
    from dinoscope.arrays.matching import match_instances

    match_instances(truth[0], pred[0]).counts(0.5)
    started = time.perf_counter()
    for _ in range(repeat):
        matches = [match_instances(t, p) for t, p in zip(truth, pred, strict=True)]
        counts = np.array([match.counts(0.5) for match in matches]).sum(axis=0)
    return time.perf_counter() - started, int(counts[0])


def all_figures_seconds(truth: np.ndarray, pred: np.ndarray, repeat: int) -> float:
    """Seconds for everything that an evaluation gives: figures, errors, intervals, tables."""
    from dinoscope.engine.evaluate import Case, scorer_for

    started = time.perf_counter()
    scorer = scorer_for("instance")
    for turn in range(repeat):
        for number in range(len(truth)):
            scorer.add(Case(f"{turn}-{number}", 0, truth[number], pred[number]))
    scorer.finish()
    return time.perf_counter() - started


def peer_seconds(
    truth: np.ndarray, pred: np.ndarray, repeat: int, python: str
) -> tuple[float, int]:
    """The same by ``stardist.matching.matching_dataset``."""
    with tempfile.TemporaryDirectory() as name:
        paths = [str(Path(name) / f"{kind}.npy") for kind in ("truth", "pred")]
        for path, array in zip(paths, (truth, pred), strict=True):
            np.save(path, array)
        done = subprocess.run(
            [python, "-c", _PEER, *paths, str(repeat)], capture_output=True, text=True, check=True
        )
    found = json.loads(done.stdout.splitlines()[-1])
    return float(found["seconds"]), int(found["tp"])


def evaluate_rows(data: Path | None, images: int = 1000, peer: str = "") -> Iterator[Row]:
    """Rows of the suite: seconds, and the share of StarDist's time."""
    different = min(_DIFFERENT, images)
    repeat = max(1, images // different)
    truth, pred = label_images(different)
    count = different * repeat
    seconds, true = our_seconds(truth, pred, repeat)
    everything = all_figures_seconds(truth, pred, repeat)
    what = f"{count} images of 512² with 100 objects"
    peer = peer or os.environ.get(PEER_VARIABLE, "")
    theirs = None
    if peer:
        theirs, their_true = peer_seconds(truth, pred, repeat, peer)
        if their_true != true:
            raise RuntimeError(f"StarDist finds {their_true} true positives, we find {true}")
    yield Row(f"matching {what}, s (less)", seconds, rival_value=theirs)
    yield Row(
        "matching, share of stardist.matching_dataset's time (less)",
        seconds / theirs if theirs else None,
        must=1.0,
        aim=0.1,
    )
    yield Row(f"all figures, errors and intervals of {what}, s (less)", everything)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--peer", default="", help="interpreter that has stardist")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = list(evaluate_rows(None, args.images, args.peer))
    print(show(rows))
    if args.json:
        write_rows(rows, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
