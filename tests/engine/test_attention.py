"""Products of queries and keys stay in bounds, head by head, and nothing else changes."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dinoscope.engine.attention import LEAST_FACTOR, AttentionCap, largest_products  # noqa: E402
from dinoscope.models.model import Model  # noqa: E402


def products(model: Model, x: torch.Tensor) -> list[np.ndarray]:
    """The largest products of every block, by head."""
    found: list[np.ndarray] = []
    hooks = [
        b.attn.qkv.register_forward_hook(
            lambda _, __, out, h=b.attn.num_heads: found.append(largest_products(out, h).numpy())
        )
        for b in model.backbone.vit.blocks
    ]
    with torch.no_grad():
        model.encode(x)
    for hook in hooks:
        hook.remove()
    return found


@pytest.fixture
def model() -> Model:
    """A small model whose first head of the first block looks at single tokens."""
    made = Model.fresh("tiny-test", seed=3)
    layer = made.backbone.vit.blocks[0].attn.qkv
    heads = made.backbone.vit.blocks[0].attn.num_heads
    width = layer.in_features // heads
    with torch.no_grad():
        for row in (0, layer.in_features):
            layer.weight[row : row + width] *= 40
    return made.train()


def test_only_heads_that_exceed_are_scaled_down(model: Model) -> None:
    x = torch.rand(2, 3, 56, 56)
    before = products(model, x)
    assert before[0][0] > 30
    others = copy.deepcopy(model.backbone.vit.state_dict())
    cap = AttentionCap(model.backbone.vit, every=1)
    for step in range(40):
        with torch.no_grad():
            model.encode(x)
        cap(model, step, 0.0)
        cap.after_step({})
        if step == 0:
            now = products(model, x)[0][0]
            assert now == pytest.approx(before[0][0] * LEAST_FACTOR, rel=0.01)
    cap.close()
    after = products(model, x)
    assert after[0][0] == pytest.approx(30, rel=0.01)
    np.testing.assert_allclose(after[0][1:], before[0][1:], rtol=1e-5)
    for name, value in model.backbone.vit.state_dict().items():
        if "blocks.0.attn.qkv" not in name:
            torch.testing.assert_close(value, others[name])


def test_a_closed_cap_and_one_between_looks_change_nothing(model: Model) -> None:
    x = torch.rand(1, 3, 56, 56)
    cap = AttentionCap(model.backbone.vit, every=1000)
    cap(model, 5, 0.0)
    before = products(model, x)
    model.encode(x)
    cap.after_step({})
    np.testing.assert_array_equal(products(model, x)[0], before[0])
    cap(model, 999 - 1, 0.0)
    cap.close()
    model.encode(x)
    cap.after_step({})
    np.testing.assert_array_equal(products(model, x)[0], before[0])


def test_products_are_those_of_the_softmax() -> None:
    q, k = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[3.0, 1.0], [-2.0, 4.0]])
    qkv = torch.cat([q, k, torch.zeros(2, 2)], 1)[None]
    expected = float((q @ k.T).max()) / 2**0.5
    assert float(largest_products(qkv, 1)) == pytest.approx(expected)
    by_head = largest_products(qkv, 2)
    assert by_head.tolist() == pytest.approx([3.0, 8.0])


def test_a_copy_of_a_watched_model_can_be_made_and_changes_nothing(model: Model) -> None:
    cap = AttentionCap(model.backbone.vit, every=1)
    copied = copy.deepcopy(model).eval()
    with torch.no_grad():
        copied.encode(torch.rand(1, 3, 56, 56))
    before = copied.backbone.vit.blocks[0].attn.qkv.weight.clone()
    cap.after_step({})
    assert torch.equal(copied.backbone.vit.blocks[0].attn.qkv.weight, before)
