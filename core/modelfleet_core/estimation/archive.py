"""Stage publish, arrays and a head of JSON in one `.npz` that equal content makes equal bytes of.

In: arrays. Out: bytes, and the arrays again from bytes that others may have tampered with. Next: `learned`,
`state`. Nothing is unpickled; of no entry more is read than the caller's bound.
"""

from __future__ import annotations

import ast
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_MAGIC = b"\x93NUMPY\x01\x00"
_HEAD = "head"
_KINDS = frozenset({"<f4", "<f8", "<i4", "|u1"})
_MOST_AXES = 3
_FIRST_TIME = (1980, 1, 1, 0, 0, 0)
_MOST_HEADER = 512


class ArchiveError(ValueError):
    """Bytes that `pack` did not make."""


def pack(head: Mapping[str, object], arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return `head` (what JSON can say) and `arrays` (float32, float64, int32, uint8), compressed."""
    text = np.frombuffer(json.dumps(head, separators=(",", ":")).encode(), dtype=np.uint8)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in {_HEAD: text, **arrays}.items():
            entry = io.BytesIO()
            np.lib.format.write_array(entry, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            # The time of writing is left out, so that the same content is the same document.
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy", _FIRST_TIME), entry.getvalue(), zipfile.ZIP_DEFLATED, 6
            )
    return file.getvalue()


def unpack(
    data: bytes, names: tuple[str, ...], *, most: int
) -> tuple[dict[str, object], dict[str, npt.NDArray[Any]]]:
    """Return what `pack` was given, floats as float64; raise ArchiveError if it is anything else.

    `most`: bytes that each entry and `data` may take.
    """
    if len(data) > most:
        raise ArchiveError(f"{len(data)} bytes are refused; the most is {most}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            text = _entry(archive, _HEAD, most).tobytes()
            arrays = {name: _entry(archive, name, most) for name in names}
    except ArchiveError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        EOFError,
        KeyError,
        ValueError,  # of offsets that point before the file
        struct.error,
        NotImplementedError,
        RuntimeError,
    ) as e:
        raise ArchiveError(f"not a file of arrays ({e})") from e
    try:
        head = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ArchiveError("its head is not JSON") from e
    if not isinstance(head, dict):
        raise ArchiveError("its head is not an object")
    return head, arrays


def _entry(archive: zipfile.ZipFile, name: str, most: int) -> npt.NDArray[Any]:
    with archive.open(f"{name}.npy") as file:
        raw = file.read(most + _MOST_HEADER + 1)
    if len(raw) > most + _MOST_HEADER:
        raise ArchiveError(f"{name} is larger than {most} bytes")
    if not raw.startswith(_MAGIC):
        raise ArchiveError(f"{name} is not an array of NumPy's format 1.0")
    (length,) = struct.unpack("<H", raw[8:10])
    try:
        header = ast.literal_eval(raw[10 : 10 + min(length, _MOST_HEADER)].decode("latin1"))
        kind, order, shape = header["descr"], header["fortran_order"], header["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as e:
        raise ArchiveError(f"{name} has a header that can not be read") from e
    if not isinstance(kind, str) or kind not in _KINDS or order is not False:
        raise ArchiveError(f"{name} is of a type that is not used here")
    if not isinstance(shape, tuple) or len(shape) > _MOST_AXES:
        raise ArchiveError(f"{name} has a shape that is not used here")
    if not all(isinstance(size, int) and 0 <= size <= most for size in shape):
        raise ArchiveError(f"{name} has a shape that is not used here")
    body = raw[10 + length :]
    size = 1
    for axis in shape:
        size *= axis
    if len(body) != size * np.dtype(kind).itemsize:
        raise ArchiveError(f"{name} holds {len(body)} bytes, not what its shape {shape} takes")
    array = np.frombuffer(body, dtype=kind).reshape(shape)
    if kind.startswith("<f"):
        array = array.astype(np.float64)
        if not np.isfinite(array).all():
            raise ArchiveError(f"{name} holds a value that is not finite")
    return array
