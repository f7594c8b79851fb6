from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch

from dinoscope.errors import InputError, ModelFileError
from dinoscope.models.adapter import (
    AdapterConfig,
    add_lora,
    load_lora,
    lora_state,
    merge,
    merge_lora,
    original_state,
    remove_lora,
    resolve_blocks,
)
from dinoscope.models.card import HeadSpec
from dinoscope.models.model import Model


def tile(seed: int = 1) -> torch.Tensor:
    return torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(seed))


def train_steps(model: Model, steps: int = 3) -> None:
    """A few real optimiser steps on everything that is trainable."""
    model.train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.02)
    for step in range(steps):
        loss = sum(out.float().square().mean() for out in model(tile(step)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def outputs(model: Model) -> list[torch.Tensor]:
    with torch.inference_mode():
        features = model.encode(tile())
        return [features.patch_tokens, features.cls_token, *model(tile()).values()]


def snapshot(model: Model) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in model.state_dict().items()}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


PLACES: list[dict[str, Any]] = [
    {"on": "backbone"},
    {"on": "backbone", "blocks": 2},
    {"on": "backbone", "blocks": (0, 3), "targets": ("qkv",), "rslora": False},
    {"on": "heads"},
    {"on": "both", "blocks": 1, "rank": 4, "alpha": 16.0},
]


def test_a_new_adapter_changes_no_output(tiny_model: Model) -> None:
    before = outputs(tiny_model)
    add_lora(tiny_model, rank=4)
    for old, new in zip(before, outputs(tiny_model), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", PLACES, ids=str)
def test_original_weights_stay_bit_identical_through_training_and_unloading(
    tiny_model: Model, options: dict[str, Any]
) -> None:
    before = snapshot(tiny_model)
    untrained = outputs(tiny_model)
    config = add_lora(tiny_model, **options)
    if config.on == "heads":
        tiny_model.backbone.requires_grad_(False)
    else:
        for name in ("decoder", "heads"):
            getattr(tiny_model, name).requires_grad_(False)
        for name, parameter in tiny_model.named_parameters():
            if ".lora_" in name:
                parameter.requires_grad_(True)
    train_steps(tiny_model, 10)
    assert same_bits(original_state(tiny_model), before)
    adapted = outputs(tiny_model)
    assert max(float((a - b).abs().max()) for a, b in zip(adapted, untrained, strict=True)) > 1e-3

    remove_lora(tiny_model)

    assert same_bits(snapshot(tiny_model), before)
    for old, new in zip(untrained, outputs(tiny_model), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize("options", PLACES, ids=str)
def test_merged_model_agrees_with_its_adapter(tiny_model: Model, options: dict[str, Any]) -> None:
    add_lora(tiny_model, **options)
    train_steps(tiny_model)
    adapted, state = outputs(tiny_model), snapshot(tiny_model)

    merged = merge(tiny_model)

    assert not any(".lora_" in name for name in merged.state_dict())
    for with_layers, without in zip(adapted, outputs(merged), strict=True):
        torch.testing.assert_close(without, with_layers, rtol=1e-4, atol=1e-4)
    assert same_bits(snapshot(tiny_model), state), "merging changed the model it was made from"


def test_merging_without_peft_gives_what_peft_gives(tiny_model: Model) -> None:
    add_lora(tiny_model, rank=4, on="both")
    train_steps(tiny_model)
    ours = merge(tiny_model)
    for module in list(tiny_model.modules()):
        if hasattr(module, "lora_A") and hasattr(module, "merge"):
            module.merge()
    theirs = original_state(tiny_model)
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-6)


def test_adapter_moves_to_a_fresh_model_as_layers_and_merged(tiny_model: Model) -> None:
    plain = copy.deepcopy(tiny_model)
    config = add_lora(tiny_model, rank=4, blocks=2)
    tiny_model.decoder.requires_grad_(False)  # type: ignore[union-attr]
    tiny_model.heads.requires_grad_(False)
    train_steps(tiny_model)
    adapted, state = outputs(tiny_model), lora_state(tiny_model)
    config = AdapterConfig.from_json(config.to_json())

    as_layers, merged = copy.deepcopy(plain), copy.deepcopy(plain)
    load_lora(as_layers, state, config)
    merge_lora(merged, state, config)

    for a, b, c in zip(adapted, outputs(as_layers), outputs(merged), strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(c, a, rtol=1e-4, atol=1e-4)
    assert all(".lora_" in n for n, p in as_layers.backbone.named_parameters() if p.requires_grad)


def test_heads_stay_trainable_beside_an_adapter_of_the_backbone(tiny_model: Model) -> None:
    add_lora(tiny_model, on="backbone", blocks=1)
    trainable = {n for n, p in tiny_model.named_parameters() if p.requires_grad}
    assert {n for n in trainable if n.startswith("backbone.")} == {
        n for n, _ in tiny_model.named_parameters() if n.startswith("backbone.") and ".lora_" in n
    }
    heads = {n for n, _ in tiny_model.named_parameters() if n.startswith(("decoder.", "heads."))}
    assert heads <= trainable


def test_what_was_frozen_before_stays_frozen(tiny_model: Model) -> None:
    tiny_model.heads.requires_grad_(False)
    add_lora(tiny_model, on="backbone")
    assert not any(p.requires_grad for p in tiny_model.heads.parameters())


def test_only_the_last_blocks_get_layers(tiny_model: Model) -> None:
    config = add_lora(tiny_model, rank=2, blocks=2)
    assert config.blocks == (2, 3)
    layers = {name.rsplit(".lora_", 1)[0] for name in lora_state(tiny_model)}
    assert layers == {
        f"backbone.vit.blocks.{b}.{layer}"
        for b in (2, 3)
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }


@pytest.mark.parametrize(("blocks", "numbers"), [("all", 4), (None, 4), (3, 3), (99, 4), ((1,), 1)])
def test_blocks_are_counted_from_the_last(tiny_model: Model, blocks: Any, numbers: int) -> None:
    assert len(resolve_blocks(blocks, tiny_model)) == numbers


@pytest.mark.parametrize("blocks", [0, -1, (7,), (), "some"])
def test_blocks_that_do_not_exist_are_refused(tiny_model: Model, blocks: Any) -> None:
    with pytest.raises(InputError, match="LoRA blocks are"):
        add_lora(tiny_model, blocks=blocks)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"on": "everywhere"}, "LoRA goes on 'everywhere'"),
        ({"rank": 0}, "rank"),
        ({"alpha": 0.0}, "alpha"),
        ({"dropout": 1.0}, "dropout"),
        ({"targets": ("query",)}, "fits no layer"),
    ],
)
def test_impossible_settings_are_refused_before_anything_changes(
    tiny_model: Model, options: dict[str, Any], match: str
) -> None:
    before = snapshot(tiny_model)
    with pytest.raises(InputError, match=match):
        add_lora(tiny_model, **options)
    assert same_bits(snapshot(tiny_model), before)
    assert all(p.requires_grad for p in tiny_model.parameters())


