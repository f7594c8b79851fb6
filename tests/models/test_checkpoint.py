from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dinoscope.errors import (
    MissingWeightsError,
    ModelFileError,
    OutputError,
    UsageError,
)
from dinoscope.models import container, folders
from dinoscope.models.adapter import add_lora, lora_state
from dinoscope.models.card import HeadSpec
from dinoscope.models.catalog import locate
from dinoscope.models.checkpoint import (
    inspect,
    list_models,
    load_model,
    model_hash,
    save_model,
    update_card,
)
from dinoscope.models.model import Model

HEADS = {"instance": HeadSpec("dense", 3), "depth": HeadSpec("bins", 8, unit="µm", high=5.0)}


def trained(seed: int = 0, **lora: Any) -> Model:
    """A model on the weights of `tiny-test` with heads and an adapter that do something."""
    model = load_model("tiny-test", device="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for task, spec in HEADS.items():
            model.add_head(task, spec)
        if lora:
            add_lora(model, **lora)
            for name, parameter in model.named_parameters():
                if ".lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def outputs(model: Model) -> list[torch.Tensor]:
    x = torch.rand(1, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return [model.encode(x).patch_tokens, *model(x).values()]


def assert_same(a: Model, b: Model, atol: float = 0.0) -> None:
    for left, right in zip(outputs(a), outputs(b), strict=True):
        torch.testing.assert_close(left, right, rtol=atol, atol=atol)


# --- there and back ---


def test_heads_come_back_exactly_and_the_backbone_is_left_out(tmp_path: Path) -> None:
    model = trained()
    save_model(model, tmp_path / "m.dinoscope")
    again = load_model(tmp_path / "m.dinoscope", device="cpu")
    assert_same(model, again)
    assert again.card == model.card
    assert not container.includes_backbone(tmp_path / "m.dinoscope")


def test_adapter_is_merged_for_inference_and_kept_as_layers_for_training(tmp_path: Path) -> None:
    model = trained(rank=4, blocks=2, on="both")
    save_model(model, tmp_path / "m.dinoscope")
    merged = load_model(tmp_path / "m.dinoscope", device="cpu")
    layers = load_model(tmp_path / "m.dinoscope", device="cpu", merge=False)
    assert_same(model, layers)
    assert_same(model, merged, atol=1e-4)
    assert not any(".lora_" in name for name in merged.state_dict())
    assert layers.lora is not None
    assert layers.lora.config.blocks == (2, 3)
    assert {n for n, p in layers.backbone.named_parameters() if p.requires_grad} == {
        n.removeprefix("backbone.") for n in lora_state_names(layers) if n.startswith("backbone.")
    }


def lora_state_names(model: Model) -> set[str]:
    return {n.replace(".weight", ".default.weight") for n in lora_state(model)}


def test_merged_model_is_saved_as_the_adapter_that_it_came_from(tmp_path: Path) -> None:
    save_model(trained(rank=4, blocks=1), tmp_path / "a.dinoscope")
    merged = load_model(tmp_path / "a.dinoscope", device="cpu")
    save_model(merged, tmp_path / "b.dinoscope")
    assert container.read(tmp_path / "a.dinoscope").tensors.keys() == (
        container.read(tmp_path / "b.dinoscope").tensors.keys()
    )
    assert_same(merged, load_model(tmp_path / "b.dinoscope", device="cpu"))


def test_merged_model_that_was_trained_on_brings_its_backbone(tmp_path: Path) -> None:
    save_model(trained(rank=4, blocks=1), tmp_path / "a.dinoscope")
    merged = load_model(tmp_path / "a.dinoscope", device="cpu")
    with torch.no_grad():
        merged.backbone.vit.blocks[0].mlp.fc1.weight += 0.01
    save_model(merged, tmp_path / "b.dinoscope")
    assert inspect(tmp_path / "b.dinoscope").adapter is None
    assert container.includes_backbone(tmp_path / "b.dinoscope")
    assert_same(merged, load_model(tmp_path / "b.dinoscope", device="cpu"))


def test_new_adapter_on_a_merged_one_comes_back(tmp_path: Path) -> None:
    save_model(trained(rank=4, blocks=1), tmp_path / "a.dinoscope")
    model = load_model(tmp_path / "a.dinoscope", device="cpu")
    add_lora(model, rank=2, blocks=2)
    for name, parameter in model.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_model(model, tmp_path / "b.dinoscope")
    assert_same(model, load_model(tmp_path / "b.dinoscope", device="cpu", merge=False))
    assert_same(model, load_model(tmp_path / "b.dinoscope", device="cpu"), atol=1e-4)


def test_backbone_that_was_trained_itself_is_stored_without_being_asked(tmp_path: Path) -> None:
    model = Model.fresh("tiny-test", HEADS, seed=7)
    save_model(model, tmp_path / "m.dinoscope")
    assert_same(model, load_model(tmp_path / "m.dinoscope", device="cpu"))


def test_included_backbone_needs_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(rank=2)
    save_model(model, tmp_path / "m.dinoscope", include_backbone=True)
    # Were the backbone looked for, it would not fit.
    monkeypatch.setattr(Model, "fresh", lambda *_, **__: pytest.fail("looked for a backbone"))
    again = load_model(tmp_path / "m.dinoscope", device="cpu", merge=False)
    assert_same(model, again)


def test_half_size_file_loads_close_and_its_adapters_find_it(tmp_path: Path) -> None:
    model = Model.fresh("tiny-test", HEADS, seed=7).eval()
    save_model(model, tmp_path / "full.dinoscope", include_backbone=True)
    save_model(model, tmp_path / "half.dinoscope", include_backbone=True, half=True)
    sizes = [(tmp_path / f"{n}.dinoscope").stat().st_size for n in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    again = load_model(tmp_path / "half.dinoscope", device="cpu")
    assert_same(model, again, atol=5e-2)
    digest = again.card.backbone_hash
    save_model(again, tmp_path / "child.dinoscope", include_backbone=True)
    assert inspect(tmp_path / "child.dinoscope").backbone_hash == digest
    # What was rounded once is stored exactly at half size from then on.
    assert (tmp_path / "child.dinoscope").stat().st_size == pytest.approx(sizes[1], rel=0.01)


def test_card_keeps_everything_and_can_be_changed_without_the_tensors(tmp_path: Path) -> None:
    path = tmp_path / "m.dinoscope"
    model = trained()
    model.card = model.card.replace(
        name="cells", diameter_px=30.0, notes=("a µ note",), scores={"map": 0.5}
    )
    save_model(model, path)
    before = container.read(path)
    update_card(path, scores={"map": 0.75})
    after = container.read(path)
    assert after.card == before.card.replace(scores={"map": 0.75})
    assert all(np.array_equal(after.tensors[n], before.tensors[n]) for n in before.tensors)
    assert after.digest != before.digest


def test_hash_is_that_of_the_loaded_model_and_differs_between_models(tmp_path: Path) -> None:
    first = save_model(trained(0), tmp_path / "a.dinoscope")
    second = save_model(trained(1), tmp_path / "b.dinoscope")
    assert first != second
    assert model_hash(tmp_path / "a.dinoscope") == first
    assert load_model(tmp_path / "a.dinoscope", device="cpu").digest == first


def test_loading_draws_no_random_numbers_of_the_callers(tmp_path: Path) -> None:
    save_model(trained(), tmp_path / "m.dinoscope")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_model(tmp_path / "m.dinoscope", device="cpu")
    assert torch.equal(torch.rand(3), expected)


# --- files that must not be trusted ---


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.dinoscope"
    save_model(trained(rank=2, blocks=1), path)
    return path


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Edit the JSON header of a safetensors file, as somebody with an editor would."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.01])
def test_truncated_file_is_refused(good: Path, kept: float) -> None:
    data = good.read_bytes()
    good.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ModelFileError, match=r"'good.dinoscope' is truncated or damaged"):
        load_model(good, device="cpu")
    with pytest.raises(ModelFileError, match="truncated or damaged"):
        inspect(good)


def test_empty_file_is_refused(good: Path) -> None:
    good.write_bytes(b"")
    with pytest.raises(ModelFileError, match="empty"):
        load_model(good, device="cpu")


def test_one_changed_byte_of_a_tensor_is_found(good: Path) -> None:
    data = bytearray(good.read_bytes())
    data[-100] ^= 1
    good.write_bytes(data)
    with pytest.raises(ModelFileError, match="damaged or changed after dinoscope wrote it"):
        load_model(good, device="cpu")


def test_edited_card_is_found(good: Path) -> None:
    def flatter(header: dict[str, Any]) -> None:
        card = json.loads(header["__metadata__"]["card"])
        card["scores"] = {"map": 0.99}
        header["__metadata__"]["card"] = json.dumps(card, ensure_ascii=False)

    rewrite_header(good, flatter)
    with pytest.raises(ModelFileError, match="damaged or changed"):
        load_model(good, device="cpu")


def test_renamed_tensors_are_found(good: Path) -> None:
    def swap(header: dict[str, Any]) -> None:
        a, b = "decoder.join2.1.weight", "decoder.join2.1.bias"
        header[a], header[b] = header[b], header[a]

    rewrite_header(good, swap)
    with pytest.raises(ModelFileError, match="damaged or changed"):
        load_model(good, device="cpu")


def test_missing_digest_is_no_way_around(good: Path) -> None:
    rewrite_header(good, lambda header: header["__metadata__"].pop("digest"))
    with pytest.raises(ModelFileError, match="damaged or changed"):
        load_model(good, device="cpu")


def test_foreign_safetensors_is_told_from_a_damaged_file(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "x.dinoscope", metadata={"format": "pt"})
    with pytest.raises(ModelFileError, match="safetensors file without a dinoscope card"):
        load_model(tmp_path / "x.dinoscope", device="cpu")


class _RunsCode:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", [".dinoscope", ".pth", ".pt"])
@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_pickles_are_never_run(tmp_path: Path, suffix: str, writer: str) -> None:
    path, marker = tmp_path / f"evil{suffix}", tmp_path / "it_ran"
    if writer == "torch":
        torch.save({"model": _RunsCode(marker)}, path)
    else:
        path.write_bytes(pickle.dumps(_RunsCode(marker)))
    with pytest.raises(ModelFileError):
        load_model(path, device="cpu")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"\x89PNG\r\n\x1a\n" + b"0" * 100, "not a model file"),
        (b"II*\x00" + b"0" * 100, "not a model file"),
        (b"just text", "not a model file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "x.dinoscope"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=match):
        load_model(path, device="cpu")


def test_missing_file_and_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="there is no model file"):
        load_model(tmp_path / "none.dinoscope", device="cpu")
    (tmp_path / "dir.dinoscope").mkdir()
    with pytest.raises(ModelFileError, match="is a folder"):
        load_model(tmp_path / "dir.dinoscope", device="cpu")


def resign(path: Path, **changes: Any) -> None:
    """A well-made file with another card: what a newer or a broken program might write."""
    contents = container.read(path)
    container.write(path, contents.card.replace(**changes), contents.tensors)


def test_file_of_a_newer_format_asks_for_an_update(good: Path) -> None:
    rewrite_header(good, lambda h: h["__metadata__"].update(format_version="99"))
    with pytest.raises(ModelFileError, match=r"format version '99'.*pip install -U"):
        inspect(good)


@pytest.mark.parametrize(
    "card", ["[]", "{", '{"name": 3}', '{"name": "x", "backbone": "y", "heads": 3}']
)
def test_broken_card_is_refused_by_name(good: Path, card: str) -> None:
    rewrite_header(good, lambda h: h["__metadata__"].update(card=card))
    with pytest.raises(ModelFileError, match=r"card of 'good.dinoscope' cannot be read"):
        inspect(good)


def test_unknown_backbone_in_a_card_is_refused(good: Path) -> None:
    resign(good, backbone="dinov9_vitz14")
    with pytest.raises(ModelFileError, match=r"cannot build.*dinov9_vitz14"):
        load_model(good, device="cpu")


def test_tensors_that_do_not_fit_the_card_are_refused(good: Path) -> None:
    resign(good, heads={"instance": HeadSpec("dense", 7)})
    with pytest.raises(ModelFileError, match="not those that its card describes"):
        load_model(good, device="cpu")


def test_adapter_of_other_backbone_weights_is_refused(good: Path) -> None:
    resign(good, backbone_hash="0" * 64)
    with pytest.raises(ModelFileError, match=r"made for other weights of backbone 'tiny-test'"):
        load_model(good, device="cpu")


# --- writing ---


def test_only_the_models_own_suffix_is_written(tmp_path: Path, tiny_model: Model) -> None:
    with pytest.raises(ModelFileError, match=r"'m.pt'; expected a name that ends in .dinoscope"):
        save_model(tiny_model, tmp_path / "m.pt")


def test_failed_write_leaves_the_older_file_and_no_litter(
    tmp_path: Path, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.dinoscope"
    save_model(tiny_model, path)
    older = path.read_bytes()

    def disk_full(tensors: Any, name: str, metadata: Any) -> None:
        Path(name).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(container, "save_file", disk_full)
    with pytest.raises(OutputError, match="No space left on device"):
        save_model(tiny_model, path)
    assert path.read_bytes() == older
    assert os.listdir(tmp_path) == ["m.dinoscope"]


def test_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path, tiny_model: Model) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="could not be written"):
        save_model(tiny_model, tmp_path / "file" / "m.dinoscope")


