"""``dinoscope models``: the list, one model, and tokens on an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinoscope.commands.models import lines
from dinoscope.commands.tokens import describe_tokens


def test_the_list_names_backbones_and_says_whether_they_are_here(run: Any) -> None:
    listed = run("models")
    assert listed.status == 0
    row = next(line for line in listed.out.splitlines() if line.startswith("dinov2_vits14 "))
    assert "not on this disk" in row
    names = {m["name"] for m in run("models", "--json").document["models"]}
    assert {"embedded", "dinov2_vits14", "dinov2_vitg14_reg"} <= names
    assert "tiny-test" not in names


def test_a_model_is_described(run: Any, model_file: Path) -> None:
    facts = run("models", model_file, "--json").document
    assert facts["embed_dim"] == 64
    assert facts["patch"] == 14
    assert facts["parameters"]["backbone"] > 200_000
    assert facts["parameters"]["total"] > facts["parameters"]["backbone"]
    assert set(facts["tasks"]) == {"instance", "semantic", "depth", "classification"}
    assert facts["tasks"]["semantic"]["classes"] == ["background", "cell", "rod"]
    text = run("models", model_file).out
    assert "embed_dim" in text
    assert "background, cell, rod" in text


def test_a_backbone_that_is_not_here_is_described_from_the_table(run: Any) -> None:
    done = run("models", "dinov2_vitl14_reg", "--json")
    assert done.status == 0
    assert done.document["embed_dim"] == 1024
    assert done.document["registers"] == 4
    assert done.document["available"] is False
    assert "dinov2_vitl14_reg4_pretrain.pth" in done.err


def test_tokens_on_an_image(run: Any, model_file: Path, image_file: Path) -> None:
    done = run("models", model_file, "--image", image_file, "--json")
    assert done.status == 0, done.err
    tokens = done.document["tokens"]
    assert tokens["grid"] == [tokens["tile"][0] // 14, tokens["tile"][1] // 14]
    assert tokens["finite"] is True
    assert tokens["norm_min"] <= tokens["norm_median"] <= tokens["norm_max"]


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["models", "nobody"], 2, "there is no model 'nobody'"),
        (["models", "missing.dinoscope"], 1, "missing.dinoscope"),
        (["models", "--image", "a.tif"], 2, "without a model"),
    ],
)
def test_what_it_refuses(argv: list[str], status: int, said: str, run: Any) -> None:
    done = run(*argv)
    assert done.status == status
    assert said in done.err


def test_a_tampered_model_file_is_refused(run: Any, model_file: Path, tmp_path: Path) -> None:
    content = bytearray(model_file.read_bytes())
    content[-100] ^= 1
    path = tmp_path / "changed.dinoscope"
    path.write_bytes(content)
    done = run("models", path)
    assert done.status == 1
    assert "changed.dinoscope" in done.err
    assert len(done.err.splitlines()) == 1


def test_statistics_tell_varied_tokens_from_collapsed_ones() -> None:
    rng = np.random.default_rng(0)
    varied = describe_tokens(rng.normal(size=(16, 8, 8)), rng.normal(size=16))
    same = describe_tokens(np.ones((16, 8, 8)), np.ones(16))
    assert varied["effective_rank"] > 8
    assert abs(varied["cosine_to_mean"]) < 0.5
    assert same["cosine_to_mean"] == pytest.approx(1)
    assert same["norm_max"] == pytest.approx(4)
    assert not describe_tokens(np.full((4, 3, 3), np.nan), np.ones(4))["finite"]


def test_lines_align_and_leave_out_what_is_empty() -> None:
    assert lines({"a": 1, "long": 0.123456, "none": None, "empty": [], "deep": {"x": [1, 2]}}) == [
        "a     1",
        "long  0.1235",
        "deep",
        "  x  1, 2",
    ]
