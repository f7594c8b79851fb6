"""Images that nobody would choose, through the real engine: a right result or one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from dinoscope.arrays.files import read_image, write_image

TASKS = "instance,semantic,depth,pca,classification"
RNG = np.random.default_rng(0)

USABLE = {
    "constant": (np.full((40, 50), 7, np.uint8), "YX"),
    "all_nan": (np.full((40, 50), np.nan, np.float32), "YX"),
    "nan_and_inf": (
        np.where(
            RNG.random((40, 50)) < 0.2, np.nan, np.where(RNG.random((40, 50)) < 0.2, np.inf, 1)
        ),
        "YX",
    ),
    "one_pixel": (np.array([[3]], np.uint16), "YX"),
    "one_row": (RNG.integers(0, 99, (1, 10_000)).astype(np.uint8), "YX"),
    "twenty_channels": (RNG.integers(0, 99, (20, 40, 50)).astype(np.uint16), "CYX"),
    "bool": (RNG.random((40, 50)) < 0.5, "YX"),
    "signed": (RNG.integers(-500, 500, (40, 50)).astype(np.int16), "YX"),
    "rgba": (RNG.integers(0, 255, (40, 50, 4)).astype(np.uint8), "YXS"),
}


@pytest.mark.parametrize("kind", USABLE)
def test_an_odd_image_gets_whole_and_finite_results(
    kind: str, run: Any, model_file: Path, tmp_path: Path
) -> None:
    pixels, axes = USABLE[kind]
    path = tmp_path / f"{kind}.npy"
    np.save(path, pixels)
    folder = tmp_path / "out"
    # Large objects are looked at from further away: fewer tiles, a quicker test.
    diameter = 60 if kind == "one_row" else 20
    done = run(
        *("predict", path, "--axes", axes, "--task", TASKS, "--model", model_file),
        *("--output", folder, "--diameter", diameter, "--threads", "1", "--json"),
    )
    assert done.status == 0, done.err
    shape = (1, 10_000) if kind == "one_row" else (1, 1) if kind == "one_pixel" else (40, 50)
    for task in ("instance", "semantic", "depth", "pca"):
        written = read_image(folder / f"{kind}_{task}.tif")
        assert written.shape[:2] == shape
        assert np.isfinite(np.asarray(written.data[:])).all()
    assert (folder / f"{kind}_objects.csv").exists()


def empty(path: Path) -> None:
    path.touch()


def no_rows(path: Path) -> None:
    np.save(path, np.zeros((0, 10), np.uint8))


def corrupt(path: Path) -> None:
    path.write_bytes(b"II*\x00" + bytes(RNG.integers(0, 255, 400).astype(np.uint8)))


def truncated(path: Path) -> None:
    write_image(path, RNG.integers(0, 9999, (300, 300)).astype(np.uint16), "YX")
    path.write_bytes(path.read_bytes()[:50_000])


def not_an_image(path: Path) -> None:
    path.write_text("these are not the pixels you are looking for")


def complex_numbers(path: Path) -> None:
    np.save(path, np.zeros((8, 8), np.complex64))


def objects(path: Path) -> None:
    np.save(path, np.array([{"a": 1}]), allow_pickle=True)


def missing(path: Path) -> None:
    del path


UNUSABLE = [
    (empty, "empty.tif"),
    (no_rows, "no_rows.npy"),
    (corrupt, "corrupt.tif"),
    (truncated, "truncated.tif"),
    (not_an_image, "text.png"),
    (complex_numbers, "complex.npy"),
    (objects, "objects.npy"),
    (missing, "missing.tif"),
]


@pytest.mark.parametrize(("make", "name"), UNUSABLE, ids=[name for _, name in UNUSABLE])
def test_a_bad_file_is_one_line_that_names_it_and_the_others_are_written(
    make: Any, name: str, run: Any, model_file: Path, tmp_path: Path
) -> None:
    bad, good = tmp_path / name, tmp_path / "good.npy"
    make(bad)
    np.save(good, RNG.integers(0, 255, (40, 50)).astype(np.uint8))
    argv = ("--task", "depth", "--model", model_file, "--diameter", "20")
    argv += ("--threads", "1", "--json", "--output")
    alone = run("predict", bad, *argv, tmp_path / "alone")
    assert alone.status == 1, alone.err
    assert len(alone.err.splitlines()) == 1
    assert name in alone.err
    assert "unexpected" not in alone.err
    assert list((tmp_path / "alone").iterdir()) == []
    both = run("predict", bad, good, *argv, tmp_path / "both")
    assert both.status == 1
    assert [p.name for p in (tmp_path / "both").iterdir()] == ["good_depth.tif"]
    assert [i["status"] for i in both.document["images"]] == ["failed", "done"]
    assert len(both.document["errors"]) == 1


def test_real_results_of_a_stack_have_unique_ids_and_matching_tables(
    run: Any, spots: np.ndarray, model_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "stack.ome.tif"
    write_image(path, np.stack([spots, spots]), "ZYX", {"Z": 2.0, "Y": 0.5, "X": 0.5})
    folder = tmp_path / "out"
    done = run(
        *("predict", path, "--task", TASKS, "--model", model_file, "--output", folder),
        *("--threshold", "0.3", "--min-size", "0", "--threads", "1", "--json"),
    )
    assert done.status == 0, done.err
    ids = np.asarray(read_image(folder / "stack_instance.tif").data[:])
    table = (folder / "stack_objects.csv").read_text().splitlines()
    assert np.unique(ids[ids > 0]).tolist() == [int(row.split(",")[0]) for row in table[1:]]
    assert not set(np.unique(ids[0])) & set(np.unique(ids[1])) - {0}
    assert done.document["model_hash"]
    assert {"encode", "decode", "assemble", "write", "load"} <= set(done.document["seconds"])


@pytest.fixture
def training(tmp_path: Path, spots: np.ndarray) -> Path:
    """Three small images with ids in ``images`` and ``labels``."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    from skimage.measure import label

    for number in range(3):
        part = np.roll(spots, 7 * number, axis=1)[:112, :112]
        tifffile.imwrite(tmp_path / "images" / f"{number}.tif", part)
        tifffile.imwrite(tmp_path / "labels" / f"{number}.tif", label(part > 400).astype(np.uint16))
    return tmp_path


