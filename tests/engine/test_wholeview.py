"""Heads that see all of a plane at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dinoscope.config import PredictOptions
from dinoscope.engine import wholeview
from dinoscope.engine.cost import estimate_cost
from dinoscope.engine.dataset import TrainingImage
from dinoscope.engine.dense import Runner
from dinoscope.engine.heads import head_spec, prepare_heads
from dinoscope.engine.opening import open_runner, prepare
from dinoscope.engine.predict import run_prediction
from dinoscope.errors import ModelFileError
from dinoscope.models.card import HeadSpec, ModelCard
from dinoscope.models.model import Model
from dinoscope.types import ImageInput


@pytest.fixture
def whole_model(full_model: Model) -> Model:
    """One whose depth head sees all of a plane."""
    seen = replace(full_model.card.heads["depth"], view="whole")
    full_model.card = full_model.card.replace(heads={**full_model.card.heads, "depth": seen})
    return full_model


@pytest.fixture
def plane() -> ImageInput:
    """Larger than a tile, and not square."""
    return ImageInput(np.random.default_rng(0).integers(0, 255, (400, 420), np.uint8), "YX")


def _tiles(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Shapes of the tiles that are encoded from now on."""
    shapes: list[tuple[int, int]] = []
    encode = Runner._encode

    def watched(self: Runner, x: object) -> object:
        shapes.extend([tuple(x.shape[-2:])] * len(x))  # type: ignore[attr-defined, arg-type]
        return encode(self, x)  # type: ignore[arg-type]

    monkeypatch.setattr(Runner, "_encode", watched)
    return shapes


def test_a_large_plane_is_seen_in_one_tile_whatever_the_objects_size(
    whole_model: Model, plane: ImageInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = _tiles(monkeypatch)
    alone = run_prediction(plane, whole_model, PredictOptions(("depth",)))[0]["depth"]
    assert shapes == [(112, 126)]  # 400 pixels are as the smallest tile, 112
    assert alone.shape == (400, 420)
    options = PredictOptions(("instance", "depth"), diameter_px=14.0)
    beside = run_prediction(plane, whole_model, options)[0]["depth"]
    assert len(shapes) > 20  # objects are looked at twice as large
    assert np.array_equal(alone, beside)


def test_a_region_is_a_part_of_the_plane(whole_model: Model, plane: ImageInput) -> None:
    whole = run_prediction(plane, whole_model, PredictOptions(("depth",)))[0]["depth"]
    region = PredictOptions(("depth",), region=(40, 100, 170, 333))
    part = run_prediction(plane, whole_model, region)[0]["depth"]
    assert np.allclose(part, whole[40:170, 100:333], atol=1e-5)


def test_a_plane_that_is_read_in_bands_gives_the_same(
    whole_model: Model, plane: ImageInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = run_prediction(plane, whole_model, PredictOptions(("depth",)))[0]["depth"]
    monkeypatch.setattr(wholeview, "BAND_PIXELS", 10_000)
    bands = run_prediction(plane, whole_model, PredictOptions(("depth",)))[0]["depth"]
    assert np.allclose(once, bands, atol=1e-5)


def test_a_narrow_plane_keeps_enough_patches_across(whole_model: Model) -> None:
    image = ImageInput(np.zeros((30, 600), np.uint8), "YX")
    options = PredictOptions(("depth",))
    runner, _ = open_runner(whole_model, options)
    assert wholeview.view_shape(runner, (30, 600)) == (112, 2240)
    prepared = prepare(image, whole_model, options)
    maps = wholeview.whole_view_maps(prepared, runner, (), ("depth",), (0, 0, 30, 600))
    assert maps["depth"].shape == (1, 30, 600)
    assert wholeview.whole_view_maps(prepared, runner, (), (), (0, 0, 30, 600)) == {}


def test_every_plane_of_a_stack_costs_one_tile(whole_model: Model) -> None:
    stack = ImageInput(np.zeros((3, 400, 420), np.uint8), "ZYX")
    cost = estimate_cost(stack, whole_model, PredictOptions(("depth",)))
    assert (cost["tiles"], cost["planes"]) == (1.0, 3.0)
    near = estimate_cost(stack, whole_model, PredictOptions(("pca",)))["tiles"]
    both = estimate_cost(stack, whole_model, PredictOptions(("depth", "pca")))["tiles"]
    assert both == near + 1 > 2


def test_a_head_trained_on_crops_keeps_its_weights_and_is_shown_tiles(whole_model: Model) -> None:
    heights = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    image = TrainingImage("a", "a", np.zeros((3, 64, 64), np.float16), {"depth": heights}, None)
    before = {n: t.clone() for n, t in whole_model.heads["depth"].state_dict().items()}
    spec = head_spec(whole_model, "depth", [image], {}, new_heads=False)
    prepare_heads(whole_model, {"depth": spec}, new_heads=False)
    assert whole_model.card.heads["depth"].view == "scale"
    for name, tensor in whole_model.heads["depth"].state_dict().items():
        assert np.array_equal(tensor, before[name])


def test_the_card_keeps_the_view_and_old_cards_have_tiles(whole_model: Model) -> None:
    told = whole_model.card.to_json()
    assert ModelCard.from_json(told).heads["depth"].view == "whole"
    del told["heads"]["depth"]["view"]
    assert ModelCard.from_json(told).heads["depth"].view == "scale"
    with pytest.raises(ModelFileError, match="view is 'half'"):
        HeadSpec("bins", 8, view="half")
