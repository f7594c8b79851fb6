"""Plots of training logs."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from benchmarks import training_curves


def _log(path: Path, rows: list[str]) -> None:
    path.write_text("\n".join(rows) + "\n")


def test_stretches_follow_each_other_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    head = "minutes,val_ap50,val_depth_over_mean"
    _log(tmp_path / "embedded_training.csv", [head, "10,0.2,0.9", "20,,"])
    _log(tmp_path / "embedded_training_10.csv", [head, "5,0.6,0.7"])
    _log(tmp_path / "embedded_training_2.csv", [head, "30,0.4,0.8"])
    chart = training_curves.embedded(tmp_path)
    found = [(m["x"], m["y"]) for m in chart.marks if m["colour"] == training_curves.SERIES[0]]
    assert found == [([10.0], [0.2]), ([50.0], [0.4]), ([55.0], [0.6])]
    assert chart.x == (0, 55)
    assert [m["name"] for m in chart.marks] == ["AP, known sizes", "depth error", "", "", "", ""]


def test_neighbours_are_averaged() -> None:
    line = [(0.0, 1.0), (1.0, 3.0), (2.0, 8.0)]
    assert training_curves.smooth(line, 2) == [(0.5, 2.0), (2.0, 8.0)]


def test_the_logs_that_are_here_can_be_drawn() -> None:
    drawn = ElementTree.fromstring(training_curves.draw(training_curves.RESULTS))
    lines = [e for e in drawn.iter() if e.tag.endswith("polyline")]
    assert len(lines) > 8
    assert not [e for e in drawn.iter() if "nan" in str(e.attrib.values())]
