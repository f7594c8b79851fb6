"""A small stack, its tokens by a random model, and a way to run generators."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest

from dinoscope.config import ExploreOptions
from dinoscope.engine.explore.encode import TokenSet, encode
from dinoscope.engine.explore.store import TokenStore
from dinoscope.models.model import Model
from dinoscope.types import ImageInput


def run_to_end(steps: Generator[Any, None, Any], seen: list[Any] | None = None) -> Any:
    """What a generator returns; what it yields goes into `seen`."""
    while True:
        try:
            item = next(steps)
        except StopIteration as stop:
            return stop.value
        if seen is not None:
            seen.append(item)


@pytest.fixture(scope="session")
def end() -> Callable[..., Any]:
    return run_to_end


@pytest.fixture(scope="session")
def model() -> Model:
    return Model.fresh("tiny-test", seed=0).eval()


@pytest.fixture(scope="session")
def stack() -> ImageInput:
    """Three planes whose left half is striped and whose right half is noise, (3, 120, 100)."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:120, :100]
    planes = []
    for period in (5, 6, 7):
        stripes = 100 * np.sin(rows / period * 2)
        planes.append(np.where(columns < 50, stripes, rng.normal(0, 60, rows.shape)))
    return ImageInput(np.stack(planes).astype(np.float32), "ZYX", {"Y": 0.5, "X": 0.5}, "halves")


@pytest.fixture
def store() -> TokenStore:
    return TokenStore()


@pytest.fixture(scope="session")
def token_set(model: Model, stack: ImageInput) -> TokenSet:
    found: TokenSet = run_to_end(encode(stack, model, ExploreOptions(threads=1, zoom=1)))
    return found


@pytest.fixture(scope="session")
def halves() -> ImageInput:
    """1 left, 2 right, of the size of one plane."""
    labels = np.ones((120, 100), np.uint8)
    labels[:, 50:] = 2
    return ImageInput(labels, "YX", {}, "labels")
