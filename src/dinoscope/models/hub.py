"""Backbone weights from the hub: fetched once, checked by the hub's own hash, kept for ever.

huggingface_hub answers where a file is and what its SHA-256 is; the bytes are fetched here, because
since version 2 the library throws a partial download away when its process ends. Nothing is
contacted on import.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from dinoscope.errors import InputError, MissingWeightsError, ModelFileError, OutputError
from dinoscope.models import folders
from dinoscope.models.fetch import fetch
from dinoscope.models.registry import BackboneSpec
from dinoscope.types import Progress

DEFAULT_ENDPOINT = "https://huggingface.co"
_OFFICIAL = "https://dl.fbaipublicfiles.com/dinov2"
_SHA256 = re.compile(r"[0-9a-f]{64}")

#: Hashes computed in this process: path -> (size, mtime_ns, SHA-256).
_hashed: dict[Path, tuple[int, int, str]] = {}


@dataclass(frozen=True)
class Receipt:
    """What is known about a weight file; kept as JSON beside it."""

    sha256: str
    size: int
    source: str
    revision: str = ""


def weights_dir(spec: BackboneSpec) -> Path:
    """The folder where weights of `spec` are kept, and may be put by hand."""
    return folders.cache_dir() / "backbones" / spec.name


def accepted_files(spec: BackboneSpec) -> tuple[str, ...]:
    """File names that are recognised as weights of `spec`, the hub's first."""
    names = (spec.hub_file, spec.official_file, f"{spec.name}.safetensors", f"{spec.name}.pth")
    return tuple(name for name in names if name)


def find_weights(spec: BackboneSpec) -> Path | None:
    """Weights of `spec` on this disk: in our folder, or in Hugging Face's own cache. No network."""
    for name in accepted_files(spec):
        path = weights_dir(spec) / name
        if path.is_file():
            return path
    return _in_hub_cache(spec)


def verify(path: Path) -> str:
    """Check a weight file against its stored hash and return it; a file put by hand gets one now.

    Raises
    ------
    ModelFileError
        The file is not the one that was stored.
    """
    found = file_sha256(path)
    blob = path.resolve().name
    stored = blob if _SHA256.fullmatch(blob) else ""  # Hugging Face's cache names files by hash
    receipt = _read_receipt(path)
    if receipt is not None:
        stored = receipt.sha256
    if not stored:
        if path.is_relative_to(folders.cache_dir()):  # never write into other programs' folders
            with contextlib.suppress(OSError):
                _write_receipt(path, Receipt(found, path.stat().st_size, "put there by hand"))
        return found
    if found != stored:
        raise ModelFileError(
            f"weight file {str(path)!r} has changed since it was stored (SHA-256 {found[:12]}…)",
            expected=f"{stored[:12]}…",
            hint=f"Delete it and its {_receipt_path(path).name}, then download it again.",
        )
    return found


def file_sha256(path: Path) -> str:
    """SHA-256 of a file; computed again only when its size or time has changed."""
    path = path.resolve()
    stat = path.stat()
    known = _hashed.get(path)
    if known and known[:2] == (stat.st_size, stat.st_mtime_ns):
        return known[2]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _hashed[path] = (stat.st_size, stat.st_mtime_ns, digest)
    return digest


def download(spec: BackboneSpec, progress: Callable[[Progress], None] | None = None) -> Path:
    """Fetch the weights of `spec` unless they are here; go on where an earlier attempt stopped.

    Parameters
    ----------
    spec : BackboneSpec
        A backbone with a hub repository.
    progress : callable, optional
        Called with `Progress` in bytes; an exception it raises ends the download, the part stays.

    Raises
    ------
    MissingWeightsError
        No network, or the hub does not have the file.
    ModelFileError
        What arrived is not what the hub named; nothing was kept.
    OutputError
        The cache folder cannot be written or the disk is full.
    """
    if spec.hub_repo is None:
        raise InputError(f"backbone {spec.name!r} has no hub repository")
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    folder = weights_dir(spec)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be made ({error})", hint="Set DINOSCOPE_CACHE to a folder that can."
        ) from error
    with WeakFileLock(folder / "download.lock"):  # a second process waits and then finds the file
        return find_weights(spec) or _download(spec, folder / spec.hub_file, progress)