# --- names ---


@pytest.fixture
def shelves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Empty folders for packaged and for the user's models."""
    packaged, own = tmp_path / "packaged", tmp_path / "own"
    packaged.mkdir()
    own.mkdir()
    monkeypatch.setattr(folders, "packaged_dir", lambda: packaged)
    monkeypatch.setenv("DINOSCOPE_MODELS", str(own))
    return packaged, own


def test_users_models_are_listed_and_loaded_by_name(shelves: tuple[Path, Path]) -> None:
    _, own = shelves
    model = trained(rank=2)
    save_model(model, own / "yeast.dinoscope")
    (own / "broken.dinoscope").write_bytes(b"oops")
    entries = {entry["name"]: entry for entry in list_models()}
    assert entries["yeast"]["kind"] == "adapter"
    assert entries["yeast"]["tasks"] == ("instance", "depth")
    assert entries["yeast"]["available"]
    assert not entries["broken"]["available"]
    assert "not a model file" in entries["broken"]["note"]
    assert_same(model, load_model("yeast", device="cpu"), atol=1e-4)


def test_list_has_every_backbone_but_not_the_one_for_tests(shelves: tuple[Path, Path]) -> None:
    entries = {entry["name"]: entry for entry in list_models()}
    assert entries["dinov2_vitg14_reg"]["kind"] == "backbone"
    assert not entries["dinov2_vits14"]["available"]
    assert entries["dinov2_vits14"]["where"].endswith("timm/vit_small_patch14_dinov2.lvd142m")
    assert "tiny-test" not in entries
    json.dumps(list_models())


