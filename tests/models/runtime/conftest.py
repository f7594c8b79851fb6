from __future__ import annotations

import pytest
import torch

from dinoscope.models.adapter import add_lora
from dinoscope.models.model import Model
from dinoscope.models.runtime import choose, records


@pytest.fixture(autouse=True)
def own_records(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Measurements of one test are not another's."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(records, "cache_dir", lambda: folder)


@pytest.fixture
def lively_model() -> Model:
    """A tiny model whose blocks do something: LayerScale starts at nearly nothing otherwise."""
    torch.manual_seed(0)
    model = Model.fresh("tiny-test", seed=0).eval()
    with torch.no_grad():
        model.backbone.vit.pos_embed.normal_(0, 0.2)
        for block in model.backbone.vit.blocks:
            block.ls1.gamma.uniform_(0.2, 1)
            block.ls2.gamma.uniform_(0.2, 1)
    return model


def adapted(model: Model, seed: int = 1) -> Model:
    """The model with LoRA layers that are not zero."""
    add_lora(model, rank=4, blocks="all")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def wait_for_builds(model: Model) -> None:
    """Until every thread that builds something for the model has ended."""
    for thread in list(choose._entry(model).threads.values()):
        thread.join(60)
