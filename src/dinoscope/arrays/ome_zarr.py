"""Open Zarr arrays and OME-Zarr images (0.4 and 0.5), full resolution, read chunk by chunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dinoscope.arrays.units import to_um
from dinoscope.errors import DinoscopeError, InputError
from dinoscope.types import ArrayLike

#: One of these lies in every Zarr folder.
MARKERS = ("zarr.json", ".zgroup", ".zarray", ".zattrs")


def is_zarr(path: Path) -> bool:
    """Whether `path` is the folder of a Zarr array or group."""
    return path.is_dir() and any((path / name).exists() for name in MARKERS)


def open_zarr(path: Path) -> tuple[ArrayLike, str | None, dict[str, float]]:
    """Open an OME-Zarr image or a plain Zarr array, without reading pixels.

    Returns
    -------
    data : ArrayLike
        The array of full resolution.
    axes : str or None
        From the metadata, ``None`` where there is none.
    pixel_size_um : dict
        From the metadata; empty where unknown.

    Raises
    ------
    InputError
        Not Zarr, corrupt, or a group without an image.
    """
    import zarr

    try:
        node: Any = zarr.open(str(path), mode="r")
        if isinstance(node, zarr.Array):
            return node, _letters(_dimension_names(node)), {}
        metadata: dict[str, Any] = dict(node.attrs)
        multiscales = metadata.get("ome", metadata).get("multiscales")
        if not multiscales and "0" in node and isinstance(node["0"], zarr.Group):
            # bioformats2raw wraps every image in a numbered group.
            return open_zarr(path / "0")
        if multiscales:
            return _multiscale(node, multiscales[0])
        arrays = [array for _, array in node.arrays()]
        if len(arrays) == 1:
            return arrays[0], _letters(_dimension_names(arrays[0])), {}
    except DinoscopeError:
        raise
    except Exception as error:  # corrupt metadata raises nearly every kind
        raise InputError(
            f"{path} cannot be read as Zarr ({error or type(error).__name__})",
            hint="The folder may be incomplete; does another program open it?",
        ) from error
    raise InputError(
        f"{path} is a Zarr group without an OME image, with {len(arrays)} arrays",
        expected="an OME-Zarr image or one array",
        hint="Give the path of one of its arrays.",
    )


def _multiscale(group: Any, multiscale: dict[str, Any]) -> tuple[ArrayLike, str, dict[str, float]]:
    dataset = multiscale["datasets"][0]
    data = group[dataset["path"]]
    # Before 0.4 axes were plain letters, or always tczyx.
    entries = [a if isinstance(a, dict) else {"name": a} for a in multiscale.get("axes", "tczyx")]
    axes = _letters([entry["name"] for entry in entries])
    if axes is None:
        raise InputError(f"axes {[e['name'] for e in entries]} are not understood")
    transforms = dataset.get("coordinateTransformations", [])
    scale: list[float] = next((t["scale"] for t in transforms if t.get("type") == "scale"), [])
    sizes = {
        axis: to_um(step, entry.get("unit") or "")
        for axis, entry, step in zip(axes, entries, scale, strict=False)
        if axis in "ZYX"
    }
    return data, axes, {axis: size for axis, size in sizes.items() if size is not None}


def _dimension_names(array: Any) -> list[Any]:
    return list(getattr(array.metadata, "dimension_names", None) or [])


def _letters(names: list[Any]) -> str | None:
    """``["t", "channel", ...]`` as ``"TC..."``; ``None`` where a name is missing or unknown."""
    letters = "".join(str(name)[:1].upper() for name in names)
    known = {"T": "time", "Z": "z", "C": "channel", "Y": "y", "X": "x", "S": "sample"}
    for name, letter in zip(names, letters, strict=False):
        if letter not in known or not (
            len(str(name)) == 1 or str(name).lower().startswith(known[letter])
        ):
            return None
    return letters or None
