"""Lengths in any unit become micrometres."""

from __future__ import annotations

import pytest

from dinoscope.arrays.units import to_um


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.5, "µm", 0.5),
        (0.5, "\u03bcm", 0.5),  # Greek mu, not the micro sign
        ("0.5", "\\u00B5m", 0.5),  # as ImageJ escapes it
        (2, " Microns ", 2),
        (250, "nm", 0.25),
        (1, "nanometre", 1e-3),
        (3, "millimeters", 3000),
        (2, "inches", 50_800),
        (10, "Å", 1e-3),
    ],
)
def test_known_units(value: object, unit: str, expected: float) -> None:
    assert to_um(value, unit) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "unit"),
    [(1, "pixel"), (1, ""), (0, "µm"), (-1, "nm"), ("wide", "µm"), (None, "µm"), ("nan", "µm")],
)
def test_what_is_no_length_is_unknown(value: object, unit: str) -> None:
    assert to_um(value, unit) is None
