"""Paths of the command line: folders, stems, and the files that must not be overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinoscope.commands.inputs import (
    check_not_overwriting,
    check_stems,
    expand,
    make_folder,
    need_folder,
)
from dinoscope.errors import InputError, OutputError, UsageError


def test_a_folder_stands_for_the_images_in_it(tmp_path: Path) -> None:
    for name in ("b.TIF", "a.png", "notes.txt", ".hidden.png", "c.npy"):
        (tmp_path / name).touch()
    (tmp_path / "volume.zarr").mkdir()
    (tmp_path / "volume.zarr" / ".zgroup").touch()
    (tmp_path / "folder.tif").mkdir()
    assert [p.name for p in expand([str(tmp_path)])] == ["a.png", "b.TIF", "c.npy", "volume.zarr"]


def test_a_zarr_folder_is_one_image(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "zarr.json").touch()
    assert expand([str(tmp_path / "plain")]) == [tmp_path / "plain"]


def test_a_pattern_that_no_shell_has_expanded_is_expanded(tmp_path: Path) -> None:
    for name in ("b.tif", "a.tif", "c.png"):
        (tmp_path / name).touch()
    assert [p.name for p in expand([str(tmp_path / "*.tif")])] == ["a.tif", "b.tif"]


def test_a_missing_file_is_kept_for_its_own_error() -> None:
    assert expand(["missing.tif"]) == [Path("missing.tif")]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no image"):
        expand([str(tmp_path)])


def test_two_inputs_of_one_stem_are_refused() -> None:
    check_stems([Path("a/x.tif"), Path("a/y.tif")])
    with pytest.raises(UsageError, match=r"same stem 'x'"):
        check_stems([Path("a/x.tif"), Path("b/x.png")])
    with pytest.raises(UsageError, match=r"same stem 'x'"):
        check_stems([Path("a/x.tif"), Path("a/x.tif")])


def test_a_result_never_takes_the_place_of_an_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="would overwrite an input"):
        check_not_overwriting([tmp_path / "." / "a_depth.tif"], [tmp_path / "a_depth.tif"])


def test_the_output_folder_is_made_and_must_be_writable(tmp_path: Path) -> None:
    made = make_folder(str(tmp_path / "new" / "deep"))
    assert made.is_dir()
    assert list(made.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write in the output folder"):
        make_folder(str(tmp_path / "file"))


def test_a_needed_folder_must_exist(tmp_path: Path) -> None:
    assert need_folder(str(tmp_path), "--images") == tmp_path
    with pytest.raises(InputError, match=r"--images .* does not exist"):
        need_folder(str(tmp_path / "x"), "--images")
    (tmp_path / "f").touch()
    with pytest.raises(InputError, match="is a file"):
        need_folder(str(tmp_path / "f"), "--images")
