from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from dinoscope.errors import ModelFileError
from dinoscope.models.backbone import build_backbone
from dinoscope.models.checkpoint import load_model
from dinoscope.models.registry import BackboneSpec
from dinoscope.models.weights import fill_backbone, identify, read_backbone_file, state_digest

OfficialState = Callable[..., dict[str, torch.Tensor]]
NAMES = ["dinov2_vits14", "dinov2_vits14_reg", "dinov2_vitg14", "dinov2_vitg14_reg"]


def reference_tokens(
    state: dict[str, torch.Tensor], x: torch.Tensor, heads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """DINOv2's forward pass written out on the published layout: class token, patch tokens."""

    def norm(t: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.layer_norm(t, weight.shape, weight, bias, 1e-6)

    def linear(t: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(t, state[f"{name}.weight"], state[f"{name}.bias"])

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (x - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    weight, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    patches = F.conv2d(x, weight, bias, stride=14).flatten(2).transpose(1, 2)
    tokens = torch.cat([state["cls_token"], patches], 1) + state["pos_embed"]
    registers = state.get("register_tokens", torch.zeros(1, 0, tokens.shape[-1]))
    tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], 1)
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    b, n, d = tokens.shape
    for i in range(depth):
        at = f"blocks.{i}"
        qkv = linear(norm(tokens, f"{at}.norm1"), f"{at}.attn.qkv")
        q, k, v = qkv.reshape(b, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(-2, -1)) * (d // heads) ** -0.5).softmax(-1) @ v
        mixed = mixed.transpose(1, 2).reshape(b, n, d)
        tokens = tokens + state[f"{at}.ls1.gamma"] * linear(mixed, f"{at}.attn.proj")
        y = norm(tokens, f"{at}.norm2")
        if f"{at}.mlp.w12.weight" in state:
            gate, value = linear(y, f"{at}.mlp.w12").chunk(2, dim=-1)
            y = linear(F.silu(gate) * value, f"{at}.mlp.w3")
        else:
            y = linear(F.gelu(linear(y, f"{at}.mlp.fc1")), f"{at}.mlp.fc2")
        tokens = tokens + state[f"{at}.ls2.gamma"] * y
    tokens = norm(tokens, "norm")
    return tokens[:, 0], tokens[:, 1 + registers.shape[1] :]


@pytest.mark.parametrize("name", NAMES)
def test_official_checkpoint_gives_the_tokens_of_dinov2s_own_forward_pass(
    name: str, shrunk: dict[str, BackboneSpec], official_state: OfficialState, tmp_path: Path
) -> None:
    spec = shrunk[name]
    state = official_state(spec)
    torch.save(state, tmp_path / str(spec.official_file))
    x = torch.rand(1, 3, 518, 518, generator=torch.Generator().manual_seed(2))

    model = load_model(tmp_path / str(spec.official_file), device="cpu")

    assert model.card.backbone == name
    with torch.inference_mode():
        features = model.encode(x)
        cls_token, patch_tokens = reference_tokens(state, x, spec.num_heads)
    ours = features.last.flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours, patch_tokens, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(features.cls_token, cls_token, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_both_layouts_of_the_same_weights_have_one_hash(
    name: str, shrunk: dict[str, BackboneSpec], official_state: OfficialState, tmp_path: Path
) -> None:
    spec = shrunk[name]
    torch.save(official_state(spec), tmp_path / "official.pth")
    official = load_model(tmp_path / "official.pth", device="cpu")
    save_file(official.backbone.vit.state_dict(), tmp_path / "timm.safetensors")

    timm = load_model(tmp_path / "timm.safetensors", device="cpu")

    assert timm.digest == official.digest == timm.card.backbone_hash
    other = build_backbone(spec)
    fill_backbone(other, official_state(spec, seed=1))
    assert state_digest(other.vit.state_dict()) != official.digest


def test_position_grid_of_another_size_is_still_native_after_loading(
    shrunk: dict[str, BackboneSpec], official_state: OfficialState
) -> None:
    state = official_state(shrunk["dinov2_vits14"])
    backbone = build_backbone(shrunk["dinov2_vits14"])
    fill_backbone(backbone, state)
    assert torch.equal(backbone.vit.pos_embed, state["pos_embed"])  # not resampled
    assert "mask_token" in state, "the given table was changed"


def test_file_of_another_backbone_is_refused_by_name(
    shrunk: dict[str, BackboneSpec], official_state: OfficialState
) -> None:
    state = official_state(shrunk["dinov2_vits14"])
    with pytest.raises(ModelFileError, match=r"'x.pth' does not fit backbone 'dinov2_vits14_reg'"):
        fill_backbone(build_backbone(shrunk["dinov2_vits14_reg"]), state, "x.pth")


def test_missing_tensor_is_refused(
    shrunk: dict[str, BackboneSpec], official_state: OfficialState
) -> None:
    state = official_state(shrunk["dinov2_vits14"])
    del state["blocks.1.ls2.gamma"]
    with pytest.raises(ModelFileError, match=r"blocks.1.ls2.gamma"):
        fill_backbone(build_backbone(shrunk["dinov2_vits14"]), state, "x.pth")


def test_transformer_outside_the_table_is_described(
    shrunk: dict[str, BackboneSpec], official_state: OfficialState
) -> None:
    state = official_state(shrunk["dinov2_vits14"])
    state = {k: v for k, v in state.items() if not k.startswith("blocks.2.")}
    with pytest.raises(ModelFileError, match=r"width 64, patch 14, 2 blocks and 0 registers"):
        identify(state, "x.pth")


def test_other_network_is_refused(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(8, 3, 7, 7)}, tmp_path / "resnet.safetensors")
    with pytest.raises(ModelFileError, match=r"'resnet.safetensors' is no DINOv2 backbone"):
        load_model(tmp_path / "resnet.safetensors", device="cpu")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_backbone_file_is_refused(
    suffix: str, shrunk: dict[str, BackboneSpec], official_state: OfficialState, tmp_path: Path
) -> None:
    path = tmp_path / f"backbone{suffix}"
    state = official_state(shrunk["dinov2_vits14"])
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelFileError, match=r"truncated or not a weight file|is damaged"):
        read_backbone_file(path)


def test_missing_backbone_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="there is no backbone file"):
        read_backbone_file(tmp_path / "none.pth")


def test_file_with_more_than_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "model": {"a": torch.zeros(1)}}, tmp_path / "training.pth")
    with pytest.raises(ModelFileError, match="not a table of tensors"):
        read_backbone_file(tmp_path / "training.pth")