def test_a_second_adapter_is_refused(tiny_model: Model) -> None:
    add_lora(tiny_model, rank=2)
    with pytest.raises(InputError, match="has LoRA layers already"):
        add_lora(tiny_model, rank=2)


def test_lora_on_heads_needs_heads() -> None:
    with pytest.raises(InputError, match="fits no layer"):
        add_lora(Model.fresh("tiny-test"), on="heads")


def test_adapter_of_another_shape_or_model_is_refused(tiny_model: Model) -> None:
    other = Model.fresh("tiny-test", {"depth": HeadSpec("bins", 8)}, seed=1)
    config = add_lora(tiny_model, rank=4, on="both", blocks=1)
    state = lora_state(tiny_model)
    with pytest.raises(ModelFileError, match="not in the model"):
        merge_lora(other, state, config)
    wrong = {name: t[:, :3] if ".lora_A" in name else t for name, t in state.items()}
    with pytest.raises(ModelFileError, match="has shapes"):
        merge_lora(Model.fresh("tiny-test", tiny_model.card.heads), wrong, config)
    halved = {name: t for name, t in state.items() if ".lora_A" in name}
    with pytest.raises(ModelFileError, match="incomplete"):
        load_lora(Model.fresh("tiny-test", tiny_model.card.heads), halved, config)


def test_adapter_with_fewer_layers_than_its_card_leaves_the_model_as_it_was(
    tiny_model: Model,
) -> None:
    plain = copy.deepcopy(tiny_model)
    config = add_lora(tiny_model, rank=2)
    state = {n: t for n, t in lora_state(tiny_model).items() if "blocks.3" not in n}
    before = snapshot(plain)
    with pytest.raises(ModelFileError, match="12 layers, its card describes 16"):
        load_lora(plain, state, config)
    assert same_bits(snapshot(plain), before)
    assert all(p.requires_grad for p in plain.parameters())


def test_card_entry_that_is_no_adapter_is_refused() -> None:
    with pytest.raises(ModelFileError, match="adapter entry"):
        AdapterConfig.from_json({"rank": -3})
    with pytest.raises(ModelFileError, match="adapter entry"):
        AdapterConfig.from_json({"rank": "many"})


def test_using_a_merged_adapter_imports_no_peft() -> None:
    code = """
import sys, torch
from dinoscope.models.adapter import AdapterConfig, merge_lora
from dinoscope.models.model import Model
model = Model.fresh("tiny-test")
name = "backbone.vit.blocks.3.attn.qkv"
state = {f"{name}.lora_A.weight": torch.ones(2, 64), f"{name}.lora_B.weight": torch.ones(192, 2)}
merge_lora(model, state, AdapterConfig(rank=2, blocks=(3,)))
assert model.lora.merged
assert "peft" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
