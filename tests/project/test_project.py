"""A project keeps what it was told, through closing, copying and damage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.project.conftest import picture, picture_file

from dinoscope.arrays.files import read_image, write_image
from dinoscope.errors import InputError, OutputError
from dinoscope.project import ClassEntry, Project
from dinoscope.types import ImageInput

SQUARE = np.array([[2, 2], [2, 20], [20, 20], [20, 2]])


def test_strokes_come_back_after_closing(project: Project, plane: str, stack: str) -> None:
    project.record(plane, (), "paint", np.array([5, 6, 7]), 1)
    project.record(plane, (), "paint", np.array([100, 6]), np.array([3, 2]))
    project.record(stack, (2,), "fill", np.arange(2000), 2)
    project.record(plane, (), "erase", np.array([5]), 0)
    project.close()
    with Project.open(project.folder) as again:
        flat, codes = again.strokes(plane, ())
        assert flat.tolist() == [6, 7, 100]
        assert codes.tolist() == [2, 1, 3]
        assert again.dense(stack, (2,)).all()
        assert again.planes(stack) == [(2,)]
        assert not again.notes


def test_of_a_pixel_that_is_painted_twice_the_last_code_counts(
    project: Project, plane: str
) -> None:
    project.record(plane, (), "paint", np.array([9, 4, 9]), np.array([1, 2, 3]))
    flat, codes = project.strokes(plane, ())
    assert (flat.tolist(), codes.tolist()) == ([4, 9], [2, 3])


def test_everything_else_about_a_plane_comes_back(project: Project, plane: str, stack: str) -> None:
    depth = np.full((40, 50), np.nan, np.float32)
    depth[:10] = 1.5
    project.record(stack, (1,), "draw", np.array([3, 4]), 70_000, layer="objects")
    project.set_object_classes(stack, (1,), {70_000: 3})
    project.set_image_class(plane, (), 2)
    project.set_complete(stack, (0,), True)
    project.set_area(plane, (), [SQUARE])
    project.set_depth(plane, (), depth)
    project.set_classes([("background", "#000000"), ("cell", "#00ff00"), "nucleus", "debris"])
    project.set_settings(model="embedded", brush=7)
    project.close()
    for _ in range(2):  # from the journal's snapshot, and from the one after that
        with Project.open(project.folder) as again:
            objects = again.objects(stack, (1,))
            assert objects.ids.tolist() == [70_000, 70_000]
            assert objects.classes == {70_000: 3}
            assert again.image_class(plane, ()) == 2
            assert again.complete(stack, (0,))
            assert again.area_mask(stack, (0,)).all()
            assert 250 < again.area_mask(plane, ()).sum() < 400
            found = again.depth(plane, ())
            assert found is not None
            assert np.array_equal(found, depth, equal_nan=True)
            assert again.classes[1] == ClassEntry("cell", "#00ff00")
            assert len(again.classes) == 4
            assert again.settings == {"model": "embedded", "brush": 7}
            again.set_settings(model="embedded")
            again.set_image_class(plane, (), 2)


def test_a_closed_project_is_tiff_and_json(project: Project, plane: str) -> None:
    project.record(plane, (), "paint", np.array([50, 51]), 2)
    project.close()
    values = json.loads((project.folder / "project.json").read_text(encoding="utf-8"))
    assert [c["name"] for c in values["classes"]] == ["background", "cell", "nucleus"]
    (entry,) = values["planes"]
    labels = read_image(project.folder / entry["layers"]["strokes"]["file"])
    assert np.flatnonzero(np.asarray(labels.data[:, :])).tolist() == [50, 51]


def test_a_stroke_adds_few_bytes_to_a_large_layer(tmp_path: Path) -> None:
    with Project.create(tmp_path / "large.dinoproject") as project:
        large = project.add_source(ImageInput(np.zeros((4096, 4096), np.uint8), "YX"))
        rows = np.arange(300, 700)[:, None] * 4096
        taken = project.record(large, (), "paint", (rows + np.arange(1000, 1020)).ravel(), 2)
        assert taken < 3_000
        project.close()
        assert sum(f.stat().st_size for f in project.folder.rglob("*")) < 200_000


def test_compacting_keeps_everything_and_empties_the_journal(project: Project, plane: str) -> None:
    for start in range(0, 1000, 10):
        project.record(plane, (), "paint", np.arange(start, start + 5), 1 + start % 3)
    before = project.strokes(plane, ())
    assert project.journal_bytes > 3000
    project.compact()
    assert project.journal_bytes == 0
    project.record(plane, (), "erase", np.arange(5), 0)
    project.compact()
    after = project.strokes(plane, ())
    assert np.array_equal(after[0], before[0][5:])
    assert len(list((project.folder / "labels").iterdir())) == 1


def test_a_snapshot_that_was_not_finished_does_not_count(project: Project, plane: str) -> None:
    project.record(plane, (), "paint", np.array([1]), 2)
    project.flush()
    copy = project.folder.with_name("copy.dinoproject")
    shutil.copytree(project.folder, copy)
    (copy / "labels").mkdir(exist_ok=True)
    (copy / "labels" / "half.9.tif").write_bytes(b"II*\0")
    (copy / ".dinoscope-abc.part").write_text("{")
    (copy / "journal-000009.log").write_bytes(b"\xd1")
    with Project.open(copy) as again:
        assert again.strokes(plane, ())[0].tolist() == [1]
        names = {p.name for p in again.folder.rglob("*")}
    assert not names & {"half.9.tif", ".dinoscope-abc.part", "journal-000009.log"}


def test_a_write_that_was_cut_off_is_cut_away(project: Project, plane: str) -> None:
    project.record(plane, (), "paint", np.array([1, 2]), 2)
    project.flush()
    copy = project.folder.with_name("copy.dinoproject")
    shutil.copytree(project.folder, copy)
    journal = next(copy.glob("journal-*.log"))
    journal.write_bytes(journal.read_bytes() + journal.read_bytes()[:9])
    with Project.open(copy) as again:
        assert any("being written" in note for note in again.notes)
        again.record(plane, (), "paint", np.array([3]), 2)
        again.flush()
        with Project.open(copy, read_only=True) as seen:
            assert seen.strokes(plane, ())[0].tolist() == [1, 2, 3]


def test_damage_in_the_middle_is_said_and_kept_apart(project: Project, plane: str) -> None:
    sizes = [project.record(plane, (), "paint", np.array([n]), 2) for n in range(1, 6)]
    project.flush()
    copy = project.folder.with_name("copy.dinoproject")
    shutil.copytree(project.folder, copy)
    journal = next(copy.glob("journal-*.log"))
    data = bytearray(journal.read_bytes())
    data[len(data) - sum(sizes[2:]) + 25] ^= 1
    journal.write_bytes(bytes(data))
    with Project.open(copy) as again:
        assert any("damaged" in note for note in again.notes)
        assert again.strokes(plane, ())[0].tolist() == [1, 2, 4, 5]
        assert list(copy.glob("damaged-*"))


def test_a_damaged_label_file_is_said_and_the_rest_is_there(
    project: Project, plane: str, stack: str
) -> None:
    project.record(plane, (), "paint", np.array([1]), 2)
    project.record(stack, (0,), "paint", np.array([1]), 2)
    project.close()
    broken = next((project.folder / "labels").glob(f"{plane}*"))
    broken.write_bytes(broken.read_bytes()[:-4] + b"oops")
    with Project.open(project.folder) as again:
        assert any("was changed or damaged" in note for note in again.notes)
        assert again.strokes(stack, (0,))[0].tolist() == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "something else"}, "another program"),
        ({"version": 99}, "newer dinoscope"),
        ({"classes": 7}, "lacks parts or has wrong ones"),
    ],
)
def test_folders_that_cannot_be_read_say_why(
    project: Project, change: dict[str, object], message: str
) -> None:
    project.close()
    path = project.folder / "project.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change))
    with pytest.raises(InputError, match=message):
        Project.open(project.folder)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Project.open(tmp_path / "none.dinoproject")
    with pytest.raises(InputError, match="not a dinoscope project"):
        Project.open(tmp_path)
    (tmp_path / "project.json").write_text("{cut of")
    with pytest.raises(InputError, match="cannot be read"):
        Project.open(tmp_path)
    with pytest.raises(InputError, match=r"ends in \.dinoproject"):
        Project.create(tmp_path / "a")
    (tmp_path / "b.dinoproject").mkdir()
    (tmp_path / "b.dinoproject" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="there already"):
        Project.create(tmp_path / "b.dinoproject")


@pytest.mark.parametrize(
    ("flat", "codes", "layer", "message"),
    [
        ([2000], 1, "strokes", "flat indices from 0 to 1999"),
        ([-1], 1, "strokes", "reach from -1"),
        ([1], 256, "strokes", "codes of strokes"),
        ([1], -1, "objects", "codes of objects"),
        ([1], 1, "labels", "layer is 'labels'"),
    ],
)
def test_pixels_that_cannot_be_are_refused(
    project: Project, plane: str, flat: list[int], codes: int, layer: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        project.record(plane, (), "paint", np.array(flat), codes, layer=layer)
    assert project.strokes(plane, ())[0].size == 0


def test_planes_and_images_that_are_not_there_are_refused(project: Project, stack: str) -> None:
    with pytest.raises(InputError, match=r"plane \(3,\)"):
        project.record(stack, (3,), "paint", np.array([1]), 1)
    with pytest.raises(InputError, match="no image 'nobody'"):
        project.strokes("nobody", ())
    with pytest.raises(InputError, match="three corners"):
        project.set_area(stack, (0,), [SQUARE[:2]])
    with pytest.raises(InputError, match="different names"):
        project.set_classes(["background", "cell", "cell"])


def test_an_image_is_the_same_under_another_name_and_in_a_file(
    project: Project, plane: str, tmp_path: Path
) -> None:
    image, path = picture_file(tmp_path, 1)
    renamed = ImageInput(image.data, "YX", {}, "renamed")
    assert project.add_source(renamed, path) == plane
    assert project.source(plane).path == path.resolve()
    other = project.add_source(picture(7))
    assert other != plane


def test_a_moved_file_is_asked_for_and_only_the_right_one_is_taken(
    project: Project, tmp_path: Path
) -> None:
    image, path = picture_file(tmp_path, 3)
    _, other = picture_file(tmp_path, 4)
    source = project.add_source(image, path)
    assert project.missing() == []
    moved = tmp_path / "elsewhere" / "renamed.tif"
    moved.parent.mkdir()
    path.rename(moved)
    assert project.missing() == [source]
    with pytest.raises(InputError, match="Say where it is now"):
        project.open_image(source)
    with pytest.raises(InputError, match="its pixels differ"):
        project.relocate(source, other)
    project.relocate(source, moved)
    assert project.missing() == []
    assert np.array_equal(np.asarray(project.open_image(source).data[:, :]), image.data)


def test_a_project_that_moves_with_its_images_finds_them(tmp_path: Path) -> None:
    first, second = tmp_path / "here", tmp_path / "there"
    first.mkdir()
    image, path = picture_file(first, 3)
    with Project.create(first / "a.dinoproject") as project:
        source = project.add_source(image, path)
    first.rename(second)
    with Project.open(second / "a.dinoproject") as again:
        assert again.missing() == []
        assert again.open_image(source).name == "image 3"


def test_a_file_that_was_changed_is_not_taken_for_the_image(
    project: Project, tmp_path: Path
) -> None:
    image, path = picture_file(tmp_path, 3)
    source = project.add_source(image, path)
    write_image(path, np.zeros((40, 50), np.uint8), "YX", {})
    with pytest.raises(InputError, match="its pixels differ"):
        project.open_image(source)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((40, 50), "YX"), ((3, 8, 9), "ZYX"), ((8, 9, 3), "YXS"), ((8, 9, 2), "YXC")],
)
def test_an_image_without_a_file_can_be_kept(
    project: Project, shape: tuple[int, ...], axes: str
) -> None:
    image = picture(9, shape, axes)
    source = project.add_source(image)
    with pytest.raises(InputError, match="without a file"):
        project.open_image(source)
    project.keep_image(source, image)
    project.close()
    with Project.open(project.folder) as again:
        found = again.open_image(source)
        assert found.axes == axes
        assert np.array_equal(np.asarray(found.data[...]), image.data)


def test_a_full_disk_loses_nothing(
    project: Project, plane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    write, room = os.write, [40]

    def full(handle: int, data: object) -> int:
        part = memoryview(data)[: room[0]]  # type: ignore[call-overload]
        if not len(part):
            raise OSError(28, "No space left on device")
        room[0] -= len(part)
        return write(handle, part)

    project.record(plane, (), "paint", np.array([1]), 2)
    monkeypatch.setattr("dinoscope.project.journal.os.write", full)
    with pytest.raises(OutputError, match=r"disk is full.*kept in memory"):
        project.record(plane, (), "paint", np.array([2]), 2)
    with pytest.raises(OutputError, match="disk is full"):
        project.record(plane, (), "paint", np.array([3]), 2)
    assert project.strokes(plane, ())[0].tolist() == [1, 2, 3]
    with Project.open(project.folder, read_only=True) as seen:
        assert seen.strokes(plane, ())[0].tolist() == [1]
    room[0] = 10**6
    project.flush()
    with Project.open(project.folder, read_only=True) as seen:
        assert seen.strokes(plane, ())[0].tolist() == [1, 2, 3]


def test_rounds_are_kept_and_can_be_returned_to(project: Project) -> None:
    from dataclasses import replace

    from dinoscope.project.rounds import begin_round, round_folder, write_round

    assert project.rounds == []
    assert project.current_round == 0
    for number in (1, 2):
        entry = begin_round(project.folder, "embedded", {"minutes": 1})
        assert entry.number == number
        (round_folder(project.folder, number) / "model.dinoscope").write_bytes(b"model")
        done = replace(
            entry, state="done", model=f"rounds/{number:03d}/model.dinoscope", before={"iou": 0.5}
        )
        write_round(project.folder, done)
    begin_round(project.folder, "embedded", {})
    project.use_round(2)
    assert project.current_round == 2
    project.use_round(1)
    assert project.model() == round_folder(project.folder, 1) / "model.dinoscope"
    with pytest.raises(InputError, match="round 3 has no model"):
        project.use_round(3)
    project.close()
    with Project.open(project.folder) as again:
        assert again.current_round == 1
        assert [r.number for r in again.rounds] == [1, 2, 3]
        assert again.rounds[0].before == {"iou": 0.5}
        again.use_round(0)
        assert again.model() is None


def test_objects_that_a_program_found_are_annotations_once_somebody_says_so(
    project: Project, plane: str
) -> None:
    ids = np.zeros((40, 50), np.uint32)
    for number, corner in enumerate(((2, 2), (2, 20), (20, 2), (20, 20), (30, 40)), 1):
        ids[corner[0] : corner[0] + 6, corner[1] : corner[1] + 6] = number

    def known() -> set[int]:
        return set(np.unique(project.corrected_objects(plane, ()))) - {0}

    project.record(plane, (), "draw", np.flatnonzero(ids), ids[ids > 0], layer="objects")
    assert known() == {1, 2, 3, 4, 5}  # drawn by hand
    project.add_found(plane, (), ids)
    assert known() == set()
    ids[2, 2] = 0  # a pixel is erased
    project.record(plane, (), "erase", np.array([2 * 50 + 2]), 0, layer="objects")
    assert known() == {1}
    project.set_object_classes(plane, (), {3: 2})
    assert known() == {1, 3}
    project.set_area(plane, (), [np.array([[0, 15], [0, 30], [12, 30], [12, 15]])])
    assert known() == {1, 2, 3}
    ids[20, 20] = 6  # a new one, that was drawn over another
    project.record(plane, (), "draw", np.array([20 * 50 + 20]), 6, layer="objects")
    assert known() == {1, 2, 3, 4, 6}
    project.flush()
    project.compact()
    project.close()
    with Project.open(project.folder, read_only=True) as again:
        found = again.corrected_objects(plane, ())
        assert np.array_equal(found, np.where(ids == 5, 0, ids))
    with Project.open(project.folder) as again:
        again.set_complete(plane, (), True)
        assert np.array_equal(again.corrected_objects(plane, ()), ids)
