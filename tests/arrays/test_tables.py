"""Tables become CSV that spreadsheets and pandas read."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from dinoscope.arrays.files import write_table
from dinoscope.errors import InputError, OutputError


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_numbers_and_names_come_back_and_nan_is_an_empty_cell(tmp_path: Path) -> None:
    table = {
        "label": np.array([1, 4_000_000_000], np.uint32),
        "area_um2": np.array([np.nan, 0.1], np.float32),
        "centroid_y": np.array([1234.56789, 2.0]),
        "class": np.array(["a, b", 'µ"']),
        "edited": np.array([True, False]),
    }
    write_table(tmp_path / "a.csv", table)
    assert rows(tmp_path / "a.csv") == [
        ["label", "area_um2", "centroid_y", "class", "edited"],
        ["1", "", "1234.56789", "a, b", "True"],
        ["4000000000", "0.1", "2", 'µ"', "False"],
    ]


def test_a_table_without_rows_has_its_header(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", {"label": np.zeros(0, int), "area_px": np.zeros(0)})
    assert rows(tmp_path / "a.csv") == [["label", "area_px"]]


def test_columns_of_different_length_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"columns have lengths \{'a': 1, 'b': 2\}"):
        write_table(tmp_path / "a.csv", {"a": np.zeros(1), "b": np.zeros(2)})
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_table_is_an_error_and_keeps_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(OutputError, match=r"a\.csv could not be written"):
        write_table(tmp_path / "a.csv", {"a": np.zeros(1)})
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]
