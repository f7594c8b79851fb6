"""What the benchmarks compute themselves: intervals, boxes, kept results, peers, ablations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import bootstrap, embedded, forest, outside, probe, retrain, run
from benchmarks.peers import distance, flows, star
from benchmarks.peers.unet import UNet
from benchmarks.rows import Row, write_rows
from benchmarks.settings import Kept, Settings
from dinoscope.arrays.metrics import average_precision
from dinoscope.datasets import synthetic
from dinoscope.models.model import Model
from dinoscope.tasks.base import task


def test_interval_over_groups_is_wider_where_images_of_a_group_agree() -> None:
    rng = np.random.default_rng(0)
    values = np.repeat(rng.uniform(size=10), 10)
    groups = [str(i) for i in np.repeat(np.arange(10), 10)]
    low, high = bootstrap.interval(values.tolist(), groups)
    alone = bootstrap.interval(values.tolist(), [str(i) for i in range(100)])
    assert low < values.mean() < high
    assert high - low > 2 * (alone[1] - alone[0])


def test_box_overlaps_and_object_boxes() -> None:
    ids = np.zeros((10, 10), int)
    ids[2:6, 3:7] = 1
    ids[8:, 8:] = 3
    boxes = embedded.object_boxes(ids)
    assert boxes.tolist() == [[2, 3, 6, 7], [8, 8, 10, 10]]
    overlap = embedded.box_overlaps(np.array([[2.0, 3.0, 6.0, 9.0]]), boxes)
    assert overlap[0] == pytest.approx([16 / 24, 0])


def test_kept_results_are_not_computed_again(tmp_path: Path) -> None:
    settings = Settings(None, tmp_path)
    assert Kept(settings, "part").get("a b", lambda: {"x": 1}) == {"x": 1}

    def never() -> None:
        raise AssertionError("computed again")

    again = Kept(settings, "part")
    assert again.get("a b", never) == {"x": 1}
    assert again.file("a b/c", ".csv") == tmp_path / "part" / "a_b_c.csv"


def test_settings_from_flags_and_part_that_fails(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    assert run.main(["embedded", "--json", str(out), "--only", "dsb"]) == 1  # no --data
    assert json.loads(out.read_text()) == []


def test_rows_keep_their_interval(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    write_rows([Row("x", 0.5, must=0.4, low=0.3, high=0.7)], path)
    [row] = json.loads(path.read_text())
    assert (row["low"], row["high"], row["must"]) == (0.3, 0.7, 0.4)


def test_rival_is_the_best_of_the_peers(tmp_path: Path) -> None:
    for name, value in (("a", 0.4), ("b", 0.6)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"scores": {"dsb": value}}))
    settings = Settings(None, tmp_path, rivals=tmp_path)
    assert embedded.rival(settings, "dsb") == 0.6
    assert embedded.rival(settings, "other") is None


def _logit(probability: np.ndarray) -> np.ndarray:
    clipped = np.clip(probability, 1e-4, 1 - 1e-4)
    return np.log(clipped / (1 - clipped))


@pytest.mark.parametrize("method", [distance, flows, star])
@pytest.mark.parametrize("kind", ["touching", "nuclei"])
def test_a_peer_finds_the_objects_again_from_its_own_targets(method, kind) -> None:
    ids = synthetic.make(kind, (112, 112), 3, 22).instances
    maps = method.targets(ids)
    assert maps.shape == (method.CHANNELS, 112, 112)
    if method is distance:
        raw = _logit(maps)
    elif method is flows:
        raw = np.concatenate([_logit(maps[:1]), 5 * maps[1:]])
    else:
        rays = np.maximum(maps[1:], 0.1) / star.UNIT_PX
        raw = np.concatenate([_logit(maps[:1]), np.log(np.expm1(rays))])  # softplus undone
    assert average_precision(ids, method.decode(raw.astype(np.float32)), (0.5,))[0] > 0.9


@pytest.mark.parametrize("method", [distance, flows, star])
def test_a_peer_learns_and_answers_for_an_empty_image(method) -> None:
    net = UNet(method.CHANNELS)
    target = torch.from_numpy(method.targets(np.pad(np.ones((12, 12), int), 10)))[None]
    loss = method.loss(net(torch.rand(1, 3, 32, 32)), target)
    loss.backward()
    assert np.isfinite(float(loss.detach()))
    assert not method.decode(np.full((method.CHANNELS, 32, 32), -5, np.float32)).any()


def _instance_model() -> Model:
    heads = {"instance": task("instance").head_spec(())}
    model = Model.fresh("tiny-test", heads, fine_channels=2).eval()
    assert model.decoder is not None
    assert model.decoder.fine is not None
    torch.nn.init.normal_(model.decoder.fine[2].weight)
    return model


@pytest.mark.parametrize("variant", ["both", "tokens zeroed", "detail zeroed"])
def test_what_is_zeroed_has_no_say(variant: str) -> None:
    model = _instance_model()
    probe.raise_layer_scale(model)
    retrain.zero(model, variant)
    x, other = torch.rand(2, 1, 3, 56, 56)
    with torch.no_grad():
        plain = model.decode_dense(model.encode(x), x, ["instance"])["instance"]
        tokens = model.decode_dense(model.encode(other), x, ["instance"])["instance"]
        detail = model.decode_dense(model.encode(x), other, ["instance"])["instance"]
    assert torch.equal(plain, tokens) == (variant == "tokens zeroed")
    assert torch.equal(plain, detail) == (variant == "detail zeroed")


def test_skipping_the_backbone_equals_zeroed_tokens() -> None:
    model = _instance_model()
    retrain.zero(model, "no backbone")
    x = torch.rand(1, 3, 56, 56)
    with torch.no_grad():
        whole = model(x)["instance"]
        retrain.skip_backbone(model)
        assert torch.equal(model(x)["instance"], whole)


def test_made_images_lie_outside_the_trained_parameters() -> None:
    for number in (0, 3):
        drawn = outside.parameters(outside.RODS, outside.FIRST_SEED + number)
        assert drawn["aspect"] > 6.5
        assert drawn["coverage"] > 0.8
        drawn = outside.parameters(outside.SURFACES, outside.FIRST_SEED + number)
        assert drawn["diameter"] > 80
        assert drawn["blur_range_px"] > 10


def test_forest_learns_bright_from_dark() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((48, 48), np.uint8)
    truth[12:36, 12:36] = 1
    pixels = (truth + 0.2 * rng.standard_normal(truth.shape))[None].astype(np.float32)
    trees = forest.train([pixels], [truth], threads=1)
    assert ((forest.predict(trees, pixels)[1] > 0.5) == truth).mean() > 0.95
