from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.runtime.conftest import adapted

from dinoscope.arrays.files import write_image
from dinoscope.engine import exporting, parity
from dinoscope.engine.exporting import ExportOptions, export, table
from dinoscope.engine.parity import ACTIVATIONS, compare, real_tiles
from dinoscope.errors import InputError, MissingHeadError, ModelFileError, OutputError, UsageError
from dinoscope.models.catalog import inspect
from dinoscope.models.checkpoint import load_model
from dinoscope.models.export import onnx_model, read_metadata
from dinoscope.models.model import Model
from dinoscope.models.quantize import open_onnx, open_openvino
from dinoscope.tasks.base import task

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TASKS = ("instance", "semantic", "depth", "classification")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "TILE_PX", 126)


@pytest.fixture(scope="module")
def embedded() -> Model:
    return load_model("embedded", device="cpu")


def run_export(model: Model, path: Path, **options: Any) -> list[exporting.Exported]:
    steps = export(model, path, ExportOptions(**{"threads": 1, **options}))
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return list(stop.value)


@pytest.mark.parametrize("shape", [(1, 3, 112, 112), (3, 3, 126, 168), (1, 3, 84, 210)])
def test_one_file_holds_for_every_batch_and_size(full_model: Model, shape: tuple[int, ...]) -> None:
    full_model.eval()
    data = onnx_model(full_model, TASKS, ACTIVATIONS).SerializeToString()
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    found = open_onnx(data, TASKS, 1)(x.numpy())
    with torch.inference_mode():
        raw = full_model(x)
    for name in TASKS:
        exact = task(name).activate(raw[name].float()).numpy()
        np.testing.assert_allclose(found[name], exact, atol=2e-5, err_msg=name)


