"""Objects by one model, their classes by another."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

from dinoscope.cli import main
from dinoscope.commands.loading import require_heads
from dinoscope.config import PredictOptions
from dinoscope.datasets.synthetic import make
from dinoscope.engine import lent
from dinoscope.engine.cost import estimate_cost
from dinoscope.engine.opening import open_runner, prepare
from dinoscope.engine.predict import predict, run_prediction
from dinoscope.errors import MissingHeadError
from dinoscope.models.card import HeadSpec, ModelCard
from dinoscope.models.catalog import inspect, lender_file, lent_tasks, list_models
from dinoscope.models.checkpoint import load_model
from dinoscope.models.model import Model
from dinoscope.types import ImageInput, PlaneOutput, Progress

BOTH = PredictOptions(("instance", "classification"), diameter_px=40.0)


@pytest.fixture(scope="module")
def redcells() -> Model:
    """The packaged classifier, which has no dense head."""
    return load_model("embedded-redcells", device="cpu")


@pytest.fixture(scope="module")
def smear() -> ImageInput:
    """Two planes of dark discs on a bright ground, in colour."""
    rng = np.random.default_rng(0)
    y, x = np.indices((200, 260))
    planes = []
    for centres in ([(50, 60), (120, 180)], [(90, 40), (60, 150), (150, 220)]):
        ground = np.full((200, 260, 3), 220.0)
        for cy, cx in centres:
            ground[(y - cy) ** 2 + (x - cx) ** 2 < 400] = (180, 110, 120)
        planes.append(ground + rng.normal(0, 4, ground.shape))
    return ImageInput(np.stack(planes).clip(0, 255).astype(np.uint8), "TYXS", name="smear")


def test_every_object_of_a_smear_gets_one_class(redcells: Model, smear: ImageInput) -> None:
    events = list(predict(smear, redcells, BOTH))
    planes = [e for e in events if isinstance(e, PlaneOutput)]
    assert [len(p.objects["label"]) for p in planes if p.objects] == [2, 3]
    for number, plane in enumerate(planes):
        assert plane.objects is not None
        assert plane.classes is not None
        assert plane.classes["object"].tolist() == plane.objects["label"].tolist()
        assert plane.classes["plane"].tolist() == [f"T{number}"] * len(plane.objects["label"])
        assert plane.objects["class"].tolist() == plane.classes["class"].tolist()
        assert set(np.unique(plane.arrays["instance"])) - {0} == set(plane.objects["label"])
    assert any(isinstance(e, Progress) and e.step == "classes" for e in events)
    *_, classes, summary = run_prediction(smear, redcells, BOTH)
    assert classes is not None
    assert classes["object"].tolist() == [1, 2, 3, 4, 5]  # numbered through
    assert summary.model == "embedded-redcells"
    assert summary.tasks == BOTH.tasks
    assert any("'embedded'" in note for note in summary.notes)
    assert summary.class_names["classification"] == redcells.card.heads["classification"].classes


def test_an_object_is_classified_as_a_crop_of_it_alone(redcells: Model, smear: ImageInput) -> None:
    plane = np.asarray(smear.data)[0]
    options = PredictOptions(("instance", "classification"), diameter_px=40.0, plane=(0,))
    model = copy.copy(redcells)
    model.card = redcells.card.replace(object_px=40.0)
    _, objects, classes, _ = run_prediction(smear, model, options)
    assert objects is not None
    assert classes is not None
    cell = ImageInput(plane[10:90, 20:100], "YXS")  # 80 pixels around (50, 60), as in training
    alone = run_prediction(cell, redcells, PredictOptions(("classification",)))[2]
    assert alone is not None
    at = int(np.argmin(np.hypot(objects["centroid_y"] - 50, objects["centroid_x"] - 60)))
    for name in redcells.card.heads["classification"].classes:
        assert classes[f"p_{name}"][at] == pytest.approx(alone[f"p_{name}"][0], abs=0.06)


def test_cells_at_another_magnification_are_brought_to_that_of_the_training(
    redcells: Model, smear: ImageInput
) -> None:
    runner, _ = open_runner(redcells, BOTH)
    runner = replace(runner, model=copy.copy(redcells))
    runner.model.card = redcells.card.replace(object_px=40.0)
    prepared = prepare(smear, redcells, BOTH)
    for found, side, told in ((44.0, 80.0, False), (80.0, 160.0, True), (20.0, 40.0, True)):
        classifier = lent.ObjectClassifier(prepared, runner)
        classifier._measure({"diameter_px": np.array([found, found, 500.0])})
        assert classifier.size_px == pytest.approx(side)
        assert ("40 px" in classifier.note) == told
        assert classifier._crop(np.zeros((3, 200, 260), np.uint8), 5, 255).shape == (3, 112, 112)


def test_a_classifier_that_knows_no_size_takes_crops_as_large_as_in_its_training(
    redcells: Model, smear: ImageInput
) -> None:
    own = copy.copy(redcells)  # as trained by a user: its card has no typical object
    own.card = redcells.card.replace(object_px=None)
    _, objects, classes, summary = run_prediction(smear, own, replace(BOTH, plane=(0,)))
    assert objects is not None
    assert classes is not None
    assert len(classes["class"]) == len(objects["label"]) == 2
    assert not any("training" in note for note in summary.notes)


def test_edges_are_mirrored() -> None:
    assert lent._reflected(-2, 8, 4).tolist() == [2, 1, 0, 1, 2, 3, 2, 1]
    assert lent._reflected(-1, 3, 1).tolist() == [0, 0, 0]


def test_a_plane_without_objects_has_no_classes(redcells: Model) -> None:
    empty = ImageInput(np.full((120, 120, 3), 200, np.uint8), "YXS")
    arrays, objects, classes, _ = run_prediction(empty, redcells, BOTH)
    assert arrays["instance"].max() == 0
    assert objects is not None
    assert len(objects["label"]) == 0 == len(objects["class"])
    assert classes is not None
    assert len(classes["object"]) == 0


def test_maps_beside_a_class_of_the_whole_image(redcells: Model) -> None:
    image = make("nuclei", (96, 96), 1).as_input()
    options = PredictOptions(("semantic", "classification"))
    arrays, objects, classes, _ = run_prediction(image, redcells, options)
    alone = run_prediction(image, redcells, PredictOptions(("classification",)))[2]
    assert arrays["semantic"].shape == (96, 96)
    assert objects is None
    assert classes is not None
    assert alone is not None
    assert classes["class"].tolist() == alone["class"].tolist()
    assert classes["object"].tolist() == [0]


def test_only_a_classifier_on_a_packaged_backbone_is_helped() -> None:
    card = inspect("embedded-redcells")
    assert lent_tasks(card) == ("instance", "semantic", "depth")
    assert lender_file(inspect("embedded")) is None
    assert lent_tasks(card.replace(backbone="dinov2_vits14")) == ()
    with_own = {**card.heads, "instance": HeadSpec("dense", 4)}
    assert lender_file(card.replace(heads=with_own)) is None
    entries = {str(e["name"]): e for e in list_models()}
    assert entries["embedded-redcells"]["lent_tasks"] == ("instance", "semantic", "depth")
    assert entries["embedded"]["lent_tasks"] == ()
    assert ModelCard.from_json(card.to_json()).object_px == card.object_px
    model = Model.fresh("tiny-test", {"classification": HeadSpec("pooled", 2, ("a", "b"))})
    image = ImageInput(np.zeros((64, 64), np.uint8), "YX")
    with pytest.raises(MissingHeadError, match="no head for 'instance'"):
        run_prediction(image, model, PredictOptions(("instance", "classification")))


def test_the_cost_is_that_of_finding_objects(redcells: Model) -> None:
    image = ImageInput(np.zeros((500, 500), np.uint8), "YX")
    options = PredictOptions(("instance", "classification"), diameter_px=28.0)
    assert estimate_cost(image, redcells, options)["tiles"] >= 4


def test_a_run_that_is_given_up_leaves_nothing_open(redcells: Model, smear: ImageInput) -> None:
    events = predict(smear, redcells, BOTH)
    next(e for e in events if isinstance(e, PlaneOutput))
    events.close()
    assert list(events) == []


def test_the_command_line_knows_what_is_lent(capsys: pytest.CaptureFixture[str]) -> None:
    require_heads("embedded-redcells", ("instance", "classification", "pca"))
    with pytest.raises(MissingHeadError, match="no head for 'classification'"):
        require_heads("embedded", ("classification",))
    assert main(["models"]) == 0
    listed = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert listed["embedded-redcells"].endswith(
        "classification, pca; with embedded: instance, semantic, depth"
    )
