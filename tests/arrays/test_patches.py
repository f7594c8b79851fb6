from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoscope.arrays.patches import PatchGrid, majority
from dinoscope.errors import InputError

GRID = PatchGrid((30, 45), (3, 4), (14.0, 14.0), (6.5, 6.5))


@settings(max_examples=40, deadline=None)
@given(
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    zoom=st.floats(0.3, 4),
    top=st.integers(0, 5),
    left=st.integers(0, 5),
)
def test_a_patch_lies_where_its_centre_lies(
    h: int, w: int, zoom: float, top: int, left: int
) -> None:
    step = 14 / zoom
    shape = (max(1, int(h * step)), max(1, int(w * step)))
    first = ((top + 0.5) * step - 0.5, (left + 0.5) * step - 0.5)
    origin = (int(np.ceil(top * step)), int(np.ceil(left * step)))
    grid = PatchGrid(shape, (h, w), (step, step), first, origin)
    row, column = np.divmod(np.arange(grid.count), w)
    centres = grid.centres(row, column)
    back = grid.patches_at(centres[:, 0], centres[:, 1])
    assert np.array_equal(back[0], row)
    assert np.array_equal(back[1], column)


def test_painted_patches_are_read_back_exactly() -> None:
    values = np.arange(12).reshape(3, 4)
    painted = GRID.paint(values)
    assert painted.shape == (30, 45)
    assert painted[13, 13] == 0
    assert painted[14, 14] == 5
    assert np.array_equal(GRID.majority(painted), values)
    assert np.array_equal(GRID.shares(painted == 5), (values == 5).astype(float))


def test_a_pixel_beside_the_image_has_no_patch() -> None:
    assert GRID.patch_at(29.4, 44.4) == (2, 3)
    assert GRID.patch_at(29.6, 0) is None
    assert GRID.patch_at(0, -0.6) is None


def test_a_region_counts_from_the_whole_image() -> None:
    region = PatchGrid((14, 14), (1, 1), (14.0, 14.0), (20.5, 34.5), (14, 28))
    assert region.patch_at(14, 28) == (0, 0)
    assert region.patch_at(13, 28) is None
    assert region.pixel_patches()[0].tolist() == [0] * 14
    assert region.pixel_positions()[0][0] == pytest.approx(-6.5 / 14)


def test_the_share_of_a_patch_at_the_edge_counts_its_own_pixels_only() -> None:
    mask = np.zeros((30, 45), bool)
    mask[28:, 42:] = True  # the last patch has 2 x 3 pixels
    assert GRID.shares(mask)[2, 3] == 1
    assert GRID.shares(mask).sum() == 1


def test_majority_prefers_the_smaller_label_in_a_tie() -> None:
    assert majority(np.array([0, 0, 1]), np.array([9, 4, 2]), 2).tolist() == [4, 2]
    assert majority(np.zeros(0, int), np.zeros(0, int), 2).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: PatchGrid((0, 4), (1, 1), (14, 14), (6.5, 6.5)), "at least one patch"),
        (lambda: PatchGrid((4, 4), (1, 1), (0, 14), (6.5, 6.5)), "step"),
        (lambda: GRID.paint(np.zeros((4, 3))), r"\(4, 3\)"),
        (lambda: GRID.majority(np.zeros((30, 44), int)), r"\(30, 44\)"),
        (lambda: GRID.shares(np.zeros((3, 4), bool)), "same pixels"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, match: str) -> None:
    with pytest.raises(InputError, match=match):
        call()  # type: ignore[operator]
