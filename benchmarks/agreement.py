"""How far our figures are from those of the tools that users trust, on seeded data.

scikit-learn, torchmetrics and pycocotools are asked here; what StarDist and Cellpose say was
recorded with their versions (``tests/peers``). The tests hold the same agreement, figure by figure.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rows import ROOT, Row
from dinoscope.arrays import metrics, probabilities
from dinoscope.arrays.detection import coco_precision
from dinoscope.arrays.matching import match_instances

#: torchmetrics counts in single precision.
MUST = 1e-5
_PEERS = ROOT / "tests" / "peers" / "peer_values.json"

Differences = dict[str, float]


def agreement_rows(data: Path | None) -> Iterator[Row]:
    """The largest difference of each figure."""
    parts: dict[str, Callable[[], Differences]] = {
        f"scikit-learn {version('scikit-learn')}": _sklearn,
        f"torchmetrics {version('torchmetrics')}": _torchmetrics,
        f"pycocotools {version('pycocotools')}": _coco,
        **_recorded(),
    }
    for tool, compare in parts.items():
        for figure, difference in compare().items():
            bar = f"{figure} against {tool}, largest difference (less)"
            yield Row(bar, float(difference), must=MUST)


def _recorded() -> dict[str, Callable[[], Differences]]:
    """Differences from what StarDist and Cellpose said of the seeded pairs of the tests."""
    from tests.peers.make_peer_values import seeded_pair

    peers = json.loads(_PEERS.read_text())
    pairs = [seeded_pair(seed) for seed in range(len(peers["stardist"]))]
    matches = [match_instances(*pair) for pair in pairs]

    def stardist() -> Differences:
        found: Differences = dict.fromkeys(("TP, FP, FN", "AP", "F1", "PQ", "mean IoU"), 0.0)
        for match, own in zip(matches, peers["stardist"], strict=True):
            for threshold, theirs in zip(peers["thresholds"], own, strict=True):
                true, extra, lost = match.counts(threshold)
                overlap = match.matched(threshold).sum()
                ours = {
                    "TP, FP, FN": np.array([true, extra, lost]),
                    "AP": metrics.accuracy_of(true, extra, lost),
                    "F1": 2 * true / max(2 * true + extra + lost, 1),
                    "PQ": overlap / max(true + (extra + lost) / 2, 1e-9),
                    "mean IoU": overlap / max(true, 1),
                }
                said = {
                    "TP, FP, FN": np.array([theirs[n] for n in ("tp", "fp", "fn")]),
                    "AP": theirs["accuracy"],
                    "F1": theirs["f1"],
                    "PQ": theirs["panoptic_quality"],
                    "mean IoU": theirs["mean_matched_score"],
                }
                for name in found:
                    away = float(np.abs(np.asarray(ours[name]) - said[name]).max())
                    found[name] = max(found[name], away)
        return found

    def cellpose() -> Differences:
        ours = [metrics.average_precision(*pair, peers["thresholds"]) for pair in pairs]
        return {"AP": np.abs(np.array(ours) - np.array(peers["cellpose"]["ap"])).max()}

    versions = peers["versions"]
    return {
        f"StarDist {versions['stardist']}": stardist,
        f"Cellpose {versions['cellpose']}": cellpose,
    }


def _answers() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Codes (2000,), probabilities (2000, 4) with ties, names."""
    rng = np.random.default_rng(0)
    codes = rng.choice(4, 2000, p=[0.6, 0.2, 0.15, 0.05])
    logits = rng.normal(0, 1, (2000, 4)).round(1)
    logits[np.arange(2000), codes] += 1
    table = np.exp(logits)
    return codes, table / table.sum(axis=1, keepdims=True), list("abcd")


def _planes() -> tuple[np.ndarray, np.ndarray]:
    """Classes (200, 300) with an ignored part, and an answer."""
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 5, (200, 300))
    said = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, 5, truth.shape))
    truth[:20] = 255
    return truth, said


def _sklearn() -> Differences:
    from sklearn import metrics as theirs

    codes, table, names = _answers()
    true, said = [names[c] for c in codes], [names[c] for c in table.argmax(1)]
    ours: dict[str, Any] = dict(metrics.classification_scores(true, said))
    ours |= probabilities.probability_scores(true, table, names)
    recalls = theirs.recall_score(true, said, average=None)
    ranks = [theirs.average_precision_score(codes == i, table[:, i]) for i in range(4)]
    pairs = {
        "accuracy": (ours["accuracy"], theirs.accuracy_score(true, said)),
        "balanced accuracy": (ours["balanced_accuracy"], np.mean(recalls)),
        "macro F1": (ours["f1_macro"], theirs.f1_score(true, said, average="macro")),
        "weighted F1": (ours["f1_weighted"], theirs.f1_score(true, said, average="weighted")),
        "ROC AUC": (ours["roc_auc"], theirs.roc_auc_score(codes, table, multi_class="ovr")),
        "average precision": (ours["average_precision"], np.mean(ranks)),
    }
    return {name: abs(float(a) - float(b)) for name, (a, b) in pairs.items()}


def _torchmetrics() -> Differences:
    import torch
    from torchmetrics import functional as theirs
    from torchmetrics.functional import classification as of_classes

    truth, said = _planes()
    ours = metrics.semantic_scores(metrics.confusion_matrix(truth, said, 5))
    labels = torch.tensor(said), torch.tensor(truth)
    kwargs: dict[str, Any] = {"num_classes": 5, "ignore_index": 255}
    dice = of_classes.multiclass_f1_score(*labels, average="macro", **kwargs)
    codes, table, names = _answers()
    ece = probabilities.probability_scores([names[c] for c in codes], table, names)["ece"]
    rng = np.random.default_rng(2)
    height = rng.uniform(1, 9, (200, 300))
    seen = 0.8 * height + rng.normal(0, 1, height.shape)
    depth = metrics.depth_scores(height, seen)
    pair = torch.tensor(seen), torch.tensor(height)
    pairs = {
        "IoU": (ours["iou"], of_classes.multiclass_jaccard_index(*labels, **kwargs)),
        "Dice": (ours["dice"], dice),
        "ECE": (
            ece,
            of_classes.multiclass_calibration_error(
                torch.tensor(table), torch.tensor(codes), num_classes=4, n_bins=15
            ),
        ),
        "RMSE": (depth["rmse"], theirs.mean_squared_error(*pair, squared=False)),
        "MAE": (depth["mae"], theirs.mean_absolute_error(*pair)),
        "AbsRel": (
            depth["absrel"],
            theirs.regression.mean_absolute_percentage_error(*pair),
        ),
    }
    return {name: abs(float(a) - float(b)) for name, (a, b) in pairs.items()}


def _coco() -> Differences:
    from tests.arrays.test_agreement import PAIRS, coco_figures

    rng = np.random.default_rng(3)
    matches = [match_instances(*pair) for pair in PAIRS]
    scores = [rng.integers(1, 6, match.n_pred) / 6 for match in matches]
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = coco_figures(scores)
    ours = coco_precision(matches, scores, metrics.AP_THRESHOLDS)
    return {
        "COCO mAP": abs(float(ours.mean() - theirs.mean())),
        "COCO AP at each threshold": float(np.abs(ours - theirs).max()),
    }
