"""The ``.dinoscope`` file: one safetensors file with a JSON card and a digest. Imports no torch.

Header entries: ``format`` = ``dinoscope-model``, ``format_version``, ``card`` (JSON) and
``digest``, the SHA-256 of the card and of every tensor's name, type, shape and bytes. The digest
finds damage and edits that were not made by dinoscope; it is no signature.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dinoscope.errors import ModelFileError, OutputError
from dinoscope.models.card import ModelCard

SUFFIX = ".dinoscope"
FORMAT = "dinoscope-model"
FORMAT_VERSION = 1
_EXPORT_AGAIN = "Get the file again from where it came from, or export the model again."


@dataclass(frozen=True)
class Contents:
    """A model file, read and checked. `tensors` are float16 or float32, by name."""

    card: ModelCard
    tensors: Mapping[str, np.ndarray]
    digest: str


def read_card(path: str | Path) -> ModelCard:
    """The card of a model file, without its tensors (and without checking them).

    Raises
    ------
    ModelFileError
        Not a model file of dinoscope, truncated, or made by a newer version.
    """
    return _card(Path(path), _header(Path(path)))


def includes_backbone(path: str | Path) -> bool:
    """Whether a model file brings its backbone's weights along.

    Raises
    ------
    ModelFileError
        As `read_card`.
    """
    _header(Path(path))
    with safe_open(str(path), framework="numpy") as file:
        return any(name.startswith("backbone.") for name in file.keys())  # noqa: SIM118


def read(path: str | Path) -> Contents:
    """Read a model file and check every byte of it.

    Raises
    ------
    ModelFileError
        Not a model file of dinoscope, truncated, changed since it was written, or too new.
    """
    path = Path(path)
    header = _header(path)
    card = _card(path, header)
    try:
        with safe_open(str(path), framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    digest = _digest(header["card"], tensors)
    if digest != header.get("digest"):
        raise ModelFileError(
            f"{path.name!r} was damaged or changed after dinoscope wrote it (its digest is "
            f"{digest[:12]}…, the file names {str(header.get('digest'))[:12]}…)",
            hint=_EXPORT_AGAIN,
        )
    return Contents(card, tensors, digest)


def model_hash(path: str | Path) -> str:
    """SHA-256 that identifies a model: card and tensors; checked against the file.

    Raises
    ------
    ModelFileError
        As `read`.
    """
    return read(path).digest


def write(path: str | Path, card: ModelCard, tensors: Mapping[str, np.ndarray]) -> str:
    """Write a model file under a temporary name, then move it into place; return its digest.

    Raises
    ------
    OutputError
        The folder cannot be written, or the disk is full. An older file stays as it was.
    """
    path = Path(path)
    text = json.dumps(card.to_json(), ensure_ascii=False)
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    digest = _digest(text, arrays)
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "card": text,
        "digest": digest,
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(arrays, str(temporary), metadata=metadata)
        temporary.chmod(0o666 & ~_umask())  # safetensors makes files that only their owner can read
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"model {str(path)!r} could not be written ({error})",
            hint="Check that the folder exists, can be written, and that the disk has room.",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return digest


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def update_card(path: str | Path, **changes: Any) -> ModelCard:
    """Change entries of the card of an existing file (for example its scores); tensors stay.

    Raises
    ------
    ModelFileError, OutputError
        As `read` and `write`.
    """
    contents = read(path)
    card = contents.card.replace(**changes)
    write(path, card, contents.tensors)
    return card


def _digest(card: str, tensors: Mapping[str, np.ndarray]) -> str:
    hasher = hashlib.sha256(card.encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        hasher.update(f"\n{name}|{array.dtype.str}|{array.shape}\n".encode())
        hasher.update(array.reshape(-1).view(np.uint8).data)
    return hasher.hexdigest()


def _header(path: Path) -> dict[str, str]:
    """The header entries of a safetensors file that is ours."""
    if path.is_dir():
        raise ModelFileError(f"{str(path)!r} is a folder", expected=f"a {SUFFIX} file")
    if not path.is_file():
        raise ModelFileError(
            f"there is no model file {str(path)!r}", hint="`dinoscope models` lists what is there."
        )
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error
    if metadata.get("format") != FORMAT or "card" not in metadata:
        raise ModelFileError(
            f"{path.name!r} is a safetensors file without a dinoscope card",
            expected=f"a model saved by dinoscope ({SUFFIX})",
            hint="To use it as backbone weights, give it with its own suffix .safetensors or .pth.",
        )
    version = metadata.get("format_version", "")
    if not version.isdigit() or int(version) > FORMAT_VERSION:
        raise ModelFileError(
            f"{path.name!r} has format version {version!r}",
            expected=f"at most {FORMAT_VERSION}",
            hint="It was made by a newer dinoscope: update with pip install -U napari-dinoscope.",
        )
    return metadata


def _card(path: Path, header: Mapping[str, str]) -> ModelCard:
    try:
        values = json.loads(header["card"])
        if not isinstance(values, dict):
            raise ModelFileError("its card is not a table of entries")
        return ModelCard.from_json(values)
    except (ValueError, ModelFileError) as error:
        raise ModelFileError(
            f"the card of {path.name!r} cannot be read ({str(error).rstrip('.')})",
            hint=_EXPORT_AGAIN,
        ) from error


def _damaged(path: Path, reason: str) -> ModelFileError:
    """The error for a file that safetensors cannot read: damaged, or something else altogether."""
    start = b""
    with contextlib.suppress(OSError), path.open("rb") as file:
        start = file.read(9)
    if not start:
        return ModelFileError(f"{path.name!r} is empty or unreadable", hint=_EXPORT_AGAIN)
    if start.startswith((b"PK\x03\x04", b"\x80\x02")):
        return ModelFileError(
            f"{path.name!r} is a PyTorch pickle, which can run code when opened",
            expected=f"a model saved by dinoscope ({SUFFIX})",
        )
    if start[8:9] == b"{":  # where a safetensors header starts
        return ModelFileError(
            f"{path.name!r} is truncated or damaged ({reason})", hint=_EXPORT_AGAIN
        )
    return ModelFileError(
        f"{path.name!r} is not a model file ({reason})",
        expected=f"a model saved by dinoscope ({SUFFIX})",
    )