def test_what_is_made_from_a_file_with_its_own_backbone_brings_it_too(tmp_path: Path) -> None:
    first = Model.fresh("tiny-test", {"instance": HeadSpec("dense", 3)}, seed=3).eval()
    save_model(first, tmp_path / "colleague.dinoscope", include_backbone=True)
    child = load_model(tmp_path / "colleague.dinoscope", device="cpu")
    add_lora(child, rank=2, blocks=1)
    save_model(child.eval(), tmp_path / "mine.dinoscope")
    (tmp_path / "colleague.dinoscope").unlink()
    again = load_model(tmp_path / "mine.dinoscope", device="cpu", merge=False)
    for name, tensor in first.backbone.vit.state_dict().items():
        found = dict(again.backbone.vit.named_parameters())
        kept = found.get(name, found.get(name.replace(".weight", ".base_layer.weight")))
        kept = found.get(name.replace(".bias", ".base_layer.bias")) if kept is None else kept
        assert kept is not None, name
        assert torch.equal(kept, tensor), name


def test_packaged_adapter_finds_the_packaged_backbone(shelves: tuple[Path, Path]) -> None:
    packaged, _ = shelves
    base = Model.fresh("embedded", {"instance": HeadSpec("dense", 3)}, seed=3).eval()
    save_model(base, packaged / "embedded.dinoscope", half=True)
    model = load_model("embedded", device="cpu")
    assert set(model.heads) == {"instance"}
    child = Model(model.card.replace(heads={}), model.backbone)
    child.add_head("classification", HeadSpec("pooled", 4))
    add_lora(child, rank=2, blocks=2)
    save_model(child.eval(), packaged / "embedded-redcells.dinoscope", half=True)
    assert (packaged / "embedded-redcells.dinoscope").stat().st_size < 200_000
    again = load_model("embedded-redcells", device="cpu")
    assert_same(child, again, atol=1e-2)
    entries = {entry["name"]: entry for entry in list_models()}
    assert entries["embedded"]["kind"] == "model"
    assert entries["embedded-redcells"]["available"]

    (packaged / "embedded.dinoscope").unlink()

    with pytest.raises(MissingWeightsError, match=r"needs backbone 'embedded' \(hash [0-9a-f]{16}"):
        load_model("embedded-redcells", device="cpu")
    entries = {entry["name"]: entry for entry in list_models()}
    assert not entries["embedded-redcells"]["available"]
    with pytest.raises(MissingWeightsError, match="Install napari-dinoscope again"):
        load_model("embedded", device="cpu")


