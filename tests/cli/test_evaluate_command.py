from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from tests.peers.make_peer_values import seeded_pair


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """``truth``, two sets of predictions ``a`` and ``b`` of four images, and ``images``."""
    for name in ("truth", "a", "b", "images"):
        (tmp_path / name).mkdir()
    for seed in range(4):
        truth, pred = seeded_pair(seed, side=64, objects=8)
        tifffile.imwrite(tmp_path / "truth" / f"im{seed}.tif", truth.astype(np.uint16))
        tifffile.imwrite(tmp_path / "a" / f"im{seed}_instance.tif", pred.astype(np.uint16))
        tifffile.imwrite(tmp_path / "b" / f"im{seed}_instance.tif", truth.astype(np.uint16))
        tifffile.imwrite(tmp_path / "images" / f"im{seed}.tif", (truth > 0).astype(np.uint8) * 200)
    return tmp_path


def test_report_holds_everything_in_one_file(folders: Path, run: Any) -> None:
    done = run(
        *("evaluate", "--predictions", folders / "a", "--truth", folders / "truth"),
        *("--task", "instance", "--compare", folders / "b", "--images", folders / "images"),
        *("--report", folders / "out", "--json"),
    )
    assert done.status == 0, done.err
    document = done.document
    test = document["comparison"]["figures"]["ap50"]
    assert test["difference"] == pytest.approx(1 - document["ap50"])
    assert test["p_value"] == pytest.approx(2 / 2**4)  # the least that four pairs can give
    assert document["comparison"]["verdict"].startswith("Too few pairs to show a difference: ap50 ")

    text = (folders / "out" / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)
    assert "<script" not in text
    assert "@import" not in text
    assert text.count("data:image/png;base64,") == 8
    assert f"{document['ap50']:.3f}" in text
    for title in ("AP over IoU thresholds", "What became of the objects", "Worst images: a"):
        assert title in text
    assert "numpy" in text

    kept = json.loads((folders / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert kept["evaluations"]["a"]["ap50"] == document["ap50"]
    assert kept["evaluations"]["b"]["ap50"] == 1
    with (folders / "out" / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [f"im{i}" for i in range(4)]
    assert np.mean([float(row["ap50"]) for row in rows]) == pytest.approx(document["ap50"])
    with (folders / "out" / "objects.csv").open() as file:
        faults = [row["fault"] for row in csv.DictReader(file) if row["truth_id"] != "0"]
    for fault in ("missed", "merged"):
        assert faults.count(fault) == sum(row[fault] for row in document["per_image"])


def test_model_is_run_on_the_images_that_have_a_truth(
    folders: Path, run: Any, model_file: Path
) -> None:
    (folders / "truth" / "im3.tif").unlink()
    done = run(
        *("evaluate", "--model", model_file, "--images", folders / "images"),
        *("--truth", folders / "truth", "--task", "instance", "--device", "cpu"),
        *("--diameter", 12, "--report", folders / "out", "--json"),
    )
    assert done.status == 0, done.err
    assert done.document["n"] == 3
    names = sorted(p.name for p in (folders / "out" / "predictions").iterdir())
    assert names == sorted(f"im{i}_{n}" for i in range(3) for n in ("instance.tif", "objects.csv"))
    assert 0 <= done.document["coco_map"] <= 1  # objects are ranked by the model's confidence
    again = run(
        *("evaluate", "--predictions", folders / "out" / "predictions"),
        *("--truth", folders / "truth", "--task", "instance", "--json"),
    )
    assert again.document["ap50"] == done.document["ap50"]
    text = (folders / "out" / "report.html").read_text(encoding="utf-8")
    about = json.loads((folders / "out" / "evaluation.json").read_text())["about"]
    assert about["model"]["model"] == "tiny"
    assert len(about["model"]["hash"]) >= 8
    assert about["model"]["hash"] in text
    assert about["model"]["card"]["diameter_px"] == 20


def test_two_models_are_compared_on_classes_with_their_probabilities(
    folders: Path, run: Any, model_file: Path
) -> None:
    table = folders / "classes.csv"
    table.write_text("image,class\nim0,round\nim1,long\nim2,round\nim3,long\n")
    done = run(
        *("evaluate", "--model", model_file, "--images", folders / "images", "--truth", table),
        *("--task", "classification", "--device", "cpu", "--compare", model_file),
        *("--report", folders / "out", "--json"),
    )
    assert done.status == 0, done.err
    assert done.document["n"] == 4
    assert 0 <= done.document["ece"] <= 1
    assert done.document["comparison"]["figures"]["right"]["p_value"] == 1
    text = (folders / "out" / "report.html").read_text(encoding="utf-8")
    assert "Reliability" in text
    assert "Confusion matrix: tiny (2)" in text


def test_depth_from_a_model_has_its_unit(folders: Path, run: Any, model_file: Path) -> None:
    (folders / "depth").mkdir()
    rng = np.random.default_rng(0)
    for seed in range(2):
        height = rng.uniform(1, 5, (64, 64)).astype(np.float32)
        tifffile.imwrite(folders / "depth" / f"im{seed}.tif", height)
    done = run(
        *("evaluate", "--model", model_file, "--images", folders / "images", "--device", "cpu"),
        *("--truth", folders / "depth", "--task", "depth", "--report", folders / "out", "--json"),
    )
    assert done.status == 0, done.err
    assert {"rmse_mean", "rmse_focus_fit", "absrel", "delta1"} <= set(done.document)
    assert done.document["rmse_focus_fit"] <= done.document["rmse_mean"] * (1 + 1e-6)
    assert "Worst images" in (folders / "out" / "report.html").read_text(encoding="utf-8")


def test_groups_widen_the_interval(folders: Path, run: Any) -> None:
    argv = ("evaluate", "--predictions", folders / "a", "--truth", folders / "truth")
    argv = (*argv, "--task", "instance", "--json")
    plain = run(*argv).document["intervals"]["ap50"]
    table = folders / "groups.csv"
    table.write_text("image,group\nim0.tif,x\nim1.tif,x\nim2.tif,y\nim3.tif,y\n")
    grouped = run(*argv, "--groups", table).document["intervals"]["ap50"]
    assert grouped != plain
    table.write_text("image,group\nim0,x\n")
    refused = run(*argv, "--groups", table)
    assert refused.status == 1
    assert "3 images have no group: im1, im2, im3" in refused.err
    table.write_text("image,batch\nim0,x\n")
    assert "has other columns; expected image and group" in run(*argv, "--groups", table).err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "neither --predictions nor --model was given"),
        (("--predictions", "a", "--model", "m"), "both --predictions and --model were given"),
        (("--model", "m"), "--model was given without --images"),
        (("--predictions", "a", "--worst", "-1"), "worst is -1"),
    ],
)
def test_request_that_makes_no_sense_is_refused(
    folders: Path, run: Any, flags: tuple[str, ...], message: str
) -> None:
    flags = tuple(str(folders / "a") if flag == "a" else flag for flag in flags)
    done = run("evaluate", "--truth", folders / "truth", "--task", "instance", *flags)
    assert done.status == 2
    assert message in done.err


def test_image_of_another_size_is_named(folders: Path, run: Any) -> None:
    tifffile.imwrite(folders / "images" / "im1.tif", np.zeros((32, 32), np.uint8))
    done = run(
        *("evaluate", "--predictions", folders / "a", "--truth", folders / "truth"),
        *("--task", "instance", "--images", folders / "images"),
    )
    assert done.status == 1
    assert re.search(r"im1.tif has planes \(32, 32\); expected \(64, 64\)", done.err)
