"""How one change of a project lies in its journal: framed, checksummed, painted pixels as runs.

A record is ``magic, header bytes, blob bytes, crc`` and then a JSON header and a compressed blob.
A write that was cut off leaves a last record whose length or checksum is wrong; one that a bad disk
changed is skipped, because the next magic tells where the following record begins.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MAGIC = b"\xd1\x5cJ1"
_FRAME = struct.Struct("<4sIII")
#: A header is a few names and numbers (or polygons); anything larger is not one.
_LARGEST_HEADER = 64 * 2**20


@dataclass(frozen=True)
class Record:
    """One change: plain values, and painted pixels where there are any."""

    header: Mapping[str, Any]
    blob: bytes = b""


@dataclass
class Found:
    """What was read of a journal.

    `end` is where the last whole record ends, `torn` how many bytes follow it, `damaged` how many
    stretches in the middle had to be skipped.
    """

    records: list[Record] = field(default_factory=list)
    end: int = 0
    torn: int = 0
    damaged: int = 0


def encode(record: Record) -> bytes:
    """The bytes of a record.

    Examples
    --------
    >>> scan(encode(Record({"op": "note"}, b"abc")) + b"cut off").torn
    7
    """
    header = json.dumps(record.header, separators=(",", ":"), ensure_ascii=False).encode()
    crc = zlib.crc32(record.blob, zlib.crc32(header, len(header) & 0xFFFFFFFF))
    return _FRAME.pack(MAGIC, len(header), len(record.blob), crc) + header + record.blob


def scan(data: bytes) -> Found:
    """Every whole record of a journal's bytes."""
    found = Found()
    at = 0
    while at < len(data):
        record, after = _decode(data, at)
        if record is not None:
            found.records.append(record)
            found.end = at = after
            continue
        at = _next_whole(data, at + 1)
        if at < len(data):
            found.damaged += 1
    found.torn = len(data) - found.end
    return found


def _decode(data: bytes, at: int) -> tuple[Record | None, int]:
    if len(data) - at < _FRAME.size:
        return None, at
    magic, header_size, blob_size, crc = _FRAME.unpack_from(data, at)
    start = at + _FRAME.size
    end = start + header_size + blob_size
    if magic != MAGIC or header_size > _LARGEST_HEADER or end > len(data):
        return None, at
    header, blob = data[start : start + header_size], data[start + header_size : end]
    if zlib.crc32(blob, zlib.crc32(header, header_size & 0xFFFFFFFF)) != crc:
        return None, at
    try:
        values = json.loads(header)
    except ValueError:
        return None, at
    return Record(values, blob), end


def _next_whole(data: bytes, at: int) -> int:
    """Where the next whole record begins; the end of the data where none does."""
    while (at := data.find(MAGIC, at)) >= 0:
        if _decode(data, at)[0] is not None:
            return at
        at += 1
    return len(data)


def encode_pixels(flat: np.ndarray, codes: np.ndarray) -> bytes:
    """Painted pixels as compressed runs of equal codes: a stroke takes hundreds of bytes.

    Parameters
    ----------
    flat : (n,) int64
        Flat indices into the plane, ascending, each once.
    codes : (n,) uint32
        What each was painted with; 0 = erased.
    """
    if not len(flat):
        return b""
    first = np.flatnonzero(
        np.concatenate([[True], (np.diff(flat) != 1) | (codes[1:] != codes[:-1])])
    )
    starts = flat[first]
    lengths = np.diff(np.append(first, len(flat)))
    gaps = np.diff(starts, prepend=0)
    wide = int(max(gaps.max(), lengths.max())) >= 2**31
    kind = "<i8" if wide else "<i4"
    head = struct.pack("<BI", int(wide), len(first))
    body = gaps.astype(kind).tobytes() + lengths.astype(kind).tobytes()
    return head + zlib.compress(body + codes[first].astype("<u4").tobytes(), 6)


def decode_pixels(blob: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices and codes again, ``(n,)`` int64 and uint32.

    Raises
    ------
    ValueError
        These bytes are not painted pixels.

    Examples
    --------
    >>> flat, codes = decode_pixels(encode_pixels(np.array([4, 5, 9]), np.array([1, 1, 2])))
    >>> flat.tolist(), codes.tolist()
    ([4, 5, 9], [1, 1, 2])
    """
    if not blob:
        return np.empty(0, np.int64), np.empty(0, np.uint32)
    wide, count = struct.unpack_from("<BI", blob)
    try:
        body = zlib.decompress(blob[struct.calcsize("<BI") :])
    except zlib.error as error:
        raise ValueError(f"painted pixels cannot be unpacked ({error})") from error
    kind, size = ("<i8", 8) if wide else ("<i4", 4)
    if len(body) != count * (2 * size + 4):
        raise ValueError(f"painted pixels have {len(body)} bytes for {count} runs")
    starts = np.cumsum(np.frombuffer(body, kind, count).astype(np.int64))
    lengths = np.frombuffer(body, kind, count, count * size).astype(np.int64)
    codes = np.frombuffer(body, "<u4", count, 2 * count * size)
    before = np.cumsum(lengths) - lengths
    flat = np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))
    return flat, np.repeat(codes.astype(np.uint32), lengths)
