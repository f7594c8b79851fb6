from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.conftest import Run

from dinoscope.engine import exporting, timing
from dinoscope.models.model import Model
from dinoscope.models.runtime import engines

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "TILE_PX", 112)
    monkeypatch.setattr(timing, "SECONDS", 0.0)


def test_export_writes_the_file_and_says_how_far_it_is(
    run: Run, model_file: Path, tmp_path: Path
) -> None:
    target = tmp_path / "m.onnx"
    done = run(
        "export", model_file, "--task", "depth", "--output", target, "--threads", 1, "--json"
    )
    assert done.status == 0, done.err
    (entry,) = done.document["files"]
    assert entry["path"] == str(target)
    assert entry["max_error"]["depth"] < 1e-4
    assert target.is_file()
    assert json.loads((tmp_path / "m.json").read_text())["tasks"] == ["depth"]


def test_export_prints_a_table(run: Run, model_file: Path, tmp_path: Path) -> None:
    args = ("--task", "depth", "--precision", "fp32,fp16", "--threads", 1)
    done = run("export", model_file, "--output", tmp_path / "m.onnx", *args)
    assert done.status == 0, done.err
    assert [line.split()[0] for line in done.out.splitlines()] == ["file", "fp32", "fp16", "opset"]


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (("--output", "m.txt"), 2, "ends in .onnx"),
        (("--output", "no/such/m.onnx"), 1, "does not exist"),
        (("--output", "m.onnx", "--opset", "12"), 1, "opset is 12"),
        (("--output", "m.onnx", "--precision", "int8"), 2, "without images to calibrate"),
        (("--output", "m.onnx", "--task", "pca"), 2, "no head for 'pca'"),
        (("--output", "m.onnx", "--threads", "-1"), 2, "threads is -1"),
    ],
)
def test_export_refuses_what_cannot_be(
    run: Run,
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("export", model_file, *args)
    assert done.status == status
    assert message in done.err
    assert not list(tmp_path.glob("m*"))


def test_a_library_that_is_missing_is_named_with_its_extra(
    run: Run, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    done = run("export", model_file, "--output", tmp_path / "m.onnx")
    assert done.status == 2
    assert "needs onnx, which is not installed" in done.err
    assert "napari-dinoscope[export]" in done.err


def test_predict_with_a_runtime_that_is_missing_names_the_extra(
    run: Run, model_file: Path, image_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(engines.COMPILED, "openvino", ("openvino_missing", "all", "OpenVINO"))
    args = ("--task", "pca", "--runtime", "openvino", "--output", tmp_path / "out")
    done = run("predict", image_file, "--model", model_file, *args)
    assert done.status != 0
    assert "napari-dinoscope[all]" in done.err


def test_benchmark_describes_the_machine_and_every_row(
    run: Run, model_file: Path, tmp_path: Path
) -> None:
    plot = tmp_path / "speed.svg"
    args = ("--size", "112,126", "--batch", "1,2", "--runtime", "torch", "--threads", 1)
    done = run("benchmark", "--model", model_file, *args, "--plot", plot, "--json")
    assert done.status == 0, done.err
    document = done.document
    assert document["machine"]["threads"] == 1
    assert document["machine"]["processor"]
    rows = document["rows"]
    assert [(r["size"], r["batch"]) for r in rows] == [(112, 1), (112, 2), (126, 1), (126, 2)]
    for row in rows:
        assert 0 < row["tokens_ms"] <= row["median_ms"] <= row["p95_ms"]
        assert row["images_per_s"] == pytest.approx(1000 * row["batch"] / row["median_ms"])
        assert row["mpx_per_s"] == pytest.approx(row["images_per_s"] * row["size"] ** 2 / 1e6)
        assert row["passes"] >= 5
    assert plot.read_text().count("Mpx/s</text>") == 4


def test_benchmark_measures_each_runtime_in_a_process_of_its_own(
    run: Run, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    class Done:
        returncode, stderr = 0, ""

        def __init__(self, runtime: str) -> None:
            row: dict[str, Any] = dict.fromkeys(timing.Timing.__dataclass_fields__, 1.0)
            row |= {"runtime": runtime, "detail": runtime}
            self.stdout = json.dumps({"rows": [row], "notes": [f"{runtime} was tried"]})

    def start(command: list[str], **_: object) -> Done:
        asked.append(command)
        return Done(command[command.index("--runtime") + 1])

    monkeypatch.setattr("dinoscope.commands.benchmark.subprocess.run", start)
    done = run("benchmark", "--model", model_file, "--runtime", "torch,onnxruntime", "--json")
    assert done.status == 0, done.err
    assert [r["runtime"] for r in done.document["rows"]] == ["torch", "onnxruntime"]
    assert "onnxruntime was tried" in done.document["notes"]
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--runtime", "tensorrt"), "runtime is 'tensorrt'"),
        (("--size", "20", "--runtime", "torch"), "size is 20"),
        (("--batch", "0", "--runtime", "torch"), "batch is 0"),
        (("--plot", "x.png"), "ends in .svg"),
        (("--size", "big"), "expected whole numbers"),
    ],
)
def test_benchmark_refuses_what_cannot_be(
    run: Run, model_file: Path, args: tuple[str, ...], message: str
) -> None:
    done = run("benchmark", "--model", model_file, "--threads", 1, *args)
    assert done.status != 0
    assert message in done.err


def test_memory_that_ends_is_said_with_what_to_change(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dinoscope.config import PredictOptions
    from dinoscope.errors import DeviceError

    def fail(*_: object) -> np.ndarray:
        raise MemoryError

    monkeypatch.setattr(timing, "_row", fail)
    options = PredictOptions(("pca",), device="cpu", threads=1)
    with pytest.raises(DeviceError, match="not enough memory for 3 images of 112 px"):
        timing.measure(tiny_model, options, (112,), (3,))
