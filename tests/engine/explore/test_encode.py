from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinoscope.arrays.normalize import Normalization, limits, to_model_input
from dinoscope.config import ExploreOptions
from dinoscope.engine.dense import Runner
from dinoscope.engine.explore.encode import encode, load_original, resolve_layers
from dinoscope.engine.explore.store import EncodedPlane, TokenStore
from dinoscope.errors import DeviceError, InputError, OutputError
from dinoscope.models.adapter import add_lora
from dinoscope.models.checkpoint import load_model, save_model
from dinoscope.models.model import Model, with_layers
from dinoscope.types import ImageInput

End = Callable[..., Any]


def test_tokens_are_those_of_the_backbone(end: End, model: Model) -> None:
    image = ImageInput(np.random.default_rng(0).normal(size=(112, 112)).astype(np.float32), "YX")
    found = end(encode(image, model, ExploreOptions(threads=1, zoom=1)))
    normalization = Normalization.from_json(model.card.normalization)
    pixels = to_model_input(
        np.asarray(image.data)[None], limits(image, normalization), normalization
    )
    with torch.inference_mode():
        last = model.encode(torch.from_numpy(pixels)[None]).last[0].numpy()
    assert found.grid.grid == (8, 8)
    expected = last.reshape(len(last), -1).T
    assert np.allclose(found.tokens(()), expected, atol=0.02)


def test_layers_are_concatenated_and_the_model_is_left_alone(
    end: End, model: Model, stack: ImageInput
) -> None:
    before = model.backbone.layers
    both = end(encode(stack, model, ExploreOptions(threads=1, layers="early+last", zoom=1)))
    last = end(encode(stack, model, ExploreOptions(threads=1, layers="last", zoom=1)))
    assert both.dim == 2 * last.dim
    assert np.array_equal(both.tokens((1,))[:, last.dim :], last.tokens((1,)))
    assert model.backbone.layers == before
    assert with_layers(model, (0,)).backbone.vit is model.backbone.vit


@pytest.mark.parametrize("text", ["9", "first", "", "last+"])
def test_a_layer_that_is_not_there_is_named(text: str) -> None:
    with pytest.raises(InputError, match="layers are"):
        resolve_layers(text, 4)


def test_the_same_pixels_are_encoded_once(end: End, model: Model, stack: ImageInput) -> None:
    store, options = TokenStore(), ExploreOptions(threads=1, zoom=1)
    first = end(encode(stack, model, options, store=store))
    again = end(encode(stack, model, options, store=store))
    changed = np.array(stack.data)
    changed[1] += np.random.default_rng(5).normal(0, 5, changed[1].shape)
    touched = ImageInput(changed, stack.axes, stack.pixel_size_um, stack.name)
    other = end(encode(touched, model, options, store=store))
    assert (first.cached, again.cached) == (0, 3)
    assert first.keys == again.keys
    assert other.keys[1] != first.keys[1]
    layers = end(
        encode(stack, model, ExploreOptions(threads=1, zoom=1, layers="early"), store=store)
    )
    assert layers.cached == 0


def test_a_region_has_the_patches_of_the_whole_plane(
    end: End, model: Model, stack: ImageInput
) -> None:
    whole = end(encode(stack, model, ExploreOptions(threads=1, zoom=1), indices=[(0,)]))
    options = ExploreOptions(threads=1, zoom=1, region=(30, 40, 75, 71))
    part = end(encode(stack, model, options, indices=[(0,)]))
    assert part.grid.shape == (45, 31)
    assert part.grid.origin == (30, 40)
    rows, columns = part.grid.patches_at(np.array([30, 74]), np.array([40, 70]))
    assert (rows[0], columns[0]) == (0, 0)
    assert (rows[1] + 1, columns[1] + 1) == part.grid.grid
    first = whole.grid.patch_at(30, 40)
    assert np.allclose(part.grid.centres(0, 0), whole.grid.centres(*first))
    expected = whole.tokens((0,)).reshape(*whole.grid.grid, -1)
    expected = expected[first[0] :, first[1] :][: part.grid.grid[0], : part.grid.grid[1]]
    assert np.array_equal(part.tokens((0,)).reshape(expected.shape), expected)
    assert part.plane((0,)).guide.shape == (45, 31)