def test_what_the_decoder_unfolds_from_tokens_is_part_of_the_export() -> None:
    heads = {"instance": task("instance").head_spec(())}
    model = Model.fresh("tiny-test", heads, fine_channels=3).eval()
    assert model.decoder is not None
    assert model.decoder.fine is not None
    x = torch.rand(2, 3, 84, 126, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        without = model(x)["instance"]
    torch.nn.init.normal_(model.decoder.fine[2].weight)
    with torch.inference_mode():
        exact = task("instance").activate(model(x)["instance"])
    data = onnx_model(model, ["instance"], ACTIVATIONS).SerializeToString()
    found = open_onnx(data, ["instance"], 1)(x.numpy())["instance"]
    np.testing.assert_allclose(found, exact.numpy(), atol=2e-5)
    assert (exact - task("instance").activate(without)).abs().max() > 0.01


@pytest.mark.parametrize("opset", [17, 18, 20, 21])
def test_every_supported_opset_is_valid(full_model: Model, opset: int) -> None:
    model = onnx_model(full_model, TASKS, ACTIVATIONS, opset=opset)
    onnx.checker.check_model(model, full_check=True)
    assert {s.domain: s.version for s in model.opset_import} == {"": opset}


def test_an_adapter_is_part_of_the_export(full_model: Model) -> None:
    model = adapted(full_model.eval())
    for block in model.backbone.vit.blocks:
        block.ls1.gamma.data.fill_(0.5)
        block.ls2.gamma.data.fill_(0.5)
    data = onnx_model(model, ["depth", "classification"], ACTIVATIONS).SerializeToString()
    x = torch.rand(1, 3, 112, 126)
    with torch.inference_mode():
        exact = model(x)
    found = open_onnx(data, ["depth"], 1)(x.numpy())
    np.testing.assert_allclose(found["depth"], exact["depth"].numpy(), atol=2e-4)


def test_the_embedded_model_finds_the_same_objects_on_real_images(
    embedded: Model, tmp_path: Path
) -> None:
    (entry,) = run_export(embedded, tmp_path / "e.onnx", tasks=("instance", "semantic"))
    assert entry.accepted
    assert entry.parity.instance_ap_difference is not None
    assert entry.parity.instance_ap_difference <= 0.002
    assert max(entry.parity.max_error.values()) < 1e-3
    assert entry.parity.tiles == 5
    report = json.loads((tmp_path / "e.json").read_text())
    assert report["opset"] == 17
    assert report["files"][0]["mean_error"]["instance"] < 1e-5
    card = read_metadata(tmp_path / "e.onnx")
    assert card.name == embedded.card.name
    assert tuple(card.heads) == ("instance", "semantic")
    assert inspect(tmp_path / "e.onnx") == card


def test_fp16_and_int8_come_with_what_they_lose(
    full_model: Model, tmp_path: Path, disc_folders: tuple[Path, Path]
) -> None:
    files = tuple(sorted(disc_folders[0].iterdir()))
    done = run_export(
        full_model,
        tmp_path / "m.onnx",
        precisions=("fp32", "fp16", "int8"),
        calibration=files,
    )
    assert [e.path.name for e in done] == ["m.onnx", "m.fp16.onnx", "m.int8.onnx"]
    full, half, eight = done
    assert half.megabytes < 0.6 * full.megabytes
    assert eight.megabytes < full.megabytes
    assert full.parity.max_error["semantic"] < half.parity.max_error["semantic"] < 0.01
    nodes = onnx.load(eight.path).graph.node
    operators = {n.op_type for n in nodes}
    assert {"QuantizeLinear", "DequantizeLinear", "MultiHeadAttention"} <= operators
    rounded = {name for n in nodes if n.op_type == "QuantizeLinear" for name in n.input}
    made = {n.output[0]: set(n.input) for n in nodes if n.op_type == "DequantizeLinear"}
    layers = [n for n in nodes if n.op_type == "Gemm" and n.input[0] in made]
    assert len(layers) == 4 * full_model.backbone.spec.depth  # all of the transformer's
    assert not any(n.output[0] in rounded for n in layers)
    lines = table(done)
    assert len(lines) == 4
    assert "int8" in lines[3]
    assert read_metadata(eight.path).name == full_model.card.name


def test_int8_for_openvino_has_standard_operators_only(
    full_model: Model, tmp_path: Path, disc_folders: tuple[Path, Path]
) -> None:
    pytest.importorskip("openvino")
    files = tuple(sorted(disc_folders[0].iterdir()))
    (entry,) = run_export(
        full_model,
        tmp_path / "m.xml",
        format="openvino",
        precisions=("int8",),
        calibration=files,
    )
    assert entry.path.exists()
    assert max(entry.parity.max_error.values()) < 0.1


def test_openvino_files_give_the_same_maps(full_model: Model, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    (entry,) = run_export(full_model, tmp_path / "m.xml", format="openvino")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.bin", "m.json", "m.xml"]
    assert max(entry.parity.max_error.values()) < 1e-3
    x = np.random.default_rng(0).random((2, 3, 112, 140), np.float32)
    assert open_openvino(entry.path, TASKS, 1)(x)["instance"].shape == (2, 4, 112, 140)


def test_a_bioimage_io_package_describes_what_it_holds(full_model: Model, tmp_path: Path) -> None:
    run_export(full_model, tmp_path / "m.zip", format="bioimage.io")
    with zipfile.ZipFile(tmp_path / "m.zip") as archive:
        files = {n: archive.read(n) for n in archive.namelist()}
    described = json.loads(files["rdf.yaml"])
    # What the specification asks of a model (bioimageio.spec 0.5), checked with its validator.
    assert described["format_version"].startswith("0.5.")
    assert described["type"] == "model"
    for entry in ("name", "description", "authors", "cite", "license", "documentation", "inputs"):
        assert described[entry]
    assert described["documentation"]["source"].endswith(".md")
    weights = described["weights"]["onnx"]
    assert weights["opset_version"] == 17
    assert weights["source"] in files
    (image,) = described["inputs"]
    assert [a.get("id", a["type"]) for a in image["axes"]] == ["batch", "channel", "y", "x"]
    assert image["axes"][2]["size"] == {"min": 112, "step": 14}
    kinds = {o["id"]: [a["type"] for a in o["axes"]] for o in described["outputs"]}
    assert kinds["instance"] == ["batch", "channel", "space", "space"]
    assert kinds["classification"] == ["batch", "channel"]

    def array(entry: dict[str, str]) -> np.ndarray:
        path = tmp_path / entry["source"]
        path.write_bytes(files[entry["source"]])
        return np.asarray(np.load(path))

    raw = array(image["test_tensor"])
    steps = image["preprocessing"][0]["kwargs"]
    low, high = np.percentile(raw, (steps["min_percentile"], steps["max_percentile"]))
    prepared = ((raw - low) / (high - low + steps["eps"])).astype(np.float32)
    found = open_onnx(files[weights["source"]], TASKS, 1)(prepared)
    for output in described["outputs"]:
        count = len(output["axes"][1]["channel_names"])
        expected = array(output["test_tensor"])
        assert expected.shape[1] == count
        np.testing.assert_allclose(found[output["id"]], expected, atol=1e-4)


def test_an_export_that_finds_other_objects_is_not_kept(
    embedded: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {**ACTIVATIONS, "instance": ACTIVATIONS["semantic"]}
    monkeypatch.setattr(exporting, "ACTIVATIONS", wrong)
    with pytest.raises(ModelFileError, match="finds other objects than the model"):
        run_export(embedded, tmp_path / "e.onnx", tasks=("instance",))
    assert not list(tmp_path.iterdir())


def test_parity_sees_an_output_that_is_missing(full_model: Model) -> None:
    with pytest.raises(InputError, match="output 'depth' has shape None"):
        compare(full_model.eval(), lambda batch: {}, ["depth"], real_tiles(full_model, 112)[:1])


def test_objects_that_differ_lower_the_agreement(embedded: Model) -> None:
    tiles = real_tiles(embedded, 126)[3:]
    data = onnx_model(embedded, ["instance"], ACTIVATIONS).SerializeToString()
    run = open_onnx(data, ["instance"], 1)

    def blurred(batch: np.ndarray) -> dict[str, np.ndarray]:
        maps = run(batch)["instance"].copy()
        maps[:, :2, :63] = 0
        return {"instance": maps}

    assert compare(embedded, run, ["instance"], tiles).instance_ap_difference == 0
    lost = compare(embedded, blurred, ["instance"], tiles).instance_ap_difference
    assert lost is not None
    assert lost > 0.1


@pytest.mark.parametrize("side", [126, 322])
def test_tiles_of_the_check_have_several_sizes_and_known_objects(
    full_model: Model, side: int
) -> None:
    tiles = real_tiles(full_model, side)
    assert len({t.pixels.shape for t in tiles}) >= 3
    assert all(n % 14 == 0 for t in tiles for n in t.pixels.shape[1:])
    assert sum(t.truth is not None and t.truth.max() > 0 for t in tiles) == 2


# -- bad input ---------------------------------------------------------------------------------


def test_a_model_without_a_head_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(MissingHeadError, match="no head that could be exported"):
        run_export(Model.fresh("tiny-test"), tmp_path / "m.onnx")


def test_a_head_that_is_not_there_is_named(tiny_model: Model, tmp_path: Path) -> None:
    with pytest.raises(MissingHeadError, match="no head for 'depth'"):
        run_export(tiny_model, tmp_path / "m.onnx", tasks=("depth",))


@pytest.mark.parametrize("opset", [11, 16])
def test_an_opset_that_is_too_old_is_an_error(
    tiny_model: Model, tmp_path: Path, opset: int
) -> None:
    with pytest.raises(InputError, match=f"opset is {opset}; expected 17 to"):
        run_export(tiny_model, tmp_path / "m.onnx", opset=opset)


def test_a_target_that_cannot_be_written_is_an_error(full_model: Model, tmp_path: Path) -> None:
    (tmp_path / "taken.onnx").mkdir()
    with pytest.raises(OutputError, match=r"taken.onnx' cannot be written"):
        run_export(full_model, tmp_path / "taken.onnx", tasks=("classification",))


def test_a_foreign_onnx_file_is_no_model(tmp_path: Path) -> None:
    helper = onnx.helper
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    path = tmp_path / "foreign.onnx"
    onnx.save(helper.make_model(graph), path)
    for use in (inspect, load_model):
        with pytest.raises(ModelFileError, match=r"'foreign\.onnx' is an ONNX file of another"):
            use(path)
    path.write_bytes(b"not ONNX at all")
    with pytest.raises(ModelFileError, match="cannot be read as ONNX"):
        inspect(path)


def test_an_exported_file_is_not_predicted_with(tiny_model: Model, tmp_path: Path) -> None:
    run_export(tiny_model, tmp_path / "m.onnx", tasks=("classification",))
    with pytest.raises(ModelFileError, match="as exported for other programs"):
        load_model(tmp_path / "m.onnx")


def test_an_adapter_for_another_backbone_is_refused(tmp_path: Path) -> None:
    from dinoscope.models.adapter import AdapterConfig, lora_state, merge_lora

    small = adapted(Model.fresh("tiny-test"))
    config = AdapterConfig(rank=4)
    other = Model.fresh("dinov2_vits14")
    with pytest.raises(ModelFileError, match="the adapter does not fit its model"):
        merge_lora(other, lora_state(small), replace(config, blocks=(0,)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "pickle"}, "format is 'pickle'"),
        ({"precisions": ("fp8",)}, "precision is"),
        ({"precisions": ("int8",)}, "without images to calibrate"),
        ({"format": "bioimage.io", "precisions": ("fp16",)}, "holds fp32 only"),
    ],
)
def test_requests_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ExportOptions(**options)


def test_images_that_cannot_be_read_calibrate_nothing(tiny_model: Model, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match="none of 1 files can calibrate"):
        parity.calibration_tiles(tiny_model, [tmp_path / "notes.txt"], 126, 4)
    write_image(tmp_path / "small.tif", np.zeros((40, 60), np.uint8), "YX", {})
    (tile,) = parity.calibration_tiles(tiny_model, [tmp_path / "small.tif"], 126, 4)
    assert tile.shape == (1, 3, 112, 112)
