"""Several losses as one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dinoscope.config import TrainOptions, parse_weights
from dinoscope.engine.balance import (
    GradNormBalance,
    UncertaintyBalance,
    balance,
    shared_parameters,
)
from dinoscope.errors import InputError, TrainingError

BOTH = {"a": 1.0, "b": 1.0}


def two_losses(scale: float, seed: int = 0) -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    layer = nn.Linear(8, 8)
    return layer, torch.randn(64, 8), torch.randn(64, 8) * scale


def gradient_norm(loss: torch.Tensor, parameters: list[nn.Parameter]) -> float:
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
    return float(torch.sqrt(sum(g.square().sum() for g in gradients)))


def test_gradnorm_makes_gradients_of_losses_a_thousandfold_apart_alike() -> None:
    layer, inputs, _ = two_losses(1.0)
    targets = torch.randn(64, 8)
    parameters = list(layer.parameters())
    weigh = GradNormBalance(parameters)
    optimizer = torch.optim.SGD(parameters, lr=1e-3)
    for _ in range(200):
        squared = (layer(inputs) - targets).square().mean()
        total = weigh({"a": squared, "b": 1000 * squared}, BOTH)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        weigh.after_backward()
    squared = (layer(inputs) - targets).square().mean()
    norms = [
        weigh.weights["a"] * gradient_norm(squared, parameters),
        weigh.weights["b"] * gradient_norm(1000 * squared, parameters),
    ]
    assert norms[0] == pytest.approx(norms[1], rel=0.1)
    assert sum(weigh.weights.values()) == pytest.approx(2.0)


def test_gradnorm_pulls_the_task_that_learns_slowly() -> None:
    layer, inputs, _ = two_losses(1.0)
    parameters = list(layer.parameters())
    weigh = GradNormBalance(parameters, alpha=1.0)
    for step in range(60):
        learned = layer(inputs).square().mean() / (1 + step)  # a loss that falls
        stuck = layer(inputs).square().mean()
        weigh({"fast": learned, "slow": stuck}, {"fast": 1.0, "slow": 1.0})
    fast = weigh.weights["fast"] / 60
    assert weigh.weights["slow"] > fast


def test_gradnorm_leaves_a_task_that_is_absent_as_it_was() -> None:
    layer, inputs, _ = two_losses(1.0)
    weigh = GradNormBalance(list(layer.parameters()))
    for _ in range(5):
        loss = layer(inputs).square().mean()
        weigh({"a": loss, "b": 10 * loss}, BOTH)
    before = dict(weigh.weights)
    weigh({"a": layer(inputs).square().mean()}, {"a": 1.0})
    ratio = weigh.weights["b"] / before["b"]
    assert ratio == pytest.approx(sum(before.values()) / 2, rel=0.2)
    assert set(weigh.weights) == {"a", "b"}


def test_gradnorm_needs_shared_parameters_and_says_why() -> None:
    with pytest.raises(TrainingError, match="no parameter of the backbone"):
        balance("gradnorm", parameters={"heads.instance.out.weight": nn.Parameter(torch.ones(1))})
    with pytest.raises(InputError, match="only heads are trained"):
        TrainOptions(tune="heads", balance="gradnorm")


def test_shared_are_the_parameters_of_the_last_adapted_block() -> None:
    names = [
        "backbone.vit.blocks.2.attn.qkv.lora_A.default.weight",
        "backbone.vit.blocks.10.mlp.fc1.lora_A.default.weight",
        "backbone.vit.blocks.10.mlp.fc1.lora_B.default.weight",
        "decoder.join2.0.weight",
    ]
    parameters = {n: nn.Parameter(torch.zeros(1)) for n in names}
    assert {id(p) for p in shared_parameters(parameters)} == {id(parameters[n]) for n in names[1:3]}


def test_uncertainty_weighs_a_noisy_loss_down() -> None:
    weigh = UncertaintyBalance()
    torch.manual_seed(0)
    value = nn.Parameter(torch.zeros(()))
    for _ in range(500):
        quiet = (value - 1).square() + 0.05
        noisy = (value + torch.randn(()) * 3).square() + 20
        weigh({"quiet": quiet, "noisy": noisy}, {"quiet": 1.0, "noisy": 1.0}).backward()
        weigh.after_backward()
        with torch.no_grad():
            value -= 0.02 * value.grad
        value.grad = None
    # exp(-s) L + s rests at s = log L, for losses relative to where they began.
    relative = {n: float(torch.exp(s.detach())) for n, s in weigh.log_variance.items()}
    assert relative["quiet"] < relative["noisy"]


@pytest.mark.parametrize("kind", ["equal", "fixed", "uncertainty", "gradnorm"])
def test_a_balance_goes_on_from_its_state(kind: str) -> None:
    layer, inputs, _ = two_losses(1.0)
    parameters = {f"backbone.vit.blocks.0.{n}": p for n, p in layer.named_parameters()}
    first = balance(kind, {"a": 2.0}, parameters=parameters)
    for _ in range(12):
        loss = layer(inputs).square().mean()
        first({"a": loss, "b": 5 * loss}, BOTH).backward()
        first.after_backward()
    second = balance(kind, {"a": 2.0}, parameters=parameters)
    second.load(first.state())
    loss = layer(inputs).square().mean()
    totals = [float(b({"a": loss, "b": 5 * loss}, BOTH).detach()) for b in (first, second)]
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)


def test_loss_weights_name_tasks() -> None:
    assert parse_weights(("instance=1", "depth=0.3")) == {"instance": 1.0, "depth": 0.3}
    for wrong in ("instance", "stars=1", "depth=0", "depth=x"):
        with pytest.raises(InputError, match=wrong):
            parse_weights((wrong,))