def test_retrained_packaged_backbone_refuses_older_adapters(shelves: tuple[Path, Path]) -> None:
    packaged, own = shelves
    save_model(Model.fresh("embedded", seed=3), packaged / "embedded.dinoscope", half=True)
    child = load_model("embedded", device="cpu")
    child.add_head("classification", HeadSpec("pooled", 4))
    save_model(child, own / "child.dinoscope")
    save_model(Model.fresh("embedded", seed=4), packaged / "embedded.dinoscope", half=True)
    with pytest.raises(ModelFileError, match="made for other weights of backbone 'embedded'"):
        load_model("child", device="cpu")


def test_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(
        UsageError, match=r"no model 'cellpose'; expected a file, or one of .*embed"
    ):
        load_model("cellpose", device="cpu")


def test_file_in_the_working_folder_is_a_file_and_a_name_is_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("m.dinoscope") == Path("m.dinoscope")
    assert locate("sub/model") == Path("sub/model")
    assert getattr(locate("dinov2_vits14"), "name", "") == "dinov2_vits14"
    Path("cells.tif").write_bytes(b"II*")
    with pytest.raises(ModelFileError, match=r"'cells.tif' is no model file.*\.dinoscope"):
        locate("cells.tif")


# --- backbone files ---


def test_adapter_of_a_hub_backbone_names_what_is_missing(tmp_path: Path) -> None:
    model = Model.fresh("tiny-test", HEADS)
    path = tmp_path / "m.dinoscope"
    model.card = model.card.replace(backbone="dinov2_vits14")
    container.write(path, model.card.replace(backbone_hash="ab" * 32), {})
    with pytest.raises(MissingWeightsError) as caught:
        load_model(path, device="cpu")
    text = str(caught.value)
    assert "'dinov2_vits14' (hash abababababababab…)" in text
    assert "'m.dinoscope' needs them" in text
    assert "dinov2_vits14_pretrain.pth" in text
    assert "vit_small_patch14_dinov2.lvd142m" in text
    assert str(folders.cache_dir()) in text


def test_file_saved_by_safetensors_reads_with_any_safetensors_reader(good: Path) -> None:
    """The format stays open: no reader of ours is needed to get at the tensors."""
    assert any(name.startswith("adapter.backbone.vit.blocks.3") for name in load_file(good))
