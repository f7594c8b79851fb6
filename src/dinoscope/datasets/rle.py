"""Run lengths of COCO masks, decoded without pycocotools.

A mask is read column by column; runs alternate between outside and inside and begin outside.
*Uncompressed*, they are a list of numbers. *Compressed*, each number is written in groups of five
bits, least significant first, one character a group (code 48 + bits, + 32 where another group
follows; the highest bit of the last group is the sign), and from the fourth number on only the
difference to the number two before is written (T.-Y. Lin et al., "Microsoft COCO", 2014).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dinoscope.errors import InputError


def decode_runs(runs: Sequence[int], height: int, width: int) -> np.ndarray:
    """The mask (height, width) bool of uncompressed `runs`.

    Raises
    ------
    InputError
        A run is negative, or the runs do not add up to the size of the mask.
    """
    counts = np.asarray(runs, np.int64)
    if counts.ndim != 1 or (counts < 0).any() or counts.sum() != height * width:
        raise InputError(
            f"run lengths add up to {int(counts.sum())} pixels",
            expected=f"{height} x {width} = {height * width}, none negative",
        )
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


def parse_runs(text: str) -> list[int]:
    """Numbers of a compressed string.

    Raises
    ------
    InputError
        A character that the code does not have, or the string ends within a number.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64:
            raise InputError(f"compressed run lengths hold {letter!r}", expected="codes 48 to 111")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise InputError("compressed run lengths end within a number", expected="a whole string")
    return runs
