from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from dinoscope.datasets.livecell import decode, paint, read_livecell
from dinoscope.datasets.rle import parse_runs
from dinoscope.errors import InputError

NAME = "A172_Phase_C7_1_00d00h00m_1.tif"
SQUARE = [[2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]]  # columns 2-5, rows 1-3


def square() -> np.ndarray:
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:6] = True
    return mask


#: Column by column: 13 outside, then 3 inside and 3 outside, four times.
RUNS = [13, 3, 3, 3, 3, 3, 3, 3, 14]


def write(folder: Path, document: Any, part: str = "train") -> None:
    notes = folder / "annotations" / "LIVECell"
    notes.mkdir(parents=True)
    (notes / f"livecell_coco_{part}.json").write_text(json.dumps(document))
    pictures = folder / "images" / "livecell_train_val_images" / "A172"
    pictures.mkdir(parents=True)
    tifffile.imwrite(pictures / NAME, np.full((6, 8), 128, np.uint8))


def document(**changes: Any) -> dict[str, Any]:
    image = {"id": 7, "file_name": NAME, "height": 6, "width": 8}
    note = {"id": 1, "image_id": 7, "category_id": 1, "iscrowd": 0, "segmentation": SQUARE}
    return {"images": [image], "annotations": [note], "categories": []} | changes


@pytest.mark.parametrize(
    "segmentation",
    [
        SQUARE,
        {"size": [6, 8], "counts": RUNS},
        {"size": [6, 8], "counts": "=3300000;"},
    ],
    ids=["polygon", "runs", "compressed"],
)
def test_three_forms_give_the_same_mask(segmentation: Any) -> None:
    assert np.array_equal(decode(segmentation, 6, 8), square())


def test_compressed_numbers_may_be_long_and_differences_negative() -> None:
    assert parse_runs("=3300000;") == RUNS
    assert parse_runs("P2")[0] == 2 << 5  # two groups of five bits
    assert parse_runs("555N") == [5, 5, 5, 3]  # N = -2, added to the number two before


@pytest.mark.parametrize("keyed", [False, True])
def test_images_are_found_and_grouped_by_well(tmp_path: Path, keyed: bool) -> None:
    made = document()
    if keyed:
        made["annotations"] = {"1": made["annotations"][0]}
    write(tmp_path, made)
    found = read_livecell(tmp_path)
    assert [p.name for p in found.images if isinstance(p, Path)] == [NAME]
    assert found.groups == ("A172_Phase_C7",)
    assert np.array_equal(found.truths[0].data[:], square().astype(np.int32))  # type: ignore[union-attr]


def test_the_smallest_of_overlapping_annotations_wins_and_crowds_are_unknown() -> None:
    small = [[3.0, 2.0, 5.0, 2.0, 5.0, 3.0, 3.0, 3.0]]
    whole = [[0.0, 0.0, 8.0, 0.0, 8.0, 6.0, 0.0, 6.0]]
    notes = [{"segmentation": small}, {"segmentation": SQUARE}, {"segmentation": SQUARE}]
    ids = paint([*notes, {"segmentation": whole, "iscrowd": 1}], 6, 8)
    assert (ids[2, 3:5] == 1).all()
    assert (ids == 2).sum() == 10
    assert (ids == 3).sum() == 0
    assert (ids == -1).sum() == 36


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (document(images=[]), "lists no image"),
        ({"images": []}, "no image|no 'annotations'"),
        (document(images=[{"id": 7, "file_name": "b.tif", "height": 6, "width": 8}]), "b.tif"),
        (document(annotations=[{"image_id": 7}]), "no 'segmentation'"),
    ],
)
def test_wrong_documents_are_named(tmp_path: Path, bad: Any, message: str) -> None:
    write(tmp_path, bad)
    with pytest.raises(InputError, match=message):
        read_livecell(tmp_path)


def test_a_missing_json_and_part_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"livecell_coco_val\.json"):
        read_livecell(tmp_path, "val")
    with pytest.raises(InputError, match="no part 'all'"):
        read_livecell(tmp_path, "all")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([[1, 2, 3, 4]], "4 coordinates"),
        ({"size": [6, 8], "counts": [5]}, "add up to 5"),
        ({"size": [8, 6], "counts": RUNS}, r"for \[8, 6\]"),
        ({"size": [6, 8], "counts": "P"}, "within a number"),
        ({"size": [6, 8], "counts": "\x7f"}, "hold"),
        (None, "NoneType"),
    ],
)
def test_wrong_segmentations_are_named(bad: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode(bad, 6, 8)
