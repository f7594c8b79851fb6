"""What ``predict`` writes and says, with a stand-in for the engine that thresholds planes."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tifffile

from dinoscope.arrays.axes import iter_planes
from dinoscope.arrays.files import read_image, write_image
from dinoscope.config import PredictOptions
from dinoscope.errors import InputError, OutputError
from dinoscope.types import ImageInput, PlaneOutput, Progress, Summary

DENSE = "instance,semantic,depth,pca"


def thresholded(
    image: ImageInput, model: Any, options: PredictOptions, calibration: Any = None
) -> Generator[Progress | PlaneOutput, None, Summary]:
    """One object for each plane, its id counting over the planes; two classes."""
    if "broken" in image.name:
        raise RuntimeError("the engine met something odd")
    number = 0
    for number, plane in enumerate(iter_planes(image, channels=options.channels), 1):
        yield Progress("encode", number, 3, 1.0)
        bright = plane.image.mean(axis=0) > 400
        label = np.array([number], np.uint32)
        yield PlaneOutput(
            plane.index,
            {
                "instance": bright * np.uint32(number),
                "semantic": bright.astype(np.uint8),
                "depth": bright.astype(np.float32),
                "pca": np.repeat(bright[..., None], 3, axis=2).astype(np.float32),
            },
            objects={"label": label, "area_px": np.array([bright.sum()])},
            classes={
                "object": np.array([0]),
                "class": np.array(["round"]),
                "probability": np.array([0.75]),
                "p_round": np.array([0.75]),
                "p_long": np.array([0.25]),
            },
        )
    return Summary(
        "tiny", "abc123", "cpu", options.tasks, number, 20.0, {"encode": 0.5}, ("a note",)
    )


@pytest.fixture(autouse=True)
def _engine(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("dinoscope.engine.predict")
    module.predict = thresholded  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dinoscope.engine.predict", module)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_each_task_gets_its_file_with_dtype_axes_and_pixel_size(
    run: Any, image_file: Path, model_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    done = run("predict", image_file, "--task", DENSE, "--model", model_file, "--output", folder)
    assert done.status == 0, done.err
    kinds = {"instance": "uint32", "semantic": "uint8", "depth": "float32", "pca": "float32"}
    for task, dtype in kinds.items():
        written = read_image(folder / f"spots_{task}.tif")
        assert written.data.dtype == dtype
        assert written.axes == ("YXS" if task == "pca" else "YX")
        assert written.pixel_size_um == {"Y": 0.5, "X": 0.5}
        assert written.shape[:2] == (120, 140)
    assert [row["label"] for row in rows_of(folder / "spots_objects.csv")] == ["1"]
    assert "spots.tif: 1 plane, 1 object\n" in done.out
    assert "note: a note" in done.err


def test_a_stack_keeps_its_axes_and_is_written_plane_by_plane(
    run: Any, spots: np.ndarray, model_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "series.tif"
    stack = np.broadcast_to(spots, (2, 3, 2, *spots.shape))
    write_image(path, stack, "TZCYX", {"Z": 2.0, "Y": 0.5, "X": 0.5})
    folder = tmp_path / "out"
    done = run("predict", path, "--task", "instance,pca", "--model", model_file, "--output", folder)
    assert done.status == 0, done.err
    ids = read_image(folder / "series_instance.tif")
    assert (ids.axes, ids.shape) == ("TZYX", (2, 3, *spots.shape))
    assert ids.pixel_size_um == {"Z": 2.0, "Y": 0.5, "X": 0.5}
    assert list(np.unique(np.asarray(ids.data[:]))) == [0, 1, 2, 3, 4, 5, 6]
    assert read_image(folder / "series_pca.tif").axes == "TZYXS"
    assert len(rows_of(folder / "series_objects.csv")) == 6


def test_json_tells_outputs_seconds_device_model_and_notes(
    run: Any, image_file: Path, model_file: Path, tmp_path: Path
) -> None:
    done = run(
        *("predict", image_file, "--task", "instance,classification", "--model", model_file),
        *("--output", tmp_path / "out", "--json"),
    )
    assert done.status == 0, done.err
    document = done.document
    assert document["device"] == "cpu"
    assert document["model"] == "tiny"
    assert document["model_hash"] == "abc123"
    assert document["notes"] == ["a note"]
    assert document["seconds"]["encode"] == 0.5
    assert document["seconds"]["write"] > 0
    assert {Path(p).name for p in document["outputs"]} == {
        "spots_instance.tif",
        "spots_objects.csv",
        "classification.csv",
    }
    assert document["images"][0]["outputs"]["instance"].endswith("spots_instance.tif")
    assert document["images"][0]["planes"] == 1
    assert document["exit_status"] == 0


def test_class_scores_of_all_images_go_into_one_table(
    run: Any, spots: np.ndarray, model_file: Path, tmp_path: Path
) -> None:
    write_image(tmp_path / "0001.tif", np.stack([spots, spots]), "ZYX")
    write_image(tmp_path / "0002.tif", spots, "YX")
    folder = tmp_path / "out"
    done = run(
        *("predict", tmp_path / "0001.tif", tmp_path / "0002.tif", "--task", "classification"),
        *("--model", model_file, "--output", folder),
    )
    assert done.status == 0, done.err
    rows = rows_of(folder / "classification.csv")
    columns = ["image", "plane", "object", "class", "probability", "p_round", "p_long"]
    assert list(rows[0]) == columns
    assert [(r["image"], r["plane"]) for r in rows] == [
        ("0001.tif", "0"),
        ("0001.tif", "1"),
        ("0002.tif", "0"),
    ]
    assert list(folder.iterdir()) == [folder / "classification.csv"]


def test_one_bad_file_among_many_is_reported_and_the_others_are_written(
    run: Any, image_file: Path, model_file: Path, tmp_path: Path
) -> None:
    corrupt = tmp_path / "corrupt.tif"
    corrupt.write_bytes(b"II*\x00" + bytes(40))
    broken = tmp_path / "broken.tif"
    broken.write_bytes(image_file.read_bytes())
    folder = tmp_path / "out"
    done = run(
        *("predict", corrupt, image_file, broken, tmp_path / "missing.tif", "--task", DENSE),
        *("--model", model_file, "--output", folder, "--json"),
    )
    assert done.status == 1
    assert (folder / "spots_instance.tif").exists()
    assert {p.name.split("_")[0] for p in folder.iterdir()} == {"spots"}
    states = {Path(i["image"]).name: i["status"] for i in done.document["images"]}
    assert states == {
        "corrupt.tif": "failed",
        "spots.tif": "done",
        "broken.tif": "failed",
        "missing.tif": "failed",
    }
    assert {Path(e["image"]).name for e in done.document["errors"]} == {
        "corrupt.tif",
        "broken.tif",
        "missing.tif",
    }
    assert "missing.tif does not exist" in done.err
    assert "unexpected RuntimeError: the engine met something odd" in done.err
    assert "3 of 4 images failed, 1 are done." in done.err


def test_debug_shows_where_an_unexpected_error_came_from(
    run: Any, image_file: Path, model_file: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.tif"
    broken.write_bytes(image_file.read_bytes())
    argv = ("predict", broken, "--task", "depth", "--model", model_file, "--output", tmp_path / "o")
    assert "Traceback" not in run(*argv).err
    assert "in thresholded" in run(*argv, "--debug").err


def test_ambiguous_axes_are_status_2_and_ask_for_the_flag(
    run: Any, spots: np.ndarray, model_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.stack([spots] * 5))
    argv = ("predict", path, "--task", "depth", "--model", model_file, "--output", tmp_path / "o")
    done = run(*argv)
    assert done.status == 2
    assert "--axes" in done.err
    assert len(done.err.splitlines()) == 1
    assert run(*argv, "--axes", "zyx").status == 0
    assert read_image(tmp_path / "o" / "stack_depth.tif").axes == "ZYX"
    wrong = run(*argv, "--axes", "TZYX")
    assert wrong.status == 2
    assert "4 dimensions" in wrong.err


def test_ambiguous_axes_of_one_among_many_leave_the_others_done(
    run: Any, spots: np.ndarray, image_file: Path, model_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.stack([spots] * 5))
    done = run(
        *("predict", path, image_file, "--task", "depth", "--model", model_file),
        *("--output", tmp_path / "o"),
    )
    assert done.status == 1
    assert (tmp_path / "o" / "spots_depth.tif").exists()


def test_duplicate_stems_are_status_2_before_anything_is_written(
    run: Any, image_file: Path, model_file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "spots.png"
    folder = tmp_path / "out"
    done = run(
        *("predict", image_file, other, "--task", "depth", "--model", model_file),
        *("--output", folder),
    )
    assert done.status == 2
    assert "same stem 'spots'" in done.err
    assert not folder.exists()


def test_a_task_without_head_is_status_2_and_names_models_that_have_it(
    run: Any, image_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"name": "deep-one", "tasks": ("depth",), "available": True}
    monkeypatch.setattr("dinoscope.models.catalog.list_models", lambda: [entry])
    argv = ("predict", image_file, "--model", "tiny-test", "--output", tmp_path / "o", "--task")
    done = run(*argv, "depth", "--json")
    assert done.status == 2
    assert "no head for 'depth'" in done.err
    assert "deep-one" in done.err
    assert done.document["errors"][0]["type"] == "MissingHeadError"
    assert "dinoscope train" in run(*argv, "semantic").err
    assert run(*argv, "pca").status == 0


def test_an_unknown_model_is_status_2_and_names_those_there_are(
    run: Any, image_file: Path, tmp_path: Path
) -> None:
    done = run(
        "predict", image_file, "--task", "pca", "--model", "nobody", "--output", tmp_path / "o"
    )
    assert done.status == 2
    assert "dinov2_vits14" in done.err


def test_missing_weights_say_which_file_to_put_where(
    run: Any, image_file: Path, tmp_path: Path
) -> None:
    done = run(
        *("predict", image_file, "--task", "pca", "--model", "dinov2_vitb14"),
        *("--output", tmp_path / "o"),
    )
    assert done.status == 1
    assert "dinov2_vitb14_pretrain.pth" in done.err
    assert "--download" in done.err


def test_an_unwritable_output_folder_is_status_1(
    run: Any, image_file: Path, model_file: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    argv = ("predict", image_file, "--task", "depth", "--model", model_file, "--output")
    for folder in (blocked, blocked / "below"):
        done = run(*argv, folder)
        assert done.status == 1
        assert "cannot write in the output folder" in done.err
    assert blocked.read_text() == "a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_folder_is_status_1(
    run: Any, image_file: Path, model_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    done = run("predict", image_file, "--task", "pca", "--model", model_file, "--output", folder)
    assert done.status == 1
    assert "cannot write" in done.err


def test_a_full_disk_leaves_no_half_file_and_keeps_the_former_result(
    run: Any,
    image_file: Path,
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "out"
    argv = ("predict", image_file, "--task", DENSE, "--model", model_file, "--output", folder)
    assert run(*argv).status == 0
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tifffile.TiffWriter.write", full)
    done = run(*argv)
    assert done.status == 1
    assert "No space left on device" in done.err
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_result_never_overwrites_an_input(
    run: Any, image_file: Path, model_file: Path, tmp_path: Path
) -> None:
    second = tmp_path / "spots_depth.tif"
    second.write_bytes(image_file.read_bytes())
    done = run(
        *("predict", image_file, second, "--task", "depth", "--model", model_file),
        *("--output", tmp_path),
    )
    assert done.status == 2
    assert second.read_bytes() == image_file.read_bytes()


def test_a_channel_that_is_not_there_is_an_error_of_its_image(
    run: Any, image_file: Path, model_file: Path, tmp_path: Path
) -> None:
    done = run(
        *("predict", image_file, "--task", "depth", "--model", model_file, "--channel", "3"),
        *("--output", tmp_path / "o"),
    )
    assert done.status == 1
    assert "channels [3]" in done.err
    assert "spots" in done.err


def test_the_pixel_size_flag_reaches_the_results(
    run: Any, image_file: Path, model_file: Path, tmp_path: Path
) -> None:
    run(
        *("predict", image_file, "--task", "depth", "--model", model_file),
        *("--output", tmp_path / "o", "--pixel-size-um", "0.25"),
    )
    assert read_image(tmp_path / "o" / "spots_depth.tif").pixel_size_um == {"Y": 0.25, "X": 0.25}


def test_ctrl_c_is_status_130_and_leaves_nothing_half_written(
    run: Any,
    image_file: Path,
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: Any) -> Generator[Progress, None, None]:
        yield Progress("encode", 0, 1)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["dinoscope.engine.predict"], "predict", interrupted)
    done = run(
        *("predict", image_file, "--task", DENSE, "--model", model_file),
        *("--output", tmp_path / "o", "--json"),
    )
    assert done.status == 130
    assert "stopped by the user" in done.err
    assert list((tmp_path / "o").iterdir()) == []
    assert done.document["exit_status"] == 130


def test_what_a_library_prints_does_not_reach_stdout(
    run: Any,
    image_file: Path,
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def chatty(*args: Any) -> Generator[Any, None, Summary]:
        print("hello from a library")
        return (yield from thresholded(*args))

    monkeypatch.setattr(sys.modules["dinoscope.engine.predict"], "predict", chatty)
    done = run(
        *("predict", image_file, "--task", "depth", "--model", model_file),
        *("--output", tmp_path / "o", "--json"),
    )
    assert done.document["exit_status"] == 0
    assert "hello from a library" in done.err


def test_dark_and_flat_images_reach_the_engine(
    run: Any,
    spots: np.ndarray,
    image_file: Path,
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    def look(image: ImageInput, model: Any, options: Any, calibration: Any) -> Any:
        seen.append(calibration)
        return thresholded(image, model, options)

    monkeypatch.setattr(sys.modules["dinoscope.engine.predict"], "predict", look)
    write_image(tmp_path / "dark.tif", np.full_like(spots, 3), "YX")
    write_image(tmp_path / "stack.tif", np.stack([spots, spots]), "ZYX")
    argv = ("predict", image_file, "--task", "depth", "--model", model_file)
    done = run(*argv, "--dark", tmp_path / "dark.tif", "--output", tmp_path / "o")
    assert done.status == 0, done.err
    assert (np.asarray(seen[0].dark) == 3).all()
    assert seen[0].flat is None
    refused = run(*argv, "--flat", tmp_path / "stack.tif", "--output", tmp_path / "o")
    assert refused.status == 1
    assert "--flat" in refused.err
    assert "2 planes" in refused.err


class Terminal:
    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return "y\n"


def test_at_a_terminal_a_download_is_one_question(monkeypatch: pytest.MonkeyPatch) -> None:
    from dinoscope.commands import loading

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert loading.agreed("Download?")
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    assert not loading.agreed("Download?")


ERRORS: list[tuple[Callable[[], Exception], int]] = [
    (lambda: InputError("odd value"), 1),
    (lambda: OutputError("no room"), 1),
]


@pytest.mark.parametrize(("make", "status"), ERRORS)
def test_errors_of_the_engine_are_one_line(
    make: Callable[[], Exception],
    status: int,
    run: Any,
    image_file: Path,
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(*_: Any) -> Generator[Progress, None, None]:
        yield Progress("encode", 0, 1)
        raise make()

    monkeypatch.setattr(sys.modules["dinoscope.engine.predict"], "predict", failing)
    done = run(
        *("predict", image_file, "--task", "depth", "--model", model_file),
        *("--output", tmp_path / "o"),
    )
    assert done.status == status
    assert len(done.err.splitlines()) == 1
    assert str(make()) in done.err