def train_argv(folder: Path, model_file: Path, task: str = "instance") -> list[Any]:
    return [
        *("train", "--images", folder / "images", "--labels", folder / "labels", "--task", task),
        *("--from", model_file, "--tune", "heads", "--epochs", "1", "--crop", "56"),
        *("--batch-size", "2", "--threads", "1", "--output", folder / "own.dinoscope"),
    ]


def test_train_predict_evaluate_work_one_after_the_other(
    training: Path, run: Any, model_file: Path
) -> None:
    trained = run(*train_argv(training, model_file), "--json")
    assert trained.status == 0, trained.err
    assert trained.document["outputs"] == [str(training / "own.dinoscope")]
    assert trained.document["model_hash"]
    assert trained.document["device"] == "cpu"
    assert trained.document["training_images"] == 2
    assert trained.document["validation_images"] == 1
    done = run(
        *("predict", training / "images", "--task", "instance"),
        *("--model", training / "own.dinoscope", "--output", training / "out", "--threads", "1"),
    )
    assert done.status == 0, done.err
    argv = ("--predictions", training / "out", "--truth", training / "labels", "--task", "instance")
    scored = run("evaluate", *argv, "--json")
    assert scored.status == 0, scored.err
    assert scored.document["n"] == 3
    assert 0 <= scored.document["ap50"] <= 1
    assert "ap50" in run("evaluate", *argv).out


def test_labels_of_another_shape_are_named(training: Path, run: Any, model_file: Path) -> None:
    tifffile.imwrite(training / "labels" / "1.tif", np.ones((30, 40), np.uint16))
    done = run(*train_argv(training, model_file))
    assert done.status == 1
    assert "(30, 40)" in done.err
    assert "(112, 112)" in done.err
    assert not (training / "own.dinoscope").exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda d: [p.unlink() for p in (d / "labels").iterdir()], "no image"),
        (
            lambda d: [
                tifffile.imwrite(p, np.zeros((112, 112), np.uint8)) for p in d.glob("labels/*")
            ],
            "no instance label",
        ),
        (
            lambda d: tifffile.imwrite(d / "labels" / "0.tif", np.full((112, 112), 0.5)),
            "fractional",
        ),
        (lambda d: (d / "images" / "0.tif").write_bytes(b""), "empty"),
    ],
)
def test_training_data_that_cannot_teach_is_one_line(
    spoil: Any, said: str, training: Path, run: Any, model_file: Path
) -> None:
    spoil(training)
    done = run(*train_argv(training, model_file))
    assert done.status == 1
    assert said in done.err
    assert "unexpected" not in done.err


def test_training_refuses_before_it_begins(training: Path, run: Any, model_file: Path) -> None:
    argv = train_argv(training, model_file)
    no_suffix = run(*argv, "--output", training / "own.pt")
    assert no_suffix.status == 2
    assert ".dinoscope" in no_suffix.err
    nothing_left = run(*argv, "--exclude", training.name)
    assert nothing_left.status == 2
    assert "no source" in nothing_left.err
    blocked = run(*argv, "--output", training / "images" / "0.tif" / "own.dinoscope")
    assert blocked.status == 1
    assert "cannot write" in blocked.err
    missing_folder = run(*argv, "--val-images", training / "x", "--val-labels", training / "labels")
    assert missing_folder.status == 1
    assert "does not exist" in missing_folder.err


def test_excluding_a_set_the_base_was_trained_on_is_said(
    training: Path, run: Any, tmp_path: Path
) -> None:
    from dinoscope.commands.report import Report
    from dinoscope.commands.train import warn_of_leaks
    from dinoscope.models.checkpoint import save_model
    from dinoscope.models.model import Model

    path = tmp_path / "base.dinoscope"
    save_model(Model.fresh("tiny-test", name="base", data=("DSB2018 (CC0)",)), path)
    report = Report("train")
    warn_of_leaks(str(path), ["dsb2018"], report)
    assert "was itself trained on dsb2018" in report.notes[0]
    warn_of_leaks(str(path), ["other"], report)
    warn_of_leaks("tiny-test", ["dsb2018"], report)
    assert len(report.notes) == 1


def test_evaluate_names_what_is_missing(training: Path, run: Any) -> None:
    argv = ("evaluate", "--truth", training / "labels", "--task", "instance", "--predictions")
    gone = run(*argv, training / "nowhere")
    assert gone.status == 1
    assert "nowhere" in gone.err
    empty_folder = training / "empty"
    empty_folder.mkdir()
    none = run(*argv, empty_folder, "--json")
    assert none.status == 1
    assert json.loads(none.out)["errors"][0]["type"] == "InputError"
