from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from tests.models.runtime.conftest import adapted, wait_for_builds

from dinoscope.models.backbone import FeatureMap
from dinoscope.models.model import Model
from dinoscope.models.runtime import choose, records
from dinoscope.models.runtime.choose import Engine
from dinoscope.models.runtime.engines import Encoder

Build = Callable[[Model, str, str, int], Encoder]


@pytest.fixture
def runtimes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Compiled runtimes are stood in for by PyTorch; the names of those that were built."""
    built: list[str] = []

    def build(model: Model, runtime: str, device: str, threads: int) -> Encoder:
        built.append(runtime)
        return Encoder(runtime, runtime, model.encode)

    monkeypatch.setattr(choose, "build", build)
    monkeypatch.setattr(choose, "installed", lambda _: True)
    monkeypatch.setattr(choose, "require", lambda *_: None)
    return built


def engine(model: Model, choice: str, **options: object) -> Engine:
    return Engine(model, "cpu", torch.float32, choice=choice, **options)  # type: ignore[arg-type]


def test_a_runtime_asked_for_by_hand_is_built_once(
    lively_model: Model, runtimes: list[str]
) -> None:
    assert engine(lively_model, "openvino").encoder.runtime == "openvino"
    assert engine(lively_model, "openvino").encoder.runtime == "openvino"
    assert runtimes == ["openvino"]


def test_pytorch_computes_until_the_build_is_ready(
    lively_model: Model, runtimes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def slow(model: Model, runtime: str, device: str, threads: int) -> Encoder:
        go.wait(30)
        return Encoder(runtime, runtime, model.encode)

    monkeypatch.setattr(choose, "build", slow)
    used = engine(lively_model, "openvino", wait=False)
    assert used.encoder.runtime == "torch"
    used.encode(torch.rand(1, 3, 56, 56))
    go.set()
    wait_for_builds(lively_model)
    assert used.encoder.runtime == "torch", "never within a plane"
    used.refresh()
    assert used.encoder.runtime == "openvino"


@pytest.mark.parametrize("fails", [False, True])
def test_pytorch_computes_without_a_compiler_where_there_is_none(
    lively_model: Model, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    def compiled(module: torch.nn.Module) -> object:
        def forward(x: torch.Tensor) -> FeatureMap:
            if fails:
                raise RuntimeError("no C++ compiler was found\nmore")
            return module(x)  # type: ignore[no-any-return]

        return forward

    monkeypatch.setattr(torch, "compile", compiled)
    used = engine(lively_model, "compile")
    assert used.encoder.runtime == "compile"
    x = torch.rand(1, 3, 56, 56)
    with torch.inference_mode():
        found = used.encode(x).patch_tokens
        torch.testing.assert_close(found, lively_model.encode(x).patch_tokens)
    used.refresh()
    assert used.encoder.runtime == ("torch" if fails else "compile")
    assert [n.split(" here")[0] for n in used.notes] == (
        ["torch.compile cannot compile this backbone"] if fails else []
    )


def test_a_changed_adapter_is_merged_anew(lively_model: Model) -> None:
    pytest.importorskip("onnxruntime")
    model = adapted(lively_model)
    used = engine(model, "onnxruntime")
    x = torch.rand(1, 3, 56, 56)
    with torch.inference_mode():
        first = used.encode(x).patch_tokens
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(-3)
    with torch.inference_mode():
        second, exact = used.encode(x).patch_tokens, model.encode(x).patch_tokens
    assert used.encoder.runtime == "onnxruntime"
    torch.testing.assert_close(second, exact, atol=1e-4, rtol=1e-3)
    assert (second - first).abs().max() > 0.01


def test_a_runtime_whose_tokens_disagree_is_refused(
    lively_model: Model, runtimes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: Model, runtime: str, device: str, threads: int) -> Encoder:
        def encode(x: torch.Tensor) -> FeatureMap:
            features = model.encode(x)
            noise = torch.randn(features.patch_tokens.shape)
            return FeatureMap(features.patch_tokens + noise, features.cls_token, 64)

        return Encoder(runtime, runtime, encode)

    monkeypatch.setattr(choose, "build", wrong)
    used = engine(lively_model, "openvino")
    assert used.encoder.runtime == "torch"
    assert "OpenVINO's tokens differ from PyTorch's (cosine 0." in used.notes[0]
    assert used.notes[0].endswith("so PyTorch is used.")


def test_a_runtime_that_fails_is_refused_and_said_once(
    lively_model: Model, runtimes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: Model, runtime: str, device: str, threads: int) -> Encoder:
        raise RuntimeError("unsupported instruction\nmore")

    monkeypatch.setattr(choose, "build", broken)
    used = engine(lively_model, "onnxruntime")
    used.refresh()
    assert used.encoder.runtime == "torch"
    assert len(used.notes) == 1
    assert "ONNX Runtime cannot run this backbone (RuntimeError: unsupported" in used.notes[0]


def test_auto_stays_with_pytorch_for_little_work(lively_model: Model, runtimes: list[str]) -> None:
    used = engine(lively_model, "auto", patience_s=1000)
    used.encode(torch.rand(1, 3, 56, 56))
    used.refresh()
    assert (used.encoder.runtime, runtimes) == ("torch", [])


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({"torch": 1.0, "openvino": 0.4, "onnxruntime": 0.6}, "openvino"),
        ({"torch": 1.0, "openvino": 0.95, "onnxruntime": 1.2}, "torch"),
    ],
)
def test_auto_measures_once_and_takes_the_fastest(
    lively_model: Model,
    runtimes: list[str],
    monkeypatch: pytest.MonkeyPatch,
    seconds: dict[str, float],
    best: str,
) -> None:
    monkeypatch.setattr(choose, "time_encoders", lambda *_: seconds)
    used = engine(lively_model, "auto", patience_s=0)
    wait_for_builds(lively_model)
    used.refresh()
    wait_for_builds(lively_model)
    used.refresh()
    assert used.encoder.runtime == best
    assert sorted(runtimes) == ["onnxruntime", "openvino"]
    record = records.read(used._record())
    assert record is not None
    assert record["best"] == best
    assert record["tile_ms"]["torch"] == 1000


def test_the_measurement_takes_turns_and_keeps_the_best(lively_model: Model) -> None:
    order: list[str] = []

    def encoder(name: str) -> Encoder:
        def encode(x: torch.Tensor) -> FeatureMap:
            order.append(name)
            return FeatureMap(x, x, 1)

        return Encoder(name, name, encode)

    found = choose.time_encoders(
        {n: encoder(n) for n in ("torch", "openvino")}, lively_model, side=28, rounds=2
    )
    assert order == ["torch", "openvino"] * 3
    assert set(found) == {"torch", "openvino"}


def test_a_record_holds_for_its_versions_only(monkeypatch: pytest.MonkeyPatch) -> None:
    name = records.key("vit", 2)
    records.write(name, {"best": "openvino"})
    assert records.read(name) == {"best": "openvino"}
    monkeypatch.setattr(records, "versions", lambda: {"torch": "99"})
    assert records.read(records.key("vit", 2)) is None


def test_a_broken_record_file_is_measured_again() -> None:
    (records.cache_dir() / "runtimes.json").write_text("{not json")
    assert records.read(records.key("vit", 2)) is None
    records.write("a", {"best": "torch"})
    assert records.read("a") == {"best": "torch"}
