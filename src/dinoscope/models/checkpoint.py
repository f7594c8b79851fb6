"""Models to files and back: ``.dinoscope`` files, packaged and hub backbones, backbone files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dinoscope.errors import DinoscopeError, MissingWeightsError, ModelFileError
from dinoscope.models import adapter, container, hub
from dinoscope.models.adapter import AdapterConfig
from dinoscope.models.catalog import (
    EXPORTED,
    backbone_card,
    exported_file,
    inspect,
    list_models,
    locate,
    packaged_file,
    require_suffix,
)
from dinoscope.models.container import model_hash, update_card
from dinoscope.models.device import pick_device, torch
from dinoscope.models.model import Model
from dinoscope.models.registry import BackboneSpec
from dinoscope.models.weights import (
    BACKBONE_SUFFIXES,
    fill_backbone,
    identify,
    read_backbone_file,
    state_digest,
)
from dinoscope.types import Progress

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "inspect",
    "list_models",
    "load_model",
    "model_hash",
    "save_model",
    "update_card",
]

_VIT = "backbone.vit."
_ADAPTER = "adapter."


@dataclass(frozen=True)
class _Source:
    """Where backbone weights may come from."""

    allow_download: bool = False
    progress: Callable[[Progress], None] | None = None
    backbone_file: Path | None = None
    near: Path | None = None

    def files(self, spec: BackboneSpec) -> list[Path]:
        """Weight files of `spec`, the most explicit first; downloaded where allowed."""
        if self.backbone_file is not None:
            return [self.backbone_file]
        found = []
        if self.near is not None:  # a colleague may send both files in one folder
            names = (spec.official_file, f"{spec.name}.safetensors")
            found = [self.near / name for name in names if name and (self.near / name).is_file()]
        stored = hub.find_weights(spec)
        if stored is None and not found and self.allow_download:
            stored = hub.download(spec, self.progress)
        if stored is not None:
            hub.verify(stored)
            found.append(stored)
        return found


def load_model(
    name_or_path: str | Path,
    *,
    device: str = "auto",
    allow_download: bool = False,
    progress: Callable[[Progress], None] | None = None,
    merge: bool = True,
    backbone_file: str | Path | None = None,
) -> Model:
    """Load a model, in evaluation mode.

    Parameters
    ----------
    name_or_path : str or path
        ``embedded`` or another packaged model, a model in the user's folder, a backbone's name
        (``dinov2_vits14``: no heads), a ``.dinoscope`` file, or a backbone file
        (``dinov2_vits14_pretrain.pth``, timm's ``.safetensors``).
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    allow_download : bool
        Whether missing backbone weights may be fetched from the hub.
    progress : callable, optional
        Told about a download.
    merge : bool
        Merge an adapter into the weights, for inference; ``False`` keeps peft layers, to train on.
    backbone_file : path, optional
        Weights of the backbone that a ``.dinoscope`` file needs.

    Raises
    ------
    UsageError
        No model of that name.
    ModelFileError
        A file that is truncated, foreign, changed, or made for other backbone weights.
    MissingWeightsError
        Backbone weights that are not on this disk; the text says which file to put where.

    Examples
    --------
    >>> load_model("tiny-test", device="cpu").card.backbone
    'tiny-test'
    """
    target = pick_device(device)
    found = locate(name_or_path)
    if isinstance(found, Path) and found.suffix.lower() == EXPORTED:
        raise exported_file(found)
    given = Path(backbone_file).expanduser() if backbone_file else None
    with torch.random.fork_rng(devices=[]):  # building draws random weights that are then replaced
        if isinstance(found, BackboneSpec):
            model = _load_backbone(found, _Source(allow_download, progress, given))
        elif found.suffix.lower() in BACKBONE_SUFFIXES:
            model = _load_backbone_file(found)
        else:
            source = _Source(allow_download, progress, given, found.parent)
            model = _load_file(found, source, merge)
    return model.to(target).eval()


def save_model(
    model: Model, path: str | Path, *, include_backbone: bool = False, half: bool = False
) -> str:
    """Write a model as one ``.dinoscope`` file: heads, adapter, card, backbone where needed.

    Parameters
    ----------
    model : Model
        Its card gets `backbone_hash` and `adapter`, and is otherwise written as it is.
    path : path
        Ends in ``.dinoscope``. An older file is replaced only by a complete new one.
    include_backbone : bool
        Store the backbone's weights too. They are stored in any case where they are not those
        that the card's `backbone_hash` names (a backbone that was trained itself), and where the
        model came from a file that brought them.
    half : bool
        Round to float16, half the size. Values that float16 holds exactly are stored so anyway.

    Returns
    -------
    str
        The file's `model_hash`.

    Raises
    ------
    ModelFileError
        Another suffix.
    OutputError
        The file cannot be written.
    """
    path = require_suffix(path)
    config, adapter_state = None, adapter.lora_state(model)
    original = adapter.original_state(model)
    vit = {n.removeprefix(_VIT): t for n, t in original.items() if n.startswith(_VIT)}
    base_hash = state_digest(vit)
    if model.lora is not None:
        config = model.lora.config
        if model.lora.merged:
            untouched = base_hash == model.lora.merged_digest
            if untouched and not include_backbone:
                base_hash = model.card.backbone_hash  # what the adapter belongs to
            else:
                config, adapter_state = None, {}  # part of the weights now
    complete = include_backbone or model.carries_backbone or base_hash != model.card.backbone_hash
    tensors = {n: _pack(t, half) for n, t in original.items() if not n.startswith("backbone.")}
    tensors |= {_ADAPTER + n: _pack(t, half) for n, t in adapter_state.items()}
    if complete:
        packed = {n: _pack(t, half) for n, t in vit.items()}
        base_hash = state_digest({n: torch.from_numpy(a) for n, a in packed.items()})
        tensors |= {_VIT + n: a for n, a in packed.items()}
    model.card = model.card.replace(
        backbone_hash=base_hash, adapter=config.to_json() if config else None
    )
    return container.write(path, model.card, tensors)


def _pack(tensor: Tensor, half: bool) -> np.ndarray:
    """Float16 where asked for or where it loses nothing, else float32."""
    full = tensor.detach().to("cpu", torch.float32)
    small = full.half()
    fits = bool(torch.isfinite(small).all()) if half else bool(torch.equal(small.float(), full))
    array: np.ndarray = (small if fits else full).contiguous().numpy()
    return array


def _load_backbone(spec: BackboneSpec, source: _Source) -> Model:
    if spec.source == "random":
        return _as_bare(Model.fresh(spec.name, seed=0))
    if spec.source == "packaged":  # its file would have been located
        raise MissingWeightsError(
            f"the packaged weights {packaged_file(spec).name!r} are not in this installation",
            hint="Install napari-dinoscope again.",
        )
    files = source.files(spec)
    if not files:
        raise hub.missing_weights(spec)
    return _from_backbone_file(spec, files[0], read_backbone_file(files[0]))


def _load_backbone_file(path: Path) -> Model:
    state = read_backbone_file(path)
    return _from_backbone_file(identify(state, path.name), path, state)


def _from_backbone_file(spec: BackboneSpec, path: Path, state: Mapping[str, Tensor]) -> Model:
    model = Model.from_card(backbone_card(spec))
    fill_backbone(model.backbone, state, path.name)
    return _as_bare(model)


def _as_bare(model: Model) -> Model:
    model.digest = state_digest(model.backbone.vit.state_dict())
    model.card = backbone_card(model.backbone.spec, model.digest)
    return model


def _load_file(path: Path, source: _Source, merge: bool) -> Model:
    contents = container.read(path)
    card = contents.card
    try:
        model = Model.from_card(card)
    except (DinoscopeError, RuntimeError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path.name!r} describes a model that this version cannot build ({error})",
            hint="Update with pip install -U napari-dinoscope.",
        ) from error
    tensors = {name: torch.from_numpy(array).float() for name, array in contents.tensors.items()}
    own = _part(tensors, _VIT)
    if own:
        _fill(model.backbone.vit, own, path)
        model.carries_backbone = not _packaged(path, model)
    else:
        _fill_base(model, path, source)
    heads = {n: t for n, t in tensors.items() if not n.startswith((_VIT, _ADAPTER))}
    _fill(model, heads, path, apart_from="backbone.")
    state = _part(tensors, _ADAPTER)
    if card.adapter is not None:
        config = AdapterConfig.from_json(card.adapter)
        (adapter.merge_lora if merge else adapter.load_lora)(model, state, config)
    model.digest = contents.digest
    return model


def _packaged(path: Path, model: Model) -> bool:
    """Whether a file with a backbone is the one that ships, which everybody has."""
    spec = model.backbone.spec
    return spec.source == "packaged" and path.resolve() == packaged_file(spec).resolve()


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _fill(
    module: torch.nn.Module, state: Mapping[str, Tensor], path: Path, *, apart_from: str = "\0"
) -> None:
    """Load every tensor of `module` but those below `apart_from`."""
    try:
        missing, left_over = module.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        raise _incomplete(path, " ".join(str(error).split())[:300]) from error
    missing = [name for name in missing if not name.startswith(apart_from)]
    if missing or left_over:
        names = ", ".join([*missing, *left_over][:4])
        raise _incomplete(
            path, f"{len(missing)} tensors missing, {len(left_over)} left over: {names}"
        )


def _incomplete(path: Path, reason: str) -> ModelFileError:
    return ModelFileError(
        f"the tensors of {path.name!r} are not those that its card describes ({reason})",
        hint="Export the model again.",
    )


def _fill_base(model: Model, path: Path, source: _Source) -> None:
    """Fill the backbone that a file leaves out, and see that it is the one it was made with."""
    spec, wanted = model.backbone.spec, model.card.backbone_hash
    if spec.source == "hub":
        files = source.files(spec)
        if not files:
            raise hub.missing_weights(spec, f"{path.name!r} needs them", state_hash=wanted)
        for file in files:
            fill_backbone(model.backbone, read_backbone_file(file), file.name)
            if state_digest(model.backbone.vit.state_dict()) == wanted:
                return
    elif spec.source == "packaged":
        packaged = packaged_file(spec)
        if not packaged.is_file():
            raise MissingWeightsError(
                f"{path.name!r} needs backbone {spec.name!r} (hash {wanted[:16]}…), whose file "
                f"{packaged.name!r} is not in this installation",
                hint="Install napari-dinoscope again.",
            )
        tensors = container.read(packaged).tensors
        state = {n: torch.from_numpy(a).float() for n, a in tensors.items()}
        _fill(model.backbone.vit, _part(state, _VIT), packaged)
    else:
        base = Model.fresh(spec.name, seed=0)
        model.backbone.vit.load_state_dict(base.backbone.vit.state_dict())
    found = state_digest(model.backbone.vit.state_dict())
    if found != wanted:
        raise ModelFileError(
            f"{path.name!r} was made for other weights of backbone {spec.name!r} "
            f"(hash {wanted[:16]}…) than those on this disk (hash {found[:16]}…)",
            hint="Use the version of the backbone that it was made with, or train it again.",
        )
