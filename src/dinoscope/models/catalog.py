"""What can be loaded: packaged models, the user's own, bare backbones. No torch, no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dinoscope.errors import DinoscopeError, ModelFileError, UsageError
from dinoscope.models import container, folders, hub
from dinoscope.models.card import ModelCard
from dinoscope.models.container import SUFFIX
from dinoscope.models.registry import BACKBONES, BackboneSpec, get_spec

#: Suffix of files that 'dinoscope export' writes for other programs.
EXPORTED = ".onnx"
_FILE_SUFFIXES = (SUFFIX, ".pth", ".pt", ".safetensors", EXPORTED)


def inspect(name_or_path: str | Path) -> ModelCard:
    """The card of a model, by name or file; of a bare backbone, the card that it would have.

    Raises
    ------
    UsageError
        There is no such model.
    ModelFileError
        It is no model file.
    """
    found = locate(name_or_path)
    if isinstance(found, Path) and found.suffix.lower() == EXPORTED:
        from dinoscope.models.export import read_metadata

        return read_metadata(found)
    if isinstance(found, Path):
        return container.read_card(found)
    return backbone_card(found)


def lender_file(card: ModelCard) -> Path | None:
    """The packaged model whose dense heads serve a classifier on its backbone, as
    ``embedded`` serves ``embedded-redcells``; ``None`` where there is none, or no need."""
    if "classification" not in card.heads or any(not s.pooled for s in card.heads.values()):
        return None
    path = folders.packaged_dir() / f"{card.backbone}{SUFFIX}"
    return path if path.is_file() else None


def lent_tasks(card: ModelCard) -> tuple[str, ...]:
    """Tasks that a packaged model does for this one, see `lender_file`."""
    path = lender_file(card)
    if path is None:
        return ()
    return tuple(t for t in container.read_card(path).heads if t not in card.heads)


def exported_file(path: Path) -> ModelFileError:
    """What to tell somebody who wants to predict with an exported ONNX file.

    Raises
    ------
    ModelFileError
        It is a file of another program.
    """
    from dinoscope.models.export import read_metadata

    card = read_metadata(path)
    return ModelFileError(
        f"{path.name!r} is model {card.name!r} as exported for other programs",
        expected=f"the model itself, a {SUFFIX} file",
        hint="Exported files run with ONNX Runtime; see examples/09_onnx_inference.py.",
    )


def backbone_card(spec: BackboneSpec, state_hash: str = "") -> ModelCard:
    """The card of a bare backbone."""
    return ModelCard(
        name=spec.name,
        backbone=spec.name,
        backbone_hash=state_hash,
        layers=spec.layers,
        licence=spec.licence,
        description="Backbone without heads: PCA features, and a base to fine-tune.",
    )


def locate(name_or_path: str | Path) -> Path | BackboneSpec:
    """The file or bare backbone that a user means.

    Parameters
    ----------
    name_or_path : str or path
        A packaged model, a model in the user's folder, a backbone of the table, or a file.

    Raises
    ------
    UsageError
        None of these; the text names what there is.
    ModelFileError
        A file of another kind.
    """
    text = str(name_or_path)
    path = Path(text).expanduser()
    if path.suffix.lower() in _FILE_SUFFIXES or path.name != text:
        return path
    for folder in (folders.packaged_dir(), folders.models_dir()):
        if (folder / f"{text}{SUFFIX}").is_file():
            return folder / f"{text}{SUFFIX}"
    if text in BACKBONES:
        return get_spec(text)
    if path.is_file():
        raise ModelFileError(
            f"{text!r} is no model file",
            expected="a file that ends in " + ", ".join(_FILE_SUFFIXES),
        )
    raise UsageError(
        f"there is no model {text!r}",
        expected="a file, or one of " + ", ".join(str(entry["name"]) for entry in list_models()),
    )


def list_models() -> list[dict[str, Any]]:
    """Everything that `load_model` accepts by name, packaged models first.

    Returns
    -------
    list of dict
        ``name``; ``kind`` (``model``, ``adapter``: needs its backbone's weights, or ``backbone``);
        ``tasks``; ``lent_tasks`` (what a packaged model does for it); ``available`` (can be loaded
        without a download); ``where`` (file or hub page);
        ``backbone``; ``note`` (why a file cannot be used, else empty).
    """
    entries: dict[str, dict[str, Any]] = {}
    for path in _model_files():
        entry = _file_entry(path)
        entries.setdefault(
            str(entry["name"]), entry
        )  # the first one found is the one that is loaded
    for spec in BACKBONES.values():
        if spec.source != "random" and spec.name not in entries:
            entries[spec.name] = _backbone_entry(spec)
    return list(entries.values())


def _model_files() -> Iterator[Path]:
    for folder in (folders.packaged_dir(), folders.models_dir()):
        if folder.is_dir():
            yield from sorted(folder.glob(f"*{SUFFIX}"))


def _file_entry(path: Path) -> dict[str, Any]:
    entry = {
        "name": path.stem,
        "kind": "model",
        "tasks": (),
        "lent_tasks": (),
        "available": False,
        "where": str(path),
        "backbone": "",
        "note": "",
    }
    try:
        card = container.read_card(path)
        complete = container.includes_backbone(path)
        entry |= {"tasks": tuple(card.heads), "backbone": card.backbone}
        entry["lent_tasks"] = lent_tasks(card)
        entry["kind"] = "model" if complete else "adapter"
        entry["available"] = complete or _on_disk(get_spec(card.backbone))
    except DinoscopeError as error:
        entry["note"] = str(error)
    return entry


def _backbone_entry(spec: BackboneSpec) -> dict[str, Any]:
    path = hub.find_weights(spec)
    page = f"{hub.DEFAULT_ENDPOINT}/{spec.hub_repo}" if spec.hub_repo else ""
    return {
        "name": spec.name,
        "kind": "backbone",
        "tasks": (),
        "lent_tasks": (),
        "available": path is not None,
        "where": str(path or page),
        "backbone": spec.name,
        "note": "",
    }


def _on_disk(spec: BackboneSpec) -> bool:
    if spec.source == "packaged":
        return packaged_file(spec).is_file()
    return spec.source == "random" or hub.find_weights(spec) is not None


def packaged_file(spec: BackboneSpec) -> Path:
    """The packaged file that holds the weights of `spec`."""
    return folders.packaged_dir() / f"{spec.name}{SUFFIX}"


def require_suffix(path: str | Path) -> Path:
    """`path`, if it is named as a model file.

    Raises
    ------
    ModelFileError
        Another suffix.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ModelFileError(
            f"model file is called {path.name!r}", expected=f"a name that ends in {SUFFIX}"
        )
    return path
