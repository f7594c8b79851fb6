from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch

from dinoscope.errors import InputError
from dinoscope.models.backbone import Backbone
from dinoscope.models.registry import BACKBONES, BackboneSpec, get_spec, layer_indices
from dinoscope.models.vit import VisionTransformer


@pytest.mark.parametrize("spec", BACKBONES.values(), ids=lambda s: s.name)
def test_table_agrees_with_the_architecture_that_timm_builds(spec: BackboneSpec) -> None:
    with torch.device("meta"):  # no memory, no time, also for the giant
        vit = timm.create_model(spec.timm_id, **spec.timm_kwargs())
    assert vit.embed_dim == spec.embed_dim
    assert len(vit.blocks) == spec.depth
    assert vit.num_reg_tokens == spec.registers
    assert vit.patch_embed.patch_size == (spec.patch, spec.patch)
    millions = sum(p.numel() for p in vit.parameters()) / 1e6
    assert millions == pytest.approx(spec.params_m, rel=0.02)


@pytest.mark.parametrize(
    "spec", [s for s in BACKBONES.values() if s.source == "hub"], ids=lambda s: s.name
)
def test_hub_and_official_names_are_those_that_timm_knows(spec: BackboneSpec) -> None:
    config = timm.get_pretrained_cfg(spec.timm_id)
    assert config.hf_hub_id == spec.hub_repo
    assert config.url.rsplit("/", 1)[1] == spec.official_file
    assert config.mean == spec.mean
    assert config.std == spec.std
    assert config.input_size[-1] == spec.image_size


@pytest.mark.parametrize(
    ("depth", "layers"), [(12, (3, 7, 11)), (24, (7, 15, 23)), (40, (12, 26, 39)), (4, (0, 2, 3))]
)
def test_layers_are_the_ends_of_the_thirds(depth: int, layers: tuple[int, ...]) -> None:
    assert layer_indices(depth) == layers


def test_every_size_comes_with_and_without_registers() -> None:
    for letter in "sblg":
        plain, register = (get_spec(f"dinov2_vit{letter}14{s}") for s in ("", "_reg"))
        assert (plain.registers, register.registers) == (0, 4)
        assert plain.prefix_tokens == 1
        assert register.prefix_tokens == 5


def test_unknown_backbone_names_those_that_there_are() -> None:
    with pytest.raises(InputError, match=r"backbone is 'resnet50'; expected one of embedded, dino"):
        get_spec("resnet50")


@pytest.mark.parametrize("spec", BACKBONES.values(), ids=lambda s: s.name)
def test_the_own_transformer_has_the_tensors_of_timms(spec: BackboneSpec) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(spec.timm_id, **spec.timm_kwargs()).state_dict()
        own = VisionTransformer(spec).state_dict()
    assert {n: t.shape for n, t in own.items()} == {n: t.shape for n, t in theirs.items()}


@pytest.mark.parametrize("name", ["dinov2_vits14", "dinov2_vits14_reg", "dinov2_vitg14"])
@pytest.mark.parametrize("shape", [(112, 112), (84, 126)])
def test_the_own_transformer_computes_what_timms_does(name: str, shape: tuple[int, int]) -> None:
    spec = replace(get_spec(name), embed_dim=48, depth=2, num_heads=3, image_size=112)
    torch.manual_seed(0)
    theirs = timm.create_model(spec.timm_id, **spec.timm_kwargs()).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    own = Backbone(spec, VisionTransformer(spec), (0, 1)).eval()
    own.vit.load_state_dict(theirs.state_dict())
    x = torch.rand(2, 3, *shape)
    with torch.inference_mode():
        expected = theirs.forward_features((x - own.mean) / own.std)
        found = own(x)
    torch.testing.assert_close(found.cls_token, expected[:, 0], atol=1e-4, rtol=1e-4)
    patches = found.last.flatten(2).transpose(1, 2)
    torch.testing.assert_close(patches, expected[:, spec.prefix_tokens :], atol=1e-4, rtol=1e-4)
