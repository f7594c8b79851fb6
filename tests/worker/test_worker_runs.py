"""Kept maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinoscope.errors import InputError
from dinoscope.worker.runs import KEPT_RUNS, RunStore


def test_maps_come_back_by_plane_in_the_order_of_the_image(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs")
    store.create("5", {"pixel_size_um": {"Y": 0.5}})
    maps = {index: np.full((3, 4, 5), sum(index), np.uint8) for index in [(10, 0), (2, 1), (2, 0)]}
    for index, array in maps.items():
        store.keep("5", index, array)
    again = RunStore(tmp_path / "runs")  # another worker, after a kill
    assert again.indices("5") == [(2, 0), (2, 1), (10, 0)]
    assert again.info("5") == {"pixel_size_um": {"Y": 0.5}}
    np.testing.assert_array_equal(again.maps("5", (10, 0)), maps[10, 0])


def test_a_single_plane_has_the_empty_index(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.create("1", {})
    store.keep("1", (), np.ones((3, 2, 2), np.uint8))
    assert store.indices("1") == [()]
    assert store.maps("1", ()).sum() == 12


def test_a_run_or_plane_that_is_not_kept_is_a_clear_error(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    with pytest.raises(InputError, match="'7' are not kept"):
        store.indices("7")
    store.create("7", {})
    with pytest.raises(InputError, match=r"plane \(3,\) of this result is not kept"):
        store.maps("7", (3,))
    store.forget("7")
    store.forget("7")
    with pytest.raises(InputError, match="not kept"):
        store.info("7")


def test_old_runs_make_room_for_new_ones(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for run in range(KEPT_RUNS + 3):
        store.create(str(run), {})
    assert len(list(tmp_path.iterdir())) == KEPT_RUNS
    assert store.indices(str(KEPT_RUNS + 2)) == []
    with pytest.raises(InputError):
        store.indices("0")
