from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoscope.arrays.metrics import (
    AP_THRESHOLDS,
    average_precision,
    classification_scores,
    confusion_matrix,
    depth_scores,
    instance_scores,
    match_instances,
    semantic_scores,
)
from dinoscope.errors import InputError


def strips(*lengths: int) -> np.ndarray:
    """Objects 1, 2, … side by side, of these lengths; a length below 0 is background."""
    pieces, label = [], 0
    for length in lengths:
        label += length > 0
        pieces.append(np.full(abs(length), label if length > 0 else 0))
    return np.concatenate(pieces)[None].astype(np.int32)


def largest_matching(truth: np.ndarray, pred: np.ndarray, threshold: float) -> int:
    """Most pairs that can be matched one to one, by trying everything."""
    ts, ps = np.unique(truth[truth > 0]), np.unique(pred[pred > 0])
    iou = np.array(
        [
            [((truth == t) & (pred == p)).sum() / ((truth == t) | (pred == p)).sum() for p in ps]
            for t in ts
        ]
    ).reshape(len(ts), len(ps))
    if iou.shape[0] > iou.shape[1]:
        iou = iou.T
    return max(
        (
            sum(bool(iou[r, c] >= threshold) for r, c in enumerate(columns))
            for columns in itertools.permutations(range(iou.shape[1]), iou.shape[0])
        ),
        default=0,
    )


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.1, 0.3, 0.5, 0.55, 0.75]), st.integers(0, 5))
def test_ap_counts_the_largest_one_to_one_matching(seed: int, threshold: float, n: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.integers(0, n + 1, (1, 9)), 2, axis=1)
    pred = np.where(rng.random(truth.shape) < 0.75, truth, rng.integers(0, n + 1, truth.shape))
    tp = largest_matching(truth, pred, threshold)
    objects = np.unique(truth[truth > 0]).size + np.unique(pred[pred > 0]).size
    expected = tp / (objects - tp) if objects else 1.0
    assert average_precision(truth, pred, [threshold])[0] == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_ap_does_not_depend_on_the_numbers_of_ids_and_is_symmetric(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, pred = rng.integers(0, 6, (2, 6, 7))
    renamed = rng.permutation(5) * 100_003 + 70_000
    other = np.where(truth > 0, renamed[truth - 1], 0)
    here = average_precision(truth, pred)
    assert np.array_equal(here, average_precision(other, pred))
    assert np.array_equal(here, average_precision(pred, truth))
    assert (np.diff(here) <= 0).all()


def test_known_case_gives_the_ap_that_its_definition_says() -> None:
    truth = strips(10, -5, 10, -5, 10)
    pred = strips(10, -5, 6, -9, 4, -6)  # IoU 1, 0.6, 0: one found, one half found, one missed
    ap = average_precision(truth, pred, [0.5, 0.6, 0.65])
    assert ap == pytest.approx([2 / 4, 2 / 4, 1 / 5])


def test_two_halves_at_iou_one_half_match_the_object_once() -> None:
    match = match_instances(strips(10), strips(5, 5))
    assert match.counts(0.5) == (1, 1, 0)
    assert match.counts(0.51) == (0, 2, 1)


@pytest.mark.parametrize(
    ("truth", "pred", "ap"),
    [((-9,), (-9,), 1.0), ((-9,), (9,), 0.0), ((9,), (-9,), 0.0), ((9,), (9,), 1.0)],
)
def test_empty_planes_score_one_only_when_both_are_empty(
    truth: tuple[int], pred: tuple[int], ap: float
) -> None:
    assert (average_precision(strips(*truth), strips(*pred)) == ap).all()
    scores = instance_scores([match_instances(strips(*truth), strips(*pred))])
    assert {scores[k] for k in ("ap50", "ap75", "map", "f1_50", "pq", "iou")} == {ap}


def test_per_image_means_and_pooled_scores_differ_as_defined() -> None:
    good = match_instances(strips(8), strips(8))
    bad = match_instances(strips(4, 4, 4), strips(-12))
    scores = instance_scores([good, bad])
    assert scores["ap50"] == 0.5
    assert scores["ap50_pooled"] == 0.25
    assert scores["f1_50"] == 0.5
    assert scores["f1_50_pooled"] == pytest.approx(2 / 5)
    assert (scores["tp"], scores["fp"], scores["fn"]) == (1, 0, 3)
    assert (scores["n"], scores["n_truth"], scores["n_pred"]) == (2, 4, 1)


def test_panoptic_quality_is_matched_iou_over_the_mean_number_of_objects() -> None:
    truth, pred = strips(10, -2, 10), strips(8, -4, 10)
    scores = instance_scores([match_instances(truth, pred)])
    assert scores["iou"] == pytest.approx((0.8 + 1) / 2)
    assert scores["pq"] == pytest.approx((0.8 + 1) / 2)
    assert scores["map"] == pytest.approx(
        np.mean([1 if t <= 0.8 else 1 / 3 for t in AP_THRESHOLDS])
    )


def test_images_of_other_shape_or_without_labels_are_refused() -> None:
    with pytest.raises(InputError, match=r"prediction has shape \(1, 5\)"):
        match_instances(strips(4), strips(5))
    with pytest.raises(InputError, match="truth has dtype float32"):
        match_instances(strips(4).astype(np.float32), strips(4))
    with pytest.raises(InputError, match="no images to score"):
        instance_scores([])


def test_ignored_truth_is_not_counted_and_ignored_answers_are_wrong() -> None:
    truth = np.array([0, 0, 1, 1, 255, 255])
    pred = np.array([0, 1, 1, 255, 0, 1])
    matrix = confusion_matrix(truth, pred, 2)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 1]]
    scores = semantic_scores(matrix)
    assert scores["iou_0"] == 1 / 2
    assert scores["iou_1"] == 1 / 3
    assert scores["dice_1"] == 2 / 4
    assert scores["accuracy"] == 2 / 4


