"""What stays together, what is held out, and that nothing else is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinoscope.config import SplitOptions, TrainOptions
from dinoscope.engine.dataset import TaskSource
from dinoscope.engine.loading import load_sources
from dinoscope.engine.splits import (
    PlaneBlock,
    blocks,
    fold_parts,
    group_name,
    grouped,
    hold_out,
    read_groups,
)
from dinoscope.engine.train import train
from dinoscope.errors import InputError
from dinoscope.models.checkpoint import load_model
from dinoscope.types import ImageInput

from .conftest import discs


def _source(stems: list[str], **more: Any) -> TaskSource:
    paths = [Path(f"{s}.tif") for s in stems]
    return TaskSource("instance", paths, paths, **more)


@pytest.mark.parametrize(
    ("stem", "group_by", "group"),
    [
        ("a_01", "image", "a_01"),
        ("dish2_z007", "stack", "dish2"),
        ("dish2-t003_z07_ch1", "stack", "dish2"),
        ("plate_s2_t1", "stack", "plate_s2"),
        ("dish 4_017", "stack", "dish 4"),
        ("cell12", "stack", "cell12"),
        ("plate1_B03_s2", "well", "B03"),
        ("plate1_b3_s2", "well", "B03"),
        ("p1_A02_c1", "well", "A02"),
        ("A10_z20", "well", "A10"),
        ("P24-4", "well", "P24"),
        ("mouse7_day2", r"mouse\d+", "mouse7"),
        ("mouse7_slide3_x", r"(mouse\d+)_(slide\d+)", "mouse7|slide3"),
    ],
)
def test_a_name_tells_its_group(stem: str, group_by: str, group: str) -> None:
    assert group_name(stem, group_by) == group


@pytest.mark.parametrize(
    ("stem", "group_by", "message"),
    [
        ("image7", "well", "'image7' has no well"),
        ("rat1", r"mouse\d+", "does not match"),
        ("rat1", "(", "cannot be read"),
    ],
)
def test_a_name_without_a_group_is_an_error(stem: str, group_by: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        group_name(stem, group_by)


@pytest.mark.parametrize("group_by", ["stack", "well"])
def test_groups_are_never_split_in_any_part(group_by: str) -> None:
    stems = [f"p_{row}{n:02d}_z{z}" for row in "ABC" for n in (1, 2) for z in range(4)]
    source = grouped([_source(stems)], group_by)[0]
    part = hold_out([source], 0.3, seed=1)
    sides = [
        {group_name(p.stem, group_by) for s in side for p in s.images if isinstance(p, Path)}
        for side in (part.training, part.held)
    ]
    assert sides[0].isdisjoint(sides[1])
    assert len(sides[1]) == 2  # of six
    assert part.note == ""
    assert sum(len(s.images) for s in part.training + part.held) == len(stems)


def test_an_image_of_two_tasks_is_on_one_side_for_both() -> None:
    stems = [f"i{n}" for n in range(10)]
    other = TaskSource("depth", *[[Path(f"{s}.tif") for s in stems[3:]]] * 2)
    part = hold_out([_source(stems), other], 0.4, seed=3)
    trained = {p for s in part.training for p in s.images}
    assert trained.isdisjoint(p for s in part.held for p in s.images)
    assert {s.task for s in part.held} == {"instance", "depth"}


def test_one_image_cannot_be_held_out_and_it_is_said() -> None:
    part = hold_out([_source(["only"])], 0.0, seed=0)
    assert part.held == []
    image = ImageInput(np.zeros((20, 20)), "YX")
    part = hold_out([TaskSource("instance", [image], [image])], 0.5, seed=0)
    assert part.held == []
    assert "No image was held out" in part.note


@pytest.mark.parametrize("count", [8, 9, 20, 101])
@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.6])
def test_blocks_of_planes_have_a_gap_between_them(count: int, fraction: float) -> None:
    parts = blocks(count, fraction)
    assert parts is not None
    (start, end), (first, last) = parts
    assert start == 0 < end < first < last == count
    assert blocks(7, fraction) is None


def test_a_single_stack_is_held_out_in_planes_that_do_not_touch() -> None:
    stack = np.arange(20 * 30 * 32).reshape(20, 30, 32).astype(np.float32)
    ids = np.zeros((20, 30, 32), np.uint16)
    ids[:, 5:15, 5:15] = 1
    source = TaskSource(
        "instance", [ImageInput(stack, "ZYX", name="s")], [ImageInput(ids, "ZYX", name="s")]
    )
    part = hold_out([source], 0.2, seed=0)
    assert "planes 0 to 13 train, 16 to 19 are held out" in part.note
    from dinoscope.arrays.normalize import Normalization

    sides = [
        load_sources(side, Normalization(), {})[0].images for side in (part.training, part.held)
    ]
    assert [len(side) for side in sides] == [14, 4]
    held = part.held[0].images[0]
    assert isinstance(held, ImageInput)
    assert np.array_equal(held.data[0], stack[16])


def test_a_block_of_planes_reads_as_numpy_does() -> None:
    data = np.arange(5 * 6 * 7).reshape(5, 6, 7)
    block, expected = PlaneBlock(data, 1, 2, 5), data[:, 2:5]
    keys: list[Any] = [
        (0, 1), (slice(None), -1), (..., 2), (1, ..., 3), (slice(None), slice(None, None, -1)),
        0, (slice(1, 3), slice(0, 2), slice(None, None, 2)), Ellipsis,
    ]  # fmt: skip
    for key in keys:
        assert np.array_equal(block[key], expected[key]), key
    with pytest.raises(IndexError):
        block[0, 3]


def test_folds_hold_each_group_out_once() -> None:
    source = grouped([_source([f"w{n}_z{z}" for n in range(7) for z in range(3)])], "stack")[0]
    parts = fold_parts([source], 3, seed=2)
    held = [p for part in parts for s in part.held for p in s.images]
    assert sorted(map(str, held)) == sorted(map(str, source.images))
    for part in parts:
        train_groups = {g for s in part.training for g in s.groups or ()}
        assert train_groups.isdisjoint(g for s in part.held for g in s.groups or ())
    with pytest.raises(InputError, match=r"7 images .* for 8 folds"):
        fold_parts([source], 8, seed=2)


def test_a_groups_table_names_every_image(tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    table.write_text("image,group\na.tif,g1\nb,g1\nc.tif,g2\n")
    groups = read_groups(table)
    assert grouped([_source(["a", "b", "c"])], table=groups)[0].groups == ["g1", "g1", "g2"]
    with pytest.raises(InputError, match="lacks image 'd'"):
        grouped([_source(["a", "d"])], table=groups)
    table.write_text("file,group\na,b\n")
    with pytest.raises(InputError, match="has file, group"):
        read_groups(table)


class Watched:
    """An array that notes when its pixels are read."""

    def __init__(self, data: np.ndarray, name: str, log: list[str]) -> None:
        self.data, self.name, self.log = data, name, log
        self.shape, self.dtype = data.shape, data.dtype

    def __getitem__(self, key: Any) -> Any:
        self.log.append(self.name)
        return self.data[key]


def test_test_images_are_not_read_before_the_final_report(tmp_path: Path) -> None:
    log: list[str] = []
    images, truths = [], []
    for number in range(8):
        image, ids = discs(number, (100, 110))
        images.append(ImageInput(Watched(image, f"i{number}", log), "YX", name=f"i{number}"))
        truths.append(ImageInput(Watched(ids, f"i{number}", log), "YX", name=f"l{number}"))
    options = TrainOptions(tune="heads", epochs=2, batch_size=2, crop_px=112, threads=1)
    output = tmp_path / "m.dinoscope"
    events = train(
        [TaskSource("instance", images, truths)],
        options,
        base="tiny-test",
        output=output,
        splits=SplitOptions(test_fraction=0.25),
    )
    before: set[str] = set()
    while True:
        try:
            if next(events).step == "test":
                before = set(log)
                log.clear()
        except StopIteration as stop:
            summary = stop.value
            break
    assert len(before) == 6
    assert len(set(log)) == 2
    assert before.isdisjoint(log)
    assert {"ap50", "test_ap50"} <= set(summary.scores)
    assert load_model(output).card.scores["test_ap50"] == pytest.approx(
        summary.scores["test_ap50"], abs=1e-3
    )
