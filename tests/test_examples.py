"""Every example runs as it stands: on the CPU, offline, into a folder that is given."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.py"))


def test_there_is_an_example_for_each_capability() -> None:
    names = " ".join(p.stem for p in EXAMPLES)
    for capability in (
        "predict",
        "train",
        "height_map",
        "evaluate",
        "synthetic",
        "model",
        "worker",
    ):
        assert capability in names


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_explains_itself(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_runs(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(path), "--output", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "an example shows what it found"
    assert any((tmp_path / "out").iterdir()), "an example leaves something to look at"