def _download(
    spec: BackboneSpec, target: Path, progress: Callable[[Progress], None] | None
) -> Path:
    url, receipt = _ask_hub(spec)
    # Named by hash: a part of an older revision is never continued with a newer one.
    part = target.with_name(f"{target.name}.{receipt.sha256[:16]}.part")
    try:
        fetch(url, part, receipt.size, label=spec.name, progress=progress)
    except ConnectionError as error:
        kept = part.stat().st_size if part.exists() else 0
        raise missing_weights(
            spec, f"the download broke off ({error}); {kept} bytes are kept and it can go on"
        ) from error
    found = file_sha256(part)
    if found != receipt.sha256:
        part.unlink()
        raise ModelFileError(
            f"the download of backbone {spec.name!r} has SHA-256 {found[:12]}…",
            expected=f"{receipt.sha256[:12]}…, which the hub names",
            hint="Nothing was kept. Try again; a proxy may have changed the file.",
        )
    _write_receipt(target, receipt)
    os.replace(part, target)
    return target


def ensure_weights(
    spec: BackboneSpec,
    *,
    allow_download: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Path:
    """Checked weights of `spec`, downloaded only where allowed.

    Raises
    ------
    MissingWeightsError
        Not on this disk, and not allowed or not possible to download.
    ModelFileError
        The stored file has changed.
    """
    path = find_weights(spec)
    if path is None:
        if not allow_download:
            raise missing_weights(spec)
        path = download(spec, progress)
    verify(path)
    return path


def missing_weights(
    spec: BackboneSpec, reason: str = "", *, state_hash: str = ""
) -> MissingWeightsError:
    """The error that says which file to put where; `state_hash` is what a card asks for."""
    what = f"weights of backbone {spec.name!r}"
    if state_hash:
        what += f" (hash {state_hash[:16]}…)"
    what += " are not on this disk"
    if reason:
        what += f": {reason}"
    folder = spec.name.removesuffix("_reg")
    return MissingWeightsError(
        what,
        expected=f"{spec.hub_file} or {spec.official_file} in {weights_dir(spec)}",
        hint=(
            f"Allow the download (--download), or on another computer fetch {spec.hub_file} from "
            f"{DEFAULT_ENDPOINT}/{spec.hub_repo}/tree/main or "
            f"{_OFFICIAL}/{folder}/{spec.official_file} and put it into that folder."
        ),
    )


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def _ask_hub(spec: BackboneSpec) -> tuple[str, Receipt]:
    """Where the hub says the file is, and what it will be. The weights are public: no token."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    endpoint = _endpoint()
    try:
        url = hf_hub_url(str(spec.hub_repo), spec.hub_file, endpoint=endpoint)
        answer = get_hf_file_metadata(url, token=False, timeout=15)
    # Its HTTP library (and so the errors' family) changed between major versions; whatever the
    # reason, the user's way out is the same.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise missing_weights(spec, f"{endpoint} did not answer ({reason})") from error
    sha256 = (answer.etag or "").lower()
    if not _SHA256.fullmatch(sha256) or not answer.size:
        raise missing_weights(spec, f"{endpoint} names no SHA-256 for it (ETag {answer.etag!r})")
    revision = answer.commit_hash or ""
    if revision:  # the very file that the answer was about, should the repository change meanwhile
        url = hf_hub_url(str(spec.hub_repo), spec.hub_file, revision=revision, endpoint=endpoint)
    return url, Receipt(sha256, int(answer.size), f"{endpoint}/{spec.hub_repo}", revision)


def _in_hub_cache(spec: BackboneSpec) -> Path | None:
    if spec.hub_repo is None:
        return None
    repo = folders.hub_cache_dir() / ("models--" + spec.hub_repo.replace("/", "--"))
    try:
        commit = (repo / "refs" / "main").read_text().strip()
    except OSError:
        return None
    path = repo / "snapshots" / commit / spec.hub_file
    return path if path.is_file() else None


def _receipt_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _read_receipt(path: Path) -> Receipt | None:
    try:
        return Receipt(**json.loads(_receipt_path(path).read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise ModelFileError(
            f"{str(_receipt_path(path))!r} cannot be read ({error})",
            hint="Delete it and the weight file beside it, then download again.",
        ) from error


def _write_receipt(path: Path, receipt: Receipt) -> None:
    _receipt_path(path).write_text(json.dumps(asdict(receipt), indent=1))
