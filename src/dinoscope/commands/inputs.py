"""From the paths on the command line to image files, their stems and the folder of results."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from dinoscope.errors import InputError, OutputError, UsageError


def expand(paths: Iterable[str]) -> list[Path]:
    """Image paths in the order given; a folder stands for the images in it, sorted by name.

    A path that does not exist is kept: it becomes the error of that one image.

    Raises
    ------
    UsageError
        A folder holds no image.
    """
    from dinoscope.arrays.files import SUFFIXES
    from dinoscope.arrays.ome_zarr import is_zarr

    found: list[Path] = []
    for text in paths:
        path = Path(text)
        if path.is_dir() and not is_zarr(path):
            inside = sorted(p for p in path.iterdir() if _is_image(p, SUFFIXES))
            if not inside:
                raise UsageError(
                    f"folder {text!r} holds no image",
                    expected="files ending in " + ", ".join(SUFFIXES),
                )
            found.extend(inside)
        elif not path.exists() and glob.has_magic(text) and (matches := sorted(glob.glob(text))):
            # Windows' shells leave patterns to the program.
            found.extend(Path(match) for match in matches)
        else:
            found.append(path)
    return found


def _is_image(path: Path, suffixes: Sequence[str]) -> bool:
    if path.name.startswith(".") or path.suffix.lower() not in suffixes:
        return False
    from dinoscope.arrays.ome_zarr import is_zarr

    return path.is_file() or is_zarr(path)


def check_stems(paths: Sequence[Path]) -> None:
    """Two inputs of one stem would write the same files.

    Raises
    ------
    UsageError
        Names the two.
    """
    from dinoscope.arrays.files import image_stem

    seen: dict[str, Path] = {}
    for path in paths:
        stem = image_stem(path)
        if stem in seen:
            raise UsageError(
                f"{str(seen[stem])!r} and {str(path)!r} have the same stem {stem!r}",
                expected="one stem for each image, as results are named after it",
                hint="Rename one of them, or run them with different --output folders.",
            )
        seen[stem] = path


def check_not_overwriting(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """No result may take the place of an image that was given.

    Raises
    ------
    UsageError
        Names the file.
    """
    kept = {path.resolve() for path in inputs}
    for path in outputs:
        if path.resolve() in kept:
            raise UsageError(
                f"the result {str(path)!r} would overwrite an input image",
                hint="Choose another --output folder.",
            )


def make_folder(text: str) -> Path:
    """Make the folder of results (if need be) and try that files can be written in it.

    Raises
    ------
    OutputError
        It is not a folder, or not writable.
    """
    folder = Path(text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # os.access knows neither read-only mounts nor Windows' rules: a real file does.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot write in the output folder {text!r} ({error.strerror or error})",
            hint="Give --output a folder that you may write to.",
        ) from error
    return folder


def need_folder(text: str, flag: str) -> Path:
    """An existing folder.

    Raises
    ------
    InputError
        It does not exist, or is a file.
    """
    folder = Path(text)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"{flag} {text!r} {what}", expected="a folder")
    return folder
