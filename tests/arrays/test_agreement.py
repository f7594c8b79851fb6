"""Our figures are those of the tools that users trust, on seeded arrays."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from tests.peers.make_peer_values import seeded_pair

from dinoscope.arrays.detection import coco_precision
from dinoscope.arrays.matching import match_instances
from dinoscope.arrays.metrics import (
    AP_THRESHOLDS,
    accuracy_of,
    average_precision,
    class_counts,
    classification_scores,
    confusion_matrix,
    depth_scores,
    instance_scores,
    semantic_scores,
)
from dinoscope.arrays.probabilities import probability_scores, ranked_precision, roc_auc

PEERS = json.loads((Path(__file__).parents[1] / "peers" / "peer_values.json").read_text())
PAIRS = [seeded_pair(seed) for seed in range(5)]


@pytest.mark.parametrize("number", range(len(PAIRS)))
@pytest.mark.parametrize("place", range(len(PEERS["thresholds"])))
def test_instances_agree_with_stardist(number: int, place: int) -> None:
    threshold = PEERS["thresholds"][place]
    match = match_instances(*PAIRS[number])
    theirs = PEERS["stardist"][number][place]
    true, false_positive, false_negative = match.counts(threshold)
    assert (true, false_positive, false_negative) == tuple(
        theirs[name] for name in ("tp", "fp", "fn")
    )
    assert accuracy_of(*match.counts(threshold)) == pytest.approx(theirs["accuracy"])
    if true:
        assert match.matched(threshold).mean() == pytest.approx(theirs["mean_matched_score"])
    weight = true + (false_positive + false_negative) / 2
    assert match.matched(threshold).sum() / weight == pytest.approx(
        theirs["panoptic_quality"], abs=1e-6
    )


def test_pooled_instances_agree_with_stardist_on_a_data_set() -> None:
    scores = instance_scores([match_instances(*pair) for pair in PAIRS])
    theirs = dict(zip(PEERS["thresholds"], PEERS["stardist_dataset"], strict=True))
    assert scores["ap50_pooled"] == pytest.approx(theirs[0.5]["accuracy"])
    assert scores["ap75_pooled"] == pytest.approx(theirs[0.75]["accuracy"])
    assert scores["f1_50_pooled"] == pytest.approx(theirs[0.5]["f1"])
    assert scores["pq_pooled"] == pytest.approx(theirs[0.5]["panoptic_quality"], abs=1e-6)
    assert scores["iou_pooled"] == pytest.approx(theirs[0.5]["mean_matched_score"], abs=1e-6)
    assert (scores["tp"], scores["fp"], scores["fn"]) == tuple(
        theirs[0.5][name] for name in ("tp", "fp", "fn")
    )


@pytest.mark.parametrize("number", range(len(PAIRS)))
def test_average_precision_agrees_with_cellpose(number: int) -> None:
    ours = average_precision(*PAIRS[number], PEERS["thresholds"])
    np.testing.assert_allclose(ours, PEERS["cellpose"]["ap"][number], atol=1e-6)


def coco_figures(scores: list[np.ndarray]) -> np.ndarray:
    """pycocotools' AP at each of its thresholds, of any area, with no limit of detections."""
    from pycocotools import mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def encoded(plane: np.ndarray) -> dict[str, object]:
        return mask.encode(np.asfortranarray(plane.astype(np.uint8)))

    images, truths, answers = [], [], []
    for number, (truth, pred) in enumerate(PAIRS, 1):
        images.append({"id": number, "height": truth.shape[0], "width": truth.shape[1]})
        for label in np.unique(truth[truth > 0]):
            own = encoded(truth == label)
            truths.append(
                {
                    "id": len(truths) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "segmentation": own,
                    "area": float(mask.area(own)),
                    "iscrowd": 0,
                }
            )
        for label, score in zip(np.unique(pred[pred > 0]), scores[number - 1], strict=True):
            answers.append(
                {
                    "image_id": number,
                    "category_id": 1,
                    "segmentation": encoded(pred == label),
                    "score": float(score),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = {"images": images, "annotations": truths, "categories": [{"id": 1}]}
        known.createIndex()
        run = COCOeval(known, known.loadRes(answers), "segm")
        run.params.maxDets = [1000]
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
        run.evaluate()
        run.accumulate()
    return run.eval["precision"][:, :, 0, 0, 0].mean(axis=1)


def test_mean_average_precision_agrees_with_a_coco_evaluator() -> None:
    rng = np.random.default_rng(1)
    matches = [match_instances(*pair) for pair in PAIRS]
    # Few different scores, so that ties occur.
    scores = [rng.integers(1, 6, match.n_pred) / 6 for match in matches]
    ours = coco_precision(matches, scores, AP_THRESHOLDS)
    np.testing.assert_allclose(ours, coco_figures(scores), atol=1e-9)
    assert 0 < ours[0] < 1


def test_classification_agrees_with_scikit_learn() -> None:
    from sklearn import metrics

    rng = np.random.default_rng(0)
    truth = rng.choice(["a", "b", "c"], 200, p=[0.7, 0.2, 0.1]).tolist()
    pred = [t if rng.random() < 0.6 else str(rng.choice(["a", "b", "d"])) for t in truth]
    ours = classification_scores(truth, pred)
    assert ours["accuracy"] == pytest.approx(metrics.accuracy_score(truth, pred))
    present = sorted({*truth, *pred})
    recall = metrics.recall_score(truth, pred, labels=sorted(set(truth)), average="macro")
    assert ours["balanced_accuracy"] == pytest.approx(recall)
    f1 = metrics.f1_score(truth, pred, average=None, labels=present, zero_division=0)
    for kind in ("macro", "weighted"):
        assert ours[f"f1_{kind}"] == pytest.approx(metrics.f1_score(truth, pred, average=kind))
    precision = metrics.precision_score(truth, pred, labels=present, average=None, zero_division=0)
    for i, name in enumerate(present):
        assert ours[f"f1_{name}"] == pytest.approx(f1[i])
        assert ours[f"precision_{name}"] == pytest.approx(precision[i])
    names, matrix = class_counts(truth, pred)
    assert names == present
    np.testing.assert_array_equal(matrix, metrics.confusion_matrix(truth, pred, labels=present))


def test_probabilities_agree_with_scikit_learn_and_torchmetrics() -> None:
    import torch
    from sklearn import metrics
    from torchmetrics.functional.classification import multiclass_calibration_error

    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 300)
    logits = rng.normal(0, 1, (300, 3)).round(1)  # rounded: ties occur
    logits[np.arange(300), codes] += 1
    table = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    names = ["a", "b", "c"]
    ours = probability_scores([names[c] for c in codes], table, names)
    theirs = metrics.roc_auc_score(codes, table, multi_class="ovr", average="macro")
    assert ours["roc_auc"] == pytest.approx(theirs)
    for i, name in enumerate(names):
        expected = metrics.average_precision_score(codes == i, table[:, i])
        assert ours[f"average_precision_{name}"] == pytest.approx(expected)
    ece = multiclass_calibration_error(
        torch.tensor(table), torch.tensor(codes), num_classes=3, n_bins=15
    )
    assert ours["ece"] == pytest.approx(float(ece), abs=1e-6)
    one = np.zeros(4, bool)
    assert np.isnan(roc_auc(one, np.arange(4.0)))
    assert np.isnan(ranked_precision(one, np.arange(4.0)))


def test_semantic_agrees_with_scikit_learn_and_torchmetrics() -> None:
    import torch
    from sklearn.metrics import jaccard_score
    from torchmetrics.functional.classification import multiclass_f1_score, multiclass_jaccard_index

    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, (40, 50))
    pred = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 4, truth.shape))
    truth[:5] = 255
    ours = semantic_scores(confusion_matrix(truth, pred, 4))
    known = truth != 255
    expected = jaccard_score(truth[known], pred[known], average=None)
    assert [ours[f"iou_{c}"] for c in range(4)] == pytest.approx(expected)
    tensors = torch.tensor(pred), torch.tensor(truth)
    iou = multiclass_jaccard_index(*tensors, num_classes=4, ignore_index=255)
    assert ours["iou"] == pytest.approx(float(iou), abs=1e-6)
    dice = multiclass_f1_score(*tensors, num_classes=4, average="none", ignore_index=255)
    assert [ours[f"dice_{c}"] for c in range(4)] == pytest.approx(dice.tolist(), abs=1e-6)


def test_depth_agrees_with_torchmetrics_and_scikit_learn() -> None:
    import torch
    from sklearn.linear_model import LinearRegression
    from torchmetrics.functional import mean_absolute_error, mean_squared_error
    from torchmetrics.functional.regression import mean_absolute_percentage_error

    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 9, (30, 20))
    pred = 0.7 * truth + rng.normal(0, 1, truth.shape)
    ours = depth_scores(truth, pred)
    tensors = torch.tensor(pred), torch.tensor(truth)
    assert ours["rmse"] == pytest.approx(float(mean_squared_error(*tensors, squared=False)))
    assert ours["mae"] == pytest.approx(float(mean_absolute_error(*tensors)))
    assert ours["absrel"] == pytest.approx(float(mean_absolute_percentage_error(*tensors)))
    column = pred.reshape(-1, 1)
    fitted = LinearRegression().fit(column, truth.ravel()).predict(column)
    assert ours["rmse_fit"] == pytest.approx(np.sqrt(np.mean((fitted - truth.ravel()) ** 2)))
    ratio = np.maximum(pred / truth, truth / pred)
    assert ours["delta1"] == pytest.approx(((ratio < 1.25) & (pred > 0)).mean())
