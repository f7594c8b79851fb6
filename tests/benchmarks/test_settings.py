"""The precision that benchmarks train in."""

from __future__ import annotations

import pytest
import torch

from benchmarks.settings import autocast, training_precision


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_for_processors_that_know_it(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: native, raising=False)
    assert training_precision() == (torch.bfloat16 if native else None)
    with autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if native else torch.float32)
