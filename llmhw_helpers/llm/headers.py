"""Headers of model files, read by hand: what is in a GGUF or safetensors file, where, and how large, and nothing else.

The loader (`checkpoints`) leaves this to the libraries. These two readers show how little there is to know, and they
believe nothing: a file that lies about a count, a length or an offset costs one line and no memory.
"""

import json
import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from operator import mul
from pathlib import Path
from typing import NoReturn

import numpy as np

from ..costs.files import tensor_bytes
from ..specs.blocks import BLOCKS
from .gguf_file import is_big_endian
from .model_files import MOST_JSON, BadModelFile, check_header

GGUF_TYPES = {each.gguf_type: each for each in BLOCKS.values() if each.gguf_type is not None}
# GGUF specification (ggml, docs/gguf.md), the types of metadata: number to NumPy's name; 8 is a string, 9 an array
NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
STRING, ARRAY = 8, 9
# safetensors 0.8, the names of its types, with bits; F4 has two numbers in a byte
SAFETENSORS_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **{"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
}
MOST_DIMENSIONS = 8  # ggml knows 4; more than any file has
MOST_NESTED = 4  # arrays in arrays, which the format allows and hardly any file has


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: type, shape (``(n_out, n_in)`` of a matrix), first byte in the *file*, bytes."""

    type: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int


@dataclass(frozen=True)
class Header:
    """What a model file says before its first tensor.

    Attributes:
        metadata: keys and values; arrays of numbers are NumPy arrays.
        tensors: by name, in the file's order.
        data_start: byte at which the tensors begin.
        file_bytes: size of the whole file.
    """

    metadata: dict[str, object]
    tensors: dict[str, Entry]
    data_start: int
    file_bytes: int


class _Cursor:
    """Reads on from where it is, and never past the end."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 0

    def room_for(self, count: int, size: int, what: str) -> None:
        if count * size > len(self.data) - self.at:  # before anything is allocated
            left = len(self.data) - self.at
            raise BadModelFile(f"it says {count} {what} at byte {self.at}, and only {left} bytes follow")

    def take(self, form: str) -> int:
        self.room_for(1, struct.calcsize(form), "number")
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self) -> str:
        length = self.take("<Q")
        self.room_for(length, 1, "letters")
        self.at += length
        try:
            return self.data[self.at - length : self.at].decode()
        except UnicodeDecodeError:
            raise BadModelFile(f"the text before byte {self.at} is no valid UTF-8") from None

    def numbers(self, kind: int, count: int) -> np.ndarray:
        dtype = np.dtype(NUMBERS[kind])
        self.room_for(count, dtype.itemsize, "numbers")
        begin, self.at = self.at, self.at + count * dtype.itemsize
        return np.frombuffer(self.data[begin : self.at], dtype)  # a copy: the map can be closed

    def value(self) -> object:
        kind = self.take("<I")
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self.array(MOST_NESTED)
        self.check(kind)
        return self.numbers(kind, 1)[0].item()

    def array(self, depth: int) -> list | np.ndarray:
        kind, count = self.take("<I"), self.take("<Q")
        if kind == STRING:
            self.room_for(count, 8, "texts")
            return [self.text() for _ in range(count)]
        if kind == ARRAY and depth:
            self.room_for(count, 4 + 8, "arrays")
            return [self.array(depth - 1) for _ in range(count)]
        self.check(kind)
        return self.numbers(kind, count)

    def check(self, kind: int) -> None:
        if kind not in NUMBERS:
            raise BadModelFile(f"unknown type of metadata {kind} before byte {self.at}")


def read_gguf_header(path: Path) -> Header:
    """Metadata and tensors of a GGUF file (versions 2 and 3, little-endian), by the specification docs/gguf.md of ggml.

    Raises:
        FileNotFoundError: there is no such file.
        BadModelFile: it cannot be read; or a count, length, type, name or offset that cannot be.
    """
    return _read(path, _gguf)


def read_safetensors_header(path: Path) -> Header:
    """Metadata and tensors of a safetensors file: 8 bytes of length, that many of JSON, and then the tensors.

    As the format demands, the tensors fill the rest of the file, without holes and without overlapping.

    Raises:
        FileNotFoundError: there is no such file.
        BadModelFile: it cannot be read; or a length, type, shape or offset that cannot be.
    """
    return _read(path, _safetensors)


def _read(path: Path, parse: Callable[[mmap.mmap], Header]) -> Header:
    try:
        return _mapped(path, parse)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadModelFile(f"{path} cannot be read: {error.strerror}") from None


