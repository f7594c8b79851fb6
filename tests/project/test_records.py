"""The journal's records: what is written comes back, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoscope.project.records import Record, decode_pixels, encode, encode_pixels, scan

RECORDS = [
    Record({"op": "paint", "number": number}, bytes([number]) * number * 10) for number in range(5)
]
DATA = b"".join(encode(record) for record in RECORDS)


def test_records_come_back_in_order() -> None:
    found = scan(DATA)
    assert found.records == RECORDS
    assert (found.end, found.torn, found.damaged) == (len(DATA), 0, 0)


@pytest.mark.parametrize("lost", range(1, 70, 3))
def test_a_journal_that_was_cut_off_anywhere_keeps_all_whole_records(lost: int) -> None:
    found = scan(DATA[:-lost])
    whole = len(found.records)
    assert found.records == RECORDS[:whole]
    assert whole == (4 if lost <= len(encode(RECORDS[4])) else 3)
    assert found.end + found.torn == len(DATA) - lost
    assert found.damaged == 0


@pytest.mark.parametrize("at", range(0, 150, 7))
def test_one_changed_byte_costs_one_record(at: int) -> None:
    data = bytearray(DATA)
    data[at] ^= 0xFF
    found = scan(bytes(data))
    assert len(found.records) == 4
    assert all(record in RECORDS for record in found.records)
    assert found.damaged == 1


def test_a_file_of_zeros_after_a_power_cut_is_a_torn_end() -> None:
    found = scan(DATA + b"\0" * 4096)
    assert found.records == RECORDS
    assert found.torn == 4096


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.integers(0, 2**40), st.integers(0, 2**32 - 1), min_size=0, max_size=80))
def test_painted_pixels_come_back(painted: dict[int, int]) -> None:
    flat = np.array(sorted(painted), np.int64)
    codes = np.array([painted[int(i)] for i in flat], np.uint32)
    back, values = decode_pixels(encode_pixels(flat, codes))
    assert np.array_equal(back, flat)
    assert np.array_equal(values, codes)


def test_a_stroke_on_a_large_plane_takes_kilobytes() -> None:
    side = 4096
    centre = 1000 + np.arange(1500)  # a diagonal stroke, 21 pixels wide
    flat = np.unique(
        (centre[:, None, None] + np.arange(-10, 11)[:, None]) * side
        + (centre[:, None, None] + np.arange(-10, 11))
    )
    assert len(flat) > 30_000
    assert len(encode_pixels(flat, np.full(len(flat), 3, np.uint32))) < 4_000
    whole = np.arange(side * side, dtype=np.int64)
    assert len(encode_pixels(whole, np.ones(side * side, np.uint32))) < 100


def test_bytes_that_are_no_pixels_are_refused() -> None:
    blob = encode_pixels(np.arange(9), np.ones(9, np.uint32))
    with pytest.raises(ValueError, match="cannot be unpacked"):
        decode_pixels(blob[:-3])
