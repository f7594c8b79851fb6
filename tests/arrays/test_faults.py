from __future__ import annotations

import numpy as np
import pytest

from dinoscope.arrays.faults import (
    CONFUSED,
    FALSE,
    FAULTS,
    FOUND,
    MERGED,
    MISSED,
    SPLIT,
    class_fault_map,
    fault_table,
    instance_fault_map,
    object_faults,
)
from dinoscope.arrays.matching import match_instances


def boxes(**where: tuple[int, int]) -> np.ndarray:
    """A (6, 60) plane with a box four rows high from column to column for each id."""
    plane = np.zeros((6, 60), np.int32)
    for name, (start, stop) in where.items():
        plane[1:5, start:stop] = int(name[1:])
    return plane


TRUTH = boxes(t1=(0, 10), t2=(12, 20), t3=(20, 28), t4=(30, 40), t5=(42, 50))
PRED = boxes(p7=(0, 10), p8=(12, 28), p10=(30, 35), p11=(35, 40), p12=(54, 60))


def test_each_object_gets_what_became_of_it() -> None:
    match = match_instances(TRUTH, PRED)
    faults = object_faults(match, 0.6)
    assert faults.truth.tolist() == [FOUND, MERGED, MERGED, SPLIT, MISSED]
    assert dict(zip(match.pred_ids.tolist(), faults.pred.tolist(), strict=True)) == {
        7: FOUND,
        8: MERGED,
        10: SPLIT,
        11: SPLIT,
        12: FALSE,
    }
    assert faults.counts() == {"found": 1, "false": 1, "missed": 1, "merged": 2, "split": 1}


def test_map_shows_each_fault_in_its_place() -> None:
    match = match_instances(TRUTH, PRED)
    codes = instance_fault_map(TRUTH, PRED, match, object_faults(match, 0.6))
    row = codes[2]
    assert row[5] == FOUND
    assert (row[12:28] == MERGED).all()
    assert (row[30:40] == SPLIT).all()
    assert (row[42:50] == MISSED).all()
    assert (row[54:60] == FALSE).all()
    assert not codes[(TRUTH == 0) & (PRED == 0)].any()
    assert set(np.unique(codes)) <= {0, *FAULTS}


def test_ids_that_no_table_could_hold_are_mapped_too() -> None:
    big = np.where(PRED > 0, PRED.astype(np.int64) + 10**12, 0)
    match = match_instances(TRUTH, big)
    codes = instance_fault_map(TRUTH, big, match, object_faults(match, 0.6))
    plain = match_instances(TRUTH, PRED)
    expected = instance_fault_map(TRUTH, PRED, plain, object_faults(plain, 0.6))
    np.testing.assert_array_equal(codes, expected)


def test_an_object_that_is_found_swallows_no_blame() -> None:
    truth = boxes(t1=(0, 20), t2=(20, 23))
    pred = boxes(p1=(0, 23))
    match = match_instances(truth, pred)
    faults = object_faults(match, 0.5)
    assert faults.truth.tolist() == [FOUND, MERGED]
    assert faults.pred.tolist() == [FOUND]


def test_an_object_whose_largest_piece_matches_is_found_and_split() -> None:
    truth, pred = boxes(t1=(0, 20)), boxes(p1=(0, 15), p2=(15, 20))
    faults = object_faults(match_instances(truth, pred), 0.5)
    assert faults.truth.tolist() == [FOUND]
    assert faults.pred.tolist() == [FOUND, SPLIT]
    assert faults.counts() == {"found": 1, "false": 0, "missed": 0, "merged": 0, "split": 1}


def test_table_lists_the_worst_first() -> None:
    match = match_instances(TRUTH, PRED)
    table = fault_table(TRUTH, PRED, match, object_faults(match, 0.6))
    assert len(table["iou"]) == 5 + 4
    assert (np.diff(table["iou"]) >= 0).all()
    assert table["fault"][-1] == "found"
    missed = list(table["fault"]).index("missed")
    assert (table["truth_id"][missed], table["pred_id"][missed]) == (5, 0)
    assert (table["y"][missed], table["x"][missed]) == (2.5, 45.5)
    false = list(table["fault"]).index("false positive")
    assert (table["truth_id"][false], table["pred_id"][false]) == (0, 12)
    assert table["area_px"][false] == 24


@pytest.mark.parametrize("side", ["truth", "pred"])
def test_nothing_on_one_side_is_no_error(side: str) -> None:
    empty = np.zeros_like(TRUTH)
    pair = (empty, PRED) if side == "truth" else (TRUTH, empty)
    match = match_instances(*pair)
    faults = object_faults(match)
    codes = instance_fault_map(*pair, match, faults)
    expected = FALSE if side == "truth" else MISSED
    assert set(np.unique(codes)) == {0, expected}
    assert len(fault_table(*pair, match, faults)["iou"]) == 5


def test_classes_are_right_false_missed_or_confused() -> None:
    truth = np.array([[0, 0, 1, 1, 2, 255, 1]])
    pred = np.array([[0, 1, 1, 0, 1, 1, 255]])
    assert class_fault_map(truth, pred).tolist() == [[0, FALSE, FOUND, MISSED, CONFUSED, 0, MISSED]]
