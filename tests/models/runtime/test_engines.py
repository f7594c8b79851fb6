from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from tests.models.runtime.conftest import adapted

from dinoscope.errors import InputError, MissingLibraryError
from dinoscope.models.model import Model
from dinoscope.models.runtime import engines
from dinoscope.models.runtime.choose import agreement
from dinoscope.models.runtime.engines import Encoder, build, require, torch_encoder
from dinoscope.models.runtime.graph import backbone_model, check_opset
from dinoscope.models.runtime.packed import PackedVit
from dinoscope.models.runtime.parts import take_apart

pytest.importorskip("onnx")


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_compiled_runtime_gives_the_same_tokens_at_several_sizes(
    lively_model: Model, runtime: str
) -> None:
    pytest.importorskip(runtime)
    model = adapted(lively_model)
    encoder = build(model, runtime, "cpu", threads=1)
    for shape in ((1, 3, 112, 112), (2, 3, 70, 126), (1, 3, 168, 84)):
        x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            exact, found = model.encode(x), encoder.encode(x)
        assert found.patch_tokens.shape == exact.patch_tokens.shape
        for a, b in ((exact.patch_tokens, found.patch_tokens), (exact.cls_token, found.cls_token)):
            cosine = torch.nn.functional.cosine_similarity(a, b.float(), dim=1)
            assert cosine.min() > 0.999
    assert agreement(model, encoder, "cpu") > 0.9995


@pytest.mark.parametrize("tiles", [2, 3])
def test_openvino_gives_the_same_tokens_two_tiles_at_a_time(
    lively_model: Model, monkeypatch: pytest.MonkeyPatch, tiles: int
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(engines, "_TILES_THAT_PAY", 2 * tiles)
    encoder = build(lively_model, "openvino", "cpu", 2)
    x = torch.rand(tiles, 3, 56, 42, generator=torch.Generator().manual_seed(3))
    alone, together = encoder.encode(x), encoder.encode(x)
    assert encoder.encode._paired is not None  # type: ignore[attr-defined]
    for a, b in (
        (alone.patch_tokens, together.patch_tokens),
        (alone.cls_token, together.cls_token),
    ):
        assert a.shape == b.shape
        assert torch.nn.functional.cosine_similarity(a, b, dim=1).min() > 0.999


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pytorch_agrees_with_itself_in_both_precisions(
    lively_model: Model, dtype: torch.dtype
) -> None:
    encoder = torch_encoder(lively_model, "cpu", dtype)
    assert str(dtype).removeprefix("torch.") in encoder.detail
    assert agreement(lively_model, encoder, "cpu") > 0.9995


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_attention_as_cards_compute_it_gives_the_same_tokens(
    lively_model: Model, dtype: torch.dtype
) -> None:
    packed = PackedVit(take_apart(lively_model), dtype, blocked=False)
    assert agreement(lively_model, Encoder("torch", "", packed), "cpu") > 0.9995


def test_the_graph_is_valid_and_has_any_size(lively_model: Model) -> None:
    import onnx

    model = onnx.load_from_string(backbone_model(take_apart(lively_model)))
    onnx.checker.check_model(model, full_check=True)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", 3, "height", "width"]
    assert model.opset_import[0].version == 17


@pytest.mark.parametrize("opset", [9, 16, 99])
def test_an_opset_that_cannot_be_written_is_named(opset: int) -> None:
    with pytest.raises(InputError, match=rf"opset is {opset}; expected 17 to"):
        check_opset(opset)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_runtime_that_is_not_installed_is_an_error_that_names_the_extra(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        engines.importlib.util, "find_spec", lambda name: None if name == runtime else find(name)
    )
    with pytest.raises(MissingLibraryError, match=r"napari-dinoscope\[all\]"):
        require(runtime, "cpu")
    assert not engines.installed(runtime)


def test_a_runtime_for_another_device_is_an_error() -> None:
    pytest.importorskip("openvino")
    with pytest.raises(InputError, match="'openvino' on device 'cuda'"):
        require("openvino", "cuda")


def test_pixels_reach_a_runtime_as_they_are() -> None:
    x = torch.rand(1, 3, 14, 14).contiguous(memory_format=torch.channels_last)
    pixels = engines._pixels(x)
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, x.numpy())
