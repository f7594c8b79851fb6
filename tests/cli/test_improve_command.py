"""``dinoscope improve``: the deep loop without a window, and what its model is good for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinoscope.arrays.files import read_image, write_image
from dinoscope.project import Project

SHORT = ("--crop", "56", "--batch-size", "2", "--threads", "1", "--device", "cpu")


@pytest.fixture
def project(tmp_path: Path, model_file: Path) -> Path:
    """Four images of squares, with strokes on squares and background."""
    rng = np.random.default_rng(0)
    made = Project.create(tmp_path / "squares.dinoproject", ["background", "square"])
    made.set_settings(model=str(model_file))
    for number in range(4):
        squares = np.zeros((60, 64), bool)
        squares[10:24, 10:24] = squares[34:50, 30:46] = True
        pixels = (squares * 120 + rng.integers(0, 40, squares.shape)).astype(np.uint8)
        path = tmp_path / f"image{number}.tif"
        write_image(path, pixels, "YX", {})
        source = made.add_source(read_image(path), path)
        chosen = np.sort(rng.choice(squares.size, 600, replace=False))
        made.record(source, (), "paint", chosen, np.where(squares.ravel()[chosen], 2, 1))
    made.close()
    return made.folder


def test_a_round_makes_a_model_that_predicts_everywhere(
    project: Path, run: Any, tmp_path: Path
) -> None:
    done = run("improve", project, "--steps", "2", "--tune", "heads", "--json", *SHORT)
    assert done.status == 0, done.err
    document = done.document
    assert document["round"] == 1
    assert document["kept"] in ("new", "old")
    assert {"iou", "iou_square"} <= set(document["after"])
    assert {"iou"} <= set(document["before"])
    (model,) = document["outputs"]
    described = run("models", model, "--json").document
    assert described["tasks"]["semantic"]["classes"] == ["background", "square"]
    assert described["scores"] == document["after"]
    out = tmp_path / "out"
    image = tmp_path / "image0.tif"
    predicted = run(
        *("predict", image, "--task", "semantic", "--model", model, "--output", out),
        *("--threads", "1", "--device", "cpu"),
    )
    assert predicted.status == 0, predicted.err
    labels = np.asarray(read_image(next(out.glob("*semantic*"))).data[:, :])
    assert labels.shape == (60, 64)
    assert set(np.unique(labels)) <= {0, 1}
    listed = run("improve", project, "--rounds", "--json").document
    assert [r["number"] for r in listed["rounds"]] == [1]
    used = run("improve", project, "--use", "1", "--json").document
    assert Path(used["model"]) == Path(model)
    assert run("improve", project, "--rounds", "--json").document["current"] == 1
    back = run("improve", project, "--use", "0")
    assert "round 0 is in use" in back.out


def test_a_plan_is_told_and_nothing_is_trained(project: Path, run: Any) -> None:
    done = run("improve", project, "--plan", "--tune", "heads", "--minutes", "0.1", *SHORT)
    assert done.status == 0, done.err
    assert "Heads only" in done.out
    assert "judged on 1 of 4 annotated images" in done.out
    assert not (project / "rounds" / "001").exists()


def test_what_cannot_be_improved_is_said_in_a_line(project: Path, run: Any, tmp_path: Path) -> None:
    assert run("improve", tmp_path / "images").status == 2
    none = run("improve", tmp_path / "none.dinoproject")
    assert none.status == 1
    assert "does not exist" in none.err
    wrong = run("improve", project, "--use", "7")
    assert wrong.status == 1
    assert "round 7 has no model" in wrong.err
    again = run("improve", project, "--resume")
    assert again.status == 1
    assert "was interrupted" in again.err
    full = run("improve", project, "--tune", "full")
    assert full.status == 2
    with Project.create(tmp_path / "empty.dinoproject"):
        pass
    empty = run("improve", tmp_path / "empty.dinoproject", "--plan")
    assert empty.status == 1
    assert "too little annotated" in empty.out
    with Project.open(project):  # a window has it
        held = run("improve", project, "--use", "0")
        assert held.status == 1
        assert "open in another window" in held.err
