"""Record what StarDist and Cellpose say about seeded label images, in ``peer_values.json``.

Run it in an environment that has their packages (``pip install --no-deps stardist csbdeep
cellpose``, and what their metrics import); TensorFlow and torch are not needed. The tests
need neither.

    python make_peer_values.py
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np

THRESHOLDS = [0.3, 0.5, 0.6, 0.75, 0.9]


def seeded_pair(seed: int, side: int = 96, objects: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Truth and imperfect prediction (side, side): discs, some lost, merged, split or shifted."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    truth = np.zeros((side, side), np.int32)
    pred = np.zeros((side, side), np.int32)
    for label in range(1, objects + 1):
        y, x = rng.integers(6, side - 6, 2)
        radius = rng.integers(4, 11)
        truth[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = label
        if rng.random() < 0.15:
            continue
        dy, dx, grown = rng.integers(-2, 3, 3)
        disc = (rows - y - dy) ** 2 + (columns - x - dx) ** 2 < (radius + grown) ** 2
        pred[disc] = label - 1 if rng.random() < 0.15 and label > 1 else label
        if rng.random() < 0.15:
            pred[disc & (columns < x)] = 100 + label
    return truth, pred


def sequential(ids: np.ndarray) -> np.ndarray:
    """Ids 1..n without gaps, which Cellpose expects."""
    return np.unique(ids, return_inverse=True)[1].reshape(ids.shape).astype(np.int32)


def _bare_package(name: str) -> None:
    """Let submodules of a package be imported without running its own imports."""
    spec = importlib.util.find_spec(name)
    module = types.ModuleType(name)
    module.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = module


def main() -> None:
    """Compute and write."""
    for name in ("stardist", "cellpose"):
        _bare_package(name)
    from cellpose.metrics import average_precision
    from stardist.matching import matching, matching_dataset

    pairs = [seeded_pair(seed) for seed in range(5)]
    truths = [sequential(truth) for truth, _ in pairs]
    preds = [sequential(pred) for _, pred in pairs]
    names = ("tp", "fp", "fn", "accuracy", "f1", "mean_matched_score", "panoptic_quality")

    def figures(found: object) -> dict[str, float]:
        return {name: float(getattr(found, name)) for name in names}

    precision, tp, fp, fn = average_precision(truths, preds, threshold=THRESHOLDS)
    document = {
        "versions": {n: importlib.metadata.version(n) for n in ("stardist", "cellpose", "numpy")},
        "thresholds": THRESHOLDS,
        "stardist": [
            [figures(matching(t, p, thresh=h)) for h in THRESHOLDS]
            for t, p in zip(truths, preds, strict=True)
        ],
        "stardist_dataset": [
            figures(matching_dataset(truths, preds, thresh=h, show_progress=False))
            for h in THRESHOLDS
        ],
        "cellpose": {
            "ap": np.asarray(precision, float).round(7).tolist(),
            "tp": np.asarray(tp).astype(int).tolist(),
            "fp": np.asarray(fp).astype(int).tolist(),
            "fn": np.asarray(fn).astype(int).tolist(),
        },
    }
    path = Path(__file__).with_name("peer_values.json")
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
