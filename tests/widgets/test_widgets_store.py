"""Results in memory and in chunked files."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import zarr

from dinoscope.errors import OutputError
from dinoscope.widgets._store import ResultStore

ALL = slice(None)


def test_small_results_stay_in_memory() -> None:
    store = ResultStore((3, 8, 9), np.uint32)
    assert isinstance(store.array, np.ndarray)
    store.write((1, ALL, ALL), np.full((8, 9), 7))
    assert store.array[1].min() == 7
    assert store.array[0].max() == 0


def test_large_results_go_to_a_chunked_file_that_goes_with_the_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = ResultStore((4, 1500, 40), np.uint8, limit=1000)
    assert isinstance(store.array, zarr.Array)
    assert store.array.chunks == (1, 1024, 40)
    store.write((2, ALL, ALL), np.full((1500, 40), 5))
    assert store.array[2, 1400, 30] == 5
    assert store.is_as_written()
    assert len(list(tmp_path.iterdir())) == 1
    del store
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_rgb_samples_stay_together_in_a_chunk() -> None:
    store = ResultStore((2, 8, 9, 3), np.float32, planar=3, limit=1)
    assert store.array.chunks == (1, 8, 9, 3)


def test_an_edit_in_place_is_noticed() -> None:
    store = ResultStore((2, 8, 9), np.uint32)
    store.write((0, ALL, ALL), np.ones((8, 9)))
    assert store.is_as_written()
    store.array[0, 3, 3] = 9
    assert not store.is_as_written()


def test_a_full_disk_is_a_readable_error(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ResultStore((2, 8, 9), np.uint32)

    class Full:
        def __setitem__(self, key: object, value: object) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "array", Full())
    with pytest.raises(OutputError, match="No space left"):
        store.write((0, ALL, ALL), np.ones((8, 9)))


def test_a_folder_that_cannot_be_made_is_a_readable_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(OutputError, match="TMPDIR"):
        ResultStore((2, 8, 9), np.uint32, limit=1)
