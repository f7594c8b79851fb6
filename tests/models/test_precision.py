from __future__ import annotations

import pytest
import torch

from dinoscope.models import precision
from dinoscope.models.backbone import Backbone, build_backbone
from dinoscope.models.registry import get_spec


@pytest.fixture
def backbone(monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """A random backbone, on a processor that is said to compute bfloat16."""
    monkeypatch.setattr(precision, "precision_for", lambda *_, **__: torch.bfloat16)
    monkeypatch.setattr(precision, "_measured", {})
    torch.manual_seed(0)
    return build_backbone(get_spec("tiny-test")).eval()


def test_accurate_backbone_runs_in_bfloat16_without_a_note(backbone: Backbone) -> None:
    assert precision.check_bf16(backbone, "cpu") == (torch.bfloat16, "")


def test_backbone_that_loses_accuracy_runs_in_float32_and_says_so(backbone: Backbone) -> None:
    with torch.no_grad():
        # Nearly equal large values, whose difference eight bits of mantissa cannot hold.
        backbone.vit.norm.weight.fill_(1e-3)
        backbone.vit.norm.bias.zero_()
        for block in backbone.vit.blocks:
            block.attn.qkv.weight *= 60
            block.mlp.fc1.weight *= 60
            block.ls1.gamma.fill_(1)
            block.ls2.gamma.fill_(1)
    dtype, note = precision.check_bf16(backbone, "cpu")
    assert dtype == torch.float32
    assert "'tiny-test' loses accuracy in bfloat16 (cosine 0." in note
    assert "runs in float32" in note


def test_overflow_to_nan_counts_as_lost_accuracy(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():
        backbone.vit.blocks[0].mlp.fc1.weight.fill_(float("nan"))
    dtype, note = precision.check_bf16(backbone, "cpu")
    assert (dtype, "cosine 0.0000" in note) == (torch.float32, True)


def test_processor_without_bfloat16_encodes_nothing(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "precision_for", lambda *_, **__: torch.float32)
    monkeypatch.setattr(precision, "token_cosine", lambda *_: pytest.fail("encoded a tile"))
    assert precision.check_bf16(backbone, "cpu") == (torch.float32, "")


def test_answer_is_kept_for_the_same_weights_and_measured_again_for_others(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []
    monkeypatch.setattr(precision, "token_cosine", lambda *_: measured.append(1) or 1.0)
    precision.check_bf16(backbone, "cpu")
    precision.check_bf16(backbone, "cpu")
    assert len(measured) == 1
    with torch.no_grad():
        backbone.vit.norm.bias += 1
    precision.check_bf16(backbone, "cpu")
    assert len(measured) == 2


def test_training_mode_is_given_back(backbone: Backbone) -> None:
    backbone.train()
    precision.check_bf16(backbone, "cpu")
    assert backbone.training
