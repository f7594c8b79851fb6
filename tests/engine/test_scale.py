"""Finding the scale at which objects look as in training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinoscope.config import PredictOptions
from dinoscope.engine import scale
from dinoscope.engine.dense import EncodedTiles, Runner
from dinoscope.engine.opening import open_runner, prepare
from dinoscope.models.model import Model
from dinoscope.tasks.base import task
from dinoscope.types import ImageInput


@given(true=st.floats(-1.9, 1.9), slope=st.floats(0.2, 1.0))
def test_a_size_map_that_says_too_little_still_crosses_zero_at_the_right_scale(
    true: float, slope: float
) -> None:
    looks = {float(place): slope * (place - true) for place in range(-2, 3)}
    assert scale._right_scale(looks) == pytest.approx(true, abs=1e-9)


def test_looks_go_where_the_last_ones_point_and_end_at_the_right_scale() -> None:
    asked: list[float] = []

    def look(octaves: float) -> float:
        asked.append(octaves)
        return 0.5 * (octaves + 1.4)  # right at -1.4

    looks = scale._looks(look)
    assert asked == [0, pytest.approx(-0.875), pytest.approx(-1.4)]
    assert looks[asked[-1]] == pytest.approx(0)
    assert scale._right_scale(looks) == pytest.approx(-1.4)


def test_a_first_look_at_the_right_scale_is_the_only_one() -> None:
    asked: list[float] = []

    def look(octaves: float) -> float:
        asked.append(octaves)
        return 0.5 * (octaves - 0.2)

    looks = scale._looks(look)
    assert scale._right_scale(looks) == pytest.approx(0.1)  # one answer, taken as it is
    assert asked == [0]


def test_looks_end_though_they_never_agree() -> None:
    asked: list[float] = []

    def look(octaves: float) -> float:
        asked.append(octaves)
        return 1.5

    looks = scale._looks(look)
    assert len(asked) == len(looks) <= scale.MOST_LOOKS
    assert min(looks) == -scale.MOST_OCTAVES


def test_looks_begin_where_an_object_is_seen_and_end_where_none_is() -> None:
    seen = {1: None, 0: None, -1: 0.4, 2: 0.9}
    assert scale._looks(seen.get) == {-1.0: 0.4}  # type: ignore[arg-type]
    assert scale._looks(lambda _: None) == {}


def test_without_a_crossing_the_closest_looks_tell_where_to_go() -> None:
    assert scale._right_scale({0.0: 1.0, 1.0: 1.5}) == pytest.approx(-2.0)
    assert scale._right_scale({-1.0: -1.2, 0.0: -0.4}) == pytest.approx(0.5)
    # Looks that hardly differ do not send it out of sight, nor such that contradict each other.
    assert scale._right_scale({0.0: 0.4, 1.0: 0.41}) == pytest.approx(-1.0)
    assert scale._right_scale({0.0: 0.4, 1.0: 0.3}) == pytest.approx(1.0 - 0.75)


@pytest.mark.parametrize("true", [9.0, 28.0, 90.0])
def test_the_diameter_follows_from_looks_at_several_scales(
    true: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model.fresh("tiny-test", {"instance": task("instance").head_spec(())}, diameter_px=28.0)
    options = PredictOptions(device="cpu")
    runner, _ = open_runner(model, options)
    image = ImageInput(np.zeros((64, 64), np.uint8), "YX")
    monkeypatch.setattr(
        scale, "_seen_size", lambda p, r, i, zoom: 0.4 * float(np.log2(true * zoom / 28.0))
    )
    found = scale.estimate_diameter(prepare(image, model, options), runner)
    assert found == pytest.approx(true, rel=0.01)


def test_nothing_seen_at_any_scale_gives_no_diameter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model.fresh("tiny-test", {"instance": task("instance").head_spec(())}, diameter_px=28.0)
    runner, _ = open_runner(model, PredictOptions(device="cpu"))
    image = ImageInput(np.zeros((64, 64), np.uint8), "YX")
    monkeypatch.setattr(scale, "_seen_size", lambda *_: None)
    assert scale.estimate_diameter(prepare(image, model, PredictOptions()), runner) is None


def test_depth_alone_is_predicted_at_the_cards_zoom_and_beside_objects_at_theirs() -> None:
    heads = {name: task(name).head_spec(()) for name in ("instance", "depth")}
    card = Model.fresh("tiny-test", heads, diameter_px=28.0).card
    image = ImageInput(np.zeros((64, 64), np.uint8), "YX")
    assert scale.known_zoom(card, image, PredictOptions(("depth",))) == (card.zoom, None)
    assert scale.known_zoom(card, image, PredictOptions(("instance", "depth"))) is None
    given = scale.known_zoom(card, image, PredictOptions(("depth",), diameter_px=14.0))
    assert given == (2.0, 14.0)


@pytest.mark.parametrize(("foreground", "tiles"), [(0.9, 1), (0.002, 4)])
def test_a_look_ends_when_it_has_seen_enough_objects(
    foreground: float, tiles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model.fresh(
        "tiny-test",
        {"instance": task("instance").head_spec(())},
        diameter_px=8.0,
        tile=(112, 140),
    )
    runner, _ = open_runner(model, PredictOptions(device="cpu"))
    seen: list[int] = []

    def decode(self: Runner, batch: EncodedTiles, tasks: list[str]) -> dict[str, np.ndarray]:
        seen.append(len(batch.tiles))
        maps = np.zeros((1, 4, *batch.pixels.shape[-2:]), np.float32)
        maps[0, 0, :, : round(foreground * maps.shape[-1] + 0.5)] = 1
        maps[0, 3] = 0.25
        return {"instance": maps}

    monkeypatch.setattr(Runner, "decode", decode)
    shape = scale._seen_shape((1000, 1000), runner)
    assert scale._median_size(np.zeros((3, *shape), np.float32), runner) == 0.25
    assert seen == [1] * tiles


def test_a_look_at_nothing_tells_no_size(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model.fresh("tiny-test", {"instance": task("instance").head_spec(())}, diameter_px=28.0)
    runner, _ = open_runner(model, PredictOptions(device="cpu"))
    nothing = {"instance": np.zeros((1, 4, 112, 112), np.float32)}
    monkeypatch.setattr(Runner, "decode", lambda *_: nothing)
    assert scale._median_size(np.zeros((3, 100, 100), np.float32), runner) is None
