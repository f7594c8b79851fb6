"""``project.json`` and the TIFF files beside it: a project as any program can read it.

The journal since then lies in ``journal-N.log``; N stands in ``project.json``, whose replacement
is the one moment at which a new snapshot counts. Whatever a crash leaves behind before or after it
is not named there and is removed by the next window that may write.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.arrays.files import read_image, write_image
from dinoscope.arrays.output import output_error, replacing
from dinoscope.errors import DinoscopeError, InputError, OutputError
from dinoscope.project.planes import SparsePlane
from dinoscope.project.references import ImageRef
from dinoscope.project.state import LAYERS, Index, PlaneState, State, class_entries, class_values

FORMAT = "dinoscope project"
VERSION = 1
FILE = "project.json"
LABELS = "labels"


@dataclass
class Snapshot:
    """What ``project.json`` says; `files` by source, plane and layer, with their checksums."""

    generation: int = 1
    created: str = ""
    state: State = field(default_factory=State)
    files: dict[tuple[str, Index, str], dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def journal_file(folder: Path, generation: int) -> Path:
    """The journal of a generation."""
    return folder / f"journal-{generation:06d}.log"


def read_snapshot(folder: Path) -> Snapshot:
    """Read ``project.json`` and the label files that it names.

    Raises
    ------
    InputError
        There is no project, it was made by a newer version, or ``project.json`` is damaged.
    """
    values = read_values(folder)
    try:
        found = Snapshot(int(values["generation"]), str(values.get("created", "")))
        found.state.classes = class_entries(
            [(c["name"], c.get("colour", "")) for c in values["classes"]]
        )
        references = [ImageRef.from_json(v) for v in values["sources"]]
        found.state.sources = {r.id: r for r in references}
        found.state.settings = dict(values.get("settings", {}))
        for entry in values["planes"]:
            _read_plane(folder, entry, found)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DinoscopeError):
            raise
        raise InputError(
            f"{folder / FILE} lacks parts or has wrong ones ({type(error).__name__}: {error})",
            expected="a file as dinoscope writes it",
            hint="Restore it from a backup of this folder.",
        ) from error
    return found


def read_values(folder: Path) -> dict[str, Any]:
    """The contents of ``project.json``, whose format and version are looked at.

    Raises
    ------
    InputError
        See `read_snapshot`.
    """
    path = folder / FILE
    if not folder.is_dir():
        raise InputError(f"project {folder} does not exist", expected="a .dinoproject folder")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{folder} is not a dinoscope project: it holds no {FILE}",
            expected="a .dinoproject folder made by dinoscope",
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error})",
            hint="Restore it from a backup of this folder; the journal beside it is kept.",
        ) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise InputError(
            f"{path} belongs to another program",
            expected=f"a file that says it is a {FORMAT!r}",
        )
    version = values.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise InputError(
            f"{folder} was written by a newer dinoscope (its format is {version!r})",
            expected=f"format {VERSION} or older",
            hint="Update napari-dinoscope; nothing in the project was changed.",
        )
    return values


def _read_plane(folder: Path, entry: Mapping[str, Any], found: Snapshot) -> None:
    source, index = str(entry["source"]), tuple(int(i) for i in entry["index"])
    plane = PlaneState(
        complete=bool(entry.get("complete", False)),
        polygons=[[[float(y), float(x)] for y, x in p] for p in entry.get("area", [])],
        object_classes={int(k): int(v) for k, v in entry.get("object_classes", {}).items()},
        found={int(c) for c in entry.get("found", [])},
        image_class=entry.get("image_class"),
        depth=entry.get("depth"),
    )
    for layer, told in entry.get("layers", {}).items():
        try:
            plane.painted[layer] = _read_layer(folder / str(told["file"]), told, layer)
        except (DinoscopeError, OSError) as error:
            found.problems.append(f"{layer} of {source} {index} cannot be read: {error}")
        found.files[(source, index, layer)] = dict(told)
    found.state.planes[(source, index)] = plane


def _read_layer(path: Path, told: Mapping[str, Any], layer: str) -> SparsePlane:
    data = path.read_bytes()
    if zlib.crc32(data) != int(told["crc"]):
        raise InputError(f"{path} was changed or damaged", expected="the file as it was written")
    image = read_image(path, "YX")
    return SparsePlane.from_dense(np.asarray(image.data[:, :]).astype(LAYERS[layer]))


def write_snapshot(folder: Path, snapshot: Snapshot, changed: set[tuple[str, Index, str]]) -> None:
    """Write label files of what has changed, then ``project.json`` of the next generation.

    `snapshot.generation` and `snapshot.files` are brought up to date.

    Raises
    ------
    OutputError
        The disk is full or has gone; the project is as it was.
    """
    generation = snapshot.generation + 1
    files = dict(snapshot.files)
    for source, index, layer in sorted(changed):
        painted = snapshot.state.plane(source, index).painted.get(layer)
        files.pop((source, index, layer), None)
        if painted is not None and painted:
            name = "_".join([source, *map(str, index), layer]) + f".{generation}.tif"
            path = folder / LABELS / name
            plane = painted.dense(snapshot.state.sources[source].plane)
            write_image(path, plane, "YX", {})
            _sync(path)
            files[(source, index, layer)] = {
                "file": f"{LABELS}/{name}",
                "crc": zlib.crc32(path.read_bytes()),
            }
    values = {
        "format": FORMAT,
        "version": VERSION,
        "generation": generation,
        "created": snapshot.created,
        "classes": class_values(snapshot.state.classes),
        "settings": snapshot.state.settings,
        "sources": [r.to_json() for r in snapshot.state.sources.values()],
        "planes": [
            _plane_values(key, plane, files)
            for key, plane in sorted(snapshot.state.planes.items())
            if plane
        ],
    }
    write_json(folder / FILE, values)
    snapshot.generation, snapshot.files = generation, files


def _plane_values(
    key: tuple[str, Index],
    plane: PlaneState,
    files: Mapping[tuple[str, Index, str], dict[str, Any]],
) -> dict[str, Any]:
    values: dict[str, Any] = {"source": key[0], "index": list(key[1])}
    layers = {layer: files[(*key, layer)] for layer in LAYERS if (*key, layer) in files}
    more = {
        "layers": layers,
        "complete": plane.complete,
        "area": plane.polygons,
        "object_classes": {str(k): v for k, v in plane.object_classes.items()},
        "found": sorted(plane.found),
        "depth": plane.depth,
    }
    values |= {name: value for name, value in more.items() if value}
    if plane.image_class is not None:
        values["image_class"] = plane.image_class
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Replace a JSON file, whole or not at all; on return the disk has it.

    Raises
    ------
    OutputError
        The disk is full or has gone.
    """
    with replacing(path) as part:
        with part.open("w", encoding="utf-8") as file:
            json.dump(values, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
    sync_folder(path.parent)


def _sync(path: Path) -> None:
    try:
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise output_error(path, error) from error


def sync_folder(folder: Path) -> None:
    """Make names of new files last; systems that cannot do that for folders do it themselves."""
    if os.name == "nt":
        return
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_left_over(folder: Path, snapshot: Snapshot) -> None:
    """Remove journals and label files that the snapshot does not name, and half-written files."""
    named = {folder / str(told["file"]) for told in snapshot.files.values()}
    keep = journal_file(folder, snapshot.generation)
    for path in _own_files(folder):
        if path not in named and path != keep:
            with suppress(OSError):
                path.unlink()


def _own_files(folder: Path) -> Iterator[Path]:
    yield from folder.glob("journal-*.log")
    yield from folder.glob(".dinoscope-*.part")
    yield from (folder / LABELS).glob("*.tif")
    yield from (folder / LABELS).glob(".dinoscope-*.part")


def make_folder(folder: Path) -> None:
    """Make a project's folder, which must be new or empty.

    Raises
    ------
    InputError
        Another name than ``*.dinoproject``, or something is there already.
    OutputError
        It cannot be made.
    """
    if folder.suffix != ".dinoproject":
        raise InputError(
            f"project folder is called {folder.name!r}",
            expected="a name that ends in .dinoproject",
        )
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(
                f"{folder} is there already",
                expected="a new or empty folder",
                hint="Open that project, or choose another name.",
            )
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise output_error(folder, error) from error
