"""One training in two processes, as ``accelerate launch`` starts them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from torch import nn

from dinoscope.engine.ranks import Ranks
from dinoscope.models.checkpoint import load_model

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from dinoscope.config import TrainOptions
from dinoscope.engine import fit as fitting, train as training
from dinoscope.engine.dataset import sources_from_folders

folder = Path(sys.argv[1])
seen = {}
original = fitting.losses_of

def losses(model, batch, options, device):
    seen["model"] = model
    seen.setdefault("names", []).append(batch.names)
    return original(model, batch, options, device)

fitting.losses_of = losses
source = sources_from_folders(folder / "images", folder / "labels", "instance")
options = TrainOptions(tune="lora-all", lora_rank=2, epochs=4, batch_size=2, crop_px=56, threads=1)
events = training.train([source], options, output=folder / "model.dinoscope", base="tiny-test")
while True:
    try:
        next(events)
    except StopIteration as stop:
        steps = stop.value.steps
        break
trained = [p for p in seen["model"].parameters() if p.requires_grad]
sums = [float(p.detach().double().sum()) for p in trained]
first = [float(p.detach().reshape(-1)[0]) for p in trained]
print(json.dumps({"sums": sums, "first": first, "steps": steps, "names": seen["names"]}))
"""


def start(rank: int, port: int, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for number in range(5):
        ids = np.zeros((64, 64), np.uint16)
        ids[8:24, 8:30], ids[36:56, 30:50] = 1, 2
        image = (ids > 0) * 150 + rng.integers(0, 40, ids.shape)
        tifffile.imwrite(tmp_path / "images" / f"{number}.tif", image.astype(np.uint8))
        tifffile.imwrite(tmp_path / "labels" / f"{number}.tif", ids)
    return tmp_path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_two_processes_hold_the_same_weights_and_write_one_model(folder: Path) -> None:
    port = free_port()
    processes = [start(rank, port, "-c", SCRIPT, str(folder)) for rank in (0, 1)]
    found = []
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err[-2000:]
        found.append(json.loads(out.splitlines()[-1]))
    assert found[0]["steps"] == found[1]["steps"] >= 4
    assert found[0]["sums"] == found[1]["sums"]
    assert found[0]["first"] == found[1]["first"]
    assert found[0]["names"] != found[1]["names"]  # each has seen batches of its own
    assert load_model(folder / "model.dinoscope", device="cpu").card.heads
    assert not list(folder.glob("*.part"))


def test_one_process_needs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks = Ranks()
    assert (ranks.count, ranks.first, ranks.device) == (1, True, None)
    layer = nn.Linear(2, 2)
    layer(torch.ones(1, 2)).sum().backward()
    assert layer.weight.grad is not None
    before = layer.weight.grad.clone()
    ranks.mean_gradients(layer.parameters())
    torch.testing.assert_close(layer.weight.grad, before)
    assert ranks.same(0.25) == 0.25
