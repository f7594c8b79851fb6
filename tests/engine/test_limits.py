from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dinoscope.arrays.tiling import tile_grid
from dinoscope.config import PredictOptions
from dinoscope.engine import ahead, dense
from dinoscope.engine.ahead import parts_of
from dinoscope.engine.dense import Runner
from dinoscope.engine.predict import run_prediction
from dinoscope.errors import DeviceError
from dinoscope.models.model import Model
from dinoscope.types import ImageInput

MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    MemoryError(),
)


def limited(model: Model, most: int, error: BaseException) -> list[tuple[int, ...]]:
    """Let the model fail above so many input pixels in a batch; the shapes that it was given."""
    seen: list[tuple[int, ...]] = []
    encode = type(model).encode

    def try_encode(x: torch.Tensor) -> Any:
        seen.append(tuple(x.shape))
        if x.shape[0] * x.shape[2] * x.shape[3] > most:
            raise error
        return encode(model, x)

    model.encode = try_encode  # type: ignore[method-assign]
    return seen


def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dinoscope.models.precision.precision_for", lambda *_, **__: torch.float32)


@pytest.mark.parametrize("error", MEMORY, ids=lambda e: type(e).__name__)
def test_a_batch_that_is_too_large_is_halved_and_the_maps_stay_the_same(
    full_model: Model, error: BaseException
) -> None:
    pixels = np.random.default_rng(0).random((3, 200, 400), np.float32)
    full_model.eval()
    expected = Runner(full_model).dense_maps(pixels, ["depth"])["depth"]
    seen = limited(full_model, 140 * 140 * 2, error)
    runner = Runner(full_model)
    found = runner.dense_maps(pixels, ["depth"])["depth"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert runner.limits.batch is not None
    assert max(s[0] for s in seen[-3:]) <= runner.limits.batch


def test_a_tile_that_is_too_large_is_halved(
    full_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_float32(monkeypatch)
    monkeypatch.setattr("dinoscope.engine.limits.LEAST_TILE_PX", 56)
    full_model.card = full_model.card.replace(tile=(224, 252))
    image = ImageInput(np.random.default_rng(0).integers(0, 255, (300, 300), np.uint8), "YX")
    seen = limited(full_model, 130 * 130, MEMORY[0])
    options = PredictOptions(("depth", "pca"), device="cpu", runtime="torch", diameter_px=28)
    arrays, *_ = run_prediction(image, full_model, options)
    assert arrays["depth"].shape == (300, 300)
    assert max(seen[0][2:]) > 200
    assert max(seen[-1][2:]) <= 126


def test_memory_that_does_not_suffice_for_the_smallest_tile_is_an_error(
    full_model: Model,
) -> None:
    limited(full_model, 0, MEMORY[0])
    with pytest.raises(DeviceError, match="not enough memory for a tile of 140 px"):
        Runner(full_model).dense_maps(np.zeros((3, 150, 150), np.float32), ["depth"])


def test_heads_that_do_not_fit_into_memory_take_fewer_tiles(
    full_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).random((3, 200, 400), np.float32)
    full_model.eval()
    expected = Runner(full_model).dense_maps(pixels, ["depth"])["depth"]
    decode = type(full_model).decode_dense

    def try_decode(features: Any, x: torch.Tensor, tasks: Any) -> Any:
        if len(x) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return decode(full_model, features, x, tasks)

    full_model.decode_dense = try_decode  # type: ignore[method-assign]
    found = Runner(full_model).dense_maps(pixels, ["depth"])["depth"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_card_that_vanishes_is_a_clear_error(full_model: Model) -> None:
    runner = Runner(full_model, "cuda")  # named only: there need be none here
    with pytest.raises(DeviceError, match=r"'cuda' stopped working .*unspecified launch failure"):
        runner._give_way(RuntimeError("CUDA error: unspecified launch failure\nmore"), 1)


def test_any_other_failure_stays_what_it_is(full_model: Model) -> None:
    limited(full_model, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        Runner(full_model).dense_maps(np.zeros((3, 150, 150), np.float32), ["depth"])


def test_parts_hold_all_tiles_once_and_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "PART_PIXELS", 150_000)
    grid = tile_grid((1500, 300), tile_min=112, tile_max=140)
    parts = parts_of(grid, grid.tiles)
    assert [t for part in parts for t in part] == list(grid.tiles)
    assert len(parts) > 2
    for part in parts:
        y0, x0, y1, x1 = grid.bounds(part)
        assert (y1 - y0) * (x1 - x0) <= 150_000
    assert parts_of(grid, grid.tiles, whole=True) == [grid.tiles]


@pytest.mark.parametrize("local_contrast", [False, True])
def test_an_image_read_in_parts_gives_what_it_gives_at_once(
    full_model: Model, monkeypatch: pytest.MonkeyPatch, local_contrast: bool
) -> None:
    in_float32(monkeypatch)
    data = np.random.default_rng(0).integers(0, 255, (2, 420, 150), np.uint8)
    image = ImageInput(data, "TYX")
    options = PredictOptions(
        ("depth", "pca"), device="cpu", diameter_px=28, local_contrast=local_contrast
    )
    at_once, *_ = run_prediction(image, full_model, options)
    monkeypatch.setattr(ahead, "PART_PIXELS", 40_000)
    in_parts, *_ = run_prediction(image, full_model, options)
    np.testing.assert_allclose(in_parts["depth"], at_once["depth"], atol=1e-5)
    np.testing.assert_allclose(in_parts["pca"], at_once["pca"], atol=1e-3)


def test_closing_a_run_ends_the_thread_that_reads_ahead(full_model: Model) -> None:
    import threading

    from dinoscope.engine.predict import predict

    image = ImageInput(np.zeros((3, 150, 150), np.uint8), "TYX")
    options = PredictOptions(("depth",), device="cpu", diameter_px=28)
    steps = predict(image, full_model, options)
    for _ in range(3):
        next(steps)
    steps.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("dinoscope-pixels")]


def test_batches_hold_so_many_pixels_and_are_of_one_size(
    full_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(full_model)
    assert runner._tiles_at_once((518, 518)) == 2
    assert runner._tiles_at_once((252, 252)) == 9
    assert replace(runner, device="cuda")._tiles_at_once((518, 518)) == 8

    monkeypatch.setattr(dense, "BATCH_PIXELS", 4 * 112 * 112)
    grid = tile_grid((300, 300), tile_min=112, tile_max=112, margin=14)
    assert len(grid.tiles) == 9
    sizes = [len(batch.tiles) for batch in runner.tiles(np.zeros((3, 300, 300), np.float32), grid)]
    assert sizes == [3, 3, 3]


def test_wide_tokens_go_through_in_smaller_batches() -> None:
    spec = SimpleNamespace(embed_dim=1024)
    wide = SimpleNamespace(backbone=SimpleNamespace(spec=spec))
    assert Runner(wide)._tiles_at_once((518, 518)) == 1  # type: ignore[arg-type]
    assert Runner(wide)._tiles_at_once((252, 252)) == 3  # type: ignore[arg-type]