def _mapped(path: Path, parse: Callable[[mmap.mmap], Header]) -> Header:
    if path.exists() and not path.is_file():  # a pipe waits for a writer for ever
        raise BadModelFile(f"{path} is no file")
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < 8:
            raise BadModelFile(f"{path} is too short for a model file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return parse(data)
            except BadModelFile as error:
                raise BadModelFile(f"{path} is damaged or no model file: {error}") from None


def _gguf(data: mmap.mmap) -> Header:
    if data[:4] != b"GGUF":
        raise BadModelFile(f"it begins with {data[:4]!r}, not b'GGUF'")
    if is_big_endian(data[4:8]):
        raise BadModelFile("it is big-endian, and little-endian files are read: gguf-convert-endian turns it round")
    cursor = _Cursor(data)
    cursor.at = 4
    version, n_tensors, n_pairs = cursor.take("<I"), cursor.take("<Q"), cursor.take("<Q")
    if version not in (2, 3):
        raise BadModelFile(f"version {version} of GGUF (2 and 3, little-endian, can be read)")
    cursor.room_for(n_pairs, 8 + 4 + 1, "pairs of metadata")
    metadata: dict[str, object] = {}
    for _ in range(n_pairs):
        key = cursor.text()
        if key in metadata:
            raise BadModelFile(f"metadata {key!r} twice")
        metadata[key] = cursor.value()
    cursor.room_for(n_tensors, 8 + 4 + 8 + 4 + 8, "tensors")
    relative = {}
    for _ in range(n_tensors):
        name, entry = _gguf_entry(cursor)
        if name in relative:
            raise BadModelFile(f"tensor {name!r} twice")
        relative[name] = entry
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1:
        raise BadModelFile(f"general.alignment is {alignment!r}")
    start = -(-cursor.at // alignment) * alignment
    tensors = {}
    for name, (kind, shape, offset, n_bytes) in relative.items():
        if offset % alignment:
            raise BadModelFile(f"tensor {name!r} at {offset}, no multiple of {alignment}")
        tensors[name] = Entry(kind, shape, start + offset, n_bytes)
    _check_places(tensors, start, len(data))
    return Header(metadata, tensors, start, len(data))


def _gguf_entry(cursor: _Cursor) -> tuple[str, tuple[str, tuple[int, ...], int, int]]:
    name, n_dimensions = cursor.text(), cursor.take("<I")
    if n_dimensions > MOST_DIMENSIONS:
        raise BadModelFile(f"tensor {name!r} with {n_dimensions} dimensions")
    shape = tuple(cursor.take("<Q") for _ in range(n_dimensions))[::-1]  # GGUF has the longest-stepping one last
    kind, offset = cursor.take("<I"), cursor.take("<Q")
    if kind not in GGUF_TYPES:
        raise BadModelFile(f"tensor {name!r} of type {kind}, which this reader does not know")
    try:
        return name, (GGUF_TYPES[kind].name, shape, offset, tensor_bytes(shape or (1,), GGUF_TYPES[kind]))
    except ValueError as error:
        raise BadModelFile(f"tensor {name!r}: {error}") from None


def _safetensors(data: mmap.mmap) -> Header:
    (length,) = struct.unpack_from("<Q", data)
    if length > min(len(data) - 8, MOST_JSON):
        raise BadModelFile(f"it says {length} bytes of header, and {len(data) - 8} bytes follow")
    try:
        check_header(data[8 : 8 + length])
        text = data[8 : 8 + length].decode()
        said = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number, parse_int=_whole)
        json.dumps(said, ensure_ascii=False).encode()  # else half of a pair of UTF-16 passes for text
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise BadModelFile(f"its header is no JSON ({str(error)[:80]})") from None
    if not isinstance(said, dict):
        raise BadModelFile("its header is no JSON object")
    metadata = {} if said.get("__metadata__") is None else said["__metadata__"]
    said.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadModelFile("__metadata__ is no table of texts")
    tensors = {name: _safetensors_entry(name, entry, 8 + length) for name, entry in said.items()}
    end = _check_places(tensors, 8 + length, len(data), holes=False)
    if end != len(data):
        raise BadModelFile(f"its tensors end at byte {end}, the file at {len(data)}")
    return Header(metadata, tensors, 8 + length, len(data))


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(table := dict(pairs)) < len(pairs):
        raise BadModelFile("a name stands in its header twice")
    return table


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON's")


def _whole(digits: str) -> int:
    if digits == "-0" or len(digits) > 20:
        _no_number(digits[:30])
    return int(digits)


def _safetensors_entry(name: str, entry: object, start: int) -> Entry:
    try:
        kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        bits = SAFETENSORS_BITS[kind]
        whole = all(type(n) is int and 0 <= n < 2**64 for n in (*shape, begin, end))  # a text times 10**9 fills memory
        whole = whole and all(n < 2**64 for n in accumulate(shape, mul))
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise BadModelFile(f"tensor {name[:60]!r} has no dtype, shape and data_offsets that this reader knows")
    if bits * prod(shape) != 8 * (end - begin):
        bits *= prod(shape)
        raise BadModelFile(f"tensor {name[:60]!r}: {kind} {shape} has {bits} bits, its offsets {end - begin} bytes")
    return Entry(kind, tuple(shape), start + begin, end - begin)


def _check_places(tensors: dict[str, Entry], start: int, size: int, holes: bool = True) -> int:
    """In the file, none over another; returns where the last one ends."""
    end = start
    for name, entry in sorted(tensors.items(), key=lambda named: (named[1].offset, named[1].n_bytes)):
        if entry.offset < end:
            raise BadModelFile(f"tensor {name[:60]!r} lies over another one")
        if entry.offset > end and not holes:
            raise BadModelFile(f"a hole of {entry.offset - end} bytes before tensor {name[:60]!r}")
        end = entry.offset + entry.n_bytes
        if end > size:
            raise BadModelFile(f"tensor {name[:60]!r} ends at byte {end}, the file at {size}")
    return end
