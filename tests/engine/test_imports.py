"""Libraries that are imported while others get their turn."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dinoscope.engine.imports import imported


def test_others_get_their_turn_while_a_module_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_to_import_ab.py").write_text("import time\ntime.sleep(0.4)\nready = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    turns = list(imported(["slow_to_import_ab"]))
    assert len(turns) > 2
    assert sys.modules["slow_to_import_ab"].ready == 1
    assert list(imported(["slow_to_import_ab"])) == []


def test_a_module_that_is_missing_is_left_to_who_needs_it() -> None:
    for _ in range(2):
        assert set(imported(["no_such_module_ab"])) <= {"no_such_module_ab"}
