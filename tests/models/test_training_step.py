"""The quicker ways through a training step compute what PyTorch's and peft's own compute."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dinoscope.models.adapter import add_lora, lora_state
from dinoscope.models.fused import norm_relu, resize_like
from dinoscope.models.lowrank import fast_lora
from dinoscope.models.model import Model
from dinoscope.tasks.base import IGNORE, task
from dinoscope.tasks.instance import soft_dice


def distance(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found.double() - truth.double()).norm() / truth.double().norm())


def maps(*shape: int, kind: torch.dtype, offset: float = 0.0, seed: int = 0) -> torch.Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + offset
    return made.to(kind).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("offset", [0.0, 3.0])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_normalisation_and_relu_have_the_gradients_of_pytorch(
    kind: torch.dtype, offset: float
) -> None:
    norm = nn.GroupNorm(4, 16)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
    back = maps(3, 16, 56, 48, kind=kind, seed=1)

    def gradients(of: torch.dtype, fused: bool) -> list[torch.Tensor]:
        layer = copy.deepcopy(norm)
        x = maps(3, 16, 56, 48, kind=kind, offset=offset).to(of).requires_grad_(True)
        y = norm_relu(layer, x) if fused else F.relu(F.group_norm(x, 4, layer.weight, layer.bias))
        y.backward(back.to(of))
        assert x.grad is not None
        assert layer.weight.grad is not None
        assert layer.bias.grad is not None
        return [y.detach(), x.grad, layer.weight.grad, layer.bias.grad]

    exact = gradients(torch.float32, fused=False)
    for found, truth in zip(gradients(kind, fused=True), exact, strict=True):
        if kind == torch.float32:
            assert distance(found, truth) < 1e-5
        else:  # a few roundings to bfloat16 apart, of values `offset` from zero
            assert distance(found, truth) < (1 + offset) * 5e-3


def test_a_resize_behind_a_concatenation_has_the_gradient_of_pytorch() -> None:
    beside, low = maps(2, 3, 12, 16, kind=torch.float32), maps(2, 5, 6, 8, kind=torch.float32)
    back = maps(2, 8, 12, 16, kind=torch.float32)
    found = []
    for resize in (
        lambda x: resize_like(x, beside),
        lambda x: F.interpolate(x, size=(12, 16), mode="bilinear"),
    ):
        x = low.clone(memory_format=torch.preserve_format).requires_grad_(True)
        torch.cat([beside, resize(x)], 1).backward(back)
        found.append(x.grad)
    torch.testing.assert_close(found[0], found[1])


def test_decoder_keeps_its_parameter_names() -> None:
    model = Model.fresh("tiny-test", {"semantic": task("semantic").head_spec(("background", "a"))})
    assert model.decoder is not None
    names = dict(model.decoder.named_parameters())
    assert names["detail2.0.0.weight"].shape == (32, 12, 3, 3)
    assert names["join8.0.1.bias"].shape == names["tokens.1.bias"].shape == (128,)
    assert len(names) == 9 * 3 + 4 + 2 * 2


@pytest.mark.parametrize("first", [False, True])
def test_quicker_lora_layers_have_the_outputs_and_gradients_of_peft(first: bool) -> None:
    model = Model.fresh("tiny-test", {}, seed=1)
    add_lora(model, blocks=1, rank=2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    block = model.backbone.vit.blocks[-1]
    tokens = torch.randn(2, 9, model.backbone.embed_dim, generator=torch.Generator().manual_seed(0))
    state = {n: t.clone() for n, t in model.state_dict().items()}
    kept = [type(m) for m in model.modules()]

    def run(fast: bool, half: bool = True) -> list[torch.Tensor]:
        model.zero_grad(set_to_none=True)
        x = tokens.clone().requires_grad_(not first)
        with fast_lora(model, torch.bfloat16 if fast else None):
            assert ("Fast" in type(block.mlp.fc1).__name__) == fast
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                y = block(x)
            y.square().mean().backward()
        grads = [
            p.grad for n, p in model.named_parameters() if ".lora_" in n and p.grad is not None
        ]
        return [y.detach(), *grads, *([] if first else [x.grad])]  # type: ignore[list-item]

    exact, own, found = run(False, half=False), run(False), run(True)
    assert len(found) == 1 + 8 + (not first)
    for a, b, truth in zip(found, own, exact, strict=True):
        assert distance(a, truth) < max(1.5 * distance(b, truth), 1e-2)
    assert [type(m) for m in model.modules()] == kept
    assert not any("half" in n for m in model.modules() for n in vars(m))
    assert set(lora_state(model))
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())


def test_layers_whose_weights_train_or_that_drop_stay_those_of_peft() -> None:
    model = Model.fresh("tiny-test", {}, seed=1)
    add_lora(model, blocks=1, rank=2, dropout=0.1)
    with fast_lora(model, torch.bfloat16):
        assert not any(type(m).__name__.startswith("Fast") for m in model.modules())


def test_semantic_loss_is_cross_entropy_and_dice_over_known_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(2, 4, 8, 8, generator=generator)
    target = torch.randint(0, 3, (2, 8, 8), generator=generator)
    target[:, :3] = IGNORE
    known = target != IGNORE
    cross = F.cross_entropy(raw, target, ignore_index=IGNORE)
    share = raw.softmax(1)
    dice = [soft_dice(share[:, c] * known, ((target == c) & known).float()) for c in range(3)]
    expected = cross + 0.5 * torch.stack(dice).mean()
    torch.testing.assert_close(task("semantic").loss(raw, target, {}), expected)
    nothing = task("semantic").loss(raw, torch.full_like(target, IGNORE), {})
    assert float(nothing) == 0.0
