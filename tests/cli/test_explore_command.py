"""``dinoscope explore``: colours, points, figures, and what it refuses."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from tests.cli.conftest import Run

from dinoscope.arrays.files import read_image, write_image
from dinoscope.commands.scatter import Scatter, draw_scatter
from dinoscope.errors import InputError

FAST = ("--model", "tiny-test", "--threads", "1", "--zoom", "1")


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Objects of ``spots.tif`` as predict names them: 1 in the upper half, 2 in the lower."""
    folder = tmp_path / "labels"
    ids = np.zeros((120, 140), np.uint16)
    ids[:55], ids[65:] = 1, 2
    folder.mkdir()
    write_image(folder / "spots_instance.tif", ids, "YX")
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_colours_points_and_figures(run: Run, image_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("explore", image_file, "--output", out, *FAST, "--groups", "kmeans", "--json")
    assert done.status == 0, done.err
    document = done.document
    assert {Path(p).name for p in document["outputs"]} == {
        "spots_pca.tif",
        "points.csv",
        "points.png",
        "points.svg",
    }
    colours = read_image(out / "spots_pca.tif")
    assert colours.shape == (120, 140, 3)
    assert colours.pixel_size_um["Y"] == pytest.approx(0.5)
    table = rows(out / "points.csv")
    (result,) = document["results"]
    assert result["points"] == len(table) == 9 * 10
    assert result["clusters"] == 8
    assert {"image", "row", "column", "y", "x", "pca_0", "pca_1", "cluster", "f0"} <= set(table[0])
    assert len(result["explained"]) == 2
    assert document["images"][0]["patches"] == [9, 10]


def test_objects_with_classes(run: Run, image_file: Path, labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = ("--points", "objects", "--labels", labels, "--no-features", "--dimensions", "3")
    done = run("explore", image_file, "--output", out, *FAST, *flags, "--json")
    assert done.status == 0, done.err
    table = rows(out / "points.csv")
    assert [r["label"] for r in table] == ["1", "2"]
    assert float(table[0]["area_px"]) == 55 * 140
    assert float(table[0]["mean_intensity_0"]) > 0
    assert "pca_2" in table[0]
    assert "f0" not in table[0]


def test_foreground_and_separability(
    run: Run, image_file: Path, labels: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    flags = ("--classes", labels, "--foreground", "--components", "2,1,0")
    done = run("explore", image_file, "--output", out, *FAST, *flags, "--json")
    assert done.status == 0, done.err
    colours = np.asarray(read_image(out / "spots_pca.tif").data)
    assert colours[58:62].max() == 0
    assert colours[:50].max() > 0
    found = done.document["results"][0]["separability"]
    assert [c["class"] for c in found["classes"]] == ["1", "2"]
    assert 0 <= found["accuracy"] <= 1
    assert "class 1" in (out / "points.svg").read_text()


def test_a_bad_image_does_not_stop_the_others(run: Run, image_file: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.tif").write_bytes(b"II*\0 nothing")
    done = run(
        "explore", image_file, tmp_path / "broken.tif", "--output", tmp_path / "o", *FAST, "--json"
    )
    assert done.status == 1
    assert [i["status"] for i in done.document["images"]] == ["done", "failed"]
    assert "broken.tif" in done.err


@pytest.mark.parametrize(
    ("flags", "status", "text"),
    [
        (("--points", "objects"), 2, "there are no labels"),
        (("--foreground",), 2, "no labels for --foreground"),
        (("--components", "1,2"), 2, "three numbers"),
        (("--layers", "deep"), 2, "layers are 'deep'"),
        (("--dimensions", "4"), 2, "dimensions"),
        (("--labels", "nowhere"), 1, "--labels 'nowhere' does not exist"),
        (("--adapter", "both"), 1, "no LoRA adapter"),
    ],
)
def test_what_makes_no_sense_is_said(
    run: Run, image_file: Path, tmp_path: Path, flags: tuple[str, ...], status: int, text: str
) -> None:
    done = run("explore", image_file, "--output", tmp_path / "out", *FAST, *flags)
    assert done.status == status
    assert text in done.err


def test_labels_of_another_image_are_refused(
    run: Run, image_file: Path, labels: Path, tmp_path: Path
) -> None:
    flags = (*FAST, "--points", "objects", "--labels")
    write_image(labels / "spots_instance.tif", np.ones((50, 50), np.uint8), "YX")
    done = run("explore", image_file, "--output", tmp_path / "out", *flags, labels)
    assert done.status == 1
    assert "(50, 50)" in done.err
    (labels / "spots_instance.tif").unlink()
    done = run("explore", image_file, "--output", tmp_path / "out", *flags, labels)
    assert "holds no labels of 'spots.tif'" in done.err


def test_missing_umap_is_named_before_anything_is_encoded(
    run: Run, image_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    done = run("explore", image_file, "--output", tmp_path / "out", *FAST, "--projection", "umap")
    assert done.status == 2
    assert "napari-dinoscope[all]" in done.err
    assert not (tmp_path / "out").exists()


def test_the_original_beside_the_tuned_model(
    run: Run, image_file: Path, labels: Path, tmp_path: Path
) -> None:
    import torch

    from dinoscope.models.adapter import add_lora
    from dinoscope.models.checkpoint import save_model
    from dinoscope.models.model import Model

    model = Model.fresh("tiny-test", seed=0)
    add_lora(model, rank=2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 50)
    save_model(model, tmp_path / "tuned.dinoscope")
    out = tmp_path / "out"
    flags = ("--model", tmp_path / "tuned.dinoscope", "--threads", "1", "--zoom", "1")
    done = run(
        *("explore", image_file, "--output", out, *flags),
        *("--adapter", "both", "--classes", labels, "--basis", "own", "--json"),
    )
    assert done.status == 0, done.err
    tuned, original = done.document["results"]
    assert (tuned["adapter"], original["adapter"]) == (True, False)
    assert "accuracy" in tuned["separability"]
    assert "accuracy" in original["separability"]
    plain = tmp_path / "plain"
    assert run("explore", image_file, "--output", plain, *FAST, "--no-features").status == 0
    expected = np.asarray(read_image(plain / "spots_pca.tif").data)
    before = np.asarray(read_image(out / "original" / "spots_pca.tif").data)
    now = np.asarray(read_image(out / "spots_pca.tif").data)
    # The same components; their signs follow those of the tuned model.
    straight, turned = np.abs(before - expected), np.abs(1 - before - expected)
    assert np.minimum(straight.mean((0, 1)), turned.mean((0, 1))).max() < 0.01
    assert np.abs(now - before).mean() > 0.05


# The figure


def test_a_figure_has_its_points_where_they_belong(tmp_path: Path) -> None:
    place = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [np.nan, 0]])
    names = np.array(["a", "a", "<b>", "", "a"])
    scatter = Scatter(place, names, "four & more", ("one", "two"))
    draw_scatter(tmp_path / "plot.svg", scatter)
    root = ElementTree.parse(tmp_path / "plot.svg").getroot()
    name = "{http://www.w3.org/2000/svg}"
    circles = root.find(f"{name}g").findall(f"{name}circle")
    assert len(circles) == 4
    colours = {c.get("fill") for c in circles}
    assert colours == {"#0072b2", "#e69f00", "#b0b4ba"}
    heights = sorted({float(c.get("cy")) for c in circles})
    assert len(heights) == 2
    texts = [t.text for t in root.iter(f"{name}text")]
    assert {"four & more", "one", "two", "a (2)", "<b> (1)", "other (1)"} <= set(texts)
    draw_scatter(tmp_path / "plot.png", scatter)
    picture = np.asarray(Image.open(tmp_path / "plot.png"))
    low = next(c for c in circles if c.get("fill") == "#e69f00")
    y, x = round(float(low.get("cy"))), round(float(low.get("cx")))
    assert np.abs(picture[y, x].astype(int) - (230, 159, 0)).max() < 12


def test_a_figure_that_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    points = np.zeros((3, 2))
    with pytest.raises(InputError, match="plot"):
        draw_scatter(tmp_path / "plot.pdf", Scatter(points, np.zeros(3)))
    with pytest.raises(InputError, match="groups"):
        draw_scatter(tmp_path / "plot.svg", Scatter(points, np.zeros(2)))
    draw_scatter(tmp_path / "plot.svg", Scatter(points, np.zeros(3)))  # all in one place
