from __future__ import annotations

import csv
import json
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import tifffile

from dinoscope.engine.evaluate import Case, Evaluation, evaluate, scorer_for
from dinoscope.engine.evaluate.compare import compare
from dinoscope.errors import InputError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    predictions, truth = tmp_path / "predictions", tmp_path / "truth"
    predictions.mkdir()
    truth.mkdir()
    return predictions, truth


def objects(*present: int) -> np.ndarray:
    """A plane (16, 32) uint16 with those of the objects 1, 2, 3, each 10 x 8 pixels."""
    ids = np.zeros((16, 32), np.uint16)
    for label in present:
        ids[3:13, 10 * label - 9 : 10 * label - 1] = label
    return ids


def write_csv(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_instances_are_paired_by_stem_whatever_the_format(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    tifffile.imwrite(predictions / "a_instance.tif", objects(1, 2).astype(np.uint32))
    tifffile.imwrite(predictions / "b.c_instance.tif", objects(1).astype(np.uint32))
    tifffile.imwrite(predictions / "a_semantic.tif", np.zeros((4, 4), np.uint8))
    imageio.imwrite(truth / "a.png", objects(1, 2))
    tifffile.imwrite(truth / "b.c.tif", objects(1, 2, 3))
    (truth / "notes.txt").write_text("not an image")

    scores = evaluate(predictions, truth, "instance")

    assert scores["n"] == 2
    assert scores["ap50"] == pytest.approx((1 + 1 / 3) / 2)
    assert scores["map"] == pytest.approx(scores["ap50"])
    assert scores["ap50_pooled"] == pytest.approx(3 / 5)
    assert scores["dice"] == pytest.approx((1 + 2 / 4) / 2)
    assert (scores["tp"], scores["fp"], scores["fn"]) == (3, 0, 2)
    assert scores["predictions_without_truth"] == 0
    assert scores["ap50_low"] <= scores["ap50"] <= scores["ap50_high"]
    assert [row["image"] for row in scores["per_image"]] == ["a", "b.c"]
    json.dumps(scores, allow_nan=False)


def test_scores_count_where_an_image_has_no_prediction(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    tifffile.imwrite(predictions / "a_instance.tif", objects(1, 2).astype(np.uint32))
    write_csv(predictions / "a_objects.csv", "label,confidence", "1,0.9", "2,0.8")
    tifffile.imwrite(predictions / "b_instance.tif", objects().astype(np.uint32))
    write_csv(predictions / "b_objects.csv", "label,confidence")
    for name in ("a", "b"):
        tifffile.imwrite(truth / f"{name}.tif", objects(1, 2))

    scores = evaluate(predictions, truth, "instance")

    # Half of the objects are found, all of them rightly: precision 1 at 51 of 101 recalls.
    assert scores["coco_ap50"] == pytest.approx(51 / 101)


def test_objects_of_one_image_give_no_interval(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    rows = [f"a,0,{i},{'xy'[i % 2]},{0.3 + 0.1 * i},{0.7 - 0.1 * i}" for i in range(4)]
    write_csv(predictions / "classification.csv", "image,plane,object,class,p_x,p_y", *rows)
    names = [f"a,{i},{'x' if i < 2 else 'y'}" for i in range(4)]
    scores = evaluate(
        predictions, write_csv(truth / "t.csv", "image,object,class", *names), "classification"
    )
    assert scores["n"] == 4
    assert "roc_auc" in scores
    assert scores["intervals"] == {}


def test_one_image_is_no_comparison_and_says_so() -> None:
    def scored(*ids: np.ndarray) -> Evaluation:
        scorer = scorer_for("instance")
        for plane, own in enumerate(ids):
            scorer.add(Case("a", plane, objects(1, 2, 3), own))
        return scorer.finish()

    one = compare(scored(objects(1)), scored(objects(1, 2))).verdict()
    assert one.startswith("ap50 differs by +0.3333 in one image")
    assert "nan" not in one
    six = compare(scored(*[objects(1)] * 6), scored(*[objects(1, 2)] * 6)).verdict()
    assert six.startswith("The second is better: ap50 differs by +0.3333")


def test_plain_stems_are_predictions_too(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    tifffile.imwrite(predictions / "a.tif", objects(1))
    tifffile.imwrite(truth / "a.tif", objects(1))
    assert evaluate(predictions, truth, "instance")["ap50"] == 1


def test_stack_is_scored_plane_by_plane(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    true = np.stack([objects(1), objects(1, 2)])
    found = np.stack([objects(1), objects(3)])
    metadata = {"axes": "ZYX"}
    tifffile.imwrite(predictions / "s_instance.ome.tif", found, metadata=metadata)
    tifffile.imwrite(truth / "s.tif", true)  # plain: takes the axes of its prediction
    scores = evaluate(predictions, truth, "instance")
    assert scores["n"] == 2
    assert [row["ap50"] for row in scores["per_image"]] == [1, 0]


def test_stacks_that_name_no_axes_are_scored_plane_by_plane(folders: tuple[Path, Path]) -> None:
    for folder, name in zip(folders, ("s_instance.tif", "s.tif"), strict=True):
        tifffile.imwrite(folder / name, np.stack([objects(1)] * 5))
    assert evaluate(*folders, "instance")["n"] == 5


def test_prediction_without_truth_is_counted_not_scored(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    for name in ("a", "b", "c"):
        tifffile.imwrite(predictions / f"{name}_instance.tif", objects(1))
    tifffile.imwrite(truth / "b.tif", objects(1))
    scores = evaluate(predictions, truth, "instance")
    assert (scores["n"], scores["predictions_without_truth"]) == (1, 2)


def test_truth_without_prediction_is_named(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    tifffile.imwrite(predictions / "a_instance.tif", objects(1))
    for name in ("a", "b"):
        tifffile.imwrite(truth / f"{name}.tif", objects(1))
    with pytest.raises(InputError, match=r"1 of 2 truths .* no prediction .*: b; .*b_instance.tif"):
        evaluate(predictions, truth, "instance")


def test_shapes_that_differ_name_both_files(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    tifffile.imwrite(predictions / "a_semantic.tif", np.zeros((8, 9), np.uint8))
    tifffile.imwrite(truth / "a.tif", np.zeros((9, 8), np.uint8))
    with pytest.raises(InputError, match=r"a_semantic.tif has shape \(8, 9\).*a.tif has \(9, 8\)"):
        evaluate(predictions, truth, "semantic")


def test_colour_picture_is_no_label_image(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    tifffile.imwrite(predictions / "a_semantic.tif", np.zeros((8, 9), np.uint8))
    imageio.imwrite(truth / "a.png", np.zeros((8, 9, 3), np.uint8))
    with pytest.raises(InputError, match=r"a.png has shape \(8, 9, 3\).*3 channels"):
        evaluate(predictions, truth, "semantic")


def test_floating_point_labels_name_the_file(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    tifffile.imwrite(predictions / "a_instance.tif", objects(1))
    tifffile.imwrite(truth / "a.tif", objects(1).astype(np.float32))
    with pytest.raises(InputError, match=r"truth/a.tif has dtype float32|a.tif has dtype float32"):
        evaluate(predictions, truth, "instance")


def test_two_truths_of_one_stem_are_refused(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    tifffile.imwrite(predictions / "a_instance.tif", objects(1))
    tifffile.imwrite(truth / "a.tif", objects(1))
    imageio.imwrite(truth / "a.png", objects(1))
    with pytest.raises(InputError, match=r"holds both a.png and a.tif"):
        evaluate(predictions, truth, "instance")


def test_folders_that_are_missing_or_empty_are_named(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    with pytest.raises(InputError, match=r"prediction folder .*predictions holds no images"):
        evaluate(predictions, truth, "instance")
    with pytest.raises(InputError, match=r"prediction folder .*nowhere does not exist"):
        evaluate(predictions / "nowhere", truth, "depth")
    with pytest.raises(InputError, match="task is 'pca'"):
        evaluate(predictions, truth, "pca")


def test_semantic_scores_pool_all_pixels_and_leave_out_255(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    true = np.array([[0, 0, 1, 1], [2, 2, 255, 255]], np.uint8)
    tifffile.imwrite(truth / "a.tif", true)
    tifffile.imwrite(predictions / "a_semantic.tif", np.array([[0, 1, 1, 1], [2, 0, 1, 2]], "u1"))
    tifffile.imwrite(truth / "b.tif", np.zeros((2, 4), np.uint8))
    tifffile.imwrite(predictions / "b_semantic.tif", np.zeros((2, 4), np.uint8))
    scores = evaluate(predictions, truth, "semantic")
    assert scores["n"] == 2
    assert scores["iou_0"] == pytest.approx(9 / 11)
    assert scores["iou_1"] == pytest.approx(2 / 3)
    assert scores["iou_2"] == pytest.approx(1 / 2)
    assert scores["iou"] == pytest.approx((9 / 11 + 2 / 3 + 1 / 2) / 3)
    assert scores["iou_per_image"] == pytest.approx(((1 / 3 + 2 / 3 + 1 / 2) / 3 + 1) / 2)
    assert scores["accuracy"] == pytest.approx(12 / 14)
    assert {"dice", "iou_foreground", "dice_2"} <= set(scores)


def test_class_that_never_occurs_has_no_key(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    for folder, name in ((predictions, "a_semantic.tif"), (truth, "a.tif")):
        tifffile.imwrite(folder / name, np.array([[0, 2]], np.uint8))
    scores = evaluate(predictions, truth, "semantic")
    assert scores["iou"] == 1
    assert "iou_1" not in scores
    json.dumps(scores, allow_nan=False)


def test_black_and_white_mask_is_not_mistaken_for_ignored_pixels(
    folders: tuple[Path, Path],
) -> None:
    predictions, truth = folders
    tifffile.imwrite(predictions / "a_semantic.tif", np.array([[0, 1]], np.uint8))
    tifffile.imwrite(truth / "a.tif", np.array([[0, 255]], np.uint8))
    with pytest.raises(InputError, match=r"nothing but 0 and 255.*replace 255 by 1"):
        evaluate(predictions, truth, "semantic")


def test_depth_is_scored_as_it_is_and_after_fitting(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    height = np.linspace(0, 4, 200, dtype=np.float32).reshape(10, 20)
    height[0, 0] = np.nan
    tifffile.imwrite(truth / "a.tif", height)
    tifffile.imwrite(predictions / "a_depth.tif", height + 1)
    tifffile.imwrite(truth / "b.tif", height)
    tifffile.imwrite(predictions / "b_height.tif", 2 * height + 1)  # what heightmap writes
    scores = evaluate(predictions, truth, "depth")
    expected = (1 + np.sqrt(np.nanmean((height + 1) ** 2))) / 2
    assert scores["rmse"] == pytest.approx(expected, rel=1e-4)
    assert scores["rmse_fit"] == pytest.approx(0, abs=1e-5)
    assert scores["n"] == 2
    assert scores["coverage"] == 1
    assert {"mae", "rmse_over_mean", "rmse_fit_over_mean"} <= set(scores)


def test_plane_without_measured_depth_is_left_out(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    stack = np.ones((3, 4, 6), np.float32)
    stack[1] = np.nan
    tifffile.imwrite(truth / "a.tif", stack, metadata={"axes": "TYX"}, imagej=True)
    planar = np.ones((3, 4, 6), np.float32)  # as a careless script saves three planes
    tifffile.imwrite(
        predictions / "a_depth.tif", planar, photometric="rgb", planarconfig="separate"
    )
    assert evaluate(predictions, truth, "depth")["n"] == 2
    tifffile.imwrite(truth / "a.tif", stack * np.nan, metadata={"axes": "TYX"}, imagej=True)
    with pytest.raises(InputError, match="no truth holds a finite depth"):
        evaluate(predictions, truth, "depth")


def test_depth_without_a_common_pixel_names_the_prediction(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    tifffile.imwrite(truth / "a.tif", np.ones((4, 6), np.float32))
    tifffile.imwrite(predictions / "a_depth.tif", np.full((4, 6), np.nan, np.float32))
    with pytest.raises(InputError, match=r"a_depth.tif: no pixel is finite in both"):
        evaluate(predictions, truth, "depth")


HEADER = "image,plane,object,class,probability,p_cat,p_dog"


def test_classes_are_paired_by_image_with_or_without_its_ending(
    folders: tuple[Path, Path],
) -> None:
    predictions, truth = folders
    write_csv(
        predictions / "classification.csv",
        HEADER,
        "a,0,0,cat,0.9,0.9,0.1",
        "b.1,0,0,dog,0.8,0.2,0.8",
        "c,0,0,cat,0.7,0.7,0.3",
        "extra,0,0,cat,0.7,0.7,0.3",
    )
    write_csv(truth / "classes.csv", "image,class", "a.png,cat", "b.1.tif,dog", "c,dog")
    scores = evaluate(predictions, truth, "classification")
    assert scores["n"] == 3
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["f1_macro"] == pytest.approx(2 / 3)
    assert scores["f1_cat"] == pytest.approx(2 / 3)
    assert scores["predictions_without_truth"] == 1
    assert evaluate(predictions / "classification.csv", truth / "classes.csv", "classification")


def test_planes_of_an_image_vote_with_their_probabilities(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    write_csv(
        predictions / "classification.csv",
        HEADER,
        "a,0,0,cat,0.6,0.6,0.4",
        "a,1,0,cat,0.6,0.6,0.4",
        "a,2,0,dog,0.9,0.1,0.9",
        "a,2,7,cat,0.9,0.9,0.1",  # an object of that plane
    )
    write_csv(truth / "t.csv", "image,class", "a,dog")
    assert evaluate(predictions, truth, "classification")["accuracy"] == 1


def test_objects_are_paired_where_the_truth_names_them(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    write_csv(
        predictions / "classification.csv",
        HEADER,
        "a,0,1,cat,0.9,0.9,0.1",
        "a,0,2,dog,0.9,0.1,0.9",
    )
    write_csv(truth / "t.csv", "image,object,class", "a.tif,1,cat", "a.tif,2.0,cat")
    assert evaluate(predictions, truth, "classification")["accuracy"] == 0.5
    write_csv(truth / "t.csv", "image,class", "a.tif,cat")
    with pytest.raises(InputError, match="give the truth a column 'object'"):
        evaluate(predictions, truth, "classification")


def test_class_tables_that_do_not_fit_say_what_is_wrong(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    with pytest.raises(InputError, match=r"truth folder .* holds 0 tables"):
        evaluate(predictions, truth, "classification")
    write_csv(truth / "t.csv", "image,class", "a,cat", "a.png,dog")
    with pytest.raises(InputError, match=r"prediction folder .* holds 0 tables"):
        evaluate(predictions, truth, "classification")
    table = write_csv(predictions / "classification.csv", HEADER, "b,0,0,cat,1,1,0")
    with pytest.raises(InputError, match="gives a the classes 'cat' and 'dog'"):
        evaluate(predictions, truth, "classification")
    write_csv(truth / "t.csv", "image,class", "a,cat")
    with pytest.raises(InputError, match=r"1 of 1 truths in .*t.csv have no prediction.*: a"):
        evaluate(predictions, truth, "classification")
    write_csv(table, "picture,label", "a,cat")
    with pytest.raises(InputError, match="has picture, label; expected columns image and class"):
        evaluate(table, truth, "classification")
    with pytest.raises(InputError, match="cannot be read"):
        evaluate(predictions / "none.csv", truth, "classification")


def test_table_of_many_images_is_read_whole(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    names = [f"image {i}" for i in range(50)]
    with (truth / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "class"), *((n, "x, y") for n in names)])
    with (predictions / "classification.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "class"), *((n, "x, y") for n in names)])
    assert evaluate(predictions, truth, "classification")["n"] == 50
