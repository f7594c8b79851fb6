"""Searching, test images, folds and images without labels from the command line."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinoscope.arrays.files import write_image
from dinoscope.cli import build_parser
from dinoscope.commands.parts import split_options, unlabelled_images
from dinoscope.commands.search import settings_from
from dinoscope.errors import InputError, UsageError

SHORT = ("--crop", "56", "--batch-size", "2", "--threads", "1", "--device", "cpu")


@pytest.fixture
def wells(tmp_path: Path) -> Path:
    """Two images of each of four wells, with ids."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels", "more"):
        (tmp_path / name).mkdir()
    for number in range(8):
        ids = np.zeros((60, 64), np.uint16)
        ids[10:24, 10:24], ids[34:50, 30:46] = 1, 2
        pixels = ((ids > 0) * 120 + rng.integers(0, 40, ids.shape)).astype(np.uint8)
        name = f"p1_{'ABCD'[number // 2]}02_s{number % 2}.tif"
        write_image(tmp_path / "images" / name, pixels, "YX", {})
        write_image(tmp_path / "labels" / name, ids, "YX", {})
        write_image(tmp_path / "more" / f"u{number}.tif", pixels, "YX", {})
    return tmp_path


def data(folder: Path, model_file: Path) -> list[Any]:
    return [
        *("--images", folder / "images", "--labels", folder / "labels", "--task", "instance"),
        *("--from", model_file, "--output", folder / "m.dinoscope", "--json", *SHORT),
    ]


def test_a_search_prints_its_table_and_writes_the_best(
    wells: Path, run: Any, model_file: Path
) -> None:
    flags = ("--learning-rates", "1e-4,1e-2", "--tune", "heads", "--epochs-each", "1")
    argv = ("search", *data(wells, model_file), *flags, "--group-by", "well")
    done = run(*argv, "--test-fraction", "0.25")
    assert done.status == 0, done.err
    with (wells / "m.search" / "trials.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [float(r["learning_rate"]) for r in rows] == [1e-4, 1e-2]
    best = max(rows, key=lambda r: float(r["score"]))
    assert done.document["best"]["score"] == pytest.approx(float(best["score"]))
    assert {"ap50", "test_ap50"} <= set(done.document["scores"])
    assert (wells / "m.dinoscope").exists()
    again = run(*argv, "--test-fraction", "0.5")
    assert again.status == 1
    assert "belongs to a search with other" in again.err


def test_a_training_tells_wells_apart_and_uses_images_without_labels(
    wells: Path, run: Any, model_file: Path
) -> None:
    done = run(
        *("train", *data(wells, model_file), "--tune", "lora-last:1", "--epochs", "1"),
        *("--group-by", "well", "--test-fraction", "0.25", "--val-fraction", "0.25"),
        *("--unlabelled", wells / "more", "--unlabelled-method", "distill"),
        *("--unlabelled-crops", "2", "--unlabelled-ramp", "0"),
    )
    assert done.status == 0, done.err
    assert done.document["training_images"] == 4  # two wells
    assert done.document["validation_images"] == 2
    assert "test_ap50" in done.document["scores"]
    assert "distill on 8 planes without labels" in done.err


def test_folds_are_told_in_the_summary(wells: Path, run: Any, model_file: Path) -> None:
    table = wells / "groups.csv"
    names = sorted(p.name for p in (wells / "images").iterdir())
    table.write_text("image,group\n" + "".join(f"{n},g{i // 4}\n" for i, n in enumerate(names)))
    argv = ("train", *data(wells, model_file), "--tune", "heads", "--epochs", "1")
    done = run(*argv, "--folds", "2", "--groups", table)
    assert done.status == 0, done.err
    assert "ap50_sd" in done.document["scores"]
    assert len(done.document["history"]) == 2
    refused = run(*argv, "--folds", "3", "--groups", table)
    assert refused.status == 1
    assert "2 images (or groups of images) for 3 folds" in refused.err


def parse(command: str, *flags: str) -> Any:
    given = ("--images", "i", "--labels", "l", "--task", "instance", "--output", "m.dinoscope")
    return build_parser().parse_args([command, *given, *flags])


def test_flags_of_train_stand_for_one_value_in_a_search() -> None:
    settings = settings_from(parse("search", "--lora-rank", "4", "--no-halving"))
    assert settings.ranks == (4,)
    assert len(settings.learning_rates) == 3
    assert not settings.halving
    with pytest.raises(
        UsageError, match=r"--minutes is given to a search; expected --minutes-each"
    ):
        settings_from(parse("search", "--minutes", "5"))
    with pytest.raises(UsageError, match=r"LoRA rank 0 is to be tried"):
        settings_from(parse("search", "--ranks", "4,0"))


def test_parts_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="folds is 1"):
        split_options(parse("train", "--folds", "1"))
    with pytest.raises(UsageError, match="--unlabelled-method distill is given without images"):
        unlabelled_images(parse("train", "--unlabelled-method", "distill"))
    with pytest.raises(InputError, match="holds no image"):
        unlabelled_images(parse("train", "--unlabelled", str(tmp_path)))
    assert unlabelled_images(parse("train")) is None
