"""What every test starts from: torch before OpenGL, one thread, no network, nobody's settings."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dinoscope.models.model import Model

# Before anything reads them. Sub-processes of the tests inherit these too.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
if sys.platform == "linux":
    os.environ["QT_QPA_PLATFORM"] = (
        "xcb"  # the display that pytest-xvfb starts, never the desktop's
    )

from dinoscope.models.device import import_torch

# Triton must be loaded before the first window makes an OpenGL context; import_torch sees to it.
import_torch().set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Downloads, models and settings of the tests go to a folder of their own."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DINOSCOPE_CACHE", str(home / "cache"))
        patch.setenv("DINOSCOPE_MODELS", str(home / "models"))
        patch.setenv("HF_HOME", str(home / "huggingface"))
        patch.setenv("HF_HUB_CACHE", str(home / "hub-cache"))
        patch.setenv("XDG_CACHE_HOME", str(home / "xdg-cache"))
        patch.setenv("XDG_DATA_HOME", str(home / "xdg-data"))
        yield home


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """A test that reaches for another machine fails at once, wherever it runs."""
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = str(address[0])
            if host not in ("127.0.0.1", "::1", "localhost"):
                raise AssertionError(f"a test tried to connect to {address!r}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_locally)
        yield


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A test that asked for more leaves one to those after it: two processes share the cores."""
    yield
    if import_torch().get_num_threads() != 1:
        import_torch().set_num_threads(1)


@pytest.fixture
def tiny_model() -> Model:
    """A random model with an instance and a classification head, small enough for any test."""
    from dinoscope.models.card import HeadSpec
    from dinoscope.models.model import Model

    heads = {
        "instance": HeadSpec("dense", 3),
        "classification": HeadSpec("pooled", 2, classes=("round", "long")),
    }
    return Model.fresh("tiny-test", heads, seed=0).eval()
