"""The dense decoder: what it takes from tokens, and what from pixels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dinoscope.models.backbone import FeatureMap
from dinoscope.models.checkpoint import load_model, save_model
from dinoscope.models.heads import DenseDecoder
from dinoscope.models.model import Model
from dinoscope.tasks.base import task

DIM = 16


def features(seed: int = 0, batch: int = 1) -> FeatureMap:
    tokens = torch.rand(batch, DIM, 4, 6, generator=torch.Generator().manual_seed(seed))
    return FeatureMap(tokens, tokens[:, :, 0, 0], DIM)


def pixels(seed: int = 0, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, 56, 84, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def fine() -> DenseDecoder:
    torch.manual_seed(0)
    decoder = DenseDecoder(DIM, fine=4).eval()
    assert decoder.fine is not None
    torch.nn.init.normal_(decoder.fine[2].weight)
    return decoder


def test_a_new_path_changes_nothing_at_first() -> None:
    plain, wider = DenseDecoder(DIM).eval(), DenseDecoder(DIM, fine=4).eval()
    wider.load_state_dict({**wider.state_dict(), **plain.state_dict()})
    with torch.no_grad():
        assert torch.equal(plain(features(), pixels()), wider(features(), pixels()))


def test_a_token_is_unfolded_into_its_own_patch(fine: DenseDecoder) -> None:
    assert fine.fine is not None
    tokens = torch.zeros(1, DIM, 4, 6)
    with torch.no_grad():
        before = fine.fine(tokens)
        tokens[0, :, 1, 2] = 1
        changed = (fine.fine(tokens) != before).any(1)[0]
    assert changed.shape == (28, 42)
    assert changed[7:14, 14:21].all()
    assert changed.sum() == 49


def test_it_says_where_within_a_patch(fine: DenseDecoder) -> None:
    assert fine.fine is not None
    with torch.no_grad():
        patch = fine.fine(features().patch_tokens)[0, :, :7, :7]
    assert patch.flatten(1).std(1).min() > 0.01


def test_silent_detail_leaves_the_tokens_to_tell(fine: DenseDecoder) -> None:
    fine.detail_drop = 1.0
    with torch.no_grad():
        assert not torch.equal(fine(features(), pixels(0)), fine(features(), pixels(1)))
        fine.train()
        assert torch.equal(fine(features(), pixels(0)), fine(features(), pixels(1)))
        assert not torch.equal(fine(features(0), pixels()), fine(features(1), pixels()))


def test_about_the_wanted_share_is_silent(fine: DenseDecoder) -> None:
    torch.manual_seed(0)
    fine.detail_drop = 0.25
    with torch.no_grad():
        heard = fine.eval()(features(batch=200), pixels(batch=200))
        trained = fine.train()(features(batch=200), pixels(batch=200))
    same = (heard == trained).flatten(1).all(1).float().mean()
    assert 0.65 < same < 0.85


def test_a_file_says_whether_it_has_the_path(tmp_path: Path) -> None:
    heads = {"instance": task("instance").head_spec(())}
    for channels in (0, 2):
        model = Model.fresh("tiny-test", heads, fine_channels=channels).eval()
        path = tmp_path / f"{channels}.dinoscope"
        save_model(model, path)
        again = load_model(path, device="cpu")
        assert again.decoder is not None
        assert (again.decoder.fine is not None) == bool(channels)
        with torch.no_grad():
            found, kept = again(pixels())["instance"], model(pixels())["instance"]
        torch.testing.assert_close(found, kept, atol=1e-4, rtol=1e-4)