def test_class_that_never_occurs_does_not_enter_the_mean() -> None:
    codes = np.array([0, 0, 2, 2])
    scores = semantic_scores(confusion_matrix(codes, codes, 4), ["bg", "a", "b", "c"])
    assert scores["iou"] == scores["dice"] == scores["iou_foreground"] == 1
    assert np.isnan(scores["iou_a"])
    assert scores["iou_b"] == 1


def test_class_only_in_the_prediction_counts_zero() -> None:
    scores = semantic_scores(confusion_matrix(np.zeros(4, int), np.array([0, 0, 0, 1]), 2))
    assert scores["iou_1"] == 0
    assert scores["iou"] == pytest.approx((3 / 4 + 0) / 2)


def test_code_outside_the_classes_is_refused() -> None:
    with pytest.raises(InputError, match="prediction holds class 3; expected 0 to 1 or 255"):
        confusion_matrix(np.zeros(3, int), np.full(3, 3), 2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abce")), min_size=1))
def test_classification_scores_agree_with_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    from sklearn import metrics

    truth, pred = [p[0] for p in pairs], [p[1] for p in pairs]
    scores = classification_scores(truth, pred)
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(truth, pred))
    for kind in ("macro", "weighted"):
        expected = metrics.f1_score(truth, pred, average=kind, zero_division=0)
        assert scores[f"f1_{kind}"] == pytest.approx(expected)
    recall = metrics.recall_score(
        truth, pred, labels=sorted(set(truth)), average="macro", zero_division=0
    )
    assert scores["balanced_accuracy"] == pytest.approx(recall)


def test_lists_of_classes_of_different_length_are_refused() -> None:
    with pytest.raises(InputError, match="2 true and 1 predicted"):
        classification_scores(["a", "b"], ["a"])
    with pytest.raises(InputError, match="at least one"):
        classification_scores([], [])


def test_scale_and_offset_of_relative_depth_are_fitted_away() -> None:
    truth = np.random.default_rng(0).normal(5, 2, (20, 30))
    scores = depth_scores(truth, 3 * truth - 40)
    assert scores["rmse_fit"] == pytest.approx(0, abs=1e-9)
    assert scores["rmse"] > 10
    assert depth_scores(truth, -truth)["rmse_fit"] == pytest.approx(0, abs=1e-9)


def test_answering_the_mean_scores_one_against_the_mean() -> None:
    truth = np.random.default_rng(0).normal(5, 2, (20, 30))
    scores = depth_scores(truth, np.full_like(truth, truth.mean()))
    assert scores["rmse_over_mean"] == pytest.approx(1)
    assert scores["rmse_fit_over_mean"] == pytest.approx(1)
    assert scores["rmse"] == pytest.approx(truth.std())


def test_depth_errors_are_known_numbers_over_finite_pixels_only() -> None:
    truth = np.array([[0.0, 2.0, np.nan, 4.0]])
    scores = depth_scores(truth, np.array([[1.0, 2.0, 9.0, np.nan]]))
    assert scores["rmse"] == pytest.approx(np.sqrt(0.5))
    assert scores["mae"] == 0.5
    assert scores["coverage"] == pytest.approx(2 / 3)


def test_depth_without_a_common_pixel_or_shape_is_refused() -> None:
    with pytest.raises(InputError, match="no pixel is finite in both"):
        depth_scores(np.array([np.nan, 1.0]), np.array([1.0, np.nan]))
    with pytest.raises(InputError, match=r"shape \(2,\)"):
        depth_scores(np.zeros(3), np.zeros(2))
