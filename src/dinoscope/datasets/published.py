"""What a reader of a published set hands to training: lazy images, truths and groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dinoscope.types import ImageInput


@dataclass(frozen=True)
class LabelledImages:
    """Images of one published set with the truth of one task.

    `truths` are lazy label images (``instance``) or class names (``classification``). Images of
    one group must stay on one side of a split.
    """

    name: str
    task: str
    images: tuple[Path | ImageInput, ...]
    truths: tuple[ImageInput | str, ...]
    groups: tuple[str, ...]


def file_index(folder: Path, suffixes: tuple[str, ...]) -> Mapping[str, Path]:
    """Every file below `folder` with one of `suffixes`, by its bare name."""
    return {p.name: p for p in sorted(folder.rglob("*")) if p.suffix.lower() in suffixes}
