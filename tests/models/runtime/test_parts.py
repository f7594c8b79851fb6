from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.models.runtime.conftest import adapted

from dinoscope.errors import InputError
from dinoscope.models.backbone import build_backbone
from dinoscope.models.card import ModelCard
from dinoscope.models.model import Model
from dinoscope.models.registry import BackboneSpec
from dinoscope.models.runtime.packed import PackedVit
from dinoscope.models.runtime.parts import resampling_matrix, take_apart

SHAPES = [(1, 3, 112, 112), (2, 3, 126, 168), (1, 3, 56, 70)]


@pytest.mark.parametrize(("old", "new"), [(8, 8), (8, 5), (8, 13), (37, 20), (16, 37)])
def test_resampling_is_that_of_pytorch(old: int, new: int) -> None:
    image = torch.randn(1, 1, old, old, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(
        image, (new, new), mode="bicubic", antialias=True, align_corners=False
    )
    matrix = resampling_matrix(old, new)
    found = matrix @ image[0, 0].numpy() @ matrix.T
    np.testing.assert_allclose(found, expected[0, 0].numpy(), atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_tokens_are_those_of_the_modules(
    lively_model: Model, shape: tuple[int, ...]
) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = lively_model.encode(x)
        found = PackedVit(take_apart(lively_model), torch.float32)(x)
    torch.testing.assert_close(found.patch_tokens, exact.patch_tokens, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found.cls_token, exact.cls_token, atol=2e-5, rtol=1e-4)


def test_an_adapter_is_merged_into_a_copy(lively_model: Model) -> None:
    x = torch.rand(1, 3, 112, 112)
    with torch.inference_mode():
        before = lively_model.encode(x).patch_tokens
    model = adapted(lively_model)
    with torch.inference_mode():
        exact = model.encode(x).patch_tokens
        found = PackedVit(take_apart(model), torch.float32)(x).patch_tokens
    assert (exact - before).abs().max() > 0.05
    torch.testing.assert_close(found, exact, atol=5e-5, rtol=1e-3)
    assert model.lora is not None
    assert not model.lora.merged


@pytest.mark.parametrize("name", ["dinov2_vits14", "dinov2_vits14_reg", "dinov2_vitg14_reg"])
def test_every_kind_of_dinov2_can_be_taken_apart(
    shrunk: dict[str, BackboneSpec], name: str
) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(shrunk[name], layers=(0, 2)).eval()
    model = Model(ModelCard("m", name, layers=(0, 2)), backbone).eval()
    with torch.no_grad():
        for name_, parameter in backbone.vit.named_parameters():
            if "gamma" in name_ or "embed" in name_:
                parameter.uniform_(-0.5, 0.5)
    x = torch.rand(1, 3, 112, 98)
    parts = take_apart(model)
    assert parts.gated is ("vitg" in name)
    with torch.inference_mode():
        exact, found = model.encode(x), PackedVit(parts, torch.float32)(x)
    torch.testing.assert_close(found.patch_tokens, exact.patch_tokens, atol=3e-5, rtol=1e-3)


def test_a_network_of_another_make_is_refused(lively_model: Model) -> None:
    for block in lively_model.backbone.vit.blocks:
        block.mlp.fc2 = torch.nn.Linear(100, 64)
    with pytest.raises(InputError, match="inner layers are 256 and 100 wide"):
        take_apart(lively_model)


def _scaled(model: Model, factor: float) -> Model:
    with torch.no_grad():
        for block in model.backbone.vit.blocks:
            block.attn.qkv.weight[:128] *= factor
    return model


@pytest.mark.parametrize(("factor", "careful"), [(1.0, False), (40.0, True)])
def test_bfloat16_attention_holds_large_scores_too(
    lively_model: Model, factor: float, careful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dinoscope.models.runtime.packed.ROWS", 32)
    model = _scaled(lively_model, factor)
    x = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    packed = PackedVit(take_apart(model), torch.bfloat16)
    with torch.inference_mode():
        exact = model.encode(x).patch_tokens
        found = packed(x).patch_tokens.float()
    assert packed._careful is careful
    assert torch.isfinite(found).all()
    cosine = torch.nn.functional.cosine_similarity(exact, found, dim=1).mean()
    assert cosine > (0.999 if factor == 1 else 0.9)


def test_tokens_of_a_batch_are_those_of_its_tiles(lively_model: Model) -> None:
    packed = PackedVit(take_apart(lively_model), torch.bfloat16)
    x = torch.rand(3, 3, 84, 112)
    with torch.inference_mode():
        together = packed(x).patch_tokens
        alone = torch.cat([packed(tile[None]).patch_tokens for tile in x])
    torch.testing.assert_close(together.float(), alone.float(), atol=0.05, rtol=0.05)