def test_zoom_makes_patches_finer(end: End, model: Model, stack: ImageInput) -> None:
    found = end(encode(stack, model, ExploreOptions(threads=1, zoom=2), indices=[(0,)]))
    assert found.grid.step == (7, 7)
    assert found.grid.grid == (18, 15)
    assert found.grid.first == (3, 3)
    assert found.plane((0,)).guide.shape == (120, 100)


def test_a_plane_that_was_not_encoded_is_named(end: End, model: Model, stack: ImageInput) -> None:
    found = end(encode(stack, model, ExploreOptions(threads=1, zoom=1), indices=[(0,)]))
    with pytest.raises(InputError, match=r"plane \(2,\) of 'halves' was not encoded"):
        found.tokens((2,))
    with pytest.raises(InputError):
        end(encode(stack, model, indices=[]))


def test_damaged_weights_are_noticed(end: End, stack: ImageInput) -> None:
    broken = Model.fresh("tiny-test", seed=0).eval()
    with torch.no_grad():
        broken.backbone.vit.norm.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="not all numbers"):
        end(encode(stack, broken, ExploreOptions(threads=1, zoom=1)))


def test_too_little_memory_is_an_error_to_act_on(
    end: End, model: Model, stack: ImageInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Runner, x: torch.Tensor) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Runner, "_encode", full)
    with pytest.raises(DeviceError, match="not enough memory for a tile"):
        end(encode(stack, model, ExploreOptions(threads=1, zoom=1)))


# The adapter switched off


def tuned_file(folder: Path, on: str = "backbone") -> tuple[Path, Model]:
    model = Model.fresh("tiny-test", seed=0).eval()
    from dinoscope.models.card import HeadSpec

    model.add_head("instance", HeadSpec("dense", 3))
    save_model(model, folder / "base.dinoscope", include_backbone=True)
    add_lora(model, rank=2, on=on)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 50)
    path = folder / "tuned.dinoscope"
    save_model(model, path)
    return path, Model.fresh("tiny-test", seed=0).eval()


def test_with_the_adapter_off_tokens_are_the_originals(
    end: End, tmp_path: Path, stack: ImageInput
) -> None:
    path, plain = tuned_file(tmp_path)
    options = ExploreOptions(threads=1, zoom=1)
    tuned = end(encode(stack, load_model(path, device="cpu"), options))
    off = end(encode(stack, load_original(path, device="cpu"), options, adapter=False))
    expected = end(encode(stack, plain, options))
    assert tuned.tuned
    assert off.tuned
    assert not off.adapter
    assert tuned.comparable != off.comparable
    assert np.array_equal(off.tokens((0,)), expected.tokens((0,)))
    assert np.abs(tuned.tokens((0,)) - expected.tokens((0,))).max() > 0.1


def test_a_model_without_an_adapter_on_its_backbone_has_no_original(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no LoRA adapter"):
        load_original("tiny-test", device="cpu")
    path, _ = tuned_file(tmp_path, on="heads")
    with pytest.raises(InputError, match="no LoRA adapter"):
        load_original(path, device="cpu")


# The store


def plane(seed: int) -> EncodedPlane:
    rng = np.random.default_rng(seed)
    return EncodedPlane(
        rng.normal(size=(100, 50)).astype(np.float16),
        np.zeros(4, np.float32),
        np.zeros((10, 10), np.uint8),
    )


def test_memory_is_bounded_and_held_planes_go_to_disk(tmp_path: Path) -> None:
    store = TokenStore(tmp_path / "kept", memory_mb=0.03)  # three planes of 10 kB
    store.hold(["a"])
    for number, key in enumerate("abcdef"):
        store.put(key, plane(number))
        assert store.memory_bytes <= 30_000
    assert np.array_equal(store.get("a").tokens, plane(0).tokens)
    assert "b" not in store
    with pytest.raises(KeyError):
        store.get("b")
    assert len(list((tmp_path / "kept").iterdir())) == 3
    store.release(["a"])
    assert "a" not in store
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_full_disk_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    store = TokenStore(tmp_path, memory_mb=0.015)
    store.hold("ab")
    store.put("a", plane(0))
    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OutputError, match="No space left"):
        store.put("b", plane(1))


def test_a_temporary_folder_goes_with_its_store() -> None:
    store = TokenStore(memory_mb=0)
    store.hold(["a"])
    store.put("a", plane(0))
    folder = store._folder
    assert folder.is_dir()
    del store
    assert not folder.exists()
