"""Accuracy on held-out development images, through the command line as a user would run it."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.rows import Row


def dinoscope(*arguments: str) -> dict[str, Any]:
    """Run the command line and return its JSON document."""
    command = [sys.executable, "-m", "dinoscope.cli", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def split_folder(data: Path | None, name: str, split: str, folder: Path) -> dict[str, str]:
    """Copy the images and labels of one split; the modality of each, by stem, is returned."""
    if data is None or not (data / name / "index.csv").exists():
        raise FileNotFoundError(f"data set {name!r} was not found: say where it is with --data")
    modality: dict[str, str] = {}
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    with (data / name / "index.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["split"] != split:
                continue
            for kind in ("images", "labels"):
                source = next((data / name / kind).glob(f"{row['id']}.*"))
                shutil.copy(source, folder / kind / source.name)
            modality[row["id"]] = row.get("modality", "")
    return modality


def main_rows(data: Path | None) -> Iterator[Row]:
    """AP at IoU 0.5 of the embedded model on dsb2018's development-validation images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split_folder(data, "dsb2018", "dev-val", folder)
        dinoscope(
            "predict", str(folder / "images"), "--task", "instance", "--output", str(folder / "out")
        )
        scores = dinoscope(
            "evaluate",
            *("--predictions", str(folder / "out"), "--truth", str(folder / "labels")),
            *("--task", "instance"),
        )
        yield Row("dsb2018 dev-val, mean per-image AP@0.5 (more)", scores["ap50"], must=0.72)
        yield Row("dsb2018 dev-val, mean AP 0.5:0.95 (more)", scores["map"])
